"""/admin/budgets and /admin/ledger."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from litestar import Router, delete, get, patch, post
from litestar.params import FromPath, FromQuery, JSONBody
from msgspec import UNSET, Struct, UnsetType

from chattable.budget.errors import UnknownLimitError
from chattable.budget.ledger import Amount, Difference, Entry, Room
from chattable.budget.limits import MAX_AMOUNT, Limit, Mode, check_per
from chattable.proxy.catalog.prices import unpriced, unpriced_under
from chattable.proxy.routes.subjects import Subjects, invalid
from chattable.proxy.routes.typed import (
    FIRST,
    PAGE,
    Deleted,
    Entries,
    InjectedActor,
    InjectedHouse,
    ListPage,
    page,
)
from chattable.proxy.routes.typed import Limit as PageSize
from chattable.proxy.services import House
from chattable.proxy.store.audit import Actor
from chattable.proxy.store.text import printable, short


class NewBudget(Struct, forbid_unknown_fields=True):
    """Body of POST /admin/budgets.

    `subject` is one of `{"user": "alice"}`, …, `{"each_user": true}`, `{"everyone": true}`.
    """

    subject: dict[str, str | bool]
    per: str
    tokens: int | None = None
    cost_usd: float | None = None
    models: list[str] | None = None
    mode: Mode = "hard"


class BudgetChange(Struct, forbid_unknown_fields=True):
    """Body of PATCH /admin/budgets/{id}."""

    tokens: int | UnsetType | None = UNSET
    cost_usd: float | UnsetType | None = UNSET
    mode: Mode | UnsetType = UNSET


class BudgetAmount(Struct, forbid_unknown_fields=True):
    """Body of POST /admin/budgets/{id}/grant and /refund."""

    reason: str
    tokens: int = 0
    cost_usd: float = 0.0
    user: str = ""  # for a limit on each user: whose


class BudgetObject(Struct, kw_only=True):
    """A budget with its subject's name, and what is left where that is one figure."""

    id: str
    object: str = "budget"
    subject: dict[str, str | bool]
    per: str
    tokens: int | None
    cost_usd: float | None
    models: tuple[str, ...] | None
    mode: Mode
    spent: int | UnsetType = UNSET
    held: int | UnsetType = UNSET
    remaining: int | UnsetType | None = UNSET
    spent_usd: float | UnsetType = UNSET
    resets_at: int | UnsetType | None = UNSET
    unpriced_models: list[str] | UnsetType = UNSET


class BudgetPage(ListPage[BudgetObject], kw_only=True):
    """A page of budgets."""


class LedgerEntry(Struct, kw_only=True):
    """One line of the ledger: what it changed on one account."""

    id: int
    object: str = "ledger.entry"
    created_at: int
    kind: str
    hold: str | None
    budget: str
    owner: str | None
    period: int
    reason: str | None
    spent: Amount
    held: Amount
    granted: Amount
    overdraft: Amount
    upper: Amount | None


class LedgerPage(ListPage[LedgerEntry], kw_only=True):
    """A page of the ledger's entries."""


class LedgerCheck(Struct, kw_only=True):
    """The accounts whose balance is not the sum of their entries."""

    accounts: int
    differences: int
    data: list[Difference]


@post("/budgets", summary="Create a budget")
async def create_budget(
    data: JSONBody[NewBudget], actor: InjectedActor, house: InjectedHouse
) -> BudgetObject:
    subjects = Subjects(house)
    kind, name = subjects.parse(data.subject)
    models = data.models
    limit = Limit(
        id=f"lim_{secrets.token_urlsafe(12)}",
        kind=kind,
        subject=name,
        per=data.per,
        tokens=data.tokens,
        cost=_micro(data.cost_usd),
        models=None if models is None else tuple(short(model, "models") for model in models),
        mode=data.mode,
    )
    _check(limit)
    details = msgspec.to_builtins(data)
    what = f"{kind} {name}".strip()
    async with house.audit.entry(actor, "budget.create", what, details) as effect:
        limit = msgspec.structs.replace(limit, subject=await subjects.find(kind, name))
        effect.about(limit.id, f"{kind} {await subjects.shown(limit)}")
        await house.metering.ledger.put_limit(limit)
    house.metering.forget()
    return await _shown(house, limit)


@get("/budgets", summary="List budgets; those of one user, or all")
async def list_budgets(house: InjectedHouse, user: FromQuery[str] = "") -> BudgetPage:
    owner = await _owner_of(house, user)
    limits = await house.metering.ledger.limits()
    if owner:
        limits = [
            limit
            for limit in limits
            if (limit.kind == "user" and limit.subject == owner) or limit.kind == "each_user"
        ]
    lacking = unpriced(house.config)
    return page(
        BudgetPage,
        [
            await _shown(house, limit, owner if limit.kind == "each_user" else "", lacking)
            for limit in limits
        ],
    )


@patch("/budgets/{limit_id:str}", summary="Change a budget; what was spent stays spent")
async def change_budget(
    limit_id: FromPath[str],
    data: JSONBody[BudgetChange],
    actor: InjectedActor,
    house: InjectedHouse,
) -> BudgetObject:
    told = msgspec.to_builtins(data)
    given = dict(told)
    if "cost_usd" in given:
        given["cost"] = _micro(given.pop("cost_usd"))
    async with _changing(house, actor, "update", limit_id, told) as limit:
        limit = msgspec.structs.replace(limit, **given)
        _check(limit)
        await house.metering.ledger.put_limit(limit)
    return await _shown(house, limit)


@delete("/budgets/{limit_id:str}", status_code=200, summary="End a budget; its entries stay")
async def delete_budget(
    limit_id: FromPath[str], actor: InjectedActor, house: InjectedHouse
) -> Deleted:
    async with _changing(house, actor, "delete", limit_id, {}) as limit:
        await house.metering.ledger.drop_limit(limit.id)
    return Deleted(id=limit.id, object="budget.deleted")


@post("/budgets/{limit_id:str}/grant", status_code=200, summary="Add room to the present window")
async def grant_budget(
    limit_id: FromPath[str],
    data: JSONBody[BudgetAmount],
    actor: InjectedActor,
    house: InjectedHouse,
) -> BudgetObject:
    return await _booked(house, actor, "grant", limit_id, data)


@post(
    "/budgets/{limit_id:str}/refund",
    status_code=200,
    summary="Take back spending of the present window",
)
async def refund_budget(
    limit_id: FromPath[str],
    data: JSONBody[BudgetAmount],
    actor: InjectedActor,
    house: InjectedHouse,
) -> BudgetObject:
    return await _booked(house, actor, "refund", limit_id, data)


@get("/ledger", summary="Entries, oldest first")
async def list_ledger(
    house: InjectedHouse,
    user: FromQuery[str] = "",
    budget: FromQuery[str] = "",
    limit: PageSize = PAGE,
    after: Entries = FIRST,
) -> LedgerPage:
    most = min(max(1, limit), 1000)
    owner = await _owner_of(house, user)
    entries = await house.metering.ledger.entries(
        limit_id=printable(budget, "budget"), user=owner, after=after, most=most + 1
    )
    return page(LedgerPage, [_entry(entry) for entry in entries[:most]], more=len(entries) > most)


@post("/ledger/verify", status_code=200, summary="Recompute every balance from its entries")
async def verify_ledger(house: InjectedHouse) -> LedgerCheck:
    ledger = house.metering.ledger
    wrong = await ledger.verify()
    return LedgerCheck(accounts=await ledger.accounts(), differences=len(wrong), data=wrong)


ROUTES = Router(
    "/",
    tags=["Budgets"],
    route_handlers=[
        create_budget,
        list_budgets,
        change_budget,
        delete_budget,
        grant_budget,
        refund_budget,
        list_ledger,
        verify_ledger,
    ],
)


@asynccontextmanager
async def _changing(
    house: House, actor: Actor, action: str, limit_id: str, details: Any
) -> AsyncIterator[Limit]:
    """Surrounds a change of a budget that is there."""
    async with house.audit.entry(actor, f"budget.{action}", limit_id, details) as effect:
        found = [limit for limit in await house.metering.ledger.limits() if limit.id == limit_id]
        if not found:
            raise UnknownLimitError(f"There is no budget {limit_id!r}.")
        [limit] = found
        effect.about(limit.id, f"{limit.kind} {await Subjects(house).shown(limit)}")
        yield limit
    house.metering.forget()


async def _booked(
    house: House, actor: Actor, action: str, limit_id: str, data: JSONBody[BudgetAmount]
) -> BudgetObject:
    """Books a grant or a refund."""
    ledger = house.metering.ledger
    amount = Amount(data.tokens, _micro(data.cost_usd) or 0)
    _check_amounts(amount.tokens, amount.cost)
    if amount == Amount():
        raise invalid("tokens", "give tokens or cost_usd, above 0")
    short(data.reason, "reason")
    async with _changing(house, actor, action, limit_id, msgspec.to_builtins(data)) as limit:
        owner = await _owner_of(house, data.user)
        book = ledger.grant if action == "grant" else ledger.refund
        await book(limit.id, amount, data.reason, owner)
    return await _shown(house, limit, owner)


async def _owner_of(house: House, name: str) -> str:
    return (await house.users.get(name)).id if name else ""


async def _shown(
    house: House, limit: Limit, owner: str = "", lacking: Sequence[str] | None = None
) -> BudgetObject:
    """A budget as admins see it; `lacking` are the models without a price, where they are known."""
    known = limit.kind != "each_user" or owner
    room = await house.metering.ledger.room(limit.id, owner) if known else None
    found = shown_budget(limit, await Subjects(house).shown(limit), room)
    names = unpriced(house.config) if lacking is None else lacking
    found.unpriced_models = unpriced_under(limit, names)
    return found


def _check(limit: Limit) -> None:
    """Refuses a window or an amount that makes no sense, naming the field."""
    try:
        check_per(limit.per)
    except ValueError as error:
        raise invalid("per", str(error)) from None
    _check_amounts(limit.tokens, limit.cost)
    if limit.tokens is None and limit.cost is None:
        raise invalid("tokens", "a budget needs tokens or cost_usd")


def _check_amounts(tokens: int | None, cost: int | None) -> None:
    for field, amount in (("tokens", tokens), ("cost_usd", cost)):
        if amount is not None and not 0 <= amount <= MAX_AMOUNT:
            raise invalid(field, "expected at least 0, and at most 2^53 tokens or micro-dollars")


def _micro(usd: float | None) -> int | None:
    return None if usd is None else round(min(max(usd, -1.0), 1e12) * 1_000_000)


def shown_budget(limit: Limit, subject: str | bool, room: Room | None) -> BudgetObject:
    """A budget as the API shows it, with its subject's name and what is left where it is known."""
    found = BudgetObject(
        id=limit.id,
        subject={limit.kind: subject},
        per=limit.per,
        tokens=limit.tokens,
        cost_usd=None if limit.cost is None else limit.cost / 1_000_000,
        models=limit.models,
        mode=limit.mode,
    )
    if room is not None:
        found.spent, found.held = room.spent.tokens, room.held.tokens
        found.remaining = None if limit.tokens is None else room.remaining.tokens
        found.spent_usd, found.resets_at = room.spent.cost / 1_000_000, room.resets_at
    return found


def _entry(entry: Entry) -> LedgerEntry:
    return LedgerEntry(
        id=entry.id,
        created_at=entry.at,
        kind=entry.kind,
        hold=entry.hold or None,
        budget=entry.limit,
        owner=entry.owner or None,
        period=entry.period,
        reason=entry.reason or None,
        spent=entry.spent,
        held=entry.held,
        granted=entry.granted,
        overdraft=entry.overdraft,
        upper=entry.upper,
    )
