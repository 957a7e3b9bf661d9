"""/admin/models: what every name is served by, and how that is doing."""

from __future__ import annotations

from typing import Any

from litestar import Request, get
from litestar.types import ControllerRouterHandler
from msgspec.structs import asdict

from chattable.adapters.upstream import Upstream
from chattable.agents.chat import Json
from chattable.budget.ledger import Price
from chattable.proxy.catalog.catalog import Entry
from chattable.proxy.identity.auth import ADMIN
from chattable.proxy.routes.bodies import admin_only, page
from chattable.proxy.services import House

STEP = ("above", "long")  # shown only where a long prompt costs something else


def routes(house: House) -> list[ControllerRouterHandler]:
    """The state of models, for admins only."""

    @get(
        "/admin/models",
        summary="Models and agents with their targets: circuits, latencies, outcomes",
    )
    async def list_targets(request: Request[Any, Any, Any]) -> Json:
        await admin_only(request, house)
        return page([_entry(entry) for entry in house.catalog.visible(ADMIN)], more=False)

    return [list_targets]


def _entry(entry: Entry) -> Json:
    targets = [_target(target) for target in entry.targets or (entry,) if target.health is not None]
    return {
        "id": entry.name,
        "object": "model",
        "kind": "model" if entry.model.leaf else "agent",
        "price": entry.price and _dollars(entry.price),
        "context_length": entry.context_length,
        "max_output": entry.max_output,
        "targets": targets,
        "fallbacks": list(entry.fallbacks),
    }


def _dollars(price: Price) -> Json:
    """A price per million tokens, of a picture made per piece; null: as the input."""
    costs: Json = {name: _dollar(cost) for name, cost in asdict(price).items() if name not in STEP}
    if price.long is not None:
        costs["long"] = {"above": price.above, **_dollars(price.long)}
    return costs


def _dollar(cost: int | None) -> float | None:
    return None if cost is None else cost / 1e6


def _target(entry: Entry) -> Json:
    health, model = entry.health, entry.model
    assert health is not None and isinstance(model, Upstream)
    return {
        "asked": model.asked,
        "keys": len(model.provider.keys),
        "keys_resting": model.provider.keys.resting,
        "weight": entry.weight,
        "circuit": str(health.state),
        "first_token_ms": None if health.latency is None else round(health.latency * 1000, 1),
        "under_way": health.under_way,
        "succeeded": health.succeeded,
        "failed": health.failed,
        "last_error": health.last and asdict(health.last),
    }
