"""What can go wrong between this server and an upstream, in words that callers may read.

UpstreamError
├── UpstreamUnreachable      no byte of an answer: refused, reset, name unknown, TLS
├── UpstreamTimedOut         a deadline passed; the message names which
├── InvalidUpstreamResponse  an answer of no use: garbage, HTML, a redirect, cut off, too large
│   └── UnreadableEvent      an event of a stream that can be no part of its answer
├── ConnectionLimitReached   this server's own limit of connections to the upstream
├── ConnectionReclaimed      nobody read the answer, and another request needed its connection
├── CircuitOpened            the upstream's circuit opened before the request was sent
└── UpstreamHTTPError        an error that the upstream itself reports, with its HTTP status
"""

from __future__ import annotations

from chattable.agents.errors import ChatError


class UpstreamError(ChatError):
    """The upstream gave no usable answer."""

    # how often asking again may help; None: as often as the configuration allows
    retries: int | None = 0


class UpstreamUnreachable(UpstreamError):
    """No byte of an answer came.

    `sent`: the request may have been seen, so one more try is the most that is safe.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message, code="upstream_unreachable")
        self.retries = 1 if sent else None


class UpstreamTimedOut(UpstreamError):
    """A deadline passed."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(
            f"The upstream {what} within {seconds:g} seconds.", code="upstream_timeout"
        )


class InvalidUpstreamResponse(UpstreamError):
    """The upstream's answer makes no sense."""

    def __init__(self, what: str) -> None:
        super().__init__(f"The upstream {what}.", code="upstream_error")


class UnreadableEvent(InvalidUpstreamResponse):
    """What is no part of the answer's text: a stream goes on after it, a whole answer fails."""


class ConnectionLimitReached(UpstreamError):
    """Every connection that may be open to the upstream is in use."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"All {limit} connections to the upstream are in use.", code="upstream_busy"
        )


class ConnectionReclaimed(UpstreamError):
    """Nobody reads the answer any more, and its connection is needed."""

    def __init__(self) -> None:
        super().__init__(
            "The answer was given up: nobody read it, and its connection was needed.",
            code="upstream_busy",
        )


class CircuitOpened(UpstreamError):
    """Other requests found the upstream dead while this one waited, which was not sent."""

    def __init__(self) -> None:
        super().__init__(
            "The upstream has just failed others and was not asked.", code="upstream_unreachable"
        )


class UpstreamHTTPError(UpstreamError):
    """The upstream answered with an error of its own."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.status = status
        self.retry_after = retry_after  # seconds
        self.retries = None if status in (408, 429, 500, 502, 503, 504, 529) else 0
