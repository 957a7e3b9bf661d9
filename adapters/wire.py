"""How one provider speaks: translation only, bytes in and chunks out, never a socket."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from copy import copy
from typing import Protocol, Self

from msgspec import Struct
from msgspec.structs import replace

from chattable.adapters.errors import Refused
from chattable.adapters.params import Unsupported, unsupported_parameter
from chattable.adapters.sse import SseDecoder
from chattable.adapters.vendors.withheld import BETAS, WITHHELD
from chattable.agents.chat import Chat, Chunk, Json


class Decoder(Protocol):
    """Tells the events of a stream apart, however its bytes are cut."""

    def feed(self, block: bytes) -> list[bytes]:
        """The events that this block completes; raises `EventTooLargeError`, or `BrokenAnswer` for bytes that are no stream."""
        ...

    def end(self) -> list[bytes]:
        """The event that a stream ended in, where what marks its end did not come."""
        ...


class Frames(Struct, frozen=True):
    """How the events of a stream are framed."""

    media: str
    decoder: Callable[[], Decoder]
    bare: bool = False  # an event has the very form of a whole answer
    terminated: bool = True  # its last event says that it is the last


SSE = Frames("text/event-stream", SseDecoder)


class StreamReader(Protocol):
    """Reads one streamed answer, event by event."""

    complete: bool  # the answer has come to its proper end; only its usage may be missing
    ended: bool  # nothing more is to come

    def feed(self, data: bytes) -> list[Chunk]:
        """What one event says; raises `BrokenAnswer` or `Refused` when it says that the answer is over badly."""
        ...


class Wire(Protocol):
    """One provider's dialect."""

    frames: Frames = SSE
    # where the provider lists its models, below the base URL; empty: nowhere
    listing: str = "/models"

    # what becomes of a parameter that the provider has no place for
    unsupported: Unsupported = "drop"

    withheld: frozenset[str] = frozenset()  # parameters that it is never told
    any_beta: bool = False  # told of every feature that a client asks for, known here or not

    def ruled(self, unsupported: Unsupported, allow: Collection[str] = ()) -> Self:
        """The wire as a provider's settings want it: that rule, and what is withheld but for what they allow."""
        wire = copy(self)
        wire.unsupported = unsupported
        wire.withheld = WITHHELD.difference(allow)
        wire.any_beta = BETAS in allow
        return wire

    def allowed(self, params: Json) -> Json:
        """The parameters that the provider may be told; where the rule is to reject, `InvalidRequest` for any other."""
        if self.withheld.isdisjoint(params):
            return params
        if self.unsupported == "reject" and (kept := sorted(self.withheld & params.keys())):
            raise unsupported_parameter(kept[0], "it is not passed on to this model")
        return {name: value for name, value in params.items() if name not in self.withheld}

    def allows(self, chat: Chat) -> Chat:
        """The request with the parameters that the provider may be told."""
        params = self.allowed(chat.params)
        return chat if params is chat.params else replace(chat, params=params)

    def told(self, options: Mapping[str, str]) -> Wire:
        """The wire with what the config says of it, by the names in `Vendor.options`."""
        return self

    def path(self, model: str, stream: bool) -> str:
        """Where a request goes, below the base URL; a model's name in it is quoted."""
        ...

    def headers(self, api_key: str) -> list[tuple[str, str]]:
        """What authenticates every request alike."""
        ...

    def signature(self, api_key: str, host: str, target: str, body: bytes) -> list[tuple[str, str]]:
        """Headers of this request alone, where a provider wants any: what authenticates it, or what its body makes necessary."""
        return []

    def request(self, chat: Chat, model: str, most: int | None = None) -> bytes:
        """The request body.

        `most` tokens the model can write: for APIs that want a cap where the client has none.
        """
        ...

    def reply(self, body: bytes) -> list[Chunk]:
        """A whole answer that came at once; raises `BrokenAnswer`."""
        ...

    def stream(self, choices: int = 1) -> StreamReader:
        """A reader for one streamed answer of that many choices."""
        ...

    def error(self, status: int, body: bytes) -> Refused:
        """What an answer with an error status means."""
        ...
