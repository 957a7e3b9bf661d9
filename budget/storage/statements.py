"""Operations: generators that yield statements, and never touch a database themselves.

Each yields a statement with its parameters and is sent the rows. A storage runs all of them in one
transaction and rolls it back when the operation raises. So SQLite, PostgreSQL and a simulator run
the very same operation. What concerns many rows is one statement with a JSON array for its
parameter: every statement is a round trip, or a fight for Python's lock with the event loop.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

T = TypeVar("T")
Row = dict[str, Any]
Rows = list[tuple[Any, ...]]
Statement = tuple[str, Row]
Steps = Generator[Statement, Rows, T]

encode = msgspec.json.Encoder().encode


class Dialect(Struct, frozen=True):
    """Where the two databases differ, and whose clock counts."""

    now: str  # an SQL expression: unix seconds
    locks: bool  # whether rows are locked one by one (PostgreSQL), or the whole file is (SQLite)

    def lock(self, table: str) -> str:
        """What makes a SELECT hold the table's rows until the end of the transaction."""
        return f" FOR UPDATE OF {table}" if self.locks else ""

    def keep(self, table: str) -> str:
        """What makes a SELECT hold the table's rows against their deletion."""
        return f" FOR KEY SHARE OF {table}" if self.locks else ""

    def rows(self, name: str, columns: Mapping[str, str]) -> str:
        """A subquery: the rows of a parameter that is a JSON array of arrays, by name and type."""
        if self.locks:
            values = (
                f"CAST(value ->> {i} AS {kind}) AS {column}"
                for i, (column, kind) in enumerate(columns.items())
            )
            return f"(SELECT {', '.join(values)} FROM json_array_elements(CAST(:{name} AS json)))"
        values = (f"json_extract(value, '$[{i}]') AS {column}" for i, column in enumerate(columns))
        return f"(SELECT {', '.join(values)} FROM json_each(:{name}))"

    def insert(
        self, table: str, columns: Mapping[str, str], rows: Sequence[Sequence[Any]]
    ) -> Statement:
        """The statement that adds rows."""
        return (
            f"INSERT INTO {table} ({', '.join(columns)})"
            f" SELECT * FROM {self.rows('rows', columns)} AS new",
            array(rows),
        )


def array(rows: Sequence[Sequence[Any]]) -> Row:
    """The parameter `rows` of a statement."""
    return {"rows": encode(rows).decode()}


def time(dialect: Dialect) -> Steps[float]:
    """The database's clock."""
    ((now,),) = yield f"SELECT {dialect.now}", {}
    return float(now)


def one() -> Steps[int]:
    """Asks for an answer, whatever it is."""
    ((answer,),) = yield "SELECT 1", {}
    return int(answer)


def nothing() -> Steps[None]:
    """An operation whose transaction is all there is to it."""
    yield from ()
