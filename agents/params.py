"""What a conversation's `params` may be: how answers are made, and what its agent accepts.

They go with every request of the conversation, so they must not say what is asked, and of whom:
neither a model nor messages, tools, a stream, nor anything else that a request's sender and key
are checked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from chattable.agents.chat import Json
from chattable.agents.errors import InvalidRequest, clip
from chattable.agents.parsing import Sampling, Shape, explain

Accepts = Mapping[str, Any]  # name → the type of its values, as msgspec reads it

SAMPLING_FIELDS = frozenset(Sampling.__struct_fields__)
# Names that requests have already.
REQUEST_FIELDS = frozenset(Shape.__struct_fields__) | {"cache", "conversation", "user"}


def check_params(params: Json, accepts: Accepts) -> None:
    """Refuses what a conversation's params may not be, by its path, as `params.n`.

    `accepts` is that of its agent.
    """
    for name, value in params.items():
        if name not in SAMPLING_FIELDS and name not in accepts:
            raise _unknown(name, accepts)
        _check_writable(value, f"params.{name}")
    sampling = {name: value for name, value in params.items() if name in SAMPLING_FIELDS}
    try:
        msgspec.convert(sampling, Sampling)
    except msgspec.ValidationError as error:
        raise explain(error, "params") from None
    check_own(params, accepts, "params.")


def check_own(params: Json, accepts: Accepts, prefix: str = "") -> None:
    """Refuses values of another type than the agent accepts; null is no value."""
    for name, kind in accepts.items():
        if params.get(name) is None:
            continue
        try:
            msgspec.convert(params[name], kind)
        except msgspec.ValidationError as error:
            raise explain(error, prefix + name) from None


def fitting(params: Json, accepts: Accepts) -> Json:
    """The params themselves if all may go with a request, else those that may."""
    if _fits(params, accepts):
        return params
    return {name: value for name, value in params.items() if _fits({name: value}, accepts)}


def _fits(params: Json, accepts: Accepts) -> bool:
    try:
        check_params(params, accepts)
    except InvalidRequest:
        return False
    return True


def check_accepts(accepts: Any) -> str:
    """What is wrong with an agent's `accepts`; empty where nothing is."""
    if not isinstance(accepts, Mapping) or not all(isinstance(name, str) for name in accepts):
        return "`accepts` must map names of parameters to their types"
    for name, kind in accepts.items():
        if name in REQUEST_FIELDS:
            return f"`accepts` has `{name}`, which every request has: give yours another name"
        try:
            msgspec.json.Decoder(kind)
        except TypeError:
            return f"`accepts` gives `{name}` what is no type that JSON has: {clip(kind, 100)}"
    return ""


def _check_writable(value: Any, param: str) -> None:
    """Refuses what could be kept, but not be sent."""
    try:
        msgspec.json.encode(value)
    except (UnicodeEncodeError, RecursionError) as error:
        half = isinstance(error, UnicodeEncodeError)
        why = "it holds half of a character (a lone surrogate)" if half else "it is nested too deep"
        message = f"Invalid value for '{param}': {why}."
        raise InvalidRequest(message, param=param, code="invalid_value") from None


def _unknown(name: str, accepts: Accepts) -> InvalidRequest:
    param = clip(f"params.{name}")
    known = ", ".join([*Sampling.__struct_fields__, *accepts])
    why = (
        "is for each request to say"
        if name in REQUEST_FIELDS
        else "is no parameter of a conversation"
    )
    return InvalidRequest(
        f"Unknown parameter: '{param}' {why}. Leave it out; there are {known}.",
        param=param,
        code="unknown_parameter",
    )
