"""What Ollama answers: chunks, usage and errors.

A whole answer has the form of the one line of a stream.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from chattable.adapters.decoding import (
    hidden_error,
    named_param,
    read_as,
    read_object,
    status_of,
    text_of,
)
from chattable.adapters.errors import InvalidUpstreamResponse, UpstreamHTTPError
from chattable.adapters.vendors.usage import OLLAMA, read_usage
from chattable.agents.chat import Chunk, Json
from chattable.agents.errors import clip

FINISHES = {"stop": "stop", "length": "length"}
# What only its last line says of an answer, beside its usage.
FACTS = ("done_reason", "total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
OVERFLOW = re.compile(
    r"(input|prompt)( length)? (exceeds|is (too long|longer than))|exceeds the (\w+ )?context", re.I
)
# Where things are on the server's machine and network.
PLACES = re.compile(
    r"(?<![\w.])(/[\w.@:-]+){2,}|\b\d{1,3}(\.\d{1,3}){3}(:\d+)?|\[[\da-f:]+\](:\d+)?", re.I
)
# What a message complains of, and the parameter that asked for it.
PARAMS = {
    "tools": re.compile("does not support tools", re.I),
    "reasoning_effort": re.compile("does not support think|think value", re.I),
    "messages": re.compile(r"\bimage|vision", re.I),
    "response_format": re.compile("format|grammar|schema", re.I),
}


class _Function(Struct):
    name: Annotated[str, Meta(min_length=1)]
    arguments: Any = None


class _Call(Struct):
    function: _Function
    id: str | None = None


class _Message(Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_Call] | None = None


class _Line(Struct):
    message: _Message | str | None = None  # text: of an error
    done: bool = False
    done_reason: str | None = None
    model: str | None = None
    created_at: str | None = None
    prompt_eval_count: Any = None
    eval_count: Any = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_duration: int | None = None
    eval_duration: int | None = None
    logprobs: Any = None
    error: Any = None


class OllamaStream:
    """Reads one answer, line by line; the line that is `done` is its last."""

    def __init__(self) -> None:
        self.complete = False
        self.ended = False
        self._calls = 0
        self._seed = ""  # what makes the ids of this answer's calls its own

    def feed(self, data: bytes) -> list[Chunk]:
        """What one line adds."""
        line = read_as(data, _Line)
        message = line.message
        if line.error or not isinstance(message, _Message):
            _check_error(data, line)
            message = _Message()
        self._seed = self._seed or f"{line.model}/{line.created_at}"
        delta = self._delta(message)
        logprobs = read_logprobs(line.logprobs)
        if line.done:
            return self._end(line, delta, logprobs)
        return [Chunk(delta=delta, logprobs=logprobs)] if delta or logprobs else []

    def _delta(self, message: _Message) -> Json:
        delta: Json = {}
        if message.thinking:
            delta["reasoning_content"] = message.thinking
        if message.content:
            delta["content"] = message.content
        if message.tool_calls:
            delta["tool_calls"] = [self._call(call) for call in message.tool_calls]
        return delta

    def _end(self, line: _Line, delta: Json, logprobs: Json | None) -> list[Chunk]:
        """The last line: why the answer ended, and what it used."""
        self.complete = self.ended = True
        facts = {name: value for name in FACTS if (value := getattr(line, name)) is not None}
        reason = FINISHES.get(line.done_reason or "stop", "stop")
        chunks = [Chunk(delta=delta, finish_reason=reason, logprobs=logprobs, facts=facts)]
        counts = {"prompt_eval_count": line.prompt_eval_count, "eval_count": line.eval_count}
        if (usage := read_usage(counts, fields=OLLAMA)) is not None:
            chunks.append(Chunk(usage=usage, facts=facts))
        return chunks

    def _call(self, call: _Call) -> Json:
        """A call, which comes whole.

        Law: an id that is not given is the same for the same bytes, another in every answer.
        """
        number, self._calls = self._calls, self._calls + 1
        call_id = (
            call.id or "call_" + hashlib.sha256(f"{self._seed}/{number}".encode()).hexdigest()[:24]
        )
        given = call.function.arguments
        text = (
            given
            if isinstance(given, str)
            else msgspec.json.encode(given if isinstance(given, dict) else {}).decode()
        )
        return {
            "index": number,
            "id": call_id,
            "type": "function",
            "function": {"name": call.function.name, "arguments": text},
        }


def _check_error(data: bytes, line: _Line) -> None:
    """Raises the error that a line is; one without a message may be any other news."""
    if hidden_error(raw := read_object(data)) is not None:
        raise error_from(raw)
    if line.message is not None and not isinstance(line.message, _Message):
        raise InvalidUpstreamResponse("sent a message that is not an object")


class _Token(Struct):
    token: str
    logprob: float
    top_logprobs: list[_Token] | None = None

    def json(self) -> Json:
        return {"token": self.token, "logprob": self.logprob, "bytes": list(self.token.encode())}


def read_logprobs(raw: Any) -> Json | None:
    """The probabilities of the tokens in OpenAI's form; None when nothing usable came."""
    if not raw:
        return None
    try:
        tokens = msgspec.convert(raw, list[_Token])
    except msgspec.ValidationError:
        return None
    content = [
        token.json() | {"top_logprobs": [top.json() for top in token.top_logprobs or ()]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def error_from(raw: Json, status: int = 0) -> UpstreamHTTPError:
    """An error as callers get it; one inside a stream may say its status itself."""
    error = hidden_error(raw)
    status = status or _given_status(raw) or status_of(error)
    message = PLACES.sub("…", " ".join(text_of(error).split()))
    message = clip(message, 1000) or f"The upstream answered with status {status}."
    if status in (400, 413, 500, 502) and OVERFLOW.search(message):
        return UpstreamHTTPError(400, message, param="messages", code="context_length_exceeded")
    if status == 404 and "model" in message:
        return UpstreamHTTPError(404, message, param="model", code="model_not_found")
    param = named_param(message, PARAMS) if status == 400 else None
    return UpstreamHTTPError(status, message, param=param)


def _given_status(raw: Json) -> int | None:
    given = raw.get("StatusCode")
    return given if type(given) is int and 400 <= given < 600 else None
