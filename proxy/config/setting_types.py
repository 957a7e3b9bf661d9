"""Types of single settings: secrets, durations, addresses, names; how each is read and named."""

from __future__ import annotations

import hmac
import re
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from chattable.adapters.transport import Url
from chattable.proxy.config.guessable_keys import is_guessable
from chattable.proxy.config.webhook_settings import check_secret, check_url


class Secret:
    """Text that only `reveal()` shows: printing gives ***, and no encoder knows it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._bytes(), other._bytes())

    def __hash__(self) -> int:
        return hash(self._text)

    def _bytes(self) -> bytes:
        return self._text.encode(errors="surrogatepass")


def seconds(text: str) -> float:
    """Read "500ms", "5s", "10m", "1h", "30d" or a bare number of seconds. ValueError."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?(ms|s|m|h|d)?", text.strip(), re.ASCII)
    if not found:
        raise ValueError(
            'must be a duration such as "30s", "500ms" or "10m", or a number of seconds'
        )
    return float(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2] or "s"]


def url(text: str) -> str:
    """Pass on an http(s) URL without user, password, query or fragment.

    ValueError, without the URL: it may tell one.
    """
    try:
        split = urlsplit(text)
        Url.parse(text)  # a host may have letters that no name on the network has
        usable = split.scheme in ("http", "https") and bool(split.hostname) and split.port != 0
    except ValueError:
        usable = False
    if not usable or not text.isprintable() or " " in text:
        raise ValueError("must be a URL such as https://host.example/v1")
    if "@" in split.netloc:
        raise ValueError("must not hold a user or password; use api_key")
    if "?" in text or "#" in text:
        raise ValueError("must not hold a `?` or `#`")
    return text


def base_url(text: str) -> str:
    """Pass on the URL of a provider, without what is added to it. ValueError, without the URL."""
    for end in ENDPOINTS:
        if url(text).rstrip("/").endswith(end):
            raise ValueError(f"must end before `{end}`, which is added by itself; remove that")
    return text


ENDPOINTS = (
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/responses",
    "/messages",
    "/models",
    "/api/chat",
)


def upstream_key(text: str) -> str:
    """Pass on a key that is sent upstream, or nothing. ValueError when no header can carry it."""
    if text.rstrip("\r\n") != text:
        raise ValueError("ends in a line break, which no HTTP header can carry; remove it")
    if not (text.isascii() and text.isprintable()) or text != text.strip():
        raise ValueError("has a space at an end, or what no HTTP header can carry; remove it")
    return text


def origin(text: str) -> str:
    """Pass on `*` or the origin of a web page, as browsers write it. ValueError."""
    if text != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#@]+", text):
        raise ValueError(
            "must be `*` or an origin such as https://chat.example.com, without a path"
        )
    return text


def database(text: str) -> str:
    """Pass on the URL of a database we speak to. ValueError, without the URL."""
    if not text.startswith(("sqlite:///", "postgresql://", "postgres://")):
        raise ValueError("must begin with sqlite:/// or postgresql://")
    return text


def redis(text: str) -> str:
    """Pass on the URL of a Redis or Valkey, or nothing. ValueError, without the URL."""
    if text and not text.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must begin with redis://, rediss:// or unix://, or be empty")
    return text


def admin_key(text: str) -> str:
    """Pass on a key that may open /admin. ValueError when it is easy to guess."""
    why = ""
    if not text:
        why = "is empty"
    elif not (text.isascii() and text.isprintable()) or text != text.strip():
        why = "holds what an HTTP header cannot carry"
    elif len(text) < 16:
        why = "is shorter than 16 characters"
    elif is_guessable(text):
        why = "is easy to guess: well-known words, sequences and repetitions are nearly all of it"
    if why:
        raise ValueError(
            f"{why}; make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return text


_DURATION = {
    "parse": seconds,
    "words": 'a duration such as "30s", "500ms" or "10m", or a number of seconds',
}
Duration = Annotated[float, Meta(gt=0, le=3650 * 86400, extra=_DURATION)]  # seconds
KeptFor = Annotated[float, Meta(gt=0, le=30 * 86400, extra=_DURATION)]  # seconds
BaseUrl = Annotated[str, Meta(extra={"parse": base_url})]
UpstreamKey = Annotated[Secret, Meta(extra={"parse": upstream_key})]
Origin = Annotated[str, Meta(extra={"parse": origin})]
Database = Annotated[str, Meta(extra={"parse": database})]
AdminKey = Annotated[Secret, Meta(extra={"parse": admin_key})]
WebhookUrl = Annotated[str, Meta(extra={"parse": check_url})]
WebhookSecret = Annotated[Secret, Meta(extra={"parse": check_secret})]
Redis = Annotated[str, Meta(extra={"parse": redis})]
Count = Annotated[int, Meta(ge=1, le=2**53)]
Tokens = Annotated[int, Meta(ge=0, le=2**53)]
Dollars = Annotated[float, Meta(ge=0, le=1e9)]
Weight = Annotated[float, Meta(ge=0, le=1e6)]
Usd = Annotated[float, Meta(ge=0, le=100_000)]
Pace = Annotated[int, Meta(ge=1, le=10**10)]
Percent = Annotated[int, Meta(ge=1, le=100)]
Window = Annotated[
    str,
    Meta(
        pattern=r"^(hour|day|week|month|total|[1-9][0-9]{0,3}[mhd])$",
        extra={"words": "hour, day, week, month, total, or a length such as 6h"},
    ),
]
Retries = Annotated[int, Meta(ge=0, le=10)]
Name = Annotated[str, Meta(min_length=1)]
Word = Annotated[
    str, Meta(pattern=r"^[a-z][a-z0-9_-]*$", extra={"words": "a lowercase word such as `openai`"})
]
Header = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9-]{1,100}$",
        extra={"words": "the name of an HTTP header such as `X-Chat-Id`"},
    ),
]
Region = Annotated[
    str,
    Meta(
        pattern=r"^([a-z]{2}(-[a-z]+)+-\d)?$",
        extra={"words": "a region of AWS such as `eu-central-1`"},
    ),
]
Version = Annotated[
    str,
    Meta(pattern=r"^[a-z0-9-]*$", extra={"words": "a version such as `2024-10-21` or `preview`"}),
]
Code = Annotated[
    str,
    Meta(
        pattern=r"^[\w.-]+(:[\w.]+)?$",
        extra={"words": "`package.module:name`, or an entry point's name"},
    ),
]
