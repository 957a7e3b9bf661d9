"""Single flight: of all identical requests under way one asks the upstream, the others get its answer as it comes."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import Protocol

from chattable.adapters.errors import Refused
from chattable.agents.chat import Chunk
from chattable.agents.errors import ChatError, InvalidRequest
from chattable.proxy.cache import entries
from chattable.proxy.cache.members import Attempt, Member
from chattable.proxy.cache.store import AGAIN, DONE, NEVER, Follow, Found, Lead, Place, Store
from chattable.proxy.errors import QuotaError, ShuttingDownError

log = logging.getLogger("chattable")

BREATHE = 64  # chunks after which a flight that never waits lets others run
AHEAD = 64  # chunks that an answer too large to keep may be ahead of its fastest reader
TRIES = 2  # failures of the upstream after which the rest of the flight is told
CHANGES = 3  # leaders in other processes that may fail before this process asks by itself
SAME = (400, 404, 405, 409, 413, 415, 422)  # refusals that everybody who asks this would get


class Hub(Protocol):
    """What a flight needs of the cache that it belongs to."""

    store: Store
    most: int  # bytes of an answer that is kept

    def landed(self, flight: Flight) -> None:
        """Nobody may join any more."""
        ...

    def leads(self, flight: Flight, lead: Lead) -> None:
        """Its lease is to be renewed."""
        ...

    def leads_no_more(self, lead: Lead) -> None:
        """Nor is it now."""
        ...

    def stored(self) -> None:
        """An answer was stored."""
        ...


class Flight:
    """All requests for one answer in this process, and the task that gets it: from the store, from another process, or by asking.

    Law: an answer is asked for by one member at a time, and whoever leaves harms nobody else. A
    member whose call fails gets its error and the next one asks, unless the error is one that
    everybody would get, or the upstream's second: those are everybody's. So is, for all who read
    along, an error that the upstream itself tells in the middle of its answer.
    """

    def __init__(self, place: Place, hub: Hub) -> None:
        self.place = place
        self.members: dict[Member, None] = {}
        self.decided = asyncio.Event()
        self.attempt: Attempt | None = None
        self.found: Found | None = None
        self.closed = False
        self.task: asyncio.Task[None] | None = None
        self._hub = hub
        self._failures = 0
        self._shared = 0  # chunks that followers in other processes were sent
        self._sharing: asyncio.Task[None] | None = None
        self._sharer: asyncio.Future[None] | None = None
        self._live = False  # whether a member's call is under way
        self._settling = False  # or has just ended
        self._room: asyncio.Future[None] | None = None

    async def look(self, max_age: float | None = None) -> Lead | Follow | None:
        """What the store says; None if the answer was there."""
        how = await self._hub.store.enter(self.place, max_age=max_age)
        if isinstance(how, Found):
            chunks = entries.decode(self.place.key, how.body)
            if chunks is not None:
                self.found, self.attempt = how, Attempt(chunks, complete=True)
                self._hub.landed(self)
                self.decided.set()
                return None
            how = await self._hub.store.enter(self.place, max_age=NEVER)
        return how if not isinstance(how, Found) else Lead(b"")

    def begin(self, how: Lead | Follow | None) -> asyncio.Task[None]:
        """Sets out; None: as the store will say."""
        self.task = asyncio.create_task(self._fly(how))
        return self.task

    def is_read(self) -> bool:
        """Whether somebody reads the answer: a member here, or a follower in another process."""
        return self._sharing is not None or any(not member.trace.left for member in self.members)

    async def leave(self, member: Member) -> None:
        """A member goes.

        With the last one a flight under way ends, and all it held is settled then.
        """
        self.members.pop(member, None)
        self.caught_up()
        task = self.task
        over = self._settling or (self.attempt is not None and self.attempt.complete)
        if self.members or over or task is None or task.done():
            return
        self._hub.landed(self)
        task.cancel()
        await asyncio.wait([task])

    def caught_up(self) -> None:
        """A member has read all there is, or left."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def _fly(self, how: Lead | Follow | None) -> None:
        error: Exception = ShuttingDownError()
        try:
            await self._get(how)
        except Exception as bug:
            log.exception("a flight failed")
            error = bug
        finally:
            self._hub.landed(self)
            self.decided.set()
            if self.attempt is None or not self.attempt.complete:
                self._fail(list(self.members), error)

    async def _get(self, how: Lead | Follow | None) -> None:
        changes = 0
        while self.members:
            if how is None and (how := await self.look()) is None:
                self._wake()
                return
            self.decided.set()
            if isinstance(how, Follow):
                changes += 1
                done = await self._follow(how)
                how = None if changes < CHANGES else Lead(b"")
            else:
                done = await self._ask(next(iter(self.members)), how)
                how = None
            if done:
                return

    async def _ask(self, member: Member, lead: Lead) -> bool:
        """One member's own call; whether the answer is whole."""
        self.attempt = attempt = Attempt()
        member.asked, self._live, self._shared = True, True, 0
        self._hub.leads(self, lead)
        member.trace.readers |= {self.is_read}
        try:
            async with aclosing(member.ask()) as chunks:
                async for chunk in chunks:
                    await self._take(attempt, chunk)
            attempt.complete = True
            self._wake()
        except Exception as error:
            self._refuse(member, error)
        finally:
            member.trace.readers -= {self.is_read}
            await self._settle(attempt, member, lead)
        return attempt.complete

    async def _settle(self, attempt: Attempt, member: Member, lead: Lead) -> None:
        """Ends a lead: the answer is stored if it is a clean one, and followers elsewhere hear how it ended."""
        self._live, self._settling = False, True
        self._hub.leads_no_more(lead)
        self._wake()
        if self._sharing is not None:
            await asyncio.wait([self._sharing])
            self._sharing = None
        body, last = b"", [AGAIN]
        if attempt.complete and not self.closed:
            if entries.clean(attempt.chunks):
                body = entries.encode(self.place.key, attempt.chunks)
                body = body if len(body) <= self._hub.most else b""
            if lead.flight and (self._shared or not body):
                last = [entries.pack(attempt.chunks[self._shared :]), DONE]
        if await self._hub.store.leave(self.place, lead, body=body, ttl=member.ttl, last=last):
            self._hub.stored()
        self._settling = False

    async def _take(self, attempt: Attempt, chunk: Chunk) -> None:
        attempt.add(chunk)
        self._wake()
        if attempt.end % BREATHE == 0:
            await asyncio.sleep(0)
        if attempt.size > self._hub.most:
            await self._make_room(attempt)

    async def _make_room(self, attempt: Attempt) -> None:
        """An answer too large to keep is nobody's to join, no faster than its fastest reader, and forgotten once read."""
        if not self.closed:
            self.closed = True
            self._hub.landed(self)
            self._wake()
        while self.members and attempt.end - max(member.at for member in self.members) >= AHEAD:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        read = min((member.at for member in self.members), default=attempt.end) - attempt.dropped
        if read >= AHEAD:
            del attempt.chunks[:read]
            attempt.dropped += read

    def _refuse(self, member: Member, error: Exception) -> None:
        """A member's call failed: the error is its own, or everybody's."""
        self._failures += not isinstance(error, QuotaError)
        same = isinstance(error, InvalidRequest) or (
            isinstance(error, Refused) and error.status in SAME
        )
        if member in self.members:
            self._fail([member], error)
        elif not isinstance(error, ChatError):
            log.error("a call failed whose client has left", exc_info=error)
        everybody = same or self._failures >= TRIES
        told = isinstance(error, Refused) and self.attempt is not None and self.attempt.end > 0
        for other in list(self.members):
            if everybody or (told and other.stream):
                self._fail([other], _again(error))

    def _fail(self, members: list[Member], error: Exception) -> None:
        for member in members:
            self.members.pop(member)
            member.fail(error, self.attempt)

    async def _follow(self, how: Follow) -> bool:
        """The answer of another process as it comes; whether it became whole."""
        self.attempt = attempt = Attempt()
        seen = 0
        while self.members:
            found = await self._hub.store.peek(self.place, how, seen)
            if found is None:
                return False
            led, batches = found
            for batch in batches:
                chunks = [] if batch == DONE else None if batch == AGAIN else entries.unpack(batch)
                if chunks is None:
                    return False
                for chunk in chunks:
                    attempt.add(chunk)
                attempt.complete = batch == DONE
                self._wake()
            if attempt.complete or not led:
                return attempt.complete
            seen += len(batches)
            await self._hub.store.news(how)
        return False

    def _wake(self) -> None:
        whole = self.closed or (self.attempt is not None and self.attempt.complete)
        for member in self.members:
            if whole or member.stream:
                member.wake()
        if self._sharer is not None and not self._sharer.done():
            self._sharer.set_result(None)

    def share(self, lead: Lead) -> None:
        """Somebody in another process follows."""
        if self._live and self._sharing is None and not self.closed:
            self._sharing = asyncio.create_task(self._share(lead))

    async def _share(self, lead: Lead) -> None:
        """Sends what there is, then what comes, as long as the call is under way."""
        attempt = self.attempt
        while self._live and attempt is not None and not self.closed:
            if self._shared == attempt.end:
                self._sharer = asyncio.get_running_loop().create_future()
                await self._sharer
                continue
            part = attempt.chunks[self._shared :]
            if not await self._hub.store.share(self.place, lead, entries.pack(part)):
                return
            self._shared += len(part)


def _again(error: Exception) -> Exception:
    """The same error for somebody else, who adds a traceback of their own."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    return copy
