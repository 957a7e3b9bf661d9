"""The queue between a turn that runs in its own task and the response that reads it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chattable.agents.chat import Chunk
from chattable.agents.chattable import Trace
from chattable.agents.errors import ChatError
from chattable.proxy.errors import ClientLeftError

if TYPE_CHECKING:
    from chattable.proxy.identity.auth import Principal

MAX_WAITING_CHUNKS = 64  # for the client, at which the turn pauses
MAX_UNREAD_S = 60.0  # that a client may leave the queue full before it counts as gone
YIELD_EVERY_CHUNKS = 64  # after which whoever writes and never waits lets others run


class ReplyStream:
    """One answer on its way: the turn puts chunks in, the response takes them out in batches.

    Law: `put` never waits for a reader that has left, so a turn always reaches its end; `take`
    hands out everything that waits, so a reader that lags behind catches up in one step, and never
    an answer with a hole in it.
    """

    def __init__(self) -> None:
        self.id = f"chatcmpl-{random.getrandbits(96):024x}"
        self.created = int(time.time())
        # facts for the response headers, complete once the first chunk is there
        self.headers: dict[str, str] = {}
        self.trace = Trace()
        self.task: asyncio.Task[Any] | None = None  # of the turn, while it is under way
        self.principal: Principal | None = None  # who asks
        self._loop = asyncio.get_running_loop()
        self._items: list[Chunk] = []
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._failed = False
        self.ended = False  # nothing more comes
        self._left = False
        self._closed = False  # the client has said that it sends nothing more
        self._on_leave: list[Callable[[], None]] = []
        self._stopped = False
        self._sealed = False
        self.dropped = False  # nothing of it is to be kept
        self._count = 0

    async def put(self, chunk: Chunk) -> None:
        """Adds a chunk, waiting while the queue is full and somebody may still read it."""
        self._count += 1
        if self._count % YIELD_EVERY_CHUNKS == 0:
            await asyncio.sleep(0)
        if self._left:
            return
        self._items.append(chunk)
        wake(self._reader)
        if len(self._items) >= MAX_WAITING_CHUNKS:
            self._writer = self._loop.create_future()
            alarm = self._loop.call_later(MAX_UNREAD_S, self._give_up)
            try:
                await self._writer
            finally:
                alarm.cancel()
                self._writer = None

    def end(self, error: BaseException | None = None) -> None:
        """Says that nothing more comes, because of `error` if there is one; only once."""
        if not self.ended:
            self.ended, self._error, self._failed = True, error, error is not None
            wake(self._reader)

    async def take(self, wait: float | None = None) -> list[Chunk] | None:
        """All waiting chunks; none after `wait` seconds of silence; None at the end.

        Raises the turn's error.
        """
        if not self._items and not self.ended:
            self._reader = self._loop.create_future()
            alarm: Any = (
                self._loop.call_later(wait, wake, self._reader) if wait is not None else None
            )
            try:
                await self._reader
            finally:
                if alarm is not None:
                    alarm.cancel()
                self._reader = None
        if self._items:
            items, self._items = self._items, []
            wake(self._writer)
            return items
        if not self.ended:
            return []
        self.check()
        return None

    def check(self) -> None:
        """Raises the turn's error if it has failed."""
        if self._failed:
            raise self._told()

    def _told(self) -> BaseException:
        """The turn's error, kept no longer: its traceback leads back here."""
        error, self._error = self._error, None
        return error or ClientLeftError()

    @property
    def complete(self) -> bool:
        """Whether the turn has ended well and everything was taken."""
        return self.ended and not self._failed and not self._items

    @property
    def left(self) -> bool:
        """Whether nobody reads it any more, as far as one can tell."""
        return self._left or self._closed

    def when_left(self, call: Callable[[], None]) -> None:
        """Has something called when nobody reads any more: at once if that is so already."""
        self._on_leave.append(call)
        if self.left:
            call()

    def close(self) -> None:
        """Says that the client closed its own direction: it has left, or it still reads."""
        if not self._closed:
            self._closed = self.trace.left = True
            for call in self._on_leave:
                call()

    def leave(self, *, cancel: bool = False) -> None:
        """Says that nobody reads any more; with `cancel`, that the turn should stop as well."""
        if not self.ended:
            self.close()
        self._left = True
        # what they hold may hold this: a circle is memory until it is collected
        self._on_leave = []
        self._items.clear()
        wake(self._writer)
        if cancel:
            self.end(ClientLeftError())
            self.stop()

    def seal(self) -> None:
        """Says that the answer is whole and is being kept: the turn is no longer ended early."""
        self._sealed = True

    def stop(self) -> None:
        """Ends the turn, once; what was said until now may be kept."""
        if self.task is not None and not self._stopped and not self._sealed:
            self._stopped = True
            self.task.cancel()

    def drop(self, error: BaseException) -> None:
        """Ends the turn, of which nothing is to be kept, and says why to whoever reads it."""
        if not self._sealed:
            self.dropped = True
            self.end(error)
            self.stop()

    def _give_up(self) -> None:
        """The reader is there and does not read: what it missed makes the rest useless to it."""
        self.leave()
        self.end(
            ChatError(
                f"The answer was not read for {MAX_UNREAD_S:g} seconds.", code="reader_too_slow"
            )
        )


def wake(waiter: asyncio.Future[None] | None) -> None:
    """Lets whoever waits go on, if somebody does."""
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
