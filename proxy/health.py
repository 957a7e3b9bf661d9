"""Whether a target is worth asking: a circuit breaker, and how fast it answered lately."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum

FAILURES = 5  # in a row that open the circuit
CALLS, SHARE = 20, 0.5  # or this share of so many calls,
WINDOW = 30.0  # within so many seconds
COOL, COOLEST = 5.0, 60.0  # seconds until a probe; doubled by each that fails, up to
SMOOTH = 0.2  # weight of the newest latency in the average


class State(StrEnum):
    """Of a circuit."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Health:
    """What is known of one target.

    Law: after `FAILURES` in a row, or when half of the last calls failed, nobody asks for a while; then one call at a time is
    let through, whose outcome closes the circuit or opens it for twice as long.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.latency: float | None = None  # seconds to the first token, averaged
        self.under_way = 0
        self.succeeded = 0
        self.failed = 0
        self._clock = clock
        self._recent: deque[tuple[float, bool]] = deque(maxlen=CALLS)
        self._in_a_row = 0
        self._cool = COOL
        self._open_until = 0.0
        self._open = False
        self._probing = False

    @property
    def state(self) -> State:
        """Of the circuit, now."""
        if not self._open:
            return State.CLOSED
        return State.OPEN if self._clock() < self._open_until else State.HALF_OPEN

    @property
    def willing(self) -> bool:
        """Whether a call may be made now."""
        state = self.state
        return state is State.CLOSED or (state is State.HALF_OPEN and not self._probing)

    def begin(self) -> None:
        """Notes that a call is made."""
        self.under_way += 1
        self._probing = self._probing or self.state is State.HALF_OPEN

    def end(self, ok: bool | None, latency: float | None = None) -> None:
        """Notes what became of it; None: it says nothing of the target (the client's own mistake, a client that left)."""
        self.under_way -= 1
        if self._open:
            self._probing = False
        if ok is None:
            return
        if latency is not None:
            self.latency = latency if self.latency is None else self.latency + SMOOTH * (latency - self.latency)
        now = self._clock()
        self._recent.append((now, ok))
        if ok:
            self.succeeded += 1
            self._in_a_row = 0
            if self._open:
                self._open, self._cool = False, COOL
                self._recent.clear()
            return
        self.failed += 1
        self._in_a_row += 1
        if self._open:
            self._cool = min(2 * self._cool, COOLEST)
            self._open_until = now + self._cool
        elif self._in_a_row >= FAILURES or self._mostly_failing(now):
            self._open, self._open_until = True, now + self._cool

    def _mostly_failing(self, now: float) -> bool:
        lately = [ok for at, ok in self._recent if now - at <= WINDOW]
        return len(lately) >= CALLS and lately.count(False) >= SHARE * len(lately)
