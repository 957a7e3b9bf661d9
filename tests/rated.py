"""Words for tests of rates: a clock to set, bounds in one line, bursts."""

import asyncio
from collections.abc import Sequence
from itertools import count

from chattable.budget.rates import Allowance, Permit, RateLimit, RateLimitedError, Rates

_ids = count()


class Clock:
    """Seconds, moved by the test."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def bound(
    subject: str = "user:alice",
    requests: int | None = None,
    tokens: int | None = None,
    parallel: int | None = None,
) -> RateLimit:
    return RateLimit(
        subject,
        Allowance(requests_per_minute=requests, tokens_per_minute=tokens, parallel=parallel),
    )


async def enter(rates: Rates, *bounds: RateLimit, tokens: int = 1) -> Permit:
    """Enters with a new id."""
    return await rates.enter(bounds, f"call_{next(_ids)}", tokens)


async def refused(rates: Rates, *bounds: RateLimit, tokens: int = 1) -> RateLimitedError:
    """The refusal that must come."""
    try:
        permit = await enter(rates, *bounds, tokens=tokens)
    except RateLimitedError as error:
        return error
    raise AssertionError(f"let in: {permit}")


async def burst(
    doors: Sequence[Rates], calls: int, *bounds: RateLimit, tokens: int = 1
) -> list[Permit]:
    """Those of so many calls at once that are let in, through several doors in turn."""
    outcomes = await asyncio.gather(
        *[enter(doors[i % len(doors)], *bounds, tokens=tokens) for i in range(calls)],
        return_exceptions=True,
    )
    assert all(isinstance(outcome, Permit | RateLimitedError) for outcome in outcomes)
    return [outcome for outcome in outcomes if isinstance(outcome, Permit)]
