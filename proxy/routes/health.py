"""GET / and /health."""

from __future__ import annotations

from litestar import Response, Router, get
from litestar.openapi import ResponseSpec
from msgspec import UNSET, Struct, UnsetType

from chattable.proxy.routes.typed import InjectedServices
from chattable.proxy.services import Services
from chattable.proxy.version import VERSION


class Welcome(Struct, kw_only=True):
    """What this server is."""

    name: str = "chattable"
    version: str = VERSION
    message: str = (
        "An OpenAI-compatible API. Point an SDK's base URL at /v1; POST /v1/chat/completions"
        " answers."
    )


class HealthStatus(Struct, kw_only=True):
    """`ok`, or `unavailable` with the reasons; `degraded` is what is amiss meanwhile."""

    status: str = "ok"
    problems: dict[str, str] | UnsetType = UNSET
    degraded: dict[str, str] | UnsetType = UNSET


@get("/", summary="Say what this is")
async def get_root() -> Welcome:
    return Welcome()


@get("/health", summary="Liveness")
async def get_health() -> HealthStatus:
    return HealthStatus()


@get(
    "/health/ready",
    responses={503: ResponseSpec(HealthStatus, description="Not now", generate_examples=False)},
    summary="Readiness: database and journal can be written",
)
async def get_readiness(services: InjectedServices) -> Response[HealthStatus]:
    problems = await _problems(services)
    status = HealthStatus(
        status="unavailable" if problems else "ok",
        problems=problems or UNSET,
        degraded=_degraded(services) or UNSET,
    )
    return Response(status, status_code=503 if problems else 200)


# What a load balancer or a curious person asks; never a model.
ROUTES = Router("/", tags=["Health"], route_handlers=[get_root, get_health, get_readiness])


async def _problems(services: Services) -> dict[str, str]:
    """What keeps this process from serving."""
    problems = {}
    if services.turns.stopping:
        problems["server"] = "shutting down"
    if trouble := await services.database.storage.trouble():
        problems["database"] = trouble
    try:
        services.journal.probe()
    except OSError as error:
        problems["journal"] = f"cannot be written: {error.strerror}"
    return problems


def _degraded(services: Services) -> dict[str, str]:
    """What is not as it should be, though everybody is served."""
    found, redis, uncounted = {}, services.redis, services.pipeline.rate_limiter.rates.failures
    if redis is not None and redis.away:
        found["redis"] = f"Redis {redis.trouble}: nothing is kept or counted there"
    if redis is not None and uncounted:
        found["rate_limits"] = f"{uncounted} calls were let in uncounted: Redis {redis.trouble}"
    if damaged := services.journal.damaged:
        found["journal"] = f"{damaged} lines could not be read and are not booked, see the log"
    return found
