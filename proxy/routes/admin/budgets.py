"""/admin/budgets and /admin/ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
from litestar import Router, delete, get, patch, post
from litestar.params import FromPath, FromQuery, JSONBody
from msgspec import UNSET, Struct, UnsetType

from chattable.budget import operations
from chattable.budget.errors import UnknownLimitError
from chattable.budget.ledger import Amount, Balance, Difference, Posting
from chattable.budget.limits import MAX_AMOUNT, Limit, Mode, check_per
from chattable.budget.postings import LedgerDialect
from chattable.budget.storage.statements import Steps
from chattable.proxy.catalog.prices import Unpriced
from chattable.proxy.people.audit import Actor, Effect
from chattable.proxy.people.users import user_named
from chattable.proxy.routes.admin.subjects import Found, Subjects, invalid
from chattable.proxy.routes.typed import (
    FIRST,
    MOST,
    PAGE,
    Deleted,
    Entries,
    InjectedActor,
    InjectedServices,
    ListPage,
    page,
)
from chattable.proxy.routes.typed import Limit as PageSize
from chattable.proxy.services import Services
from chattable.proxy.store.errors import Invalid
from chattable.proxy.store.ids import new_id
from chattable.proxy.store.page import checked_limit
from chattable.proxy.store.text import printable, short

T = TypeVar("T")
Book = Callable[[LedgerDialect, str, str, Amount, str], Steps[None]]


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


class BudgetOperations:
    """What admins ask of budgets, as operations: one transaction each."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._subjects = Subjects(services)
        self._dialect = services.ledger.dialect
        self._unpriced = Unpriced(services.config)

    async def change(
        self,
        actor: Actor,
        action: str,
        target: str,
        details: Any,
        operation: Callable[[Effect], Steps[T]],
    ) -> T:
        """Changes a budget, with the entry in the audit trail."""
        answer = await self._services.audit.recorded(
            actor, f"budget.{action}", target, details, operation
        )
        self._services.metering.forget()
        return answer

    def created(
        self, limit: Limit, find: Callable[[], Steps[Found]], effect: Effect
    ) -> Steps[BudgetObject]:
        """Adds a budget for the subject that is found."""
        found = yield from find()
        effect.about(limit.id, f"{limit.kind} {found.name}")
        limit = msgspec.structs.replace(limit, subject=found.id)
        yield from operations.put_limit(self._dialect, limit)
        return (yield from self._shown(limit, found.name))

    def listed(self, user: str, after: str, most: int) -> Steps[list[BudgetObject]]:
        """The budgets of one user, or all, as they were made."""
        owner = yield from _owner(user)
        subjects = [("user", owner), ("each_user", "")] if owner else None
        try:
            limits = yield from operations.limit_page(self._dialect, after, most, subjects)
        except UnknownLimitError:
            message = f"after names no budget: {after!r}; begin again without it."
            raise Invalid(message, "after") from None
        found = yield from shown_budgets(self._services, limits, owner)
        for budget, limit in zip(found, limits, strict=True):
            budget.unpriced_models = self._unpriced.under(limit)
        return found

    def updated(
        self, limit_id: str, changes: dict[str, Any], effect: Effect
    ) -> Steps[BudgetObject]:
        """Changes what is given."""
        limit, subject = yield from self._named(limit_id, effect)
        limit = msgspec.structs.replace(limit, **changes)
        _check(limit)
        yield from operations.put_limit(self._dialect, limit)
        return (yield from self._shown(limit, subject))

    def ended(self, limit_id: str, effect: Effect) -> Steps[Deleted]:
        """Ends a budget."""
        limit, _ = yield from self._named(limit_id, effect)
        yield from operations.drop_limit(limit.id)
        return Deleted(id=limit.id, object="budget.deleted")

    def booked(
        self, limit_id: str, book: Book, amount: Amount, reason: str, user: str, effect: Effect
    ) -> Steps[BudgetObject]:
        """Grants or refunds."""
        limit, subject = yield from self._named(limit_id, effect)
        owner = yield from _owner(user)
        yield from book(self._dialect, limit.id, owner, amount, reason)
        return (yield from self._shown(limit, subject, owner))

    def _named(self, limit_id: str, effect: Effect) -> Steps[tuple[Limit, str | bool]]:
        """A budget that is there, with its subject."""
        try:
            printable(limit_id, "budget")
        except Invalid:  # what cannot be in a table is not sent to the database
            raise UnknownLimitError(f"There is no budget {limit_id!r}.") from None
        limit = yield from operations.limit_of_id(limit_id)
        subject = (yield from self._subjects.shown([limit]))[limit.id]
        effect.about(limit.id, f"{limit.kind} {subject}")
        return limit, subject

    def _shown(self, limit: Limit, subject: str | bool, owner: str = "") -> Steps[BudgetObject]:
        """A budget with what is left of it."""
        known = limit.kind != "each_user" or owner
        balance = None
        if known:
            balance = yield from operations.balance(self._dialect, limit.id, owner)
        shown = shown_budget(limit, subject, balance)
        shown.unpriced_models = self._unpriced.under(limit)
        return shown


@post("/budgets", summary="Create a budget")
async def create_budget(
    data: JSONBody[NewBudget], actor: InjectedActor, services: InjectedServices
) -> BudgetObject:
    subjects, budgets = Subjects(services), BudgetOperations(services)
    kind, name = subjects.parse(data.subject)
    models = data.models
    limit = Limit(
        id=new_id("lim_", time.time()),
        kind=kind,
        subject=name,
        per=data.per,
        tokens=data.tokens,
        cost=_micro(data.cost_usd),
        models=None if models is None else tuple(short(model, "models") for model in models),
        mode=data.mode,
    )
    _check(limit)
    find = await subjects.finder(kind, name)
    target, details = f"{kind} {name}".strip(), msgspec.to_builtins(data)
    create = partial(budgets.created, limit, find)
    return await budgets.change(actor, "create", target, details, create)


@get("/budgets", summary="List budgets; those of one user, or all")
async def list_budgets(
    services: InjectedServices,
    user: FromQuery[str] = "",
    limit: PageSize = MOST,
    after: FromQuery[str] = "",
) -> BudgetPage:
    budgets, most = BudgetOperations(services), checked_limit(limit)
    listed = partial(budgets.listed, user, printable(after, "after"), most + 1)
    found = await services.ledger.storage.read(listed)
    return page(BudgetPage, found[:most], more=len(found) > most)


@patch("/budgets/{limit_id:str}", summary="Change a budget; what was spent stays spent")
async def change_budget(
    limit_id: FromPath[str],
    data: JSONBody[BudgetChange],
    actor: InjectedActor,
    services: InjectedServices,
) -> BudgetObject:
    told = msgspec.to_builtins(data)
    given = dict(told)
    if "cost_usd" in given:
        given["cost"] = _micro(given.pop("cost_usd"))
    budgets = BudgetOperations(services)
    update = partial(budgets.updated, limit_id, given)
    return await budgets.change(actor, "update", limit_id, told, update)


@delete("/budgets/{limit_id:str}", status_code=200, summary="End a budget; its entries stay")
async def delete_budget(
    limit_id: FromPath[str], actor: InjectedActor, services: InjectedServices
) -> Deleted:
    budgets = BudgetOperations(services)
    end = partial(budgets.ended, limit_id)
    return await budgets.change(actor, "delete", limit_id, {}, end)


@post("/budgets/{limit_id:str}/grant", status_code=200, summary="Add room to the present window")
async def grant_budget(
    limit_id: FromPath[str],
    data: JSONBody[BudgetAmount],
    actor: InjectedActor,
    services: InjectedServices,
) -> BudgetObject:
    return await _booked(services, actor, "grant", operations.grant, limit_id, data)


@post(
    "/budgets/{limit_id:str}/refund",
    status_code=200,
    summary="Take back spending of the present window",
)
async def refund_budget(
    limit_id: FromPath[str],
    data: JSONBody[BudgetAmount],
    actor: InjectedActor,
    services: InjectedServices,
) -> BudgetObject:
    return await _booked(services, actor, "refund", operations.refund, limit_id, data)


@get("/ledger", summary="Entries, oldest first")
async def list_ledger(
    services: InjectedServices,
    user: FromQuery[str] = "",
    budget: FromQuery[str] = "",
    limit: PageSize = PAGE,
    after: Entries = FIRST,
) -> LedgerPage:
    most, limit_id = min(max(1, limit), 1000), printable(budget, "budget")

    def listed() -> Steps[list[Posting]]:
        owner = yield from _owner(user)
        return (yield from operations.entries(limit_id, "", owner, after, most + 1))

    entries = await services.ledger.storage.read(listed)
    return page(LedgerPage, [_entry(entry) for entry in entries[:most]], more=len(entries) > most)


@post("/ledger/verify", status_code=200, summary="Recompute every balance from its entries")
async def verify_ledger(services: InjectedServices) -> LedgerCheck:
    wrong = await services.ledger.verify()
    return LedgerCheck(
        accounts=await services.ledger.accounts(), differences=len(wrong), data=wrong
    )


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


async def _booked(
    services: Services,
    actor: Actor,
    action: str,
    book: Book,
    limit_id: str,
    data: JSONBody[BudgetAmount],
) -> BudgetObject:
    """Books a grant or a refund."""
    amount = Amount(data.tokens, _micro(data.cost_usd) or 0)
    _check_amounts(amount.tokens, amount.cost)
    if amount == Amount():
        raise invalid("tokens", "give tokens or cost_usd, above 0")
    short(data.reason, "reason")
    budgets = BudgetOperations(services)
    booking = partial(budgets.booked, limit_id, book, amount, data.reason, data.user)
    return await budgets.change(actor, action, limit_id, msgspec.to_builtins(data), booking)


def _owner(user: str) -> Steps[str]:
    """The id of a user, if one is named."""
    return (yield from user_named(user)).id if user else ""


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


def shown_budgets(
    services: Services, limits: Sequence[Limit], owner: str = ""
) -> Steps[list[BudgetObject]]:
    """Budgets with their subjects' names and what is left; `owner` is whose, of one on each user.

    However many they are, it takes the same number of statements.
    """
    subjects = yield from Subjects(services).shown(limits)
    owned = [(limit, owner if limit.kind == "each_user" else "") for limit in limits]
    single = [(limit, whose) for limit, whose in owned if whose or limit.kind != "each_user"]
    balances = yield from operations.balances_of(services.ledger.dialect, single)
    return [shown_budget(one, subjects[one.id], balances.get(one.id)) for one in limits]


def shown_budget(limit: Limit, subject: str | bool, balance: Balance | None) -> BudgetObject:
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
    if balance is not None:
        found.spent, found.held = balance.spent.tokens, balance.held.tokens
        found.remaining = None if limit.tokens is None else balance.remaining.tokens
        found.spent_usd, found.resets_at = balance.spent.cost / 1_000_000, balance.resets_at
    return found


def _entry(entry: Posting) -> LedgerEntry:
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
