"""JSON as other programs write it: with halves of characters, and nested as deep as a conversation is long."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgspec

from chattable.proxy.parsing.json_bounds import FILE, TooComplex
from chattable.proxy.transcripts.transcript import Unreadable

WORD = re.compile(r'[\[\]{},:]|"[^"\\]*+(?:\\.[^"\\]*+)*+"|"|[^ \t\r\n\[\]{},:"]++', re.S)
CLOSES = {"[": "]", "{": "}"}


def decode(data: bytes) -> Any:
    """The value, or `Unreadable` with the place where it breaks off."""
    try:
        FILE.check(data)
    except TooComplex as error:
        raise Unreadable(f"It {error.what}.", code="request_too_complex") from None
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # it is strict about surrogates, and blunt about what is wrong
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise Unreadable(
            f"byte {error.start} of it, 0x{data[error.start]:02x}, is not UTF-8",
            code="invalid_json",
        ) from None
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_number)
    except RecursionError:
        return decode_deep(text)
    except ValueError as error:
        raise _broken(str(error)) from None


def decode_deep(text: str) -> Any:
    """The value, however deep it is nested: with a stack of its own."""
    root: list[Any] = []
    stack: list[tuple[str, Any]] = [("", root)]
    key: str | None = None
    wanted = "value"  # or: key, colon, comma; `value]` and `key}` may also be the end
    for found in WORD.finditer(text):
        word = found[0]
        kind, inside = stack[-1]
        if wanted == "colon":
            wanted = _expected(word == ":", "value", word, found.start())
        elif wanted == "comma" and word == "," and kind:
            wanted = "value" if kind == "[" else "key"
        elif word == CLOSES.get(kind) and wanted in ("comma", "value]", "key}"):
            stack.pop()
            wanted = "comma"
        elif wanted in ("key", "key}"):
            key = _scalar(word) if word.startswith('"') else None
            wanted = _expected(key is not None, "colon", word, found.start())
        else:
            _expected(
                wanted != "comma" and word not in ("]", "}", ",", ":"), "", word, found.start()
            )
            value: Any = {} if word == "{" else [] if word == "[" else _scalar(word)
            if kind == "{":
                inside[key] = value
            else:
                inside.append(value)
            if word in CLOSES:
                stack.append((word, value))
            wanted = {"[": "value]", "{": "key}"}.get(word, "comma")
    if len(stack) > 1 or not root:
        raise _broken("it ends too early")
    return root[0]


def _expected(met: bool, then: str, word: str, place: int) -> str:
    if not met:
        raise _broken(f"unexpected {word[:20]!a} at character {place}")
    return then


def _scalar(word: str) -> Any:
    try:
        return json.loads(word, parse_constant=_no_number, parse_float=_number)
    except ValueError as error:
        raise _broken(str(error)) from None


def _number(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _no_number(text: str) -> float:
    raise ValueError(f"{text[:20]} is no number")


def _broken(why: str) -> Unreadable:
    return Unreadable(f"it is not valid JSON: {why}", code="invalid_json")
