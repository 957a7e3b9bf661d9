"""GET / and /health."""

from __future__ import annotations

from litestar import Response, get
from litestar.types import ControllerRouterHandler

from chattable.agents.chat import Json
from chattable.proxy.house import House
from chattable.proxy.store.errors import Unavailable


def routes(house: House) -> list[ControllerRouterHandler]:
    """What a load balancer or a curious person asks; never a model."""

    @get("/", summary="Say what this is")
    async def root() -> Json:
        return {
            "name": "chattable",
            "message": "An OpenAI-compatible API. Point an SDK's base URL at /v1; POST /v1/chat/completions answers.",
        }

    @get("/health", summary="Liveness")
    async def health() -> Json:
        return {"status": "ok"}

    @get("/health/ready", summary="Readiness: the database answers and the server is not shutting down")
    async def ready() -> Response[Json]:
        problems = {}
        if house.pipeline.stopping:
            problems["server"] = "shutting down"
        try:
            await house.database.ping()
        except Unavailable:
            problems["database"] = "does not answer"
        status: Json = {"status": "unavailable", "problems": problems} if problems else {"status": "ok"}
        if uncounted := house.pipeline.pace.rates.failures:
            status["degraded"] = {"rate_limits": f"{uncounted} calls were let in uncounted: Redis did not answer"}
        return Response(status, status_code=503 if problems else 200)

    return [root, health, ready]
