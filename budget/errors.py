"""How a ledger refuses; besides, its storage may be unavailable.

BudgetError
├── BudgetExceededError     a hard limit has no room; says which one and when it will
│   └── UnpricedError       the limit is of money, and nobody knows what the model costs
└── UnknownLimitError       no limit has this id
"""

from __future__ import annotations


class BudgetError(Exception):
    """Any refusal of a ledger."""


class BudgetExceededError(BudgetError):
    """A request does not fit into a hard limit.

    `busy`: it may soon, if calls that are under way use less than they hold.
    """

    def __init__(
        self,
        limit_id: str,
        subject: str,
        per: str,
        unit: str,
        amount: int,
        remaining: int,
        resets_at: int | None,
        *,
        held: int = 0,
        busy: bool = False,
    ) -> None:
        super().__init__(
            f"{limit_id}: {remaining} of {amount} {unit} per {per} remain for {subject}"
        )
        self.limit_id = limit_id
        self.subject = subject  # as "user alice"
        self.per = per
        self.unit = unit  # "tokens" or "micro-USD"
        self.amount = amount
        self.remaining = remaining
        self.resets_at = resets_at  # unix seconds; None: never
        self.held = held  # of the amount, by calls that are under way
        self.busy = busy


class UnpricedError(BudgetExceededError):
    """A model's price is unknown, and a hard limit of money takes none without."""

    def __init__(self, limit_id: str, subject: str, per: str, model: str) -> None:
        super().__init__(limit_id, subject, per, "micro-USD", 0, 0, None)
        self.model = model


class UnknownLimitError(BudgetError):
    """No limit has this id."""
