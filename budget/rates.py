"""How fast calls may come: requests and tokens per minute, and calls at once.

The port, its words and its law.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from chattable.budget.periodic import Periodic

WINDOW = 60_000  # milliseconds in which a full counter drains
LEASE = 60_000  # milliseconds that a slot lives without being renewed
RENEW = 20.0  # seconds between two renewals
# minutes of its limit that a counter can owe at most: a rate smooths, accounts are the ledger's
DEBT = 10
# milliseconds after which asking for a slot again makes sense: nobody knows when a call ends
CALL_ENDS = 1_000
# the highest limit: counters of it, debts and all, are integers that a double holds exactly
MOST = 10**10

Kind = Literal["requests", "tokens", "parallel"]
Count = Annotated[int, Meta(ge=0, le=MOST)]
# of a bound: levels of requests and tokens, in 1/WINDOW of one, and slots taken
Level = tuple[int, int, int]


class Rate(Struct, frozen=True, kw_only=True):
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


class Bound(Struct, frozen=True):
    """A rate and who shares it."""

    subject: str  # such as "user:user_abc"; once per call, and never a name that clients make up
    rate: Rate


class Gauge(Struct, frozen=True):
    """How a counter stands."""

    limit: int
    remaining: int
    reset: int  # milliseconds until it is empty again


class Pass(Struct, frozen=True, kw_only=True):
    """A call that was let in, and the tightest counter of each kind after it; None: nothing limits or nobody counted."""

    call_id: str
    bounds: tuple[Bound, ...] = ()
    estimate: int = 0
    requests: Gauge | None = None
    tokens: Gauge | None = None


class RateLimitedError(Exception):
    """A call does not fit into a rate now."""

    def __init__(
        self,
        kind: Kind,
        subject: str,
        limit: int,
        wait: int,
        requests: Gauge | None = None,
        tokens: Gauge | None = None,
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

    Law. A call is let in only if every bound has room for it, decided in one step over all of them,
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
        self._open: dict[str, Pass] = {}  # calls under way, whose leases are renewed
        self._upkeep = Periodic("slots of calls under way", self._renew_open, RENEW)

    async def start(self) -> None:
        """Begins to renew leases."""
        self._upkeep.start()

    async def stop(self) -> None:
        """Ends; slots of calls still under way are left to their leases."""
        await self._upkeep.stop()

    @abstractmethod
    async def enter(self, bounds: Sequence[Bound], call_id: str, tokens: int) -> Pass:
        """Lets a call in or raises `RateLimitedError`; the id is new for each call and never a client's."""

    @abstractmethod
    async def leave(self, passed: Pass, used: int) -> None:
        """Ends a call, with the tokens it used in all; for the object that let it in."""

    @abstractmethod
    async def renew(self, passes: Iterable[Pass]) -> None:
        """Gives slots that have not lapsed a new lease; happens by itself between start and stop."""

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
    return min(max(0, level + (used - weight(limit, tokens)) * WINDOW), limit * WINDOW * (1 + DEBT))


def check_room(bounds: Sequence[Bound], levels: Sequence[Level], tokens: int) -> None:
    """Raises for the bound without room that takes longest to have some."""
    longest, found = 0, None
    for bound, (requests, used, slots) in zip(bounds, levels, strict=True):
        rate = bound.rate
        if (limit := rate.requests_per_minute) is not None and (
            wait := _wait(requests, 1, limit)
        ) > longest:
            longest, found = wait, ("requests", bound.subject, limit)
        if (limit := rate.tokens_per_minute) is not None and (
            wait := _wait(used, weight(limit, tokens), limit)
        ) > longest:
            longest, found = wait, ("tokens", bound.subject, limit)
        if (
            (limit := rate.parallel) is not None
            and slots >= limit
            and (wait := CALL_ENDS if limit else WINDOW) > longest
        ):
            longest, found = wait, ("parallel", bound.subject, limit)
    if found is not None:
        kind, subject, limit = found
        wait = min(longest, WINDOW)
        raise RateLimitedError(kind, subject, limit, wait, *gauges(bounds, levels))  # type: ignore[arg-type]


def gauges(bounds: Sequence[Bound], levels: Sequence[Level]) -> tuple[Gauge | None, Gauge | None]:
    """The tightest counter of requests and of tokens."""
    requests = tokens = None
    for bound, level in zip(bounds, levels, strict=True):
        if bound.rate.requests_per_minute is not None:
            requests = _tighter(requests, bound.rate.requests_per_minute, level[0])
        if bound.rate.tokens_per_minute is not None:
            tokens = _tighter(tokens, bound.rate.tokens_per_minute, level[1])
    return requests, tokens


def headers(seen: Pass | RateLimitedError) -> dict[str, str]:
    """What an answer tells its client, in OpenAI's words."""
    told = {}
    for kind, gauge in (("requests", seen.requests), ("tokens", seen.tokens)):
        if gauge is not None:
            told[f"x-ratelimit-limit-{kind}"] = str(gauge.limit)
            told[f"x-ratelimit-remaining-{kind}"] = str(gauge.remaining)
            told[f"x-ratelimit-reset-{kind}"] = duration(gauge.reset)
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
    """Milliseconds until an amount fits; 0: now."""
    return max(0, -(-(level + (amount - limit) * WINDOW) // limit)) if limit else WINDOW


def _tighter(gauge: Gauge | None, limit: int, level: int) -> Gauge:
    """The one of two counters with less left."""
    remaining = max(0, limit - -(-level // WINDOW))
    if gauge is not None and gauge.remaining <= remaining:
        return gauge
    return Gauge(limit, remaining, -(-level // limit) if limit else 0)
