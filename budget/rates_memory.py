"""Rate limits within one process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from chattable.budget.rates import (
    SLOT_LEASE_MS,
    WINDOW_MS,
    Allowance,
    Level,
    Permit,
    RateLimit,
    Rates,
    check_room,
    corrected,
    drained,
    tightest,
    weight,
)


class MemoryRates(Rates):
    """Counts in a dictionary, which forgets whoever has drained."""

    shared = False

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._counters: OrderedDict[str, _Counter] = OrderedDict()

    def __len__(self) -> int:
        """How many subjects it remembers."""
        return len(self._counters)

    async def enter(self, limits: Sequence[RateLimit], call_id: str, tokens: int) -> Permit:
        """Lets a call in or raises."""
        if not (limits := tuple([limit for limit in limits if limit.rate.limited])):
            return Permit(call_id=call_id)
        now = self._now()
        self._forget(len(limits) + 1, now)
        counters = [self._counters.get(limit.subject) or _Counter(now) for limit in limits]
        levels = [
            counter.level(limit.rate, now) for counter, limit in zip(counters, limits, strict=True)
        ]
        check_room(limits, levels, tokens)
        for i, (counter, limit) in enumerate(zip(counters, limits, strict=True)):
            levels[i] = counter.charge(limit.rate, levels[i], call_id, tokens, now)
            self._counters[limit.subject] = counter
        requests, left = tightest(limits, levels)
        permit = Permit(
            call_id=call_id, limits=limits, estimate=tokens, requests=requests, tokens=left
        )
        self._open[call_id] = permit
        return permit

    async def leave(self, permit: Permit, used: int) -> None:
        """Ends a call."""
        if self._open.pop(permit.call_id, None) is None:
            return
        now = self._now()
        for limit in permit.limits:
            counter = self._counters.get(limit.subject)
            if counter is not None and counter.slots.pop(permit.call_id, 0) > now:
                counter.correct(limit.rate, permit.estimate, max(0, used), now)

    async def renew(self, permits: Iterable[Permit]) -> None:
        """Gives slots a new lease."""
        now = self._now()
        for permit in permits:
            for limit in permit.limits:
                counter = self._counters.get(limit.subject)
                if counter is not None and counter.slots.pop(permit.call_id, 0) > now:
                    counter.take(permit.call_id, now)

    def _now(self) -> int:
        return round(self._clock() * 1000)

    def _forget(self, looks: int, now: int) -> None:
        """Drops drained subjects among those looked at longest ago.

        They are more than a call can add, so that all get their turn.
        """
        for _ in range(min(looks, len(self._counters))):
            subject, counter = self._counters.popitem(last=False)
            if counter.until > now:
                self._counters[subject] = counter


class _Counter:
    """What one subject has done lately."""

    __slots__ = ("at", "requests", "slots", "tokens", "until")

    def __init__(self, now: int) -> None:
        self.requests = self.tokens = 0  # levels, as of `at`
        self.at = now
        self.slots: dict[str, int] = {}  # call → end of its lease, the soonest first
        self.until = now  # when it is as good as new

    def level(self, rate: Allowance, now: int) -> Level:
        """How it stands."""
        while self.slots and self.slots[call := next(iter(self.slots))] <= now:
            del self.slots[call]
        gone = now - self.at
        requests = drained(self.requests, rate.requests_per_minute, gone)
        return requests, drained(self.tokens, rate.tokens_per_minute, gone), len(self.slots)

    def charge(self, rate: Allowance, level: Level, call_id: str, tokens: int, now: int) -> Level:
        """Counts a call in."""
        if rate.requests_per_minute is not None:
            level = (level[0] + WINDOW_MS, level[1], level[2])
        if rate.tokens_per_minute is not None:
            level = (
                level[0],
                level[1] + weight(rate.tokens_per_minute, tokens) * WINDOW_MS,
                level[2],
            )
        self.requests, self.tokens, self.at = level[0], level[1], now
        self.take(call_id, now)
        return level

    def take(self, call_id: str, now: int) -> None:
        """Gives a call a slot, last in line."""
        self.slots[call_id] = now + SLOT_LEASE_MS
        self.until = max(self.until, now + SLOT_LEASE_MS)

    def correct(self, rate: Allowance, tokens: int, used: int, now: int) -> None:
        """Books what a call used in place of its estimate."""
        if (limit := rate.tokens_per_minute) is None:
            return
        self.requests, level, _ = self.level(rate, now)
        self.tokens = corrected(level, limit, tokens, used)
        self.at = now
        self.until = max(self.until, now + SLOT_LEASE_MS, now + -(-self.tokens // limit))
