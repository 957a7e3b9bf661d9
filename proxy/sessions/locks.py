"""One turn at a time: who may append to a session now, in this process and among all replicas.

A turn that nobody reads any more yields. In its process whoever waits for it sees that. Other
processes see it by the name of its lock, which says what it asks, and have it end by giving the
lock another name.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import cached_property
from hashlib import sha256
from weakref import WeakValueDictionary

from msgspec import Struct

from chattable.agents.chat import Chat
from chattable.budget.periodic import Periodic
from chattable.budget.storage.errors import StorageError
from chattable.proxy.errors import LockedError
from chattable.proxy.reply_stream import ReplyStream
from chattable.proxy.store.errors import NotFound
from chattable.proxy.store.sessions.chain import content_digest, conversation_messages
from chattable.proxy.store.sessions.port import SessionRecord, SessionStore, Window

log = logging.getLogger("chattable")

LEASE = 15.0  # seconds that a session stays locked when the process that locked it is gone
RENEW = 5.0  # seconds between two renewals
POLL = 0.1  # seconds between two looks whether another turn is done
OFFERS = 5  # times as long between two looks whether another process has a turn end
LEFT, ENDED = "left:", "end:"  # how locks are called: of turns nobody reads, and that are to end


def new_holder() -> str:
    """A name for one turn that no other has."""
    return f"turn_{random.getrandbits(96):024x}"


class Claim:
    """Who wants a session: a turn, with what it asks and who reads it, or an addition by hand."""

    def __init__(
        self, holder: str, chat: Chat | None = None, reply: ReplyStream | None = None
    ) -> None:
        self.holder = holder
        self.reply = reply
        self._chat = chat

    @cached_property
    def asks(self) -> str:
        """What tells its question from another, in few characters; "" for none."""
        if self._chat is None:
            return ""
        digests = [
            content_digest(message) for message in conversation_messages(self._chat.messages)
        ]
        return sha256(b"".join(digests)).hexdigest()[:32]


class Held(Struct):
    """A session that is somebody's now, and the end of its conversation if that came with it."""

    session: SessionRecord
    claim: Claim
    name: str  # what the store knows the holder by
    window: Window | None = None
    repeated: bool = False  # it waited for a turn that asked the same and that nobody read

    @property
    def left(self) -> bool:
        """Whether nobody reads the turn any more."""
        return self.claim.reply is not None and self.claim.reply.left

    def stop(self) -> None:
        """Ends the turn."""
        if self.claim.reply is not None:
            self.claim.reply.stop()


class _Patience:
    """How long a turn waits for others; without end for one that asks the same and nobody reads."""

    def __init__(self, clock: Callable[[], float], seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._until = clock() + seconds
        self.repeated = False  # whether it waited for such a one

    def over(self, *, same: bool) -> bool:
        """Whether it has waited long enough for whoever has the session now."""
        if same:
            self.repeated = True
            self._until = self._clock() + self._seconds
        return self._clock() >= self._until


class Locks:
    """Locks sessions in the store, first come first served within this process.

    Law: no two turns hold one session at a time, whichever replicas they are on, as long as their
    processes renew in time; whose did not is told by the store when it commits. Who asks the same
    as a turn that nobody reads waits for it as long as it takes; who asks anything else ends it.
    """

    def __init__(
        self,
        store: SessionStore,
        wait: float,
        clock: Callable[[], float] = time.monotonic,
        poll: float = POLL,
    ) -> None:
        self._store = store
        self._wait = wait
        self._clock = clock
        self._poll = poll
        self._queues: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._held: dict[str, Held] = {}  # by holder
        self._turns: dict[str, Held] = {}  # by session
        self._offers: set[asyncio.Task[None]] = set()
        self._upkeep = Periodic("locks of sessions", self._renew_held, RENEW)

    async def start(self) -> None:
        """Begins to renew leases."""
        self._upkeep.start()

    async def stop(self) -> None:
        """Ends; what is still locked is free when its lease ends."""
        await self._upkeep.stop()
        for task in self._offers:
            task.cancel()

    @asynccontextmanager
    async def take(
        self,
        user: str,
        name: str | None,
        claim: Claim,
        *,
        create: bool,
        model: str,
        messages: int,
        tokens: int | None,
    ) -> AsyncGenerator[Held]:
        """The session of that name and the end of its conversation, in one step if nobody has it; else as `hold` does."""
        session, window = await self._store.take(
            user,
            name,
            claim.holder,
            LEASE,
            create=create,
            model=model,
            messages=messages,
            tokens=tokens,
        )
        if window is None:
            async with self.hold(session, claim) as held:
                yield held
            return
        queue = self._queue(session)
        first = not queue.locked()
        if first:
            # at once: who comes now waits for it, and need not ask the store again and again
            await queue.acquire()
        try:
            async with self._holding(Held(session, claim, claim.holder, window)) as held:
                yield held
        finally:
            if first:
                queue.release()

    @asynccontextmanager
    async def hold(self, session: SessionRecord, claim: Claim) -> AsyncGenerator[Held]:
        """The session, as it is once it is this holder's; `LockedError` when it does not come free in time.

        A turn that commits frees the session with it; this frees it after any other.
        """
        patience = _Patience(self._clock, self._wait)
        queue = await self._first_in(session, claim, patience)
        try:
            fresh = await self._locked(session, claim, patience)
            mine = Held(fresh, claim, claim.holder, repeated=patience.repeated)
            async with self._holding(mine) as held:
                yield held
        finally:
            queue.release()

    def freed(self, holder: str) -> None:
        """Notes that a commit has ended the lock, unless its name may have changed meanwhile."""
        held = self._held.get(holder)
        if held is not None and not held.left:
            del self._held[holder]

    def _queue(self, session: SessionRecord) -> asyncio.Lock:
        queue = self._queues.get(session.id)
        if queue is None:
            queue = self._queues[session.id] = asyncio.Lock()
        return queue

    @asynccontextmanager
    async def _holding(self, held: Held) -> AsyncGenerator[Held]:
        holder, session, reply = held.claim.holder, held.session, held.claim.reply
        self._held[holder] = self._turns[session.id] = held
        if reply is not None:
            reply.when_left(lambda: self._offer(held))
        try:
            yield held
        finally:
            if self._turns.get(session.id) is held:
                del self._turns[session.id]
            if self._held.pop(holder, None) is not None:
                names = (holder, *_names(held)) if held.left else (holder,)
                with suppress(StorageError):  # its lease ends by itself
                    for name in names:
                        await self._store.unlock(session, name)

    async def _first_in(
        self, session: SessionRecord, claim: Claim, patience: _Patience
    ) -> asyncio.Lock:
        """Waits for this process's own turns; the queue is for the caller to release."""
        queue = self._queue(session)
        if not queue.locked():
            await queue.acquire()
            return queue
        acquiring = asyncio.ensure_future(queue.acquire())
        try:
            while not acquiring.done():
                turn = self._turns.get(session.id)
                same = turn is not None and turn.left and turn.claim.asks == claim.asks
                if turn is not None and turn.left and not same:
                    turn.stop()
                if patience.over(same=same):
                    raise LockedError(session.id)
                await asyncio.wait({acquiring}, timeout=self._poll)
        except BaseException:
            if not acquiring.cancel() and not acquiring.cancelled():
                queue.release()
            raise
        return queue

    async def _locked(
        self, session: SessionRecord, claim: Claim, patience: _Patience
    ) -> SessionRecord:
        """The session once no other process has it."""
        while True:
            fresh = await self._store.lock(session, claim.holder, LEASE)
            if fresh is not None:
                return fresh
            name = await self._store.holder(session)
            same = name.startswith(f"{LEFT}{claim.asks}:")
            if name.startswith(LEFT) and not same:
                await self._store.hand_over(session, name, ENDED + name.removeprefix(LEFT))
            if patience.over(same=same):
                raise LockedError(session.id)
            await asyncio.sleep(self._poll)

    def _offer(self, held: Held) -> None:
        """Begins to tell the other processes that nobody reads a turn any more."""
        if self._held.get(held.claim.holder) is held:
            task = asyncio.create_task(self._offered(held))
            self._offers.add(task)
            task.add_done_callback(self._offers.discard)

    async def _offered(self, held: Held) -> None:
        """Ends the turn when one of them asks for that."""
        name, ended = _names(held)
        try:
            if not await self._store.hand_over(held.session, held.name, name):
                return
            held.name = name
            while self._held.get(held.claim.holder) is held:
                if await self._store.holder(held.session) == ended:
                    held.name = ended
                    held.stop()
                    return
                await asyncio.sleep(self._poll * OFFERS)
        except StorageError as error:
            log.warning("session %s is not offered to other processes: %s", held.session.id, error)
        except Exception:
            log.exception("session %s is not offered to other processes", held.session.id)

    async def _renew_held(self) -> None:
        for holder, held in list(self._held.items()):
            if holder in self._held:
                await self._renew(holder, held)

    async def _renew(self, holder: str, held: Held) -> None:
        try:
            await self._store.lock(held.session, held.name, LEASE)
            if holder not in self._held:  # it ended meanwhile
                await self._store.unlock(held.session, held.name)
        except NotFound as error:  # the conversation was deleted, by its user or with them
            if held.claim.reply is not None:
                held.claim.reply.drop(error)
        except StorageError as error:
            log.warning("the lock of session %s is not renewed: %s", held.session.id, error)
        except Exception:  # a store of the deployer's own: the others' leases do not end for it
            log.exception("the lock of session %s is not renewed", held.session.id)


def _names(held: Held) -> tuple[str, str]:
    """What the store knows a turn by that nobody reads, and one that was asked to end."""
    turn = f"{held.claim.asks}:{held.claim.holder}"
    return LEFT + turn, ENDED + turn
