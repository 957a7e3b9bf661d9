"""The ledger's law, as steps that never touch a database themselves.

Each operation is a generator: it yields a statement with its parameters and is sent the rows. Whoever drives it (sqlite.py,
postgres.py) runs all of them in one transaction and rolls it back when the operation raises. So both databases, and a
simulator, run the very same law.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from datetime import tzinfo
from typing import Any, TypeVar

from msgspec import Struct

from chattable.budget.errors import BudgetExceededError, UnknownLimitError
from chattable.budget.ledger import LEASE, NOTHING, Amount, Difference, Entry, Hold, Price, Room, State, Wish
from chattable.budget.limits import Asker, Limit, period
from chattable.budget.tables import BALANCE

T = TypeVar("T")
Rows = list[tuple[Any, ...]]
Statement = tuple[str, dict[str, Any]]
Steps = Generator[Statement, Rows, T]

LIMIT = "id, kind, subject, per, tokens, cost, models, mode"
KEY = "limit_id = :limit AND owner = :owner AND period = :period"


class Dialect(Struct, frozen=True):
    """Where the two databases differ, and whose clock and calendar count."""

    now: str  # an SQL expression: unix seconds
    lock: str  # what makes a SELECT hold its rows until the end of the transaction
    zone: tzinfo


class RepeatedHoldError(Exception):
    """A hold with this id exists: nothing may be reserved again."""


class _Account(Struct):
    """A limit's balance in its present window, locked."""

    limit: Limit
    owner: str
    period: int
    resets_at: int | None
    spent: Amount
    held: Amount
    granted: Amount

    @property
    def key(self) -> dict[str, Any]:
        return {"limit": self.limit.id, "owner": self.owner, "period": self.period}

    def room(self) -> Room:
        amount = Amount(self.limit.tokens or 0, self.limit.cost or 0) + self.granted
        return Room(limit=self.limit, amount=amount, spent=self.spent, held=self.held, resets_at=self.resets_at)

    def fits(self, wish: Wish) -> int:
        """The most output that this limit leaves room for; negative if not even the prompt fits."""
        remaining, most = self.room().remaining, wish.most
        if self.limit.tokens is not None:
            most = min(most, remaining.tokens - wish.prompt)
        if self.limit.cost is not None:
            left = remaining.cost * 1_000_000 - wish.prompt * wish.price.input
            most = min(most, left // wish.price.output) if wish.price.output else most if left >= 0 else -1
        return most

    def refusal(self, wish: Wish) -> BudgetExceededError:
        room, limit = self.room(), self.limit
        of_tokens = limit.tokens is not None and room.remaining.tokens < wish.prompt + wish.least
        unit, amount, left = (
            ("tokens", room.amount.tokens, room.remaining.tokens)
            if of_tokens
            else ("micro-USD", room.amount.cost, room.remaining.cost)
        )
        subject = f"{limit.kind} {self.owner or limit.subject}".replace("each_user", "user").strip()
        return BudgetExceededError(limit.id, subject, limit.per, unit, amount, max(0, left), self.resets_at)


def put_limit(limit: Limit) -> Steps[None]:
    """Adds or changes a limit."""
    yield (
        f"INSERT INTO limits ({LIMIT}, active) VALUES (:id, :kind, :subject, :per, :tokens, :cost, :models, :mode, TRUE)"
        " ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, subject = excluded.subject, per = excluded.per,"
        " tokens = excluded.tokens, cost = excluded.cost, models = excluded.models, mode = excluded.mode, active = TRUE",
        {
            "id": limit.id, "kind": limit.kind, "subject": limit.subject, "per": limit.per, "tokens": limit.tokens,
            "cost": limit.cost, "models": None if limit.models is None else json.dumps(limit.models), "mode": limit.mode,
        },
    )  # fmt: skip


def drop_limit(limit_id: str) -> Steps[None]:
    """Ends a limit."""
    yield "UPDATE limits SET active = FALSE WHERE id = :id", {"id": limit_id}


def limits() -> Steps[list[Limit]]:
    """Every limit in force."""
    rows = yield f"SELECT {LIMIT} FROM limits WHERE active ORDER BY id", {}
    return [_limit(row) for row in rows]


def bounded() -> Steps[bool]:
    """Whether any limit is in force."""
    rows = yield "SELECT 1 FROM limits WHERE active LIMIT 1", {}
    return bool(rows)


def hold(dialect: Dialect, wish: Wish) -> Steps[Hold]:
    """Reserves; raises `BudgetExceededError`, or `RepeatedHoldError` for an id that is taken."""
    now, accounts = yield from _accounts(dialect, wish.asker, wish.model)
    hard = [account for account in accounts if account.limit.mode == "hard"]
    output = min([wish.most, *(account.fits(wish) for account in hard)])
    if output < wish.least:
        raise min(hard, key=lambda account: account.fits(wish)).refusal(wish)
    amount = wish.amount(output)
    inserted = yield (
        "INSERT INTO holds (id, state, lease_until, output, tokens, cost, accounts, user_id, model, request) VALUES"
        " (:id, 'pending', :lease_until, :output, :tokens, :cost, :accounts, :user_id, :model, :request)"
        " ON CONFLICT (id) DO NOTHING RETURNING id",
        {
            "id": wish.id, "lease_until": now + LEASE, "output": output, "tokens": amount.tokens, "cost": amount.cost,
            "accounts": json.dumps([list(account.key.values()) for account in accounts]),
            "user_id": wish.asker.user, "model": wish.model, "request": wish.request,
        },
    )  # fmt: skip
    if not inserted:
        raise RepeatedHoldError
    for account in accounts:
        yield from _book(now, "hold", wish.id, account.key, held=amount)
    soft = [account for account in accounts if account.limit.mode == "soft" and account.fits(wish) < output]
    rooms = [account.room() for account in hard if account.limit.tokens is not None]
    left = [(room.remaining.tokens, room.resets_at) for room in rooms]
    remaining, resets_at = min(left, key=lambda pair: pair[0], default=(None, None))
    warnings = tuple(account.limit.id for account in soft)
    return Hold(id=wish.id, output=output, held=amount, warnings=warnings, remaining=remaining, resets_at=resets_at)


def existing(hold_id: str) -> Steps[Hold]:
    """The hold with an id that was taken before."""
    ((output, tokens, cost),) = yield "SELECT output, tokens, cost FROM holds WHERE id = :id", {"id": hold_id}
    return Hold(id=hold_id, output=output, held=Amount(tokens, cost))


def top_up(dialect: Dialect, hold_id: str, output: int, price: Price) -> Steps[bool]:
    """Reserves more output for a pending hold, all of it or nothing."""
    rows = yield f"SELECT state, accounts, {dialect.now} FROM holds WHERE id = :id{dialect.lock}", {"id": hold_id}
    if not rows or rows[0][0] != "pending":
        return False
    more = Amount(output, price.of(0, output))
    _, accounts, now = rows[0]
    keys = _keys(accounts)
    for key in keys:
        ((*columns, per),) = yield (
            f"SELECT {_columns('limits')}, {', '.join(BALANCE)}, accounts.period FROM accounts"
            f" JOIN limits ON limits.id = limit_id WHERE {KEY}{dialect.lock}",
            key,
        )
        account = _account(_limit(tuple(columns[:8])), key["owner"], per, None, tuple(columns[8:]))
        remaining = account.room().remaining
        limit = account.limit
        short = (limit.tokens is not None and remaining.tokens < more.tokens) or (
            limit.cost is not None and remaining.cost < more.cost
        )
        if limit.mode == "hard" and short:
            return False
    for key in keys:
        yield from _book(now, "top_up", hold_id, key, held=more)
    yield (
        "UPDATE holds SET output = output + :output, tokens = tokens + :tokens, cost = cost + :cost WHERE id = :id",
        {"id": hold_id, "output": output, "tokens": more.tokens, "cost": more.cost},
    )
    return True


def renew(dialect: Dialect, hold_id: str) -> Steps[None]:
    """Gives a pending hold a new lease."""
    yield (
        f"UPDATE holds SET lease_until = {dialect.now} + :lease WHERE id = :id AND state = 'pending'",
        {"id": hold_id, "lease": LEASE},
    )


def settle(dialect: Dialect, hold_id: str, used: Amount, reason: str) -> Steps[State]:
    """Books what was used, once; corrects a forfeit."""
    return (yield from _end(dialect, hold_id, "settled", used, reason))


def void(dialect: Dialect, hold_id: str, reason: str) -> Steps[State]:
    """Books that nothing was used, once; corrects a forfeit."""
    return (yield from _end(dialect, hold_id, "voided", NOTHING, reason))


def expired(dialect: Dialect) -> Steps[list[str]]:
    """Pending holds whose lease is over."""
    rows = yield f"SELECT id FROM holds WHERE state = 'pending' AND lease_until < {dialect.now} ORDER BY id LIMIT 500", {}
    return [row[0] for row in rows]


def forfeit(dialect: Dialect, hold_id: str) -> Steps[bool]:
    """Charges the whole of an expired hold; False if somebody renewed or ended it meanwhile."""
    rows = yield (
        f"UPDATE holds SET state = 'forfeited' WHERE id = :id AND state = 'pending' AND lease_until < {dialect.now}"
        f" RETURNING tokens, cost, accounts, {dialect.now}",
        {"id": hold_id},
    )
    if rows:
        held = Amount(*rows[0][:2])
        yield from _charge(rows[0], "forfeit", hold_id, spent=held, held=-held, overdraft=NOTHING, reason="lease expired")
    return bool(rows)


def grant(dialect: Dialect, limit_id: str, owner: str, amount: Amount, reason: str) -> Steps[None]:
    """Adds room to the present window."""
    now, account = yield from _one_account(dialect, limit_id, owner)
    yield from _book(now, "grant", "", account.key, granted=amount, reason=reason)


def refund(dialect: Dialect, limit_id: str, owner: str, amount: Amount, reason: str) -> Steps[None]:
    """Takes back spending of the present window, at most what was spent."""
    now, account = yield from _one_account(dialect, limit_id, owner)
    back = Amount(min(amount.tokens, account.spent.tokens), min(amount.cost, account.spent.cost))
    yield from _book(now, "refund", "", account.key, spent=-back, reason=reason)


def rooms(dialect: Dialect, asker: Asker, model: str) -> Steps[list[Room]]:
    """What every binding limit has left."""
    _, accounts = yield from _accounts(dialect, asker, model)
    return [account.room() for account in accounts]


def room(dialect: Dialect, limit_id: str, owner: str) -> Steps[Room]:
    """What one limit has left."""
    _, account = yield from _one_account(dialect, limit_id, owner)
    return account.room()


def accounts() -> Steps[int]:
    """How many balances there are."""
    ((count,),) = yield "SELECT COUNT(*) FROM accounts", {}
    return int(count)


def entries(limit_id: str, hold_id: str, user: str, after: int, most: int) -> Steps[list[Entry]]:
    """Entries in their order."""
    rows = yield (
        f"SELECT id, at, kind, hold_id, limit_id, owner, period, reason, {', '.join(BALANCE)}, overdraft_tokens, overdraft_cost"
        " FROM entries WHERE id > :after AND (:limit = '' OR limit_id = :limit) AND (:hold = '' OR hold_id = :hold)"
        " AND (:user = '' OR hold_id IN (SELECT id FROM holds WHERE user_id = :user)) ORDER BY id LIMIT :most",
        {"after": after, "limit": limit_id, "hold": hold_id, "user": user, "most": most},
    )
    return [
        Entry(
            id=i, at=at, kind=kind, hold=hold, limit=limit, owner=owner, period=begin, reason=reason,
            spent=Amount(st, sc), held=Amount(ht, hc), granted=Amount(gt, gc), overdraft=Amount(ot, oc),
        )
        for i, at, kind, hold, limit, owner, begin, reason, st, ht, gt, sc, hc, gc, ot, oc in rows
    ]  # fmt: skip


def verify() -> Steps[list[Difference]]:
    """Balances that are not the sums of their entries, and held amounts that no pending hold explains."""
    sums = ", ".join(f"CAST(COALESCE(SUM(e.{name}), 0) AS BIGINT)" for name in BALANCE)
    rows = yield (
        f"SELECT a.limit_id, a.owner, a.period, {', '.join(f'a.{name}' for name in BALANCE)}, {sums} FROM accounts a"
        " LEFT JOIN entries e ON e.limit_id = a.limit_id AND e.owner = a.owner AND e.period = a.period"
        f" GROUP BY a.limit_id, a.owner, a.period, {', '.join(f'a.{name}' for name in BALANCE)}",
        {},
    )
    wrong = {row[:3]: Difference(row[0], row[1], row[2], row[3:9], row[9:]) for row in rows if row[3:9] != row[9:]}
    held = yield (
        "SELECT e.limit_id, e.owner, e.period, CAST(SUM(e.held_tokens) AS BIGINT), CAST(SUM(e.held_cost) AS BIGINT)"
        " FROM entries e JOIN holds h ON h.id = e.hold_id WHERE h.state <> 'pending' GROUP BY e.limit_id, e.owner, e.period"
        " HAVING SUM(e.held_tokens) <> 0 OR SUM(e.held_cost) <> 0",
        {},
    )
    return [*wrong.values(), *(Difference(row[0], row[1], row[2], (0, 0), row[3:]) for row in held if row[:3] not in wrong)]


def _end(dialect: Dialect, hold_id: str, state: State, used: Amount, reason: str) -> Steps[State]:
    rows = yield (
        f"UPDATE holds SET state = :state WHERE id = :id AND state = 'pending' RETURNING tokens, cost, accounts, {dialect.now}",
        {"id": hold_id, "state": state},
    )
    if rows:
        held = Amount(*rows[0][:2])
        over = Amount(max(0, used.tokens - held.tokens), max(0, used.cost - held.cost))
        kind = "settle" if state == "settled" else "void"
        yield from _charge(rows[0], kind, hold_id, spent=used, held=-held, overdraft=over, reason=reason)
        return state
    rows = yield (
        f"UPDATE holds SET state = :state WHERE id = :id AND state = 'forfeited' RETURNING tokens, cost, accounts, {dialect.now}",
        {"id": hold_id, "state": state},
    )
    if rows:
        forfeited = Amount(*rows[0][:2])
        yield from _charge(rows[0], "correct", hold_id, spent=used - forfeited, held=NOTHING, overdraft=NOTHING, reason=reason)
        return state
    rows = yield "SELECT state FROM holds WHERE id = :id", {"id": hold_id}
    if not rows:
        raise KeyError(hold_id)
    found: State = rows[0][0]
    return found


def _charge(
    row: tuple[Any, ...], kind: str, hold_id: str, *, spent: Amount, held: Amount, overdraft: Amount, reason: str
) -> Steps[None]:
    """Books the end of a hold on the accounts that it named, in the order in which it locked them."""
    _, _, accounts, now = row
    for key in _keys(accounts):
        yield from _book(now, kind, hold_id, key, spent=spent, held=held, overdraft=overdraft, reason=reason)


def _keys(accounts: str) -> list[dict[str, Any]]:
    return [{"limit": limit, "owner": owner, "period": begin} for limit, owner, begin in json.loads(accounts)]


def _book(
    now: float,
    kind: str,
    hold_id: str,
    key: dict[str, Any],
    *,
    spent: Amount = NOTHING,
    held: Amount = NOTHING,
    granted: Amount = NOTHING,
    overdraft: Amount = NOTHING,
    reason: str = "",
) -> Steps[None]:
    """Changes a balance and writes the entry that says so."""
    values = dict(zip(BALANCE, (spent.tokens, held.tokens, granted.tokens, spent.cost, held.cost, granted.cost), strict=True))
    yield f"UPDATE accounts SET {', '.join(f'{name} = {name} + :{name}' for name in BALANCE)} WHERE {KEY}", {**key, **values}
    yield (
        f"INSERT INTO entries (at, kind, hold_id, limit_id, owner, period, {', '.join(BALANCE)}, overdraft_tokens,"
        f" overdraft_cost, reason) VALUES (:at, :kind, :hold, :limit, :owner, :period, {', '.join(f':{n}' for n in BALANCE)},"
        " :overdraft_tokens, :overdraft_cost, :reason)",
        {
            **key, **values, "at": int(now), "kind": kind, "hold": hold_id, "reason": reason,
            "overdraft_tokens": overdraft.tokens, "overdraft_cost": overdraft.cost,
        },
    )  # fmt: skip


def _accounts(dialect: Dialect, asker: Asker, model: str) -> Steps[tuple[float, list[_Account]]]:
    """The present time, and the locked balances of every limit that binds such a request, in the order of their ids."""
    subjects = asker.subjects(model)
    pairs = " OR ".join(f"(kind = :kind{i} AND subject = :subject{i})" for i in range(len(subjects)))
    names = {
        f"{name}{i}": value for i, pair in enumerate(subjects) for name, value in zip(("kind", "subject"), pair, strict=True)
    }
    # One row without a limit brings the time when nothing binds.
    rows = yield (
        f"SELECT {dialect.now}, {_columns('limits')} FROM (SELECT 1 AS one) AS always"
        f" LEFT JOIN limits ON active AND ({pairs}) ORDER BY limits.id",
        names,
    )
    now = rows[0][0]
    found = [_limit(row[1:]) for row in rows if row[1] is not None]
    if any(limit.kind == "user" for limit in found):  # a limit of one's own takes the place of the one for each user
        found = [limit for limit in found if limit.kind != "each_user"]
    binding = [limit for limit in found if limit.covers(model)]
    accounts: list[_Account] = []
    for limit in binding:
        owner = asker.user if limit.kind == "each_user" else ""
        accounts.append((yield from _locked(dialect, limit, owner, now)))
    return now, accounts


def _one_account(dialect: Dialect, limit_id: str, owner: str) -> Steps[tuple[float, _Account]]:
    rows = yield f"SELECT {dialect.now}, {LIMIT} FROM limits WHERE active AND id = :id", {"id": limit_id}
    if not rows:
        raise UnknownLimitError(f"There is no limit {limit_id!r}.")
    limit = _limit(rows[0][1:])
    if bool(owner) != (limit.kind == "each_user"):
        what = "not for each user: name none" if owner else "for each user: name one"
        raise UnknownLimitError(f"The limit {limit_id!r} is {what}.")
    return rows[0][0], (yield from _locked(dialect, limit, owner, rows[0][0]))


def _locked(dialect: Dialect, limit: Limit, owner: str, now: float) -> Steps[_Account]:
    begin, resets_at = period(limit.per, now, dialect.zone)
    key = {"limit": limit.id, "owner": owner, "period": begin}
    select = f"SELECT {', '.join(BALANCE)} FROM accounts WHERE {KEY}{dialect.lock}"
    rows = yield select, key
    if not rows:
        yield (
            f"INSERT INTO accounts (limit_id, owner, period, {', '.join(BALANCE)}) VALUES (:limit, :owner, :period, 0,0,0,0,0,0)"
            " ON CONFLICT DO NOTHING",
            key,
        )
        rows = yield select, key
    return _account(limit, owner, begin, resets_at, rows[0])


def _account(limit: Limit, owner: str, begin: int, resets_at: int | None, balance: tuple[int, ...]) -> _Account:
    st, ht, gt, sc, hc, gc = balance
    return _Account(limit, owner, begin, resets_at, Amount(st, sc), Amount(ht, hc), Amount(gt, gc))


def _columns(table: str) -> str:
    return ", ".join(f"{table}.{name}" for name in LIMIT.split(", "))


def _limit(row: tuple[Any, ...]) -> Limit:
    limit_id, kind, subject, per, tokens, cost, models, mode = row
    if isinstance(models, str):
        models = json.loads(models)
    named = None if models is None else tuple(models)
    return Limit(id=limit_id, kind=kind, subject=subject, per=per, tokens=tokens, cost=cost, models=named, mode=mode)
