"""A target's health: when nobody asks it any more, when one call may look whether it is back, and how fast it is."""

from hypothesis import given
from hypothesis import strategies as st

from chattable.proxy.catalog.circuits import (
    FIRST_PAUSE_S,
    MAX_FAILURES_IN_A_ROW,
    MAX_PAUSE_S,
    MEASURED_CALLS,
    WINDOW_S,
    CircuitBreaker,
    State,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def call(health: CircuitBreaker, ok: bool | None, latency: float | None = None) -> None:
    health.end(health.begin(), ok, latency)


def broken(clock: Clock) -> CircuitBreaker:
    health = CircuitBreaker(clock)
    for _ in range(MAX_FAILURES_IN_A_ROW):
        call(health, False)
    return health


def test_failures_in_a_row_open_the_circuit() -> None:
    health = CircuitBreaker(Clock())
    for _ in range(MAX_FAILURES_IN_A_ROW - 1):
        call(health, False)
    call(health, True)
    for _ in range(MAX_FAILURES_IN_A_ROW - 1):
        call(health, False)
    assert health.willing
    call(health, None)  # a client's own mistake says nothing
    assert health.state is State.CLOSED
    call(health, False)
    assert (health.state, health.willing) == (State.OPEN, False)


def test_one_call_at_a_time_looks_whether_it_is_back() -> None:
    clock = Clock()
    health = broken(clock)
    clock.now += FIRST_PAUSE_S
    assert (health.state, health.willing) == (State.HALF_OPEN, True)
    probe = health.begin()
    assert not health.willing
    health.end(probe, None)  # its client left: nobody knows more
    assert (health.state, health.willing) == (State.HALF_OPEN, True)
    call(health, True)
    assert (health.state, health.willing) == (State.CLOSED, True)


def test_every_probe_that_fails_makes_the_pause_longer() -> None:
    clock, pauses = Clock(), []
    health = broken(clock)
    for _ in range(8):
        pause = 0.0
        while not health.willing:
            clock.now += 1
            pause += 1
        pauses.append(pause)
        call(health, False)
    assert pauses == [
        FIRST_PAUSE_S,
        2 * FIRST_PAUSE_S,
        4 * FIRST_PAUSE_S,
        8 * FIRST_PAUSE_S,
        MAX_PAUSE_S,
        MAX_PAUSE_S,
        MAX_PAUSE_S,
        MAX_PAUSE_S,
    ]


def test_one_that_fails_every_other_time_is_no_better() -> None:
    clock = Clock()
    health = CircuitBreaker(clock)
    for i in range(MEASURED_CALLS):
        call(health, bool(i % 2))
    assert (health.state, health.willing) == (State.CLOSED, True)  # the last was a success
    call(health, False)
    assert health.state is State.OPEN
    health = CircuitBreaker(clock)
    for i in range(MEASURED_CALLS * 4):
        call(health, bool(i % 2))
        clock.now += WINDOW_S / MEASURED_CALLS * 2  # failures of long ago do not count
    assert health.state is State.CLOSED


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100)), max_size=60))
def test_it_is_never_open_for_ever(steps: list[tuple[bool, float]]) -> None:
    clock = Clock()
    health = CircuitBreaker(clock)
    for ok, pause in steps:
        if health.willing:
            call(health, ok, 0.1)
        clock.now += pause
    clock.now += MAX_PAUSE_S
    assert health.willing
    call(health, True)
    assert (health.state, health.under_way) == (State.CLOSED, 0)


def test_the_latency_follows() -> None:
    health = CircuitBreaker(Clock())
    call(health, True, 1.0)
    assert health.latency == 1.0
    for _ in range(30):
        call(health, True, 0.1)
    assert health.latency is not None and 0.1 <= health.latency < 0.11
