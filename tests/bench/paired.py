"""Two measurements side by side: ratios of pairs, their median and how far it can be trusted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import comb
from statistics import median
from typing import Generic, TypeVar

CONFIDENCE = 0.95
FEWEST = 9  # pairs of which a median is worth printing
DEARER = 1.05

T = TypeVar("T")


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios, new ÷ old, and an interval that holds the true one at 95 %."""

    median: float
    low: float
    high: float

    @property
    def dearer(self) -> bool:
        """Says whether the new one costs more, beyond what noise explains."""
        return self.median > DEARER and self.low > 1

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.2f}–{self.high:.2f})"


@dataclass(frozen=True)
class Pair(Generic[T]):
    """What was measured of the old and the new, one right after the other."""

    old: T
    new: T


def ratio(pairs: Sequence[Pair[float]]) -> Ratio:
    """Returns the median ratio of pairs with its interval between two of the ratios, by rank.

    Which ranks: of n ratios the k smallest and the k largest are left out, with the largest k at
    which a binomial(n, 1/2) is between them with a probability of `CONFIDENCE`. Nothing is assumed
    of how the ratios are spread.
    """
    ratios = sorted(pair.new / pair.old for pair in pairs)
    outside = trimmed(len(ratios))
    return Ratio(median(ratios), ratios[outside], ratios[-1 - outside])


def trimmed(count: int) -> int:
    """Returns how many of so many sorted values lie outside of the interval, on each side."""
    tails = accumulate(comb(count, k) / 2**count for k in range(count // 2))  # P(X ≤ k)
    return max(0, sum(2 * tail <= 1 - CONFIDENCE for tail in tails) - 1)


def pair_of(number: int, old: Callable[[], T], new: Callable[[], T]) -> Pair[T]:
    """Measures one of many pairs, in the order old, new, new, old: what drifts harms both alike."""
    if number % 2:
        later = new()
        return Pair(old(), later)
    return Pair(old(), new())
