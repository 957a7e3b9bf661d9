"""The one error table: what each failure is to a client, in OpenAI's envelope.

Only the errors listed here show their text; anything else is a 500 that names the request id and
nothing more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec
from litestar.exceptions import HTTPException
from msgspec import Struct

from chattable.adapters import errors as upstream
from chattable.adapters.vendors.refusals import Cause, cause_of
from chattable.agents import errors as chat
from chattable.budget import errors as budget
from chattable.budget import rates
from chattable.budget.storage.errors import StorageUnavailable
from chattable.proxy.store import errors as store

INVALID = "invalid_request_error"
SERVER = "server_error"
UPSTREAM = "upstream_error"
CLIENT_LEFT = 499  # as nginx logs a client that left before its answer; nobody is sent it
MAX_RETRY_AFTER = 60.0  # seconds; some SDKs obey any figure, so a longer wait is not passed on

# What the client is told of what is the operator's to mend.
HOUSE = {
    Cause.KEY: "The upstream refused this server's credentials. Tell the server's operator.",
    Cause.ACCOUNT: "The account of this server's operator at the upstream has no credit left. "
    "Tell the server's operator.",
}
# code and param
PASSED = {Cause.USE: ("permission_denied", "model"), Cause.PROMPT: ("content_filter", "messages")}
# names of the operator's own things
ACCOUNTS = re.compile(r"\b(org|proj|acct|team|user)[-_ ][\w-]{8,}")


class UnauthorizedError(Exception):
    """No key, or one that opens nothing."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class ForbiddenError(Exception):
    """A good key that may not do this."""


class QuotaError(chat.ChatError):
    """A budget has no room for a request; the message says whose, how much and until when."""

    def __init__(self, message: str, headers: dict[str, str]) -> None:
        super().__init__(message, code="insufficient_quota")
        self.headers = headers


class BudgetBusyError(chat.ChatError):
    """A budget has no room for a request now, but for what requests under way hold of it."""

    def __init__(self, message: str, headers: dict[str, str]) -> None:
        super().__init__(message, code="budget_busy")
        self.headers = headers


class UnpricedModelError(chat.ChatError):
    """A budget in dollars binds the asker, and what the model costs is not known."""

    def __init__(self, model: str, who: str) -> None:
        super().__init__(
            f"The model `{chat.clip(model)}` has no price, and the budget for {who} is in dollars."
            " Tell the server's operator to set `models.*.price`, or `budgets.unpriced: allow`.",
            param="model",
            code="unpriced_model",
        )


class RateLimitExceededError(chat.ChatError):
    """A rate limit has no room for a request now; the message says whose and for how long."""

    def __init__(self, error: rates.RateLimitedError) -> None:
        super().__init__(str(error), code="rate_limit_exceeded")
        self.kind = error.kind
        self.headers = rates.headers(error)


class SharedAnswerError(chat.ChatError):
    """An answer that is read together has failed; told as to whoever made the call."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, param=failure.param, code=failure.code)
        self.failure = failure


class KeyReusedError(chat.ChatError):
    """An Idempotency-Key was used with another body."""

    def __init__(self) -> None:
        message = (
            "This Idempotency-Key was used with another request body. A key stands for one "
            "request: use a new one."
        )
        super().__init__(message, param="Idempotency-Key", code="idempotency_key_reused")


class InProgressError(chat.ChatError):
    """The first request with an Idempotency-Key is still being answered."""

    def __init__(self) -> None:
        message = "A request with this Idempotency-Key is still being answered. Retry in a moment."
        super().__init__(message, param="Idempotency-Key", code="idempotency_in_progress")


class LockedError(chat.ChatError):
    """Another turn of a session is still under way."""

    def __init__(self, session: str) -> None:
        message = (
            f"Another request is still being answered in the conversation {session}. Retry in a "
            "moment."
        )
        super().__init__(message, param="conversation", code="conversation_locked")


class DatabaseUnavailableError(chat.ChatError):
    """The ledger does not answer, and without it nothing may be spent; the cause is for the log."""

    def __init__(self) -> None:
        super().__init__(
            "The database is unavailable. Please retry your request.", code="database_unavailable"
        )


class CacheUnavailableError(Exception):
    """Redis is away, so nothing was forgotten."""

    def __init__(self) -> None:
        super().__init__("Redis is away: nothing was forgotten. Please retry your request.")


class ShuttingDownError(Exception):
    """The server ends before the answer did."""

    def __init__(self) -> None:
        super().__init__("The server is shutting down. Please retry your request.")


class ClientLeftError(Exception):
    """The client has left before it was answered; for the log."""


class TooLargeError(Exception):
    """A request body, as it came or unpacked, is larger than the server takes."""

    def __init__(self, limit: int) -> None:
        most = f"{limit / 2**20:g} MiB"
        super().__init__(
            f"The request body is larger than {most}, the most that this server takes. "
            "Send less, or ask the server's operator to raise `server.max_body_mb`."
        )


class NoSuchRouteError(Exception):
    """No route has this path; `served` are the paths there are."""

    def __init__(self, method: str, path: str, served: Sequence[str]) -> None:
        what = f"Invalid URL ({method} {chat.clip(path)}): there is nothing here."
        if near := get_close_matches(path, served, n=1):
            super().__init__(f"{what} Did you mean {near[0]}?")
        elif path.startswith("/v1"):
            names = ", ".join(name.removeprefix("/v1/") for name in served)
            super().__init__(f"{what} Below /v1 there are: {names}.")
        else:
            super().__init__(f"{what} The API is below /v1, for example POST /v1/chat/completions.")


class ErrorDetail(Struct):
    """What is wrong, for people and for programs; `param` is the field that it is about."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(Struct):
    """OpenAI's envelope of an error, with all its four keys."""

    error: ErrorDetail


class Failure(Struct):
    """An error as the client gets it."""

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = {}

    def body(self) -> bytes:
        """The answer's body."""
        detail = ErrorDetail(self.message, self.type, self.param, self.code)
        return msgspec.json.encode(Error(detail))


RETRY_SOON = {"retry-after": "1"}
ASK_AGAIN = {"retry-after": "1", "x-should-retry": "true"}


class ErrorRow(NamedTuple):
    """What the errors of a class are to a client, besides what an error says itself."""

    error: type[Exception]
    status: int
    type: str  # empty: the error's own `kind`
    code: str | None = None  # where the error has none of its own
    headers: Mapping[str, str] = {}


# The first row that matches counts.
TABLE = (
    # Some SDKs obey any Retry-After, a day included: the time of the reset is in the message and
    # in x-budget-reset.
    ErrorRow(QuotaError, 429, "insufficient_quota", headers={"x-should-retry": "false"}),
    # held is not spent: it is worth asking again
    ErrorRow(BudgetBusyError, 429, "rate_limit_error", headers=ASK_AGAIN),
    ErrorRow(RateLimitExceededError, 429, ""),
    ErrorRow(InProgressError, 409, INVALID, headers=ASK_AGAIN),
    ErrorRow(LockedError, 409, INVALID, headers=ASK_AGAIN),
    ErrorRow(store.HeadMoved, 409, INVALID, headers=ASK_AGAIN),
    ErrorRow(DatabaseUnavailableError, 503, SERVER, headers=RETRY_SOON),
    ErrorRow(UnauthorizedError, 401, INVALID, headers={"www-authenticate": "Bearer"}),
    ErrorRow(chat.InvalidRequest, 400, INVALID),
    ErrorRow(KeyReusedError, 422, INVALID),
    ErrorRow(UnpricedModelError, 403, INVALID),
    ErrorRow(chat.ModelNotFound, 404, INVALID, "model_not_found"),
    ErrorRow(chat.LimitReached, 400, INVALID),
    ErrorRow(chat.TurnTimeout, 504, SERVER, "agent_timeout"),
    ErrorRow(chat.AgentFailed, 500, SERVER, "agent_error"),
    ErrorRow(upstream.UpstreamUnreachable, 502, UPSTREAM),
    ErrorRow(upstream.UpstreamTimedOut, 504, UPSTREAM),
    ErrorRow(upstream.InvalidUpstreamResponse, 502, UPSTREAM),
    ErrorRow(upstream.ConnectionLimitReached, 503, UPSTREAM),
    ErrorRow(chat.ChatError, 500, SERVER, "agent_error"),
    ErrorRow(store.NotFound, 404, INVALID, "not_found"),
    ErrorRow(store.Conflict, 409, INVALID, "already_exists"),
    ErrorRow(store.Invalid, 400, INVALID, "invalid_value"),
    ErrorRow(budget.UnknownLimitError, 404, INVALID, "not_found"),
    ErrorRow(ForbiddenError, 403, INVALID, "forbidden"),
    ErrorRow(ShuttingDownError, 503, SERVER, "shutting_down"),
    ErrorRow(CacheUnavailableError, 503, SERVER, "cache_unavailable"),
    ErrorRow(NoSuchRouteError, 404, INVALID, "not_found"),
    ErrorRow(TooLargeError, 413, INVALID, "request_too_large"),
    ErrorRow(ClientLeftError, CLIENT_LEFT, INVALID, "client_left"),
)


def describe(error: BaseException, *, request_id: str = "") -> Failure:
    """What the client is told of an error."""
    if isinstance(error, upstream.UpstreamHTTPError):
        return _refused(error)
    if isinstance(error, SharedAnswerError):
        return error.failure
    if isinstance(error, HTTPException):
        return _http(error)
    if isinstance(error, StorageUnavailable):  # its text is for the log
        error = DatabaseUnavailableError()
    row = next((row for row in TABLE if isinstance(error, row.error)), None)
    if row is None:
        where = f" Please quote the request id {request_id}." if request_id else ""
        message = f"The server had an error while processing your request.{where}"
        return Failure(500, message, SERVER, None, "internal_error")
    return Failure(
        row.status,
        getattr(error, "message", None) or str(error),
        row.type or getattr(error, "kind", INVALID),
        getattr(error, "param", None) or getattr(error, "field", None),
        getattr(error, "code", None) or row.code,
        {**row.headers, **getattr(error, "headers", {})},
    )


def outcome_of(error: Exception) -> str:
    """An error as the audit trail says it: in the words that the actor was told."""
    failure = describe(error)
    return f"{'refused' if failure.status < 500 else 'failed'}: {failure.message}"


def known(error: BaseException) -> bool:
    """Whether the table has a place for this error; any other is a fault of this program."""
    return isinstance(
        error, (upstream.UpstreamHTTPError, HTTPException, *(row.error for row in TABLE))
    )


# What a client is told where an upstream's own words say nothing to it: by the upstream's status.
UPSTREAM_FAILURES = {
    403: (502, HOUSE[Cause.KEY], "upstream_auth_error"),
    407: (502, HOUSE[Cause.KEY], "upstream_auth_error"),
    408: (504, "The upstream timed out.", "upstream_timeout"),
    503: (503, "The upstream is overloaded.", "upstream_overloaded"),
    504: (504, "The upstream timed out.", "upstream_timeout"),
    529: (503, "The upstream is overloaded.", "upstream_overloaded"),
}
UPSTREAM_FAILED = (502, "The upstream failed.", "upstream_error")


def _refused(error: upstream.UpstreamHTTPError) -> Failure:
    """An upstream's refusal: its meaning is passed on, what it says of our account is not."""
    status, cause = error.status, cause_of(error)
    if cause in HOUSE:
        final = {"x-should-retry": "false"} if cause is Cause.ACCOUNT else {}
        return Failure(502, HOUSE[cause], UPSTREAM, None, "upstream_auth_error", final)
    if status == 403 and cause is not Cause.OTHER:  # what was asked for is refused, or the prompt
        code, param = PASSED[cause]
        if error.code and not error.code.isdigit():
            code = error.code
        return Failure(403, ACCOUNTS.sub("…", error.message), INVALID, error.param or param, code)
    if status == 429:
        message = f"The upstream limits its requests: {error.message}"
        code = error.code or "rate_limit_exceeded"
        return Failure(429, message, UPSTREAM, None, code, _retry_after(error))
    if status in (400, 404, 409, 413, 415, 422):
        return Failure(status, error.message, INVALID, error.param, error.code)
    status, message, code = UPSTREAM_FAILURES.get(status, UPSTREAM_FAILED)
    headers = _retry_after(error) if status == 503 else {}
    return Failure(status, message, UPSTREAM, None, code, headers)


def _retry_after(error: upstream.UpstreamHTTPError) -> dict[str, str]:
    """When to ask again, as the upstream said it; not for longer than SDKs ought to wait."""
    if error.retry_after is None:  # some SDKs ask again only where they are told when
        return RETRY_SOON if error.status == 429 else {}
    if error.retry_after > MAX_RETRY_AFTER:
        return {}
    seconds, milliseconds = -int(-error.retry_after // 1), int(error.retry_after * 1000)
    return {"retry-after": str(seconds), "retry-after-ms": str(milliseconds)}


def _http(error: HTTPException) -> Failure:
    """What the router and the body reader refuse."""
    status = error.status_code
    codes = {405: "method_not_allowed", 415: "unsupported_media_type"}
    messages = {405: "This path does not know that method. The Allow header lists those it knows."}
    if status >= 500:
        return Failure(
            500,
            "The server had an error while processing your request.",
            SERVER,
            None,
            "internal_error",
        )
    message = messages.get(status) or error.detail or HTTPStatus(status).phrase
    headers: dict[str, Any] = error.headers or {}
    return Failure(
        status,
        message,
        INVALID,
        None,
        codes.get(status),
        {k.lower(): v for k, v in headers.items()},
    )
