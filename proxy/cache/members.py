"""One request of a flight, and the list that all of them read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from chattable.agents.chat import Chunk
from chattable.agents.chattable import Trace
from chattable.proxy.cache.resume import Resume

Ask = Callable[[], AsyncGenerator[Chunk]]


class Attempt:
    """One try at the answer: a list that grows and that everybody reads, without a copy of their own."""

    def __init__(self, chunks: list[Chunk] | None = None, *, complete: bool = False) -> None:
        self.chunks = chunks or []
        self.dropped = 0  # chunks at the beginning that everybody has read
        self.size = 0  # bytes, about
        self.complete = complete

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


class Source(Protocol):
    """What a member reads from."""

    attempt: Attempt | None
    closed: bool  # too large to wait for its end

    def caught_up(self) -> None:
        """A member has read all there is."""
        ...


class Member:
    """A request that waits for an answer, and can make the call if nobody else does."""

    def __init__(self, ask: Ask, trace: Trace, *, stream: bool, ttl: float) -> None:
        self.ask = ask
        self.trace = trace
        self.stream = stream
        self.ttl = ttl
        self.asked = False  # whether it made the call
        self.at = 0  # the number of the chunk it reads next
        self._error: BaseException | None = None
        self._last: Attempt | None = None  # read to its end before the error
        self._waiter: asyncio.Future[None] | None = None

    def fail(self, error: BaseException, attempt: Attempt | None) -> None:
        """Nothing comes after this attempt but the error."""
        self._error, self._last = error, attempt
        self.wake()

    def wake(self) -> None:
        """There may be something to read."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def read(self, flight: Source) -> AsyncGenerator[Chunk]:
        """The answer, from its beginning.

        One that is not streamed is only read once it is whole, so it never has to resume.
        """
        attempt: Attempt | None = None
        resume: Resume | None = None
        while True:
            current = self._last or flight.attempt
            if current is not None and current is not attempt:
                resume = self._begin_again(attempt, resume)
                attempt, self.at = current, 0
            readable = attempt is not None and (self.stream or attempt.complete or flight.closed)
            if attempt is not None and readable and self.at < attempt.end:
                chunk = attempt.chunks[self.at - attempt.dropped]
                self.at += 1
                if resume is None:
                    yield chunk
                elif (rest := resume.rest(chunk)) is not None:
                    yield rest
            elif self._error is not None:
                raise self._error
            elif attempt is not None and attempt.complete:
                return
            else:
                await self._news(flight)

    def _begin_again(self, before: Attempt | None, resume: Resume | None) -> Resume | None:
        """What there is to skip of the next attempt."""
        if before is None or self.at == 0:
            return resume
        if before.dropped:
            return Resume([], known=False)
        return Resume(
            resume.said if resume is not None and resume.owing else before.chunks[: self.at]
        )

    async def _news(self, flight: Source) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        flight.caught_up()
        try:
            await self._waiter
        finally:
            self._waiter = None
