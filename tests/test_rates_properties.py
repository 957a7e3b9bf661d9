"""What holds of rates for any sequence of steps: both homes agree, and no stretch of time lets more in than it may."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rated import Clock
from valkeys import own_namespace, redis_url

from chattable.budget.rates import (
    Allowance,
    Permit,
    RateLimit,
    RateLimitedError,
    Rates,
    drained,
    headers,
)
from chattable.budget.rates_memory import MemoryRates
from chattable.budget.rates_redis import RedisRates

SUBJECTS = ("user:a", "team:b", "model:c")

limits = st.sampled_from([None, 0, 3, 7, 20, 20, 59, 1_000, 10**10])
slots = st.sampled_from([None, None, 1, 2, 5])
rates_of = st.builds(
    Allowance, requests_per_minute=limits, tokens_per_minute=limits, parallel=slots
)
worlds = st.fixed_dictionaries(dict.fromkeys(SUBJECTS, rates_of))
enters = st.tuples(
    st.just("enter"),
    st.lists(st.sampled_from(SUBJECTS), unique=True),
    st.integers(0, 12) | st.sampled_from([0, 10**12]),
)
leaves = st.tuples(st.just("leave"), st.integers(0, 9), st.integers(-1, 30) | st.just(2**53))
renewals = st.tuples(st.just("renew"), st.integers(0, 9), st.none())
advances = st.tuples(
    st.just("advance"),
    st.integers(0, 9_000) | st.sampled_from([1, 20_000, 59_999, 60_000, 700_000]),
    st.none(),
)
Step = tuple[str, object, object]


@pytest.fixture(scope="module")
def shared_redis() -> Iterator[str]:
    with redis_url() as url:
        yield url


async def play(
    rates: Rates, clock: Clock, world: dict[str, Allowance], steps: list[Step]
) -> list[object]:
    """What each step answers, in this home."""
    permits: list[Permit] = []
    seen: list[object] = []
    for i, (verb, what, amount) in enumerate(steps):
        if verb == "advance":
            clock.now += what / 1000  # type: ignore[operator]
        elif verb == "enter":
            bounds = [RateLimit(subject, world[subject]) for subject in what]  # type: ignore[attr-defined]
            try:
                permits.append(await rates.enter(bounds, f"call_{i}", amount))  # type: ignore[arg-type]
                seen.append(headers(permits[-1]))
            except RateLimitedError as error:
                assert 0 < error.retry_after <= 60
                seen.append((str(error), headers(error)))
        elif permits:
            permit = permits[what % len(permits)]  # type: ignore[operator]
            await (rates.leave(permit, amount) if verb == "leave" else rates.renew([permit]))  # type: ignore[arg-type]
    await asyncio.gather(*[rates.leave(permit, 1) for permit in permits])
    return seen


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    world=worlds,
    steps=st.lists(enters | enters | leaves | renewals | advances, min_size=15, max_size=60),
)
def test_memory_and_redis_agree(
    shared_redis: str, world: dict[str, Allowance], steps: list[Step]
) -> None:
    async def both() -> None:
        clocks = Clock(), Clock()
        redis = RedisRates(shared_redis, namespace=own_namespace(), clock=clocks[1])
        try:
            there = await play(redis, clocks[1], world, steps)
        finally:
            await redis.stop()
        assert await play(MemoryRates(clocks[0]), clocks[0], world, steps) == there
        assert redis.failures == 0

    asyncio.run(both())


@settings(max_examples=200, deadline=None)
@given(
    limit=st.integers(1, 40),
    calls=st.lists(
        st.tuples(st.integers(0, 20_000), st.integers(1, 50), st.integers(0, 60)), max_size=60
    ),
)
def test_no_stretch_of_time_lets_more_in_than_it_may(
    limit: int, calls: list[tuple[int, int, int]]
) -> None:
    """In any stretch of t minutes at most N (1 + t) requests, and N (1 + t) tokens where estimates are kept to."""

    async def run() -> None:
        clock, rate = Clock(0.0), Allowance(requests_per_minute=limit, tokens_per_minute=limit)
        rates, let_in = MemoryRates(clock), []
        for i, (gap, estimate, used) in enumerate(calls):
            clock.now += gap / 1000
            try:
                permit = await rates.enter([RateLimit("user:a", rate)], f"call_{i}", estimate)
            except RateLimitedError:
                continue
            estimate = min(estimate, limit)
            await rates.leave(permit, min(used, estimate))
            let_in.append((round(clock.now * 1000), min(used, estimate)))
        for i, (begin, _) in enumerate(let_in):
            for j, (end, _) in enumerate(let_in[i:], i):
                room = limit * (60_000 + end - begin)
                assert (j - i + 1) * 60_000 <= room
                assert sum(used for _, used in let_in[i : j + 1]) * 60_000 <= room

    asyncio.run(run())


@given(
    level=st.integers(0, 10**16),
    limit=st.integers(0, 10**10),
    first=st.integers(0, 10**6),
    second=st.integers(0, 10**6),
)
def test_a_look_between_changes_nothing(level: int, limit: int, first: int, second: int) -> None:
    assert drained(drained(level, limit, first), limit, second) == drained(
        level, limit, first + second
    )
