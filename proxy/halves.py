"""JSON with halves of characters in it: JavaScript writes them when it cuts an emoji in two, and msgspec has no word for them."""

from __future__ import annotations

import json
from typing import Any

import msgspec


def encode(value: Any) -> bytes:
    """The value as JSON, with escapes where UTF-8 has no bytes."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value), separators=(",", ":")).encode()


def decode(body: bytes) -> Any:
    """The value of JSON that has them; ValueError for what is no JSON for any other reason."""
    if b"\\ud" not in body and b"\\uD" not in body:
        raise ValueError("no half of a character")
    try:
        return json.loads(body, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")
