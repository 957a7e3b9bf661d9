"""Joins chats and budgets: what a request may use is held before an upstream is asked, what it did use is booked after."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import msgspec

from chattable.adapters.errors import BrokenAnswer, TimedOut
from chattable.agents.chat import Chat, Chunk, Usage
from chattable.agents.chattable import Context
from chattable.agents.errors import ChatError
from chattable.budget.calls import End, Record
from chattable.budget.errors import BudgetExceededError, LedgerUnavailableError
from chattable.budget.journal import Journal, Line
from chattable.budget.ledger import LEASE, Hold, Ledger, Used, Wish
from chattable.budget.limits import Asker
from chattable.budget.tokens import count_async
from chattable.proxy.auth import Caller
from chattable.proxy.catalog import Entry
from chattable.proxy.errors import BudgetAwayError, QuotaError
from chattable.proxy.prompts import bound_prompt, count_prompt

log = logging.getLogger("chattable")

DEFAULT_OUTPUT = 4096  # tokens of output held where neither the client nor the model has a cap
MOST_OUTPUT = 10**9  # tokens that no answer has: what a client asks for beyond is not worth holding
BELIEVE = 1.0  # seconds that "there is no limit at all" is believed
TICK = 1.0  # seconds between two looks for what the ledger has not taken yet
ABANDONED = "abandoned"  # the reason of a void whose hold may not be there
SWEEP = 10  # ticks between two looks for holds that nobody renews


class Metering:
    """Admits requests and books what they use.

    Law: charged at leaves; an agent's turn is the sum of the models it asked. What was used is in the journal before the
    ledger is told, and stays there until the ledger has it. `reach` is called at every point where a crash must do no harm.
    """

    def __init__(
        self,
        ledger: Ledger,
        journal: Journal,
        *,
        reach: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ledger = ledger
        self.reach = reach
        self._journal = journal
        self._journal_full = False
        self._moved = False  # whether anything was booked since the last flush
        self._clock = clock
        self._bounded = True
        self._believed_until = 0.0
        self._open: set[str] = set()  # holds of this process, whose leases it renews
        self._unbooked: dict[str, Line] = {}  # what the ledger has not taken yet
        self._upkeep: asyncio.Task[None] | None = None
        self._abandoning: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Books what a crash left behind; begins to renew leases and to sweep."""
        try:
            await self._recover()
        except LedgerUnavailableError as error:
            log.warning("what was not booked yet stays in the journal: %s", error)
        self._upkeep = asyncio.create_task(self._keep_up())

    async def stop(self) -> None:
        """Ends; what could not be booked stays in the journal."""
        if self._upkeep is not None:
            self._upkeep.cancel()
        with suppress(LedgerUnavailableError):
            await self._catch_up()
        self._journal.close()

    def forget(self) -> None:
        """Limits have changed here."""
        self._believed_until = 0.0

    def hold(self, chat: Chat, entry: Entry, caller: Caller, parent: Context | None) -> Held:
        """The right to ask `entry` this, for as long as the context lasts."""
        return Held(self, chat, entry, caller, parent.path[0] if parent else "")

    async def spared(self, chat: Chat, entry: Entry, caller: Caller, parent: Context | None, usage: Usage) -> None:
        """Notes what a call would have used that was answered without one; nothing where that would be nothing."""
        if not usage.total_tokens:
            return
        call = self.hold(chat, entry, caller, parent).wish(0)
        await self.book(Record(call, Used(saved=usage.total_tokens)))

    async def bounded(self) -> bool:
        """Whether anything is limited, believed for a moment: where nothing is, a request pays nothing for budgets."""
        if self._believed_until <= self._clock():
            try:
                self._bounded = await self.ledger.bounded()
            except LedgerUnavailableError as error:
                log.warning("budgets are unknown: %s", error)
                raise BudgetAwayError from None
            self._believed_until = self._clock() + BELIEVE
        return self._bounded

    async def admit(self, wish: Wish, chat: Chat, caller: Caller) -> Hold:
        """A hold of all that is wished, else of what there is room for; one that is not `bound` where no limit binds."""
        if self._journal_full:
            raise BudgetAwayError
        self.reach("before_hold")
        try:
            hold = await self._held(wish, chat)
        except BudgetExceededError as error:
            raise _quota(error, caller) from None
        except LedgerUnavailableError as error:  # the database may hold it all the same
            self._abandon(wish.id)
            log.warning("no budget for %s: %s", caller.request_id, error)
            raise BudgetAwayError from None
        except asyncio.CancelledError:
            self._abandon(wish.id)
            raise
        if hold.bound:
            self._open.add(hold.id)
        self.reach("after_hold")
        return hold

    async def _held(self, wish: Wish, chat: Chat) -> Hold:
        try:
            return await self.ledger.hold(msgspec.structs.replace(wish, least=wish.most))
        except BudgetExceededError:  # the bound on the prompt is coarse: only now is it worth counting
            prompt = min(wish.prompt, await count_prompt(chat, wish.model))
            return await self.ledger.hold(msgspec.structs.replace(wish, prompt=prompt))

    async def book(self, line: Line) -> None:
        """Takes note of what became of a call: of a held one at once, of others within a moment."""
        try:
            self._journal.write(line)
        except OSError as error:
            self._journal_full = True
            log.error("the journal takes nothing, so no new holds are given: %s", error)  # noqa: TRY400 - one line
        self._moved = True
        self.reach("after_journal")
        if isinstance(line, Record):
            self._unbooked[line.id] = line
            return
        try:
            await _end(self.ledger, line)
        except LedgerUnavailableError as error:
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
            self._booked(line.id)
        self.reach("after_settle")

    def _booked(self, call_id: str) -> None:
        self._journal.done(call_id)
        self._unbooked.pop(call_id, None)
        self._open.discard(call_id)

    def _abandon(self, hold_id: str) -> None:
        """Voids a hold that may exist, of a request that goes no further."""

        async def void() -> None:
            try:
                with suppress(KeyError):
                    await self.ledger.void(hold_id, ABANDONED)
            except LedgerUnavailableError:
                self._unbooked[hold_id] = End(hold_id, "voided", reason=ABANDONED)

        task = asyncio.create_task(void())
        self._abandoning.add(task)
        task.add_done_callback(self._abandoning.discard)

    async def _keep_up(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(TICK)
            ticks += 1
            try:
                if ticks % SWEEP == 0 and self._open:  # first: what follows may fail, and leases must not end for it
                    await self.ledger.renew(list(self._open))
                await self._catch_up()
                if self._moved:
                    self._moved = False
                    await self.ledger.flush()
                if ticks % SWEEP == 0:
                    self.reach("in_upkeep")
                    await self._recover()
            except (LedgerUnavailableError, OSError) as error:
                log.warning("the ledger's upkeep waits: %s", error)
            except Exception:
                log.exception("the ledger's upkeep failed")

    async def _catch_up(self) -> None:
        """Books what the ledger has not taken yet."""
        if self._journal_full:
            self._journal.probe()
            self._journal_full = False
        if self._unbooked:
            lines = list(self._unbooked.values())
            await _replay(self.ledger, lines)
            for line in lines:
                self._booked(line.id)

    async def _recover(self) -> None:
        """Books what processes that are dead left in their journals, then forfeits what nobody can settle any more."""
        for path, lines in self._journal.orphans():
            await _replay(self.ledger, lines)
            log.info("%s: %d settlements of a process that ended early are booked", path.name, len(lines))
        for hold_id in await self.ledger.sweep():
            log.warning("hold %s was forfeited: nobody renewed it for %d seconds", hold_id, LEASE)


async def _replay(ledger: Ledger, lines: Sequence[Line]) -> None:
    """Books lines, however often they were booked before."""
    records = [(line.call, line.used) for line in lines if isinstance(line, Record)]
    if records:
        await ledger.record(records)
    ends = [line for line in lines if isinstance(line, End)]
    outcomes = await asyncio.gather(*(_end(ledger, end) for end in ends), return_exceptions=True)
    for end, outcome in zip(ends, outcomes, strict=True):
        if isinstance(outcome, KeyError):
            if end.reason != ABANDONED:
                log.error("the ledger has no hold %s, whose settlement is in a journal: is this another database?", end.id)
        elif isinstance(outcome, BaseException):
            raise outcome


async def _end(ledger: Ledger, end: End) -> None:
    if end.state == "voided":
        await ledger.void(end.id, end.reason)
    else:
        await ledger.settle(end.id, end.used, end.reason)


class Held:
    """One request's hold. Left in any way, it is settled: with what was reported, else counted; voided if nothing was used."""

    def __init__(self, metering: Metering, chat: Chat, entry: Entry, caller: Caller, agent: str) -> None:
        self.chat = chat  # with its output capped to what is held
        self.reported: Usage | None = None
        self.headers: dict[str, str] = {}
        self._metering = metering
        self._entry = entry
        self._caller = caller
        self._agent = agent
        self._hold: Hold | None = None
        self._said: list[str] = []
        self.choices: set[int] = set()

    async def __aenter__(self) -> Held:
        if self._entry.model.leaf:
            if await self._metering.bounded():
                hold = await self._metering.admit(self.wish(bound_prompt(self.chat)), self.chat, self._caller)
                self._hold = hold if hold.bound else None
            if self._hold is not None and self._hold.hard:
                self._cap(self._hold)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._entry.model.leaf:
            return
        self._metering.reach("after_answer")
        used = await self._used(error)
        if self._hold is not None:
            reason = type(error).__name__ if error else ""
            await self._metering.book(End(self._hold.id, "voided" if used is None else "settled", used or Used(), reason))
        elif used is not None:
            await self._metering.book(Record(self.wish(0), used))

    async def _used(self, error: BaseException | None) -> Used | None:
        """What the call used; None: nothing at all."""
        if not self.choices and isinstance(error, ChatError) and not isinstance(error, BrokenAnswer):
            # Refused before a byte: nothing was used. No answer at all: nobody knows, so the hold is charged.
            if self._hold is None or not isinstance(error, TimedOut):
                return None
            held, output = self._hold.held, self._hold.output
            return Used(prompt=held.tokens - output, completion=output, cost=held.cost, estimated=True)
        counted = self.reported is None
        usage = await self.usage()
        cached = (usage.prompt_tokens_details or {}).get("cached_tokens")
        cached = min(cached, usage.prompt_tokens) if type(cached) is int and cached > 0 else 0
        cost = self._entry.price.of(usage.prompt_tokens, usage.completion_tokens, cached)
        return Used(prompt=usage.prompt_tokens, completion=usage.completion_tokens, cached=cached, cost=cost, estimated=counted)

    def see(self, chunk: Chunk) -> None:
        """Notes a step of the answer."""
        if chunk.usage is not None:
            self.reported = chunk.usage
        else:
            if not self.choices:
                self._metering.reach("first_chunk")
            self.choices.add(chunk.index)
            for key in ("content", "reasoning_content", "refusal"):
                if text := chunk.delta.get(key):
                    self._said.append(text)
            for call in chunk.delta.get("tool_calls") or ():
                self._said += [text for text in (call.get("function") or {}).values() if text]

    @property
    def overrun(self) -> bool:
        """Whether the upstream ignores its cap: a piece is a token at least, so more pieces than tokens held are too many."""
        hold = self._hold
        return hold is not None and hold.hard and len(self._said) > hold.output

    async def usage(self) -> Usage:
        """The reported usage, else an estimate: the words of both sides, counted."""
        if self.reported is None:
            name = self._entry.name
            asked = await count_async("\n".join(m.text for m in self.chat.messages), name)
            said = await count_async("".join(self._said), name)
            self.reported = Usage(asked, said, asked + said)
        return self.reported

    def wish(self, prompt: int) -> Wish:
        """The call, as the ledger knows it."""
        params, principal = self.chat.params, self._caller.principal
        caps = [params[name] for name in ("max_tokens", "max_completion_tokens") if params.get(name) is not None]
        if self._entry.max_output is not None:
            caps.append(self._entry.max_output)
        most = min(MOST_OUTPUT, *caps) if caps else DEFAULT_OUTPUT
        choices = params.get("n") or 1
        return Wish(
            id=f"hold_{random.getrandbits(128):032x}",
            asker=Asker(
                user=principal.user.id,
                key=principal.key_id,
                team=principal.team or "",
                agent=self._agent,
                session=self._caller.session.id if self._caller.session else "",
            ),
            model=self._entry.name,
            prompt=prompt,
            most=most * choices,
            least=min(most, 1) * choices,
            price=self._entry.price,
            request=self._caller.request_id,
            tag=self._caller.tag,
        )

    def _cap(self, hold: Hold) -> None:
        params = self.chat.params
        old = params.get("max_tokens") is not None and params.get("max_completion_tokens") is None
        name, each = "max_tokens" if old else "max_completion_tokens", hold.output // (params.get("n") or 1)
        capped = {k: v for k, v in params.items() if k not in ("max_tokens", "max_completion_tokens")} | {name: each}
        self.chat = msgspec.structs.replace(self.chat, params=capped)
        if hold.remaining is not None:
            self.headers["x-budget-remaining-tokens"] = str(hold.remaining)
        if hold.resets_at is not None:
            self.headers["x-budget-reset"] = str(hold.resets_at)


def _quota(error: BudgetExceededError, caller: Caller) -> QuotaError:
    """The refusal as a person reads it."""
    asker = caller.principal
    who = error.subject.replace(asker.user.id, asker.user.name)
    if asker.team:
        who = who.replace(asker.team, asker.team_name)
    amount, remaining = (_shown(value, error.unit) for value in (error.amount, error.remaining))
    left = "is used up" if error.remaining == 0 else f"has {remaining} left, too little for this request"
    per = "in all" if error.per == "total" else f"per {error.per}"
    resets = f", resets at {datetime.fromtimestamp(error.resets_at, UTC):%Y-%m-%dT%H:%M:%SZ}" if error.resets_at else ""
    headers: dict[str, Any] = {"x-budget-reset": str(error.resets_at)} if error.resets_at else {}
    if error.unit == "tokens":
        headers["x-budget-remaining-tokens"] = str(error.remaining)
    kind = "Token" if error.unit == "tokens" else "Cost"
    return QuotaError(f"{kind} budget for {who} {left}: {amount} {per}{resets}.", headers)


def _shown(value: int, unit: str) -> str:
    return f"{value:,} tokens" if unit == "tokens" else f"${value / 1_000_000:,.6f}".rstrip("0").rstrip(".")
