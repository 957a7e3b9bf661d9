"""What an agent's author may write, what comes of it, and what a turn may use."""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from chattable.agents.chat import Chat, Chunk, Message, Usage
from chattable.agents.chattable import (
    MAX_AGENT_DEPTH,
    Call,
    Chattable,
    Context,
    TurnLimits,
    TurnUser,
)
from chattable.agents.echo import MAX_CHUNKS, Echo
from chattable.agents.errors import (
    AgentFailed,
    ChatError,
    InvalidRequest,
    LimitReached,
    ModelNotFound,
    TurnTimeout,
)
from chattable.agents.fold import Accumulator
from chattable.agents.loading import Function, LoadError, load
from chattable.agents.prompt import PromptAgent
from chattable.agents.run_turn import run_turn
from chattable.agents.scripted import Scripted

ALICE = TurnUser("user_1", "alice")


class Town:
    """The smallest gateway: names and who answers to them, every turn driven as a server would."""

    def __init__(self, **agents: Any) -> None:
        self.agents = {
            name: agent if isinstance(agent, Chattable) else Function(agent, {})
            for name, agent in agents.items()
        }
        self.threads: Executor = ThreadPoolExecutor(4)

    async def run(self, chat: Chat, parent: Context) -> AsyncGenerator[Chunk]:
        parent.enter(chat.model)
        ctx = self.turn(chat, parent=parent)
        async with aclosing(run_turn(self.find(chat.model), ctx)) as chunks:
            async for chunk in chunks:
                yield chunk
        if ctx.progress.usage:
            ctx.add_usage(ctx.progress.usage)

    def find(self, name: str) -> Chattable:
        if name not in self.agents:
            raise ModelNotFound(name)
        return self.agents[name]

    def turn(self, chat: Chat, **how: Any) -> Context:
        return Context(self, chat, ALICE, chat.model, **how)

    def client(self, ctx: Context) -> Any:
        raise NotImplementedError

    def run_credentials(self, ctx: Context) -> tuple[str, str]:
        return "http://town/v1", f"sk-run-{id(ctx)}"

    def open(
        self, name: str, *words: str, limits: TurnLimits | None = None, **params: Any
    ) -> AsyncGenerator[Chunk]:
        """The stream of a whole turn, in which user and assistant have spoken alternately."""
        messages = [
            Message(("user", "assistant")[i % 2], text) for i, text in enumerate(words or ("hi",))
        ]
        return run_turn(
            self.find(name), self.turn(Chat(name, messages, False, params), limits=limits)
        )

    async def ask(self, name: str, *words: str, **how: Any) -> Accumulator:
        fold = Accumulator()
        async for chunk in self.open(name, *words, **how):
            fold.add(chunk)
        return fold


class Leaf(Chattable):
    """Stands for an upstream: says its words and what they cost, and keeps what it was asked."""

    leaf = True
    supports = frozenset({"n", "response_format"})

    def __init__(self, *words: str, tokens: int = 3) -> None:
        self.words, self.tokens = words or ("ok",), tokens
        self.asked: list[Chat] = []
        self.closed = 0

    async def chat(self, message: Message, ctx: Context) -> AsyncGenerator[Chunk]:
        self.asked.append(ctx.request)
        try:
            for word in self.words:
                yield Chunk(0, {"content": word})
            yield Chunk(0, {}, "length")
            yield Chunk(usage=Usage(self.tokens, 1, self.tokens + 1))
        finally:
            self.closed += 1


async def said(agent: Any, *words: str, **others: Any) -> Any:
    """The message that an agent's turn comes to."""
    return (await Town(agent=agent, **others).ask("agent", *words)).message()


# -- what an agent may answer with -------------------------------------------------------------------------------------


def gives(value: Any) -> Callable[[Message], Any]:
    def plain(message: Message) -> Any:
        return value

    return plain


async def coroutine(message: Message) -> str:
    await asyncio.sleep(0)
    return f"{message.text}!"


def generator(message: Message) -> Iterator[Any]:
    yield "a"
    yield Message("assistant", "b")
    yield {"content": "c"}
    yield Chunk(0, {"content": "d"})


async def async_generator(message: Message, ctx: Context) -> AsyncGenerator[Any]:
    for item in generator(message):
        yield item


async def coroutine_of_a_call(message: Message, ctx: Context) -> Call:
    return ctx.chat("leaf")


def plain_giving_a_coroutine(message: Message) -> Awaitable[str]:
    return coroutine(message)


class WithChat:
    def chat(self, message: Message) -> str:
        return f"I heard {message.text}"


@pytest.mark.parametrize(
    ("agent", "text"),
    [
        (gives("words"), "words"),
        (gives(""), ""),
        (gives(None), ""),
        (gives(Message("assistant", "words")), "words"),
        (
            gives(
                Message(
                    "assistant", [{"type": "text", "text": "par"}, {"type": "text", "text": "ts"}]
                )
            ),
            "parts",
        ),
        (gives({"content": "words"}), "words"),
        (gives({"role": "assistant", "content": "words"}), "words"),
        (gives(Chunk(0, {"content": "words"})), "words"),
        (gives(["a", "b"]), "ab"),
        (gives(iter(())), ""),
        (coroutine, "hi!"),
        (generator, "abcd"),
        (async_generator, "abcd"),
        (coroutine_of_a_call, "ok"),
        (lambda message, ctx: ctx.chat("leaf"), "ok"),
        (plain_giving_a_coroutine, "hi!"),
        (WithChat().chat, "I heard hi"),
    ],
)
async def test_every_kind_of_reply(agent: Any, text: str) -> None:
    fold = await Town(agent=agent, leaf=Leaf()).ask("agent")
    [choice] = fold.choices()
    assert (choice.message["role"], choice.message["content"]) == ("assistant", text)
    assert choice.finish_reason in ("stop", "length")
    assert fold.usage is not None


@pytest.mark.parametrize("agent", [gives(7), gives([b"bytes"]), gives(object())])
async def test_a_reply_of_no_kind_is_the_agents_failure(agent: Any) -> None:
    with pytest.raises(AgentFailed) as failed:
        await Town(agent=agent).ask("agent")
    assert isinstance(failed.value.__cause__, TypeError) and "an agent cannot" in str(
        failed.value.__cause__
    )


async def test_a_stream_is_in_normal_form() -> None:
    chunks = [chunk async for chunk in Town(agent=async_generator).open("agent")]
    assert [chunk.delta for chunk in chunks] == [
        {"role": "assistant", "content": "a"}, {"content": "b"}, {"content": "c"}, {"content": "d"}, {}, {},
    ]  # fmt: skip
    assert [chunk.finish_reason for chunk in chunks] == [None] * 4 + ["stop", None]
    assert [chunk.usage for chunk in chunks] == [None] * 5 + [Usage(0, 0, 0)]


async def test_fields_of_a_message_survive() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    told = Message(
        "assistant", None, tool_calls=[call], reasoning_content="hm", extra={"citations": ["x"]}
    )
    fold = await Town(agent=gives(told)).ask("agent")
    [choice] = fold.choices()
    assert choice.finish_reason == "tool_calls"
    assert choice.message["tool_calls"] == [call] and choice.message["content"] is None
    assert (choice.message["reasoning_content"], choice.message["citations"]) == ("hm", ["x"])


@pytest.mark.parametrize("blocking", [gives("x"), generator])
async def test_blocking_code_runs_in_a_thread(blocking: Any) -> None:
    seen: list[int] = []

    def plain(message: Message) -> Any:
        seen.append(threading.get_ident())
        reply = blocking(message)
        if isinstance(reply, str):
            return reply

        def steps() -> Iterator[Any]:
            for item in reply:
                seen.append(threading.get_ident())
                yield item

        return steps()

    await said(plain)
    assert seen and threading.get_ident() not in seen


async def test_the_loop_stays_free_while_an_agent_blocks() -> None:
    met = threading.Barrier(2, timeout=10)

    def plain(message: Message) -> str:
        met.wait()
        return "met"

    # on one thread the first would wait for ever
    both = await asyncio.gather(said(plain), said(plain))
    assert [message.text for message in both] == ["met", "met"]


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff", "ok \U0001f600 \ud83d"])
@pytest.mark.parametrize(
    "wrap", [str, lambda t: Message("assistant", t), lambda t: {"content": t}, lambda t: [t, t]]
)
async def test_lone_surrogates_are_replaced(text: str, wrap: Any) -> None:
    got = (await said(gives(wrap(text)))).text
    assert got.encode() and "?" in got


async def test_a_function_gets_its_context_only_if_it_takes_one() -> None:
    async def with_ctx(message: Message, ctx: Context) -> str:
        assert ctx.message is message and ctx.messages[-1] is message
        return f"{ctx.user.name} asks {ctx.agent} with {ctx.params['temperature']}"

    fold = await Town(agent=with_ctx).ask("agent", temperature=0.5)
    assert fold.message().text == "alice asks agent with 0.5"


# -- what goes wrong ---------------------------------------------------------------------------------------------------


async def raises(message: Message) -> str:
    raise ValueError("the password is tulip")


def raises_later(message: Message) -> Iterator[str]:
    yield "so far so good"
    raise KeyError("the password is tulip")


async def asks_nobody(message: Message, ctx: Context) -> str:
    return (await ctx.chat("nobody")).text


@pytest.mark.parametrize("agent", [raises, raises_later])
async def test_an_agents_own_error_stays_inside(agent: Any) -> None:
    with pytest.raises(AgentFailed) as failed:
        await Town(agent=agent).ask("agent")
    assert "tulip" not in failed.value.message and "`agent`" in failed.value.message
    assert "tulip" in str(failed.value.__cause__)


async def test_a_chat_error_passes_as_it_is_through_every_level() -> None:
    with pytest.raises(ModelNotFound, match="nobody"):
        await Town(agent=lambda message, ctx: ctx.chat("middle"), middle=asks_nobody).ask("agent")


async def test_a_chat_error_may_be_caught() -> None:
    async def tries(message: Message, ctx: Context) -> str:
        try:
            return await asks_nobody(message, ctx)
        except ChatError as error:
            return f"{error.code}"

    assert (await said(tries)).text == "model_not_found"


@pytest.mark.parametrize(
    ("params", "param"),
    [({"n": 2}, "n"), ({"response_format": {"type": "json_object"}}, "response_format")],
)
async def test_what_would_be_ignored_is_refused(params: dict[str, Any], param: str) -> None:
    town = Town(agent=gives("x"), leaf=Leaf(), prompt=PromptAgent("leaf"))
    with pytest.raises(InvalidRequest) as refused:
        await town.ask("agent", **params)
    assert (refused.value.param, refused.value.code) == (param, "unsupported_parameter")
    await town.ask("prompt", **params)
    assert town.agents["leaf"].asked[0].params == params  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "params",
    [{"n": 1}, {"n": None}, {"response_format": {"type": "text"}}, {"response_format": None}],
)
async def test_what_asks_for_nothing_special_is_not_refused(params: dict[str, Any]) -> None:
    assert (await Town(agent=gives("x")).ask("agent", **params)).message().text == "x"


# -- what a turn may use -----------------------------------------------------------------------------------------------


async def asks_all(message: Message, ctx: Context) -> str:
    return " ".join([(await ctx.chat(name)).text for name in message.text.split()])


async def test_usage_is_the_sum_of_the_leaves() -> None:
    town = Town(
        root=asks_all,
        middle=lambda message, ctx: ctx.chat("ten"),
        both=PromptAgent("middle"),
        ten=Leaf("ten", tokens=10),
        two=Leaf("two", tokens=2),
    )
    fold = await town.ask("root", "both two ten two")
    assert fold.message().text == "ten two ten two"
    assert fold.usage == Usage(24, 4, 28)


async def test_an_agent_cannot_ask_itself_by_any_way_round() -> None:
    town = Town(
        a=lambda message, ctx: ctx.chat("b"),
        b=PromptAgent("c"),
        c=lambda message, ctx: ctx.chat("a"),
    )
    with pytest.raises(InvalidRequest, match="a → b → c → a") as refused:
        await town.ask("a")
    assert refused.value.code == "agent_cycle"


async def test_one_agent_may_be_asked_twice_side_by_side() -> None:
    assert (await said(asks_all, "echo echo", echo=Echo())).text == "echo echo echo echo"


@pytest.mark.parametrize("depth", [MAX_AGENT_DEPTH, MAX_AGENT_DEPTH + 1])
async def test_agents_nest_eight_deep(depth: int) -> None:
    chain = {f"a{i}": PromptAgent(f"a{i + 1}") for i in range(1, depth)}
    town = Town(**chain, **{f"a{depth}": gives("bottom")})
    if depth == MAX_AGENT_DEPTH:
        assert (await town.ask("a1")).message().text == "bottom"
    else:
        with pytest.raises(LimitReached) as reached:
            await town.ask("a1")
        assert reached.value.code == "agent_depth"


async def test_calls_are_counted_over_the_whole_tree() -> None:
    town = Town(root=asks_all, middle=lambda message, ctx: ctx.chat("leaf"), leaf=Leaf())
    assert (await town.ask("root", "middle middle", limits=TurnLimits(calls=4))).usage is not None
    with pytest.raises(LimitReached, match="4 model calls") as reached:
        await town.ask("root", "middle middle leaf", limits=TurnLimits(calls=4))
    assert reached.value.code == "agent_calls"
    assert len(town.agents["leaf"].asked) == 4  # type: ignore[attr-defined]


async def test_tokens_are_counted_over_the_whole_tree() -> None:
    town = Town(root=asks_all, middle=lambda message, ctx: ctx.chat("leaf"), leaf=Leaf(tokens=9))
    with pytest.raises(LimitReached, match="20 tokens") as reached:
        await town.ask("root", "middle middle middle", limits=TurnLimits(tokens=20))
    assert reached.value.code == "agent_tokens"
    assert len(town.agents["leaf"].asked) == 2  # type: ignore[attr-defined]


async def test_no_call_begins_after_the_deadline() -> None:
    town = Town(root=asks_all, leaf=Leaf())
    with pytest.raises(TurnTimeout) as late:
        await town.ask("root", "leaf", limits=TurnLimits(seconds=0.0))
    assert late.value.code == "agent_timeout" and not town.agents["leaf"].asked  # type: ignore[attr-defined]


def test_a_smaller_number_of_calls_counts() -> None:
    assert [TurnLimits(calls=5).within(calls).calls for calls in (None, 9, 5, 2, 0)] == [
        5,
        5,
        5,
        2,
        0,
    ]


async def test_the_borrowed_key_is_one_for_the_turn() -> None:
    ctx = Town(agent=gives("x")).turn(Chat("agent", [Message("user", "hi")]))
    assert (ctx.base_url, ctx.api_key) == ("http://town/v1", ctx.api_key)


# -- a consumer that leaves --------------------------------------------------------------------------------------------


async def leave(chunks: AsyncGenerator[Chunk]) -> None:
    """Takes the first chunk and goes."""
    async with aclosing(chunks):
        await anext(chunks)


async def test_an_async_generator_is_closed() -> None:
    closed: list[str] = []

    async def agent(message: Message) -> AsyncGenerator[str]:
        try:
            while True:
                yield "more"
        finally:
            closed.append("yes")

    await leave(Town(agent=agent).open("agent"))
    assert closed == ["yes"]


async def test_a_generator_is_closed_in_its_thread() -> None:
    closed, where = threading.Event(), []

    def agent(message: Message) -> Iterator[str]:
        try:
            while True:
                yield "more"
        finally:
            where.append(threading.get_ident())
            closed.set()

    await leave(Town(agent=agent).open("agent"))
    assert await asyncio.to_thread(closed.wait, 10)
    assert where != [threading.get_ident()]


async def test_a_generator_that_hangs_keeps_nobody_waiting_and_is_closed_later() -> None:
    begun, release, closed = threading.Event(), threading.Event(), threading.Event()

    def agent(message: Message) -> Iterator[str]:
        try:
            yield "first"
            begun.set()
            assert release.wait(10)
            yield "second"
        finally:
            closed.set()

    chunks = Town(agent=agent).open("agent")
    await anext(chunks)
    second = asyncio.ensure_future(anext(chunks))
    assert await asyncio.to_thread(begun.wait, 10)
    second.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await second
    await chunks.aclose()
    assert time.monotonic() - began < 5 and not closed.is_set()
    release.set()
    assert await asyncio.to_thread(closed.wait, 10)


@pytest.mark.parametrize("passes_on", [lambda message, ctx: ctx.chat("leaf"), PromptAgent("leaf")])
async def test_the_model_below_is_closed_too(passes_on: Any) -> None:
    leaf = Leaf("a", "b")
    await leave(Town(agent=passes_on, leaf=leaf).open("agent"))
    assert leaf.closed == 1


async def test_the_model_below_is_closed_soon_however_the_author_reads_it() -> None:
    async def agent(message: Message, ctx: Context) -> AsyncGenerator[Chunk]:
        async for chunk in ctx.chat("leaf"):
            yield chunk

    leaf = Leaf("a", "b")
    await leave(Town(agent=agent, leaf=leaf).open("agent"))
    async with asyncio.timeout(10):
        while not leaf.closed:
            await asyncio.sleep(0)


async def test_scripted_closes_the_model_it_asks() -> None:
    leaf = Leaf("a", "b")
    await leave(Town(agent=Scripted([{"ask": "leaf"}]), leaf=leaf).open("agent"))
    assert leaf.closed == 1


# -- agents that are there already -------------------------------------------------------------------------------------


async def test_a_prompt_agent_speaks_first_and_the_client_wins() -> None:
    leaf = Leaf()
    prompt = PromptAgent(
        "leaf",
        context="You are terse.",
        instructions="Answer.",
        params={"temperature": 0, "top_p": 0.1},
    )
    await Town(prompt=prompt, leaf=leaf).ask("prompt", "one", "two", "three", temperature=1, seed=7)
    [asked] = leaf.asked
    assert [(m.role, m.text) for m in asked.messages] == [
        ("system", "You are terse.\n\nAnswer."), ("user", "one"), ("assistant", "two"), ("user", "three"),
    ]  # fmt: skip
    assert asked.params == {"temperature": 1, "top_p": 0.1, "seed": 7}


async def test_a_prompt_agent_without_words_adds_no_message() -> None:
    leaf = Leaf()
    await Town(prompt=PromptAgent("leaf"), leaf=leaf).ask("prompt", "one")
    assert [m.role for m in leaf.asked[0].messages] == ["user"]


SCRIPT = [
    "first",
    ["sec", {"content": "ond"}],
    {"ask": "echo"},
    {"role": "assistant", "content": "last"},
]


@pytest.mark.parametrize(
    ("turn", "text"), list(enumerate(["first", "second", "hi", "last", "last"]))
)
async def test_scripted_says_what_is_due(turn: int, text: str) -> None:
    words = ["hi", "reply"] * turn + ["hi"]
    assert (await said(Scripted(SCRIPT), *words, echo=Echo())).text == text


async def test_scripted_fails_on_cue() -> None:
    with pytest.raises(ChatError, match="no more") as failed:
        await said(Scripted([["some", {"fail": "no more"}]]))
    assert not isinstance(failed.value, AgentFailed)


@pytest.mark.parametrize(
    ("replies", "words"),
    [
        ([], "at least one is needed"),
        (["yes", True], r"replies\[1\]: give text, .* not True"),
        ([["a", 1]], r"replies\[0\]"),
    ],
)
def test_scripted_needs_a_script(replies: list[Any], words: str) -> None:
    with pytest.raises(LoadError, match=words):
        load("chattable.agents.scripted:Scripted", {"replies": replies})


@pytest.mark.parametrize(
    "text", ["", " ", "word", " two  words\n", "é 😀 \t", "w " * 10_000, "x" * 100_000]
)
async def test_echo_says_it_all_in_few_pieces(text: str) -> None:
    pieces = [piece async for piece in Echo().chat(Message("user", text))]
    assert "".join(pieces) == text
    assert len(pieces) <= MAX_CHUNKS


# -- finding the code --------------------------------------------------------------------------------------------------

CODE = '''
"""A module of agents."""
import abc
from chattable.agents.chattable import Chattable

class Loud(Chattable):
    def __init__(self, mark="!", *, times=1):
        self.mark = mark * times
    def chat(self, message, ctx):
        return message.text + self.mark

class Duck:
    """Is no Chattable."""
    def __init__(self):
        self.started = False
    async def start(self):
        self.started = True
    def chat(self, message):
        return f"quack {self.started}"

class Picky(Chattable):
    def __init__(self, name):
        raise RuntimeError(f"no {name} today")
    def chat(self, message, ctx): ...

class Unfinished(Chattable):
    pass

class Mute:
    pass

class House:
    class Inner(Loud):
        pass

loud = Loud("?")
number = 7

def shout(message, ctx, mark, times=1):
    """Shouts.

    And more."""
    assert ctx.message is message
    return message.text.upper() + mark * times

def tone(message, tone="calm"):
    return f"{tone} {message.text}"

def anything(message, **params):
    return " ".join(params)

def keyword(message, *, mark):
    return message.text + mark

def nothing():
    return "x"
'''


COMMANDS = """
from __future__ import annotations

import functools
import os
import subprocess
from os import system as borrowed
from typing import TYPE_CHECKING, Any, Optional

from chattable.agents.chat import Message

if TYPE_CHECKING:
    from nowhere import Text

filled = functools.partial(subprocess.run, shell=True)

@functools.wraps(os.system)
def disguised(message):
    return os.system(message.text)

def of_text(command: str):
    return command

def of_bytes(command: bytes | str):
    return command

def bare(message):
    return message.text + "!"

def plain(message: Message):
    return message.text + "!"

def quoted(message: "Message", mark: str = "!"):
    return message.text + mark

def either(message: Optional[Message]):
    return message.text + "!"

def anything(message: Any):
    return message.text + "!"

def guarded(message: Text):
    return message.text + "!"

def marked(message, mark):
    return message.text + mark

made = functools.partial(marked, mark="!")
remembers = functools.lru_cache(bare)

class Calls:
    def __call__(self, message: Message) -> str:
        return message.text + "!"

called = Calls()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with agents that is new to this process."""
    name = f"agents_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize(
    ("name", "params", "text"),
    [
        ("Loud", {}, "hi!"),
        ("Loud", {"mark": "?", "times": 3}, "hi???"),
        ("House.Inner", {}, "hi!"),
        ("loud", {}, "hi?"),
        ("Duck", {}, "quack True"),
        ("shout", {"mark": "!"}, "HI!"),
        ("shout", {"mark": "!", "times": 2}, "HI!!"),
        ("tone", {}, "calm hi"),
        ("tone", {"tone": "gruff"}, "gruff hi"),
        ("anything", {"a": 1, "b": 2}, "a b"),
        ("keyword", {"mark": "."}, "hi."),
    ],
)
async def test_code_by_its_path(module: str, name: str, params: dict[str, Any], text: str) -> None:
    agent = load(f"{module}:{name}", params)
    await agent.start()
    assert (await said(agent)).text == text


def test_a_function_is_described_by_its_first_line(module: str) -> None:
    assert load(f"{module}:shout", {"mark": "!"}).description == "Shouts."


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("Loud", {"marc": "?"}, "{}:Loud takes no parameter marc (it takes: mark, times)"),
        ("Picky", {}, "{}:Picky needs name"),
        ("Picky", {"name": "milk"}, "{}:Picky could not be built: RuntimeError: no milk today"),
        (
            "Unfinished",
            {},
            "{}:Unfinished could not be built: TypeError: Can't instantiate abstract class "
            "Unfinished",
        ),
        ("Mute", {}, "{}:Mute has no method `chat`"),
        ("loud", {"mark": "?"}, "{}:loud is an instance and takes no parameters: remove mark"),
        ("shout", {}, "{}:shout needs mark"),
        (
            "shout",
            {"mark": "!", "volume": 9},
            "{}:shout takes no parameter volume (it takes: mark, times)",
        ),
        ("keyword", {}, "{}:keyword needs mark"),
        (
            "nothing",
            {},
            "{}:nothing takes no message: an agent is a function of `message`, or of `message, "
            "ctx`",
        ),
        (
            "number",
            {},
            "{}:number is a int: an agent is a class with `chat`, or a function of a message",
        ),
        ("absent", {}, "the module {} has no `absent`"),
        ("House.Outer", {}, "the module {} has no `House.Outer`"),
    ],
)
def test_code_that_is_no_agent(module: str, name: str, params: dict[str, Any], words: str) -> None:
    with pytest.raises(LoadError) as refused:
        load(f"{module}:{name}", params)
    assert str(refused.value).startswith(words.format(module))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import no_such_library", "cannot import {}: no module named 'no_such_library'"),
        ("1 / 0", "importing {} failed: ZeroDivisionError: division by zero"),
        ("def broken(:", "importing {} failed: SyntaxError: invalid syntax"),
        ("raise SystemExit('not today')", "importing {} failed: SystemExit: not today"),
    ],
)
def test_a_module_that_cannot_be_imported(
    module: str, tmp_path: Path, code: str, words: str
) -> None:
    (tmp_path / f"{module}.py").write_text(code)
    with pytest.raises(LoadError) as refused:
        load(f"{module}:agent", {})
    assert str(refused.value).startswith(words.format(module))


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(
        LoadError,
        match=r"cannot import no\.such\.place: no module named 'no' \(is its folder on PYTHONPATH",
    ):
        load("no.such.place:Agent", {})


@pytest.mark.parametrize(
    "use",
    [
        *("os:system", "os:remove", "os:environ.get", "posix:system", "subprocess:run"),
        *("subprocess:Popen", "shutil:rmtree", "builtins:eval", "builtins:max", "json:dumps"),
        *("pathlib:Path", "asyncio:run"),
    ],
)
def test_f9_nothing_of_python_itself_is_an_agent(use: str) -> None:
    with pytest.raises(LoadError, match=f"^{use} is a part of Python itself: an agent is your own"):
        load(use, {})


def test_f9_what_is_written_in_c_is_no_agent() -> None:
    with pytest.raises(LoadError, match=r"^msgspec\.json:encode is not written in Python: wrap it"):
        load("msgspec.json:encode", {})


@pytest.fixture
def commands(module: str, tmp_path: Path) -> str:
    (tmp_path / f"{module}.py").write_text(COMMANDS)
    return module


@pytest.mark.parametrize("name", ["borrowed", "filled", "disguised"])
def test_f9_a_command_is_no_agent_under_another_name(commands: str, name: str) -> None:
    with pytest.raises(LoadError, match=f"^{commands}:{name} is a part of Python itself"):
        load(f"{commands}:{name}", {})


def test_f9_a_function_of_something_else_than_a_message_is_no_agent(commands: str) -> None:
    for name in ("of_text", "of_bytes"):
        with pytest.raises(LoadError, match=f"^{commands}:{name} does not take a message: `com"):
            load(f"{commands}:{name}", {})


async def test_f9_a_function_is_an_agent_however_it_is_annotated(commands: str) -> None:
    assert load(f"{commands}:remembers", {})
    for name in ("bare", "plain", "quoted", "either", "anything", "guarded", "made", "called"):
        assert (await said(load(f"{commands}:{name}", {}))).text == "hi!"


def test_f9_a_file_of_ones_own_may_be_called_like_a_module_of_python(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "this.py").write_text("def reply(message):\n    return message.text\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "this", raising=False)
    assert load("this:reply", {})
    monkeypatch.delitem(sys.modules, "this")


DECLARING = """
from typing import Annotated
from msgspec import Meta
from chattable.agents.chattable import Chattable

class Rounds(Chattable):
    accepts = {"rounds": Annotated[int, Meta(ge=1, le=3)]}

    def chat(self, message, ctx):
        return str(ctx.params.get("rounds", 1))

class Duck:
    accepts = {"loud": bool}

    def chat(self, message, ctx):
        return str(ctx.params.get("loud"))

class Taken(Rounds):
    accepts = {"rounds": int, "NAME": list}

class Odd(Rounds):
    accepts = {"rounds": 3}

class Listed(Rounds):
    accepts = ["rounds"]
"""


@pytest.fixture
def declaring(module: str, tmp_path: Path) -> str:
    (tmp_path / f"{module}.py").write_text(DECLARING)
    return module


async def test_f1_an_agents_own_parameters_are_typed(declaring: str) -> None:
    town = Town(rounds=load(f"{declaring}:Rounds", {}), duck=load(f"{declaring}:Duck", {}))
    assert (await town.ask("rounds", rounds=2)).message().text == "2"
    assert (await town.ask("duck", loud=True, rounds=9)).message().text == "True"
    wrong: list[tuple[str, Any]] = [("rounds", 4), ("rounds", "2"), ("rounds", 1.5)]
    for name, value in wrong:
        with pytest.raises(InvalidRequest) as refused:
            await town.ask("rounds", **{name: value})
        assert refused.value.param == name
    with pytest.raises(InvalidRequest, match="'loud'"):
        await town.ask("duck", loud="yes")


@pytest.mark.parametrize("name", ["model", "messages", "stream", "tools", "n", "user", "cache"])
def test_f1_what_requests_have_already_is_no_parameter_of_an_agents_own(
    module: str,
    tmp_path: Path,
    name: str,
) -> None:
    (tmp_path / f"{module}.py").write_text(DECLARING.replace("NAME", name))
    with pytest.raises(LoadError, match=f"^{module}:Taken: `accepts` has `{name}`, which every"):
        load(f"{module}:Taken", {})


def test_f1_an_agents_own_parameters_have_types(declaring: str) -> None:
    for name, words in (("Odd", "gives `rounds` what is no type"), ("Listed", "must map")):
        with pytest.raises(LoadError, match=f"^{declaring}:{name}: `accepts` {words}"):
            load(f"{declaring}:{name}", {})


def test_f1_the_message_is_no_parameter(module: str) -> None:
    with pytest.raises(LoadError, match=f"^{module}:anything is given `message` with every turn"):
        load(f"{module}:anything", {"message": "mine"})


async def test_an_entry_point_by_its_name(module: str, tmp_path: Path) -> None:
    info = tmp_path / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[chattable.agents]\nloud = {module}:Loud\nlost = {module}:Lost\n"
    )
    assert (await said(load("loud", {"mark": "#"}))).text == "hi#"
    with pytest.raises(LoadError, match="importing lost failed: AttributeError"):
        load("lost", {})
    with pytest.raises(
        LoadError, match=r"no entry point `quiet` in the group chattable.agents \(installed: .*loud"
    ):
        load("quiet", {})
