"""The routes behind a guard: what stands in a router here is not open by a forgotten line."""

from __future__ import annotations

from typing import Any

from litestar import Router

from chattable.proxy.http.paths import restore_names
from chattable.proxy.routes import (
    admin,
    admin_models,
    admin_sessions,
    audit,
    budgets,
    cache,
    conversations,
    items,
    me,
    models,
    teams,
    transcripts,
    usage,
)
from chattable.proxy.routes.documented import BEARER
from chattable.proxy.routes.guards import known_queries, require_admin, require_key
from chattable.proxy.routes.typed import ACTOR, CALLER, DECODERS, TextResponse, TypedRequest

ADMINS = (admin, teams, budgets, usage, audit, cache, admin_models, admin_sessions)
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
