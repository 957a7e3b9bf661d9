"""The ledger's port: what is asked of it, what it answers, and the law that every implementation keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from msgspec import Struct

from chattable.budget.limits import Asker, Limit

LEASE = 60.0  # seconds that a hold lives without being renewed

State = Literal["pending", "settled", "voided", "forfeited"]


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
    """Micro-USD per million tokens, so that a dollar per million is 1,000,000 and every price is an integer."""

    input: int = 0
    output: int = 0

    def of(self, prompt: int, completion: int) -> int:
        """The cost in micro-USD, rounded up once: a cost is never understated."""
        return -(-(prompt * self.input + completion * self.output) // 1_000_000)


FREE = Price()


class Wish(Struct, frozen=True, kw_only=True):
    """What a request may at most use: its prompt, and between `least` and `most` tokens of output."""

    id: str  # chosen by the caller; the same id again gives the same hold
    asker: Asker
    model: str
    prompt: int
    most: int
    least: int = 1
    price: Price = FREE
    request: str = ""  # request id, for the entries

    def amount(self, output: int) -> Amount:
        """What it costs with that much output."""
        return Amount(self.prompt + output, self.price.of(self.prompt, output))


class Hold(Struct, frozen=True, kw_only=True):
    """What a request may use."""

    id: str
    output: int  # tokens of output that are covered: what must be sent upstream as the cap
    held: Amount
    warnings: tuple[str, ...] = ()  # ids of soft limits that are exceeded
    remaining: int | None = None  # tokens that were left before it under the tightest hard limit; None: none binds
    resets_at: int | None = None  # when that limit's window ends


class Room(Struct, frozen=True, kw_only=True):
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


class Entry(Struct, frozen=True, kw_only=True):
    """One line of the ledger: what it changed on one account."""

    id: int
    at: int
    kind: str  # hold settle void forfeit correct top_up grant refund
    hold: str
    limit: str
    owner: str
    period: int
    spent: Amount
    held: Amount
    granted: Amount
    overdraft: Amount
    reason: str


class Difference(Struct, frozen=True):
    """An account whose balance is not the sum of its entries."""

    limit: str
    owner: str
    period: int
    balance: tuple[int, ...]
    entries: tuple[int, ...]


class Ledger(ABC):
    """Books of what may be spent, what is reserved and what was used.

    Law. A hold is granted only if, for every hard limit that binds it, spent + held ≤ limit + grants afterwards, decided in
    one atomic step over all of them, whoever else asks at the same time. The window is that of the database's clock at the
    hold; what the hold becomes is booked there. A hold is pending until it is settled, voided or forfeited, once: repeating
    any step changes nothing, and a settle after a forfeit corrects it. Settling never fails for lack of room: what exceeds
    the hold is booked as overdraft. Every change of a balance is an entry of the same transaction; entries are never changed.
    When the database is away every method raises `LedgerUnavailableError` and has changed nothing, or everything.
    """

    async def start(self) -> None:  # noqa: B027 - most need nothing
        """Begins to work."""

    async def stop(self) -> None:  # noqa: B027
        """Finishes what was asked and ends."""

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
    async def bounded(self) -> bool:
        """Whether any limit is in force at all: without one nobody needs a hold."""

    @abstractmethod
    async def hold(self, wish: Wish) -> Hold:
        """Reserves what the wish may use, as much output as there is room for, or raises `BudgetExceededError`."""

    @abstractmethod
    async def top_up(self, hold_id: str, output: int, price: Price = FREE) -> bool:
        """Reserves more output for a pending hold; False if there is no room or the hold is over."""

    @abstractmethod
    async def renew(self, hold_ids: list[str]) -> None:
        """Gives pending holds a new lease."""

    @abstractmethod
    async def settle(self, hold_id: str, used: Amount, reason: str = "") -> State:
        """Books what was used; returns the hold's state."""

    @abstractmethod
    async def void(self, hold_id: str, reason: str = "") -> State:
        """Books that nothing was used; returns the hold's state."""

    @abstractmethod
    async def sweep(self) -> list[str]:
        """Forfeits every pending hold whose lease is over: nobody knows what it used, so all of it is charged."""

    @abstractmethod
    async def grant(self, limit_id: str, amount: Amount, reason: str, owner: str = "") -> None:
        """Adds room to the limit's present window, for one user where the limit is for each of them."""

    @abstractmethod
    async def refund(self, limit_id: str, amount: Amount, reason: str, owner: str = "") -> None:
        """Takes back spending in the limit's present window, at most what was spent."""

    @abstractmethod
    async def rooms(self, asker: Asker, model: str) -> list[Room]:
        """What every limit that binds such a request has left."""

    @abstractmethod
    async def room(self, limit_id: str, owner: str = "") -> Room:
        """What one limit has left, for one user where it is for each of them."""

    @abstractmethod
    async def entries(
        self, *, limit_id: str = "", hold_id: str = "", user: str = "", after: int = 0, most: int = 1000
    ) -> list[Entry]:
        """Entries in the order they were made; `user` is whose requests they are of."""

    @abstractmethod
    async def accounts(self) -> int:
        """How many balances there are."""

    @abstractmethod
    async def verify(self) -> list[Difference]:
        """Recomputes every balance from the entries; an empty list is the only good answer."""
