"""The config that is made: its sections, and the remarks that stand beside them as comments."""

from __future__ import annotations

import json
import re
from typing import Any

from chattable.proxy.importers.litellm.providers import Providers
from chattable.proxy.importers.litellm.source import Variables

Path = tuple[str, ...]
WIDTH = 120
ORDER = (
    "server", "database_url", "redis_url", "admin_keys", "providers", "models", "default_model",
    "budgets", "rate_limits", "cache",
)  # fmt: skip
_PLAIN = re.compile(r"[A-Za-z/][\w./@-]*|\d+(\.\d+)?(ms|s|m|h|d)", re.ASCII)
_WORDS = re.compile(r"(y|n|yes|no|on|off|true|false|null)", re.IGNORECASE)


class ConfigDraft:
    """What will be written."""

    def __init__(self, variables: Variables) -> None:
        self.providers = Providers(variables)
        self.models: dict[str, dict[str, Any]] = {}
        self.rates: dict[str, dict[str, int]] = {}
        self.settings: dict[str, Any] = {}  # all other sections
        self.remarks: dict[Path, list[str]] = {}

    def remark(self, path: Path, text: str) -> None:
        self.remarks.setdefault(path, []).append(text)

    def written(self, head: list[str]) -> str:
        """The file."""
        for name, guesses in self.providers.guesses.items():
            for guess in guesses:
                self.remark(("providers", name), f"guessed: {guess}")
        sections = self.settings | {"providers": self.providers.entries, "models": self.models}
        if self.rates:
            sections["rate_limits"] = {"models": self.rates}
        lines = [f"# {line}".rstrip() for line in head]
        for name in ORDER:
            if sections.get(name) not in (None, {}):
                lines += ["", *self._block(name, sections[name], (name,), 0)]
        return "\n".join(lines) + "\n"

    def _block(self, key: str, value: Any, path: Path, depth: int) -> list[str]:
        pad = "  " * depth
        lines = [f"{pad}# {remark}" for remark in self.remarks.get(path, ())]
        flow = f"{pad}{_scalar(key)}: {_flow(value)}"
        # are lists of names: one a line
        named = len(path) == 1 and path[0] in ("providers", "models")
        if not isinstance(value, dict | list) or (
            len(flow) <= WIDTH and not named and not self._remarked_below(path)
        ):
            return [*lines, flow]
        lines.append(f"{pad}{_scalar(key)}:")
        if isinstance(value, dict):
            for name, part in value.items():
                lines += self._block(name, part, (*path, name), depth + 1)
        else:
            lines += [f"{pad}  - {_flow(item)}" for item in value]
        return lines

    def _remarked_below(self, path: Path) -> bool:
        return any(place[: len(path)] == path and place != path for place in self.remarks)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{_scalar(key)}: {_flow(part)}" for key, part in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    """A value on its own: text in quotes unless it cannot be read as anything else."""
    if isinstance(value, str):
        return (
            value
            if _PLAIN.fullmatch(value) and not _WORDS.fullmatch(value)
            else json.dumps(value, ensure_ascii=False)
        )
    if isinstance(value, float):
        return f"{value:.12f}".rstrip("0").rstrip(".")
    return json.dumps(value)
