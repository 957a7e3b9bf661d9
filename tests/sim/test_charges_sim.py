"""Calls that go well and badly, drawn by seed, through the real pipeline without a socket.

Wires, journal and ledger are the real ones too.

What is booked is compared with an oracle that is the table of decision 011 in words of its own;
then mistakes are planted, each of which must be found.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from itertools import count as counting
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_transport import HttpxTransport
from ledgers import Clock, open_ledger

from chattable.adapters.anthropic.wire import AnthropicWire
from chattable.adapters.openai.wire import OpenAIWire
from chattable.adapters.stream_reading import UpstreamTimeouts
from chattable.adapters.upstream import Upstream, UpstreamProvider
from chattable.adapters.wire import Wire
from chattable.agents.chat import Chat, Message
from chattable.agents.chattable import Trace, TurnUser
from chattable.budget.journal import Journal
from chattable.budget.ledger import HOLD_LEASE_S, Ledger, Price
from chattable.budget.limits import Limit
from chattable.budget.rates_memory import MemoryRates
from chattable.budget.tokens import count
from chattable.proxy.catalog.catalog import CatalogHolder, Entry
from chattable.proxy.config import settings
from chattable.proxy.identity.auth import Caller, Principal
from chattable.proxy.pipeline import metered_call, metering
from chattable.proxy.pipeline.attempts import Question, ask_targets
from chattable.proxy.pipeline.metered_call import MeteredCall
from chattable.proxy.pipeline.metering import Metering
from chattable.proxy.pipeline.pipeline import Pipeline
from chattable.proxy.pipeline.rate_limits import RateLimiter
from chattable.proxy.store.database import Database

SEEDS = 600
PRICE = Price(input=3_000_000, output=15_000_000, cached=300_000, cache_write=3_750_000)
WORDS = [
    "the",
    "harbour",
    "was",
    "quiet",
    "and",
    "ships",
    "slept",
    "under",
    "grey",
    "light",
    "\n",
    "until",
    "noon",
]
PLENTY = 10_000_000
EARLY = {"openai": 1, "anthropic": 0}  # tokens of output in a usage that comes with the first words

# --- what an upstream does ------------------------------------------------------------------------


@dataclass
class Shape:
    """A usage as some vendor reports it, and what it says: 0 is nothing."""

    raw: Any
    prompt: int = 0
    output: int = 0
    cached: int = 0
    written: int = 0


def shapes(dice: random.Random, prompt: int, output: int) -> Shape:
    """One of the shapes in which OpenAI-compatible servers report these figures, or fail to."""
    total, extra = prompt + output, dice.randint(1, 300)
    plain = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": total}
    cached = dice.randint(1, prompt)
    return dice.choice(
        [
            Shape(plain, prompt, output),
            Shape({name: float(figure) for name, figure in plain.items()}, prompt, output),
            Shape(plain | {"total_tokens": None, "prompt_tokens_details": []}, prompt, output),
            # reasoning is told by the total only
            Shape(plain | {"total_tokens": total + extra}, prompt, output + extra),
            Shape({"prompt_tokens": prompt, "total_tokens": total}, prompt, output),
            Shape({"prompt_tokens": prompt, "completion_tokens": "many"}, prompt, 0),
            Shape({"prompt_tokens": prompt, "completion_tokens": -5}, prompt, 0),
            Shape(dict.fromkeys(plain, 0)),
            # a placeholder
            Shape(plain | {"completion_tokens": 1, "total_tokens": prompt + 1}, prompt, 1),
            Shape(
                plain | {"completion_tokens": max(1, output // 2), "total_tokens": None},
                prompt,
                max(1, output // 2),
            ),
            Shape(
                plain | {"completion_tokens": output + extra, "total_tokens": None},
                prompt,
                output + extra,
            ),
            Shape(plain | {"completion_tokens": 10**12, "total_tokens": None}, prompt, 10**12),
            Shape(None),
            Shape("none"),
            Shape({"input_tokens": prompt, "output_tokens": output}, prompt, output),
            Shape(plain | {"prompt_cache_hit_tokens": cached}, prompt, output, cached),
            Shape(
                plain | {"prompt_tokens_details": {"cached_tokens": cached}}, prompt, output, cached
            ),
            Shape(
                plain | {"prompt_tokens_details": {"cache_write_tokens": cached}},
                prompt,
                output,
                0,
                cached,
            ),
        ]
    )


@dataclass
class Act:
    """What becomes of one request."""

    # ok, cut, reset, silent, no_connection, connect_timeout, refused, error_200, html, never
    kind: str
    text: str = ""
    wire: str = "openai"
    blocks: list[bytes] = field(default_factory=list)
    stream: bool = True
    said: list[str] = field(default_factory=list)  # of each choice, as far as it comes
    shape: Shape = field(default_factory=lambda: Shape(None))
    told: int = 0  # tokens of prompt in a usage that comes with the first words
    early: bool = False  # whether the prompt was reported before the cut
    sent: dict[str, Any] = field(default_factory=dict)  # the request's body, once it came
    waited_for: bool = False  # whether all that ever comes has been read

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self.sent = json.loads(request.read())
        match self.kind:
            case "no_connection":
                raise httpx.ConnectError("refused", request=request)
            case "connect_timeout":
                raise httpx.ConnectTimeout("slow", request=request)
            case "reset":
                raise httpx.ReadError("reset", request=request)
            case "silent":
                raise TimeoutError
            case "refused":
                status = 400 + len(self.text) % 130
                return httpx.Response(status, json={"error": {"message": "no"}})
            case "error_200":
                body = {"type": "error", "error": {"type": "api_error", "message": "engine died"}}
                return httpx.Response(200, json=body)
            case "html":
                return httpx.Response(200, text="<html>", headers={"content-type": "text/html"})
        media = "text/event-stream" if self.stream else "application/json"
        return httpx.Response(200, headers={"content-type": media}, stream=Blocks(self))


class Blocks(httpx.AsyncByteStream):
    """A body in blocks, which ends as the act says."""

    def __init__(self, act: Act) -> None:
        self._act, self._left = act, list(act.blocks)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)
        if self._left:
            return self._left.pop(0)
        if self._act.kind == "cut":
            raise httpx.ReadError("reset")
        if self._act.kind == "late":
            raise TimeoutError
        if self._act.kind == "never":
            self._act.waited_for = True
            await asyncio.Event().wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        pass


class Stage(httpx.AsyncBaseTransport):
    """Plays acts in their order."""

    def __init__(self) -> None:
        self.acts: list[Act] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self.acts.pop(0).answer(request)


def event(body: Any) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def openai_act(
    dice: random.Random, kind: str, *, stream: bool, choices: int, prompt: int, fat: bool
) -> Act:
    texts = [" ".join(dice.choices(WORDS, k=dice.randint(1, 60))) for _ in range(choices)]
    output = sum(count(text, "m") for text in texts)
    act = Act(kind, texts[0], stream=stream, told=prompt, shape=shapes(dice, prompt, output))
    usage = {} if act.shape.raw is None else {"usage": act.shape.raw}
    if not stream:
        said = [
            {"index": i, "message": {"role": "assistant", "content": t}, "finish_reason": "stop"}
            for i, t in enumerate(texts)
        ]
        body = json.dumps({"id": "x", "choices": said} | usage).encode()
        act.blocks = [body[: len(body) // 2], body[len(body) // 2 :]]
        act.said = texts
        if kind in ("cut", "late", "never"):
            act.blocks, act.said = act.blocks[:1], []
        return act
    pieces: list[tuple[int, str]] = []
    for i, text in enumerate(texts):
        size = 400 if fat else dice.choice([1, 4, 15])
        pieces += [(i, text[at : at + size]) for at in range(0, len(text), size)]
    if choices > 1:
        # interleaved; what one choice says stays readable as a count
        pieces.sort(key=lambda _: dice.random())
        pieces.sort(key=lambda piece: piece[0] if dice.random() < 0 else 0)
    events: list[Any] = [
        {"choices": [{"index": i, "delta": {"content": piece}}]} for i, piece in pieces
    ]
    early = bool(usage) and dice.random() < 0.3 and isinstance(act.shape.raw, dict)
    if early and events:  # vLLM's running totals
        events[0] |= {
            "usage": {"prompt_tokens": prompt, "completion_tokens": 1, "total_tokens": prompt + 1}
        }
    ends = [
        {"choices": [{"index": i, "delta": {}, "finish_reason": "stop"}]} for i in range(choices)
    ]
    if dice.random() < 0.5:
        rest: list[Any] = [*ends, {"choices": []} | usage]
    else:
        rest = [*ends[:-1], ends[-1] | usage]
    blocks = [event(each) for each in [*events, *rest]] + [b"data: [DONE]\n\n"]
    cut = len(events) if kind == "ok" else dice.randint(0, len(events))
    act.said = ["".join(piece for i, piece in pieces[:cut] if i == n) for n in range(choices)]
    act.early = early and cut > 0
    act.blocks = blocks if kind == "ok" else blocks[:cut]
    return act


def anthropic_act(dice: random.Random, kind: str, *, stream: bool, prompt: int) -> Act:
    text = " ".join(dice.choices(WORDS, k=dice.randint(1, 60)))
    output, cached = count(text, "m"), dice.choice([0, dice.randint(1, prompt)])
    fresh = {
        "input_tokens": prompt - cached,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": None,
    }
    reports = dice.random() < 0.7
    act = Act(
        kind,
        text,
        "anthropic",
        stream=stream,
        told=prompt,
        early=stream,
        said=[text],
        shape=Shape({}, prompt, output if reports else 0, cached),
    )
    if not stream:
        usage = fresh | ({"output_tokens": output} if reports else {})
        body = {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
        }
        act.blocks = [json.dumps(body | {"usage": usage}).encode()]
        if kind != "ok":
            act.blocks, act.said, act.early = [], [], False
        return act
    start = {
        "type": "message_start",
        "message": {"role": "assistant", "content": [], "usage": fresh | {"output_tokens": 1}},
    }
    pieces = [text[at : at + 12] for at in range(0, len(text), 12)]
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
        for piece in pieces
    ]
    end: dict[str, Any] = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    if reports:
        end["usage"] = {"output_tokens": output}
    begin = {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": ""},
    }
    events: list[dict[str, Any]] = [
        start,
        begin,
        *deltas,
        {"type": "content_block_stop", "index": 0},
        end,
        {"type": "message_stop"},
    ]
    blocks = [b"event: " + each["type"].encode() + b"\n" + event(each) for each in events]
    if kind != "ok":
        cut = dice.randint(0, len(pieces))
        blocks, act.said = blocks[: 2 + cut], ["".join(pieces[:cut])]
    act.blocks = blocks
    return act


# --- what must be booked --------------------------------------------------------------------------


@dataclass
class Booked:
    """What the table says of one call; None: nothing is booked."""

    prompt: int
    output: int
    cached: int = 0
    written: int = 0
    unknown: bool = False

    @property
    def cost(self) -> int:
        fresh = self.prompt - self.cached - self.written
        micro = (
            fresh * 3_000_000
            + self.cached * 300_000
            + self.written * 3_750_000
            + self.output * 15_000_000
        )
        return -(-micro // 1_000_000)


def expected(act: Act, counted: int, how: str) -> Booked | None:
    """The table of decision 011.

    `how`: the asker stays, gives up, or the process is stopped or killed.
    """
    if act.kind in ("no_connection", "connect_timeout", "refused", "error_200"):
        return None
    early = act.early and act.kind in ("ok", "cut", "late", "never")
    told = act.told if early else 0
    prompt = told or counted
    if how in ("gave up", "stopped") and act.kind == "never":
        caps = [
            act.sent[name] for name in ("max_tokens", "max_completion_tokens") if name in act.sent
        ]
        return Booked(prompt, caps[0] * (act.sent.get("n") or 1), unknown=True)
    if act.kind in ("silent", "reset") or (act.kind == "late" and act.stream and not any(act.said)):
        return Booked(prompt, 0, unknown=True)
    if act.kind == "late" and not act.stream:
        return Booked(counted, 0, unknown=True)
    if act.kind == "html":
        return Booked(counted, 0)
    shape = act.shape if act.kind == "ok" else Shape(None)
    spoken = sum(count(text, "m") for text in act.said)
    size, output = (
        sum(len(text.encode()) for text in act.said),
        shape.output or EARLY[act.wire] * early,
    )
    wrong = not output or output > 10**9 or spoken > output * 4 / 3 + 3
    if wrong and (size > 5 * output or output > 10**9):
        output = spoken
    cached = act.shape.cached if act.kind == "ok" or (early and act.wire == "anthropic") else 0
    return Booked(shape.prompt or prompt, output, cached, shape.written)


# --- the world ------------------------------------------------------------------------------------


class NoCatalog:
    """Nobody is asked by another name here."""

    def find(self, name: str, principal: Principal) -> Entry:
        return self.entries[name]

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}


class World:
    """One ledger, and calls under a limit of their own each."""

    def __init__(self, ledger: Ledger, clock: Clock, folder: Path) -> None:
        self.ledger, self.clock, self.folder = ledger, clock, folder
        self.stage = Stage()
        self.numbers = counting()
        self.flagged = 0

    def metering(self) -> Metering:
        return Metering(self.ledger, Journal(self.folder), patience=0.0)

    def entry(self, wire: Wire, fallbacks: tuple[str, ...] = ()) -> Entry:
        provider = UpstreamProvider(
            "vendor",
            wire,
            "https://vendor.test/v1",
            HttpxTransport(self.stage),
            api_key="sk-secret",
        )
        upstream = Upstream(provider, "vendor-model", timeouts=UpstreamTimeouts(), retries=0)
        return Entry("m", upstream, "vendor", 0, price=PRICE, kind="openai", fallbacks=fallbacks)

    async def play(self, seed: int) -> None:
        """One call, and what the ledger has of it beside what it must have."""
        dice, user = random.Random(seed), f"user_{next(self.numbers)}"
        await self.ledger.put_limit(
            Limit(id=f"lim_{user}", kind="user", subject=user, per="total", tokens=PLENTY)
        )
        claude, stream = dice.random() < 0.3, dice.random() < 0.6
        how = dice.choices(["stays", "gave up", "stopped", "killed"], [12, 2, 1, 1])[0]
        kinds = ["ok"] * 5 + [
            "cut",
            "late",
            "reset",
            "silent",
            "no_connection",
            "connect_timeout",
            "refused",
            "error_200",
            "html",
        ]
        kind = dice.choice(kinds) if how == "stays" else "never"
        messages = [Message("user", " ".join(["say", *dice.choices(WORDS, k=dice.randint(1, 40))]))]
        picture = 0
        if not claude and dice.random() < 0.2:
            messages, picture = [shown(dice, messages[0].text)], 1
        choices = 1 if claude else dice.choice([1, 1, 1, 2])
        prompt = dice.randint(5, 400)
        if claude:
            act = anthropic_act(dice, kind, stream=stream, prompt=prompt)
        else:
            act = openai_act(
                dice, kind, stream=stream, choices=choices, prompt=prompt, fat=dice.random() < 0.2
            )
        params: dict[str, Any] = {"max_tokens": 900} | ({"n": choices} if choices > 1 else {})
        counted = count("\n".join(message.text for message in messages), "m")
        if picture:
            counted += pixels_cost(messages[0])
        self.stage.acts = [act]
        entry = self.entry(AnthropicWire() if claude else OpenAIWire())
        held = await self.call(act, Chat("m", messages, stream, params), entry, user, how)
        await self.check(
            user,
            expected(act, counted, how),
            how,
            held,
            f"seed {seed}: {act.kind}, {how}, {act.shape}",
        )

    async def call(self, act: Act, chat: Chat, entry: Entry, user: str, how: str) -> int:
        """Asks until the answer ends as `how` says; returns the tokens that were held meanwhile."""
        run = self.metering()
        pipeline = Pipeline(CatalogHolder(NoCatalog()), None, None, None, None, run)  # type: ignore[arg-type]
        caller = Caller(Principal(TurnUser(user, user), key_id="key"), f"req_{user}", 0.0)
        task = asyncio.create_task(self.read(pipeline, chat, entry, caller))
        if how == "stays":
            await task
            await run._catch_up(all_of_it=True)
            return 0
        while not act.waited_for:
            await asyncio.sleep(0)
        held = (await self.ledger.balance(f"lim_{user}")).held.tokens
        if how == "gave up":
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await run._catch_up(all_of_it=True)
        elif how == "stopped":
            run.stop_at_once()
        self.abandon(task, run)
        if how in ("stopped", "killed"):
            await self.clock.advance(HOLD_LEASE_S + 1)
            await self.metering()._recover()
            await self.metering()._recover()  # again: nothing is booked twice
        return held

    def abandon(self, task: asyncio.Task[None], run: Metering) -> None:
        """The process is gone: it books nothing any more, and its journal's lock is free."""

        async def nothing(*_: object, **__: object) -> None:
            return None

        run.book = nothing  # type: ignore[method-assign]
        for segment in run._journal._segments:
            segment.end(keep=True)
        run._journal._segments.clear()
        task.cancel()

    async def read(self, pipeline: Pipeline, chat: Chat, entry: Entry, caller: Caller) -> None:
        limiter = RateLimiter(MemoryRates(), settings.RateLimits())
        admission = limiter.call(chat, entry, caller, nested=False)
        question = Question(chat, entry, caller, None, Trace(), pipeline.gateway, admission, {})
        answer = ask_targets(question, pipeline.catalogs.current, pipeline.metering)
        with suppress(Exception):
            async with aclosing(answer) as chunks:
                async for _ in chunks:
                    pass

    async def check(self, user: str, right: Booked | None, how: str, held: int, what: str) -> None:
        room = await self.ledger.balance(f"lim_{user}")
        assert room.held.tokens == 0, f"{what}: still held"
        entries = await self.ledger.entries(user=user)
        upper = [entry.upper for entry in entries if entry.upper is not None]
        if how == "killed":
            assert room.spent.tokens == held > 0, what
            assert [entry.kind for entry in entries] == ["hold", "forfeit"], what
            return
        if right is None:
            assert (room.spent.tokens, room.spent.cost) == (0, 0), what
            return
        assert (room.spent.tokens, room.spent.cost) == (right.prompt + right.output, right.cost), (
            f"{what}: {right}"
        )
        assert bool(upper) == right.unknown, what
        if upper:
            self.flagged += 1
            assert upper[-1] == entries[0].held, what
        (row,) = await self.ledger.usage([], since=0, until=2**50, only={"user": user})
        assert (row.prompt_tokens, row.completion_tokens) == (right.prompt, right.output), what

    async def follow(self, seed: int) -> None:
        """A silent target, and one behind it that must find room in a budget for one call."""
        dice, user = random.Random(seed), f"user_{next(self.numbers)}"
        chat = Chat(
            "m", [Message("user", "word " * dice.randint(20, 60))], False, {"max_tokens": 20}
        )
        prompt = count(chat.messages[0].text, "m")
        first = Act(dice.choice(["silent", "reset"]))
        second = openai_act(
            random.Random(seed), "ok", stream=False, choices=1, prompt=prompt, fat=False
        )
        room = prompt + 16 + 20
        await self.ledger.put_limit(
            Limit(id=f"lim_{user}", kind="user", subject=user, per="total", tokens=room)
        )
        self.stage.acts = [first, second]
        run, catalog = self.metering(), NoCatalog()
        catalog.entries["next"] = self.entry(OpenAIWire())
        pipeline = Pipeline(CatalogHolder(catalog), None, None, None, None, run)  # type: ignore[arg-type]
        caller = Caller(Principal(TurnUser(user, user), key_id="key"), f"req_{user}", 0.0)
        await self.read(pipeline, chat, self.entry(OpenAIWire(), ("next",)), caller)
        assert not self.stage.acts, f"seed {seed}: the fallback was refused"
        await run._catch_up(all_of_it=True)
        second_booked = expected(second, prompt, "stays")
        assert second_booked is not None
        spent = (await self.ledger.balance(f"lim_{user}")).spent.tokens
        assert spent == prompt + second_booked.prompt + second_booked.output, f"seed {seed}"


def shown(dice: random.Random, text: str) -> Message:
    """A message with a picture of some size in pixels and another in bytes."""
    width, height = dice.randint(20, 3000), dice.randint(20, 3000)
    head = (
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
        + struct.pack(">II", width, height)
        + b"\x08\x02\x00\x00\x00"
    )
    url = (
        "data:image/png;base64,"
        + base64.b64encode(head + bytes(dice.randint(100, 60_000))).decode()
    )
    part = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
    return Message("user", [{"type": "text", "text": text}, part])


def pixels_cost(message: Message) -> int:
    """What a picture costs an unknown model: by its table, whatever its bytes."""
    from chattable.adapters.vendors.media import media_tokens

    assert isinstance(message.content, list)
    written = json.dumps([{"type": "image_url", "image_url": {"url": "", "detail": "low"}}])
    assert len(written) < 200
    return media_tokens("openai", "vendor-model", message.content[1])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[asyncio.Runner, World]]:
    with asyncio.Runner() as runner:

        async def opened() -> tuple[Any, World]:
            url = f"sqlite:///{tmp_path}/chattable.db"
            database = Database(url)
            await database.start()
            await database.migrate()
            clock = Clock(database)
            await clock.make()
            opening = open_ledger(url)
            return (database, opening), World(
                await opening.__aenter__(), clock, tmp_path / "journal"
            )

        (database, opening), built = runner.run(opened())
        yield runner, built
        runner.run(opening.__aexit__(None, None, None))
        runner.run(database.stop())


async def simulate(world: World, seeds: range) -> None:
    for seed in seeds:
        await (world.follow(seed) if seed % 12 == 0 else world.play(seed))
    assert await world.ledger.verify() == []


@pytest.mark.timeout(300)
def test_what_is_booked_is_what_is_known(world: tuple[asyncio.Runner, World]) -> None:
    runner, built = world
    runner.run(simulate(built, range(SEEDS)))
    assert built.flagged > SEEDS / 20


# --- mistakes that it must find -------------------------------------------------------------------

CHARGE, SEE = MeteredCall._charge, MeteredCall.see


async def silence_is_free(call: MeteredCall, error: BaseException | None) -> Any:
    used = await CHARGE(call, error)
    return None if used is not None and used.unknown else used


async def silence_costs_the_hold(call: MeteredCall, error: BaseException | None) -> Any:
    used = await CHARGE(call, error)
    return call._unknown(used.prompt, call._most) if used is not None and used.unknown else used


async def a_connection_that_never_was_costs(call: MeteredCall, error: BaseException | None) -> Any:
    call.progress.sent = True
    return await CHARGE(call, error)


async def leaving_is_cheap(call: MeteredCall, error: BaseException | None) -> Any:
    return await CHARGE(call, None if isinstance(error, asyncio.CancelledError) else error)


async def early_reports_are_forgotten(call: MeteredCall, error: BaseException | None) -> Any:
    call.progress.usage = None
    return await CHARGE(call, error)


def one_choice_only(call: MeteredCall, chunk: Any) -> None:
    if chunk.index == 0:
        SEE(call, chunk)


MISTAKES: dict[str, tuple[Any, str, Any]] = {
    "silence is free": (MeteredCall, "_charge", silence_is_free),
    "silence costs the hold": (MeteredCall, "_charge", silence_costs_the_hold),
    "a connection that never was costs": (
        MeteredCall, "_charge", a_connection_that_never_was_costs,
    ),
    "leaving makes it cheaper": (MeteredCall, "_charge", leaving_is_cheap),
    "what was reported before a cut is forgotten": (
        MeteredCall, "_charge", early_reports_are_forgotten,
    ),
    "placeholders are believed": (metered_call, "MAX_BYTES_PER_TOKEN", 10**9),
    "only the first choice is counted": (MeteredCall, "see", one_choice_only),
    "a stop that is impatient books nothing": (MeteredCall, "cut_short", lambda call: None),
    "the fallback pays for the silent target": (metering, "UPKEEP_INTERVAL_S", -1.0),
    "pictures weigh as much as their bytes": (
        MeteredCall, "_media",
        lambda call, part: len(json.dumps(part)) if part.get("type") == "image_url" else 0,
    ),
    "what is cached costs as much as what is not": (
        Price, "of",
        lambda price, prompt, output, *_: (
            -(-(prompt * price.input + output * price.output) // 1_000_000)
        ),
    ),
    "the cap of one choice is that of all": (
        MeteredCall, "_most",
        property(lambda call: call._hold.output // (call.chat.params.get("n") or 1)),
    ),
    "beyond reason is believed": (metered_call, "MAX_OUTPUT_TOKENS", 10**15),
}  # fmt: skip


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_found(
    mistake: str, world: tuple[asyncio.Runner, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, name, wrong = MISTAKES[mistake]
    if mistake == "the fallback pays for the silent target":
        book: Callable[..., Any] = Metering.book

        async def at_once(run: Metering, line: Any, *, later: bool = False) -> None:
            await book(run, line)

        target, name, wrong = Metering, "book", at_once
    monkeypatch.setattr(target, name, wrong)
    runner, built = world
    with pytest.raises(AssertionError):
        runner.run(simulate(built, range(SEEDS)))
