"""Builds the application: the only place that constructs things and joins them."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from zoneinfo import ZoneInfo

from litestar import Litestar, Response
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from msgspec.structs import replace

from chattable.adapters.http_client import HttpClient
from chattable.budget.outbox import Outbox
from chattable.proxy import failpoints
from chattable.proxy.cache.cache import open_cache
from chattable.proxy.catalog.catalog import CatalogHolder
from chattable.proxy.catalog.catalog import build as build_catalog
from chattable.proxy.catalog.prices import warn_of_unpriced
from chattable.proxy.config.settings import Config
from chattable.proxy.errors import Failure, NoSuchRouteError, describe, known, outcome_of
from chattable.proxy.http.edge import EdgeMiddleware
from chattable.proxy.http.loopback import loopback
from chattable.proxy.http.paths import shown
from chattable.proxy.http.shutdown import ignoring_hangups, on_stop_signal
from chattable.proxy.identity.auth import Auth
from chattable.proxy.ledger_setup import open_database, open_journal, open_ledger, put_default
from chattable.proxy.people.audit import Audit
from chattable.proxy.people.teams import Teams
from chattable.proxy.people.usage import UsageReports
from chattable.proxy.people.users import Users
from chattable.proxy.people.webhooks import Deliveries, WebhookEndpoint
from chattable.proxy.pipeline.idempotency import Idempotency
from chattable.proxy.pipeline.metering import Metering
from chattable.proxy.pipeline.pipeline import Pipeline
from chattable.proxy.pipeline.rate_limits import RateLimiter, open_rates
from chattable.proxy.pipeline.revocation import Revocation
from chattable.proxy.pipeline.turns import Turns
from chattable.proxy.routes import health
from chattable.proxy.routes.documented import CommonErrors, document
from chattable.proxy.routes.guarded import guarded
from chattable.proxy.routes.openai import chat, forwarding
from chattable.proxy.routes.openai.chat import ChatCompletions
from chattable.proxy.routes.request_context import upstream_headers
from chattable.proxy.routes.typed import SERVICES
from chattable.proxy.services import Services
from chattable.proxy.sessions.sessions import Sessions, open_store
from chattable.proxy.sessions.titles_and_summaries import TitlesAndSummaries
from chattable.proxy.telemetry.access_log import AccessLog
from chattable.proxy.telemetry.redaction import redactor

if TYPE_CHECKING:
    from chattable.budget.storage.redis import RedisScripts

log = logging.getLogger("chattable")

EXPOSED = [
    "x-request-id",
    "retry-after",
    "retry-after-ms",
    "x-chattable-model",
    "x-chattable-attempts",
    "x-chattable-affinity",
    "x-chattable-overhead-ms",
    *(
        f"x-ratelimit-{what}-{kind}"
        for what in ("limit", "remaining", "reset")
        for kind in ("requests", "tokens")
    ),
    "x-budget-remaining-tokens",
    "x-budget-reset",
    "x-budget-warning",
    "x-should-retry",
    "idempotency-replayed",
    "x-session-id",
    "x-session-mode",
    "x-session-injected",
    "content-disposition",
    "x-cache",
    "age",
]


class Service(Protocol):
    """What runs as long as the server does."""

    async def start(self) -> None:
        """Begins; what raises here has begun nothing."""

    async def stop(self) -> None:
        """Ends."""


def build(config: Config) -> EdgeMiddleware:
    """The application that a config describes."""
    database = open_database(config)
    users = Users(database.storage)
    access_log = AccessLog()
    transport = HttpClient()
    ledger = open_ledger(config, database)
    journal = open_journal(config, database)
    metering = Metering(
        ledger,
        journal,
        patience=config.budgets.wait,
        failpoint=failpoints.from_environment(os.environ),
    )
    catalogs = CatalogHolder(build_catalog(config, transport))
    redis = _redis(config)
    rate_limiter = RateLimiter(open_rates(redis), config.rate_limits)
    idempotency = Idempotency(database.storage)
    answers = open_cache(config, redis)
    session_store = open_store(config, database)
    titles_and_summaries = TitlesAndSummaries(
        session_store, config.sessions, lambda chat, caller: pipeline.write(chat, caller)
    )
    sessions = Sessions(session_store, config.sessions, catalogs, titles_and_summaries)
    pipeline = Pipeline(catalogs, idempotency, sessions, rate_limiter, answers, metering)
    turns = Turns(pipeline)
    auth = Auth(users, [key.reveal() for key in config.admin_keys])
    revocation = Revocation(users, turns)
    teams, outbox = Teams(database.storage), Outbox(database.storage)
    webhook = config.budgets.webhook
    deliveries = (
        [Deliveries(outbox, WebhookEndpoint(webhook.url, webhook.secret.reveal()), transport)]
        if webhook
        else []
    )
    services = Services(
        config,
        database,
        users,
        teams,
        Audit(database.storage, outcome_of),
        auth,
        catalogs,
        pipeline,
        turns,
        metering,
        UsageReports(ledger, users, teams, ZoneInfo(config.budgets.timezone)),
        outbox,
        session_store,
        config.server.max_body_mb * 2**20,
        journal,
        redis,
        ledger,
    )

    async def stop() -> None:
        await turns.stop(config.server.grace)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncGenerator[None]:
        async with AsyncExitStack() as running:

            async def start(service: Service) -> None:
                await service.start()
                running.push_async_callback(service.stop)

            # Stopped in the opposite order, also where one of them does not start.
            access_log.start()
            running.callback(access_log.stop)
            await start(database)
            await start(ledger)
            await put_default(ledger, config.budgets.default)
            await start(metering)
            await warn_of_unpriced(ledger, config)
            await start(idempotency)
            await start(rate_limiter.rates)
            running.push_async_callback(transport.aclose)
            others: list[Service] = [sessions, catalogs, revocation, *deliveries, answers]
            for service in others:
                await start(service)
            gc.collect()
            # a request makes some 700 objects; the default would collect on every one
            gc.set_threshold(20_000, 20, 20)
            gc.freeze()  # what lives as long as the server need not be looked at again
            base_url = await running.enter_async_context(loopback(edge))
            pipeline.gateway.base_url = base_url
            running.push_async_callback(stop)
            with on_stop_signal(stop, metering.stop_at_once), ignoring_hangups():
                yield

    served: list[str] = []
    chats = ChatCompletions(services)
    app = Litestar(
        [*chat.routes(chats), *forwarding.routes(services), health.ROUTES, *guarded()],
        lifespan=[lifespan],
        dependencies=SERVICES,
        state=State({"services": services}, deep_copy=False),
        exception_handlers={
            Exception: lambda request, error: _response(_failure(served, request.scope, error))
        },
        request_max_body_size=services.max_body,
        cors_config=_cors(config.server.cors_origins),
        openapi_config=document(),
        plugins=[CommonErrors()],
        logging_config=None,
        debug=False,
    )
    served += _served(app)
    redact = redactor(config, os.environ)
    edge = EdgeMiddleware(
        app,
        access_log,
        patience=config.server.receive,
        max_body=services.max_body,
        failure_of=partial(_failure, served),
        direct=None if config.server.cors_origins else chats,  # CORS is the application's
        redact=redact,
    )
    return edge


def _redis(config: Config) -> RedisScripts | None:
    """The Redis that a config names; only then is its client imported."""
    if not config.redis_url:
        return None
    from chattable.budget.storage.redis import RedisScripts

    return RedisScripts(config.redis_url)


def _served(app: Litestar) -> list[str]:
    """The paths below /v1 that clients ask, without those of single objects."""
    paths = {route.path for route in app.routes}
    return sorted(path for path in paths if path.startswith("/v1/") and "{" not in path)


def _failure(served: Sequence[str], scope: Any, error: Exception) -> Failure:
    """What a request is answered that failed; the access log hears of it by the scope."""
    request_id = scope.get("request_id", "")
    if isinstance(error, NotFoundException):
        error = NoSuchRouteError(scope["method"], shown(scope["path"]), served)
    failure = describe(error, request_id=request_id)
    scope["error_code"] = failure.code
    if not known(error):
        log.error("request %s failed", request_id, exc_info=error)
    return replace(failure, headers=failure.headers | upstream_headers(scope.get("trace")))


def _response(failure: Failure) -> Response[bytes]:
    return Response(
        failure.body(),
        status_code=failure.status,
        headers=failure.headers,
        media_type="application/json",
    )


def _cors(origins: tuple[str, ...]) -> CORSConfig | None:
    if not origins:
        return None
    return CORSConfig(
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "PATCH", "PUT", "DELETE", "HEAD", "OPTIONS"],
        allow_headers=["*"],
        expose_headers=EXPOSED,
        max_age=600,
    )
