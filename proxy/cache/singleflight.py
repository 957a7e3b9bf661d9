"""Single flight: of identical requests under way one asks the upstream, the others read along."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING

from chattable.adapters.errors import ConnectionReclaimed, UpstreamHTTPError
from chattable.agents.errors import ChatError, InvalidRequest
from chattable.proxy.cache import entries
from chattable.proxy.cache.entries import Batch
from chattable.proxy.cache.store import NOT_FROM_STORE, CacheKey, Follow, Lead, StoredAnswer
from chattable.proxy.cache.waiter import SharedAnswer, Waiter
from chattable.proxy.errors import (
    Failure,
    QuotaError,
    RateLimitExceededError,
    SharedAnswerError,
    ShuttingDownError,
    UnpricedModelError,
    describe,
)
from chattable.proxy.reply_stream import YIELD_EVERY_CHUNKS, wake

if TYPE_CHECKING:
    from chattable.proxy.cache.cache import ResponseCache

log = logging.getLogger("chattable")

MAX_AHEAD_CHUNKS = 64  # that an answer too large to keep may be ahead of its fastest reader
MAX_FAILURES = 2  # of the upstream, after which everybody in the flight is told
MAX_LEADERS_ELSEWHERE = 3  # that may fail before this process asks by itself
MAX_UNKNOWN_LOOKS = 6  # at a leader elsewhere, without an answer, before it counts as dead
SAME_FOR_ALL = (400, 404, 405, 409, 413, 415, 422)  # refusals that whoever asks this would get
# what one request is refused and the next one may not be
OWN_REFUSALS = (QuotaError, RateLimitExceededError, UnpricedModelError, ConnectionReclaimed)
LEADER_LOST = Failure(
    502,
    "The answer broke off on its way from another server process. Please retry your request.",
    "upstream_error",
    None,
    "upstream_error",
)


class Flight:
    """All requests for one answer in this process, and the task that gets it.

    It comes from the store, from another process, or by one of them asking.

    Law: one waiter asks at a time, and whoever leaves harms nobody: the call goes on as long as
    somebody reads it, here or in another process. Where a call fails, its own asker and all who
    have begun to read its answer get its error after the same words, the same for all, in whatever
    process. So do those who were told nothing yet, if the error is one that the upstream told in
    the middle of its answer, one that everybody would get, or the upstream's second; else the next
    of them asks. A leader in another process that is gone has failed without an error of its own.
    """

    def __init__(self, key: CacheKey, cache: ResponseCache, *, shared: bool = True) -> None:
        self.key = key
        self.waiters: dict[Waiter, None] = {}
        self.decided = asyncio.Event()
        self.answer: SharedAnswer | None = None
        self.found: StoredAnswer | None = None
        self.shared = shared  # False: it is one request's alone, which may not be joined
        self.closed = False  # too large to wait for its end, or not to be kept
        self.followed = False  # whether another process reads its answer
        self.room: asyncio.Future[None] | None = None  # waits for the fastest reader
        self.task: asyncio.Task[None] | None = None
        self._cache = cache
        self._asker: Waiter | None = None  # whose call is under way
        self._failures = 0
        self._sent = 0  # chunks that followers in other processes were sent
        self._sending: asyncio.Task[None] | None = None
        self._sender: asyncio.Future[None] | None = None
        self._settling = False  # a call has just ended

    async def look(self, max_age: float | None = None) -> Lead | Follow | None:
        """What the store says; None if the answer was there."""
        store = self._cache.store
        how = await store.acquire(self.key, lead=self.shared, max_age=max_age)
        if isinstance(how, StoredAnswer):
            chunks = entries.decode(self.key.digest, how.body)
            if chunks is not None:
                self.found, self.answer = how, SharedAnswer(chunks, complete=True)
                self._cache.landed(self)
                self.decided.set()
                return None
            how = await store.acquire(self.key, lead=self.shared, max_age=NOT_FROM_STORE)
        return how if not isinstance(how, StoredAnswer) else Lead(b"")

    def begin(self, how: Lead | Follow | None) -> asyncio.Task[None]:
        """Sets out; None: as the store will say."""
        self.task = asyncio.create_task(self._fly(how))
        return self.task

    @property
    def gives_way(self) -> bool:
        """Whether the call under way was told to end, for nobody read it."""
        return self._asker is not None and self._asker.trace.gave_way

    def is_read(self) -> bool:
        """Whether somebody reads the answer: here, or in another process."""
        return self.followed or any(not waiter.trace.left for waiter in self.waiters)

    async def leave(self, waiter: Waiter) -> None:
        """A waiter goes; with the last reader a flight ends, and all it held is settled then."""
        self.waiters.pop(waiter, None)
        wake(self.room)
        if not self.waiters and (task := self._end_if_unread()) is not None:
            await asyncio.wait([task])

    def follow(self, lead: Lead) -> None:
        """Another process reads along from now on."""
        if self._asker is None or self.gives_way or (self.closed and self._sending is None):
            return
        self.followed = True
        if self._sending is None:
            self._sending = asyncio.create_task(self._send(lead))

    def follow_no_more(self) -> None:
        """No other process reads along any more; one that comes later gets what it missed."""
        self.followed = False
        self._end_if_unread()

    def _end_if_unread(self) -> asyncio.Task[None] | None:
        task = self.task
        over = self._settling or (self.answer is not None and self.answer.complete)
        if self.waiters or self.followed or over or task is None or task.done():
            return None
        self._cache.landed(self)
        task.cancel()
        return task

    async def _fly(self, how: Lead | Follow | None) -> None:
        error: Exception = ShuttingDownError()
        try:
            await self._get(how)
        except Exception as bug:
            log.exception("a flight failed")
            error = bug
        finally:
            self._cache.landed(self)
            self.decided.set()
            if self.waiters and (self.answer is None or not self.answer.complete):
                self._tell(describe(error), everybody=True)

    async def _get(self, how: Lead | Follow | None) -> None:
        changes = 0
        while self.waiters:
            if how is None and (how := await self.look()) is None:
                self._publish()
                return
            self.decided.set()
            if isinstance(how, Follow):
                changes += 1
                done = await self._follow(how)
                how = None if changes < MAX_LEADERS_ELSEWHERE else Lead(b"")
            else:
                waiter = next(iter(self.waiters))
                if waiter.trace.left:  # better one that still reads
                    waiter = next((each for each in self.waiters if not each.trace.left), waiter)
                done = await self._ask(waiter, how)
                how = None
            if done:
                return

    async def _ask(self, waiter: Waiter, lead: Lead) -> bool:
        """One waiter's own call; whether the answer is whole."""
        self.answer = answer = SharedAnswer()
        self._asker, waiter.made_the_call, self._sent = waiter, True, 0
        if self.shared:
            waiter.headers = {"x-cache": "MISS"}
        if lead.flight is not None:
            self._cache.leads[lead.flight] = self, lead
        waiter.trace.readers |= {self.is_read}
        ending: Batch | None = None
        try:
            async with aclosing(waiter.ask()) as chunks:
                async for chunk in chunks:
                    answer.add(chunk)
                    self._publish()
                    if answer.end % YIELD_EVERY_CHUNKS == 0:
                        await asyncio.sleep(0)
                    if self.closed or answer.size > self._cache.max_bytes:
                        await self._make_room(answer)
            answer.complete, answer.clean = True, entries.clean(answer.chunks)
            if not answer.clean:  # whoever asks from now on asks anew
                self._cache.landed(self)
            self._publish()
        except Exception as error:
            ending = self._failed(waiter, answer, error)
        finally:
            waiter.trace.readers -= {self.is_read}
            await self._settle(answer, waiter, lead, ending)
        return answer.complete

    async def _settle(
        self, answer: SharedAnswer, waiter: Waiter, lead: Lead, ending: Batch | None
    ) -> None:
        """Ends a lead: a clean answer is stored, and followers elsewhere hear how it ended."""
        self._asker, self._settling = None, True
        if lead.flight is not None:
            self._cache.leads.pop(lead.flight, None)
        wake(self._sender)
        if self._sending is not None:
            await asyncio.wait([self._sending])
            self._sending = None
        self.followed = False
        body = b""
        if answer.complete:
            if not self.closed and answer.clean:
                body = entries.encode(self.key.digest, answer.chunks)
                body = body if len(body) <= self._cache.max_bytes else b""
            if self._sent or not (body or self.closed):
                ending = Batch(whole=True)
        last: list[bytes] = []
        if lead.flight is not None:
            if ending is None:  # it is kept, or nobody read it to its end
                ending = Batch()
            elif self._sent >= answer.dropped:
                ending.chunks = answer.since(self._sent)
            last = [entries.pack(ending)]
        if await self._cache.store.release(self.key, lead, body=body, ttl=waiter.ttl, last=last):
            self._cache.seen.stores += 1
        self._settling = False

    async def _make_room(self, answer: SharedAnswer) -> None:
        """Keeps a large answer near its fastest reader, joined by nobody, forgotten once read."""
        if not self.closed:
            self.closed = True
            self._cache.landed(self)
            self._publish()
        while places := self._places():
            if answer.end - max(places) < MAX_AHEAD_CHUNKS:
                break
            self.room = asyncio.get_running_loop().create_future()
            await self.room
        read = min(places, default=answer.end) - answer.dropped
        if read >= MAX_AHEAD_CHUNKS:
            del answer.chunks[:read]
            answer.dropped += read

    def _places(self) -> list[int]:
        """How far each reader is."""
        places = [waiter.at for waiter in self.waiters]
        if self._sending is not None:
            places.append(self._sent)
        return places

    def _failed(self, waiter: Waiter, answer: SharedAnswer, error: Exception) -> Batch:
        """Tells those whose error it is; returns what followers in other processes are told."""
        own = isinstance(error, OWN_REFUSALS)
        self._failures += not own
        everybody = isinstance(error, InvalidRequest) or (
            not own and self._failures >= MAX_FAILURES
        )
        if isinstance(error, UpstreamHTTPError):
            everybody = everybody or error.status in SAME_FOR_ALL or answer.end > 0
        if waiter in self.waiters:
            del self.waiters[waiter]
            waiter.fail(error, answer)
        elif not isinstance(error, ChatError):
            log.error("a call failed whose client has left", exc_info=error)
        failure = describe(error)
        self._tell(failure, everybody=everybody)
        return Batch(failure=failure, everybody=everybody)

    def _tell(self, failure: Failure, *, everybody: bool) -> None:
        """Fails all who have begun to read the answer, or everybody; the rest starts anew."""
        for waiter in list(self.waiters):
            if everybody or waiter.at:
                del self.waiters[waiter]
                waiter.fail(SharedAnswerError(failure), self.answer)
        self.answer = None

    async def _follow(self, how: Follow) -> bool:
        """The answer of another process as it comes; whether it became whole."""
        self.answer = answer = SharedAnswer()
        store, ending, seen, unknown = self._cache.store, Batch(), 0, 0
        while self.waiters:
            found = await store.read_batches(self.key, how, seen)
            if found is not None:
                led, batches = found
                for batch in map(entries.unpack, batches):
                    for chunk in batch.chunks:
                        answer.add(chunk)
                    if batch.is_last:
                        led, ending = False, batch
                answer.complete = ending.whole
                self._publish()
                if not led:
                    break
                seen, unknown = seen + len(batches), 0
            else:  # worth another look for those only who cannot begin anew
                unknown += 1
                if unknown > MAX_UNKNOWN_LOOKS or not any(waiter.at for waiter in self.waiters):
                    break
            await store.wait(how)
        if not ending.whole:
            self._tell(ending.failure or LEADER_LOST, everybody=ending.everybody)
        return ending.whole

    def _publish(self) -> None:
        """Wakes those who may read on."""
        whole = self.closed or (self.answer is not None and self.answer.complete)
        for waiter in self.waiters:
            if whole or waiter.stream:
                wake(waiter.waiting)
        if self._sender is not None:
            wake(self._sender)

    async def _send(self, lead: Lead) -> None:
        """Sends what there is, then what comes, as long as the call is under way."""
        answer = self.answer
        while self._asker is not None and answer is not None:
            if self._sent == answer.end:
                self._sender = asyncio.get_running_loop().create_future()
                await self._sender
                continue
            part = answer.since(self._sent)
            if not await self._cache.store.share(self.key, lead, entries.pack(Batch(part))):
                self._sending, self.followed = None, False  # the lead is lost
                wake(self.room)
                self._end_if_unread()
                return
            self._sent += len(part)
            wake(self.room)
