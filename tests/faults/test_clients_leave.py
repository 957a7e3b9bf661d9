"""Clients that leave, or stay and do not read: the turn ends as the policy says, and nothing is left of it."""

import asyncio
import json
import logging
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
import uvicorn
from answers import CHUNKED_SSE, Endless, Gate, Raw, Sse, framed, head, sse_event
from echo_model import ask, chat_chunks
from faults.agents import Blocking
from upstream import ScriptedUpstream

from chattable.proxy import reply_stream as reply
from chattable.proxy.app import build
from chattable.proxy.cli.startup import prepare
from chattable.proxy.config.reader import parse
from chattable.proxy.http.protocol import BoundedHttp
from chattable.proxy.identity.auth import Principal
from chattable.proxy.services import Services

KEY = "sk-admin-of-clients-that-leave"
SLOTS = 64
STREAMS = 200
CONFIG = """
server: {{on_disconnect: {policy}}}
database_url: "sqlite:///{path}/test.db"
admin_keys: [{key}]
providers:
  stub: {{kind: openai, base_url: "{url}", max_connections: {slots}, timeouts: {{total: 3s}}}}
models:
  m: {{provider: stub}}
agents:
  tutor: {{model: m, context: You teach.}}
  script: {{use: "chattable.agents.scripted:Scripted", replies: [["before ", {{ask: m}}, " after"]]}}
  nested: {{model: script}}
  careless: {{use: "faults.agents:careless"}}
  hot: {{use: "faults.agents:Hot", limits: {{seconds: 1s}}}}
  silent: {{use: "faults.agents:Hot", says: "", limits: {{seconds: 1s}}}}
  blocking: {{use: "faults.agents:Blocking", seconds: 2, limits: {{seconds: 0.5s}}}}
"""


class Served:
    """The application under uvicorn in this very loop, so that its tasks can be counted."""

    def __init__(self, server: uvicorn.Server, upstream: ScriptedUpstream) -> None:
        self.port: int = server.servers[0].sockets[0].getsockname()[1]
        self.server, self.upstream = server, upstream
        self.before = asyncio.all_tasks()

    def request(self, model="m", stream=True, text="one two three four five six") -> bytes:
        body = json.dumps(ask(text, stream=stream) | {"model": model}).encode()
        lines = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
            f"{KEY}\r\ncontent-length: {len(body)}"
        )
        return lines.encode() + b"\r\n\r\n" + body

    def turns(self) -> list[Principal]:
        """Whose turns are under way."""
        services: Services = self.server.config.loaded_app.app.state.services
        return list(services.turns.principals())

    async def settled(self) -> None:
        """Nothing is under way any more, every slot is free, and the pool works."""
        await until(lambda: not self.turns(), "turns under way")
        gates = [Gate() for _ in range(SLOTS)]
        self.upstream.script(*gates)
        async with httpx.AsyncClient(
            limits=httpx.Limits(max_connections=None), trust_env=False, timeout=20
        ) as client:
            url, headers = (
                f"http://127.0.0.1:{self.port}/v1/chat/completions",
                {"authorization": f"Bearer {KEY}"},
            )
            asked = [
                asyncio.create_task(client.post(url, json=ask("a b"), headers=headers))
                for _ in gates
            ]
            # a slot that leaked would be missed here
            await asyncio.gather(*(gate.arrival() for gate in gates))
            for gate in gates:
                gate.release()
            assert [(await a).status_code for a in asked] == [200] * SLOTS
        await until(lambda: not self.server.server_state.connections, "connections to clients")
        await until(
            lambda: not asyncio.all_tasks() - self.before - {asyncio.current_task()}, "tasks"
        )
        assert self.upstream.open_connections <= SLOTS


@asynccontextmanager
async def served(tmp_path, policy: str, upstream: ScriptedUpstream) -> AsyncIterator[Served]:
    text = CONFIG.format(policy=policy, path=tmp_path, key=KEY, url=upstream.url, slots=SLOTS)
    config = parse(text.encode(), "config.yaml", {})
    await prepare(config)
    options = uvicorn.Config(
        build(config),
        host="127.0.0.1",
        port=0,
        http=BoundedHttp,
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
    )
    server = uvicorn.Server(options)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started or serving.done(), "the server to start")
    try:
        yield Served(server, upstream)
    finally:
        server.should_exit = True
        await asyncio.wait_for(serving, 20)


async def until(condition, what: str, timeout: float = 10) -> None:
    """Looks at the condition in every turn of the loop, for a bounded time."""
    end = asyncio.get_running_loop().time() + timeout
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"still: {what}"
        await asyncio.sleep(0.005)


async def leave(house: Served, chance: random.Random) -> None:
    """Asks something and leaves at some point: in the request, at once, in the middle, or after the end."""
    model = chance.choice(["m", "m", "tutor", "script", "nested", "careless"])
    data = house.request(model, stream=chance.random() < 0.7)
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    if chance.random() < 0.1:
        data = data[: chance.randrange(len(data))]
    writer.write(data)
    await writer.drain()
    with suppress(ConnectionError, TimeoutError):
        for _ in range(chance.randrange(7)):
            async with asyncio.timeout(0.2):
                await reader.read(chance.randrange(1, 2000))
    if chance.random() < 0.5:
        writer.transport.abort()
    else:
        writer.close()


@pytest.mark.parametrize("policy", ["drain", "cancel"])
async def test_clients_leave_at_random_points(tmp_path, caplog, policy):
    chance = random.Random(f"leave {policy}")
    with ScriptedUpstream() as upstream:
        upstream.reply = lambda _: Sse(delay_s=chance.choice([0, 0.001, 0.005, 0.01]))
        async with served(tmp_path, policy, upstream) as house:
            for _ in range(STREAMS // 25):
                await asyncio.gather(*(leave(house, chance) for _ in range(25)))
            await until(lambda: not house.turns(), "turns under way")
            await upstream.until(
                lambda: upstream.completed + upstream.aborted >= len(upstream.requests)
            )
            assert len(upstream.requests) > STREAMS / 2
            if policy == "drain":
                careless = [s for s in upstream.usage_log if not s.complete]
                # only the agent that stops reading by itself
                assert upstream.aborted == len(careless) < STREAMS / 3
            else:
                assert upstream.aborted > STREAMS / 10
            await house.settled()
    problems = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert not problems, problems[0].getMessage() + str(problems[0].exc_info)


@pytest.mark.parametrize("model", ["m", "tutor", "nested"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("policy", ["drain", "cancel"])
async def test_a_client_leaves_while_nothing_comes(tmp_path, policy, stream, model):
    with ScriptedUpstream() as upstream:
        async with served(tmp_path, policy, upstream) as house:
            gate = Gate(2)
            upstream.script(gate)
            _, writer = await asyncio.open_connection("127.0.0.1", house.port)
            writer.write(house.request(model, stream))
            await gate.arrival()
            if policy == "drain":  # who only closes may read on: a reset says that nobody does
                line = writer.get_extra_info("socket")
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            if policy == "cancel":
                # before any deadline ends it
                await until(lambda: not house.turns(), "the turn of a client that left", 1.5)
                await upstream.until(lambda: upstream.aborted == 1)
            else:
                await until(
                    lambda: not house.server.server_state.connections,
                    "the connection of a client that left",
                )
                # the answer goes on for whoever settles, saves and caches it
                assert len(house.turns()) == 1
                gate.release()
                await upstream.until(lambda: upstream.completed == 1)
                # and its connection can be used again
                assert upstream.aborted == 0 and upstream.open_connections == 1
            await house.settled()


@pytest.mark.parametrize("model", ["hot", "silent"])
async def test_an_agent_that_never_waits_starves_nobody(tmp_path, model):
    """Law: others are answered while it runs, and its time is up when its limit says so, listened to or not."""
    with ScriptedUpstream() as upstream:
        async with (
            served(tmp_path, "drain", upstream) as house,
            httpx.AsyncClient(trust_env=False) as client,
        ):
            _, writer = await asyncio.open_connection("127.0.0.1", house.port)
            writer.write(house.request(model))
            await until(house.turns, "no turn")
            writer.transport.abort()
            for _ in range(5):
                answer = await client.get(f"http://127.0.0.1:{house.port}/health", timeout=1)
                assert answer.json() == {"status": "ok"} and house.turns()
            await until(lambda: not house.turns(), "the turn of an agent whose time is up")
            await client.aclose()
            await house.settled()


async def test_a_thread_that_hangs_does_not_hold_up_its_turn(tmp_path):
    with ScriptedUpstream() as upstream:
        async with (
            served(tmp_path, "drain", upstream) as house,
            httpx.AsyncClient(trust_env=False, timeout=10) as client,
        ):
            closed, began = Blocking.closed, asyncio.get_running_loop().time()
            url = f"http://127.0.0.1:{house.port}/v1/chat/completions"
            answer = await client.post(
                url,
                json=ask("x") | {"model": "blocking"},
                headers={"authorization": f"Bearer {KEY}"},
            )
            assert (answer.status_code, answer.json()["error"]["code"]) == (504, "agent_timeout")
            assert asyncio.get_running_loop().time() - began < 1.5
            # closed all the same, once it can be
            await until(lambda: Blocking.closed == closed + 1, "its generator is open")
            await client.aclose()
            await house.settled()


def slow_socket(port: int) -> socket.socket:
    """A client that takes in next to nothing."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect(("127.0.0.1", port))
    return line


async def test_a_client_that_reads_nothing_holds_up_only_itself(tmp_path):
    with ScriptedUpstream() as upstream:
        endless = Endless()
        async with served(tmp_path, "drain", upstream) as house:
            with slow_socket(house.port) as line:
                upstream.script(endless)
                line.sendall(house.request())
                sent = -1
                while sent != endless.sent:  # until not a byte more is taken from the upstream
                    sent = endless.sent
                    await asyncio.sleep(0.3)
                # what kernels, pools and queues hold; no more piles up here
                assert 0 < sent < 32 * 2**20
                async with httpx.AsyncClient(trust_env=False) as client:
                    for _ in range(20):
                        url = f"http://127.0.0.1:{house.port}/v1/chat/completions"
                        answer = await client.post(
                            url,
                            json=ask("hello"),
                            headers={"authorization": f"Bearer {KEY}"},
                            timeout=2,
                        )
                        assert answer.status_code == 200
            # its reader gone, it ends with its total deadline
            await upstream.until(lambda: upstream.aborted == 1)
            await house.settled()


async def test_a_client_that_reads_too_late_is_told_what_it_missed(tmp_path, monkeypatch):
    """Law: an answer with a hole in it never looks like a whole one."""
    monkeypatch.setattr(reply, "MAX_UNREAD_S", 0.3)
    with ScriptedUpstream() as upstream:
        async with served(tmp_path, "drain", upstream) as house:
            with slow_socket(house.port) as line:
                many = [chat_chunks(ask("x" * 4000))[1]] * 3000
                upstream.script(Sse([*many, *chat_chunks(ask("end"))[2:]]))
                line.sendall(house.request())
                # the turn has gone on without its reader
                await upstream.until(lambda: upstream.completed == 1, 20)
                await until(lambda: not house.turns(), "turns under way")
                text = await asyncio.to_thread(read_all, line)
            assert b"[DONE]" not in text
            last = json.loads(text.rstrip().rpartition(b"data: ")[2].rpartition(b"}")[0] + b"}")
            assert last["error"]["code"] == "reader_too_slow"
            await house.settled()


def read_all(line: socket.socket) -> bytes:
    """Everything up to the end of a chunked answer."""
    line.settimeout(20)
    data = b""
    while not data.endswith(b"\r\n0\r\n\r\n"):
        data += line.recv(2**20)
    return data


async def test_a_burst_with_its_reader_gone_starves_nobody(tmp_path):
    one = framed(sse_event({"choices": [{"index": 0, "delta": {"content": "x" * 100}}]}))
    with ScriptedUpstream() as upstream:
        async with (
            served(tmp_path, "drain", upstream) as house,
            httpx.AsyncClient(trust_env=False) as client,
        ):
            upstream.script(Raw([head(200, CHUNKED_SSE), *[one * 500] * 200]))
            _, writer = await asyncio.open_connection("127.0.0.1", house.port)
            writer.write(house.request())
            await until(house.turns, "no turn")
            writer.transport.abort()
            while house.turns():
                answer = await client.get(f"http://127.0.0.1:{house.port}/health", timeout=1)
                assert answer.status_code == 200
            await client.aclose()
            await house.settled()
