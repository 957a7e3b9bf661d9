"""AWS's Signature Version 4, which proves who sends a request without sending the key."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from datetime import datetime
from urllib.parse import quote

from msgspec import Struct

ALGORITHM = "AWS4-HMAC-SHA256"


class SigningKey(Struct, frozen=True):
    """What one account signs with."""

    id: str
    secret: str
    token: str = ""  # of a session; without one the key is for good


class SigningScope(Struct, frozen=True):
    """Where a signature counts."""

    region: str
    service: str


def sign(
    key: SigningKey,
    scope: SigningScope,
    now: datetime,
    method: str,
    target: str,
    headers: Iterable[tuple[str, str]],
    body: bytes,
) -> list[tuple[str, str]]:
    """The headers that a request needs beside `headers`, which are signed with them.

    `now` is in UTC; `target` is the path and query as they are sent.
    """
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    own = [("x-amz-date", stamp), *([("x-amz-security-token", key.token)] if key.token else [])]
    signed = _folded([*headers, *own])
    names = ";".join(signed)
    request = "\n".join(
        (
            method,
            *_canonical(target),
            *(f"{k}:{v}" for k, v in signed.items()),
            "",
            names,
            _digest(body),
        )
    )
    path = f"{stamp[:8]}/{scope.region}/{scope.service}/aws4_request"
    text = f"{ALGORITHM}\n{stamp}\n{path}\n{_digest(request.encode())}"
    signature = hmac.new(_derived(key.secret, path), text.encode(), hashlib.sha256).hexdigest()
    return [
        *own,
        (
            "authorization",
            f"{ALGORITHM} Credential={key.id}/{path}, SignedHeaders={names}, Signature={signature}",
        ),
    ]


def _folded(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by their names in order, white space and repetitions folded."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(" ".join(value.split()))
    return {name: ",".join(found[name]) for name in sorted(found)}


def _canonical(target: str) -> tuple[str, str]:
    """Path and query as both sides hash them: the path quoted once more, the query sorted."""
    path, _, query = target.partition("?")
    pairs = sorted(pair.partition("=")[::2] for pair in query.split("&") if pair)
    return quote(path, safe="/-_.~"), "&".join(f"{name}={value}" for name, value in pairs)


def _derived(secret: str, path: str) -> bytes:
    """The key of one day, region and service."""
    derived = b"AWS4" + secret.encode()
    for part in path.split("/"):
        derived = hmac.new(derived, part.encode(), hashlib.sha256).digest()
    return derived


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
