"""/admin/cache."""

from __future__ import annotations

from litestar import Router, delete, get
from litestar.params import FromQuery
from msgspec import Struct
from msgspec.structs import asdict

from chattable.proxy.errors import CacheUnavailableError
from chattable.proxy.routes.typed import InjectedActor, InjectedServices


class CacheState(Struct, kw_only=True):
    """How often answers came from the cache, in this process, and what that saved everywhere."""

    object: str = "cache"
    enabled: bool
    scope: str | None
    ttl: float | None
    shared: bool
    hit_rate: float | None
    tokens_saved: int
    hits: int
    misses: int
    joins: int
    bypasses: int
    stores: int
    bytes: int
    flights: int


class CachePurged(Struct, kw_only=True):
    """Whose answers were forgotten, and of which model; null: of all."""

    object: str = "cache.purged"
    user: str | None
    model: str | None


@get("/cache", summary="How often answers came from the cache, and what that saved")
async def get_cache(services: InjectedServices) -> CacheState:
    config, stats = services.config.cache, services.pipeline.cache.stats()
    answered = stats.hits + stats.joins
    looked_up = answered + stats.misses
    return CacheState(
        enabled=config is not None and config.enabled,
        scope=config.scope if config else None,
        ttl=config.ttl if config else None,
        shared=bool(services.config.redis_url),
        hit_rate=answered / looked_up if looked_up else None,
        tokens_saved=await services.ledger.tokens_saved(),
        **asdict(stats),
    )


@delete(
    "/cache",
    status_code=200,
    summary="Forget kept answers: of a user, of a model, of both, or all",
)
async def purge_cache(
    actor: InjectedActor,
    services: InjectedServices,
    user: FromQuery[str | None] = None,
    model: FromQuery[str | None] = None,
) -> CachePurged:
    user_id = (await services.users.get(user)).id if user is not None else ""
    what = user or model or "all"
    given = {"user": user, "model": model}
    details = {name: value for name, value in given.items() if value is not None}
    async with services.audit.entry(actor, "cache.purge", what, details) as effect:
        if not await services.pipeline.cache.purge(user=user_id, model=model or ""):
            raise CacheUnavailableError
        effect.about("cache", what)
    return CachePurged(user=user_id or None, model=model or None)


ROUTES = Router("/", tags=["Cache"], route_handlers=[get_cache, purge_cache])
