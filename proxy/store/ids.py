"""Ids: a prefix that says of what, the time it was made, and random characters."""

import secrets
from collections.abc import Callable, Sequence

from chattable.budget.storage.statements import Dialect, Steps, array
from chattable.budget.tables import TEXT
from chattable.proxy.store.errors import Invalid, NotFound
from chattable.proxy.store.text import printable


def new_id(prefix: str, now: float) -> str:
    """Makes an id that nobody guesses and that sorts by the millisecond it was made in."""
    return f"{prefix}{int(now * 1000):012x}{secrets.token_urlsafe(15)}"


class Ids:
    """Makes ids that sort as they were made, also those of one millisecond."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = 0  # millisecond in the last id

    def new(self, prefix: str) -> str:
        """An id like `new_id`'s."""
        self._last = max(int(self._clock() * 1000), self._last + 1)
        return new_id(prefix, (self._last + 0.5) / 1000)


def findable(what: str, id_or_name: str) -> str:
    """Returns the id or name; `NotFound` for what no driver takes, and so no table has."""
    try:
        return printable(id_or_name, what)
    except Invalid:
        raise NotFound(what, id_or_name) from None


def names_of(dialect: Dialect, table: str, ids: Sequence[str]) -> Steps[dict[str, str]]:
    """What the rows with these ids are called; those that are gone have no name."""
    rows = yield (
        f"SELECT id, name FROM {table} WHERE id IN {dialect.rows('rows', {'id': TEXT})}",
        array([[one] for one in ids]),
    )
    return dict(rows)
