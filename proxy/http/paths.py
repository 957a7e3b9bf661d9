"""Paths with names in them: a slash of a name is sent as %2F, and parts no path."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from litestar import Request

SLASH = "\udc2f"  # stands for such a slash while a request is routed: no path has half a character


def decoded(scope: Any) -> str:
    """The path of a request, with the slashes of names told apart."""
    raw: bytes = scope.get("raw_path") or b""
    if b"%2F" not in raw and b"%2f" not in raw:
        return str(scope["path"])
    return "/".join(unquote(part).replace("/", SLASH) for part in raw.decode("ascii").split("/"))


def shown(path: str) -> str:
    """A path as it was sent."""
    return path.replace(SLASH, "%2F")


async def restore_names(request: Request[Any, Any, Any]) -> None:
    """Gives the names in a path their slashes back, before a handler is called with them."""
    params: dict[str, Any] = request.scope["path_params"]
    for name, part in params.items():
        if SLASH in str(part):
            params[name] = str(part).replace(SLASH, "/")
