"""Fault 27: a name that moves to another address, or that nobody knows."""

import asyncio
import socket
from contextlib import AsyncExitStack

import pytest

from chattable.adapters.http_client import HttpClient
from chattable.adapters.transport import ConnectFailed, Request, Url

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


async def ask(client: HttpClient, host: str, port: int) -> str:
    url = Url.parse(f"http://{host}:{port}/v1")
    response = client.send(Request("POST", url, b"", b"{}"), 1.0)
    await response.head(5)
    return (await response.read(5)).decode()


async def test_fault_27_a_new_address_is_honoured_within_a_minute(names):
    now = 0.0
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(await asyncio.start_server(answer, "127.0.0.1", 0))
        port = first.sockets[0].getsockname()[1]
        await stack.enter_async_context(await asyncio.start_server(answer, "127.0.0.2", port))
        client = HttpClient(clock=lambda: now)
        stack.push_async_callback(client.aclose)
        assert await ask(client, "moving.test", port) == "127.0.0.1"
        names["moving.test"] = "127.0.0.2"
        now += MINUTE
        assert await ask(client, "moving.test", port) == "127.0.0.2"


async def test_fault_27_an_unknown_name_is_a_connection_that_failed(names):
    client = HttpClient()
    with pytest.raises(ConnectFailed):
        await ask(client, "nowhere.test", 80)
    await client.aclose()
