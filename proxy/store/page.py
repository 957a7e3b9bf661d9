"""One page of a listing, the same for every store."""

from typing import Generic, TypeVar

import msgspec

from chattable.proxy.store.errors import Invalid

T = TypeVar("T")

MAX_LIMIT = 1000


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Rows in a stable order; the last row's id is the cursor of the next page."""

    data: tuple[T, ...]
    has_more: bool


def checked_limit(limit: int) -> int:
    """Returns the limit, or refuses one outside 1 … MAX_LIMIT."""
    if not 1 <= limit <= MAX_LIMIT:
        raise Invalid(f"limit must be between 1 and {MAX_LIMIT}, not {limit}.", "limit")
    return limit


def page_of(rows: list[T], limit: int) -> Page[T]:
    """Cuts a page out of rows that were asked for with one more than `limit`."""
    return Page(tuple(rows[:limit]), has_more=len(rows) > limit)
