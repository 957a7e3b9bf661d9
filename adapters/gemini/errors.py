"""Google's errors as callers get them, without the server's own key and account."""

from __future__ import annotations

import re
from typing import Any

from chattable.adapters.decoding import as_object, named_param, status_of, text_of
from chattable.adapters.errors import UpstreamHTTPError
from chattable.agents.chat import Json
from chattable.agents.errors import clip

OVERFLOW = re.compile(
    r"input token count(?: \((\d+)\))? exceeds the maximum number of tokens allowed(?: \((\d+)\))?",
    re.I,
)
OURS = re.compile(r"\bapi key (not valid|not found|expired)", re.I)
SECRETS = re.compile(r"AIza[\w-]{10,}|(?:project_number|projects?)[:/]\s*[\w-]+", re.I)
# What a message complains of, and the parameter that asked for it.
PARAMS = {
    "n": re.compile(r"multiple candidates|only one candidate|candidate_?count", re.I),
    "logprobs": re.compile("logprobs", re.I),
    "presence_penalty": re.compile("penalty", re.I),
    "response_format": re.compile(r"response mime type|response_?(json_?)?schema", re.I),
    "messages": re.compile(r"thought_?signature|contents\b|file ?uri|fetch content", re.I),
    "reasoning_effort": re.compile("thinking", re.I),
    "tools": re.compile(r"function_?declarations|tools\[", re.I),
}


def error_from(error: Any, status: int = 0) -> UpstreamHTTPError:
    """An error object as callers get it; one inside a stream says its status itself."""
    status = status or status_of(error)
    message = SECRETS.sub("…", " ".join(text_of(error).split()))
    error = as_object(error)
    message = clip(message, 1000) or f"The upstream answered with status {status}."
    details = _details(error)
    if status == 400 and _forbidden(error, details, message):
        return UpstreamHTTPError(401, message)
    if status in (400, 413) and (overflow := OVERFLOW.search(message)):
        return _context_exceeded(message, overflow)
    if status == 404 and "model" in message:
        return UpstreamHTTPError(404, message, param="model", code="model_not_found")
    param = named_param(message, PARAMS) if status == 400 else None
    return UpstreamHTTPError(status, message, param=param, retry_after=_retry_after(details))


def _details(error: Json) -> list[Json]:
    given = error.get("details")
    return [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []


def _context_exceeded(message: str, overflow: re.Match[str]) -> UpstreamHTTPError:
    if overflow[1] and overflow[2]:  # in the words that clients look for
        message = f"This model's maximum context length is {overflow[2]} tokens. "
        message += f"However, your messages resulted in {overflow[1]} tokens."
    return UpstreamHTTPError(400, message, param="messages", code="context_length_exceeded")


def _forbidden(error: Json, details: list[Json], message: str) -> bool:
    """Whether the server's key or account is refused, which Google says with status 400."""
    reasons = {str(detail.get("reason")) for detail in details}
    return (
        bool(reasons & {"API_KEY_INVALID", "API_KEY_EXPIRED"})
        or error.get("status") == "FAILED_PRECONDITION"
        or OURS.search(message) is not None
    )


def _retry_after(details: list[Json]) -> float | None:
    """Seconds that a RetryInfo asks to wait, as in 38.5s."""
    for detail in details:
        delay = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)s", str(detail.get("retryDelay")))
        if delay:
            return float(delay[1])
    return None
