"""The ledger on an SQL database: the port's methods as operations of the law, each in a transaction of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from chattable.budget import law
from chattable.budget.law import Dialect, RepeatedHoldError, Steps, T
from chattable.budget.ledger import FREE, Amount, Difference, Entry, Hold, Ledger, Price, Room, State, Wish
from chattable.budget.limits import MAX_AMOUNT, Asker, Limit, check_per


class SqlLedger(Ledger):
    """What both databases share: everything but how a transaction is run."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    @abstractmethod
    async def run(self, operation: Callable[[], Steps[T]]) -> T:
        """Runs an operation in one transaction; raises what it raises, having changed nothing then."""

    async def put_limit(self, limit: Limit) -> None:
        """Adds a limit, or changes the one with its id."""
        check_per(limit.per)
        amounts = [amount for amount in (limit.tokens, limit.cost) if amount is not None]
        if not amounts or not all(0 <= amount <= MAX_AMOUNT for amount in amounts):
            raise ValueError(f"a limit needs tokens or cost, between 0 and {MAX_AMOUNT}")
        if bool(limit.subject) == (limit.kind in ("each_user", "everyone")):
            raise ValueError(f"a limit on {limit.kind} {'names no subject' if limit.subject else 'needs a subject'}")
        await self.run(lambda: law.put_limit(limit))

    async def drop_limit(self, limit_id: str) -> None:
        """Ends a limit."""
        await self.run(lambda: law.drop_limit(limit_id))

    async def limits(self) -> list[Limit]:
        """Every limit in force."""
        return await self.run(law.limits)

    async def bounded(self) -> bool:
        """Whether any limit is in force at all."""
        return await self.run(law.bounded)

    async def hold(self, wish: Wish) -> Hold:
        """Reserves, or raises `BudgetExceededError`."""
        if not (0 <= wish.prompt <= MAX_AMOUNT and 0 <= wish.least <= wish.most <= MAX_AMOUNT):
            raise ValueError("a wish needs 0 ≤ prompt and 0 ≤ least ≤ most, below 2^53")
        try:
            return await self.run(lambda: law.hold(self._dialect, wish))
        except RepeatedHoldError:
            return await self.run(lambda: law.existing(wish.id))

    async def top_up(self, hold_id: str, output: int, price: Price = FREE) -> bool:
        """Reserves more output for a pending hold."""
        if not 0 <= output <= MAX_AMOUNT:
            raise ValueError("more output must be at least 0 and below 2^53")
        return await self.run(lambda: law.top_up(self._dialect, hold_id, output, price))

    async def renew(self, hold_ids: list[str]) -> None:
        """Gives pending holds a new lease."""
        for hold_id in hold_ids:
            await self.run(lambda hold_id=hold_id: law.renew(self._dialect, hold_id))  # type: ignore[misc]

    async def settle(self, hold_id: str, used: Amount, reason: str = "") -> State:
        """Books what was used, once. An amount that cannot be is clamped: a settle must not fail."""
        clamped = Amount(*(min(max(0, amount), MAX_AMOUNT) for amount in (used.tokens, used.cost)))
        return await self.run(lambda: law.settle(self._dialect, hold_id, clamped, reason))

    async def void(self, hold_id: str, reason: str = "") -> State:
        """Books that nothing was used, once."""
        return await self.run(lambda: law.void(self._dialect, hold_id, reason))

    async def sweep(self) -> list[str]:
        """Forfeits expired holds, each on its own, so that one that is being settled holds up no other."""
        due = await self.run(lambda: law.expired(self._dialect))
        return [
            hold_id
            for hold_id in due
            if await self.run(lambda hold_id=hold_id: law.forfeit(self._dialect, hold_id))  # type: ignore[misc]
        ]

    async def grant(self, limit_id: str, amount: Amount, reason: str, owner: str = "") -> None:
        """Adds room to the present window."""
        _check_change(amount)
        await self.run(lambda: law.grant(self._dialect, limit_id, owner, amount, reason))

    async def refund(self, limit_id: str, amount: Amount, reason: str, owner: str = "") -> None:
        """Takes back spending of the present window."""
        _check_change(amount)
        await self.run(lambda: law.refund(self._dialect, limit_id, owner, amount, reason))

    async def rooms(self, asker: Asker, model: str) -> list[Room]:
        """What every binding limit has left."""
        return await self.run(lambda: law.rooms(self._dialect, asker, model))

    async def room(self, limit_id: str, owner: str = "") -> Room:
        """What one limit has left."""
        return await self.run(lambda: law.room(self._dialect, limit_id, owner))

    async def entries(
        self, *, limit_id: str = "", hold_id: str = "", user: str = "", after: int = 0, most: int = 1000
    ) -> list[Entry]:
        """Entries in the order they were made."""
        return await self.run(lambda: law.entries(limit_id, hold_id, user, after, most))

    async def accounts(self) -> int:
        """How many balances there are."""
        return await self.run(law.accounts)

    async def verify(self) -> list[Difference]:
        """Balances that are not the sums of their entries."""
        return await self.run(law.verify)


def _check_change(amount: Amount) -> None:
    if not (0 <= amount.tokens <= MAX_AMOUNT and 0 <= amount.cost <= MAX_AMOUNT) or amount == Amount():
        raise ValueError(f"an amount must be positive, up to {MAX_AMOUNT}")
