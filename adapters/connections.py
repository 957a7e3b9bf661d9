"""The connections that may be open to one provider, and who gets one.

The user who has fewest is served first, and an answer that nobody reads is ended for others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from chattable.adapters.errors import ConnectionLimitReached
from chattable.agents.chattable import Trace

ABANDONED_CHECK_S = 0.1  # between two looks for answers that nobody reads any more


class Slot:
    """One of the connections, for as long as the context lasts.

    Raises `ConnectionLimitReached` if none is free within `patience` seconds.
    """

    def __init__(self, connections: Connections, user: str, trace: Trace, patience: float) -> None:
        self.user = user
        self.trace = trace
        self.patience = patience
        self.yielding = False  # it is to end, for another request that waits
        self.stop: Callable[[], object] | None = None  # ends what it is used for
        self._connections = connections

    async def __aenter__(self) -> Self:
        connections = self._connections
        if len(connections.open) < connections.limit and not connections.waiting:
            connections.open.add(self)
        else:
            await connections.wait(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop = None
        self._connections.open.discard(self)
        if self._connections.waiting:
            self._connections.hand_on()

    def give_way(self) -> None:
        """Ends it, as soon as there is something to end."""
        self.yielding = self.trace.gave_way = True
        if self.stop is not None:
            self.stop()


class Connections:
    """The connections of one provider.

    Law: a free one goes to the user who waits and has fewest, the first of these; to a request that
    nobody waits for only where no other waits. Answers that nobody reads any more are ended, one
    for each request that waits.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open: set[Slot] = set()
        self.waiting: dict[Slot, asyncio.Future[None]] = {}

    async def wait(self, slot: Slot) -> None:
        """Waits for the slot's turn."""
        loop = asyncio.get_running_loop()
        turn = self.waiting[slot] = loop.create_future()
        until = loop.time() + slot.patience
        try:
            while not turn.done():
                if (left := until - loop.time()) <= 0:
                    raise ConnectionLimitReached(self.limit)
                if not slot.trace.abandoned:
                    self._make_room()
                await asyncio.wait([turn], timeout=min(left, ABANDONED_CHECK_S))
        except BaseException:
            self.open.discard(slot)  # it may have been its turn just now
            raise
        finally:
            self.waiting.pop(slot, None)
            self.hand_on()

    def hand_on(self) -> None:
        """Gives what is free to those who wait."""
        while self.waiting and len(self.open) < self.limit:
            held = self._held()
            slot = min(
                self.waiting, key=lambda slot: (slot.trace.abandoned, held.get(slot.user, 0))
            )
            self.waiting.pop(slot).set_result(None)
            self.open.add(slot)

    def _make_room(self) -> None:
        """Ends an abandoned answer, of the user who has most, for each who waits."""
        wanted = sum(not slot.trace.abandoned for slot in self.waiting) - sum(
            slot.yielding for slot in self.open
        )
        left = [slot for slot in self.open if slot.trace.abandoned and not slot.yielding]
        if left and wanted > 0:
            held = self._held()
            max(left, key=lambda slot: held[slot.user]).give_way()

    def _held(self) -> dict[str, int]:
        """How many each user has."""
        held: dict[str, int] = {}
        for slot in self.open:
            held[slot.user] = held.get(slot.user, 0) + 1
        return held
