"""What differs from run to run gets a stable name: the same id the same one, wherever it stands."""

import json
import re
from collections.abc import Mapping
from typing import Any

# An id of a table is the moment it was made and some chance; others are chance alone.
PATTERNS = re.compile(
    r"\b(?P<made>[a-z]+_)[0-9a-f]{12}[\w-]{20}(?![\w-])"
    r"|\b(?P<kind>req_|call_|evt_|chatcmpl-)(?:[0-9a-f]{32}|[0-9a-f]{24})\b"
    r"|\b(?P<limit>lim_)[\w-]{16}(?![\w-])"
    r"|\b(?P<secret>sk-(?:admin-|run-)?)[\w-]{43}(?![\w-])"
    r"|\b(?P<masked>sk-[\w-]{2,8}…[\w-]{4}|sk-\*{4}[\w-]{4})(?![\w-])"
    r"|(?<=127\.0\.0\.1:)(?P<port>\d{4,5})\b"
    r"|\b(?P<day>20(?:2[6-9]|[3-9]\d)-\d\d-\d\d)"
    r"(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|\+00:00)?)?"
    r"|(?<=[Tt]ry again in )(?P<wait>[\d.]+m?s|\d+m[\d.]+s)\b"
    r"|(?<![\w.])(?P<unix>[12]\d{9})(?![\w.])"
)
NOW = (1_750_000_000, 4_000_000_000)  # unix seconds that are taken for times of the run
DURATIONS = {"ms", "first_token_ms", "retry_after"}
HEADERS = {
    "age": "<seconds>",
    "x-chattable-overhead-ms": "<ms>",
    "x-ratelimit-reset-requests": "<wait>",
    "x-ratelimit-reset-tokens": "<wait>",
    "x-ratelimit-remaining-tokens": "<tokens>",  # some drain while the answer is on its way
}
UNSAID = {"date"}
WIDTH = 100


class Placeholders:
    """Names for one group of requests, numbered by kind in the order in which they appear."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._secrets = secrets
        self._names: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def value(self, value: Any, key: str = "") -> Any:
        """A JSON value in which everything that differs has its name."""
        if isinstance(value, dict):
            return {self.text(name): self.value(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [self.value(one, key) for one in value]
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            if key in DURATIONS:
                return "<ms>"
            if key in (
                "id",
                "first_id",
                "last_id",
            ):  # of an entry of the ledger, whose number is chance
                return self._name("entry_", f"entry {value}")
            if NOW[0] < value < NOW[1]:
                return "<time>"
        return value

    def header(self, name: str, value: str) -> str:
        """A header's value; what it lists in no order is sorted."""
        if name == "allow":
            return ", ".join(sorted(value.split(", ")))
        return HEADERS.get(name) or self.text(value)

    def text(self, text: str) -> str:
        """A text."""
        for secret, name in self._secrets.items():
            text = text.replace(secret, name)
        return PATTERNS.sub(self._named, text)

    def _named(self, found: re.Match[str]) -> str:
        kind = found.lastgroup or ""
        if kind in ("port", "wait", "masked"):
            return f"<{kind}>"
        if kind in ("day", "unix"):
            return "<time>"
        return self._name(found[kind], found[0].removeprefix(found[kind]))

    def _name(self, prefix: str, chance: str) -> str:
        word = prefix.rstrip("_-")
        if chance not in self._names:
            self._counts[word] = self._counts.get(word, 0) + 1
            self._names[chance] = f"{word} {self._counts[word]}"
        name = self._names[chance]
        # An item that is part of a message has the message's id behind a prefix of its own.
        return f"<{name}>" if name.startswith(word) else f"<{prefix}{name}>"


def pretty(value: Any, indent: int = 0) -> str:
    """JSON of which each part that fits stands on one line."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) + indent <= WIDTH or not value or not isinstance(value, dict | list):
        return line
    pad = "\n" + " " * (indent + 1)
    if isinstance(value, dict):
        names = [json.dumps(name, ensure_ascii=False) for name in value]
        rows = zip(names, value.values(), strict=True)
        parts = [f"{pad}{name}: {pretty(one, indent + 1)}" for name, one in rows]
        return "{" + ",".join(parts) + pad[:-1] + "}"
    return "[" + ",".join(f"{pad}{pretty(one, indent + 1)}" for one in value) + pad[:-1] + "]"
