"""Who is asked, when somebody fails: another target before a wait, and nobody who has just been found dead."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from httpx_transport import HttpxTransport
from wired import Alone

from chattable.adapters.connections import Slot
from chattable.adapters.errors import ConnectionReclaimed, UpstreamError, UpstreamHTTPError
from chattable.adapters.stream_reading import UpstreamTimeouts
from chattable.adapters.upstream import Upstream, UpstreamProvider
from chattable.agents.chat import Chat, Message
from chattable.agents.chattable import Context, Trace, TurnSession, TurnUser
from chattable.agents.fold import Accumulator
from chattable.agents.run_turn import run_turn
from chattable.proxy.catalog.catalog import Catalog, build
from chattable.proxy.catalog.circuits import MAX_FAILURES_IN_A_ROW, CircuitBreaker, State
from chattable.proxy.config.reader import parse
from chattable.proxy.errors import describe
from chattable.proxy.identity.auth import ADMIN, Caller
from chattable.proxy.pipeline.targets import TargetSelector

CONFIG = """
providers:
  one: {kind: openai, base_url: "http://one.test/v1", api_key: key-of-one, max_connections: ROOM}
  two: {kind: openai, base_url: "http://two.test/v1", api_key: key-of-two}
  many: {kind: openai, base_url: "http://one.test/v1", api_keys: [key-a, key-b, key-c]}
models:
  both: {targets: [{provider: one, weight: 1}, {provider: two, weight: 0}]}
  fallen: {provider: one, fallbacks: [other]}
  equal: {targets: [{provider: one}, {provider: two}]}
  alone: {provider: one}
  once: {provider: one, retries: 0}
  other: {provider: two}
  keys: {provider: many}
"""
ANSWER = {
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}
OK = httpx.Response(200, json=ANSWER)
Reply = httpx.Response | Exception


def refusal(status: int, message: str = "no", code: Any = None, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json={"error": {"message": message, "code": code}}, headers=named)


class World:
    """Two upstreams that answer as they are told, in the place of the network, and a clock that waits take no time of."""

    def __init__(self, room: int = 1000) -> None:
        self.script: dict[str, list[Reply]] = {"one.test": [], "two.test": []}
        self.asked: list[str] = []
        self.keys: list[str] = []
        self.waits: list[float] = []
        self.on_call: Callable[[str], None] = lambda _: None
        config = parse(CONFIG.replace("ROOM", str(room)).encode(), "config.yaml", {})
        self.catalog: Catalog = build(config, HttpxTransport(httpx.MockTransport(self._answer)))

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        self.asked.append(host.removesuffix(".test"))
        self.keys.append(request.headers["authorization"].removeprefix("Bearer "))
        self.on_call(host)
        await asyncio.sleep(0)
        replies = self.script[host]
        reply = replies.pop(0) if len(replies) > 1 else replies[0] if replies else OK
        if isinstance(reply, Exception):
            raise reply
        return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)

    async def _wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    def health(self, model: str, target: int = 0) -> CircuitBreaker:
        entry = self.catalog.find(model, ADMIN)
        health = (entry.targets or (entry,))[target].health
        assert health is not None
        return health

    async def ask(self, model: str, session: str = "") -> Trace:
        """Asks as the pipeline does; raises what the client is told."""
        trace, chat = Trace(), Chat(model, [Message("user", "Hi")])
        caller = Caller(
            ADMIN, "req_1", 0.0, session=TurnSession(session, None, {}, {}) if session else None
        )
        routes = TargetSelector(
            self.catalog, chat, self.catalog.find(model, ADMIN), caller, trace, self._wait
        )
        for target in routes:
            try:
                ctx = Context(Alone(), chat, TurnUser("u", "u"), model, trace=trace)
                ctx.progress = routes.progress
                fold = Accumulator()
                async with aclosing(run_turn(target.model, ctx)) as chunks:
                    async for chunk in chunks:
                        routes.answering()
                        fold.add(chunk)
                assert fold.message().text == "Hello"
                routes.ended(True)
            except Exception as error:
                if not await routes.failed(error):
                    raise
            finally:
                routes.ended()
            if fold.usage:
                return trace
        raise AssertionError("nobody was asked")


def provider_of(world: World, model: str) -> UpstreamProvider:
    upstream = world.catalog.find(model, ADMIN).model
    assert isinstance(upstream, Upstream)
    return upstream.provider


@pytest.mark.parametrize("model", ["both", "fallen"])
@pytest.mark.parametrize("named", [{"retry_after": "4"}, {"retry_after": "60"}, {}], ids=str)
async def test_a_429_delays_nobody_whom_another_target_can_serve(
    model: str, named: dict[str, str]
) -> None:
    world = World()
    world.script["one.test"] = [refusal(429, "slow down", **named)]
    for _ in range(3):
        trace = await world.ask(model)
        assert (trace.asked, trace.attempts) == (
            f"two/{'other' if model == 'fallen' else model}",
            2,
        )
    assert (world.waits, world.asked) == ([], ["one", "two"] * 3)


async def test_who_is_left_is_asked_again_when_they_said() -> None:
    world = World()
    world.script["one.test"] = [refusal(429, retry_after="4"), OK]
    world.script["two.test"] = [refusal(429, retry_after="2"), OK]
    trace = await world.ask("both")
    assert (world.asked, trace.attempts, [failure.status for failure in trace.failures]) == (
        ["one", "two", "two"],
        3,
        [429, 429],
    )
    assert world.waits == [pytest.approx(2, abs=0.5)]
    assert trace.waited >= world.waits[0]


async def test_one_that_is_alone_is_asked_again_after_the_wait_it_named() -> None:
    world = World()
    world.script["one.test"] = [refusal(429, retry_after="2"), httpx.ConnectError("refused"), OK]
    await world.ask("alone")
    assert world.waits[0] == pytest.approx(2, abs=0.5)
    assert 0.2 <= world.waits[1] <= 0.5
    assert world.asked == ["one"] * 3


@pytest.mark.parametrize(
    "model, reply, asked",
    [
        ("alone", refusal(503), 3),
        ("alone", refusal(400), 1),
        ("alone", httpx.ReadError("reset"), 2),
        ("alone", refusal(429, retry_after="6"), 1),  # longer than is waited here
        ("once", refusal(503), 1),
        ("both", refusal(503), 6),
        ("both", refusal(400), 1),
    ],
    ids=str,
)
async def test_how_often_each_is_asked(model: str, reply: Reply, asked: int) -> None:
    world = World()
    world.script = {"one.test": [reply], "two.test": [reply]}
    with pytest.raises(UpstreamError):
        await world.ask(model)
    assert len(world.asked) == asked
    assert world.asked[:2] == (["one", "two"] if asked == 6 else world.asked[:2])


async def test_a_dead_target_in_a_cold_burst() -> None:
    """Show 5: at most one dead call a request, none once the fifth failure was seen."""
    world, late = World(), []
    health = world.health("both")
    world.script["one.test"] = [httpx.ReadError("reset")]
    world.on_call = lambda host: (
        late.append(host) if host == "one.test" and health.tripped else None
    )
    traces = await asyncio.gather(*(world.ask("both") for _ in range(40)))
    assert {trace.asked for trace in traces} == {"two/both"}
    assert max(trace.attempts for trace in traces) == 2
    assert MAX_FAILURES_IN_A_ROW <= Counter(world.asked)["one"] <= 40 and not late
    assert (health.state, health.under_way) == (State.OPEN, 0)
    world.asked.clear()
    await asyncio.gather(*(world.ask("both") for _ in range(40)))
    assert set(world.asked) == {"two"}


async def test_a_circuit_that_opens_is_seen_by_requests_that_wait() -> None:
    world = World(room=MAX_FAILURES_IN_A_ROW)
    world.script["one.test"] = [httpx.ReadError("reset")]
    await asyncio.gather(*(world.ask("both") for _ in range(40)))
    assert Counter(world.asked) == {"one": MAX_FAILURES_IN_A_ROW, "two": 40}


async def test_who_is_to_give_way_before_it_is_sent_is_not_sent() -> None:
    world = World(room=1)
    connections = provider_of(world, "alone").connections
    async with Slot(connections, "other", Trace(), 1.0):
        asking = asyncio.create_task(world.ask("alone"))
        while not connections.waiting:
            await asyncio.sleep(0)
        (slot,) = connections.waiting
    slot.give_way()  # its turn has come, and it has not run since
    with pytest.raises(ConnectionReclaimed):
        await asking
    assert not world.asked and not connections.open


async def test_who_is_to_give_way_while_its_time_runs_out_harms_nobody() -> None:
    class Slow(World):
        async def _answer(self, request: httpx.Request) -> httpx.Response:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                (slot,) = connections.open
                slot.give_way()
                raise
            raise AssertionError("nobody sets it")

    world = Slow()
    connections = provider_of(world, "once").connections
    model = world.catalog.find("once", ADMIN).model
    assert isinstance(model, Upstream)
    model.timeouts = UpstreamTimeouts(total=0.01)
    with pytest.raises(ConnectionReclaimed):
        await world.ask("once")
    assert not connections.open


async def test_every_attempt_counts_for_the_circuit() -> None:
    world = World()
    world.script["one.test"] = [refusal(500)]
    for _ in range(2):
        with pytest.raises(UpstreamHTTPError):
            await world.ask("alone")
    assert (len(world.asked), world.health("alone").failed, world.health("alone").state) == (
        6,
        6,
        State.OPEN,
    )
    last = world.health("alone").last
    assert last is not None and (last.status, last.message) == (500, "no")


MONEY = {
    "402": refusal(402, "Insufficient Balance"),
    "OpenAI": refusal(
        429,
        "You exceeded your current quota, please check your plan and billing details.",
        "insufficient_quota",
    ),
    "Moonshot": refusal(
        429, "Your account is suspended due to insufficient balance, please recharge your account"
    ),
    "xAI": refusal(
        403,
        "Your team has either used all available credits or reached its monthly spending limit.",
    ),
    "Anthropic": refusal(400, "Your credit balance is too low to access the Anthropic API."),
}


@pytest.mark.parametrize("vendor", MONEY)
async def test_an_empty_account_is_the_operators(vendor: str) -> None:
    world = World()
    world.script["one.test"] = [MONEY[vendor]]
    with pytest.raises(UpstreamHTTPError) as told:
        await world.ask("alone")
    failure = describe(told.value)
    assert (failure.status, failure.headers["x-should-retry"], len(world.asked)) == (
        502,
        "false",
        1,
    )
    assert (
        "account of this server's operator" in failure.message
        and "budget" not in failure.message.lower()
    )
    assert world.health("alone").state is State.OPEN  # nobody pays within seconds
    world.asked.clear()
    assert (await world.ask("fallen")).asked == "two/other"
    world.asked.clear()
    world.script["one.test"] = [MONEY[vendor], OK]
    await world.ask("keys")  # another key may be another account's
    entry = world.catalog.find("keys", ADMIN)
    assert isinstance(entry.model, Upstream) and entry.model.provider.keys.resting == 1


LIMITS = {
    "a time is named": refusal(
        429, "You exceeded your current quota, check your plan and billing details", retry_after="1"
    ),
    "no words on money": refusal(429, "Rate limit reached for requests"),
}


@pytest.mark.parametrize("name", LIMITS)
async def test_a_limit_that_passes_is_none(name: str) -> None:
    world = World()
    world.script["one.test"] = [LIMITS[name]]
    with pytest.raises(UpstreamHTTPError) as told:
        await world.ask("alone")
    assert (
        describe(told.value).status,
        describe(told.value).headers["retry-after"],
        len(world.asked),
    ) == (429, "1", 3)


NOT_THE_KEY = {
    "flagged": (refusal(403, "Your chosen model requires moderation and your input was flagged", 403), "messages", "one"),
    "policy": (refusal(403, "Blocked by the content policy", "content_filter"), "messages", "one"),
    "model": (refusal(403, "Project `proj_abcdefgh12` does not have access to model `m`", "model_not_found"), "model", "two"),
    "permission": (refusal(403, "Your API key does not have permission to use the specified resource"), "model", "two"),
    "country": (refusal(403, "Country, region, or territory not supported", "unsupported_country"), "model", "two"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_THE_KEY)
async def test_a_403_that_is_not_about_the_key_rests_none(name: str) -> None:
    reply, param, answers = NOT_THE_KEY[name]
    world = World()
    world.script["one.test"] = [reply]
    with pytest.raises(UpstreamHTTPError) as told:
        await world.ask("keys")
    failure = describe(told.value)
    assert (failure.status, failure.type, failure.param, len(world.asked)) == (
        403,
        "invalid_request_error",
        param,
        1,
    )
    assert "credentials" not in failure.message and "proj_" not in failure.message
    keys = world.catalog.find("keys", ADMIN).model
    assert isinstance(keys, Upstream) and keys.provider.keys.resting == 0
    assert (world.health("keys").failed, world.health("keys").state) == (0, State.CLOSED)
    # somebody else may have it; a flagged prompt is not carried from door to door
    if answers == "two":
        assert (await world.ask("fallen")).asked == "two/other"
    else:
        with pytest.raises(UpstreamHTTPError):
            await world.ask("fallen")


@pytest.mark.parametrize(
    "words",
    ["Your API key was reported as leaked. Please use another API key.", "This key is disabled"],
)
async def test_a_403_about_the_key_rests_it(words: str) -> None:
    world = World()
    world.script["one.test"] = [refusal(403, words), OK]
    await world.ask("keys")
    keys = world.catalog.find("keys", ADMIN).model
    assert isinstance(keys, Upstream) and keys.provider.keys.resting == 1


async def test_a_session_keeps_its_target_and_its_key() -> None:
    world = World()
    for model in ("keys", "equal"):
        homes = set()
        for n in range(12):
            world.asked.clear()
            world.keys.clear()
            traces = [await world.ask(model, f"conv_{n}") for _ in range(4)]
            assert len(set(world.asked)) == len(set(world.keys)) == 1
            assert {trace.affinity for trace in traces} == {"kept"}
            homes.add((world.asked[0], world.keys[0]))
        assert len(homes) > 1  # not all of them in one place
    assert (await world.ask("keys")).affinity == ""  # no session


async def test_a_session_moves_while_its_home_is_unwell_and_comes_back() -> None:
    world = World()
    await world.ask("keys", "conv_1")
    home = world.keys[-1]
    world.script["one.test"] = [refusal(429, retry_after="30"), OK]
    trace = await world.ask("keys", "conv_1")
    assert (world.keys[-2], trace.affinity, trace.attempts) == (home, "moved", 2)
    assert world.keys[-1] != home
    away = world.keys[-1]
    assert (await world.ask("keys", "conv_1")).affinity == "moved" and world.keys[-1] == away
    model = world.catalog.find("keys", ADMIN).model
    assert isinstance(model, Upstream)
    for key in model.provider.keys._keys:
        key.rests_until = 0.0  # the time has passed
    assert (await world.ask("keys", "conv_1")).affinity == "kept" and world.keys[-1] == home
