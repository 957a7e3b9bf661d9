"""JSON Schemas as Claude takes them, at Anthropic's own API and at Bedrock.

What a schema loses is said in its description.

https://platform.claude.com/docs/en/build-with-claude/structured-outputs, read 2026-11.
"""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from typing import Any

import msgspec

from chattable.agents.chat import Json

COMBINED = ("anyOf", "oneOf", "allOf")
# What a schema keeps as it is.
KEPT = frozenset({"type", "enum", "const", "required", "title", "description", "default", "$ref"})
# What has schemas in it, and in what.
NESTED: dict[str, type] = {
    **dict.fromkeys(COMBINED, list),
    **dict.fromkeys(("properties", "$defs", "definitions", "items"), dict),
}
# What says nothing of the value.
SILENT = frozenset({"$schema", "$id", "$comment", "$anchor"})
FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)
ODD_PATTERN = re.compile(r"\(\?[=!<]|\\[1-9bB]")  # looks around, back or at the edge of a word


def flat(schema: Any) -> Json:
    """The parameters of a tool as one object, for alternatives at the top are refused."""
    if not isinstance(schema, dict):
        return {"type": "object"}
    combined = {
        name: branches for name in COMBINED if isinstance(branches := schema.get(name), list)
    }
    whole = {name: value for name, value in schema.items() if name not in combined} | {
        "type": "object"
    }
    return _merged(whole, combined) if combined else whole


def _merged(whole: Json, combined: dict[str, list[Any]]) -> Json:
    """The object with the properties of its alternatives, which are said in its description."""
    properties, required = dict(_properties(whole)), _names(whole)
    for name, branches in combined.items():
        objects = [branch for branch in branches if isinstance(branch, dict)]
        for branch in objects:
            properties |= {k: v for k, v in _properties(branch).items() if k not in properties}
        required += sorted(_required_by(name, objects) - {*required})
    if properties:
        whole["properties"] = properties
    if required:
        whole["required"] = required
    return _with_lost(whole, combined)


def closed(schema: Json) -> Json:
    """A schema that an answer must obey: objects without further properties, no unknown keyword."""
    out: Json = {}
    lost: Json = {}
    for name, value in schema.items():
        if _fits(name, value):
            out[name] = value
        elif isinstance(value, NESTED.get(name, ())):
            out["anyOf" if name == "oneOf" else name] = _closed_inside(name, value)
        elif name not in SILENT and value is not None:
            lost[name] = value
    if _is_object(schema):
        out["additionalProperties"] = False
        if lost.get("additionalProperties") in (False, True) and "properties" in schema:
            del lost["additionalProperties"]
    return _with_lost(out, lost)


def _closed_inside(name: str, value: Any) -> Any:
    """The schemas that a keyword has in it, each of them closed."""
    if isinstance(value, list):
        return [_inner(branch) for branch in value]
    if name == "items":
        return closed(value)
    return {key: _inner(branch) for key, branch in value.items()}


def _is_object(schema: Json) -> bool:
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    return "object" in kinds or "properties" in schema


def endless(schema: Json) -> bool:
    """Whether a schema refers to itself or elsewhere: no answer can be held to it then."""
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
    """Whether a keyword may stay as it is."""
    if name in KEPT:
        return True
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


def _properties(schema: Json) -> Json:
    given = schema.get("properties")
    return given if isinstance(given, dict) else {}


def _required_by(combination: str, branches: list[Json]) -> set[str]:
    """What all branches of `allOf` require together, or every branch of the others."""
    needed = [set(_names(branch)) for branch in branches]
    if not needed:
        return set()
    return set.union(*needed) if combination == "allOf" else set.intersection(*needed)


def _with_lost(schema: Json, lost: Json) -> Json:
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
