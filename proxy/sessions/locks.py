"""One turn at a time: who may append to a session, in this process and among all replicas.

A turn whose client has left makes way for the next one. In its own process the next turn sees that
it was left. Other processes see it by the name of its lock, which has a digest of its question, and
end it by giving the lock another name.
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

SESSION_LOCK_LEASE_S = 15.0  # a session stays locked so long when its process has died
SESSION_LOCK_RENEW_S = 5.0
SESSION_LOCK_POLL_S = 0.1  # between two looks whether another turn is done
LEFT_POLL_FACTOR = 5  # times as long between two looks whether another process ends a left turn
LEFT, ENDED = "left:", "end:"  # how the locks of turns begin that were left, and that are to end


def new_holder() -> str:
    """A name for a turn that no other turn has."""
    return f"turn_{random.getrandbits(96):024x}"


class Claim:
    """Who wants a session: a turn with its chat and its reader, or an addition by hand."""

    def __init__(
        self, holder: str, chat: Chat | None = None, reply: ReplyStream | None = None
    ) -> None:
        self.holder = holder
        self.reply = reply
        self._chat = chat

    @cached_property
    def question(self) -> str:
        """A digest of its question; "" for none."""
        if self._chat is None:
            return ""
        digests = [
            content_digest(message) for message in conversation_messages(self._chat.messages)
        ]
        return sha256(b"".join(digests)).hexdigest()[:32]


class Held(Struct):
    """A locked session, and the end of its conversation if that was read with it."""

    session: SessionRecord
    claim: Claim
    name: str  # of the lock in the store
    window: Window | None = None
    repeated: bool = False  # it waited for a turn with the same question, which was left

    @property
    def left(self) -> bool:
        """Whether the turn's client has left."""
        return self.claim.reply is not None and self.claim.reply.left

    def stop(self) -> None:
        """Ends the turn."""
        if self.claim.reply is not None:
            self.claim.reply.stop()


class _Patience:
    """How long a turn waits for others; without end for a left one with the same question."""

    def __init__(self, clock: Callable[[], float], seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._until = clock() + seconds
        self.repeated = False  # whether it waited for such a turn

    def over(self, *, same: bool) -> bool:
        """Whether it has waited long enough for the turn that has the session now."""
        if same:
            self.repeated = True
            self._until = self._clock() + self._seconds
        return self._clock() >= self._until


class Locks:
    """Locks sessions in the store, first come first served within this process.

    Law: no two turns hold one session at a time, on whatever replicas, as long as their processes
    renew in time; the store refuses the commit of one that did not. A turn with the same question
    as one whose client has left waits for it as long as it takes; any other turn ends it.
    """

    def __init__(
        self,
        store: SessionStore,
        wait: float,
        clock: Callable[[], float] = time.monotonic,
        poll: float = SESSION_LOCK_POLL_S,
    ) -> None:
        self._store = store
        self._wait = wait
        self._clock = clock
        self._poll = poll
        self._queues: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._held: dict[str, Held] = {}  # by holder
        self._turns: dict[str, Held] = {}  # by session
        self._left_turns: set[asyncio.Task[None]] = set()
        self._upkeep = Periodic("locks of sessions", self._renew_held, SESSION_LOCK_RENEW_S)

    async def start(self) -> None:
        """Starts renewing leases."""
        self._upkeep.start()

    async def stop(self) -> None:
        """Stops; what is still locked is free when its lease ends."""
        await self._upkeep.stop()
        for task in self._left_turns:
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
        """The session of that name and the end of its conversation, in one step if it is free.

        If it is not, the session alone, once it is: as `hold` does.
        """
        session, window = await self._store.take(
            user,
            name,
            claim.holder,
            SESSION_LOCK_LEASE_S,
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
            # now: the next turn waits for this, and need not ask the store again and again
            await queue.acquire()
        try:
            async with self._holding(Held(session, claim, claim.holder, window)) as held:
                yield held
        finally:
            if first:
                queue.release()

    @asynccontextmanager
    async def hold(self, session: SessionRecord, claim: Claim) -> AsyncGenerator[Held]:
        """The session, as it is once it is locked; `LockedError` if it is not free in time.

        The commit of a turn frees the session; after a turn without one this does.
        """
        patience = _Patience(self._clock, self._wait)
        queue = await self._first_in_queue(session, claim, patience)
        try:
            fresh = await self._locked(session, claim, patience)
            mine = Held(fresh, claim, claim.holder, repeated=patience.repeated)
            async with self._holding(mine) as held:
                yield held
        finally:
            queue.release()

    def freed(self, holder: str) -> None:
        """Notes that a commit has ended the lock, unless the lock may have another name by now."""
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
            reply.when_left(lambda: self._announce_left(held))
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

    async def _first_in_queue(
        self, session: SessionRecord, claim: Claim, patience: _Patience
    ) -> asyncio.Lock:
        """Waits for the turns of this process; the caller releases the queue."""
        queue = self._queue(session)
        if not queue.locked():
            await queue.acquire()
            return queue
        acquiring = asyncio.ensure_future(queue.acquire())
        try:
            while not acquiring.done():
                if patience.over(same=self._repeats_own_turn(session, claim)):
                    raise LockedError(session.id)
                await asyncio.wait({acquiring}, timeout=self._poll)
        except BaseException:
            if not acquiring.cancel() and not acquiring.cancelled():
                queue.release()
            raise
        return queue

    def _repeats_own_turn(self, session: SessionRecord, claim: Claim) -> bool:
        """Whether this process's turn was left with the same question; one with another ends."""
        turn = self._turns.get(session.id)
        if turn is None or not turn.left:
            return False
        if turn.claim.question == claim.question:
            return True
        turn.stop()
        return False

    async def _locked(
        self, session: SessionRecord, claim: Claim, patience: _Patience
    ) -> SessionRecord:
        """Locks the session in the store, once no other process has it."""
        while True:
            fresh = await self._store.lock(session, claim.holder, SESSION_LOCK_LEASE_S)
            if fresh is not None:
                return fresh
            name = await self._store.holder(session)
            same = name.startswith(f"{LEFT}{claim.question}:")
            if name.startswith(LEFT) and not same:
                await self._store.hand_over(session, name, ENDED + name.removeprefix(LEFT))
            if patience.over(same=same):
                raise LockedError(session.id)
            await asyncio.sleep(self._poll)

    def _announce_left(self, held: Held) -> None:
        """Starts telling other processes that a turn was left."""
        if self._held.get(held.claim.holder) is held:
            task = asyncio.create_task(self._end_when_asked(held))
            self._left_turns.add(task)
            task.add_done_callback(self._left_turns.discard)

    async def _end_when_asked(self, held: Held) -> None:
        """Names the lock of a left turn for other processes, and ends the turn when one asks."""
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
                await asyncio.sleep(self._poll * LEFT_POLL_FACTOR)
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
            await self._store.lock(held.session, held.name, SESSION_LOCK_LEASE_S)
            if holder not in self._held:  # it ended meanwhile
                await self._store.unlock(held.session, held.name)
        except NotFound as error:  # the conversation was deleted, perhaps with its user
            if held.claim.reply is not None:
                held.claim.reply.drop(error)
        except StorageError as error:
            log.warning("the lock of session %s is not renewed: %s", held.session.id, error)
        except Exception:  # a store of the deployer's own: the others' leases do not end for it
            log.exception("the lock of session %s is not renewed", held.session.id)


def _names(held: Held) -> tuple[str, str]:
    """The names that the lock of a left turn has: before and after it was asked to end."""
    turn = f"{held.claim.question}:{held.claim.holder}"
    return LEFT + turn, ENDED + turn
