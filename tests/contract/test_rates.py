"""The law of `Rates`, within one process and on a real Valkey, by a clock that the test sets."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from rated import Clock, bound, burst, enter, refused
from valkeys import own_namespace

from chattable.budget.rates import (
    MAX_DEBT_MINUTES,
    MAX_RATE,
    SLOT_LEASE_MS,
    SLOT_RETRY_MS,
    CounterState,
    Permit,
    Rates,
    duration,
    headers,
)
from chattable.budget.rates_memory import MemoryRates
from chattable.budget.rates_redis import RedisRates


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "redis"])
async def rates(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Rates]:
    opened: Rates
    if request.param == "memory":
        opened = MemoryRates(clock)
    else:
        opened = RedisRates(
            request.getfixturevalue("shared_redis"), namespace=own_namespace(), clock=clock
        )
    await opened.start()
    yield opened
    await opened.stop()
    assert opened.failures == 0


@pytest.mark.parametrize("limit", [1, 7, 49, 60])
async def test_a_burst_is_cut_at_the_limit_exactly(rates: Rates, limit: int) -> None:
    assert len(await burst([rates], 10 * limit, bound(requests=limit))) == limit


async def test_tokens_and_slots_are_cut_exactly_too(rates: Rates) -> None:
    assert len(await burst([rates], 100, bound("a", tokens=100), tokens=9)) == 11
    assert len(await burst([rates], 100, bound("b", parallel=13))) == 13


@pytest.mark.parametrize("limit", [1, 7, 60, 601])
async def test_a_counter_refills_evenly(rates: Rates, clock: Clock, limit: int) -> None:
    await burst([rates], limit, bound(requests=limit))
    for _ in range(5):
        clock.now += 60 / limit + 0.001  # times are whole milliseconds
        assert len(await burst([rates], 3, bound(requests=limit))) == 1
    clock.now += 60
    assert len(await burst([rates], limit + 5, bound(requests=limit))) == limit


@pytest.mark.parametrize("tokens", [1, 30, 100, 1000])
@pytest.mark.parametrize("taken", [1, 77, 100])
async def test_retry_after_is_the_moment_and_none_before(
    rates: Rates, clock: Clock, taken: int, tokens: int
) -> None:
    limit = bound(tokens=100)
    await enter(rates, limit, tokens=taken)
    if taken + min(tokens, 100) <= 100:
        await enter(rates, limit, tokens=tokens)
        taken += tokens
    error = await refused(rates, limit, tokens=100)
    assert (error.kind, error.subject, error.limit) == ("tokens", "user:alice", 100)
    assert error.retry_after == pytest.approx(taken * 0.6)
    clock.now += error.retry_after - 0.001
    assert (await refused(rates, limit, tokens=100)).retry_after == 0.001
    clock.now += 0.001
    await enter(rates, limit, tokens=100)


async def test_a_refusal_names_the_bound_that_takes_longest(rates: Rates, clock: Clock) -> None:
    fast, slow, slots = (
        bound("user:a", requests=60),
        bound("team:b", tokens=10),
        bound("key:c", parallel=1),
    )
    for _ in range(59):
        await enter(rates, fast)
    await enter(rates, fast, slow, slots, tokens=10)
    error = await refused(rates, fast, slots, slow)
    assert (error.kind, error.subject, error.retry_after) == ("tokens", "team:b", 6.0)
    error = await refused(rates, fast, slots)
    # the first of equals
    assert (error.kind, error.subject, error.retry_after) == ("requests", "user:a", 1.0)
    clock.now += 6
    error = await refused(rates, fast, slots, slow)
    assert (error.kind, error.subject, error.limit, error.retry_after) == (
        "parallel",
        "key:c",
        1,
        SLOT_RETRY_MS / 1000,
    )


async def test_a_refusal_takes_nothing_anywhere(rates: Rates) -> None:
    wide, narrow = bound("user:a", requests=5, tokens=100, parallel=5), bound("model:m", requests=1)
    await enter(rates, narrow)
    for _ in range(20):
        await refused(rates, wide, narrow, tokens=50)
        await refused(rates, narrow, wide, tokens=50)
    assert (await enter(rates, wide, tokens=1)).tokens == CounterState(100, 99, 600)
    assert len(await burst([rates], 20, wide)) == 4


async def test_one_subject_does_not_slow_another(rates: Rates) -> None:
    await enter(rates, bound("user:a", requests=1))
    await refused(rates, bound("user:a", requests=1))
    await enter(rates, bound("user:b", requests=1))


@pytest.mark.parametrize("kind", ["requests", "tokens", "parallel"])
async def test_zero_refuses_always(rates: Rates, clock: Clock, kind: str) -> None:
    fields: dict[str, Any] = {kind: 0}
    for _ in range(3):
        error = await refused(rates, bound(**fields), tokens=0)
        assert (error.kind, error.limit, error.retry_after) == (kind, 0, 60.0)
        clock.now += 3600


async def test_without_a_limit_nothing_is_counted(rates: Rates) -> None:
    permit = await enter(rates, bound(), bound("team:b"), tokens=MAX_RATE)
    assert (permit.limits, headers(permit)) == ((), {})
    await rates.leave(permit, MAX_RATE)


async def test_leaving_frees_the_slot_and_returns_what_was_not_used(rates: Rates) -> None:
    limit = bound(tokens=100, parallel=1)
    permit = await enter(rates, limit, tokens=80)
    assert (await refused(rates, limit, tokens=50)).kind == "tokens"
    assert (await refused(rates, limit, tokens=20)).kind == "parallel"
    await rates.leave(permit, 30)
    after = await enter(rates, limit, tokens=1)
    assert after.tokens == CounterState(100, 69, 18_600)


async def test_leaving_twice_changes_nothing_more(rates: Rates) -> None:
    limit = bound(tokens=100, parallel=2)
    one, _ = await burst([rates], 2, limit, tokens=50)
    for _ in range(3):
        await rates.leave(one, 10)
    assert len(await burst([rates], 5, limit, tokens=10)) == 1  # one slot came back, not two
    error = await refused(rates, limit, tokens=31)
    assert error.tokens == CounterState(100, 30, 42_000)  # 10 + 50 + 10 are used


async def test_what_is_used_beyond_the_estimate_is_a_debt(rates: Rates, clock: Clock) -> None:
    limit = bound(tokens=100)
    await rates.leave(await enter(rates, limit, tokens=10), 150)
    error = await refused(rates, limit)
    assert error.retry_after == pytest.approx(30.6)
    assert error.tokens == CounterState(100, 0, 90_000)
    clock.now += error.retry_after
    await enter(rates, limit)


@pytest.mark.parametrize("used", [10_000, 2**53])
async def test_a_debt_has_an_end(rates: Rates, clock: Clock, used: int) -> None:
    limit = bound(tokens=100)
    await rates.leave(await enter(rates, limit, tokens=10), used)
    assert (await refused(rates, limit)).retry_after == 60
    clock.now += MAX_DEBT_MINUTES * 60
    assert (await refused(rates, limit)).retry_after == pytest.approx(0.6)
    clock.now += 0.6
    await enter(rates, limit)


@pytest.mark.parametrize("used", [0, -5])
async def test_what_drained_meanwhile_is_not_given_back_twice(
    rates: Rates, clock: Clock, used: int
) -> None:
    permit = await enter(rates, bound(tokens=100), tokens=100)
    clock.now += 30
    await rates.leave(permit, used)
    assert (await enter(rates, bound(tokens=100), tokens=1)).tokens == CounterState(100, 99, 600)


async def test_a_call_larger_than_the_limit_takes_all_of_it(rates: Rates) -> None:
    permit = await enter(rates, bound(tokens=100), bound("team:b", tokens=1000), tokens=5000)
    assert permit.tokens == CounterState(100, 0, 60_000)
    await rates.leave(permit, 60)
    assert (await enter(rates, bound(tokens=100))).tokens == CounterState(100, 39, 36_600)
    assert (await enter(rates, bound("team:b", tokens=1000))).tokens == CounterState(
        1000, 939, 3_660
    )


async def test_a_slot_that_nobody_renews_is_free_after_a_minute(rates: Rates, clock: Clock) -> None:
    limit = bound(parallel=2)
    dead, alive = await burst([rates], 2, limit)
    for _ in range(3):
        clock.now += SLOT_LEASE_MS / 1000 - 0.001
        await rates.renew([alive])
    clock.now += 0.001
    assert len(await burst([rates], 5, limit)) == 1  # the dead one's
    await rates.leave(dead, 0)
    await refused(rates, limit)
    await rates.leave(alive, 0)
    assert len(await burst([rates], 5, limit)) == 1


async def test_a_slot_lapses_to_the_millisecond(rates: Rates, clock: Clock) -> None:
    await enter(rates, bound(parallel=1))
    clock.now += SLOT_LEASE_MS / 1000 - 0.001
    await refused(rates, bound(parallel=1))
    clock.now += 0.001
    await enter(rates, bound(parallel=1))


async def test_a_slot_that_lapsed_stays_so_and_the_estimate_stands(
    rates: Rates, clock: Clock
) -> None:
    permit = await enter(rates, bound(tokens=10, parallel=1), tokens=10)
    clock.now += SLOT_LEASE_MS / 1000
    await rates.renew([permit])
    await enter(rates, bound(tokens=10, parallel=1), tokens=10)
    await rates.leave(permit, 0)
    assert (await refused(rates, bound(tokens=10, parallel=5))).tokens == CounterState(
        10, 0, 60_000
    )
    await refused(rates, bound(tokens=10, parallel=1))


async def test_who_leaves_after_the_lease_corrects_nothing(rates: Rates, clock: Clock) -> None:
    permit = await enter(rates, bound(tokens=10), tokens=5)
    clock.now += SLOT_LEASE_MS / 1000
    await rates.leave(permit, 200)
    assert (await enter(rates, bound(tokens=10))).tokens == CounterState(10, 9, 6_000)


async def test_a_call_takes_a_token_at_least(rates: Rates) -> None:
    permit = await enter(rates, bound(tokens=10), tokens=0)
    assert permit.tokens == CounterState(10, 9, 6_000)
    await rates.leave(permit, 0)
    assert (await enter(rates, bound(tokens=10))).tokens == CounterState(10, 9, 6_000)


async def test_the_headers_tell_the_tightest_bound(rates: Rates) -> None:
    bounds = (
        bound("user:a", requests=600, tokens=1000),
        bound("team:b", requests=10),
        bound("key:c", tokens=200_000),
    )
    permit = await enter(rates, *bounds, tokens=400)
    assert headers(permit) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "6s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "600",
        "x-ratelimit-reset-tokens": "24s",
    }
    error = await refused(rates, *bounds, tokens=601)
    assert headers(error) == headers(permit) | {"retry-after": "1", "retry-after-ms": "60"}
    assert (
        str(error) == "Rate limit reached for user:a: 1,000 tokens per minute. Try again in 60ms."
    )


async def test_the_highest_limit_is_counted_exactly(rates: Rates) -> None:
    limit = bound(requests=MAX_RATE, tokens=MAX_RATE)
    permit = await enter(rates, limit, tokens=MAX_RATE - 1)
    assert (permit.requests, permit.tokens) == (
        CounterState(MAX_RATE, MAX_RATE - 1, 1),
        CounterState(MAX_RATE, 1, 60_000),
    )
    await enter(rates, limit, tokens=1)
    assert (await refused(rates, limit)).retry_after == 0.001
    await rates.leave(permit, 2**53)
    assert (await refused(rates, limit)).tokens == CounterState(MAX_RATE, 0, 660_000)


LENGTHS = {
    0: "0s",
    1: "1ms",
    120: "120ms",
    1000: "1s",
    1050: "1.05s",
    59_999: "59.999s",
    60_000: "1m0s",
    372_500: "6m12.5s",
}


@pytest.mark.parametrize(("milliseconds", "text"), LENGTHS.items())
def test_durations_are_written_like_openais(milliseconds: int, text: str) -> None:
    assert duration(milliseconds) == text


async def test_calls_under_way_are_renewed_by_themselves(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed = asyncio.Event()

    class Watched(MemoryRates):
        async def renew(self, permits: Iterable[Permit]) -> None:
            await super().renew(permits)
            renewed.set()

    monkeypatch.setattr("chattable.budget.rates.RENEW_EVERY_S", 0.001)
    rates = Watched(clock)
    permit = await enter(rates, bound(parallel=1))
    await rates.start()
    for _ in range(5):
        clock.now += 40
        renewed.clear()
        await asyncio.wait_for(renewed.wait(), 10)
        await refused(rates, bound(parallel=1))
    await rates.leave(permit, 1)
    await enter(rates, bound(parallel=1))
    await rates.stop()


async def test_memory_forgets_whoever_has_drained(clock: Clock) -> None:
    rates = MemoryRates(clock)
    indebted = await enter(rates, bound("user:debtor", tokens=10))
    await rates.leave(indebted, 40)
    for i in range(2_000):
        clock.now += 1
        permit: Permit = await enter(rates, bound(f"user:{i}", requests=60, tokens=60, parallel=1))
        await rates.leave(permit, 1)
        assert len(rates) <= 130  # a minute's worth, twice over
        if i == 170:
            assert (
                await refused(rates, bound("user:debtor", tokens=10), tokens=10)
            ).kind == "tokens"
