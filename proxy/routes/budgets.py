"""/admin/budgets and /admin/ledger."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec
from litestar import Request, delete, get, patch, post
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler
from msgspec import UNSET, Struct, UnsetType

from chattable.agents.chat import Json
from chattable.agents.errors import InvalidRequest
from chattable.budget.errors import UnknownLimitError
from chattable.budget.ledger import Amount, Entry, Room
from chattable.budget.limits import MAX_AMOUNT, Limit, Mode
from chattable.proxy.house import House
from chattable.proxy.requests import integer
from chattable.proxy.routes.bodies import admin_body, admin_only, page
from chattable.proxy.store.text import printable, short

KINDS = ("user", "key", "team", "agent", "model", "each_user", "everyone")


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
    ledger, users = house.metering.ledger, house.users

    async def owner_of(name: str) -> str:
        return (await users.get(name)).id if name else ""

    async def put(limit: Limit) -> None:
        try:
            await ledger.put_limit(limit)
        except ValueError as error:
            field = next((name for name in ("per", "tokens") if name in str(error)), "subject")
            raise InvalidRequest(f"Invalid value for '{field}': {error}.", param=field, code="invalid_value") from None
        house.metering.forget()

    @post("/admin/budgets", summary="Create a budget")
    async def create_budget(request: Request[Any, Any, Any]) -> Json:
        new = await admin_body(request, house, NewBudget)
        kind, subject = _subject(new.subject)
        if kind == "user":
            subject = await owner_of(subject)
        models = None if new.models is None else tuple(short(name, "models") for name in new.models)
        limit = Limit(
            id=f"lim_{secrets.token_urlsafe(12)}",
            kind=kind,
            subject=subject,
            per=new.per,
            tokens=new.tokens,
            cost=_micro(new.cost_usd),
            models=models,
            mode=new.mode,
        )
        await put(limit)
        return await shown(limit)

    async def shown(limit: Limit, owner: str = "") -> Json:
        known = limit.kind != "each_user" or owner
        return _budget(limit, await ledger.room(limit.id, owner) if known else None)

    @get("/admin/budgets", summary="List budgets; of one user with ?user=")
    async def list_budgets(request: Request[Any, Any, Any]) -> Json:
        await admin_only(request, house)
        owner = await owner_of(request.query_params.get("user", ""))
        limits = await ledger.limits()
        if owner:
            limits = [limit for limit in limits if (limit.kind == "user" and limit.subject == owner) or limit.kind == "each_user"]
        return page([await shown(limit, owner if limit.kind == "each_user" else "") for limit in limits], more=False)

    async def named(limit_id: str) -> Limit:
        found = [limit for limit in await ledger.limits() if limit.id == limit_id]
        if not found:
            raise UnknownLimitError(f"There is no budget {limit_id!r}.")
        return found[0]

    @patch("/admin/budgets/{limit_id:str}", summary="Change a budget; what was spent stays spent")
    async def change_budget(request: Request[Any, Any, Any], limit_id: FromPath[str]) -> Json:
        change = await admin_body(request, house, BudgetChange)
        limit = await named(limit_id)
        given = {"tokens": change.tokens, "mode": change.mode}
        if change.cost_usd is not UNSET:
            given["cost"] = _micro(change.cost_usd)
        limit = msgspec.structs.replace(limit, **{name: value for name, value in given.items() if value is not UNSET})
        await put(limit)
        return await shown(limit)

    @delete("/admin/budgets/{limit_id:str}", status_code=200, summary="End a budget; its entries stay")
    async def delete_budget(request: Request[Any, Any, Any], limit_id: FromPath[str]) -> Json:
        await admin_only(request, house)
        limit = await named(limit_id)
        await ledger.drop_limit(limit.id)
        house.metering.forget()
        return {"id": limit.id, "object": "budget.deleted", "deleted": True}

    @post("/admin/budgets/{limit_id:str}/grant", status_code=200, summary="Add room to the present window")
    async def grant(request: Request[Any, Any, Any], limit_id: FromPath[str]) -> Json:
        change, amount, owner = await changed(request, limit_id)
        await ledger.grant(limit_id, amount, change.reason, owner)
        return await shown(await named(limit_id), owner)

    @post("/admin/budgets/{limit_id:str}/refund", status_code=200, summary="Take back spending of the present window")
    async def refund(request: Request[Any, Any, Any], limit_id: FromPath[str]) -> Json:
        change, amount, owner = await changed(request, limit_id)
        await ledger.refund(limit_id, amount, change.reason, owner)
        return await shown(await named(limit_id), owner)

    async def changed(request: Request[Any, Any, Any], limit_id: str) -> tuple[Change, Amount, str]:
        change = await admin_body(request, house, Change)
        amount = Amount(change.tokens, _micro(change.cost_usd) or 0)
        if not all(0 <= part <= MAX_AMOUNT for part in (amount.tokens, amount.cost)) or amount == Amount():
            raise InvalidRequest(
                f"Invalid value for 'tokens': give a positive amount, up to {MAX_AMOUNT}.", param="tokens", code="invalid_value"
            )
        short(change.reason, "reason")
        await named(limit_id)
        return change, amount, await owner_of(change.user)

    @get("/admin/ledger", summary="Entries, oldest first; ?user= ?budget= ?after= ?limit=")
    async def list_entries(request: Request[Any, Any, Any]) -> Json:
        await admin_only(request, house)
        query, most = request.query_params, min(max(1, integer(request, "limit", 100)), 1000)
        owner, after = await owner_of(query.get("user", "")), integer(request, "after", 0)
        entries = await ledger.entries(
            limit_id=printable(query.get("budget", ""), "budget"), user=owner, after=after, most=most + 1
        )
        return page([_entry(entry) for entry in entries[:most]], more=len(entries) > most)

    @post("/admin/ledger/verify", status_code=200, summary="Recompute every balance from its entries")
    async def verify(request: Request[Any, Any, Any]) -> Json:
        await admin_only(request, house)
        wrong = await ledger.verify()
        return {"accounts": await ledger.accounts(), "differences": len(wrong), "data": [msgspec.to_builtins(d) for d in wrong]}

    return [create_budget, list_budgets, change_budget, delete_budget, grant, refund, list_entries, verify]


def _subject(given: dict[str, str | bool]) -> tuple[Any, str]:
    if len(given) != 1 or (kind := next(iter(given))) not in KINDS:
        raise InvalidRequest(
            f"Invalid value for 'subject': give exactly one of {', '.join(KINDS)}.", param="subject", code="invalid_value"
        )
    value = given[kind]
    if kind in ("each_user", "everyone"):
        return kind, ""
    if not isinstance(value, str) or not value:
        field = f"subject.{kind}"
        raise InvalidRequest(f"Invalid value for '{field}': expected a name.", param=field, code="invalid_value")
    return kind, short(value, f"subject.{kind}")


def _micro(usd: float | None) -> int | None:
    return None if usd is None else round(min(max(usd, -1.0), 1e12) * 1_000_000)


def _budget(limit: Limit, room: Room | None) -> Json:
    subject: Json = {limit.kind: limit.subject or True}
    found: Json = {"id": limit.id, "object": "budget", "subject": subject, "per": limit.per, "tokens": limit.tokens,
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
    }  # fmt: skip
