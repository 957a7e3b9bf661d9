"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from litestar import Router, get
from litestar.params import FromPath
from msgspec import UNSET, Struct, UnsetType

from chattable.proxy.catalog.catalog import Entry
from chattable.proxy.routes.typed import InjectedCaller, InjectedServices


class ModelObject(Struct, kw_only=True):
    """A model or an agent in OpenAI's form, with what we know of it besides."""

    id: str
    object: str = "model"
    created: int
    owned_by: str
    description: str | UnsetType = UNSET
    context_length: int | UnsetType = UNSET


class ModelList(Struct, kw_only=True):
    """The models that a key may use."""

    object: str = "list"
    data: list[ModelObject]


@get("/models", summary="List the models this key may use")
async def list_models(caller: InjectedCaller, services: InjectedServices) -> ModelList:
    return ModelList(
        data=[_model(entry) for entry in services.catalogs.current.visible(caller.principal)]
    )


@get("/models/{name:path}", summary="Describe one model")
async def get_model(
    name: FromPath[str], caller: InjectedCaller, services: InjectedServices
) -> ModelObject:
    return _model(services.catalogs.current.find(str(name).removeprefix("/"), caller.principal))


ROUTES = Router("/", tags=["Models"], route_handlers=[list_models, get_model])


def _model(entry: Entry) -> ModelObject:
    return ModelObject(
        id=entry.name,
        created=entry.created,
        owned_by=entry.owned_by,
        description=entry.description or UNSET,
        context_length=entry.context_length or UNSET,
    )
