"""JSON that upstreams send, read as far as it can be read; and the errors that hide in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec

from chattable.adapters.errors import InvalidUpstreamResponse, UnreadableEvent
from chattable.agents.chat import Json
from chattable.agents.errors import clip

T = TypeVar("T")

BLANK = b"\xef\xbb\xbf \t\r\n"  # what may stand before JSON: space, and a mark of the byte order
SURROGATES = re.compile("[\ud800-\udfff]")
STATUS_FIELDS = ("code", "status", "status_code", "statusCode", "http_code")
# The status that an error without a number means, by its name in small letters alone and without
# an `error` at the end.
STATUS_NAMES = {
    re.sub("[^a-z]|error$", "", status.phrase.lower()): status.value
    for status in HTTPStatus
    if status >= 400
} | {
    "api": 500,
    "authentication": 401,
    "billing": 402,
    "contextlengthexceeded": 400,
    "insufficientquota": 429,
    "invalidapikey": 401,
    "invalidrequest": 400,
    "modelnotfound": 404,
    "overloaded": 503,
    "permission": 403,
    "permissiondenied": 403,
    "ratelimit": 429,
    "ratelimitexceeded": 429,
    "requesttoolarge": 413,
    "resourceexhausted": 429,
    "server": 500,
    "timeout": 504,
    "unavailable": 503,
}


def read_object(data: bytes) -> Json:
    """JSON that is an object.

    Raises `InvalidUpstreamResponse`, or `UnreadableEvent` for what can be no part of an answer.
    """
    try:
        raw = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        raw = _lenient(data)
    if isinstance(raw, dict):
        return raw
    if isinstance(raw, list) and raw and isinstance(raw[0], dict) and raw[0].get("error"):
        return raw[0]  # some wrap their errors in a list
    raise UnreadableEvent("sent JSON that is not an object")


def read_as(data: bytes, kind: type[T]) -> T:
    """JSON of this type; raises as `read_object` does."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError):
        raw = read_object(data)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise InvalidUpstreamResponse(
            f"sent something that is no answer of this API: {clip(error)}"
        ) from None


def read_error(body: bytes) -> Json:
    """What came with an error status, out of its list if it is in one; empty if it is no object."""
    try:
        raw = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return {}
    if isinstance(raw, list) and raw:
        raw = raw[0]
    return raw if isinstance(raw, dict) else {}


def hidden_error(raw: Json) -> Any:
    """The error in the place of an answer, under whatever key; None if there is none."""
    for name in ("error", "errors", "detail"):
        if error := raw.get(name):
            first = error[0] if isinstance(error, list) else error
            return raw if first is True else first
    if "error" in (raw.get("object"), raw.get("type"), raw.get("status")):
        return raw
    text = raw.get("message") or raw.get("msg")
    return raw if text and any(map(raw.get, STATUS_FIELDS)) else None


def status_of(error: Any) -> int:
    """The status of an error that came with status 200; 502 where it does not say."""
    if isinstance(error, str):
        return STATUS_NAMES.get(_name(error), 502)
    if not isinstance(error, dict):
        return 502
    if code := next(filter(None, map(_status, map(error.get, STATUS_FIELDS))), None):
        return code
    for name in ("type", "code", "status", "error", "message", "msg"):
        if isinstance(called := error.get(name), str) and (
            meant := STATUS_NAMES.get(_name(called))
        ):
            return meant
    return 502


def _status(code: Any) -> int | None:
    """A code that is the status of an error, as a number or as text."""
    if isinstance(code, str) and re.fullmatch(r"\d{3}", code, re.ASCII):
        code = int(code)
    return code if type(code) is int and 400 <= code < 600 else None


def text_of(error: Any) -> str:
    """What an error says, wherever it says it."""
    if isinstance(error, str):
        return error
    if isinstance(error, dict):
        for name in ("message", "msg", "detail", "error"):
            if isinstance(text := error.get(name), str) and text:
                return text
    return ""


def as_object(value: Any) -> Json:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def named_param(message: str, patterns: Mapping[str, re.Pattern[str]]) -> str | None:
    """The parameter that a message complains of, by the first pattern that it matches."""
    return next((name for name, words in patterns.items() if words.search(message)), None)


def _name(text: str) -> str:
    """A name of an error in its plainest form."""
    return re.sub("[^a-z]", "", text[:60].lower()).removesuffix("error")


def _lenient(data: bytes) -> Any:
    """JSON that is not quite right: with a byte order mark, NaN, surrogates, control characters."""
    bare = data.strip(BLANK)
    try:
        text = bare.decode()
        raw = json.loads(text, strict=False, parse_constant=lambda name: None)
        return msgspec.json.decode(
            SURROGATES.sub("\N{REPLACEMENT CHARACTER}", json.dumps(raw, ensure_ascii=False))
        )
    except (ValueError, RecursionError):
        kind = InvalidUpstreamResponse if bare.startswith(b"{") else UnreadableEvent
        raise kind("sent something that is not JSON") from None
