"""Joins chats and budgets: holds what a request may use, and books what it used."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import msgspec

from chattable.agents.chat import Chat, Json, Usage
from chattable.agents.chattable import Context
from chattable.budget.errors import BudgetExceededError
from chattable.budget.holds import Settlement, UnheldCall
from chattable.budget.journal import Journal, JournalRecord
from chattable.budget.ledger import HOLD_LEASE_S, Charge, Hold, HoldRequest, Ledger
from chattable.budget.limits import Payer
from chattable.budget.periodic import Periodic
from chattable.budget.storage.errors import StorageUnavailable
from chattable.proxy.catalog.catalog import Entry
from chattable.proxy.errors import DatabaseUnavailableError
from chattable.proxy.identity.auth import Caller
from chattable.proxy.pipeline.budget_refusals import check_spent, refusal
from chattable.proxy.pipeline.forwarded_kinds import NOTHING_BESIDES, Estimate
from chattable.proxy.pipeline.metered_call import MeteredCall

log = logging.getLogger("chattable")

LIMITS_CACHE_S = 1.0  # seconds that "there is no limit at all" is believed
UPKEEP_INTERVAL_S = 1.0  # seconds between two looks for what the ledger has not taken yet
ABANDONED_REASON = "abandoned"  # the reason of a void whose hold may not be there
SWEEP_EVERY_TICKS = 10  # ticks between two looks for holds that nobody renews
MAX_WAITING_EVENTS = 1000  # that wait to be written
ROOM_POLL_S = 0.1  # seconds until room that another process has freed is seen


class Metering:
    """Admits requests and books what they use.

    Law: charged at leaves; an agent's turn is the sum of the models it asked. What was used is in
    the journal before the ledger is told, and stays there until the ledger has it. `failpoint` is
    called at every point where a crash must do no harm.
    """

    def __init__(
        self,
        ledger: Ledger,
        journal: Journal,
        *,
        patience: float = 2.0,
        failpoint: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ledger = ledger
        self.failpoint = failpoint
        self._patience = patience  # seconds that a call waits for room that others only hold
        self._journal = journal
        self._journal_full = False
        self._moved = False  # whether anything was booked since the last flush
        self._clock = clock
        self._has_limits = True
        self._believed_until = 0.0
        self._open: set[str] = set()  # holds of this process, whose leases it renews
        self._unbooked: dict[str, JournalRecord] = {}  # what the ledger has not taken yet
        self._later: dict[str, tuple[float, Settlement]] = {}  # and what it is told only then
        self.calls: set[MeteredCall] = set()  # under way
        self._waiting: set[asyncio.Future[None]] = set()  # for room
        self._events: list[tuple[str, Json]] = []
        self._upkeep = Periodic(
            "the ledger's upkeep",
            self._tick,
            UPKEEP_INTERVAL_S,
            expected=(StorageUnavailable, OSError),
        )
        self._ticks = 0
        self._abandoning: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Books what a crash left behind; begins to renew leases and to sweep."""
        try:
            await self._recover()
        except StorageUnavailable as error:
            log.warning("what was not booked yet stays in the journal: %s", error)
        self._upkeep.start()

    async def stop(self) -> None:
        """Ends; what could not be booked stays in the journal."""
        await self._upkeep.stop()
        with suppress(StorageUnavailable):
            await self._catch_up(all_of_it=True)
        self._journal.close()

    def stop_at_once(self) -> None:
        """Journals the charge of every call under way, for the next process to book."""
        for call in list(self.calls):
            if (line := call.cut_short()) is not None:
                with suppress(OSError):
                    self._journal.write(line)

    def forget(self) -> None:
        """Limits have changed here."""
        self._believed_until = 0.0

    def call(
        self,
        chat: Chat,
        entry: Entry,
        caller: Caller,
        parent: Context | None,
        followed: Callable[[BaseException | None], bool] = lambda _: False,
        estimate: Estimate = NOTHING_BESIDES,
    ) -> MeteredCall:
        """The right to ask `entry` this, for as long as the context lasts.

        `followed` says whether somebody else is asked if it fails, or the same again; `estimate`
        what it may use that is no chat.
        """
        return MeteredCall(
            self, chat, entry, caller, parent.path[0] if parent else "", followed, estimate
        )

    async def spared(
        self, chat: Chat, entry: Entry, caller: Caller, parent: Context | None, usage: Usage
    ) -> None:
        """Notes what a call would have used that the cache answered."""
        if not usage.total_tokens:
            return
        request = self.call(chat, entry, caller, parent).hold_request(0)
        await self.book(UnheldCall(request, Charge(saved=usage.total_tokens)))

    def event(self, kind: str, data: Json) -> None:
        """Something that somebody wants to be told of, within a moment."""
        if len(self._events) < MAX_WAITING_EVENTS:
            self._events.append((kind, data))

    async def has_limits(self) -> bool:
        """Whether there is any limit, believed for a moment: without one, budgets cost nothing."""
        if self._believed_until <= self._clock():
            try:
                self._has_limits = await self.ledger.has_limits()
            except StorageUnavailable as error:
                log.warning("budgets are unknown: %s", error)
                raise DatabaseUnavailableError from None
            self._believed_until = self._clock() + LIMITS_CACHE_S
        return self._has_limits

    async def refuse_spent(self, caller: Caller) -> None:
        """Raises for somebody who has no tokens left, whatever they ask."""
        if await self.has_limits():
            who = caller.principal
            payer = Payer(user=who.user.id, key=who.key_id, team=who.team or "")
            check_spent(await self.ledger.balances(payer, ""), who)

    async def admit(
        self, request: HoldRequest, count: Callable[[], Awaitable[int]], caller: Caller
    ) -> Hold:
        """A hold of all that is wished, else of what there is room for; `bound` if a limit binds.

        `count` counts the prompt, whose bound may be far above it.
        """
        if self._journal_full:
            raise DatabaseUnavailableError
        self.failpoint("before_hold")
        try:
            hold = await self._held(request, count)
        except BudgetExceededError as error:
            raise refusal(error, caller.principal) from None
        except StorageUnavailable as error:  # the database may hold it all the same
            self._abandon(request.id)
            log.warning("no budget for %s: %s", caller.request_id, error)
            raise DatabaseUnavailableError from None
        except asyncio.CancelledError:
            self._abandon(request.id)
            raise
        if hold.bound:
            self._open.add(hold.id)
        self.failpoint("after_hold")
        return hold

    async def _held(self, request: HoldRequest, count: Callable[[], Awaitable[int]]) -> Hold:
        try:
            return await self.ledger.hold(
                msgspec.structs.replace(request, min_output=request.max_output)
            )
        except (
            BudgetExceededError
        ):  # the bound on the prompt is coarse: only now is it worth counting
            request = msgspec.structs.replace(request, prompt=min(request.prompt, await count()))
        until = self._clock() + self._patience
        while True:
            try:
                return await self.ledger.hold(request)
            except BudgetExceededError as error:  # what is only held will mostly come back
                left = until - self._clock()
                if not error.busy or left <= 0:
                    raise
                await self._room_freed(min(left, ROOM_POLL_S))

    async def _room_freed(self, seconds: float) -> None:
        """Waits until a call of this process is booked, or so long."""
        freed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(freed)
        try:
            await asyncio.wait([freed], timeout=seconds)
        finally:
            self._waiting.discard(freed)

    async def book(self, line: JournalRecord, *, later: bool = False) -> None:
        """Takes note of what became of a call: of a held one at once, of others within a moment.

        `later` is for a charge that must not refuse the target that is asked next: what is held is
        released at once, and the charge follows.
        """
        try:
            self._journal.write(line)
        except OSError as error:
            self._journal_full = True
            # one line
            text = "the journal takes nothing, so no new holds are given: %s"
            log.error(text, error)  # noqa: TRY400
        self._moved = True
        self.failpoint("after_journal")
        if isinstance(line, UnheldCall):
            self._unbooked[line.id] = line
            return
        if later:
            self._later[line.id] = self._clock() + UPKEEP_INTERVAL_S, line
            line = msgspec.structs.replace(line, charge=Charge(unknown=True))
        try:
            await _end(self.ledger, line)
        except StorageUnavailable as error:
            log.warning("the settlement of %s waits: %s", line.id, error)
            self._unbooked[line.id] = line
            await asyncio.to_thread(self._journal.sync)
        except asyncio.CancelledError:  # it may be booked: asked again it counts once
            self._unbooked[line.id] = line
            raise
        except Exception:  # nothing renews what cannot be settled: the sweep forfeits it
            self._open.discard(line.id)
            raise
        else:
            if later:
                self._freed(line.id)
            else:
                self._booked(line.id)
        self.failpoint("after_settle")

    def _freed(self, call_id: str) -> None:
        """Nothing is held for a call any more."""
        self._open.discard(call_id)
        if self._waiting:
            for waiting in self._waiting:
                if not waiting.done():
                    waiting.set_result(None)

    def _booked(self, call_id: str) -> None:
        self._journal.done(call_id)
        self._unbooked.pop(call_id, None)
        self._freed(call_id)

    def _abandon(self, hold_id: str) -> None:
        """Voids a hold that may exist, of a request that goes no further."""

        async def void() -> None:
            try:
                with suppress(KeyError):
                    await self.ledger.void(hold_id, ABANDONED_REASON)
            except StorageUnavailable:
                self._unbooked[hold_id] = Settlement(hold_id, "voided", reason=ABANDONED_REASON)

        task = asyncio.create_task(void())
        self._abandoning.add(task)
        task.add_done_callback(self._abandoning.discard)

    async def _tick(self) -> None:
        self._ticks += 1
        # first: what follows may fail, and leases must not end for it
        if self._ticks % SWEEP_EVERY_TICKS == 0 and self._open:
            await self.ledger.renew(list(self._open))
        await self._catch_up()
        if self._moved:
            self._moved = False
            await self.ledger.flush()
        if self._ticks % SWEEP_EVERY_TICKS == 0:
            self.failpoint("in_upkeep")
            await self._recover()

    async def _catch_up(self, *, all_of_it: bool = False) -> None:
        """Books what the ledger has not taken yet."""
        now = self._clock()
        for end in [end for due, end in self._later.values() if due <= now or all_of_it]:
            del self._later[end.id]
            self._unbooked[end.id] = end
        while self._events:
            await self.ledger.notify(*self._events[0])
            del self._events[0]
        if self._journal_full:
            self._journal.probe()
            self._journal_full = False
        if self._unbooked:
            lines = list(self._unbooked.values())
            await _replay(self.ledger, lines)
            for line in lines:
                self._booked(line.id)

    async def _recover(self) -> None:
        """Books what dead processes left in their journals, then forfeits expired holds."""
        for path, lines in self._journal.orphans():
            await _replay(self.ledger, lines)
            log.info(
                "%s: %d settlements of a process that ended early are booked", path.name, len(lines)
            )
        for hold_id in await self.ledger.sweep():
            log.warning(
                "hold %s was forfeited: nobody renewed it for %d seconds", hold_id, HOLD_LEASE_S
            )


async def _replay(ledger: Ledger, lines: Sequence[JournalRecord]) -> None:
    """Books lines, however often they were booked before."""
    records = [(line.call, line.charge) for line in lines if isinstance(line, UnheldCall)]
    if records:
        await ledger.record(records)
    ends = [line for line in lines if isinstance(line, Settlement)]
    outcomes = await asyncio.gather(*(_end(ledger, end) for end in ends), return_exceptions=True)
    for end, outcome in zip(ends, outcomes, strict=True):
        if isinstance(outcome, KeyError):
            if end.reason != ABANDONED_REASON:
                log.error(
                    "the ledger has no hold %s, whose settlement is in a journal: is this another "
                    "database?",
                    end.id,
                )
        elif isinstance(outcome, BaseException):
            raise outcome


async def _end(ledger: Ledger, end: Settlement) -> None:
    if end.state == "voided":
        await ledger.void(end.id, end.reason)
    else:
        await ledger.settle(end.id, end.charge, end.reason)
