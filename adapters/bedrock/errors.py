"""AWS's errors as callers get them, without the server's account and credentials."""

from __future__ import annotations

import re
from typing import Any

from chattable.adapters.decoding import named_param, status_of
from chattable.adapters.errors import UpstreamHTTPError
from chattable.agents.chat import Json
from chattable.agents.errors import clip

OVERFLOW = re.compile(
    r"(input|prompt) is too long|too many (input )?tokens|input tokens? exceed"
    r"|exceeds? (the )?(model's )?(maximum )?context"
    r"|maximum context length|number of input tokens exceeds|input length and",
    re.I,
)
UNKNOWN = re.compile(
    r"model identifier is invalid|could not resolve the (foundation )?model|no such model", re.I
)
# Names of things of an account, keys, and what a signature was computed of.
SECRETS = re.compile(
    r"arn:aws[\w-]*:[^\s'\",)]+|\b\d{12}\b|\b(?:AKIA|ASIA|ABSK)[\w+/=]{12,}"
    r"|bedrock-api-key-\S+|The Canonical String .*",
    re.I | re.S,
)
# What an exception inside a stream would have been as a status; `error` is the stream's own.
STATUSES = {
    "accessDeniedException": 403,
    "internalServerException": 500,
    "modelNotReadyException": 429,
    "modelStreamErrorException": 502,
    "modelTimeoutException": 408,
    "resourceNotFoundException": 404,
    "serviceQuotaExceededException": 429,
    "serviceUnavailableException": 503,
    "throttlingException": 429,
    "validationException": 400,
}
# What a message complains of, and the parameter that asked for it.
PARAMS = {
    "response_format": re.compile(r"output_?config|text_?format|json_?schema", re.I),
    "tools": re.compile(r"tool_?config|tools\b|tool_?spec|tool_?choice", re.I),
    "max_tokens": re.compile(r"max_?tokens", re.I),
    "temperature": re.compile("temperature", re.I),
    "top_p": re.compile(r"\btop_?p\b", re.I),
    "stop": re.compile(r"stop_?sequences?", re.I),
    "reasoning_effort": re.compile(r"thinking|reasoning_?config|budget_tokens", re.I),
    "messages": re.compile(
        r"messages|conversation|content_?block|tool_?(use|result)|image|document|system", re.I
    ),
}


def error_from(error: Any, status: int = 0, *, kind: str = "") -> UpstreamHTTPError:
    """An error as callers get it.

    `kind` is the type of an exception inside a stream, which says what its status would have been.
    """
    error = error if isinstance(error, dict) else {"message": error}
    status = status or _status(error, kind)
    message = clip(_message(error), 1000) or f"The upstream answered with status {status}."
    if status in (400, 413) and OVERFLOW.search(message):
        return UpstreamHTTPError(400, message, param="messages", code="context_length_exceeded")
    if _is_unknown_model(status, message):
        return UpstreamHTTPError(404, message, param="model", code="model_not_found")
    param = named_param(message, PARAMS) if status == 400 else None
    return UpstreamHTTPError(status, message, param=param)


def _status(error: Json, kind: str) -> int:
    """What the status of an exception inside a stream would have been."""
    if kind == "error" and isinstance(code := error.get("code"), str):
        kind = code[:1].lower() + code[1:]
    return STATUSES.get(kind) or status_of(error)


def _message(error: Json) -> str:
    """What an error says, without secrets."""
    message = error.get("message") or error.get("Message") or error.get("originalMessage")
    return " ".join(SECRETS.sub("…", message).split()) if isinstance(message, str) else ""


def _is_unknown_model(status: int, message: str) -> bool:
    if status == 400:
        return UNKNOWN.search(message) is not None
    return status == 404 and "model" in message.lower()
