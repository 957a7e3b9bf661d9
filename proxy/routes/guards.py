"""Who may call a route: a guard of a router holds for every route below it."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.params import QueryParameter

from chattable.agents.chattable import TurnUser
from chattable.agents.errors import InvalidRequest, clip
from chattable.proxy.errors import ForbiddenError
from chattable.proxy.http.paths import shown
from chattable.proxy.people.audit import Actor
from chattable.proxy.routes.request_context import bearer, caller_of
from chattable.proxy.services import Services
from chattable.proxy.store.secret import masked

Connection: TypeAlias = ASGIConnection[Any, Any, Any, Any]


async def require_key(connection: Connection, _: BaseRouteHandler) -> None:
    """Lets in whoever has a key, and notes whose it is."""
    if not _asks_for_methods(connection):
        await caller_of(connection.scope, house_of(connection))


async def require_admin(connection: Connection, _: BaseRouteHandler) -> None:
    """Lets in admins only, and notes who it is.

    The attempt of a key that is good for other things goes into the audit trail.
    """
    if _asks_for_methods(connection):
        return
    services, secret, scope = (
        house_of(connection),
        bearer(connection.scope),
        cast(Any, connection.scope),
    )
    principal = await services.auth.principal(secret)
    who = principal.user if principal.key_id else TurnUser("admin key", masked(secret))
    actor = scope["actor"] = Actor(who.id, who.name, scope["request_id"])
    if not principal.admin:
        attempt = f"{scope['method']} {shown(scope['path'])}"
        await services.audit.denied(actor, principal.key_id, attempt)
        raise ForbiddenError("This needs an admin key.")


async def known_queries(connection: Connection, handler: BaseRouteHandler) -> None:
    """Refuses query parameters that the route does not declare in its signature."""
    if not connection.query_params or _asks_for_methods(connection):
        return
    providers = handler.resolve_dependencies().values()
    signatures = [
        handler.parsed_fn_signature,
        *(provider.parsed_fn_signature for provider in providers),
    ]
    known = [
        field.kwarg_definition.name or name
        for signature in signatures
        for name, field in signature.parameters.items()
        if isinstance(field.kwarg_definition, QueryParameter)
    ]
    for name in connection.query_params:
        if name not in known:
            message = f"Unknown parameter: '{clip(name)}'. {_there_are(known)}"
            raise InvalidRequest(message, param=clip(name), code="unknown_parameter")


def house_of(connection: Connection) -> Services:
    """What the application was built of."""
    services: Services = connection.app.state.services
    return services


def _asks_for_methods(connection: Connection) -> bool:
    """Whether it is the framework that answers: no handler of ours takes OPTIONS."""
    return bool(cast(Any, connection.scope)["method"] == "OPTIONS")


def _there_are(known: list[str]) -> str:
    if len(known) < 2:
        return f"There is only {known[0]}." if known else "There are none here."
    return f"There are {', '.join(known[:-1])} and {known[-1]}."
