"""What AWS's errors mean to the one who asked; the server's account and credentials are nothing of theirs."""

from __future__ import annotations

import re
from typing import Any

from chattable.adapters.decoding import status_of
from chattable.adapters.errors import Refused
from chattable.agents.errors import clip

OVERFLOW = re.compile(
    r"(input|prompt) is too long|too many (input )?tokens|input tokens? exceed|exceeds? (the )?(model's )?(maximum )?context"
    r"|maximum context length|number of input tokens exceeds|input length and",
    re.I,
)
UNKNOWN = re.compile(
    r"model identifier is invalid|could not resolve the (foundation )?model|no such model", re.I
)
# Names of things of an account, keys, and what a signature was computed of.
SECRETS = re.compile(
    r"arn:aws[\w-]*:[^\s'\",)]+|\b\d{12}\b|\b(?:AKIA|ASIA|ABSK)[\w+/=]{12,}|bedrock-api-key-\S+|The Canonical String .*",
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


def reported(error: Any, status: int = 0, *, kind: str = "") -> Refused:
    """An error as what the asker is told; one inside a stream has the status of its kind, or the one that it names."""
    error = error if isinstance(error, dict) else {"message": error}
    if kind == "error" and isinstance(code := error.get("code"), str):
        kind = code[:1].lower() + code[1:]
    status = status or STATUSES.get(kind) or status_of(error)
    message = error.get("message") or error.get("Message") or error.get("originalMessage")
    message = " ".join(SECRETS.sub("…", message).split()) if isinstance(message, str) else ""
    message = clip(message, 1000) or f"The upstream answered with status {status}."
    if status in (400, 413) and OVERFLOW.search(message):
        return Refused(400, message, param="messages", code="context_length_exceeded")
    if (status == 400 and UNKNOWN.search(message)) or (
        status == 404 and "model" in message.lower()
    ):
        return Refused(404, message, param="model", code="model_not_found")
    param = (
        next((name for name, words in PARAMS.items() if words.search(message)), None)
        if status == 400
        else None
    )
    return Refused(status, message, param=param)
