"""What a call costs: exact, rounded up once, each part of the prompt at its own price."""

from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chattable.budget.ledger import FREE, HoldRequest, Price
from chattable.budget.limits import Payer

CLAUDE = Price(3_000_000, 15_000_000, 300_000, 3_750_000, 6_000_000)


@pytest.mark.parametrize(
    ("parts", "cost"),
    [
        ((1_000_000, 0), 3_000_000),
        ((1_000_000, 1_000_000), 18_000_000),
        ((1_000_000, 0, 1_000_000), 300_000),
        ((1_000_000, 0, 0, 1_000_000), 3_750_000),
        ((1_000_000, 0, 0, 1_000_000, 1_000_000), 6_000_000),
        ((1_000_000, 0, 500_000, 400_000, 100_000), 150_000 + 1_125_000 + 600_000 + 300_000),
        ((10, 0, 50, 50, 50), 3),  # no more was cached than there was
        ((1, 0), 3),
        ((1, 0, 1), 1),  # a third of a micro-dollar
        ((0, 0), 0),
    ],
)
def test_every_part_of_a_prompt_has_its_price(parts: tuple[int, ...], cost: int) -> None:
    assert CLAUDE.of(*parts) == cost


def test_what_is_not_said_costs_as_other_prompt() -> None:
    assert Price(7, 0).of(10**6, 0, 10, 20, 5) == 7
    assert Price(7, 0, cache_write=9_000_007).of(1, 0, 0, 1, 1) == 10  # for an hour: as for less


COUNT = st.integers(0, 10**7)
COST = st.integers(0, 10**9)
MAYBE = st.none() | COST


@given(st.builds(Price, COST, COST, MAYBE, MAYBE, MAYBE), COUNT, COUNT, COUNT, COUNT, COUNT)
def test_the_sum_is_exact_and_the_dearest_price_covers_it(
    price: Price, prompt: int, output: int, cached: int, written: int, long: int
) -> None:
    cached = min(cached, prompt)
    written = min(written, prompt - cached)
    long = min(long, written)
    write = price.input if price.cache_write is None else price.cache_write
    parts = [
        (prompt - cached - written, price.input),
        (cached, price.input if price.cached is None else price.cached),
        (written - long, write),
        (long, write if price.cache_write_1h is None else price.cache_write_1h),
        (output, price.output),
    ]
    exact = sum(Fraction(tokens * each, 10**6) for tokens, each in parts)
    cost = price.of(prompt, output, cached, written, long)
    assert cost == ceil(exact)
    assert price.dearest.of(prompt, output) >= cost


STEPPED = Price(
    3_000_000, 15_000_000, 300_000, above=200_000, long=Price(6_000_000, 22_500_000, 600_000)
)


@pytest.mark.parametrize(
    ("parts", "cost"),
    [
        ((200_000, 1_000), 600_000 + 15_000),
        ((200_001, 1_000), 1_200_006 + 22_500),  # every token, not those above alone
        # what was cached makes a prompt long as well
        ((200_001, 1_000, 200_001), 120_001 + 22_500),
    ],
)
def test_a_long_prompt_costs_more_from_its_first_token(parts: tuple[int, ...], cost: int) -> None:
    assert STEPPED.of(*parts) == cost
    assert STEPPED.at(parts[0]).of(*parts) == cost
    assert STEPPED.dearest.of(*parts[:2]) >= cost


def test_free_is_zero_throughout() -> None:
    assert not Price(above=1, long=Price(input=1)).free and Price(above=1, long=FREE).free
    assert FREE.free and Price(0, 0, 0, 0, 0).free and Price(cached=None).free
    parts = ("input", "output", "cached", "cache_write", "cache_write_1h", "image")
    ones: list[dict[str, Any]] = [{part: 1} for part in parts]
    assert not any(Price(**one).free for one in ones)
    wish = HoldRequest(id="w", payer=Payer(user="u"), model="m", prompt=1, max_output=1)
    assert wish.free
    assert not HoldRequest(
        id="w", payer=Payer(user="u"), model="m", prompt=1, max_output=1, fixed=1
    ).free
