"""A circuit breaker for each target, with how fast the target answered lately."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum

from msgspec import Struct

# What opens the circuit: failures in a row, or a share of the last calls within the window.
MAX_FAILURES_IN_A_ROW = 5
MEASURED_CALLS, MAX_FAILED_SHARE, WINDOW_S = 20, 0.5, 30.0
# Until a call is let through; doubled by each that fails.
FIRST_PAUSE_S, MAX_PAUSE_S = 5.0, 60.0
LATENCY_WEIGHT = 0.2  # of the newest latency in the average


class State(StrEnum):
    """Of a circuit."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class LastError(Struct, frozen=True):
    """How a target failed last, for the operator."""

    at: float  # seconds since 1970
    status: int | None  # that it answered with
    code: str | None
    message: str  # without keys and addresses


class CircuitBreaker:
    """What is known of one target.

    Law: after `MAX_FAILURES_IN_A_ROW`, or when half of the last calls failed, nobody asks for a
    while;
    then one call at a time is let through, whose outcome closes the circuit or opens it for twice
    as long. Calls that were under way when it opened say nothing more: they are of the same
    failure.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.latency: float | None = None  # seconds to the first token, averaged
        self.under_way = 0
        self.succeeded = 0
        self.failed = 0
        self.last: LastError | None = None
        self.tripped = False  # the circuit is not closed
        self._clock = clock
        self._recent: deque[tuple[float, bool]] = deque(maxlen=MEASURED_CALLS)
        self._in_a_row = 0
        self._cool = FIRST_PAUSE_S
        self._open_until = 0.0
        self._probing = False

    @property
    def state(self) -> State:
        """Of the circuit, now."""
        if not self.tripped:
            return State.CLOSED
        return State.OPEN if self._clock() < self._open_until else State.HALF_OPEN

    @property
    def willing(self) -> bool:
        """Whether a call may be made now."""
        return not self.tripped or (self._clock() >= self._open_until and not self._probing)

    def begin(self) -> State:
        """Notes that a call is made, for `end`: in which state of the circuit."""
        self.under_way += 1
        if not self.tripped:
            return State.CLOSED
        if not self.willing:
            return State.OPEN  # there was nobody else
        self._probing = True
        return State.HALF_OPEN

    def end(self, begun: State, ok: bool | None, latency: float | None = None) -> None:
        """Notes how a call ended; None: it says nothing of the target, as when the client left."""
        self.under_way -= 1
        if begun is State.HALF_OPEN:
            self._probing = False
        if ok is None:
            return
        if latency is not None:
            self.latency = (
                latency
                if self.latency is None
                else self.latency + LATENCY_WEIGHT * (latency - self.latency)
            )
        now = self._clock()
        if ok:
            self.succeeded += 1
        else:
            self.failed += 1
        if self.tripped:
            self._judge(begun, ok, now)
            return
        self._recent.append((now, ok))
        if ok:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self._in_a_row >= MAX_FAILURES_IN_A_ROW or self._mostly_failing(now):
            self._trip(now)

    def give_up(self) -> None:
        """Opens the circuit at once: what is wrong does not mend itself in seconds."""
        self._cool = MAX_PAUSE_S
        self._trip(self._clock())

    def _judge(self, begun: State, ok: bool, now: float) -> None:
        """What a call says of a circuit that is not closed."""
        if ok and begun is not State.CLOSED:
            self.tripped, self._cool, self._in_a_row = False, FIRST_PAUSE_S, 0
            self._recent.clear()
        elif begun is State.HALF_OPEN:
            self._cool = min(2 * self._cool, MAX_PAUSE_S)
            self._open_until = now + self._cool

    def _trip(self, now: float) -> None:
        self.tripped, self._open_until = True, now + self._cool

    def _mostly_failing(self, now: float) -> bool:
        lately = [ok for at, ok in self._recent if now - at <= WINDOW_S]
        return len(lately) >= MEASURED_CALLS and lately.count(False) >= MAX_FAILED_SHARE * len(
            lately
        )
