"""Reads the blocks of one streamed answer, and knows how long to wait for the next."""

from __future__ import annotations

import time

from msgspec import Struct

from chattable.adapters.decoding import BLANK
from chattable.adapters.errors import (
    InvalidUpstreamResponse,
    UnreadableEvent,
    UpstreamError,
    UpstreamTimedOut,
)
from chattable.adapters.sse import EventTooLarge
from chattable.adapters.transport import TransportError
from chattable.adapters.wire import Wire
from chattable.agents.chat import Chunk

USAGE_GRACE_S = 5.0  # that the usage may come later than the last finish reason
# that a finished answer gets to end its body, so that its connection can be used again
END_GRACE_S = 0.2


class UpstreamTimeouts(Struct, frozen=True):
    """How long an upstream may take, in seconds."""

    connect: float = 5.0
    # of silence: models that reason say nothing for minutes, and many servers no comments either
    first_token: float = 300.0
    between_tokens: float = 30.0
    total: float = 600.0


class StreamReading:
    """One streamed answer while it is read.

    Law: an event that cannot be read, and that no text is lost with, costs nothing but itself.
    """

    def __init__(
        self,
        wire: Wire,
        timeouts: UpstreamTimeouts,
        choices: int | None,
        begun: float,
        since: float,
    ) -> None:
        self.over = False  # nothing more is to be read
        self.said = False  # anything of the answer came
        self.lost = 0  # events that could not be read
        self.failure: UpstreamError | None = None  # what ended it, after the chunks before
        self.whole = b""  # how it begins, where it is no stream but an answer that comes at once
        self._decoder = wire.framing.decoder()
        self._reader = wire.stream_reader(choices or 1)
        self._opened = wire.framing.whole_answers
        self._terminated = wire.framing.terminated
        self._timeouts = timeouts
        self._end = begun + timeouts.total
        self._since = since or begun  # the last sign of life
        self._what, self._patience = "sent no token", timeouts.first_token
        self._block = b""
        self._events: list[bytes] = []

    def deadline(self) -> float:
        """When the next block must have come, on time.monotonic.

        Called when the chunks of the last one are passed on: only the upstream's silence counts.
        """
        # comments are signs of life as well, but do not keep up an answer that is over
        comment = b"\n" in self._block or b"\r" in self._block
        if self._events or (comment and not self._reader.complete):
            self._since = time.monotonic()
        until = self._since + self._patience
        if until > self._end:
            self._what, self._patience = "did not finish its answer", self._timeouts.total
            until = self._end
        if self._reader.complete and self._terminated:
            until = min(until, self._since + (END_GRACE_S if self._reader.ended else USAGE_GRACE_S))
        return until

    def take(self, block: bytes) -> list[Chunk]:
        """What a block adds; an empty one is the end of the body."""
        if not self._opened:
            self._open(block)
            if self.whole:
                return []
        self._block = block
        self._events = self._decoder.feed(block) if block else self._decoder.end()
        chunks: list[Chunk] = []
        try:
            for event in self._events:
                try:
                    chunks += self._reader.feed(event)
                except UnreadableEvent:
                    self.lost += 1
        except UpstreamError as error:
            self.failure = error
        if not self.said:
            self._look_for_words(chunks)
        if not block:
            self._finish()
        return chunks

    def cut_off(self, error: Exception) -> None:
        """Raises what it means that no block came; nothing where the answer is complete."""
        if isinstance(error, EventTooLarge):
            raise InvalidUpstreamResponse("sent an event without an end") from None
        if self._reader.complete:
            return
        if isinstance(error, TransportError):
            raise InvalidUpstreamResponse(
                "closed the connection in the middle of its answer"
            ) from None
        raise UpstreamTimedOut(self._what, self._patience) from None

    def _open(self, block: bytes) -> None:
        """Looks at the first bytes: no stream begins as a whole answer or an error does."""
        if start := block.lstrip(BLANK):
            self._opened = True
            if start[:1] in (b"{", b"["):
                self.whole = start

    def _look_for_words(self, chunks: list[Chunk]) -> None:
        if any(map(says_something, chunks)):
            self.said = True
            self._what, self._patience = "stopped sending", self._timeouts.between_tokens

    def _finish(self) -> None:
        """The body has ended: well, if the answer had."""
        self.over = True
        if not self._reader.complete and self.failure is None:
            what = "ended its answer in the middle" if self.said else "ended without an answer"
            self.failure = InvalidUpstreamResponse(what)


def says_something(chunk: Chunk) -> bool:
    """Whether a chunk holds anything of an answer: words, or how it ended."""
    return bool(chunk.finish_reason) or any(
        value for name, value in chunk.delta.items() if name != "role"
    )
