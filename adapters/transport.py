"""The seam to the network: a request, its response while it comes, and what may go wrong.

TransportError
├── ConnectFailed      nothing was sent: refused, unreachable, name unknown, TLS
│   └── ConnectTimedOut  there was no connection within the time for it
├── ConnectionLost     the connection ended before the response did
└── InvalidHttp        what came is no HTTP, or has no end

`http_client.py` is what production sends with; tests put transports of httpx's in its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol
from urllib.parse import quote, urlsplit

from msgspec import Struct

# what stays as it is in a path or a query, what was quoted already included
SAFE = "/:@!$&'()*+,;=?%~"

Origin = tuple[bool, str, int]  # whether it is TLS, host and port: what connections are shared by


class TransportError(Exception):
    """The network failed; the text is for the log."""


class ConnectFailed(TransportError):
    """There is no connection, and nothing was sent."""


class ConnectTimedOut(ConnectFailed):
    """There was no connection within the time for it."""


class ConnectionLost(TransportError):
    """The connection ended before the response did."""


class InvalidHttp(TransportError):
    """What came is no HTTP, or more of it than is read."""


class Url(Struct, frozen=True):
    """Where requests go: the parts of a URL, taken apart once."""

    text: str
    origin: Origin
    host: str  # as people write it
    authority: str  # the host, with its port where that is not the scheme's own
    target: str  # path and query

    @classmethod
    def parse(cls, text: str) -> Url:
        """The parts of an http or https URL, with small letters and punycode in its host.

        Raises `ValueError`.
        """
        url = urlsplit(text)
        host, path, query = url.hostname or "", quote(url.path, SAFE), quote(url.query, SAFE)
        if not host.isascii():
            import idna  # few have letters beyond ASCII

            host = idna.encode(host).decode()
        usual = 443 if url.scheme == "https" else 80
        port = url.port or usual
        shown = f"[{host}]" if ":" in host else host
        authority = shown if port == usual else f"{shown}:{port}"
        target = f"{path}?{query}" if query else path
        return cls(
            f"{url.scheme}://{authority}{target}",
            (url.scheme == "https", host.rstrip("."), port),
            url.hostname or "",
            authority,
            target if path else f"/{target}",
        )


class Request(Struct):
    """One request."""

    method: str
    url: Url
    headers: bytes  # the lines as they are sent, without host and content-length
    body: bytes = b""


class Body(Protocol):
    """The body of a response while it comes."""

    async def read(self, seconds: float) -> bytes:
        """The next bytes, as many as have come; none at the end.

        Raises `TimeoutError` if none come within so many seconds, or `TransportError`.
        """
        ...


class Response(Body, Protocol):
    """The answer to one request while it comes.

    Law: safe to cancel at any await. Whoever sent the request calls `close` in the end, which ends
    it at once, also for somebody who reads it just now: that raises `TransportError`.
    """

    status: int
    headers: list[tuple[bytes, bytes]]  # names in small letters, in the order they came

    async def head(self, seconds: float) -> None:
        """Waits for status and headers; raises `TimeoutError` or `TransportError`."""
        ...

    def close(self) -> None:
        """Ends it; a connection whose response was not read to its end is closed."""
        ...


class Transport(Protocol):
    """Sends requests."""

    def send(self, request: Request, connect: float | None = None) -> Response:
        """The response, of which nothing has come yet; a connection may take `connect` seconds."""
        ...


def header_lines(headers: Iterable[tuple[str, str]]) -> bytes:
    """Headers as they are sent; raises `ValueError` for what none can carry."""
    lines = b""
    for name, value in headers:
        line = f"{name}: {value}".encode("ascii")
        if b"\r" in line or b"\n" in line or b"\0" in line:
            raise ValueError(f"the header {name!r} has a line break")
        lines += line + b"\r\n"
    return lines


def header(response: Response, name: bytes) -> bytes:
    """The first header of a name, in small letters; empty where there is none."""
    for key, value in response.headers:
        if key == name:
            return value
    return b""
