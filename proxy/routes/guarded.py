"""The routes behind a guard: what stands in a router here is not open by a forgotten line."""

from __future__ import annotations

from typing import Any

from litestar import Router

from chattable.proxy.http.paths import restore_names
from chattable.proxy.routes import usage
from chattable.proxy.routes.admin import audit, budgets, cache, teams, users
from chattable.proxy.routes.admin import models as admin_models
from chattable.proxy.routes.admin import sessions as admin_sessions
from chattable.proxy.routes.documented import BEARER
from chattable.proxy.routes.guards import known_queries, require_admin, require_key
from chattable.proxy.routes.openai import models
from chattable.proxy.routes.typed import ACTOR, CALLER, DECODERS, TextResponse, TypedRequest
from chattable.proxy.routes.user import conversations, items, me, transcripts

ADMINS = (users, teams, budgets, usage, audit, cache, admin_models, admin_sessions)
USERS = (models, me, conversations, items, transcripts)


def guarded() -> list[Router]:
    """The routes of admins, and those of whoever has a key."""
    typed: dict[str, Any] = {
        "before_request": restore_names,
        "request_class": TypedRequest,
        "response_class": TextResponse,
        "security": BEARER,
        "type_decoders": DECODERS,
    }
    return [
        Router(
            "/admin",
            guards=[require_admin, known_queries],
            dependencies=ACTOR,
            route_handlers=[room.ROUTES for room in ADMINS],
            **typed,
        ),
        Router(
            "/v1",
            guards=[require_key],
            dependencies=CALLER,
            route_handlers=[room.ROUTES for room in USERS],
            **typed,
        ),
    ]
