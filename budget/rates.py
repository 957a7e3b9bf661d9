"""Rate limits: requests and tokens per minute, and calls at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from chattable.budget.periodic import Periodic

WINDOW_MS = 60_000  # in which a full counter drains
SLOT_LEASE_MS = 60_000  # how long a slot lives without being renewed
RENEW_EVERY_S = 20.0  # between two renewals of a slot
# How far a counter can be overdrawn, in minutes of its limit: rates smooth, budgets account.
MAX_DEBT_MINUTES = 10
# When to ask for a slot again: nobody knows when a call ends.
SLOT_RETRY_MS = 1_000
# The highest limit: its counters, debts included, are integers that a double holds exactly.
MAX_RATE = 10**10

Kind = Literal["requests", "tokens", "parallel"]
Count = Annotated[int, Meta(ge=0, le=MAX_RATE)]
# Of a limit: levels of requests and tokens, in 1/WINDOW_MS of one, and slots taken.
Level = tuple[int, int, int]


class Allowance(Struct, frozen=True, kw_only=True):
    """What a subject may do; None: as much as it likes, 0: nothing."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    parallel: Count | None = None

    @property
    def limited(self) -> bool:
        """Whether it limits anything at all."""
        return not (
            self.requests_per_minute is None
            and self.tokens_per_minute is None
            and self.parallel is None
        )


class RateLimit(Struct, frozen=True):
    """What a subject is allowed, by all its calls together."""

    subject: str  # such as "user:user_abc"; once per call, and never a name that clients make up
    rate: Allowance


class CounterState(Struct, frozen=True):
    """How a counter stands."""

    limit: int
    remaining: int
    reset: int  # milliseconds until it is empty again


class Permit(Struct, frozen=True, kw_only=True):
    """A call that was let in, and the tightest counter of each kind after it.

    None: nothing limits that kind, or it was not counted.
    """

    call_id: str
    limits: tuple[RateLimit, ...] = ()
    estimate: int = 0
    requests: CounterState | None = None
    tokens: CounterState | None = None


class RateLimitedError(Exception):
    """A call does not fit into a rate now."""

    def __init__(
        self,
        kind: Kind,
        subject: str,
        limit: int,
        wait: int,
        requests: CounterState | None = None,
        tokens: CounterState | None = None,
    ) -> None:
        unit = "calls at once" if kind == "parallel" else f"{kind} per minute"
        super().__init__(
            f"Rate limit reached for {subject}: {limit:,} {unit}. Try again in {duration(wait)}."
        )
        self.kind = kind
        self.subject = subject
        self.limit = limit
        self.retry_after = wait / 1000  # seconds, above 0 and at most 60
        self.requests = requests
        self.tokens = tokens


class Rates(ABC):
    """Lets calls in at the pace of their rates.

    Law. A call is let in only if every limit has room for it, decided in one step over all of them,
    whoever else asks at the same time; a refusal takes nothing from any. A counter of N per minute
    takes N at once and drains evenly, N in a minute. A call weighs one request and its estimate of
    tokens, at least one, at most the limit, so that no call is too large for ever. Leaving frees
    its slots and corrects the estimate: what was not used comes back, what was used beyond is a
    debt that calls after it wait for. Leaving twice changes nothing more. A slot is a lease: one
    that nobody renews is free again after a minute, and then the estimate stands. `retry_after` is
    exact where nobody else comes, but for a debt beyond a minute, and a guess for slots. A store
    that is away lets everything in, soon, and counts in `failures` what it let in uncounted: the
    only error that ever comes from here is `RateLimitedError`.
    """

    failures = 0
    shared: ClassVar[bool]  # whether entering takes a round trip

    def __init__(self) -> None:
        self._open: dict[str, Permit] = {}  # calls under way, whose leases are renewed
        self._upkeep = Periodic("slots of calls under way", self._renew_open, RENEW_EVERY_S)

    async def start(self) -> None:
        """Begins to renew leases."""
        self._upkeep.start()

    async def stop(self) -> None:
        """Ends; slots of calls still under way are left to their leases."""
        await self._upkeep.stop()

    @abstractmethod
    async def enter(self, limits: Sequence[RateLimit], call_id: str, tokens: int) -> Permit:
        """Lets a call in, or raises `RateLimitedError`.

        The id is new for each call, and never one that a client chose.
        """

    @abstractmethod
    async def leave(self, permit: Permit, used: int) -> None:
        """Ends a call, with the tokens it used in all; only where it was let in."""

    @abstractmethod
    async def renew(self, permits: Iterable[Permit]) -> None:
        """Gives slots that have not lapsed a new lease; done by itself between start and stop."""

    async def _renew_open(self) -> None:
        await self.renew(list(self._open.values()))


def weight(limit: int, tokens: int) -> int:
    """What a call of so many tokens takes from a counter when it enters."""
    return max(1, min(tokens, limit))


def drained(level: int, limit: int | None, elapsed: int) -> int:
    """A level after so many milliseconds."""
    return 0 if limit is None else max(0, level - limit * max(0, elapsed))


def corrected(level: int, limit: int, tokens: int, used: int) -> int:
    """A level after a call of an estimate used something else."""
    most = limit * WINDOW_MS * (1 + MAX_DEBT_MINUTES)
    return min(max(0, level + (used - weight(limit, tokens)) * WINDOW_MS), most)


def check_room(limits: Sequence[RateLimit], levels: Sequence[Level], tokens: int) -> None:
    """Raises for the limit without room that takes longest to have some."""
    worst: tuple[int, Kind, str, int] | None = None
    for limit, level in zip(limits, levels, strict=True):
        for wait, kind, most in _waits(limit.rate, level, tokens):
            if worst is None or wait > worst[0]:
                worst = wait, kind, limit.subject, most
    if worst is not None:
        wait, kind, subject, most = worst
        wait = min(wait, WINDOW_MS)
        raise RateLimitedError(kind, subject, most, wait, *tightest(limits, levels))


def _waits(rate: Allowance, level: Level, tokens: int) -> list[tuple[int, Kind, int]]:
    """The milliseconds until there is room, the kind and the limit, of each that has none."""
    requests, used, slots = level
    found: list[tuple[int, Kind, int]] = []
    most = rate.requests_per_minute
    if most is not None and requests + WINDOW_MS > most * WINDOW_MS:
        found.append((_wait(requests, 1, most), "requests", most))
    most = rate.tokens_per_minute
    if most is not None and used + (weighs := weight(most, tokens)) * WINDOW_MS > most * WINDOW_MS:
        found.append((_wait(used, weighs, most), "tokens", most))
    most = rate.parallel
    if most is not None and slots >= most:
        found.append((SLOT_RETRY_MS if most else WINDOW_MS, "parallel", most))
    return found


def tightest(
    limits: Sequence[RateLimit], levels: Sequence[Level]
) -> tuple[CounterState | None, CounterState | None]:
    """The tightest counter of requests and of tokens."""
    requests = tokens = None
    for limit, level in zip(limits, levels, strict=True):
        if limit.rate.requests_per_minute is not None:
            requests = _tighter(requests, limit.rate.requests_per_minute, level[0])
        if limit.rate.tokens_per_minute is not None:
            tokens = _tighter(tokens, limit.rate.tokens_per_minute, level[1])
    return requests, tokens


def headers(seen: Permit | RateLimitedError) -> dict[str, str]:
    """What an answer tells its client, in OpenAI's words."""
    told = {}
    for kind, counter in (("requests", seen.requests), ("tokens", seen.tokens)):
        if counter is not None:
            told[f"x-ratelimit-limit-{kind}"] = str(counter.limit)
            told[f"x-ratelimit-remaining-{kind}"] = str(counter.remaining)
            told[f"x-ratelimit-reset-{kind}"] = duration(counter.reset)
    if isinstance(seen, RateLimitedError):
        wait = round(seen.retry_after * 1000)
        told |= {"retry-after": str(-(-wait // 1000)), "retry-after-ms": str(wait)}
    return told


def duration(milliseconds: int) -> str:
    """A length of time as OpenAI writes it: 120ms, 1s, 1.5s, 6m0s."""
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{minutes}m{seconds}" if minutes else seconds


def _wait(level: int, amount: int, limit: int) -> int:
    """Milliseconds until an amount fits that does not fit now."""
    return -(-(level + (amount - limit) * WINDOW_MS) // limit) if limit else WINDOW_MS


def _tighter(counter: CounterState | None, limit: int, level: int) -> CounterState:
    """The one of two counters with less left."""
    remaining = max(0, limit - -(-level // WINDOW_MS))
    if counter is not None and counter.remaining <= remaining:
        return counter
    return CounterState(limit, remaining, -(-level // limit) if limit else 0)
