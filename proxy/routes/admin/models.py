"""/admin/models: what every name is served by, and how that is doing."""

from __future__ import annotations

from typing import Any

from litestar import Router, get
from msgspec import Struct
from msgspec.structs import asdict

from chattable.adapters.upstream import Upstream
from chattable.agents.chat import Json
from chattable.budget.ledger import Price
from chattable.proxy.catalog.catalog import Entry
from chattable.proxy.catalog.circuits import LastError
from chattable.proxy.identity.auth import ADMIN
from chattable.proxy.routes.typed import InjectedServices, ListPage, page

STEP = ("above", "long")  # shown only where a long prompt costs something else


class TargetState(Struct, kw_only=True):
    """One model of one provider that serves a name, and how it is doing."""

    asked: str
    keys: int
    keys_resting: int
    weight: float | None
    circuit: str
    first_token_ms: float | None
    under_way: int
    succeeded: int
    failed: int
    last_error: LastError | None


class ModelState(Struct, kw_only=True):
    """A name with its targets; dollars are per million tokens, of a picture made per piece."""

    id: str
    object: str = "model"
    kind: str
    price: dict[str, Any] | None
    context_length: int | None
    max_output: int | None
    targets: list[TargetState]
    fallbacks: list[str]


class ModelStatePage(ListPage[ModelState], kw_only=True):
    """A page of names that are served."""


@get("/models", summary="Models and agents with their targets: circuits, latencies, outcomes")
async def list_targets(services: InjectedServices) -> ModelStatePage:
    return page(
        ModelStatePage, [_entry(entry) for entry in services.catalogs.current.visible(ADMIN)]
    )


ROUTES = Router("/", tags=["Models"], route_handlers=[list_targets])


def _entry(entry: Entry) -> ModelState:
    targets = [_target(target) for target in entry.targets or (entry,) if target.health is not None]
    return ModelState(
        id=entry.name,
        kind="model" if entry.model.leaf else "agent",
        price=None if entry.price is None else _dollars(entry.price),
        context_length=entry.context_length,
        max_output=entry.max_output,
        targets=targets,
        fallbacks=list(entry.fallbacks),
    )


def _dollars(price: Price) -> Json:
    """A price per million tokens, of a picture made per piece; null: as the input."""
    costs: Json = {name: _dollar(cost) for name, cost in asdict(price).items() if name not in STEP}
    if price.long is not None:
        costs["long"] = {"above": price.above, **_dollars(price.long)}
    return costs


def _dollar(cost: int | None) -> float | None:
    return None if cost is None else cost / 1e6


def _target(entry: Entry) -> TargetState:
    health, model = entry.health, entry.model
    assert health is not None and isinstance(model, Upstream)
    return TargetState(
        asked=model.asked,
        keys=len(model.provider.keys),
        keys_resting=model.provider.keys.resting,
        weight=entry.weight,
        circuit=str(health.state),
        first_token_ms=None if health.latency is None else round(health.latency * 1000, 1),
        under_way=health.under_way,
        succeeded=health.succeeded,
        failed=health.failed,
        last_error=health.last,
    )
