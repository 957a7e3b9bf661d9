"""/admin/budgets and /admin/ledger."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from litestar import Request, delete, get, patch, post
from litestar.params import FromPath, FromQuery
from litestar.types import ControllerRouterHandler
from msgspec import UNSET, Struct, UnsetType

from chattable.agents.chat import Json
from chattable.budget.errors import UnknownLimitError
from chattable.budget.ledger import Amount, Entry, Room
from chattable.budget.limits import MAX_AMOUNT, Limit, Mode, check_per
from chattable.proxy.catalog.prices import unpriced, unpriced_under
from chattable.proxy.routes.bodies import admin_body, admin_only, page
from chattable.proxy.routes.request_context import integer
from chattable.proxy.routes.subjects import Subjects, invalid
from chattable.proxy.services import House
from chattable.proxy.store.audit import Actor
from chattable.proxy.store.text import printable, short

Book = Callable[[str, Amount, str, str], Awaitable[None]]


class NewBudget(Struct, forbid_unknown_fields=True):
    """Body of POST /admin/budgets; `subject` is one of `{"user": "alice"}`, …, `{"each_user": true}`, `{"everyone": true}`."""

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


class Change(Struct, forbid_unknown_fields=True):
    """Body of POST /admin/budgets/{id}/grant and /refund."""

    reason: str
    tokens: int = 0
    cost_usd: float = 0.0
    user: str = ""  # for a limit on each user: whose


def routes(house: House) -> list[ControllerRouterHandler]:
    """Budget administration, for admins only."""
    ledger, users, audit, subjects = (
        house.metering.ledger,
        house.users,
        house.audit,
        Subjects(house),
    )
    lacking = unpriced(house.config)

    async def owner_of(name: str) -> str:
        return (await users.get(name)).id if name else ""

    async def shown(limit: Limit, owner: str = "") -> Json:
        known = limit.kind != "each_user" or owner
        room = await ledger.room(limit.id, owner) if known else None
        found = shown_budget(limit, await subjects.shown(limit), room)
        return found | {"unpriced_models": unpriced_under(limit, lacking)}

    async def named(limit_id: str) -> Limit:
        found = [limit for limit in await ledger.limits() if limit.id == limit_id]
        if not found:
            raise UnknownLimitError(f"There is no budget {limit_id!r}.")
        return found[0]

    @asynccontextmanager
    async def changing(
        actor: Actor, action: str, limit_id: str, details: Any
    ) -> AsyncIterator[Limit]:
        """Surrounds a change of a budget that is there."""
        async with audit.entry(actor, f"budget.{action}", limit_id, details) as effect:
            limit = await named(limit_id)
            effect.about(limit.id, f"{limit.kind} {await subjects.shown(limit)}")
            yield limit
        house.metering.forget()

    @post("/admin/budgets", summary="Create a budget")
    async def create_budget(request: Request[Any, Any, Any]) -> Json:
        actor, new = await admin_body(request, house, NewBudget)
        kind, name = subjects.parse(new.subject)
        limit = Limit(
            id=f"lim_{secrets.token_urlsafe(12)}",
            kind=kind,
            subject=name,
            per=new.per,
            tokens=new.tokens,
            cost=_micro(new.cost_usd),
            models=None
            if new.models is None
            else tuple(short(model, "models") for model in new.models),
            mode=new.mode,
        )
        _check(limit)
        async with audit.entry(
            actor, "budget.create", f"{kind} {name}".strip(), msgspec.to_builtins(new)
        ) as effect:
            limit = msgspec.structs.replace(limit, subject=await subjects.find(kind, name))
            effect.about(limit.id, f"{kind} {await subjects.shown(limit)}")
            await ledger.put_limit(limit)
        house.metering.forget()
        return await shown(limit)

    @get("/admin/budgets", summary="List budgets; those of one user, or all")
    async def list_budgets(request: Request[Any, Any, Any], user: FromQuery[str] = "") -> Json:
        await admin_only(request, house)
        owner = await owner_of(user)
        limits = await ledger.limits()
        if owner:
            limits = [
                limit
                for limit in limits
                if (limit.kind == "user" and limit.subject == owner) or limit.kind == "each_user"
            ]
        return page(
            [await shown(limit, owner if limit.kind == "each_user" else "") for limit in limits],
            more=False,
        )

    @patch("/admin/budgets/{limit_id:str}", summary="Change a budget; what was spent stays spent")
    async def change_budget(request: Request[Any, Any, Any], limit_id: FromPath[str]) -> Json:
        actor, change = await admin_body(request, house, BudgetChange)
        given = told = msgspec.to_builtins(change)
        if "cost_usd" in given:
            given = {"cost": _micro(given["cost_usd"])} | {
                name: value for name, value in given.items() if name != "cost_usd"
            }
        async with changing(actor, "update", limit_id, told) as limit:
            limit = msgspec.structs.replace(limit, **given)
            _check(limit)
            await ledger.put_limit(limit)
        return await shown(limit)

    @delete(
        "/admin/budgets/{limit_id:str}", status_code=200, summary="End a budget; its entries stay"
    )
    async def delete_budget(request: Request[Any, Any, Any], limit_id: FromPath[str]) -> Json:
        actor = await admin_only(request, house)
        async with changing(actor, "delete", limit_id, {}) as limit:
            await ledger.drop_limit(limit.id)
        return {"id": limit.id, "object": "budget.deleted", "deleted": True}

    @post(
        "/admin/budgets/{limit_id:str}/grant",
        status_code=200,
        summary="Add room to the present window",
    )
    async def grant(request: Request[Any, Any, Any], limit_id: FromPath[str]) -> Json:
        return await booked(request, limit_id, "grant", ledger.grant)

    @post(
        "/admin/budgets/{limit_id:str}/refund",
        status_code=200,
        summary="Take back spending of the present window",
    )
    async def refund(request: Request[Any, Any, Any], limit_id: FromPath[str]) -> Json:
        return await booked(request, limit_id, "refund", ledger.refund)

    async def booked(
        request: Request[Any, Any, Any], limit_id: str, action: str, book: Book
    ) -> Json:
        actor, change = await admin_body(request, house, Change)
        amount = Amount(change.tokens, _micro(change.cost_usd) or 0)
        _check_amounts(amount.tokens, amount.cost)
        if amount == Amount():
            raise invalid("tokens", "give tokens or cost_usd, above 0")
        short(change.reason, "reason")
        async with changing(actor, action, limit_id, msgspec.to_builtins(change)) as limit:
            owner = await owner_of(change.user)
            await book(limit.id, amount, change.reason, owner)
        return await shown(limit, owner)

    @get("/admin/ledger", summary="Entries, oldest first")
    async def list_entries(
        request: Request[Any, Any, Any],
        user: FromQuery[str] = "",
        budget: FromQuery[str] = "",
        limit: FromQuery[str] = "100",
        after: FromQuery[str] = "0",
    ) -> Json:
        await admin_only(request, house)
        most = min(max(1, integer(limit, "limit")), 1000)
        owner, last = await owner_of(user), integer(after, "after")
        entries = await ledger.entries(
            limit_id=printable(budget, "budget"), user=owner, after=last, most=most + 1
        )
        return page([_entry(entry) for entry in entries[:most]], more=len(entries) > most)

    @post(
        "/admin/ledger/verify", status_code=200, summary="Recompute every balance from its entries"
    )
    async def verify(request: Request[Any, Any, Any]) -> Json:
        await admin_only(request, house)
        wrong = await ledger.verify()
        return {
            "accounts": await ledger.accounts(),
            "differences": len(wrong),
            "data": [msgspec.to_builtins(d) for d in wrong],
        }

    return [
        create_budget,
        list_budgets,
        change_budget,
        delete_budget,
        grant,
        refund,
        list_entries,
        verify,
    ]


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


def shown_budget(limit: Limit, subject: str | bool, room: Room | None) -> Json:
    """A budget as the API shows it, with its subject's name and what is left where it is known."""
    found: Json = {"id": limit.id, "object": "budget", "subject": {limit.kind: subject}, "per": limit.per, "tokens": limit.tokens,
                   "cost_usd": None if limit.cost is None else limit.cost / 1_000_000,
                   "models": limit.models, "mode": limit.mode}  # fmt: skip
    if room is not None:
        found |= {
            "spent": room.spent.tokens, "held": room.held.tokens,
            "remaining": None if limit.tokens is None else room.remaining.tokens,
            "spent_usd": room.spent.cost / 1_000_000, "resets_at": room.resets_at,
        }  # fmt: skip
    return found


def _entry(entry: Entry) -> Json:
    return {
        "id": entry.id, "object": "ledger.entry", "created_at": entry.at, "kind": entry.kind, "hold": entry.hold or None,
        "budget": entry.limit, "owner": entry.owner or None, "period": entry.period, "reason": entry.reason or None,
        **{name: msgspec.to_builtins(getattr(entry, name)) for name in ("spent", "held", "granted", "overdraft")},
        "upper": None if entry.upper is None else msgspec.to_builtins(entry.upper),
    }  # fmt: skip
