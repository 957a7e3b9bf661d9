"""Fault 27: a name that moves to another address, or that nobody knows."""

import asyncio
import socket
from contextlib import AsyncExitStack

import pytest
from faults.world import never_accepting

from chattable.adapters.http_client import HttpClient
from chattable.adapters.transport import ConnectFailed, ConnectTimedOut, Request, Url

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
    """Where names are, and what was asked; a name that is not here is known to nobody."""
    known = {"moving.test": ["127.0.0.1"], "asked": []}

    async def getaddrinfo(self, host, port, **_):
        known["asked"].append(host)
        await asyncio.sleep(0)
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, port)) for place in known[host]]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return known


async def ask(client: HttpClient, host: str, port: int, connect: float = 1.0) -> str:
    url = Url.parse(f"http://{host}:{port}/v1")
    response = client.send(Request("POST", url, b"", b"{}"), connect)
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
        names["moving.test"] = ["127.0.0.2"]
        now += MINUTE
        assert await ask(client, "moving.test", port) == "127.0.0.2"


async def test_fault_27_an_unknown_name_is_a_connection_that_failed(names):
    client = HttpClient()
    with pytest.raises(ConnectFailed):
        await ask(client, "nowhere.test", 80)
    await client.aclose()


async def test_fault_27_a_name_that_was_unknown_is_asked_again(names):
    client = HttpClient()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for _ in range(2):
            with pytest.raises(ConnectFailed):
                await ask(client, "new.test", port)
        names["new.test"] = ["127.0.0.1"]
        assert await ask(client, "new.test", port) == "127.0.0.1"
    await client.aclose()


async def test_many_ask_at_once_where_a_name_is_and_one_is_answered(names):
    client = HttpClient()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await asyncio.gather(*(ask(client, "moving.test", port) for _ in range(10)))
        assert names["asked"] == ["moving.test"]
    await client.aclose()


async def test_connections_are_shared_out_among_the_addresses_of_a_name(names):
    names["two.test"] = ["127.0.0.1", "127.0.0.2"]
    client = HttpClient()
    async with await asyncio.start_server(answer, "0.0.0.0", 0) as server:
        port = server.sockets[0].getsockname()[1]
        asked = [await ask(client, "two.test", port) for _ in range(4)]
        assert asked == ["127.0.0.1", "127.0.0.2"] * 2
    await client.aclose()


async def test_where_one_address_is_dead_another_is_tried(names):
    client = HttpClient()
    with never_accepting() as port:
        async with await asyncio.start_server(answer, "127.0.0.2", port):
            names["hanging.test"] = ["127.0.0.1", "127.0.0.2"]
            names["closed.test"] = ["127.0.0.3", "127.0.0.2"]
            for name in ("hanging.test", "closed.test"):
                for _ in range(2):
                    assert await ask(client, name, port) == "127.0.0.2"
    await client.aclose()


async def test_fault_27_to_look_up_a_name_is_part_of_connecting(monkeypatch):
    async def getaddrinfo(self, host, port, **_):
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    client = HttpClient()
    with pytest.raises(ConnectTimedOut):
        await ask(client, "slow.test", 80, 0.02)
    await client.aclose()
