"""What a request says of the cache: the header `Cache-Control`, the field `cache` of the body."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from chattable.agents.chat import Chat
from chattable.agents.errors import InvalidRequest, clip

if TYPE_CHECKING:
    from chattable.proxy.identity.auth import Caller

MAX_TTL_S = 30 * 86400
FLAGS = {
    "no_cache": "no_cache",
    "no-cache": "no_cache",
    "no_store": "no_store",
    "no-store": "no_store",
}
MAX_AGE = re.compile(r"max-age=(\d{1,9})", re.ASCII)


class Controls(Struct, frozen=True):
    """How a request wants to be served."""

    no_cache: bool = False  # not from what is kept, nor together with a request before it
    no_store: bool = False  # its answer is not kept, nor shared
    max_age: float | None = None  # seconds that an answer may be old
    # seconds that its answer is kept, within what the scope lets a request decide
    ttl: float | None = None


PLAIN = Controls()


def of_header(value: str) -> Controls:
    """What `Cache-Control` says; what is not for us, or malformed, is as if it were not there."""
    found = PLAIN
    for word in value.lower().split(",") if value else ():
        word = word.strip()
        if word in ("no-cache", "no-store"):
            found = replace(found, **{FLAGS[word]: True})
        elif match := MAX_AGE.fullmatch(word):
            found = replace(found, max_age=float(match[1]))
    return found


def pop_controls(chat: Chat, caller: Caller) -> tuple[Chat, Caller]:
    """The request without its field `cache`, and its caller with what the field says.

    What the field says adds to what was said before, and counts for all that an agent asks as well.
    """
    if "cache" not in chat.params:
        return chat, caller
    said = chat.params["cache"]
    if said is not None:
        caller = replace(caller, cache=_body(said, caller.cache or PLAIN))
    params = {name: value for name, value in chat.params.items() if name != "cache"}
    return replace(chat, params=params), caller


def _body(said: Any, found: Controls) -> Controls:
    if not isinstance(said, dict):
        raise _wrong("cache", 'an object such as {"ttl": 600}', said)
    for name, value in said.items():
        if name == "ttl":
            if value is None:
                continue
            if type(value) not in (int, float) or not 0 < value <= MAX_TTL_S:
                raise _wrong(
                    "cache.ttl", f"a number of seconds above 0 and at most {MAX_TTL_S}", value
                )
            found = replace(found, ttl=float(value))
        elif name in FLAGS:
            if value is not None and type(value) is not bool:
                raise _wrong(f"cache.{name}", "true or false", value)
            found = replace(found, **{FLAGS[name]: bool(value)})
        else:
            path = f"cache.{clip(name)}"
            message = (
                f"Unknown parameter: '{path}'."
                " There are cache.ttl, cache.no_cache and cache.no_store."
            )
            raise InvalidRequest(message, param=path, code="unknown_parameter")
    return found


def _wrong(path: str, expected: str, value: Any) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid '{path}': expected {expected}, but got {clip(value)}.",
        param=path,
        code="invalid_value",
    )
