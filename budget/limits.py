"""What may be spent, by whom, in which window of time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal

from msgspec import Struct

MAX_AMOUNT = 2**53  # tokens or micro-USD: what every JSON reader and both databases hold exactly

Kind = Literal["user", "key", "team", "session", "agent", "model", "each_user", "everyone"]
Mode = Literal["hard", "soft", "shadow"]  # refuse; allow, warn and raise an event; only count

CALENDAR_WINDOWS = ("hour", "day", "week", "month")
WINDOW_LENGTH = re.compile(r"([1-9][0-9]{0,3})([mhd])")
UNIT_SECONDS = {"m": 60, "h": 3600, "d": 86_400}


class Limit(Struct, frozen=True, kw_only=True):
    """An amount that a subject may use per window; at least one of tokens and cost is given."""

    id: str
    kind: Kind
    subject: str  # an id; empty for each_user and everyone
    per: str  # hour, day, week, month, total, or a length such as 6h or 30d
    tokens: int | None = None
    cost: int | None = None  # micro-USD
    models: tuple[str, ...] | None = None  # names or beginnings that end in *; None: all
    mode: Mode = "hard"

    def covers(self, model: str) -> bool:
        """Whether a request for the model counts."""
        return self.models is None or any(
            model.startswith(name[:-1]) if name.endswith("*") else model == name
            for name in self.models
        )


class Payer(Struct, frozen=True, kw_only=True):
    """Whom a request is charged to: everything that it can be counted against."""

    user: str
    key: str = ""
    team: str = ""
    session: str = ""
    agent: str = ""

    def subjects(self, model: str) -> list[tuple[str, str]]:
        """The (kind, subject) pairs whose limits bind a request for the model."""
        named = [
            ("user", self.user),
            ("key", self.key),
            ("team", self.team),
            ("session", self.session),
            ("agent", self.agent),
        ]
        return [pair for pair in named if pair[1]] + [
            ("model", model),
            ("each_user", ""),
            ("everyone", ""),
        ]


def check_per(per: str) -> None:
    """Raises ValueError for a window that makes no sense."""
    if per not in (*CALENDAR_WINDOWS, "total") and not WINDOW_LENGTH.fullmatch(per):
        raise ValueError(
            "per must be hour, day, week, month, total, or a length such as 6h or 30d,"
            f" not {per[:40]!r}"
        )


def period(per: str, now: float, zone: tzinfo = UTC) -> tuple[int, int | None]:
    """The window that `now` lies in: its first second, and the first one after it.

    The latter is None where it never ends. Calendar windows begin by the wall clock of `zone`;
    windows of a length begin at multiples of it.
    """
    if per == "total":
        return 0, None
    if found := WINDOW_LENGTH.fullmatch(per):
        length = int(found[1]) * UNIT_SECONDS[found[2]]
        begin = int(now // length) * length
        return begin, begin + length
    moment = datetime.fromtimestamp(now, zone)
    if per == "hour":  # hours are the same everywhere but where a zone is off by half of one
        begin_at = moment.replace(minute=0, second=0, microsecond=0)
        return int(begin_at.timestamp()), int(begin_at.timestamp()) + 3600
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if per == "day":
        first, after = midnight, midnight + timedelta(days=1)
    elif per == "week":
        first = midnight - timedelta(days=midnight.weekday())
        after = first + timedelta(days=7)
    else:
        first = midnight.replace(day=1)
        after = (first + timedelta(days=32)).replace(day=1)
    # wall-clock arithmetic: a day of 23 or 25 hours stays a day
    return int(first.timestamp()), int(after.timestamp())
