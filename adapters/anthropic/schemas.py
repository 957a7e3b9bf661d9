"""JSON Schemas as Claude takes them, at Anthropic's own API and at Bedrock: what they lose is told in their descriptions.

https://platform.claude.com/docs/en/build-with-claude/structured-outputs, read 2026-11.
"""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from typing import Any

import msgspec

from chattable.agents.chat import Json

COMBINED = ("anyOf", "oneOf", "allOf")
# What a schema keeps as it is; what has schemas in it; what says nothing of the value.
KEPT = frozenset({"type", "enum", "const", "required", "title", "description", "default", "$ref"})
LISTS, MAPS = (
    frozenset({"anyOf", "oneOf", "allOf"}),
    frozenset({"properties", "$defs", "definitions"}),
)
SILENT = frozenset({"$schema", "$id", "$comment", "$anchor"})
FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)
ODD_PATTERN = re.compile(r"\(\?[=!<]|\\[1-9bB]")  # looks around, back or at the edge of a word


def flat(schema: Any) -> Json:
    """The parameters of a tool: one object, for alternatives at the top are refused."""
    if not isinstance(schema, dict):
        return {"type": "object"}
    combined = {
        name: branches for name in COMBINED if isinstance(branches := schema.get(name), list)
    }
    whole = {name: value for name, value in schema.items() if name not in combined} | {
        "type": "object"
    }
    if not combined:
        return whole
    given = whole.get("properties")
    properties = dict(given) if isinstance(given, dict) else {}
    required = _names(whole)
    for name, branches in combined.items():
        objects = [branch for branch in branches if isinstance(branch, dict)]
        for branch in objects:
            inner = branch.get("properties")
            for key, value in inner.items() if isinstance(inner, dict) else ():
                properties.setdefault(key, value)
        needed = [set(_names(branch)) for branch in objects]
        common = (set.union if name == "allOf" else set.intersection)(*needed) if needed else set()
        required += sorted(common - {*required})
    if properties:
        whole["properties"] = properties
    if required:
        whole["required"] = required
    return _told(whole, combined)


def closed(schema: Json) -> Json:
    """A schema that an answer must obey: every object lists what is in it, and nothing stands there that is unknown."""
    out: Json = {}
    lost: Json = {}
    for name, value in schema.items():
        if name in KEPT:
            out[name] = value
        elif name in LISTS and isinstance(value, list):
            out["anyOf" if name == "oneOf" else name] = [_inner(branch) for branch in value]
        elif name in MAPS and isinstance(value, dict):
            out[name] = {key: _inner(branch) for key, branch in value.items()}
        elif name == "items" and isinstance(value, dict):
            out[name] = closed(value)
        elif _fits(name, value):
            out[name] = value
        elif name not in SILENT and value is not None:
            lost[name] = value
    kind = schema.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in schema:
        out["additionalProperties"] = False
        if lost.get("additionalProperties") in (False, True) and "properties" in schema:
            del lost["additionalProperties"]
    return _told(out, lost)


def endless(schema: Json) -> bool:
    """Whether a schema refers to itself, or to somewhere else: no answer can be held to it then."""
    found: dict[str, list[str]] = {"#": []}
    for group in ("$defs", "definitions"):
        inner = schema.get(group)
        for name, branch in inner.items() if isinstance(inner, dict) else ():
            found[f"#/{group}/{name}"] = _refs(branch)
    found["#"] = _refs(
        {name: value for name, value in schema.items() if name not in ("$defs", "definitions")}
    )
    if any(ref not in found for refs in found.values() for ref in refs):
        return True
    try:
        TopologicalSorter(found).prepare()
    except CycleError:
        return True
    return False


def _inner(branch: Any) -> Any:
    return closed(branch) if isinstance(branch, dict) else branch


def _fits(name: str, value: Any) -> bool:
    if name == "format":
        return isinstance(value, str) and value in FORMATS
    if name == "minItems":
        return value in (0, 1)
    if name == "pattern":
        return isinstance(value, str) and not ODD_PATTERN.search(value)
    return False


def _names(schema: Json) -> list[str]:
    required = schema.get("required")
    return (
        [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    )


def _told(schema: Json, lost: Json) -> Json:
    """The schema, with what it lost in its description."""
    if not lost:
        return schema
    words = ", ".join(
        f"{name}: {msgspec.json.encode(value).decode()}" for name, value in lost.items()
    )
    said = schema.get("description")
    return schema | {
        "description": f"{said} ({words})" if isinstance(said, str) and said else words
    }


def _refs(node: Any) -> list[str]:
    """Whatever a schema refers to."""
    if isinstance(node, dict):
        own = [ref] if isinstance(ref := node.get("$ref"), str) else []
        return own + [found for inner in node.values() for found in _refs(inner)]
    if isinstance(node, list):
        return [found for inner in node for found in _refs(inner)]
    return []
