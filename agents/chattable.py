"""A model name served by code: its author writes a `Chattable`, a turn gives it a `Context`."""

from __future__ import annotations

import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from concurrent.futures import Executor
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import msgspec
from msgspec import Struct

from chattable.agents.chat import NO_USAGE, Chat, Chunk, Json, Message, Usage
from chattable.agents.errors import InvalidRequest, LimitReached, TurnTimeout
from chattable.agents.fold import Accumulator, as_message

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MAX_AGENT_DEPTH = 8

# What an agent may answer with: text, a message (as a struct or a dict in OpenAI's form), chunks,
# another model's answer, or an (async) iterator or an awaitable of any of these.
AgentResult = Any


class Chattable(ABC):
    """A model name served by code.

    Built once from its config, asked once a turn, by many users at once.
    """

    description: str = ""
    # True for what spends tokens itself; an agent's usage is the sum of the leaves it asked
    leaf: ClassVar[bool] = False
    # of `n` and `response_format`: what it honours; the rest is refused
    supports: ClassVar[frozenset[str]] = frozenset()
    accepts: ClassVar[Mapping[str, Any]] = {}  # its own parameters: name → type, for msgspec
    takes_context: bool
    blocking: bool  # a plain function, which may block and so runs in a thread

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.takes_context = len(inspect.signature(cls.chat).parameters) > 2
        cls.blocking = not (
            inspect.iscoroutinefunction(cls.chat) or inspect.isasyncgenfunction(cls.chat)
        )

    async def start(self) -> None:  # noqa: B027 - optional by design
        """Opens what must be open."""

    async def stop(self) -> None:  # noqa: B027
        """Closes it."""

    @abstractmethod
    def chat(self, message: Message, ctx: Context) -> AgentResult:
        """Answers.

        A plain `def` (run in a thread), `async def`, generator or async generator; `ctx` may be
        left out.
        """


class TurnLimits(Struct, frozen=True):
    """What one turn may use, with all the models it asks."""

    calls: int = 20
    tokens: int | None = None
    seconds: float = 120.0

    def within(self, calls: int | None) -> TurnLimits:
        """These limits, and no more than that many calls."""
        return (
            self
            if calls is None or calls >= self.calls
            else msgspec.structs.replace(self, calls=calls)
        )


class TurnBudget(Struct):
    """What a turn may use and has used, with every nested turn: they share one object."""

    limits: TurnLimits
    deadline: float  # on time.monotonic
    calls: int = 0

    @classmethod
    def of(cls, limits: TurnLimits) -> TurnBudget:
        """A budget of which nothing is spent yet."""
        return cls(limits, time.monotonic() + limits.seconds)


class FailedAttempt(Struct, omit_defaults=True):
    """A failed attempt to ask an upstream, as operators read it: without keys and addresses."""

    target: str  # provider/model
    error: str
    status: int | None = None  # that the upstream answered with


class Trace(Struct):
    """What a turn really asked of upstreams; all nested turns share one object."""

    model: str = ""  # as the client calls it
    asked: str = ""  # provider/model, the last one asked; never a URL
    attempts: int = 0
    waited: float = 0.0  # seconds that upstreams took, or that were waited to ask one again
    failures: list[FailedAttempt] = []
    affinity: str = ""  # whether a session's call was answered where the session is at home
    left: bool = False  # the client that asked no longer reads the answer
    gave_way: bool = False  # a call of it was told to end, for somebody who waits
    readers: frozenset[Callable[[], bool]] = frozenset()  # each says whether another reads it

    @property
    def abandoned(self) -> bool:
        """Whether nobody reads the answer any more."""
        return self.left and not any(read() for read in self.readers)


class Progress(Struct):
    """How far one attempt to ask a model came, and on what terms it is made.

    What a broken attempt is charged depends on `sent` and `usage`.
    """

    sent: bool = False  # the upstream may have seen it, and has not refused it
    usage: Usage | None = None  # what it reported so far
    began: float = 0.0  # on time.monotonic: of the first attempt, where this one repeats it
    followed: bool = False  # another model would be asked if this one fails
    home: str = ""  # the session whose calls are best answered with the same key
    # whether it is still worth making; asked right before it is sent
    worth: Callable[[], bool] | None = None


class TurnUser(Struct, frozen=True):
    """Who asks, as agents may know it."""

    id: str
    name: str


class TurnSession(Struct):
    """The conversation that a turn belongs to, as agents may know it.

    What an agent puts into `state` is kept with the turn.
    """

    id: str
    title: str | None
    params: Json
    state: Json


class Gateway(Protocol):
    """The server that a turn runs in."""

    threads: Executor

    def run(self, chat: Chat, parent: Context) -> AsyncGenerator[Chunk]:
        """Answers a nested request through the same steps as an HTTP request."""
        ...

    def client(self, ctx: Context) -> AsyncOpenAI:
        """An OpenAI client whose requests are nested requests of this turn."""
        ...

    def run_credentials(self, ctx: Context) -> tuple[str, str]:
        """A base URL and a key that stand for this turn until it ends."""
        ...


class Call:
    """One nested completion: `await` it for the `Message`, `async for` it for the chunks."""

    def __init__(self, open_: Callable[[], AsyncGenerator[Chunk]]) -> None:
        self._open = open_

    def __aiter__(self) -> AsyncGenerator[Chunk]:
        return self._open()

    def __await__(self) -> Generator[Any, None, Message]:
        return self._collect().__await__()

    async def _collect(self) -> Message:
        fold = Accumulator()
        async with aclosing(self._open()) as chunks:
            async for chunk in chunks:
                fold.add(chunk)
        return fold.message()


class Context:
    """One turn, as an agent sees it."""

    def __init__(
        self,
        gateway: Gateway,
        request: Chat,
        user: TurnUser,
        agent: str,
        caller: Any = None,
        *,
        parent: Context | None = None,
        limits: TurnLimits | None = None,
        trace: Trace | None = None,
        session: TurnSession | None = None,
    ) -> None:
        self._gateway = gateway
        # the gateway's own record of who asks and how; agents have no use for it
        self.caller = caller
        self.request = request  # stored history already injected
        self.user = user
        self.agent = agent
        self.parent = parent
        self.session = session  # None: this turn is not kept
        self.usage = NO_USAGE
        self.progress = Progress()  # of this call alone, where a model is asked
        # for depth and cycle guards
        self.path: tuple[str, ...] = (*parent.path, agent) if parent else (agent,)
        self.turn_budget: TurnBudget = (
            parent.turn_budget if parent else TurnBudget.of(limits or TurnLimits())
        )
        self.trace: Trace = parent.trace if parent else trace or Trace()
        self._opened: list[AsyncGenerator[Chunk]] = []
        self._credentials: tuple[str, str] | None = None

    @property
    def messages(self) -> list[Message]:
        """The conversation so far, the new message last."""
        return self.request.messages

    @property
    def message(self) -> Message:
        """The newest message."""
        return self.request.messages[-1]

    @property
    def tools(self) -> list[Json]:
        """The client's tools, in OpenAI's form."""
        return self.request.tools

    @property
    def params(self) -> Json:
        """Every other field of the request: temperature, response_format and the like."""
        return self.request.params

    def chat(
        self, model: str, messages: Iterable[Message | Json] | None = None, **params: Any
    ) -> Call:
        """Asks any model name, upstream or agent, under this turn's user, limits and trace."""
        asked = (
            self.messages
            if messages is None
            else [m if isinstance(m, Message) else as_message(m) for m in messages]
        )
        stream = params.pop("stream", self.request.stream)
        return Call(lambda: self._open(Chat(model, list(asked), stream, params)))

    def _open(self, chat: Chat) -> AsyncGenerator[Chunk]:
        answer = self._gateway.run(chat, self)
        self._opened.append(answer)
        return answer

    async def close(self) -> None:
        """Ends the answers that the agent left unread, so that they are settled within the turn."""
        for answer in self._opened:
            with suppress(RuntimeError):  # another task of the agent is reading it, and will end it
                await answer.aclose()

    @property
    def threads(self) -> Executor:
        """Where blocking code of agents runs."""
        return self._gateway.threads

    @property
    def client(self) -> AsyncOpenAI:
        """An OpenAI client for frameworks that want one: no socket, same user, limits and trace."""
        return self._gateway.client(self)

    @property
    def base_url(self) -> str:
        """Where blocking code and other processes reach this turn, with `api_key`."""
        return self._run_credentials()[0]

    @property
    def api_key(self) -> str:
        """A key that stands for this turn and dies with it."""
        return self._run_credentials()[1]

    def _run_credentials(self) -> tuple[str, str]:
        if self._credentials is None:
            self._credentials = self._gateway.run_credentials(self)
        return self._credentials

    def add_usage(self, used: Usage) -> None:
        """Adds what an upstream used to this turn and to every turn above it."""
        self.usage = self.usage + used
        if self.parent:
            self.parent.add_usage(used)

    def enter(self, agent: str) -> None:
        """Counts one nested call, or refuses it: a cycle, too deep, or beyond the turn's limits."""
        self._check_nesting(agent)
        budget, limits = self.turn_budget, self.turn_budget.limits
        budget.calls += 1
        if budget.calls > limits.calls:
            raise LimitReached(
                f"This turn used up its {limits.calls} model calls.", code="agent_calls"
            )
        if limits.tokens is not None and self.root.usage.total_tokens >= limits.tokens:
            raise LimitReached(
                f"This turn used up its {limits.tokens} tokens.", code="agent_tokens"
            )
        if time.monotonic() >= budget.deadline:
            raise TurnTimeout(
                f"This turn used up its {limits.seconds:g} seconds.", code="agent_timeout"
            )

    def _check_nesting(self, agent: str) -> None:
        if agent in self.path:
            raise InvalidRequest(
                f"The agent `{agent}` would ask itself: {' → '.join((*self.path, agent))}.",
                code="agent_cycle",
            )
        if len(self.path) >= MAX_AGENT_DEPTH:
            raise LimitReached(
                f"Agents are nested deeper than {MAX_AGENT_DEPTH}: {' → '.join(self.path)}.",
                code="agent_depth",
            )

    @property
    def root(self) -> Context:
        """The turn that the user asked for."""
        return self.parent.root if self.parent else self
