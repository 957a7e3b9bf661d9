"""Who used what: the ledger's sums with the names that people know."""

from __future__ import annotations

import csv
import io
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from datetime import datetime, tzinfo

import msgspec
from msgspec import Struct

from chattable.agents.chat import Json
from chattable.agents.errors import InvalidRequest, clip
from chattable.budget.ledger import GROUPS, Ledger, UsageRow
from chattable.budget.limits import MAX_AMOUNT
from chattable.proxy.people.teams import Teams
from chattable.proxy.people.users import Users
from chattable.proxy.store.errors import NotFound

FIGURES = (
    *("requests", "cached_requests", "prompt_tokens", "completion_tokens", "total_tokens"),
    *("cached_tokens", "tokens_saved", "cost_usd"),
)
PAGE_ROWS = 1000  # of a report at once: each row is some microseconds of work
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run


class Report(Struct, frozen=True, kw_only=True):
    """What is asked of usage.

    Grouped by some of `GROUPS`; `since` and `until` are dates, times or unix seconds; `only` has
    names of subjects.
    """

    by: Sequence[str]
    since: str = ""
    until: str = ""
    only: Mapping[str, str] = {}


class UsageReports:
    """Reports usage.

    Law: what is pending is not in it; what a cache answered is counted apart and costs nothing.
    """

    def __init__(self, ledger: Ledger, users: Users, teams: Teams, zone: tzinfo) -> None:
        self._ledger = ledger
        self._users = users
        self._teams = teams
        self._zone = zone

    async def page(self, asked: Report, most: int, after: str = "") -> tuple[list[Json], str]:
        """Rows in order, each a dict of what they are grouped by and of `FIGURES`.

        With them comes what names the last one, if there are more behind it.
        """
        _check_groups(asked.by)
        by = list(dict.fromkeys(asked.by))
        begin = self._moment(asked.since, "from") if asked.since else 0
        end = self._moment(asked.until, "to") if asked.until else MAX_AMOUNT
        ids = {kind: await self._id(kind, name) for kind, name in asked.only.items()}
        rows = await self._ledger.usage(
            by, since=begin, until=end, only=ids, after=_group(by, after), most=most + 1
        )
        more, rows = len(rows) > most, rows[:most]
        names = await self._names(by, [row.group for row in rows])
        shown = [
            {
                kind: names[kind].get(value, value)
                for kind, value in zip(names, row.group, strict=True)
            }
            | _figures(row)
            for row in rows
        ]
        return shown, _cursor(rows[-1].group) if more else ""

    async def pages(self, asked: Report, after: str = "") -> AsyncGenerator[list[Json]]:
        """Every row, as many at a time as nobody has to wait for."""
        while True:
            rows, after = await self.page(asked, PAGE_ROWS, after)
            yield rows
            if not after:
                return

    async def _names(
        self, by: Sequence[str], groups: list[tuple[str | int, ...]]
    ) -> dict[str, dict[str | int, str]]:
        """For each thing grouped by, what its values are called."""
        names: dict[str, dict[str | int, str]] = {}
        for i, kind in enumerate(dict.fromkeys(by)):
            values = {group[i] for group in groups}
            if kind == "day":
                names[kind] = {
                    day: datetime.fromtimestamp(int(day), self._zone).date().isoformat()
                    for day in values
                }
            elif kind in ("user", "team"):
                store = self._users if kind == "user" else self._teams
                names[kind] = dict(
                    (await store.names([str(value) for value in values if value])).items()
                )
            else:
                names[kind] = {}
        return names

    async def _id(self, kind: str, name: str) -> str:
        """The id of a user or team; who is deleted is still known by id."""
        try:
            if kind == "user":
                return (await self._users.get(name)).id
            if kind == "team":
                return (await self._teams.get(name)).id
        except NotFound:
            pass
        return name

    def _moment(self, text: str, field: str) -> int:
        """A date (its first second, in the budgets' time zone), a time, or unix seconds."""
        if text.isascii() and text.isdigit() and len(text) <= 12:
            return int(text)
        try:
            moment = datetime.fromisoformat(text)
            return int((moment if moment.tzinfo else moment.replace(tzinfo=self._zone)).timestamp())
        except (ValueError, OverflowError):
            expected = (
                f"expected a date such as 2026-11-01, a time or unix seconds, not '{clip(text)}'"
            )
            raise InvalidRequest(
                f"Invalid value for '{field}': {expected}.", param=field, code="invalid_value"
            ) from None


def _check_groups(by: Sequence[str]) -> None:
    if unknown := [name for name in by if name not in GROUPS]:
        known = ", ".join(GROUPS)
        raise InvalidRequest(
            f"Invalid value for 'group_by': '{clip(unknown[0])}' is not one of {known}.",
            param="group_by",
        )


def _cursor(group: tuple[str | int, ...]) -> str:
    """What names a row in a query."""
    return urlsafe_b64encode(msgspec.json.encode(group)).decode().rstrip("=")


def _group(by: Sequence[str], cursor: str) -> tuple[str | int, ...]:
    """The values of the row that `_cursor` named, or `InvalidRequest`."""
    if not cursor:
        return ()
    kinds = tuple(int if name == "day" else str for name in by)
    try:
        text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        group: tuple[str | int, ...] = msgspec.json.decode(
            text, type=tuple.__class_getitem__(kinds)
        )
    except ValueError:
        group = ()
    if not group or not all(map(_storable, group)):
        message = "after names no row of this report; begin again without it."
        raise InvalidRequest(message, param="after", code="invalid_value")
    return group


def _storable(value: str | int) -> bool:
    return "\0" not in value if isinstance(value, str) else 0 <= value <= MAX_AMOUNT


def _figures(row: UsageRow) -> Json:
    """What a group used, in the order of `FIGURES`."""
    return {
        "requests": row.requests,
        "cached_requests": row.cached_requests,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "total_tokens": row.prompt_tokens + row.completion_tokens,
        "cached_tokens": row.cached_tokens,
        "tokens_saved": row.tokens_saved,
        "cost_usd": row.cost / 1_000_000,
    }


def csv_header(by: Sequence[str]) -> str:
    """The names of a spreadsheet's columns."""
    return _csv([_columns(by)])


def csv_rows(by: Sequence[str], rows: Sequence[Json]) -> str:
    """The rows for a spreadsheet, none of whose cells is a formula."""
    return _csv([_cell(row[column]) for column in _columns(by)] for row in rows)


def _columns(by: Sequence[str]) -> list[str]:
    return [*dict.fromkeys(by), *FIGURES]


def _csv(lines: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows(lines)
    return out.getvalue()


def as_table(by: Sequence[str], rows: Sequence[Json]) -> str:
    """The rows for a terminal, in columns."""
    columns = _columns(by)
    cells = [columns, *([_shown(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    names = len(columns) - len(FIGURES)
    lines = (
        "  ".join(
            cell.ljust(w) if i < names else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.6f}"
    return f"{value:,}" if isinstance(value, int) else str(value) or "-"


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
