"""POST /v1/embeddings, /v1/completions, /v1/moderations and what else is passed on."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from litestar import Request, Response, post
from litestar.types import ControllerRouterHandler

from chattable.agents.chattable import Trace
from chattable.agents.errors import InvalidRequest
from chattable.proxy.http.leaving import on_leave
from chattable.proxy.pipeline.forwarded_kinds import KINDS, Kind
from chattable.proxy.pipeline.forwarding import Forwarding
from chattable.proxy.routes.documented import ASKED, BEARER, FORWARDED, errors
from chattable.proxy.routes.request_context import (
    caller_of,
    on_behalf,
    receive_json,
    upstream_headers,
)
from chattable.proxy.services import Services


def routes(services: Services) -> list[ControllerRouterHandler]:
    """The routes of everything that is no chat."""
    forwarding = Forwarding(services.pipeline, services.config.default_model)
    return [_route(kind, forwarding, services) for kind in KINDS]


def _route(kind: Kind, forwarding: Forwarding, services: Services) -> ControllerRouterHandler:
    @post(
        f"/v1{kind.path}",
        status_code=200,
        operation_class=FORWARDED,
        operation_id="forward" + kind.path.replace("/", "_"),
        responses=errors(*ASKED),
        security=BEARER,
        tags=["Models"],
        summary=f"Pass a request for {kind.what} on",
        name=kind.path,
    )
    async def forward(request: Request[Any, Any, Any]) -> Response[bytes]:
        scope: Any = request.scope
        caller = await caller_of(scope, services)
        fields = await receive_json(scope, request.receive, services, caller)
        if fields.get("stream"):
            raise InvalidRequest(
                f"Streams of {kind.what} are not passed on; leave `stream` out.", param="stream"
            )
        caller = await on_behalf(caller, fields, services)
        scope["caller"], scope["trace"] = caller, Trace()
        trace = scope["trace"]
        on_leave(scope, partial(_left, trace))
        answer = await forwarding.ask(kind, fields, caller, trace)
        trace = answer.trace
        overhead = max(0.0, time.monotonic() - caller.began - trace.waited)
        return Response(
            answer.body,
            media_type=answer.content_type or "application/json",
            headers={
                **answer.headers,
                **upstream_headers(trace),
                "x-chattable-overhead-ms": f"{overhead * 1000:.1f}",
            },
        )

    return forward


def _left(trace: Trace, _: bool) -> None:
    """Lets what nobody reads any more give way to others."""
    trace.left = True
