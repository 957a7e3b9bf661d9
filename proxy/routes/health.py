"""GET / and /health."""

from __future__ import annotations

from litestar import Response, get
from litestar.types import ControllerRouterHandler

from chattable.agents.chat import Json
from chattable.proxy.services import House
from chattable.proxy.version import VERSION


def routes(house: House) -> list[ControllerRouterHandler]:
    """What a load balancer or a curious person asks; never a model."""

    @get("/", summary="Say what this is")
    async def root() -> Json:
        return {
            "name": "chattable",
            "version": VERSION,
            "message": "An OpenAI-compatible API. Point an SDK's base URL at /v1; POST /v1/chat/completions answers.",
        }

    @get("/health", summary="Liveness")
    async def health() -> Json:
        return {"status": "ok"}

    @get("/health/ready", summary="Readiness: database and journal can be written")
    async def ready() -> Response[Json]:
        problems = await _problems(house)
        status: Json = (
            {"status": "unavailable", "problems": problems} if problems else {"status": "ok"}
        )
        if degraded := _degraded(house):
            status["degraded"] = degraded
        return Response(status, status_code=503 if problems else 200)

    return [root, health, ready]


async def _problems(house: House) -> dict[str, str]:
    """What keeps this process from serving."""
    problems = {}
    if house.turns.stopping:
        problems["server"] = "shutting down"
    if trouble := await house.database.trouble():
        problems["database"] = trouble
    try:
        house.journal.probe()
    except OSError as error:
        problems["journal"] = f"cannot be written: {error.strerror}"
    return problems


def _degraded(house: House) -> dict[str, str]:
    """What is not as it should be, though everybody is served."""
    found, redis, uncounted = {}, house.redis, house.pipeline.rate_limiter.rates.failures
    if redis is not None and redis.away:
        found["redis"] = f"Redis {redis.trouble}: nothing is kept or counted there"
    if redis is not None and uncounted:
        found["rate_limits"] = f"{uncounted} calls were let in uncounted: Redis {redis.trouble}"
    if damaged := house.journal.damaged:
        found["journal"] = f"{damaged} lines could not be read and are not booked, see the log"
    return found
