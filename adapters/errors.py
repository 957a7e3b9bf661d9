"""What can go wrong between this proxy and an upstream; never more of it than the asker may know.

UpstreamError
├── Unreachable      no byte of an answer: refused, reset, name unknown, TLS
├── TimedOut         a deadline passed; the message names which
├── BrokenAnswer     an answer that cannot be used: garbage, HTML, a redirect, cut off, too large
│   └── Noise        an event of a stream that can be no part of its answer
├── Busy             this proxy's own limit of connections to the upstream
├── GaveWay          nobody read the answer any more, and somebody else needed its connection
├── Overtaken        its circuit opened before the request was sent
└── Refused          an error the upstream itself reports, with its HTTP status
"""

from __future__ import annotations

from chattable.agents.errors import ChatError


class UpstreamError(ChatError):
    """The upstream gave no usable answer."""

    # how often asking again may help; None: as often as the configuration allows
    retries: int | None = 0


class Unreachable(UpstreamError):
    """No byte of an answer came.

    `sent`: the request may have been seen, so one more try is the most that is safe.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message, code="upstream_unreachable")
        self.retries = 1 if sent else None


class TimedOut(UpstreamError):
    """A deadline passed."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(
            f"The upstream {what} within {seconds:g} seconds.", code="upstream_timeout"
        )


class BrokenAnswer(UpstreamError):
    """The upstream's answer makes no sense."""

    def __init__(self, what: str) -> None:
        super().__init__(f"The upstream {what}.", code="upstream_error")


class Noise(BrokenAnswer):
    """Something that no text of an answer is lost with: a stream goes on after it, a whole answer is broken."""


class Busy(UpstreamError):
    """Every connection that may be open to the upstream is in use."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"All {limit} connections to the upstream are in use.", code="upstream_busy"
        )


class GaveWay(UpstreamError):
    """Nobody reads the answer any more, and its connection is needed."""

    def __init__(self) -> None:
        super().__init__(
            "The answer was given up: nobody read it, and its connection was needed.",
            code="upstream_busy",
        )


class Overtaken(UpstreamError):
    """Others found the upstream dead while this request waited: it was not sent."""

    def __init__(self) -> None:
        super().__init__(
            "The upstream has just failed others and was not asked.", code="upstream_unreachable"
        )


class Refused(UpstreamError):
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
