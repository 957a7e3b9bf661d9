"""One request of a flight, and the list that all of them read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Self

from chattable.agents.chat import Chunk, Usage
from chattable.agents.chattable import Trace
from chattable.proxy.cache import entries
from chattable.proxy.cache.controls import Controls
from chattable.proxy.cache.store import CacheKey
from chattable.proxy.reply_stream import wake

if TYPE_CHECKING:
    from chattable.proxy.cache.cache import ResponseCache
    from chattable.proxy.cache.singleflight import Flight

Ask = Callable[[], AsyncGenerator[Chunk]]


class SharedAnswer:
    """One try at an answer: a list that grows, and that all its readers read without a copy."""

    def __init__(self, chunks: list[Chunk] | None = None, *, complete: bool = False) -> None:
        self.chunks = chunks or []
        self.dropped = 0  # chunks at the beginning that everybody has read
        self.size = 0  # bytes, about
        self.complete = complete
        self.clean = False  # whether it may be kept

    @property
    def end(self) -> int:
        """The number of the next chunk."""
        return self.dropped + len(self.chunks)

    def add(self, chunk: Chunk) -> None:
        """Takes the next chunk."""
        self.chunks.append(chunk)
        self.size += 64
        for value in chunk.delta.values():
            self.size += len(value) if isinstance(value, str) else 128

    def since(self, number: int) -> list[Chunk]:
        """The chunks from that number on."""
        return self.chunks[number - self.dropped :]


class Waiter:
    """A request that waits for an answer, and makes the call if nobody else does."""

    def __init__(
        self,
        cache: ResponseCache,
        key: CacheKey,
        controls: Controls,
        ask: Ask,
        trace: Trace,
        *,
        stream: bool,
        ttl: float,
    ) -> None:
        self.key = key
        self.controls = controls
        self.ask = ask
        self.trace = trace
        self.stream = stream
        self.ttl = ttl  # seconds that its own answer is kept
        self.at = 0  # the number of the chunk it reads next; above 0 it has begun to read
        # whether its own call is made: it is charged for that, and for nothing else
        self.made_the_call = False
        # what the answer of somebody else had cost; known once it was read to its end
        self.saved_usage: Usage | None = None
        # what the client is told; other when a request that was to join asks after all
        self.headers: dict[str, str] = {}
        self.waiting: asyncio.Future[None] | None = None
        # what it may read once it is whole only, for its call was told to end
        self.doomed: SharedAnswer | None = None
        self._cache = cache
        self._flight: Flight | None = None
        self._error: Exception | None = None
        self._last: SharedAnswer | None = None  # read to its end before the error

    async def __aenter__(self) -> Self:
        self._flight, headers = await self._cache.join(self)
        if not self.headers:
            self.headers = headers
        self._cache.count(headers)
        return self

    async def __aexit__(self, *exc: object) -> None:
        del self.ask  # it may hold this: a circle is memory until it is collected
        if self._flight is not None:
            await self._flight.leave(self)

    def fail(self, error: Exception, answer: SharedAnswer | None) -> None:
        """Nothing comes after this answer but the error."""
        self._error, self._last = error, answer
        wake(self.waiting)

    async def answer(self) -> AsyncGenerator[Chunk]:
        """The answer, from its beginning; one that is not streamed is read once it is whole."""
        flight = self._flight
        assert flight is not None
        while True:
            answer = self._last or flight.answer
            if answer is not None and (
                answer.complete or ((self.stream or flight.closed) and answer is not self.doomed)
            ):
                at = self.at - answer.dropped
                if at < len(answer.chunks):
                    self.at += 1
                    yield answer.chunks[at]
                    continue
            if self._error is not None:
                try:
                    raise self._error
                finally:  # its traceback holds this
                    self._error = self._last = None
            if answer is not None and answer.complete:
                if not self.made_the_call:
                    self.saved_usage = entries.usage_of(answer.chunks)
                return
            await self._news(flight)

    async def _news(self, flight: Flight) -> None:
        self.waiting = asyncio.get_running_loop().create_future()
        if flight.room is not None:
            wake(flight.room)
        try:
            await self.waiting
        finally:
            self.waiting = None
