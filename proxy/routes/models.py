"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from typing import Any

from litestar import Request, get
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from chattable.agents.chat import Json
from chattable.proxy.catalog.catalog import Entry
from chattable.proxy.routes.request_context import caller_of
from chattable.proxy.services import House


def routes(house: House) -> list[ControllerRouterHandler]:
    """The routes that list models; they never ask an upstream."""

    @get("/v1/models", summary="List the models this key may use")
    async def list_models(request: Request[Any, Any, Any]) -> Json:
        caller = await caller_of(request, house)
        return {
            "object": "list",
            "data": [_model(entry) for entry in house.catalog.visible(caller.principal)],
        }

    @get("/v1/models/{name:path}", summary="Describe one model")
    async def retrieve_model(request: Request[Any, Any, Any], name: FromPath[str]) -> Json:
        caller = await caller_of(request, house)
        return _model(house.catalog.find(str(name).removeprefix("/"), caller.principal))

    return [list_models, retrieve_model]


def _model(entry: Entry) -> Json:
    model: Json = {
        "id": entry.name,
        "object": "model",
        "created": entry.created,
        "owned_by": entry.owned_by,
    }
    if entry.description:
        model["description"] = entry.description
    if entry.context_length:
        model["context_length"] = entry.context_length
    return model
