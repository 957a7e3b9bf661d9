"""The cache as clients meet it: real processes, a real Valkey, and what a hit must not show."""

import asyncio
import csv
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from answers import Answer, Gate, Plain, Request, Sse, error
from compat.strict import read
from echo_model import ask, chat_chunks
from process import Chattable, chattable, free_port
from upstream import ScriptedUpstream
from valkeys import Valkey, valkey_server

CONFIG = """
database_url: sqlite:///{directory}/chattable.db
redis_url: "{redis}"
providers:
  stub: {{kind: openai, base_url: "{url}", api_key: x, retries: 0}}
models:
  m: {{provider: stub}}
  alias: {{provider: stub, model: m}}
  never: {{provider: stub, model: m, cache: {{enabled: false}}}}
agents:
  persona: {{model: m, context: "You are terse."}}
  kept: {{model: m, context: "You are terse.", cache: true}}
cache: {{scope: {scope}}}
budgets: {{default: {{tokens: 1000000, per: day}}}}
"""
STORM = 6.0  # seconds of Redis dying every two; 60 for a long look
CROWD = 1000


@contextmanager
def serving(
    upstream: ScriptedUpstream,
    directory: Path,
    redis: str = "",
    scope: str = "user",
    count: int = 1,
    more: str = "",
) -> Iterator[list[Chattable]]:
    config = CONFIG.format(url=upstream.url, directory=directory, redis=redis, scope=scope) + more
    with ExitStack() as stack:
        yield [stack.enter_context(chattable(config)) for _ in range(count)]


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with valkey_server() as own:
        yield own


@asynccontextmanager
async def client(key: str = "") -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        headers=headers, connector=connector, timeout=aiohttp.ClientTimeout(60)
    ) as session:
        yield session


class Page:
    """One answer."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def how(self) -> str:
        cache: str = self.headers["x-cache"]
        return cache

    @property
    def text(self) -> str:
        """What was said; the answer must be complete and valid."""
        if self.headers["content-type"].startswith("text/event-stream"):
            assert self.body.endswith(b"data: [DONE]\n\n")
            return read(self.body).text
        text: str = json.loads(self.body)["choices"][0]["message"]["content"]
        return text

    @property
    def failure(self) -> Any:
        """The error that it is, or that a stream ends with; None: it is none."""
        last = self.body.rstrip(b"\n").rpartition(b"data: ")[2]
        return None if last == b"[DONE]" else json.loads(last).get("error")


async def post(
    session: aiohttp.ClientSession, server: Chattable, body: Any, **headers: str
) -> Page:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with session.post(
        f"{server.base_url}/v1/chat/completions", json=body, headers=named
    ) as answer:
        return Page(answer.status, answer.headers, await answer.read())


def usage_once_written(servers: list[Chattable]) -> dict[str, int]:
    """What one user used, once the servers have stopped: all that there was to book is booked."""
    for server in servers:
        server.stop()
    report = subprocess.run(
        [sys.executable, "-m", "chattable.proxy", "usage", "--csv", "--config", "config.yaml"],
        capture_output=True, text=True, timeout=60, cwd=servers[0].directory, check=True,
    )  # fmt: skip
    [row] = csv.DictReader(report.stdout.splitlines())
    figures = ("requests", "cached_requests", "total_tokens", "tokens_saved")
    return {name: int(row[name]) for name in figures}


# One upstream call


async def crowd(
    session: aiohttp.ClientSession, servers: list[Chattable], gate: Gate, upstream: ScriptedUpstream
) -> list[asyncio.Task[Page]]:
    """Many identical requests, streamed and plain, the leader at the first server; all streams have begun to get its answer."""
    begun = Counter[int]()

    async def one(i: int) -> Page:
        body = ask("one two three four", stream=i % 2 == 0)
        at = i // 2
        while True:  # as a balancer does: another server where one has died
            server = servers[at % len(servers)]
            try:
                async with session.post(
                    f"{server.base_url}/v1/chat/completions", json=body
                ) as answer:
                    begun[i % 2] += 1
                    return Page(answer.status, answer.headers, await answer.read())
            except (aiohttp.ClientError, ConnectionError):
                at += 1

    first = asyncio.create_task(one(0))
    await gate.arrival()
    tasks = [first, *(asyncio.create_task(one(i)) for i in range(1, CROWD))]
    async with asyncio.timeout(30):
        while begun[0] < CROWD // 2:
            await asyncio.sleep(0.02)
    return tasks


async def used(server: Chattable, user: str, **wanted: int) -> None:
    """Fails unless a user has used this; what was saved is booked within a moment."""
    deadline = time.monotonic() + 10
    while True:
        (row,) = server.admin("GET", f"/admin/usage?user={user}")["data"]
        seen = {name: row[name] for name in wanted}
        if seen == wanted or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.05)
    assert seen == wanted


@pytest.mark.parametrize("kill", [False, True], ids=["", "leader killed"])
async def test_66_a_thousand_at_once(
    upstream: ScriptedUpstream, valkey: Valkey, tmp_path: Path, kill: bool
) -> None:
    gate = Gate(3)
    upstream.script(gate)
    with serving(upstream, tmp_path, valkey.url, count=2) as servers:
        async with client(servers[0].user_key("alice")) as session:
            tasks = await crowd(session, servers, gate, upstream)
            assert len(upstream.requests) == 1
            if kill:
                os.kill(servers[0].pid, signal.SIGKILL)
            else:
                gate.release()
            pages = await asyncio.gather(*tasks)
            gate.release()
        assert len(upstream.requests) == 1 + kill
        assert {page.status for page in pages} == {200}
        broken = [page for page in pages if page.failure]
        # the streams of the other server, and those that came over before it knew of the death
        assert CROWD // 4 * kill <= len(broken) <= CROWD // 2 * kill
        assert {page.failure["code"] for page in broken} <= {"upstream_error"}
        assert {page.text for page in pages if not page.failure} == {"one two three four"}
        how = Counter(page.how for page in pages)
        if not kill:
            assert how["MISS"] == 1 and how["JOIN"] >= CROWD // 2 - 1, how
            saved = {"cached_requests": CROWD - 1, "tokens_saved": 8 * (CROWD - 1)}
            await used(servers[0], "alice", requests=1, total_tokens=8, **saved)
        assert not [server.log() for server in servers if "Traceback" in server.log()]


# An answer that breaks is the same for all who read it, in whatever process


WORDS = "one two three four"
READERS = [(0, True), (0, False), (1, True), (1, False)]  # server, streamed


@asynccontextmanager
async def readers_of(
    servers: list[Chattable], gate: Gate, upstream: ScriptedUpstream
) -> AsyncIterator[tuple[asyncio.Task[Page], list[asyncio.Task[Page]]]]:
    """A leader and four who read along, here and elsewhere, streamed and not; streams have begun."""
    begun = asyncio.Semaphore(0)

    async def one(session: aiohttp.ClientSession, at: int, stream: bool) -> Page:
        url = f"{servers[at].base_url}/v1/chat/completions"
        async with session.post(url, json=ask(WORDS, stream=stream)) as answer:
            begun.release()
            return Page(answer.status, answer.headers, await answer.read())

    upstream.script(gate)
    async with client(servers[0].user_key("alice")) as session, asyncio.TaskGroup() as tasks:
        leader = tasks.create_task(one(session, 0, True))
        await gate.arrival()
        await begun.acquire()
        others = [tasks.create_task(one(session, at, stream)) for at, stream in READERS]
        for _ in range(2):
            await begun.acquire()
        for server in servers:  # the others are there
            while server.admin("GET", "/admin/cache")["joins"] < 2:
                await asyncio.sleep(0.02)
        yield leader, others


async def test_e7_an_error_that_the_upstream_tells_is_told_the_same_to_every_reader(
    upstream: ScriptedUpstream, valkey: Valkey, tmp_path: Path
) -> None:
    events = [*chat_chunks(ask(WORDS))[:3], {"error": {"code": 429, "message": "slow down"}}]
    gate = Gate(3, events)
    with serving(upstream, tmp_path, valkey.url, count=2) as servers:
        async with readers_of(servers, gate, upstream) as (leader, others):
            gate.release()
        told = (await leader).failure
        assert told["message"] == "The upstream limits its requests: slow down"
        pages = [await other for other in others]
        assert [page.failure for page in pages] == [told] * 4
        assert [page.status for page in pages] == [200, 429] * 2
        assert {page.headers.get("retry-after") for page in pages[1::2]} == {"1"}
        words = (await leader).body.count(b'"delta"')
        assert [pages[at].body.count(b'"delta"') for at in (0, 2)] == [words, words]
        assert len(upstream.requests) == 1


async def test_a_stream_that_is_cut_is_the_error_of_its_readers_and_the_others_ask_again(
    upstream: ScriptedUpstream, valkey: Valkey, tmp_path: Path
) -> None:
    gate = Gate(3, chat_chunks(ask(WORDS))[:3], end="reset", done=False)
    with serving(upstream, tmp_path, valkey.url, count=2) as servers:
        async with readers_of(servers, gate, upstream) as (leader, others):
            gate.release()
        told = (await leader).failure
        assert told["type"] == "upstream_error"
        pages = [await other for other in others]
        assert [page.failure for page in pages] == [told, None] * 2
        assert [pages[at].text for at in (1, 3)] == [WORDS, WORDS]
        assert len(upstream.requests) == 2


async def test_a_leader_that_leaves_harms_nobody_who_reads_elsewhere(
    upstream: ScriptedUpstream, valkey: Valkey, tmp_path: Path
) -> None:
    gate = Gate(3)
    config = "server: {on_disconnect: cancel}\n"
    with serving(upstream, tmp_path, valkey.url, count=2, more=config) as servers:
        url, body = f"{servers[0].base_url}/v1/chat/completions", ask(WORDS, stream=True)
        async with client(servers[0].user_key("alice")) as session:
            upstream.script(gate)
            leader = await session.post(url, json=body)
            await gate.arrival()
            there = await session.post(
                url.replace(servers[0].base_url, servers[1].base_url), json=body
            )
            await there.content.readuntil(b"\n\n")
            leader.close()
            async with asyncio.timeout(10):
                while "/v1/chat/completions" not in servers[0].log():  # it has ended
                    await asyncio.sleep(0.02)
            gate.release()
            page = Page(200, there.headers, await there.read())
        assert page.how == "JOIN" and page.body.endswith(b"data: [DONE]\n\n")
        assert b"four" in page.body and len(upstream.requests) == 1


# A hit is the answer

LOGPROBS = {
    "content": [{"token": "yes", "logprob": -0.1, "bytes": [121], "top_logprobs": []}],
    "refusal": None,
}
CALLS = [
    {
        "id": f"call_{n}",
        "type": "function",
        "function": {"name": name, "arguments": '{"city": "Oslo", "n": 1}'},
    }
    for n, name in enumerate(("weather", "alarm"))
]
DETAILS = {
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
# messages of the choices, finish, facts, logprobs
SHAPES: dict[str, tuple[list[dict[str, Any]], str, dict[str, Any], Any]] = {
    "text": ([{"content": "Grüße, 世界 🙂, \\ \" \n"}], "stop", {}, None),
    "long": ([{"content": "word " * 800}], "stop", {}, None),
    "facts": ([{"content": "yes"}], "stop", {"system_fingerprint": "fp_1", "citations": ["a", "b"]}, None),
    "logprobs": ([{"content": "yes"}], "stop", {}, LOGPROBS),
    "three": ([{"content": "one"}, {"content": "two"}, {"content": "three"}], "stop", {}, None),
    "tools": ([{"content": None, "tool_calls": CALLS}], "tool_calls", {}, None),
    "text and tools": ([{"content": "let me see", "tool_calls": CALLS[:1]}], "tool_calls", {}, None),
    "function": ([{"content": None, "function_call": {"name": "weather", "arguments": "{}"}}], "function_call", {}, None),
    "refusal": ([{"content": None, "refusal": "I will not do that."}], "stop", {}, None),
    "reasoning": ([{"content": "42", "reasoning_content": "hm, let me think"}], "stop", {}, None),
    "unknown fields": ([{"content": "yes", "vendor_note": "x"}], "stop", {"vendor_fact": {"a": [1, 1.0, True, None]}}, None),
}  # fmt: skip


def shape(name: str) -> Any:
    """An upstream that gives one answer, whole or in pieces."""
    messages, finish, facts, logprobs = SHAPES[name]
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12, **DETAILS}
    head = {"id": "chatcmpl-up", "created": 1, "model": "m-2024", **facts}

    def choice(index: int, **fields: Any) -> dict[str, Any]:
        return {"index": index, "logprobs": None, "finish_reason": None, **fields}

    def pieces(message: dict[str, Any]) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        for field, value in message.items():
            if field == "tool_calls":
                for n, call in enumerate(value):
                    body = call["function"]
                    out.append(
                        {
                            "tool_calls": [
                                {
                                    **call,
                                    "index": n,
                                    "function": {"name": body["name"], "arguments": ""},
                                }
                            ]
                        }
                    )
                    out += [
                        {"tool_calls": [{"index": n, "function": {"arguments": part}}]}
                        for part in halves(body["arguments"])
                    ]
            elif isinstance(value, str) and field != "vendor_note":
                out += [{field: part} for part in halves(value)]
            elif value is not None:
                out.append({field: value})
        return out

    def halves(text: str) -> list[str]:
        return [text[: len(text) // 2], text[len(text) // 2 :]]

    def reply(request: Request) -> Answer:
        if not request.json.get("stream"):
            choices = [
                choice(
                    i,
                    message={"role": "assistant", "refusal": None, **message},
                    finish_reason=finish,
                    logprobs=logprobs,
                )
                for i, message in enumerate(messages)
            ]
            return Plain(
                200, {**head, "object": "chat.completion", "choices": choices, "usage": usage}
            )
        chunk = {**head, "object": "chat.completion.chunk"}
        events: list[Any] = [
            {**chunk, "choices": [choice(i, delta={"role": "assistant"})]}
            for i in range(len(messages))
        ]
        for i, message in enumerate(messages):
            events += [{**chunk, "choices": [choice(i, delta=delta)]} for delta in pieces(message)]
            if logprobs:
                events[-1]["choices"][0]["logprobs"] = logprobs
            events.append({**chunk, "choices": [choice(i, delta={}, finish_reason=finish)]})
        return Sse([*events, {**chunk, "choices": [], "usage": usage}])

    return reply


def told(page: Page) -> Any:
    """All that an answer says but its id and time, whichever way it came."""
    assert page.status == 200
    if not page.headers["content-type"].startswith("text/event-stream"):
        answer = json.loads(page.body)
        return {
            name: value for name, value in answer.items() if name not in ("id", "created", "object")
        }
    # valid to the strictest client
    read(page.body, include_usage=True, n=page.body.count(b'"finish_reason":"'))
    events = [
        json.loads(line[6:])
        for line in page.body.decode().split("\n\n")
        if line.startswith("data: {")
    ]
    choices: dict[int, Any] = {}
    for event in events:
        for each in event["choices"]:
            whole = choices.setdefault(
                each["index"],
                {"index": each["index"], "message": {}, "logprobs": None, "finish_reason": None},
            )
            grow(whole["message"], each["delta"])
            whole["logprobs"] = each["logprobs"] or whole["logprobs"]
            whole["finish_reason"] = each["finish_reason"] or whole["finish_reason"]
    for whole in choices.values():
        message = whole["message"]
        message.setdefault("refusal", None)
        message["content"] = (
            message["content"] or (None if len(message) > 3 else "")
            if not message.get("refusal")
            else None
        )
        for call in message.get("tool_calls", []):
            call.pop("index")
    facts = {
        name: value
        for name, value in events[-1].items()
        if name not in ("id", "created", "object", "choices", "usage")
    }
    return {**facts, "choices": list(choices.values()), "usage": events[-1]["usage"]}


def grow(whole: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            calls = whole.setdefault(name, [])
            for piece in value:
                if piece["index"] == len(calls):
                    calls.append(json.loads(json.dumps(piece)))
                else:
                    calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
        elif isinstance(value, dict) and isinstance(whole.get(name), dict):
            whole[name] = {key: whole[name].get(key, "") + text for key, text in value.items()}
        elif isinstance(value, str) and isinstance(whole.get(name), str):
            whole[name] += value
        elif value is not None or name not in whole:
            whole[name] = value


@pytest.fixture(scope="module", params=["in-process", "valkey"])
def house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Chattable, ScriptedUpstream]]:
    with ExitStack() as stack:
        upstream = stack.enter_context(ScriptedUpstream())
        redis = stack.enter_context(valkey_server()).url if request.param == "valkey" else ""
        [server] = stack.enter_context(serving(upstream, tmp_path_factory.mktemp("cache"), redis))
        yield server, upstream


@pytest.fixture
def server(house: tuple[Chattable, ScriptedUpstream]) -> Iterator[Chattable]:
    house[1].clear()
    usual = house[1].reply
    yield house[0]
    house[1].reply = usual


@pytest.fixture
async def session(server: Chattable) -> AsyncIterator[aiohttp.ClientSession]:
    async with client(server.user_key("alice")) as opened:
        yield opened


@pytest.mark.parametrize("name", SHAPES)
async def test_59_a_hit_is_the_answer(
    server: Chattable,
    house: tuple[Chattable, ScriptedUpstream],
    session: aiohttp.ClientSession,
    name: str,
) -> None:
    house[1].reply = shape(name)
    ways = [{}, {"stream": True, "stream_options": {"include_usage": True}}]
    live = [
        told(await post(session, server, ask(name) | way, cache_control="no-cache, no-store"))
        for way in ways
    ]
    assert live[0] == live[1]
    for first, way in enumerate(ways):
        body = ask(f"{name}, {'streamed' if first else 'whole'} first")
        miss = await post(session, server, body | way)
        pages = [await post(session, server, body | way) for way in (*ways, *ways)]
        assert (miss.how, [page.how for page in pages]) == ("MISS", ["HIT"] * 4)
        assert [told(page) for page in (miss, *pages)] == [live[0]] * 5
        assert all(0 <= int(page.headers["age"]) < 60 for page in pages)
        ids = [
            json.loads(page.body.removeprefix(b"data: ").partition(b"\n\n")[0])["id"]
            for page in (miss, *pages)
        ]
        assert len(set(ids)) == 5
    assert len(house[1].requests) == 4
    assert not [request for request in house[1].requests if "cache" in request.json]


async def test_hits_cost_nothing(
    server: Chattable, house: tuple[Chattable, ScriptedUpstream]
) -> None:
    async with client(server.user_key("payer")) as session:
        pages = [
            await post(
                session,
                server,
                ask("what does it cost"),
                authorization=session.headers["authorization"],
            )
            for _ in range(5)
        ]
    assert [page.how for page in pages] == ["MISS"] + ["HIT"] * 4
    # what the answer is worth
    assert [json.loads(page.body)["usage"]["total_tokens"] for page in pages] == [8] * 5
    [budget] = server.admin("GET", "/admin/budgets?user=payer")["data"]
    assert budget["spent"] == 8


async def test_what_a_hit_saves_is_in_the_usage(
    server: Chattable, house: tuple[Chattable, ScriptedUpstream]
) -> None:
    _, upstream = house
    upstream.clear()
    async with client(server.user_key("saver")) as session:
        pages = [
            await post(session, server, ask("save me", stream=stream))
            for stream in (False, True, False)
        ]
    assert [page.how for page in pages] == ["MISS", "HIT", "HIT"]

    spent = upstream.tokens
    await used(
        server, "saver", requests=1, cached_requests=2, total_tokens=spent, tokens_saved=2 * spent
    )


@pytest.mark.parametrize("redis", [False, True], ids=["in-process", "valkey"])
async def test_g10_five_chats_of_which_four_are_hits_are_one_request_once_all_is_written(
    upstream: ScriptedUpstream, tmp_path: Path, redis: bool, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("valkey").url if redis else ""
    with serving(upstream, tmp_path, url) as [server]:
        async with client(server.user_key("alice")) as session:
            pages = [await post(session, server, ask("the same")) for _ in range(5)]
        assert [page.how for page in pages] == ["MISS"] + ["HIT"] * 4
        told = usage_once_written([server])
    spent = upstream.tokens
    assert len(upstream.requests) == 1
    counts = {"requests": 1, "cached_requests": 4}
    assert told == {**counts, "total_tokens": spent, "tokens_saved": 4 * spent}


async def test_what_is_kept_and_what_is_not(
    server: Chattable, house: tuple[Chattable, ScriptedUpstream], session: aiohttp.ClientSession
) -> None:
    async def how(text: str, **fields: Any) -> str:
        page = await post(session, server, ask(text, **fields))
        assert page.status == 200
        return page.how

    async def twice(text: str, **fields: Any) -> list[str]:
        return [await how(text, **fields), await how(text, **fields)]

    upstream = house[1]
    assert await twice("temperature", temperature=1.5, seed=7) == ["MISS", "HIT"]
    assert await how("temperature", temperature=1.5, seed=8) == "MISS"
    assert await twice("an alias", model="alias") == ["MISS", "HIT"]
    assert await how("an alias", model="m") == "HIT"  # what really answers is the same
    assert await twice("cut off here", max_tokens=1) == ["MISS", "MISS"]
    assert await twice("never", model="never") == ["BYPASS", "BYPASS"]
    assert await twice("a turn", model="persona") == ["BYPASS", "BYPASS"]
    assert await twice("a kept turn", model="kept") == ["MISS", "HIT"]
    before = len(upstream.requests)
    await twice("leaves are kept", model="persona")
    assert len(upstream.requests) == before + 1
    upstream.script(
        error(500, "down"),
        error(400, "bad"),
        Sse(chat_chunks(ask("errors and more"))[:3], end="reset", done=False),
    )
    for status in (502, 400):
        assert (await post(session, server, ask("errors"))).status == status
    page = await post(session, server, ask("errors", stream=True))
    assert b"error" in page.body and not page.body.endswith(b"[DONE]\n\n")
    assert await twice("errors") == ["MISS", "HIT"]


async def test_controls(
    server: Chattable, house: tuple[Chattable, ScriptedUpstream], session: aiohttp.ClientSession
) -> None:
    async def how(body: Any, **headers: str) -> str:
        return (await post(session, server, ask("controls") | body, **headers)).how

    assert await how({}) == "MISS"
    assert await how({}, cache_control="max-age=100") == "HIT"
    # not for us
    assert await how({}, cache_control="max-age=-5, only-if-cached, s-maxage=0") == "HIT"
    assert await how({}, cache_control="no-cache") == "BYPASS"
    assert await how({"cache": {"no_cache": True, "no_store": True}}) == "BYPASS"
    assert await how({"cache": {"ttl": 600}}) == "HIT"
    # kept within this very second
    assert await how({}, cache_control="max-age=0") in ("MISS", "HIT")
    assert not [request for request in house[1].requests if "cache" in request.json]
    for ttl in (-1, 0, "1h", True, 31 * 86400):
        page = await post(session, server, ask("controls", cache={"ttl": ttl}))
        failure = json.loads(page.body)["error"]
        assert (page.status, failure["param"], failure["type"]) == (
            400,
            "cache.ttl",
            "invalid_request_error",
        )
    calls = len(house[1].requests)
    turn = ask("x", model="persona")
    for _ in range(2):
        # counts for what an agent asks, too
        await post(session, server, turn, cache_control="no-cache")
        await post(session, server, turn | {"cache": {"no_cache": True}})
    assert len(house[1].requests) == calls + 4


# Tenants


@pytest.mark.parametrize("scope", ["user", "team", "shared"])
async def test_17_no_answer_crosses_to_another_tenant(
    upstream: ScriptedUpstream, valkey: Valkey, tmp_path: Path, scope: str
) -> None:
    rng = random.Random(scope)
    made: dict[str, str] = {}  # canary of an answer → question

    def reply(request: Request) -> Answer:
        question = request.json["messages"][-1]["content"]
        made[canary := secrets.token_hex(8)] = question
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": f"{question} {canary}"},
            "finish_reason": "stop",
        }
        return Plain(
            200, {"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
        )

    upstream.reply = reply
    teams = {"alice": "red", "anna": "red", "bob": "blue"}
    with serving(upstream, tmp_path, valkey.url, scope, count=2) as servers:
        for name, team in teams.items():
            servers[0].admin("POST", "/admin/users", {"name": name, "team": team})
        keys = {name: servers[0].user_key(name) for name in teams}
        secret = {name: secrets.token_hex(8) for name in teams}
        heard: dict[str, set[tuple[str, str]]] = {name: set() for name in teams}

        async def one(session: aiohttp.ClientSession) -> None:
            name = rng.choice(list(teams))
            question = rng.choice(["q1", "q2", "q3", f"mine {secret[name]}"])
            body = ask(
                question, model=rng.choice(["m", "alias", "kept"]), stream=rng.random() < 0.5
            )
            page = await post(
                session, rng.choice(servers), body, authorization=f"Bearer {keys[name]}"
            )
            assert page.status == 200
            question_back, _, canary = page.text.rpartition(" ")
            assert question_back.endswith(question) and not [
                s for n, s in secret.items() if n != name and s in page.text
            ]
            heard[name].add((body["model"], canary))

        async with client() as session:
            for _ in range(10):
                await asyncio.gather(*[one(session) for _ in range(30)])
    shared = {
        (a, b): {c for _, c in heard[a]} & {c for _, c in heard[b]}
        for a in teams
        for b in teams
        if a < b
    }
    assert bool(shared["alice", "anna"]) == (scope != "user")
    assert bool(shared["alice", "bob"]) == bool(shared["anna", "bob"]) == (scope == "shared")


# Redis in trouble (30 to 34)


@asynccontextmanager
async def load(server: Chattable, key: str) -> AsyncIterator[list[tuple[int, float, str]]]:
    """Chats all the time, some the same and some new; what became of each, how long it took, and how it was served."""
    seen: list[tuple[int, float, str]] = []
    stopping = asyncio.Event()

    async def chat(session: aiohttp.ClientSession, number: int) -> None:
        rng = random.Random(number)
        while not stopping.is_set():
            text = f"same {rng.randrange(5)}" if rng.random() < 0.5 else f"new {rng.random()}"
            began = time.monotonic()
            page = await post(session, server, ask(text, stream=rng.random() < 0.5))
            took = time.monotonic() - began
            seen.append((page.status if page.text == text else 0, took, page.how))
            await asyncio.sleep(0.005)

    async with client(key) as session:
        tasks = [asyncio.create_task(chat(session, number)) for number in range(6)]
        try:
            yield seen
        finally:
            stopping.set()
            await asyncio.gather(*tasks)


async def served(seen: list[tuple[int, float, str]], how: str, seconds: float = 10) -> None:
    """Waits until a request that is made from now on is served so."""
    start = len(seen)
    async with asyncio.timeout(seconds):
        while how not in {each for _, _, each in seen[start:]}:
            await asyncio.sleep(0.01)


async def test_f30_to_f34(upstream: ScriptedUpstream, valkey: Valkey, tmp_path: Path) -> None:
    with serving(upstream, tmp_path, valkey.url) as [server]:
        async with load(server, server.user_key("alice")) as seen:
            await served(seen, "HIT")
            end = time.monotonic() + STORM
            while time.monotonic() < end:  # 30
                valkey.kill()
                await asyncio.sleep(1)
                valkey.start()
                await asyncio.sleep(1)
            await served(seen, "HIT")
            calm = len(seen)
            valkey.pause(2)  # 31
            slow = time.monotonic() + 2
            while time.monotonic() < slow:
                await asyncio.sleep(0.02)
            assert max(took for _, took, _ in seen[calm:]) < 0.1 + 0.4
            await served(seen, "HIT")
            # 32
            await asyncio.to_thread(
                valkey.execute, "CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1"
            )
            await served(seen, "HIT")  # what is there can be read
            await served(seen, "MISS")
            await asyncio.to_thread(valkey.execute, "CONFIG", "SET", "maxmemory", "0")
            await asyncio.to_thread(valkey.execute, "REPLICAOF", "127.0.0.1", free_port())  # 34
            await served(seen, "MISS")
            await asyncio.sleep(0.3)
            await asyncio.to_thread(valkey.execute, "REPLICAOF", "NO", "ONE")
            await asyncio.to_thread(valkey.execute, "FLUSHALL")
            await asyncio.to_thread(valkey.execute, "SCRIPT", "FLUSH")
            await served(seen, "HIT")
        assert len(seen) > 500
        assert Counter(status for status, _, _ in seen) == {200: len(seen)}
        assert "Traceback" not in server.log()
