"""What can be known of a model, in the units that vendors publish."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace


class Long(Struct, frozen=True, kw_only=True):
    """What every token costs where the prompt has more than `above` tokens."""

    above: int
    input: float
    output: float
    cached: float | None = None
    cache_write: float | None = None
    cache_write_1h: float | None = None


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
    long: Long | None = None
    source: str = ""
    since: str = ""  # the month when it was read there

    def dearer(self, factor: float) -> Known:
        """The same model where every token costs that many times as much."""
        long = self.long and replace(self.long, **_times(self.long, factor, factor))
        return replace(self, **_times(self, factor, factor), long=long)

    def lengthened(self, above: int, prompt: float, output: float) -> Known:
        """The same model where a long prompt makes its tokens, and the answer's, dearer."""
        return replace(self, long=Long(above=above, **_times(self, prompt, output)))


def _times(price: Known | Long, prompt: float, output: float) -> dict[str, float]:
    """The costs of a price, so many times: of tokens of the prompt, and of output."""
    found = {"output": round(price.output * output, 6)}
    for name in ("input", "cached", "cache_write", "cache_write_1h"):
        if (cost := getattr(price, name)) is not None:
            found[name] = round(cost * prompt, 6)
    return found


Short = tuple[float, float] | tuple[float, float, float | None]
Row = Short | tuple[float, float, float | None, int] | tuple[float, float, float | None, int, int]

Steps = Mapping[str, tuple[int, float, float]]  # names → prompt tokens, times for prompt and output


def rows(
    source: str,
    since: str,
    table: Mapping[str, Row],
    *,
    write: float | None = None,
    write_1h: float | None = None,
    long: Steps | None = None,
) -> dict[str, Known]:
    """Rows read at one place.

    `write`, `write_1h`: how many times as dear is what is cached. `long`: from how many tokens of
    prompt on, and how many times as dear, prompt and output are for the models that it names.
    """
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
    for names, step in (long or {}).items():
        for name in names.split():
            found[name] = found[name].lengthened(*step)
    return found
