"""The ledger's port: what it is asked, what it answers, and the law it keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from chattable.budget.limits import MAX_AMOUNT, Limit, Payer

HOLD_LEASE_S = 60.0  # how long a hold lives without being renewed

Progress = Callable[[int, int, str], object]  # rows looked at, about how many in all, what is done
State = Literal["pending", "settled", "voided", "forfeited"]
GROUPS = ("user", "team", "key", "model", "agent", "session", "tag", "day")  # day: its first second


class Amount(Struct, frozen=True, order=True):
    """Tokens and micro-USD, always both."""

    tokens: int = 0
    cost: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.tokens + other.tokens, self.cost + other.cost)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.tokens - other.tokens, self.cost - other.cost)

    def __neg__(self) -> Amount:
        return Amount(-self.tokens, -self.cost)


NOTHING = Amount()


class Price(Struct, frozen=True):
    """Micro-USD per million tokens: a dollar per million is 1,000,000, so prices are integers."""

    input: int = 0
    output: int = 0
    cached: int | None = None  # of prompt tokens that the upstream had cached; None: as input
    cache_write: int | None = None  # of those that it writes to a cache; None: as input
    cache_write_1h: int | None = None  # of those kept for an hour; None: as cache_write
    image: int = 0  # micro-USD for a picture made, whatever its tokens
    above: int = 0  # tokens of the longest prompt that costs this
    long: Price | None = None  # what all tokens cost where it is longer; None: the same

    @property
    def free(self) -> bool:
        """Whether it is zero throughout: what costs nothing is refused for no want of money."""
        here = not any((self.input, self.output, *self._of_prompt, self.image))
        return here and (self.long is None or self.long.free)

    @property
    def dearest(self) -> Price:
        """The price with every prompt token at the most it can cost, which a hold must cover."""
        prompt, long = max(self.input, *self._of_prompt), self.long and self.long.dearest
        if long is not None and long.input < prompt:
            long = replace(long, input=prompt)
        return replace(self, input=prompt, cached=None, long=long)

    def at(self, prompt: int) -> Price:
        """What tokens cost in a call whose prompt has that many."""
        return self if self.long is None or prompt <= self.above else self.long.at(prompt)

    @property
    def _of_prompt(self) -> tuple[int, int, int]:
        """What a prompt token costs that was cached, is written, is written for an hour."""
        cached = self.input if self.cached is None else self.cached
        written = self.input if self.cache_write is None else self.cache_write
        return cached, written, written if self.cache_write_1h is None else self.cache_write_1h

    def of(
        self,
        prompt: int,
        completion: int,
        cached: int = 0,
        written: int = 0,
        written_1h: int = 0,
    ) -> int:
        """The cost in micro-USD, rounded up once: a cost is never understated.

        `cached` and `written` are parts of the prompt that do not overlap, `written_1h` is a part
        of `written`.
        """
        if self.long is not None and prompt > self.above:
            return self.long.of(prompt, completion, cached, written, written_1h)
        cost = completion * self.output
        if cached or written:
            read, write, write_1h = self._of_prompt
            cached = min(cached, prompt)
            written = min(written, prompt - cached)
            long = min(written_1h, written)
            prompt -= cached + written
            cost += cached * read + (written - long) * write + long * write_1h
        return -(-(cost + prompt * self.input) // 1_000_000)


FREE = Price()


class HoldRequest(Struct, frozen=True, kw_only=True):
    """A call of a model before it is made, and the most it may use.

    That is its prompt, and between `min_output` and `max_output` tokens of output.
    """

    id: str  # chosen by the caller; the same id again gives the same hold
    payer: Payer = field(name="asker")  # `name`: as journals on disk have it
    model: str
    prompt: int
    max_output: int = field(name="most")
    min_output: int = field(default=1, name="least")
    price: Price = FREE
    priced: bool = True  # False: nobody knows its price, and hard limits of money refuse it
    fixed: int = 0  # micro-USD that it costs whatever the tokens: pictures that are made …
    uncapped: bool = False  # nobody said how much: it gets a share of what remains, not all of it
    request_id: str = field(default="", name="request")
    tag: str = ""  # what it is for, where it is not the user's own question: title, summary …

    @property
    def free(self) -> bool:
        """Whether it costs nothing, however much it says."""
        return self.price.free and not self.fixed

    def amount(self, output: int) -> Amount:
        """What it costs with that much output."""
        return Amount(self.prompt + output, self.price.of(self.prompt, output) + self.fixed)


class Charge(Struct, frozen=True, kw_only=True):
    """What a call used, and so what it is charged."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0  # of the prompt
    cost: int = 0  # micro-USD
    saved: int = 0  # tokens that a cache made unnecessary
    estimated: bool = False  # counted here, because the upstream did not say
    # it may have been more, up to what was held: the end of the answer was not seen
    unknown: bool = False

    @property
    def amount(self) -> Amount:
        """What it is booked as."""
        return Amount(self.prompt + self.completion, self.cost)


class Hold(Struct, frozen=True, kw_only=True):
    """What a request may use."""

    id: str
    output: int  # tokens of output that are covered
    held: Amount
    # whether any limit binds it: if none does, nothing is held and there is nothing to settle
    bound: bool = True
    hard: bool = True  # whether one of them refuses: `output` must be sent upstream as the cap
    warnings: tuple[str, ...] = ()  # ids of soft limits without room for all of it
    # tokens that were left before it under the tightest hard limit; None: none binds
    remaining: int | None = None
    resets_at: int | None = None  # when that limit's window ends


class Balance(Struct, frozen=True, kw_only=True):
    """How much of a limit is left in its present window."""

    limit: Limit
    amount: Amount  # the limit with grants; a unit that is not limited is 0
    spent: Amount
    held: Amount
    resets_at: int | None

    @property
    def remaining(self) -> Amount:
        """What a new hold may still take, per unit; meaningless for a unit that is not limited."""
        return self.amount - self.spent - self.held


class Posting(Struct, frozen=True, kw_only=True):
    """An entry of the ledger: what it changed on one account."""

    id: int
    at: int
    kind: str  # hold settle void forfeit correct grant refund
    hold: str
    limit: str
    owner: str
    period: int
    spent: Amount
    held: Amount
    granted: Amount
    overdraft: Amount
    reason: str
    upper: Amount | None = None  # what the call may have used, where nobody knows what it did use


class UsageRow(Struct, frozen=True, kw_only=True):
    """What a group of calls used; `group` has the values that it was grouped by, in their order."""

    group: tuple[str | int, ...]
    requests: int  # that upstreams were asked
    cached_requests: int  # that a cache answered
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    tokens_saved: int
    cost: int


class Difference(Struct, frozen=True):
    """An account whose balance is not the sum of its entries."""

    limit: str
    owner: str
    period: int
    balance: tuple[int, ...]
    entries: tuple[int, ...]


class Ledger(ABC):
    """Books of what may be spent, what is reserved and what was used.

    Law. A hold is granted only if, for every hard limit that binds it, spent + held ≤ limit +
    grants afterwards, decided in one atomic step over all of them, whoever else asks at the same
    time. The window is that of the database's clock at the hold; what the hold becomes is booked
    there. A hold is pending until it is settled, voided or forfeited, once: repeating any step
    changes nothing. Who knows more corrects: a settle after a forfeit, and one after a settle that
    was flagged unknown. Settling never fails for lack of room: what exceeds the hold, or is known
    only when its room is gone, is booked as overdraft. Every change of a balance is an entry of the
    same transaction; entries are never changed. When the database is away every method raises
    `StorageUnavailable` and has changed nothing, or everything.
    """

    async def start(self) -> None:  # noqa: B027 - most ledgers need nothing
        """Begins to work."""

    async def stop(self) -> None:  # noqa: B027
        """Finishes what was asked and ends."""

    async def flush(self) -> None:  # noqa: B027
        """Waits until what was acknowledged survives a loss of power."""

    @abstractmethod
    async def put_limit(self, limit: Limit) -> None:
        """Adds a limit, or changes the one with its id; what was spent stays spent."""

    @abstractmethod
    async def drop_limit(self, limit_id: str) -> None:
        """Ends a limit; its entries stay, and open holds still settle."""

    @abstractmethod
    async def limits(self) -> list[Limit]:
        """Every limit in force, by id."""

    @abstractmethod
    async def has_limits(self) -> bool:
        """Whether any limit is in force: without one no call needs a hold."""

    @abstractmethod
    async def hold(self, request: HoldRequest) -> Hold:
        """Reserves what a call may use, or raises `BudgetExceededError`.

        It gets as much output as there is room for, up to what it asks for.
        """

    @abstractmethod
    async def renew(self, hold_ids: list[str]) -> None:
        """Gives pending holds a new lease."""

    @abstractmethod
    async def settle(self, hold_id: str, charge: Charge, reason: str = "") -> State:
        """Books what was used; returns the hold's state."""

    @abstractmethod
    async def record(self, calls: Sequence[tuple[HoldRequest, Charge]]) -> None:
        """Records what calls used that no limit binds, each once: usage, but nobody's spending."""

    @abstractmethod
    async def void(self, hold_id: str, reason: str = "") -> State:
        """Books that nothing was used; returns the hold's state."""

    @abstractmethod
    async def sweep(self) -> list[str]:
        """Forfeits every pending hold whose lease is over, and returns their ids.

        What it used is unknown, so all of it is charged.
        """

    @abstractmethod
    async def grant(self, limit_id: str, amount: Amount, reason: str, owner: str = "") -> None:
        """Adds to the limit in its present window; `owner`: the user of a limit for each user."""

    @abstractmethod
    async def refund(self, limit_id: str, amount: Amount, reason: str, owner: str = "") -> None:
        """Takes back spending of the limit's present window, at most what was spent."""

    @abstractmethod
    async def balances(self, payer: Payer, model: str) -> list[Balance]:
        """What every limit that binds such a request has left."""

    @abstractmethod
    async def balance(self, limit_id: str, owner: str = "") -> Balance:
        """What one limit has left; `owner`: the user of a limit for each user."""

    @abstractmethod
    async def entries(
        self,
        *,
        limit_id: str = "",
        hold_id: str = "",
        user: str = "",
        after: int = 0,
        most: int = 1000,
    ) -> list[Posting]:
        """Entries in the order they were made; `user` is whose requests they are of."""

    @abstractmethod
    async def usage(
        self,
        by: Sequence[str],
        *,
        since: int,
        until: int,
        only: Mapping[str, str],
        after: Sequence[str | int] = (),
        most: int = MAX_AMOUNT,
    ) -> list[UsageRow]:
        """What calls that began in [since, until) used, grouped by some of `GROUPS`, in order.

        `only` narrows it: the value that a call must have, by group. At most `most` groups are
        returned, from behind the one that has the values `after`.
        """

    @abstractmethod
    async def tokens_saved(self) -> int:
        """How many tokens answers from a cache have saved in all."""

    @abstractmethod
    async def notify(self, kind: str, data: Mapping[str, Any]) -> None:
        """Puts an event into the outbox."""

    @abstractmethod
    async def accounts(self) -> int:
        """How many balances there are."""

    @abstractmethod
    async def verify(self, progress: Progress | None = None) -> list[Difference]:
        """Recomputes every balance from the entries; an empty list is the only good answer.

        Nobody waits for it, and what is booked meanwhile makes no difference.
        """
