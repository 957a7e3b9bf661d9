"""JSON that upstreams send, read as far as it can be read; and the errors that hide in it."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec

from chattable.adapters.errors import BrokenAnswer, Noise
from chattable.agents.chat import Json
from chattable.agents.errors import clip

T = TypeVar("T")

BLANK = b"\xef\xbb\xbf \t\r\n"  # what may stand before JSON: space, and a mark of the byte order
SURROGATES = re.compile("[\ud800-\udfff]")
STATUS_FIELDS = ("code", "status", "status_code", "statusCode", "http_code")
# What errors without a number are called, in small letters alone and without an `error` at the end:
# the status that is meant.
NAMES = {
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
    """JSON that is an object; raises `BrokenAnswer`, and `Noise` for what cannot be a part of an answer."""
    try:
        raw = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        raw = _lenient(data)
    if isinstance(raw, dict):
        return raw
    if isinstance(raw, list) and raw and isinstance(raw[0], dict) and raw[0].get("error"):
        return raw[0]  # some wrap their errors in a list
    raise Noise("sent JSON that is not an object")


def read_as(data: bytes, kind: type[T]) -> T:
    """JSON of this type; raises as `read_object` does."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError):
        raw = read_object(data)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise BrokenAnswer(f"sent something that is no answer of this API: {clip(error)}") from None


def read_error(body: bytes) -> Json:
    """What came with an error status, empty where it is no object; some providers wrap it in a list."""
    try:
        raw = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return {}
    if isinstance(raw, list) and raw:
        raw = raw[0]
    return raw if isinstance(raw, dict) else {}


def hidden_error(raw: Json) -> Any:
    """The error that stands in the place of an answer, under whatever key; None: there is none."""
    for name in ("error", "errors", "detail"):
        if error := raw.get(name):
            first = error[0] if isinstance(error, list) else error
            return raw if first is True else first
    named = (
        raw.get("object") == "error" or raw.get("type") == "error" or raw.get("status") == "error"
    )
    text = raw.get("message") or raw.get("msg")
    return raw if named or (text and any(raw.get(name) for name in STATUS_FIELDS)) else None


def status_of(error: Any) -> int:
    """The status that an error means which came with a good one; 502 where it does not say."""
    if isinstance(error, str):
        return NAMES.get(_name(error), 502)
    if not isinstance(error, dict):
        return 502
    for name in STATUS_FIELDS:
        code = error.get(name)
        if isinstance(code, str) and code.isascii() and code.isdigit() and len(code) == 3:
            code = int(code)
        if type(code) is int and 400 <= code < 600:
            return code
    for name in ("type", "code", "status", "error", "message", "msg"):
        if isinstance(called := error.get(name), str) and (meant := NAMES.get(_name(called))):
            return meant
    return 502


def text_of(error: Any) -> str:
    """What an error says, wherever it says it."""
    if isinstance(error, str):
        return error
    if isinstance(error, dict):
        for name in ("message", "msg", "detail", "error"):
            if isinstance(text := error.get(name), str) and text:
                return text
    return ""


def _name(text: str) -> str:
    """A name of an error in its plainest form."""
    return re.sub("[^a-z]", "", text[:60].lower()).removesuffix("error")


def _lenient(data: bytes) -> Any:
    """JSON with what others write though it is none: a mark before it, NaN, halves of characters, raw control characters."""
    bare = data.strip(BLANK)
    try:
        text = bare.decode()
        raw = json.loads(text, strict=False, parse_constant=lambda name: None)
        return msgspec.json.decode(
            SURROGATES.sub("\N{REPLACEMENT CHARACTER}", json.dumps(raw, ensure_ascii=False))
        )
    except (ValueError, RecursionError):
        kind = BrokenAnswer if bare.startswith(b"{") else Noise
        raise kind("sent something that is not JSON") from None
