"""Rates within one process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from chattable.budget.rates import (
    LEASE,
    WINDOW,
    Bound,
    Level,
    Pass,
    Rate,
    Rates,
    check_room,
    corrected,
    drained,
    gauges,
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

    async def enter(self, bounds: Sequence[Bound], call_id: str, tokens: int) -> Pass:
        """Lets a call in or raises."""
        if not (bounds := tuple([bound for bound in bounds if bound.rate.limited])):
            return Pass(call_id=call_id)
        now = self._now()
        self._forget(len(bounds) + 1, now)
        counters = [self._counters.get(bound.subject) or _Counter(now) for bound in bounds]
        levels = [
            counter.level(bound.rate, now) for counter, bound in zip(counters, bounds, strict=True)
        ]
        check_room(bounds, levels, tokens)
        for i, (counter, bound) in enumerate(zip(counters, bounds, strict=True)):
            levels[i] = counter.charge(bound.rate, levels[i], call_id, tokens, now)
            self._counters[bound.subject] = counter
        requests, left = gauges(bounds, levels)
        passed = Pass(
            call_id=call_id, bounds=bounds, estimate=tokens, requests=requests, tokens=left
        )
        self._open[call_id] = passed
        return passed

    async def leave(self, passed: Pass, used: int) -> None:
        """Ends a call."""
        if self._open.pop(passed.call_id, None) is None:
            return
        now = self._now()
        for bound in passed.bounds:
            counter = self._counters.get(bound.subject)
            if counter is not None and counter.slots.pop(passed.call_id, 0) > now:
                counter.correct(bound.rate, passed.estimate, max(0, used), now)

    async def renew(self, passes: Iterable[Pass]) -> None:
        """Gives slots a new lease."""
        now = self._now()
        for passed in passes:
            for bound in passed.bounds:
                counter = self._counters.get(bound.subject)
                if counter is not None and counter.slots.pop(passed.call_id, 0) > now:
                    counter.take(passed.call_id, now)

    def _now(self) -> int:
        return round(self._clock() * 1000)

    def _forget(self, looks: int, now: int) -> None:
        """Looks at the few that were looked at longest ago: more than a call can add, so that all get their turn."""
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

    def level(self, rate: Rate, now: int) -> Level:
        """How it stands."""
        while self.slots and self.slots[call := next(iter(self.slots))] <= now:
            del self.slots[call]
        gone = now - self.at
        requests = drained(self.requests, rate.requests_per_minute, gone)
        return requests, drained(self.tokens, rate.tokens_per_minute, gone), len(self.slots)

    def charge(self, rate: Rate, level: Level, call_id: str, tokens: int, now: int) -> Level:
        """Counts a call in."""
        if rate.requests_per_minute is not None:
            level = (level[0] + WINDOW, level[1], level[2])
        if rate.tokens_per_minute is not None:
            level = (level[0], level[1] + weight(rate.tokens_per_minute, tokens) * WINDOW, level[2])
        self.requests, self.tokens, self.at = level[0], level[1], now
        self.take(call_id, now)
        return level

    def take(self, call_id: str, now: int) -> None:
        """Gives a call a slot, last in line."""
        self.slots[call_id] = now + LEASE
        self.until = max(self.until, now + LEASE)

    def correct(self, rate: Rate, tokens: int, used: int, now: int) -> None:
        """Books what a call used in place of its estimate."""
        if (limit := rate.tokens_per_minute) is None:
            return
        self.requests, level, _ = self.level(rate, now)
        self.tokens = corrected(level, limit, tokens, used)
        self.at = now
        self.until = max(self.until, now + LEASE, now + -(-self.tokens // limit))
