"""Every setting by its name, and the JSON Schema of config.yaml for editors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from chattable.proxy.config.decoder import is_struct, parts
from chattable.proxy.config.settings import CodeAgentEntry, Config, PromptAgentEntry


def settings() -> list[str]:
    """Every setting by its dotted name, such as `server.port` or `models.*.provider`."""
    return list(dict.fromkeys(_settings(Config, "")))


def _settings(kind: Any, prefix: str) -> Iterator[str]:
    for part in parts(kind):
        if is_struct(part):
            for field in msgspec.structs.fields(part):
                if field.name != getattr(part, "REST", None):
                    yield from _settings(field.type, f"{prefix}.{field.name}")
        elif _holds_structs(part):
            yield from _settings(part.__args__[1], f"{prefix}.*")
        else:
            yield prefix.removeprefix(".")


def _holds_structs(kind: Any) -> bool:
    """Whether it is a mapping of names to sections."""
    is_mapping = getattr(kind, "__origin__", None) is dict
    return is_mapping and any(map(is_struct, parts(kind.__args__[1])))


def schema() -> dict[str, Any]:
    """The JSON Schema of config.yaml, for editors."""
    raw = msgspec.json.schema(Config, schema_hook=lambda _: {"type": "string"})
    made = msgspec.json.decode(msgspec.json.encode(raw))  # tuples among the defaults become lists
    for agent in (CodeAgentEntry, PromptAgentEntry):
        entry = made["$defs"][agent.__name__]
        del entry["properties"]["type"]  # which kind of agent it is shows in its keys
        entry["required"].remove("type")
        if rest := getattr(agent, "REST", None):
            del entry["properties"][rest]
            entry["additionalProperties"] = True
    agents = made["$defs"]["Config"]["properties"]["agents"]["additionalProperties"]
    del agents["discriminator"]
    _allow_variables(made)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Chattable's config.yaml",
        **made,
    }


def _allow_variables(node: Any) -> None:
    """Lets text stand for a number or a choice: `${VAR}`, and "5s" for seconds."""
    if isinstance(node, list):
        for item in node:
            _allow_variables(item)
    elif isinstance(node, dict):
        for key in node.keys() - {"default"}:
            _allow_variables(node[key])
        if node.get("type") in ("integer", "number") or "enum" in node or "pattern" in node:
            _also_text(node)


def _also_text(node: dict[str, Any]) -> None:
    text: dict[str, Any] = {"type": "string"}
    if node.get("type") != "number":
        text["pattern"] = r"\$\{"
    said = {key: node.pop(key) for key in [*node] if key not in ("description", "default")}
    node["anyOf"] = [said, text]
