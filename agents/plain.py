"""Values of a config as the plain types that an agent's code annotates."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from chattable.agents.parsing import explain

PLAIN_TYPES = (bool, int, float, str, list, dict, tuple, NoneType, Union, UnionType)


class NotPlain(Exception):
    """A value of another type; the message says which."""


def as_plain(name: str, value: Any, kind: Any) -> Any:
    """The value as the type that is annotated, or `NotPlain`; any where the type is not plain.

    Text may spell another type: what comes from `${VAR}` is text, whatever it holds.
    """
    if not _is_plain(kind):
        return value
    try:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError:
            if not isinstance(value, str):
                raise
            return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise NotPlain(explain(error, name).message) from None
    except TypeError:  # of a union whose types msgspec cannot tell apart
        return value


def _is_plain(kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return True
    outer, inner = get_origin(kind) or kind, get_args(kind)
    return outer in PLAIN_TYPES and all(one is ... or _is_plain(one) for one in inner)
