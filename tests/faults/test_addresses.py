"""Fault 27: a name that moves to another address, or that nobody knows."""

import asyncio
import socket
import time
from contextlib import AsyncExitStack

import aiohttp.connector
import httpx
import pytest

from chattable.adapters.transport import AiohttpTransport

MINUTE = 60.0


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says which address was asked, and ends the connection."""
    await reader.readuntil(b"\r\n\r\n")
    here = writer.get_extra_info("sockname")[0].encode()
    writer.write(
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(here), here)
    )
    writer.close()


@pytest.fixture
def names(monkeypatch):
    """Where `moving.test` is; a name that is not here is known to nobody."""
    known = {"moving.test": "127.0.0.1"}

    async def getaddrinfo(self, host, port, **_):
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (known[host], port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return known


async def ask(transport: AiohttpTransport, host: str, port: int) -> str:
    request = httpx.Request(
        "POST", f"http://{host}:{port}/v1", content=b"{}", extensions={"timeout": {"connect": 1}}
    )
    response = await transport.handle_async_request(request)
    return (await response.aread()).decode()


async def test_fault_27_a_new_address_is_honoured_within_a_minute(names, monkeypatch):
    clock = time.monotonic
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(await asyncio.start_server(answer, "127.0.0.1", 0))
        port = first.sockets[0].getsockname()[1]
        await stack.enter_async_context(await asyncio.start_server(answer, "127.0.0.2", port))
        transport = AiohttpTransport()
        stack.push_async_callback(transport.aclose)
        assert await ask(transport, "moving.test", port) == "127.0.0.1"
        names["moving.test"] = "127.0.0.2"
        monkeypatch.setattr(aiohttp.connector, "monotonic", lambda: clock() + MINUTE)
        assert await ask(transport, "moving.test", port) == "127.0.0.2"


async def test_fault_27_an_unknown_name_is_a_connection_that_failed(names):
    transport = AiohttpTransport()
    with pytest.raises(httpx.ConnectError):
        await ask(transport, "nowhere.test", 80)
    await transport.aclose()
