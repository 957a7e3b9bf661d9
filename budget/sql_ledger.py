"""The ledger in a database; calls that come at once share a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, tzinfo
from functools import partial
from typing import Any, cast

from msgspec.structs import replace

from chattable.budget import operations, verification
from chattable.budget.holds import Answer, Settlement, Step, UnheldCall, run_steps
from chattable.budget.ledger import (
    GROUPS,
    Amount,
    Balance,
    Charge,
    Difference,
    Hold,
    HoldRequest,
    Ledger,
    Posting,
    Progress,
    State,
    UsageRow,
)
from chattable.budget.limits import MAX_AMOUNT, Limit, Payer
from chattable.budget.postings import THRESHOLDS_PERCENT, LedgerDialect
from chattable.budget.storage.errors import LockTimeout, StorageUnavailable
from chattable.budget.storage.storage import Storage
from chattable.budget.verification import SLICE_ROWS, Place

MAX_BATCH = 128  # steps of calls in one transaction
VERIFYING = "verifying the ledger"
BATCH_WAIT_S = 0.002  # how long a batch waits for more steps where the one before had several

AMOUNTS = ("prompt", "completion", "cached", "cost", "saved")  # of a charge

_Waiting = tuple[Step, "asyncio.Future[Answer]"]


class SqlLedger(Ledger):
    """A `Ledger` in a storage, which need not be its own."""

    slice_rows = SLICE_ROWS  # that `verify` looks at in one statement

    def __init__(
        self,
        storage: Storage,
        *,
        zone: tzinfo = UTC,
        thresholds: tuple[int, ...] = THRESHOLDS_PERCENT,
    ) -> None:
        given = storage.dialect
        self.dialect = LedgerDialect(given.now, given.locks, zone, thresholds)
        self.run = storage.run
        self.storage = storage
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        """Finishes what was asked and ends."""
        if self._writer is not None:
            await asyncio.wait([self._writer])

    async def flush(self) -> None:
        """Waits until what was written is on the disk."""
        await self.storage.flush()

    async def ask(self, step: Step) -> Answer:
        """What comes of one step of a call, in a transaction with all that are asked meanwhile."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((step, future))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        return await future

    async def _write(self) -> None:
        company = False
        while self._waiting:
            if company:  # under load a larger batch saves everybody more than the wait costs
                await asyncio.sleep(BATCH_WAIT_S)
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            company = len(batch) > 1
            await self._together(batch)

    async def _together(self, batch: list[_Waiting]) -> None:
        """Commits the steps at once; if that fails, each on its own, so that none harms another."""
        try:
            answers = await self.run(partial(run_steps, self.dialect, [step for step, _ in batch]))
        except Exception as error:
            if len(batch) == 1 or _is_away(error):
                _fail(batch, error)
            else:
                await asyncio.gather(*(self._together([one]) for one in batch))
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)

    async def put_limit(self, limit: Limit) -> None:
        """Adds a limit, or changes the one with its id."""
        await self.run(lambda: operations.put_limit(self.dialect, limit))

    async def drop_limit(self, limit_id: str) -> None:
        """Ends a limit."""
        await self.run(lambda: operations.drop_limit(limit_id))

    async def limits(self) -> list[Limit]:
        """Every limit in force."""
        return await self.storage.read(operations.limits)

    async def has_limits(self) -> bool:
        """Whether any limit is in force at all."""
        return await self.run(operations.has_limits)

    async def hold(self, request: HoldRequest) -> Hold:
        """Reserves, or raises `BudgetExceededError`."""
        if not (
            0 <= request.prompt <= MAX_AMOUNT
            and 0 <= request.min_output <= request.max_output <= MAX_AMOUNT
        ):
            raise ValueError("0 ≤ prompt and 0 ≤ min_output ≤ max_output, up to 2^53")
        answer = await self.ask(request)
        if isinstance(answer, Exception):
            try:
                raise answer
            finally:
                del answer  # its traceback leads back here: a circle is memory
        return cast(Hold, answer)

    async def renew(self, hold_ids: list[str]) -> None:
        """Gives pending holds a new lease."""
        await self.run(lambda: operations.renew(self.dialect, hold_ids))

    async def settle(self, hold_id: str, charge: Charge, reason: str = "") -> State:
        """Books what was used, once."""
        return await self._end(Settlement(hold_id, "settled", _possible(charge), reason))

    async def void(self, hold_id: str, reason: str = "") -> State:
        """Books that nothing was used, once."""
        return await self._end(Settlement(hold_id, "voided", reason=reason))

    async def record(self, calls: Sequence[tuple[HoldRequest, Charge]]) -> None:
        """Records what calls used that no limit binds, each once."""
        unheld = [UnheldCall(call, _possible(charge)) for call, charge in calls]
        await self.run(lambda: run_steps(self.dialect, unheld))

    async def sweep(self) -> list[str]:
        """Forfeits expired holds."""
        due = await self.run(lambda: operations.expired(self.dialect))
        states = await asyncio.gather(
            *(
                self._end(Settlement(hold_id, "forfeited", reason="lease expired"))
                for hold_id in due
            )
        )
        return [hold_id for hold_id, state in zip(due, states, strict=True) if state == "forfeited"]

    async def _end(self, settlement: Settlement) -> State:
        answer = await self.ask(settlement)
        if isinstance(answer, Exception):
            try:
                raise answer
            finally:
                del answer  # its traceback leads back here: a circle is memory
        return cast(State, answer)

    async def grant(self, limit_id: str, amount: Amount, reason: str, owner: str = "") -> None:
        """Adds to a limit in its present window."""
        await self.run(lambda: operations.grant(self.dialect, limit_id, owner, amount, reason))

    async def refund(self, limit_id: str, amount: Amount, reason: str, owner: str = "") -> None:
        """Takes back spending of the present window."""
        await self.run(lambda: operations.refund(self.dialect, limit_id, owner, amount, reason))

    async def balances(self, payer: Payer, model: str) -> list[Balance]:
        """What every binding limit has left."""
        return await self.storage.read(lambda: operations.balances(self.dialect, payer, model))

    async def balance(self, limit_id: str, owner: str = "") -> Balance:
        """What one limit has left."""
        return await self.storage.read(lambda: operations.balance(self.dialect, limit_id, owner))

    async def entries(
        self,
        *,
        limit_id: str = "",
        hold_id: str = "",
        user: str = "",
        after: int = 0,
        most: int = 1000,
    ) -> list[Posting]:
        """Entries in the order they were made."""
        return await self.storage.read(
            lambda: operations.entries(limit_id, hold_id, user, after, most)
        )

    async def usage(
        self,
        by: Sequence[str],
        *,
        since: int,
        until: int,
        only: Mapping[str, str],
        after: Sequence[str | int] = (),
        most: int = MAX_AMOUNT,
    ) -> list[UsageRow]:
        """What calls used, by group."""
        if unknown := [name for name in [*by, *only] if name not in GROUPS]:
            raise ValueError(f"usage is grouped by {', '.join(GROUPS)}, not by {unknown[0]!r}")
        return await self.storage.read(
            lambda: operations.usage(by, since, until, only, after, most)
        )

    async def tokens_saved(self) -> int:
        """What answers from a cache have saved in all."""
        return await self.storage.read(operations.tokens_saved)

    async def notify(self, kind: str, data: Mapping[str, Any]) -> None:
        """Puts an event into the outbox."""
        await self.run(lambda: operations.notify(self.dialect, kind, data))

    async def accounts(self) -> int:
        """How many balances there are."""
        return await self.storage.read(operations.accounts)

    async def verify(self, progress: Progress | None = None) -> list[Difference]:
        """Balances that are not the sums of their entries."""
        total, seen = await self.storage.read(verification.size), 0
        wrong: list[Difference] = []
        for look in (verification.sums, verification.accounts_without_entries):
            place: Place | None = Place()
            while place is not None:
                found = await self.storage.read(partial(look, place, self.slice_rows))
                wrong, place, seen = wrong + found.differences, found.next, seen + found.rows
                if progress is not None:
                    progress(min(seen, total), total, VERIFYING)
        if progress is not None:
            progress(total, total, VERIFYING)
        return wrong


def _is_away(error: Exception) -> bool:
    """Whether no step of the batch would fare better alone."""
    return isinstance(error, StorageUnavailable) and not isinstance(error, LockTimeout)


def _fail(batch: list[_Waiting], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)


def _possible(charge: Charge) -> Charge:
    """A charge whose figures are clamped to what can be stored: a settle must not fail."""
    given = [getattr(charge, name) for name in AMOUNTS]
    if min(given) >= 0 and max(given) <= MAX_AMOUNT:
        return charge
    clamped = [min(max(0, amount), MAX_AMOUNT) for amount in given]
    return replace(charge, **dict(zip(AMOUNTS, clamped, strict=True)))
