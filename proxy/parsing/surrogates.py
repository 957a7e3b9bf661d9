"""JSON with lone surrogates, which JavaScript writes when it cuts an emoji, and msgspec refuses."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


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


def convert(value: Any, kind: type[T]) -> T:
    """The value as a struct; `ValidationError` for what does not fit, halves or not."""
    try:
        return msgspec.convert(value, kind)
    except UnicodeEncodeError:  # while it looked for words
        msgspec.convert(whole(value), kind)
        raise msgspec.ValidationError("Invalid characters") from None


def whole(value: Any) -> Any:
    """The value with U+FFFD for every half."""
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")
