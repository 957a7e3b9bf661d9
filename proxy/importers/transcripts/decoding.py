"""JSON as others write it: with lone surrogates, and as deep as a conversation is long."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import msgspec

from chattable.proxy.importers.transcripts.transcript import Unreadable
from chattable.proxy.parsing.json_bounds import FILE, TooComplex

WORD = re.compile(r'[\[\]{},:]|"[^"\\]*+(?:\\.[^"\\]*+)*+"|"|[^ \t\r\n\[\]{},:"]++', re.S)
MARKS = ("[", "]", "{", "}", ",", ":")


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
        return json.loads(text, parse_constant=_refuse_number, parse_float=_finite)
    except RecursionError:
        return decode_deep(text)
    except ValueError as error:
        raise _invalid(str(error)) from None


def decode_deep(text: str) -> Any:
    """The value, however deep it is nested: no level of it is a call."""
    reader = _DeepReader()
    for found in WORD.finditer(text):
        try:
            reader.read(found[0])
        except _Unexpected:
            raise _invalid(f"unexpected {found[0][:20]!a} at character {found.start()}") from None
    return reader.value()


State = Callable[[str], "State"]


class _Unexpected(Exception):
    """A word that may not stand where it does."""


class _DeepReader:
    """Reads a value word by word: each state takes one and says which state is next."""

    def __init__(self) -> None:
        self._whole: list[Any] = []
        self._open: list[Any] = [self._whole]  # arrays and objects, the innermost last
        self._key = ""
        self._state: State = self._value

    def read(self, word: str) -> None:
        self._state = self._state(word)

    def value(self) -> Any:
        if len(self._open) > 1 or not self._whole:
            raise _invalid("it ends too early")
        return self._whole[0]

    def _value(self, word: str) -> State:
        if word == "[":
            return self._begin([], self._first_item)
        if word == "{":
            return self._begin({}, self._first_key)
        if word in MARKS:
            raise _Unexpected
        self._add(_scalar(word))
        return self._after

    def _first_item(self, word: str) -> State:
        return self._end() if word == "]" else self._value(word)

    def _first_key(self, word: str) -> State:
        return self._end() if word == "}" else self._next_key(word)

    def _next_key(self, word: str) -> State:
        if not word.startswith('"'):
            raise _Unexpected
        self._key = _scalar(word)
        return self._colon

    def _colon(self, word: str) -> State:
        if word != ":":
            raise _Unexpected
        return self._value

    def _after(self, word: str) -> State:
        """What follows a value: the end of what holds it, or a comma and the next."""
        if len(self._open) == 1:
            raise _Unexpected
        in_array = isinstance(self._open[-1], list)
        if word == ("]" if in_array else "}"):
            return self._end()
        if word != ",":
            raise _Unexpected
        return self._value if in_array else self._next_key

    def _begin(self, container: list[Any] | dict[str, Any], first: State) -> State:
        self._add(container)
        self._open.append(container)
        return first

    def _end(self) -> State:
        self._open.pop()
        return self._after

    def _add(self, value: Any) -> None:
        holder = self._open[-1]
        if isinstance(holder, list):
            holder.append(value)
        else:
            holder[self._key] = value


def _scalar(word: str) -> Any:
    try:
        return json.loads(word, parse_constant=_refuse_number, parse_float=_finite)
    except ValueError as error:
        raise _invalid(str(error)) from None


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_number(text)


def _refuse_number(text: str) -> float:
    raise ValueError(f"{text[:20]} is no number")


def _invalid(why: str) -> Unreadable:
    return Unreadable(f"it is not valid JSON: {why}", code="invalid_json")
