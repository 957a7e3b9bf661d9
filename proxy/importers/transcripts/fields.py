"""Reads fields of other programs' objects: what is of an unexpected type counts as absent."""

from __future__ import annotations

import math
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from chattable.agents.chat import Json, Usage
from chattable.agents.errors import clip

MAX_UNIX_SECONDS = 10.0**11  # what is later is in milliseconds, or finer
MAX_COUNT = 2**53


def text_in(raw: Json, *names: str) -> str:
    """The first of these fields that is a text and not empty."""
    return next((value for name in names if isinstance(value := raw.get(name), str) and value), "")


def object_in(raw: Json, name: str) -> Json:
    """The field, if it is an object."""
    value = raw.get(name)
    return value if isinstance(value, dict) else {}


def list_in(raw: Json, name: str) -> list[Any]:
    """The field, if it is an array."""
    value = raw.get(name)
    return value if isinstance(value, list) else []


def texts_in(raw: Json, name: str) -> list[str]:
    """Those in the array that are texts."""
    return [one for one in list_in(raw, name) if isinstance(one, str)]


def objects_in(raw: Json, name: str) -> list[Json]:
    """Those in the array that are objects."""
    return [one for one in list_in(raw, name) if isinstance(one, dict)]


def said_in(raw: Json, but: Collection[str], prefix: str = "") -> list[str]:
    """The names of the fields that say something, but for these."""
    return [
        prefix + name
        for name, value in raw.items()
        if name not in but and value not in (None, False, "", [], {})
    ]


def whole(value: Any) -> int | None:
    """A count of something."""
    return (
        value
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_COUNT
        else None
    )


def moment(value: Any) -> int:
    """A time as unix seconds, whatever it is in: seconds, milliseconds, ISO; 0 for none."""
    if isinstance(value, str):
        try:
            given = datetime.fromisoformat(value)
            value = (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return 0
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or value >= 10.0**30
        or not math.isfinite(value)
    ):
        return 0
    while value >= MAX_UNIX_SECONDS:
        value /= 1000
    return max(0, int(value))


def usage_in(raw: Json) -> Usage | None:
    """What an answer used, in OpenAI's words or Ollama's."""
    read, write = (
        next((count for name in names if (count := whole(raw.get(name))) is not None), None)
        for names in (("prompt_tokens", "prompt_eval_count"), ("completion_tokens", "eval_count"))
    )
    return (
        None
        if read is None and write is None
        else Usage(read or 0, write or 0, (read or 0) + (write or 0))
    )


def stand_in(kind: str, *names: Any) -> str:
    """The text that stands for what is not in the file."""
    name = next((name for name in names if isinstance(name, str) and name), "")
    return f"[{kind}: {clip(name)}]" if name else f"[{kind}]"
