"""What can be known of a model, in the units that vendors publish."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace


class Known(Struct, frozen=True):
    """What is known of one model: prices in dollars per million tokens, None where as `input`."""

    input: float
    output: float
    cached: float | None = None  # prompt that the vendor had cached
    context_length: int | None = None  # tokens it can read
    max_output: int | None = None  # tokens it can write in one reply
    cache_write: float | None = None  # prompt that is written to a cache
    cache_write_1h: float | None = None  # the same, where it is kept for an hour
    image: float = 0.0  # dollars for a picture that it makes, where that is not paid by its tokens
    source: str = ""
    since: str = ""  # the month when it was read there

    def dearer(self, factor: float) -> Known:
        """The same model where every token costs that many times as much."""
        names = ("input", "output", "cached", "cache_write", "cache_write_1h")
        costs = {name: cost for name in names if (cost := getattr(self, name)) is not None}
        return replace(self, **{name: round(cost * factor, 6) for name, cost in costs.items()})


Short = tuple[float, float] | tuple[float, float, float | None]
Row = Short | tuple[float, float, float | None, int] | tuple[float, float, float | None, int, int]


def rows(
    source: str,
    since: str,
    table: Mapping[str, Row],
    *,
    write: float | None = None,
    write_1h: float | None = None,
) -> dict[str, Known]:
    """Rows read at one place; `write`, `write_1h`: how many times as dear is what is cached."""
    found = {}
    for name, row in table.items():
        known = Known(*row)
        found[name] = replace(
            known,
            source=source,
            since=since,
            cache_write=None if write is None else round(known.input * write, 6),
            cache_write_1h=None if write_1h is None else round(known.input * write_1h, 6),
        )
    return found
