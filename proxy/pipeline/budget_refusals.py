"""The refusal of a budget, in the words that a person reads."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from chattable.budget.errors import BudgetExceededError, UnpricedError
from chattable.budget.ledger import Balance
from chattable.proxy.errors import BudgetBusyError, QuotaError, UnpricedModelError
from chattable.proxy.identity.auth import Principal

Refusal = QuotaError | BudgetBusyError | UnpricedModelError


def check_spent(rooms: Iterable[Balance], asker: Principal) -> None:
    """Refuses those whose rooms these are, whatever they ask, if no token is left in one."""
    for room in rooms:
        limit, amount = room.limit, room.amount.tokens
        if limit.mode != "hard" or limit.tokens is None or room.spent.tokens < amount:
            continue
        kind = limit.kind.removeprefix("each_")
        subject = f"{kind} {limit.subject or (asker.user.id if kind == 'user' else '')}".strip()
        whole = limit.id, subject, limit.per, "tokens", amount, 0, room.resets_at
        raise refusal(BudgetExceededError(*whole), asker)


def refusal(error: BudgetExceededError, asker: Principal) -> Refusal:
    """What the asker is told: what is used up is told apart from what is only held."""
    who = error.subject.replace(asker.user.id, asker.user.name)
    if asker.team:
        who = who.replace(asker.team, asker.team_name)
    if isinstance(error, UnpricedError):
        return UnpricedModelError(error.model, who)
    kind = "Token" if error.unit == "tokens" else "Cost"
    amount, remaining, held = (
        _shown(value, error.unit) for value in (error.amount, error.remaining, error.held)
    )
    per = "in all" if error.per == "total" else f"per {error.per}"
    headers: dict[str, str] = {}
    if error.resets_at:
        headers["x-budget-reset"] = str(error.resets_at)
    if error.unit == "tokens":
        headers["x-budget-remaining-tokens"] = str(error.remaining)
    if error.busy:
        return BudgetBusyError(
            f"{kind} budget for {who} is not used up, but {held} of {amount} {per} are held by"
            " requests that are still being answered. Retry in a moment.",
            headers,
        )
    left = (
        "is used up"
        if error.remaining == 0
        else f"has {remaining} left, too little for this request"
    )
    resets = ""
    if error.resets_at:
        resets = f", resets at {datetime.fromtimestamp(error.resets_at, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return QuotaError(f"{kind} budget for {who} {left}: {amount} {per}{resets}.", headers)


def _shown(value: int, unit: str) -> str:
    return (
        f"{value:,} tokens"
        if unit == "tokens"
        else f"${value / 1_000_000:,.6f}".rstrip("0").rstrip(".")
    )
