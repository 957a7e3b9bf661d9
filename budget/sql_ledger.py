"""The ledger in a database: the port's methods as operations of the law.

Calls share transactions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, tzinfo
from functools import partial
from typing import Any, cast

from msgspec.structs import replace

from chattable.budget import operations
from chattable.budget.holds import Answer, Ask, End, Record, work
from chattable.budget.ledger import (
    GROUPS,
    Amount,
    Difference,
    Entry,
    Hold,
    Ledger,
    Room,
    State,
    UsageRow,
    Used,
    Wish,
)
from chattable.budget.limits import MAX_AMOUNT, Asker, Limit
from chattable.budget.postings import THRESHOLDS, LedgerDialect
from chattable.budget.storage.errors import LockTimeout, StorageUnavailable
from chattable.budget.storage.storage import Storage

BATCH = 128  # steps of calls in one transaction at most
WAIT = 0.002  # seconds that a batch waits for more steps where the one before had several

_Step = tuple[Ask, "asyncio.Future[Answer]"]


class SqlLedger(Ledger):
    """A `Ledger` in a storage, which need not be its own."""

    def __init__(
        self,
        storage: Storage,
        *,
        zone: tzinfo = UTC,
        thresholds: tuple[int, ...] = THRESHOLDS,
    ) -> None:
        given = storage.dialect
        self.dialect = LedgerDialect(given.now, given.locks, zone, thresholds)
        self.run = storage.run
        self.storage = storage
        self._waiting: list[_Step] = []
        self._writer: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        """Finishes what was asked and ends."""
        if self._writer is not None:
            await asyncio.wait([self._writer])

    async def flush(self) -> None:
        """Waits until what was written is on the disk."""
        await self.storage.flush()

    async def ask(self, ask: Ask) -> Answer:
        """What comes of one step of a call, in a transaction with all that is asked meanwhile."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((ask, future))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        return await future

    async def _write(self) -> None:
        company = False
        while self._waiting:
            if company:  # under load a larger batch saves everybody more than the wait costs
                await asyncio.sleep(WAIT)
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            company = len(batch) > 1
            await self._together(batch)

    async def _together(self, batch: list[_Step]) -> None:
        """Commits the steps at once; if one of them cannot be, each on its own: it harms no other."""
        try:
            answers = await self.run(partial(work, self.dialect, [ask for ask, _ in batch]))
        except Exception as error:
            away = isinstance(error, StorageUnavailable) and not isinstance(error, LockTimeout)
            if not away and len(batch) > 1:
                await asyncio.gather(*(self._together([step]) for step in batch))
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def put_limit(self, limit: Limit) -> None:
        """Adds a limit, or changes the one with its id."""
        await self.run(lambda: operations.put_limit(limit))

    async def drop_limit(self, limit_id: str) -> None:
        """Ends a limit."""
        await self.run(lambda: operations.drop_limit(limit_id))

    async def limits(self) -> list[Limit]:
        """Every limit in force."""
        return await self.storage.read(operations.limits)

    async def bounded(self) -> bool:
        """Whether any limit is in force at all."""
        return await self.run(operations.bounded)

    async def hold(self, wish: Wish) -> Hold:
        """Reserves, or raises `BudgetExceededError`."""
        if not (0 <= wish.prompt <= MAX_AMOUNT and 0 <= wish.least <= wish.most <= MAX_AMOUNT):
            raise ValueError("a wish needs 0 ≤ prompt and 0 ≤ least ≤ most, below 2^53")
        answer = await self.ask(wish)
        if isinstance(answer, Exception):
            try:
                raise answer
            finally:
                del answer  # its traceback leads back here: a circle is memory
        return cast(Hold, answer)

    async def renew(self, hold_ids: list[str]) -> None:
        """Gives pending holds a new lease."""
        await self.run(lambda: operations.renew(self.dialect, hold_ids))

    async def settle(self, hold_id: str, used: Used, reason: str = "") -> State:
        """Books what was used, once."""
        return await self._end(End(hold_id, "settled", _possible(used), reason))

    async def void(self, hold_id: str, reason: str = "") -> State:
        """Books that nothing was used, once."""
        return await self._end(End(hold_id, "voided", reason=reason))

    async def record(self, calls: Sequence[tuple[Wish, Used]]) -> None:
        """Notes what calls used that no limit binds, each once."""
        records = [Record(call, _possible(used)) for call, used in calls]
        await self.run(lambda: work(self.dialect, records))

    async def sweep(self) -> list[str]:
        """Forfeits expired holds."""
        due = await self.run(lambda: operations.expired(self.dialect))
        states = await asyncio.gather(
            *(self._end(End(hold_id, "forfeited", reason="lease expired")) for hold_id in due)
        )
        return [hold_id for hold_id, state in zip(due, states, strict=True) if state == "forfeited"]

    async def _end(self, end: End) -> State:
        answer = await self.ask(end)
        if isinstance(answer, Exception):
            try:
                raise answer
            finally:
                del answer  # its traceback leads back here: a circle is memory
        return cast(State, answer)

    async def grant(self, limit_id: str, amount: Amount, reason: str, owner: str = "") -> None:
        """Adds room to the present window."""
        await self.run(lambda: operations.grant(self.dialect, limit_id, owner, amount, reason))

    async def refund(self, limit_id: str, amount: Amount, reason: str, owner: str = "") -> None:
        """Takes back spending of the present window."""
        await self.run(lambda: operations.refund(self.dialect, limit_id, owner, amount, reason))

    async def rooms(self, asker: Asker, model: str) -> list[Room]:
        """What every binding limit has left."""
        return await self.storage.read(lambda: operations.rooms(self.dialect, asker, model))

    async def room(self, limit_id: str, owner: str = "") -> Room:
        """What one limit has left."""
        return await self.storage.read(lambda: operations.room(self.dialect, limit_id, owner))

    async def entries(
        self,
        *,
        limit_id: str = "",
        hold_id: str = "",
        user: str = "",
        after: int = 0,
        most: int = 1000,
    ) -> list[Entry]:
        """Entries in the order they were made."""
        return await self.storage.read(
            lambda: operations.entries(limit_id, hold_id, user, after, most)
        )

    async def usage(
        self, by: Sequence[str], *, since: int, until: int, only: Mapping[str, str]
    ) -> list[UsageRow]:
        """What calls used, by group."""
        if unknown := [name for name in [*by, *only] if name not in GROUPS]:
            raise ValueError(f"usage is grouped by {', '.join(GROUPS)}, not by {unknown[0]!r}")
        return await self.storage.read(lambda: operations.usage(by, since, until, only))

    async def notify(self, kind: str, data: Mapping[str, Any]) -> None:
        """Puts a notice into the outbox."""
        await self.run(lambda: operations.notify(self.dialect, kind, data))

    async def accounts(self) -> int:
        """How many balances there are."""
        return await self.storage.read(operations.accounts)

    async def verify(self) -> list[Difference]:
        """Balances that are not the sums of their entries."""
        return await self.storage.read(operations.verify)


def _possible(used: Used) -> Used:
    """An amount that cannot be is clamped: a settle must not fail."""
    fields = ("prompt", "completion", "cached", "cost", "saved")
    clamped = {name: min(max(0, getattr(used, name)), MAX_AMOUNT) for name in fields}
    return (
        replace(used, **clamped)
        if any(getattr(used, name) != value for name, value in clamped.items())
        else used
    )
