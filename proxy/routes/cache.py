"""/admin/cache."""

from __future__ import annotations

from typing import Any

from litestar import Request, delete, get
from litestar.types import ControllerRouterHandler
from msgspec.structs import asdict

from chattable.agents.chat import Json
from chattable.agents.errors import InvalidRequest, clip
from chattable.proxy.errors import CacheAwayError
from chattable.proxy.house import House
from chattable.proxy.routes.bodies import admin_only


def routes(house: House) -> list[ControllerRouterHandler]:
    """The response cache, for admins only."""
    cache, config = house.pipeline.cache, house.config.cache

    @get("/admin/cache", summary="How often answers came from the cache, in this process, and what that saved everywhere")
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

    @delete("/admin/cache", status_code=200, summary="Forget kept answers: ?user= ?model=, both, or all")
    async def purge_cache(request: Request[Any, Any, Any]) -> Json:
        actor = await admin_only(request, house)
        query = dict(request.query_params)
        if unknown := [name for name in query if name not in ("user", "model")]:
            message = f"Unknown parameter: '{clip(unknown[0])}'. There are user and model; with neither, all is forgotten."
            raise InvalidRequest(message, param=clip(unknown[0]), code="unknown_parameter")
        user = (await house.users.get(query["user"])).id if "user" in query else ""
        model = query.get("model", "")
        what = query.get("user") or model or "all"
        async with house.audit.entry(actor, "cache.purge", what, query) as effect:
            if not await cache.purge(user=user, model=model):
                raise CacheAwayError
            effect.about("cache", what)
        return {"object": "cache.purged", "user": user or None, "model": model or None}

    return [cache_stats, purge_cache]
