"""One turn at a time: who may append to a session now, in this process and among all replicas."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from weakref import WeakValueDictionary

from chattable.proxy.errors import LockedError
from chattable.proxy.store.errors import StoreError
from chattable.proxy.store.sessions import Session, SessionStore, Window

log = logging.getLogger("chattable")

LEASE = 15.0  # seconds that a session stays locked when the process that locked it is gone
RENEW = 5.0  # seconds between two renewals
POLL = 0.1  # seconds between two looks whether another replica is done


def new_holder() -> str:
    """A name for one turn that no other has."""
    return f"turn_{random.getrandbits(96):024x}"


class Locks:
    """Locks sessions in the store, first come first served within this process.

    Law: no two turns hold one session at a time, whichever replicas they are on, as long as their processes renew in time;
    whose did not is told by the store when it commits.
    """

    def __init__(self, store: SessionStore, wait: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._wait = wait
        self._clock = clock
        self._queues: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._held: dict[str, Session] = {}  # by holder
        self._upkeep: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to renew leases."""
        self._upkeep = asyncio.create_task(self._keep_up())

    async def stop(self) -> None:
        """Ends; what is still locked is free when its lease ends."""
        if self._upkeep is not None:
            self._upkeep.cancel()

    @asynccontextmanager
    async def take(
        self, user: str, name: str | None, holder: str, *, create: bool, model: str, messages: int, tokens: int | None
    ) -> AsyncGenerator[tuple[Session, Window | None]]:
        """The session of that name and the end of its conversation, in one step if nobody has it; else as `hold` does."""
        session, window = await self._store.take(
            user, name, holder, LEASE, create=create, model=model, messages=messages, tokens=tokens
        )
        if window is None:
            async with self.hold(session, holder) as fresh:
                yield fresh, None
            return
        queue = self._queue(session)
        first = not queue.locked()
        if first:
            await queue.acquire()  # at once: who comes now waits for it, and need not ask the store again and again
        try:
            async with self._holding(session, holder):
                yield session, window
        finally:
            if first:
                queue.release()

    @asynccontextmanager
    async def hold(self, session: Session, holder: str) -> AsyncGenerator[Session]:
        """The session, as it is once it is this holder's; `LockedError` when it does not come free in time.

        A turn that commits frees the session with it; this frees it after any other.
        """
        until = self._clock() + self._wait
        queue = self._queue(session)
        try:
            await asyncio.wait_for(queue.acquire(), self._wait)
        except TimeoutError:
            raise LockedError(session.id) from None
        try:
            fresh = await self._locked(session, holder, until)
            async with self._holding(fresh, holder):
                yield fresh
        finally:
            queue.release()

    def freed(self, holder: str) -> None:
        """Notes that a commit has ended the lock."""
        self._held.pop(holder, None)

    def _queue(self, session: Session) -> asyncio.Lock:
        queue = self._queues.get(session.id)
        if queue is None:
            queue = self._queues[session.id] = asyncio.Lock()
        return queue

    @asynccontextmanager
    async def _holding(self, session: Session, holder: str) -> AsyncGenerator[None]:
        self._held[holder] = session
        try:
            yield
        finally:
            if self._held.pop(holder, None) is not None:
                with suppress(StoreError):  # its lease ends by itself
                    await self._store.unlock(session, holder)

    async def _locked(self, session: Session, holder: str, until: float) -> Session:
        while True:
            fresh = await self._store.lock(session, holder, LEASE)
            if fresh is not None:
                return fresh
            if self._clock() >= until:
                raise LockedError(session.id)
            await asyncio.sleep(POLL)

    async def _keep_up(self) -> None:
        while True:
            await asyncio.sleep(RENEW)
            for holder, session in list(self._held.items()):
                if holder in self._held:
                    try:
                        await self._store.lock(session, holder, LEASE)
                        if holder not in self._held:  # it ended meanwhile
                            await self._store.unlock(session, holder)
                    except StoreError as error:
                        log.warning("the lock of session %s is not renewed: %s", session.id, error)
