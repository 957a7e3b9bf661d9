"""What admin routes share: who may call them, typed bodies, pages."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from litestar import Request

from chattable.agents.chat import Json
from chattable.agents.parsing import explain
from chattable.proxy.house import House
from chattable.proxy.requests import bearer, read_json

B = TypeVar("B")


async def admin_only(request: Request[Any, Any, Any], house: House) -> None:
    """Refuses everybody without an admin's key."""
    await house.auth.admin(bearer(request))


async def admin_body(request: Request[Any, Any, Any], house: House, kind: type[B]) -> B:
    """An admin's request body as a struct, or `InvalidRequest` naming the field."""
    await admin_only(request, house)
    body = await read_json(request, house.max_body)
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise explain(error) from None


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
