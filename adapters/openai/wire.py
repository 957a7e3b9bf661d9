"""OpenAI's chat completions, as OpenAI and everybody compatible with it speak them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from copy import copy
from typing import Any, Self

import msgspec
from msgspec import Struct

from chattable.adapters.decoding import (
    as_object,
    hidden_error,
    read_error,
    read_object,
    status_of,
    text_of,
)
from chattable.adapters.errors import InvalidUpstreamResponse, UpstreamHTTPError
from chattable.adapters.openai.messages import is_marked, translate, unmarked
from chattable.adapters.params import HARMLESS, Unsupported, unsupported_parameter
from chattable.adapters.vendors.history import ANYTHING, Takes, takes
from chattable.adapters.vendors.usage import read_answer
from chattable.adapters.vendors.withheld import BETAS
from chattable.adapters.wire import Wire
from chattable.agents.chat import Chat, Chunk, Json, Message
from chattable.agents.errors import InvalidRequest, clip

OVERFLOW = re.compile(
    r"context.{0,3}(length|window|size)|maximum context|too many tokens|prompt is too long", re.I
)
REPLY_FIELDS = frozenset({"id", "object", "created", "model", "choices", "usage", "error"})
OTHER_REPORTS = frozenset({"x_groq", "timings"})  # where usage may be beside `usage`
# Finish reasons of vendors that gave up.
BROKEN = ("error", "abort", "aborted", "canceled", "cancelled", "insufficient_system_resource")
MAX_CHOICES = 128
# The role, the type of the content and the other fields of a message that every server takes.
TEXT_ALONE: list[tuple[Any, ...]] = [
    (role, str, calls, {}, None, None, None)
    for role in ("user", "assistant", "system")
    for calls in (None, list[Json]())
]
CAPS = ("max_tokens", "max_completion_tokens")  # the two names of the cap on output
# Parameters that only OpenAI itself understands.
OPENAI_ONLY = frozenset(
    {
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "safety_identifier",
        "store",
        "metadata",
    }
)


class Quirks(Struct, frozen=True):
    """Where a compatible server differs from OpenAI."""

    developer: bool = True  # knows the role `developer`
    max_tokens: str = ""  # the one name it knows for the cap on output; empty: both
    stream_usage: bool = True  # knows `stream_options`
    drops: frozenset[str] = frozenset()  # parameters that mean nothing to it or that it refuses


class OpenAIWire(Wire):
    """Speaks chat completions.

    Law: what the client sent goes out as it came, but for the quirks, the usage of streams, what
    the vendor does not take of a history, and parameters that are withheld; no parameter takes the
    place of the model, the messages or the stream.
    """

    def __init__(self, quirks: Quirks | None = None, vendor: str = "") -> None:
        self.quirks = quirks or Quirks()
        self.vendor = vendor  # whose row says what it takes of a history; empty: not known
        self._drop(self.quirks.drops | {BETAS})

    def with_unsupported(self, unsupported: Unsupported, allow: Collection[str] = ()) -> Self:
        """The wire as a provider's settings want it."""
        wire = super().with_unsupported(unsupported, allow)
        wire._drop(self.quirks.drops | wire.withheld | {BETAS})
        return wire

    def _drop(self, params: frozenset[str]) -> None:
        """Sets the parameters that never go out."""
        self._drops = params
        self._special = params | {"tools", *(CAPS if self.quirks.max_tokens else ())}

    def of(self, vendor: str) -> Self:
        """The wire where that vendor is asked."""
        wire = copy(self)
        wire.vendor = vendor
        return wire

    def path(self, model: str, stream: bool) -> str:
        """The same for every model."""
        return "/chat/completions"

    def headers(self, api_key: str) -> list[tuple[str, str]]:
        """A bearer token."""
        return [("authorization", f"Bearer {api_key}")] if api_key else []

    def build_request(self, chat: Chat, model: str, most: int | None = None) -> bytes:
        """The body, usage of a stream always asked for."""
        params, messages = chat.params, chat.messages
        said: Sequence[Message | Json] = messages
        for message in messages:
            fields = (
                message.role,
                type(message.content),
                message.tool_calls,
                message.extra,
                message.reasoning_content,
                message.name,
                message.refusal,
            )
            if fields not in TEXT_ALONE:
                said = self._history(messages, model)
                break
        else:
            if messages and messages[-1].role == "assistant":
                said = self._history(messages, model)
        body: Json = {**params, "model": model, "messages": said, "stream": True}
        if not self._special.isdisjoint(params):
            body = self._adapted(body, params, model)
        if not chat.stream:
            del body["stream"]
            body.pop("stream_options", None)
        elif self.quirks.stream_usage:
            body["stream_options"] = (body.get("stream_options") or {}) | {"include_usage": True}
        else:
            body.pop("stream_options", None)
        return msgspec.json.encode(body)

    def _adapted(self, body: Json, params: Json, model: str) -> Json:
        """The body without what the server does not take."""
        if dropped := self._drops & params.keys():
            self._check_dropped(dropped)
            body = {k: v for k, v in body.items() if k not in dropped}
        tools = body.get("tools")
        if isinstance(tools, list) and any(map(is_marked, tools)) and self._takes(model).strict:
            body["tools"] = unmarked(tools)
        if self.quirks.max_tokens:
            _merge_caps(body, self.quirks.max_tokens)
        return body

    def _check_dropped(self, dropped: frozenset[str]) -> None:
        if self.unsupported == "reject" and (lost := sorted(dropped - HARMLESS)):
            raise unsupported_parameter(lost[0], "this model does not have it")

    def _takes(self, model: str) -> Takes:
        return takes(self.vendor, model)

    def _history(self, messages: list[Message], model: str) -> Sequence[Message | Json]:
        """Messages that are more than words, as this model takes them."""
        if not self.quirks.developer:
            messages = [_without_developer(message) for message in messages]
        row = self._takes(model)
        return (
            [message.to_json() for message in messages]
            if row is ANYTHING
            else translate(messages, row)
        )

    def parse_response(self, body: bytes) -> list[Chunk]:
        """The answer's choices, then its usage."""
        return self.parse_answer(read_object(body))

    def parse_answer(self, raw: Json) -> list[Chunk]:
        """The chunks of an answer that is decoded."""
        choices = raw.get("choices")
        _check(raw, choices)
        if not isinstance(choices, list) or not choices:
            raise InvalidUpstreamResponse("sent an answer without choices")
        facts = _facts(raw, None)
        chunks = []
        for i, choice in enumerate(choices):
            message = choice.get("message") if isinstance(choice, dict) else None
            if not isinstance(message, dict):
                raise InvalidUpstreamResponse("sent a choice without a message")
            message = _checked(message)
            if calls := message.get("tool_calls"):
                message = message | {
                    "tool_calls": [call | {"index": n} for n, call in enumerate(calls)]
                }
            logprobs = _logprobs(choice) if choice.get("logprobs") else None
            chunks.append(Chunk(_index(choice, i), message, _reason(choice), logprobs, None, facts))
        usage = read_answer(raw)
        if usage is not None:
            chunks.append(Chunk(usage=usage, facts=facts))
        return chunks

    def stream_reader(self, choices: int = 1) -> OpenAIStream:
        """A reader for one stream."""
        return OpenAIStream(choices)

    def parse_error(self, status: int, body: bytes) -> UpstreamHTTPError:
        """The upstream's own error, in OpenAI's shape or any other."""
        raw = read_error(body)
        return _error_from(status, hidden_error(raw) or raw)


class OpenAIStream:
    """Reads one stream of chat completion chunks.

    Law: usage is passed on as soon as it comes, and nothing is over while a choice is open:
    llama.cpp reports once for each. A choice that says more after its end goes on.
    """

    def __init__(self, choices: int = 1) -> None:
        self.complete = False
        self.ended = False
        self._wanted = choices
        self._ended: dict[int, bool] = {}  # of every choice that has begun
        self._facts: Json | None = None
        self._figures: Json = {}  # of the usage

    def feed(self, data: bytes) -> list[Chunk]:
        """What one event adds."""
        if data == b"[DONE]":
            self.complete = self.ended = True
            return []
        try:
            raw = msgspec.json.decode(data)
        except (ValueError, RecursionError):
            raw = None
        return self.on_event(raw if type(raw) is dict else read_object(data))

    def on_event(self, raw: Json) -> list[Chunk]:
        """What one event adds, decoded."""
        choices, chunks = raw.get("choices") or [], []
        if not choices or raw.get("error"):
            _check(raw, choices)
        if not isinstance(choices, list):
            raise InvalidUpstreamResponse("sent choices that are no list")
        reported = raw.get("usage")
        if not raw.keys() <= REPLY_FIELDS:
            self._facts = _facts(raw, self._facts)
            reported = reported or not OTHER_REPORTS.isdisjoint(raw)
        for choice in choices:
            chunks.append(self._choice(choice))
            reported = reported or "usage" in choice
        if reported:
            chunks += self._usage(raw, choices)
        return chunks

    def _choice(self, choice: Any) -> Chunk:
        if not isinstance(choice, dict):
            raise InvalidUpstreamResponse("sent a choice that is not an object")
        delta = choice.get("delta") or choice.get("message") or {}
        if not isinstance(delta, dict):
            raise InvalidUpstreamResponse("sent a delta that is not an object")
        reason, index = _reason(choice), _index(choice, 0)
        ended = reason is not None or (self._ended.get(index, False) and _says_nothing(delta))
        self._ended[index] = ended
        self.complete, self.ended = all(self._ended.values()), False
        logprobs = _logprobs(choice) if choice.get("logprobs") else None
        if len(delta) > 1 or type(delta.get("content")) is not str:
            delta = _checked(delta)
        return Chunk(index, delta, reason, logprobs, None, self._facts)

    def _usage(self, raw: Json, choices: list[Any]) -> list[Chunk]:
        """What the answer used so far."""
        usage = read_answer(raw, self._figures)
        if usage is None:
            return []
        # usage beside a choice may come again: Google's compatible endpoint counts in every event
        self.ended = self.complete and not choices and len(self._ended) >= self._wanted
        return [Chunk(usage=usage, facts=self._facts)]


def _merge_caps(body: Json, name: str) -> None:
    """Puts the lower of the two caps on output under one name."""
    caps = []
    for other in CAPS:
        if body.get(other) is not None:
            caps.append(body.pop(other))  # noqa: PERF401 - a comprehension is one more call
    if caps:
        body[name] = min(caps)


def encode_body(body: Callable[[], Json]) -> bytes:
    """A request body, made and written; raises `InvalidRequest` for what is nested too deeply."""
    try:
        return msgspec.json.encode(body())
    except RecursionError:
        raise InvalidRequest("The request is nested too deeply.") from None


def _check(raw: Json, choices: Any) -> None:
    """Raises the error that stands in the place of an answer, or beside it."""
    if (raw.get("error") or not choices) and (error := hidden_error(raw)) is not None:
        raise _error_from(status_of(error), error)


def _checked(delta: Json) -> Json:
    """A delta or message with usable tool calls, its reasoning as `reasoning_content`."""
    if calls := delta.get("tool_calls"):
        _check_calls(calls)
    if isinstance(delta.get("content"), list) and (thoughts := _thoughts(delta["content"])):
        delta = delta | {"reasoning_content": thoughts}
    if (
        "reasoning" in delta
        and isinstance(delta["reasoning"], str)
        and not delta.get("reasoning_content")
    ):
        return delta | {"reasoning_content": delta["reasoning"]}
    return delta


def _check_calls(calls: Any) -> None:
    """Raises `InvalidUpstreamResponse` for calls that have no usable shape."""
    for call in calls if isinstance(calls, list) else [None]:
        if not isinstance(call, dict) or not isinstance(
            call.get("function") or call.get("custom") or {}, dict
        ):
            raise InvalidUpstreamResponse("sent a tool call that is not an object")


def _says_nothing(delta: Json) -> bool:
    return not any(value for name, value in delta.items() if name != "role")


def _thoughts(parts: list[Any]) -> str:
    """Mistral's thoughts, which come as parts of the content beside the words."""
    pieces = [
        part.get("thinking")
        for part in parts
        if isinstance(part, dict) and part.get("type") == "thinking"
    ]
    inner = [piece for one in pieces if isinstance(one, list) for piece in one]
    return "".join(
        piece["text"]
        for piece in inner
        if isinstance(piece, dict) and isinstance(piece.get("text"), str)
    )


def _index(choice: Json, default: int) -> int:
    index = choice.get("index")
    if index is None:
        return default
    if type(index) is not int or not 0 <= index < MAX_CHOICES:
        raise InvalidUpstreamResponse("sent a choice whose index is no index")
    return index


def _reason(choice: Json) -> str | None:
    """Why a choice ended, if it did."""
    if error := choice.get("error"):
        raise _error_from(status_of(error), error)
    reason = choice.get("finish_reason")
    if not reason or not isinstance(reason, str):
        return None
    if reason.lower() in BROKEN:
        raise InvalidUpstreamResponse("gave up in the middle of its answer")
    return reason


def _logprobs(choice: Json) -> Json | None:
    logprobs = choice.get("logprobs")
    return logprobs if isinstance(logprobs, dict) else None


def _facts(raw: Json, known: Json | None) -> Json | None:
    """The fields of the whole reply, or what is known of them where they say nothing new."""
    facts = {}
    for name, value in raw.items():
        if name not in REPLY_FIELDS and value is not None:
            facts[name] = value  # noqa: PERF403 - a comprehension is one more call for each chunk
    return known if not facts or facts == known else facts


def _error_from(status: int, error: Any) -> UpstreamHTTPError:
    """An error object (or text) of an upstream as callers get it."""
    message = clip(text_of(error), 1000) or f"The upstream answered with status {status}."
    fields = as_object(error)
    code, param = fields.get("code"), fields.get("param")
    code = str(code) if isinstance(code, str | int) and not isinstance(code, bool) else None
    overflow = code == "context_length_exceeded" or OVERFLOW.search(message)
    if status in (400, 413, 422) and overflow:
        return UpstreamHTTPError(400, message, param="messages", code="context_length_exceeded")
    param = param if isinstance(param, str) else None
    return UpstreamHTTPError(status, message, param=param, code=code)


def _without_developer(message: Message) -> Message:
    return (
        msgspec.structs.replace(message, role="system") if message.role == "developer" else message
    )
