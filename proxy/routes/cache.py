"""/admin/cache."""

from __future__ import annotations

from typing import Any

from litestar import Request, delete, get
from litestar.params import FromQuery
from litestar.types import ControllerRouterHandler
from msgspec.structs import asdict

from chattable.agents.chat import Json
from chattable.proxy.errors import CacheAwayError
from chattable.proxy.routes.bodies import admin_only
from chattable.proxy.services import House


def routes(house: House) -> list[ControllerRouterHandler]:
    """The response cache, for admins only."""
    cache, config = house.pipeline.cache, house.config.cache

    @get(
        "/admin/cache",
        summary="How often answers came from the cache, in this process, and what that saved everywhere",
    )
    async def cache_stats(request: Request[Any, Any, Any]) -> Json:
        await admin_only(request, house)
        stats = cache.stats()
        answered = stats.hits + stats.joins
        looked_up = answered + stats.misses
        saved = sum(row["tokens_saved"] for row in await house.usage.report([]))
        return {
            "object": "cache",
            "enabled": config is not None and config.enabled,
            "scope": config.scope if config else None,
            "ttl": config.ttl if config else None,
            "shared": bool(house.config.redis_url),
            "hit_rate": answered / looked_up if looked_up else None,
            "tokens_saved": saved,
            **asdict(stats),
        }

    @delete(
        "/admin/cache",
        status_code=200,
        summary="Forget kept answers: of a user, of a model, of both, or all",
    )
    async def purge_cache(
        request: Request[Any, Any, Any],
        user: FromQuery[str | None] = None,
        model: FromQuery[str] = "",
    ) -> Json:
        actor = await admin_only(request, house)
        user_id = (await house.users.get(user)).id if user is not None else ""
        what = user or model or "all"
        async with house.audit.entry(
            actor, "cache.purge", what, dict(request.query_params)
        ) as effect:
            if not await cache.purge(user=user_id, model=model):
                raise CacheAwayError
            effect.about("cache", what)
        return {"object": "cache.purged", "user": user_id or None, "model": model or None}

    return [cache_stats, purge_cache]
