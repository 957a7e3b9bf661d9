"""The form of the ledger's law: operations that never touch a database themselves.

Each is a generator that yields a statement with its parameters (a list of them runs the statement for each) and is sent
the rows. Whoever drives it (sqlite.py, postgres.py) runs all of them in one transaction and rolls it back when the
operation raises. So both databases, and a simulator, run the very same law.
"""

from __future__ import annotations

from collections.abc import Generator
from datetime import tzinfo
from typing import Any, TypeVar

from msgspec import Struct

T = TypeVar("T")
Row = dict[str, Any]
Rows = list[tuple[Any, ...]]
Statement = tuple[str, Row | list[Row]]
Steps = Generator[Statement, Rows, T]

THRESHOLDS = (50, 80, 100)


class Dialect(Struct, frozen=True):
    """Where the two databases differ, and whose clock and calendar count."""

    now: str  # an SQL expression: unix seconds
    zone: tzinfo
    locks: bool  # whether rows are locked one by one (PostgreSQL), or the whole file is (SQLite)
    thresholds: tuple[int, ...] = THRESHOLDS  # per cent of a limit at which somebody is told

    def lock(self, table: str) -> str:
        """What makes a SELECT hold the table's rows until the end of the transaction."""
        return f" FOR UPDATE OF {table}" if self.locks else ""

    def rows(self, name: str, *types: str) -> str:
        """A subquery: the rows of a parameter that is a JSON array of arrays."""
        if self.locks:
            columns = ", ".join(f"CAST(value ->> {i} AS {kind})" for i, kind in enumerate(types))
            return f"(SELECT {columns} FROM json_array_elements(CAST(:{name} AS json)))"
        columns = ", ".join(f"json_extract(value, '$[{i}]')" for i in range(len(types)))
        return f"(SELECT {columns} FROM json_each(:{name}))"


def time(dialect: Dialect) -> Steps[float]:
    """The database's clock."""
    ((now,),) = yield f"SELECT {dialect.now}", {}
    return float(now)


def insert(table: str, columns: tuple[str, ...]) -> str:
    """The statement that adds a row."""
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(f':{name}' for name in columns)})"
