"""The features that a request to Anthropic asks for in its header.

They are those that the client names, as far as they are known, and those that the body needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from chattable.adapters.params import invalid
from chattable.adapters.vendors.betas import (
    CONTEXT,
    DIAGNOSTICS,
    FAST,
    FILES,
    KNOWN,
    MCP,
    OLD_MCP,
    SKILLS,
    feature,
)
from chattable.adapters.vendors.withheld import BETAS
from chattable.agents.chat import Json

HEADER = "anthropic-beta"
TOKEN = re.compile(r"[a-zA-Z0-9._-]{1,100}")
MAX_FEATURES = 50  # features of one request


class Headed(bytes):
    """The body of a request that goes with headers of its own."""

    headers: tuple[tuple[str, str], ...] = ()


def with_betas(body: bytes, betas: list[str]) -> bytes:
    """A body and the features that it needs."""
    if not betas:
        return body
    headed = Headed(body)
    headed.headers = ((HEADER, ",".join(betas)),)
    return headed


def asked(value: Any, *, anything: bool) -> list[str]:
    """The features that a client asks for, as far as they are known, or all of them."""
    if value is None:
        return []
    names = dict.fromkeys(_names(value))
    return [name for name in names if anything or feature(name) in KNOWN]


def _names(value: Any) -> list[str]:
    """The names in a list, or in a text with commas between them."""
    given = value.split(",") if isinstance(value, str) else value
    if isinstance(given, list) and all(isinstance(one, str) for one in given):
        names = [name for one in given if (name := one.strip())]
        if len(names) <= MAX_FEATURES and all(TOKEN.fullmatch(name) for name in names):
            return names
    raise invalid(BETAS, "expected names of features, as ['context-management-2025-06-27']")


def needed(body: Json) -> Iterator[str]:
    """The features that a body makes use of."""
    if "context_management" in body:
        yield CONTEXT
    if "diagnostics" in body:
        yield DIAGNOSTICS
    if "mcp_servers" in body:
        kinds = [tool.get("type") for tool in body.get("tools", ())]
        yield MCP if "mcp_toolset" in kinds else OLD_MCP
    container = body.get("container")
    if isinstance(container, dict) and container.get("skills"):
        yield from SKILLS
    if body.get("speed") == "fast":
        yield FAST
    if any(map(_has_file, _blocks(body))):
        yield FILES


def _blocks(body: Json) -> Iterator[Json]:
    for turn in body["messages"]:
        yield from turn["content"]


def betas(given: Any, body: Json, *, anything: bool) -> list[str]:
    """The features of a request; of one that the client names, the client's version."""
    own = asked(given, anything=anything)
    features = {feature(name) for name in own}
    return own + [name for name in needed(body) if feature(name) not in features]


def _has_file(block: Json) -> bool:
    source = block.get("source")
    if isinstance(source, dict) and source.get("type") == "file":
        return True
    inner = block.get("content")
    return block.get("type") == "container_upload" or (
        isinstance(inner, list) and any(isinstance(one, dict) and _has_file(one) for one in inner)
    )
