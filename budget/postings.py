"""The balances that one transaction has locked, and what it posts to them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import tzinfo
from typing import Any
from uuid import uuid4

from msgspec import Struct

from chattable.budget.errors import BudgetExceededError, UnpricedError
from chattable.budget.ledger import NOTHING, Amount, Balance, HoldRequest
from chattable.budget.limits import Limit, period
from chattable.budget.storage.statements import Dialect, Steps, array
from chattable.budget.tables import ACCOUNT, BALANCE, ENTRY, EVENT, INTEGER

# limit, owner (the user, where a limit is for each of them), first second of the window
Key = tuple[str, str, int]

LIMIT = ("id", "kind", "subject", "per", "tokens", "cost", "models", "mode")
LIMIT_COLUMNS = ", ".join(f"limits.{name}" for name in LIMIT)
SPENDING_KINDS = ("settle", "forfeit", "correct")
THRESHOLDS_PERCENT = (50, 80, 100)  # of a limit; passing one raises an event


class LedgerDialect(Dialect, frozen=True):
    """A database's dialect, with the budgets' time zone and the thresholds of their events."""

    zone: tzinfo
    thresholds: tuple[int, ...] = THRESHOLDS_PERCENT


class Account(Struct):
    """A limit's balance in one window, locked."""

    limit: Limit
    owner: str
    period: int
    resets_at: int | None
    spent: Amount
    held: Amount
    granted: Amount

    @property
    def key(self) -> Key:
        """What names it."""
        return self.limit.id, self.owner, self.period

    @property
    def amount(self) -> Amount:
        """The limit with its grants; a unit that is not limited is 0."""
        return Amount(self.limit.tokens or 0, self.limit.cost or 0) + self.granted

    def balance(self) -> Balance:
        """What is left."""
        return Balance(
            limit=self.limit,
            amount=self.amount,
            spent=self.spent,
            held=self.held,
            resets_at=self.resets_at,
        )

    def fits(self, request: HoldRequest, most: int, held: Amount | None = None) -> int:
        """The output of at most `most` tokens that this limit leaves room for.

        Negative if not even the prompt fits. `held` stands for what calls under way hold.
        """
        amount, spent, held = self.amount, self.spent, held or self.held
        if self.limit.tokens is not None:
            most = min(most, amount.tokens - spent.tokens - held.tokens - request.prompt)
        if self.limit.cost is None:
            return most
        return self._affordable(request, most, amount.cost - spent.cost - held.cost)

    def _affordable(self, request: HoldRequest, most: int, left: int) -> int:
        """The output of at most `most` tokens that so many micro-USD pay for."""
        if not request.priced and self.limit.mode == "hard":
            return -1
        if request.free:
            return most
        price = request.price.at(request.prompt)
        left = (left - request.fixed) * 1_000_000 - request.prompt * price.input
        if price.output:
            return min(most, left // price.output)
        return most if left >= 0 else -1

    def beyond(self, more: Amount) -> Amount:
        """The part of an amount that this limit has no room for."""
        limit, left = self.limit, self.balance().remaining
        tokens = 0 if limit.tokens is None else max(0, more.tokens - max(0, left.tokens))
        cost = 0 if limit.cost is None else max(0, more.cost - max(0, left.cost))
        return Amount(tokens, cost)

    def refusal(self, request: HoldRequest, *, busy: bool) -> BudgetExceededError:
        """The error that says which unit has no room for the call."""
        limit, amount, held = self.limit, self.amount, self.held
        if not request.priced and limit.cost is not None:
            return UnpricedError(limit.id, self.subject, limit.per, request.model)
        remaining = self.balance().remaining
        needed = request.prompt + request.min_output
        of_tokens = limit.tokens is not None and remaining.tokens < needed
        unit, whole, left, under_way = (
            ("tokens", amount.tokens, remaining.tokens, held.tokens)
            if of_tokens
            else ("micro-USD", amount.cost, remaining.cost, held.cost)
        )
        return BudgetExceededError(
            limit.id,
            self.subject,
            limit.per,
            unit,
            whole,
            max(0, left),
            self.resets_at,
            held=under_way,
            busy=busy,
        )

    @property
    def subject(self) -> str:
        """Whose it is, as "user alice"."""
        return f"{self.limit.kind} {self.owner or self.limit.subject}".replace(
            "each_user", "user"
        ).strip()

    def figures(self) -> tuple[int, ...]:
        """Its figures, in the order of `BALANCE`."""
        spent, held, granted = self.spent, self.held, self.granted
        return spent.tokens, held.tokens, granted.tokens, spent.cost, held.cost, granted.cost


class Books:
    """Opens accounts and posts to them.

    Law: accounts are locked in the order of their keys, whoever asks; every change of a balance has
    its entry; both are written by `close`, or not at all.
    """

    def __init__(self, dialect: LedgerDialect, now: float) -> None:
        self.now = now
        self.accounts: dict[Key, Account] = {}
        self._dialect = dialect
        self._before: dict[Key, tuple[int, ...]] = {}
        self._entries: list[tuple[Any, ...]] = []
        self._events: list[tuple[Any, ...]] = []

    def key(self, limit: Limit, owner: str) -> Key:
        """The account that a limit has now."""
        begin, _ = period(limit.per, self.now, self._dialect.zone)
        return limit.id, owner, begin

    def open(self, keys: Iterable[Key]) -> Steps[None]:
        """Locks accounts, making those that are new."""
        wanted = sorted(set(keys))
        yield from self._read(wanted)
        if missing := [key for key in wanted if key not in self.accounts]:
            new = self._dialect.rows("rows", ACCOUNT)
            yield (
                f"INSERT INTO accounts (limit_id, owner, period, {', '.join(BALANCE)})"
                f" SELECT limit_id, owner, period, 0, 0, 0, 0, 0, 0 FROM {new} AS new WHERE TRUE"
                " ON CONFLICT DO NOTHING",
                array(missing),
            )
            yield from self._read(missing)

    def look(self, limits: Iterable[tuple[Limit, str]]) -> Steps[list[Account]]:
        """The accounts that limits have now for their owners.

        Nothing is locked, and an account that is not there is not made.
        """
        wanted = {self.key(limit, owner): limit for limit, owner in limits}
        yield from self._read(sorted(wanted), lock=False)
        for key in wanted.keys() - self.accounts.keys():
            _, owner, begin = key
            resets_at = period(wanted[key].per, begin, self._dialect.zone)[1]
            self.accounts[key] = Account(
                wanted[key], owner, begin, resets_at, NOTHING, NOTHING, NOTHING
            )
        return [self.accounts[key] for key in sorted(wanted)]

    def _read(self, keys: list[Key], *, lock: bool = True) -> Steps[None]:
        if not keys:
            return
        rows = yield (
            f"SELECT {LIMIT_COLUMNS}, owner, period, {', '.join(BALANCE)}"
            " FROM accounts JOIN limits ON limits.id = limit_id"
            f" WHERE (limit_id, owner, period) IN {self._dialect.rows('rows', ACCOUNT)}"
            f" ORDER BY limit_id, owner, period{self._dialect.lock('accounts') if lock else ''}",
            array(keys),
        )
        for *columns, owner, begin, st, ht, gt, sc, hc, gc in rows:
            limit = limit_of(columns)
            resets_at = period(limit.per, begin, self._dialect.zone)[1]
            account = Account(
                limit, owner, begin, resets_at, Amount(st, sc), Amount(ht, hc), Amount(gt, gc)
            )
            self.accounts[account.key] = account
            self._before[account.key] = account.figures()

    def book(
        self,
        key: Key,
        kind: str,
        hold_id: str = "",
        *,
        spent: Amount = NOTHING,
        held: Amount = NOTHING,
        granted: Amount = NOTHING,
        overdraft: Amount = NOTHING,
        reason: str = "",
    ) -> None:
        """Changes a balance, with the entry that says so."""
        account = self.accounts[key]
        if kind in SPENDING_KINDS:
            self._watch(account, spent, overdraft, hold_id)
        account.spent += spent
        account.held += held
        account.granted += granted
        figures = (
            *(spent.tokens, held.tokens, granted.tokens),
            *(spent.cost, held.cost, granted.cost),
            *(overdraft.tokens, overdraft.cost),
        )
        self._entries.append((int(self.now), kind, hold_id, *key, *figures, reason))

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Puts an event into the outbox."""
        self._events.append(
            (f"evt_{uuid4().hex}", int(self.now), kind, json.dumps(data), "waiting", 0, self.now)
        )

    def close(self) -> Steps[None]:
        """Writes everything down."""
        changed = []
        for key in sorted(self._before):
            change = [
                new - old
                for new, old in zip(self.accounts[key].figures(), self._before[key], strict=True)
            ]
            if any(change):
                changed.append((*key, *change))
        if changed:
            more = self._dialect.rows("rows", {**ACCOUNT, **dict.fromkeys(BALANCE, INTEGER)})
            sums = ", ".join(f"{name} = accounts.{name} + more.{name}" for name in BALANCE)
            yield (
                f"UPDATE accounts SET {sums} FROM {more} AS more"
                " WHERE accounts.limit_id = more.limit_id AND accounts.owner = more.owner"
                " AND accounts.period = more.period",
                array(changed),
            )
        if self._entries:
            yield self._dialect.insert("entries", ENTRY, self._entries)
        if self._events:
            yield self._dialect.insert("notices", EVENT, self._events)

    def _watch(self, account: Account, spent: Amount, overdraft: Amount, hold_id: str) -> None:
        """Raises an event for each threshold that is passed, and for spending beyond a hold."""
        limit, amount = account.limit, account.amount
        units = (
            ("tokens", account.spent.tokens, spent.tokens, amount.tokens, limit.tokens),
            ("micro-USD", account.spent.cost, spent.cost, amount.cost, limit.cost),
        )
        for unit, before, more, whole, limited in units:
            if limited is None or more <= 0:
                continue
            crossed = [
                p
                for p in self._dialect.thresholds
                if before * 100 < p * whole <= (before + more) * 100
            ]
            if crossed:
                facts = {
                    "percent": max(crossed),
                    "spent": before + more,
                    "amount": whole,
                    "unit": unit,
                }
                self.event("budget.threshold", self._about(account) | facts)
        if overdraft != NOTHING:
            facts = {"hold": hold_id, "tokens": overdraft.tokens, "micro_usd": overdraft.cost}
            self.event("budget.overdraft", self._about(account) | facts)

    def _about(self, account: Account) -> dict[str, Any]:
        limit = account.limit
        return {
            "budget": limit.id,
            "subject": account.subject,
            "per": limit.per,
            "mode": limit.mode,
            "period": account.period,
            "resets_at": account.resets_at,
        }


def limit_of(row: Iterable[Any]) -> Limit:
    """A limit from its row."""
    limit_id, kind, subject, per, tokens, cost, models, mode = row
    named = None if models is None else tuple(json.loads(models))
    return Limit(
        id=limit_id,
        kind=kind,
        subject=subject,
        per=per,
        tokens=tokens,
        cost=cost,
        models=named,
        mode=mode,
    )
