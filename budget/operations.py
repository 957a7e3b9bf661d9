"""Limits, grants, leases and reports, as operations; the calls themselves are in holds.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import asdict

from chattable.budget.errors import UnknownLimitError
from chattable.budget.holds import binding_accounts
from chattable.budget.ledger import HOLD_LEASE_S, Amount, Balance, Posting, UsageRow
from chattable.budget.limits import MAX_AMOUNT, Limit, Payer, check_per
from chattable.budget.postings import LIMIT, LIMIT_COLUMNS, Account, Books, LedgerDialect, limit_of
from chattable.budget.storage.statements import Row, Steps, array, time
from chattable.budget.tables import ENTRY, TEXT

MAX_SWEPT = 500  # expired holds in one sweep
LONGEST_DAY_S = 2 * 86_400  # more seconds than a day has anywhere
MANY_ENTRIES = 5000  # of a limit: more are not sorted for a page
LONG_REPORT_S = 7 * 86_400
GROUP_COLUMNS = {
    **{"user": "user_id", "team": "team", "key": "key_id", "model": "model"},
    **{"agent": "agent", "session": "session", "tag": "tag", "day": "day"},
}


def put_limit(dialect: LedgerDialect, limit: Limit) -> Steps[None]:
    """Adds or changes a limit."""
    _check_limit(limit)
    models = None if limit.models is None else json.dumps(limit.models)
    values = ", ".join(f":{name}" for name in LIMIT)
    changed = ", ".join(f"{name} = excluded.{name}" for name in LIMIT[1:])
    yield (
        f"INSERT INTO limits ({', '.join(LIMIT)}, active, created_at)"
        f" VALUES ({values}, TRUE, CAST({dialect.now} AS BIGINT))"
        f" ON CONFLICT (id) DO UPDATE SET {changed}, active = TRUE",
        asdict(limit) | {"models": models},
    )


def drop_limit(limit_id: str) -> Steps[None]:
    """Ends a limit."""
    yield "UPDATE limits SET active = FALSE WHERE id = :id", {"id": limit_id}


def limits() -> Steps[list[Limit]]:
    """Every limit in force."""
    rows = yield f"SELECT {LIMIT_COLUMNS} FROM limits WHERE active ORDER BY id", {}
    return [limit_of(row) for row in rows]


def limit_page(
    dialect: LedgerDialect,
    after: str = "",
    most: int = MAX_AMOUNT,
    subjects: Sequence[tuple[str, str]] | None = None,
) -> Steps[list[Limit]]:
    """Limits in force as they were made, from behind the one with that id.

    `subjects` are the (kind, subject) pairs that they may be on; None: any.
    """
    given: Row = {"most": most}
    where = "active"
    if subjects is not None:
        where += f" AND (kind, subject) IN {dialect.rows('rows', {'kind': TEXT, 'subject': TEXT})}"
        given |= array(subjects)
    if after:
        rows = yield "SELECT created_at, id FROM limits WHERE id = :after", {"after": after}
        if not rows:
            raise UnknownLimitError(f"There is no budget {after!r}.")
        where += " AND (created_at, id) > (:made, :last)"
        given["made"], given["last"] = rows[0]
    rows = yield (
        f"SELECT {LIMIT_COLUMNS} FROM limits WHERE {where} ORDER BY created_at, id LIMIT :most",
        given,
    )
    return [limit_of(row) for row in rows]


def limit_of_id(limit_id: str) -> Steps[Limit]:
    """A limit in force, or `UnknownLimitError`."""
    rows = yield f"SELECT {LIMIT_COLUMNS} FROM limits WHERE active AND id = :id", {"id": limit_id}
    if not rows:
        raise UnknownLimitError(f"There is no budget {limit_id!r}.")
    return limit_of(rows[0])


def has_limits() -> Steps[bool]:
    """Whether any limit is in force."""
    rows = yield "SELECT 1 FROM limits WHERE active LIMIT 1", {}
    return bool(rows)


def renew(dialect: LedgerDialect, hold_ids: Sequence[str]) -> Steps[None]:
    """Gives pending holds a new lease."""
    ids = array([[hold_id] for hold_id in hold_ids])
    wanted = f"id IN {dialect.rows('rows', {'id': TEXT})} AND state = 'pending'"
    if dialect.locks:  # in the order in which everybody locks them
        yield f"SELECT id FROM calls WHERE {wanted} ORDER BY id{dialect.lock('calls')}", ids
    yield (
        f"UPDATE calls SET lease_until = {dialect.now} + :lease WHERE {wanted}",
        {**ids, "lease": HOLD_LEASE_S},
    )


def expired(dialect: LedgerDialect) -> Steps[list[str]]:
    """Pending holds whose lease is over."""
    rows = yield (
        f"SELECT id FROM calls WHERE state = 'pending' AND lease_until < {dialect.now}"
        f" ORDER BY lease_until LIMIT {MAX_SWEPT}",
        {},
    )
    return [row[0] for row in rows]


def grant(
    dialect: LedgerDialect, limit_id: str, owner: str, amount: Amount, reason: str
) -> Steps[None]:
    """Adds to a limit in its present window."""
    _check_change(amount)
    books, account = yield from _one(dialect, limit_id, owner)
    books.book(account.key, "grant", granted=amount, reason=reason)
    yield from books.close()


def refund(
    dialect: LedgerDialect, limit_id: str, owner: str, amount: Amount, reason: str
) -> Steps[None]:
    """Takes back spending of the present window, at most what was spent."""
    _check_change(amount)
    books, account = yield from _one(dialect, limit_id, owner)
    spent = account.spent  # below zero where a forfeit was refunded and then corrected
    back = Amount(min(amount.tokens, max(0, spent.tokens)), min(amount.cost, max(0, spent.cost)))
    books.book(account.key, "refund", spent=-back, reason=reason)
    yield from books.close()


def balances(dialect: LedgerDialect, payer: Payer, model: str) -> Steps[list[Balance]]:
    """What every binding limit has left."""
    return [account.balance() for account in (yield from binding_accounts(dialect, payer, model))]


def balance(dialect: LedgerDialect, limit_id: str, owner: str) -> Steps[Balance]:
    """What one limit has left."""
    books, limit = yield from _named(dialect, limit_id, owner)
    (account,) = yield from books.look([(limit, owner)])
    return account.balance()


def accounts() -> Steps[int]:
    """How many balances there are."""
    ((count,),) = yield "SELECT COUNT(*) FROM accounts", {}
    return int(count)


def balances_of(
    dialect: LedgerDialect, wanted: Sequence[tuple[Limit, str]]
) -> Steps[dict[str, Balance]]:
    """What limits have left for their owners, by the limit's id."""
    found = yield from Books(dialect, (yield from time(dialect))).look(wanted)
    return {account.limit.id: account.balance() for account in found}


def entries(limit_id: str, hold_id: str, user: str, after: int, most: int) -> Steps[list[Posting]]:
    """Entries in their order.

    Only what is asked for is a condition, so that an index serves it; and only the entries of the
    page are read, of others their ids in an index. A limit with few entries is found by them; one
    with many is met often enough on the way through all of them, and needs no order of its own.
    """
    columns = ", ".join(f"entries.{name}" for name in ENTRY)
    given = {"limit": limit_id, "hold": hold_id, "user": user}
    asked = {name: value for name, value in given.items() if value}
    conditions = {
        "limit": "limit_id || '' = :limit",  # keeps the index out of reach
        "hold": "hold_id = :hold",
        "user": "hold_id IN (SELECT id FROM calls WHERE user_id = :user)",
    }
    if asked.keys() == {"limit"}:
        few = (
            "SELECT COUNT(*) FROM (SELECT 1 FROM entries WHERE limit_id = :limit LIMIT :many) AS x"
        )
        ((count,),) = yield few, {"limit": limit_id, "many": MANY_ENTRIES}
        if count < MANY_ENTRIES:
            conditions["limit"] = "limit_id = :limit"
    where = "".join(f" AND {conditions[name]}" for name in asked)
    some = f"SELECT id FROM entries WHERE id > :after{where} ORDER BY id LIMIT :most"
    rows = yield (
        f"SELECT entries.id, {columns}, calls.unknown, calls.tokens, calls.cost FROM entries"
        " LEFT JOIN calls ON calls.id = hold_id AND entries.kind IN ('settle', 'correct')"
        f" WHERE entries.id IN ({some}) ORDER BY entries.id",
        {"after": after, "most": most, **asked},
    )
    return [_posting(*row) for row in rows]


def _posting(posting_id: int, *row: Any) -> Posting:
    entry = dict(zip(ENTRY, row, strict=False))
    unknown, tokens, cost = row[len(ENTRY) :]
    return Posting(
        id=posting_id,
        at=entry["at"],
        kind=entry["kind"],
        hold=entry["hold_id"],
        limit=entry["limit_id"],
        owner=entry["owner"],
        period=entry["period"],
        spent=Amount(entry["spent_tokens"], entry["spent_cost"]),
        held=Amount(entry["held_tokens"], entry["held_cost"]),
        granted=Amount(entry["granted_tokens"], entry["granted_cost"]),
        overdraft=Amount(entry["overdraft_tokens"], entry["overdraft_cost"]),
        reason=entry["reason"],
        upper=Amount(tokens, cost) if unknown else None,
    )


def usage(
    by: Sequence[str],
    since: int,
    until: int,
    only: Mapping[str, str],
    after: Sequence[str | int] = (),
    most: int = MAX_AMOUNT,
) -> Steps[list[UsageRow]]:
    """What calls used, summed by group: at most so many, from behind the group `after`.

    What is still pending, and what came to nothing, is not in it. A call that saved tokens is one
    that a cache answered.
    """
    by = list(by)
    columns = [GROUP_COLUMNS[name] for name in by]
    matching = "".join(f" AND {GROUP_COLUMNS[name]} = :{name}" for name in only)
    given = {f"after_{i}": value for i, value in enumerate(after)}
    if given:
        matching += f" AND ({', '.join(columns)}) > ({', '.join(f':{name}' for name in given)})"
    sums = ", ".join(
        f"CAST(COALESCE(SUM({name}), 0) AS BIGINT)"
        for name in (
            "prompt_tokens",
            "completion_tokens",
            "cached_tokens",
            "tokens_saved",
            "used_cost",
        )
    )
    cached = "CAST(COALESCE(SUM(CASE WHEN tokens_saved > 0 THEN 1 ELSE 0 END), 0) AS BIGINT)"
    group = f" GROUP BY {', '.join(columns)} ORDER BY {', '.join(columns)}" if columns else ""
    # There is an index by days, and one by users and days: in the order of the latter a page of a
    # long report by users is read without its other pages, if the former is out of reach.
    day = "day"
    if by[:1] == ["user"] and "user" not in only:
        ((last,),) = yield "SELECT MAX(day) FROM calls", {}
        day = "+day" if min(until, last or 0) - since > LONG_REPORT_S else "day"
    rows = yield (
        f"SELECT {''.join(f'{name}, ' for name in columns)}COUNT(*), {cached}, {sums} FROM calls"
        " WHERE state IN ('settled', 'forfeited') AND at >= :since AND at < :until"
        f" AND {day} > :since - {LONGEST_DAY_S} AND {day} < :until{matching}{group} LIMIT :most",
        {"since": since, "until": until, "most": most, **only, **given},
    )
    found = [(tuple(row[: len(columns)]), row[len(columns) :]) for row in rows]
    return [
        UsageRow(
            group=key,
            requests=count - hits,
            cached_requests=hits,
            prompt_tokens=prompt,
            completion_tokens=completion,
            cached_tokens=part,
            tokens_saved=saved,
            cost=cost,
        )
        for key, (count, hits, prompt, completion, part, saved, cost) in found
    ]


def tokens_saved() -> Steps[int]:
    """What answers from a cache have saved in all."""
    ((saved,),) = yield (
        "SELECT CAST(COALESCE(SUM(tokens_saved), 0) AS BIGINT) FROM calls WHERE tokens_saved > 0",
        {},
    )
    return int(saved)


def notify(dialect: LedgerDialect, kind: str, data: Mapping[str, object]) -> Steps[None]:
    """Puts an event into the outbox."""
    books = Books(dialect, (yield from time(dialect)))
    books.event(kind, dict(data))
    yield from books.close()


def _check_limit(limit: Limit) -> None:
    check_per(limit.per)
    amounts = [amount for amount in (limit.tokens, limit.cost) if amount is not None]
    if not amounts or not all(0 <= amount <= MAX_AMOUNT for amount in amounts):
        raise ValueError(f"a limit needs tokens or cost, between 0 and {MAX_AMOUNT}")
    if bool(limit.subject) == (limit.kind in ("each_user", "everyone")):
        what = "names no subject" if limit.subject else "needs a subject"
        raise ValueError(f"a limit on {limit.kind} {what}")


def _check_change(amount: Amount) -> None:
    if (
        not (0 <= amount.tokens <= MAX_AMOUNT and 0 <= amount.cost <= MAX_AMOUNT)
        or amount == Amount()
    ):
        raise ValueError(f"an amount must be positive, up to {MAX_AMOUNT}")


def _one(dialect: LedgerDialect, limit_id: str, owner: str) -> Steps[tuple[Books, Account]]:
    """The open account of one limit, in its present window."""
    books, limit = yield from _named(dialect, limit_id, owner)
    key = books.key(limit, owner)
    yield from books.open([key])
    return books, books.accounts[key]


def _named(dialect: LedgerDialect, limit_id: str, owner: str) -> Steps[tuple[Books, Limit]]:
    """A limit in force, and books of its present moment."""
    rows = yield (
        f"SELECT {dialect.now}, {LIMIT_COLUMNS} FROM limits WHERE active AND id = :id",
        {"id": limit_id},
    )
    if not rows:
        raise UnknownLimitError(f"There is no limit {limit_id!r}.")
    limit = limit_of(rows[0][1:])
    if bool(owner) != (limit.kind == "each_user"):
        what = "not for each user: name none" if owner else "for each user: name one"
        raise UnknownLimitError(f"The limit {limit_id!r} is {what}.")
    return Books(dialect, rows[0][0]), limit
