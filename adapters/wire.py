"""How one provider speaks: translation only, bytes in and chunks out, never a socket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Protocol

from msgspec import Struct

from chattable.adapters.errors import Refused
from chattable.adapters.params import Unsupported
from chattable.adapters.sse import SseDecoder
from chattable.agents.chat import Chat, Chunk


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
    listing: str = "/models"  # where the provider lists its models, below the base URL; empty: nowhere

    unsupported: Unsupported = "drop"  # what becomes of a parameter that the provider has no place for

    def ruled(self, unsupported: Unsupported) -> Wire:
        """This wire under that rule."""
        wire = copy(self)
        wire.unsupported = unsupported
        return wire

    def told(self, options: Mapping[str, str]) -> Wire:
        """This wire with what the config says of it, by the names in `Vendor.options`."""
        return self

    def path(self, model: str, stream: bool) -> str:
        """Where a request goes, below the base URL; a model's name in it is quoted."""
        ...

    def headers(self, api_key: str) -> list[tuple[str, str]]:
        """What authenticates every request alike."""
        ...

    def signature(self, api_key: str, host: str, target: str, body: bytes) -> list[tuple[str, str]]:
        """What authenticates this request alone, where a provider wants that."""
        return []

    def request(self, chat: Chat, model: str, most: int | None = None) -> bytes:
        """The request body. `most` tokens the model can write: for APIs that want a cap where the client has none."""
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
