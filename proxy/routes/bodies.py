"""What admin routes share: who may call them, typed bodies, pages."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import msgspec
from litestar import Request
from litestar.params import QueryParameter

from chattable.agents.chat import Json
from chattable.agents.chattable import User
from chattable.agents.errors import InvalidRequest, clip
from chattable.agents.parsing import explain
from chattable.proxy.errors import ForbiddenError
from chattable.proxy.http.paths import shown
from chattable.proxy.routes.request_context import bearer, read_json
from chattable.proxy.services import House
from chattable.proxy.store.audit import Actor
from chattable.proxy.store.secret import masked

B = TypeVar("B")


async def admin_only(request: Request[Any, Any, Any], house: House) -> Actor:
    """Who administers.

    Refuses everybody without an admin's key, and notes it where the key is good for other things.
    """
    secret, scope = bearer(request), cast(Any, request.scope)
    principal = await house.auth.principal(secret)
    who = principal.user if principal.key_id else User("admin key", masked(secret))
    actor = Actor(who.id, who.name, scope["request_id"])
    if not principal.admin:
        attempt = f"{scope['method']} {shown(scope['path'])}"
        await house.audit.denied(actor, principal.key_id, attempt)
        raise ForbiddenError("This needs an admin key.")
    known_queries(request)
    return actor


def known_queries(request: Request[Any, Any, Any]) -> None:
    """Refuses query parameters that the route does not declare in its signature."""
    if not request.query_params:
        return
    handler = request.route_handler
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
    for name in request.query_params:
        if name not in known:
            message = f"Unknown parameter: '{clip(name)}'. {_there_are(known)}"
            raise InvalidRequest(message, param=clip(name), code="unknown_parameter")


async def admin_body(
    request: Request[Any, Any, Any], house: House, kind: type[B]
) -> tuple[Actor, B]:
    """Who administers, and the request body as a struct, or `InvalidRequest` naming the field."""
    actor = await admin_only(request, house)
    body = await read_json(request, house.max_body)
    try:
        return actor, msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise explain(error) from None


def _there_are(known: list[str]) -> str:
    if len(known) < 2:
        return f"There is only {known[0]}." if known else "There are none here."
    return f"There are {', '.join(known[:-1])} and {known[-1]}."


def page(data: list[Json], *, more: bool) -> Json:
    """A page of a list, in OpenAI's form."""
    ids = [row["id"] for row in data]
    return {
        "object": "list",
        "data": data,
        "has_more": more,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
    }
