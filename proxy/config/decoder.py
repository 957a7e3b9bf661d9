"""Decodes the plain values of a document into settings."""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo, fields

from chattable.proxy.config.document import FAILED, Document, Where
from chattable.proxy.config.hints import hint


class Decoder:
    """Turns the values of a document into Structs, field by field: every mistake has its own place.

    A Struct may say `REST`, the field that takes all unknown keys, and `KEY`, the key that tells it
    from the others of its union (without one the last is meant). A field's `Meta(extra=…)` may say
    `parse`, which reads text, and `words`, what is expected. An empty section (all of it commented
    out) is one without settings.
    """

    def __init__(self, doc: Document, hook: Callable[[Any, Any], Any]) -> None:
        self.doc, self.hook = doc, hook

    def decode(self, kind: Any, value: Any, where: Where) -> Any:
        """The value as one of a type's alternatives, or `FAILED` with what is wrong noted."""
        alternatives = parts(kind)
        first = alternatives[0]
        if value is FAILED or Any in alternatives:
            return value
        if get_origin(first) is tuple:
            return self._items(get_args(first)[0], [] if value is None else value, where)
        if not is_struct(first) and get_origin(first) is not dict:
            return self._leaf(kind, value, where)
        value = {} if value is None else value
        if not isinstance(value, dict):
            return self._failed(where, f"must be a mapping, not {_worded(value)}")
        if is_struct(first):
            chosen = (one for one in alternatives if getattr(one, "KEY", None) in value)
            return self._struct(next(chosen, alternatives[-1]), value, where)
        return self._entries(get_args(first)[1], value, where)

    def _entries(self, kind: Any, value: dict[str, Any], where: Where) -> dict[str, Any]:
        found = {key: self.decode(kind, item, (*where, key)) for key, item in value.items()}
        return {key: entry for key, entry in found.items() if entry is not FAILED}

    def _items(self, kind: Any, value: Any, where: Where) -> Any:
        if not isinstance(value, list):
            return self._failed(where, f"must be a list, not {_worded(value)}")
        decoded = (self.decode(kind, item, (*where, index)) for index, item in enumerate(value))
        return tuple(item for item in decoded if item is not FAILED)

    def _struct(self, kind: type[msgspec.Struct], value: dict[str, Any], where: Where) -> Any:
        declared = _fields(kind)
        rest = getattr(kind, "REST", None)
        known = [name for name in declared if name != rest]
        found = {
            name: self.decode(declared[name].type, value[name], (*where, name))
            for name in known
            if name in value
        }
        others = {key: item for key, item in value.items() if key not in found}
        if rest:
            found[rest] = others
        else:
            self._refuse_unknown(others, known, where)
        required = [name for name, field in declared.items() if field.required]
        for name in required:
            if name not in value:
                about = _about(declared[name].type)
                self.doc.complain((*where, name), "is missing" + f" ({about})" * bool(about))
        found = {name: item for name, item in found.items() if item is not FAILED}
        return kind(**found) if all(name in found for name in required) else FAILED

    def _refuse_unknown(self, keys: Iterable[str], known: list[str], where: Where) -> None:
        for key in keys:
            meant = hint(key, known) or f"; known here: {', '.join(known)}"
            self.doc.complain((*where, key), f"unknown key{meant}")

    def _leaf(self, kind: Any, value: Any, where: Where) -> Any:
        extra = {key: item for note in notes(kind) for key, item in (note.extra or {}).items()}
        try:
            value = extra["parse"](value) if isinstance(value, str) and "parse" in extra else value
            return msgspec.convert(
                value, kind, strict=where not in self.doc.expanded, dec_hook=self.hook
            )
        except ValueError as error:
            return self._failed(where, _plain(str(error), kind, value, extra.get("words", "")))

    def _failed(self, where: Where, text: str) -> Any:
        self.doc.complain(where, text)
        return FAILED


@cache
def _fields(kind: type[msgspec.Struct]) -> dict[str, FieldInfo]:
    """A Struct's fields by name; to find their types every annotation is evaluated."""
    return {field.name: field for field in fields(kind)}


def parts(kind: Any) -> list[Any]:
    """The alternatives of an annotation, without None and without notes."""
    if get_origin(kind) is Annotated:
        return parts(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [part for arm in get_args(kind) for part in parts(arm)]
    return [] if kind is NoneType else [kind]


def notes(kind: Any) -> Iterator[msgspec.Meta]:
    """Every Meta in an annotation, the outermost first."""
    if get_origin(kind) is Annotated:
        yield from (note for note in reversed(get_args(kind)[1:]) if isinstance(note, msgspec.Meta))
    if get_origin(kind) in (Annotated, Union, UnionType):
        for arm in get_args(kind)[: 1 if get_origin(kind) is Annotated else None]:
            yield from notes(arm)


def is_struct(kind: Any) -> bool:
    """Whether a type is one of ours with fields."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


_WORDS = {"int": "a whole number", "float": "a decimal number", "str": "text", "bool": "a boolean",
          "list": "a list", "dict": "a mapping", "NoneType": "nothing"}  # fmt: skip
_BOUNDS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}


def _worded(value: Any) -> str:
    return _WORDS[type(value).__name__]


def _about(kind: Any) -> str:
    """What a setting is for, as its type says."""
    return next((note.description for note in notes(kind) if note.description), "")


def _plain(error: str, kind: Any, value: Any, words: str) -> str:
    """Msgspec's error in plain words, without the value: it may be a secret in the wrong place."""
    if bound := re.match(r"Expected `[^`]+` (of length )?([<>]=?) ([\d.]+)", error):
        return _out_of_bounds(bound, value)
    options = [
        option for part in parts(kind) if get_origin(part) is Literal for option in get_args(part)
    ]
    if options:
        words = " or ".join(f"`{option}`" for option in options)
        words += hint(value, options) if isinstance(value, str) else ""
    expected = re.match(r"Expected `(\w+)", error)
    if isinstance(value, str) and (words or not expected):
        return f"must be {words}" if words else error
    quote = _quoting(value) if expected and expected[1] == "str" else ""
    words = words or _WORDS[expected[1]] if expected else words
    return f"must be {words}, not {_worded(value)}{quote}"


def _out_of_bounds(bound: re.Match[str], value: Any) -> str:
    limit = f"{_BOUNDS[bound[2]]} {bound[3].removesuffix('.0')}"
    if not bound[1]:
        return f"must be {limit}"
    return f"must be {limit} characters long" if value else "must not be empty"


def _quoting(value: Any) -> str:
    """How to say that text is meant where YAML reads something else."""
    if not isinstance(value, bool | int | float):
        return ""
    booleans = ": yes, no, on and off are booleans in YAML" if isinstance(value, bool) else ""
    return f"; put it in quotes{booleans}"
