"""How one provider speaks: translation only, bytes in and chunks out, never a socket."""

from __future__ import annotations

from typing import Protocol

from chattable.adapters.errors import Refused
from chattable.agents.chat import Chat, Chunk


class StreamReader(Protocol):
    """Reads one streamed answer, event by event."""

    complete: bool  # the answer has come to its proper end; only its usage may be missing
    ended: bool  # nothing more is to come

    def feed(self, data: bytes) -> list[Chunk]:
        """What one event says; raises `BrokenAnswer` or `Refused` when it says that the answer is over badly."""
        ...


class Wire(Protocol):
    """One provider's dialect."""

    def path(self, model: str, stream: bool) -> str:
        """Where a request goes, below the base URL; a model's name in it is quoted."""
        ...

    def headers(self, api_key: str) -> list[tuple[str, str]]:
        """What authenticates a request."""
        ...

    def request(self, chat: Chat, model: str) -> bytes:
        """The request body."""
        ...

    def reply(self, body: bytes) -> list[Chunk]:
        """A whole answer that came at once; raises `BrokenAnswer`."""
        ...

    def stream(self) -> StreamReader:
        """A reader for one streamed answer."""
        ...

    def error(self, status: int, body: bytes) -> Refused:
        """What an answer with an error status means."""
        ...
