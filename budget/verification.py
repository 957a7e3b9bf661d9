"""Recomputes balances from their entries, a slice at a time: nobody waits for a whole ledger.

A slice is one statement, and so sees one moment. The entries of an account are summed in the order
in which they were made, over as many slices as it takes, and compared with its balance in the slice
that sees the last of them. What is booked between two slices does no harm: entries are never
changed, and whoever books has locked the account, so a new one comes behind those that are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from chattable.budget.ledger import Difference
from chattable.budget.postings import Key
from chattable.budget.storage.statements import Row, Steps
from chattable.budget.tables import ACCOUNT, BALANCE

SLICE_ROWS = 5000  # entries, or accounts, in one statement

KEY = ", ".join(ACCOUNT)
NUMBERS = len(BALANCE)
ZEROS = ", ".join("0" for _ in BALANCE)


def _of(table: str, columns: Sequence[str]) -> str:
    return ", ".join(f"{table}.{name}" for name in columns)


def _same(one: str, other: str) -> str:
    return " AND ".join(f"{one}.{name} = {other}.{name}" for name in ACCOUNT)


LAST = f"SELECT {KEY} FROM {{}} ORDER BY {', '.join(f'{name} DESC' for name in ACCOUNT)} LIMIT 1"
SUMMED = _of("summed", BALANCE)
BOOKED = ", ".join(f"COALESCE(accounts.{name}, 0)" for name in BALANCE)
PENDING = "COALESCE(pending.tokens, 0), COALESCE(pending.cost, 0)"

# `summed` begins with what earlier slices know of the account that they ended with. Of what is
# summed only the last account is returned, and those that are wrong. The join is a CROSS JOIN since
# SQLite keeps the order of those: the few open calls first, and then their entries.
ENTRIES = f"""
WITH slice AS MATERIALIZED (
  SELECT {KEY}, id, {", ".join(BALANCE)} FROM entries
  WHERE ({KEY}, id) > (:limit_id, :owner, :period, :id) ORDER BY {KEY}, id LIMIT :most
), summed AS MATERIALIZED (
  SELECT {KEY}, MAX(id) AS id,
    {", ".join(f"CAST(SUM({name}) AS BIGINT) AS {name}" for name in BALANCE)}
  FROM (
    SELECT CAST(:limit_id AS TEXT) AS limit_id, CAST(:owner AS TEXT) AS owner,
      CAST(:period AS BIGINT) AS period, CAST(:id AS BIGINT) AS id,
      {", ".join(f"CAST(:{name} AS BIGINT) AS {name}" for name in BALANCE)}
    UNION ALL SELECT * FROM slice
  ) AS known GROUP BY {KEY}
), pending AS MATERIALIZED (
  SELECT {_of("entries", [*ACCOUNT])}, CAST(SUM(held_tokens) AS BIGINT) AS tokens,
    CAST(SUM(held_cost) AS BIGINT) AS cost
  FROM calls CROSS JOIN entries WHERE calls.state = 'pending' AND entries.hold_id = calls.id
  GROUP BY {_of("entries", [*ACCOUNT])}
), final AS ({LAST.format("summed")})
SELECT (SELECT COUNT(*) FROM slice), {_of("summed", [*ACCOUNT])}, summed.id,
  {SUMMED}, {BOOKED}, {PENDING}
FROM summed JOIN final ON TRUE LEFT JOIN accounts ON {_same("accounts", "summed")}
LEFT JOIN pending ON {_same("pending", "summed")}
WHERE {_same("final", "summed")} OR ({SUMMED}) <> ({BOOKED})
OR (summed.held_tokens, summed.held_cost) <> ({PENDING})
ORDER BY {_of("summed", [*ACCOUNT])}
"""

ACCOUNTS_WITHOUT_ENTRIES = f"""
WITH slice AS MATERIALIZED (
  SELECT {KEY}, {", ".join(BALANCE)} FROM accounts
  WHERE ({KEY}) > (:limit_id, :owner, :period) ORDER BY {KEY} LIMIT :most
), final AS ({LAST.format("slice")}), checked AS (
  SELECT {KEY}, {", ".join(BALANCE)}, CASE WHEN ({", ".join(BALANCE)}) <> ({ZEROS})
    AND NOT EXISTS (SELECT 1 FROM entries WHERE {_same("entries", "slice")})
    THEN 1 ELSE 0 END AS wrong FROM slice
)
SELECT (SELECT COUNT(*) FROM slice), {_of("checked", [*ACCOUNT])}, {_of("checked", BALANCE)}, wrong
FROM checked JOIN final ON TRUE WHERE wrong = 1 OR {_same("final", "checked")}
ORDER BY {_of("checked", [*ACCOUNT])}
"""


class Place(Struct, frozen=True):
    """How far it has come: the last account, its last entry and the sums of those up to there."""

    account: Key = ("", "", -1)
    entry: int = 0
    sums: tuple[int, ...] = (0,) * NUMBERS


class Slice(Struct, frozen=True):
    """What was seen: how many rows, what is wrong in them, and where the next slice begins."""

    rows: int
    differences: list[Difference]
    next: Place | None  # None: there is no more


def sums(place: Place, most: int = SLICE_ROWS) -> Steps[Slice]:
    """Sums the entries behind a place; wrong are balances that differ, or hold for no open call."""
    known = dict(zip(BALANCE, place.sums, strict=True))
    rows = yield ENTRIES, _key(place.account) | {"id": place.entry, "most": most} | known
    count, limit, owner, period, entry, *figures = rows[-1]
    if count < most:
        return Slice(count, [each for row in rows for each in _differences(row)], None)
    found = [each for row in rows[:-1] for each in _differences(row)]
    begun = Place((limit, owner, period), entry, tuple(figures[:NUMBERS]))
    return Slice(count, found, begun)


def accounts_without_entries(place: Place, most: int = SLICE_ROWS) -> Steps[Slice]:
    """Looks at the accounts behind a place; wrong are balances that no entry speaks of."""
    rows = yield ACCOUNTS_WITHOUT_ENTRIES, _key(place.account) | {"most": most}
    found = [
        Difference(limit, owner, period, tuple(balance), (0,) * NUMBERS)
        for _, limit, owner, period, *balance, wrong in rows
        if wrong
    ]
    if not rows or rows[-1][0] < most:
        return Slice(rows[-1][0] if rows else 0, found, None)
    count, limit, owner, period = rows[-1][:4]
    return Slice(count, found, Place((limit, owner, period)))


def size() -> Steps[int]:
    """About how many rows there are to look at."""
    ((last, count),) = yield (
        "SELECT (SELECT COALESCE(MAX(id), 0) FROM entries), (SELECT COUNT(*) FROM accounts)",
        {},
    )
    return int(last + count)


def _key(account: Key) -> Row:
    return dict(zip(ACCOUNT, account, strict=True))


def _differences(row: Sequence[Any]) -> list[Difference]:
    """What is wrong with an account, if anything is."""
    limit, owner, period, _, *figures = row[1:]
    summed, booked = tuple(figures[:NUMBERS]), tuple(figures[NUMBERS : 2 * NUMBERS])
    if summed != booked:
        return [Difference(limit, owner, period, booked, summed)]
    of = dict(zip(BALANCE, summed, strict=True))
    tokens, cost = figures[2 * NUMBERS :]
    ended = of["held_tokens"] - tokens, of["held_cost"] - cost  # held for calls that are over
    return [Difference(limit, owner, period, (0, 0), ended)] if any(ended) else []
