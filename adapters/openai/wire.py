"""OpenAI's chat completions, as OpenAI and everybody compatible with it speak them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from copy import copy
from typing import Any, Self

import msgspec
from msgspec import Struct

from chattable.adapters.decoding import hidden_error, read_error, read_object, status_of, text_of
from chattable.adapters.errors import BrokenAnswer, Refused
from chattable.adapters.openai.messages import marked, translate, unmarked
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
# Finish reasons of vendors that gave up.
BROKEN = ("error", "abort", "aborted", "canceled", "cancelled", "insufficient_system_resource")
MAX_CHOICES = 128
PLAIN = ("user", "assistant", "system")  # roles that every server knows
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

    Law: what the client sent goes out as it came, but for the quirks, the usage of streams, what of
    a history the vendor does not take, and parameters that are withheld; none takes the place of
    the model, the messages or the stream.
    """

    def __init__(self, quirks: Quirks | None = None, vendor: str = "") -> None:
        self.quirks = quirks or Quirks()
        self.vendor = vendor  # whose row says what of a history it takes; empty: nobody's known
        self._drops = self.quirks.drops | {BETAS}

    def ruled(self, unsupported: Unsupported, allow: Collection[str] = ()) -> Self:
        """The wire as a provider's settings want it."""
        wire = super().ruled(unsupported, allow)
        wire._drops = self.quirks.drops | wire.withheld | {BETAS}
        return wire

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

    def request(self, chat: Chat, model: str, most: int | None = None) -> bytes:
        """The body, usage of a stream always asked for."""
        quirks, params = self.quirks, chat.params
        said: Sequence[Message | Json] = chat.messages
        for message in chat.messages:
            if (
                message.tool_calls
                or message.extra
                or message.reasoning_content is not None
                or type(message.content) is not str
                or message.role not in PLAIN
                or message.name is not None
                or message.refusal is not None
            ):
                said = self._history(chat.messages, model)
                break
        else:
            if chat.messages and chat.messages[-1].role == "assistant":
                said = self._history(chat.messages, model)
        body: Json = {**params, "model": model, "messages": said, "stream": True}
        if not chat.stream:
            del body["stream"]
        if not self._drops.isdisjoint(params):
            if self.unsupported == "reject" and (
                lacking := sorted(self._drops & params.keys() - HARMLESS)
            ):
                raise unsupported_parameter(lacking[0], "this model does not have it")
            body = {k: v for k, v in body.items() if k not in self._drops}
        if "tools" in body and marked(body["tools"]) and self._takes(model).strict:
            body["tools"] = unmarked(body["tools"])
        if quirks.max_tokens:
            caps = [
                body.pop(k)
                for k in ("max_tokens", "max_completion_tokens")
                if body.get(k) is not None
            ]
            if caps:
                body[quirks.max_tokens] = min(caps)
        if chat.stream and quirks.stream_usage:
            body["stream_options"] = (body.get("stream_options") or {}) | {"include_usage": True}
        else:
            body.pop("stream_options", None)
        return msgspec.json.encode(body)

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

    def reply(self, body: bytes) -> list[Chunk]:
        """The answer's choices, then its usage."""
        return self.read(read_object(body))

    def read(self, raw: Json) -> list[Chunk]:
        """The same of an answer that is decoded."""
        choices = raw.get("choices")
        _check(raw, choices)
        if not isinstance(choices, list) or not choices:
            raise BrokenAnswer("sent an answer without choices")
        facts = _facts(raw)
        chunks = []
        for i, choice in enumerate(choices):
            message = choice.get("message") if isinstance(choice, dict) else None
            if not isinstance(message, dict):
                raise BrokenAnswer("sent a choice without a message")
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

    def stream(self, choices: int = 1) -> OpenAIStream:
        """A reader for one stream."""
        return OpenAIStream(choices)

    def error(self, status: int, body: bytes) -> Refused:
        """The upstream's own error, in OpenAI's shape or any other that says `error` or `message`."""
        raw = read_error(body)
        return _reported(status, hidden_error(raw) or raw)


class OpenAIStream:
    """Reads one stream of chat completion chunks.

    Law: usage is told as soon as it comes, and nothing is over while a choice is open: llama.cpp
    reports once for each. A choice that says more after its end goes on.
    """

    def __init__(self, choices: int = 1) -> None:
        self.complete = False
        self.ended = False
        self._wanted = choices
        self._ended: dict[int, bool] = {}  # of every choice that has begun
        self._facts: Json | None = None
        self._told: Json = {}  # of the usage

    def feed(self, data: bytes) -> list[Chunk]:
        """What one event adds."""
        if data == b"[DONE]":
            self.complete = self.ended = True
            return []
        return self.see(read_object(data))

    def see(self, raw: Json) -> list[Chunk]:
        """What one event adds, decoded."""
        choices, chunks = raw.get("choices") or [], []
        if not choices or raw.get("error"):
            _check(raw, choices)
        facts = _facts(raw)
        if facts != self._facts and facts is not None:
            self._facts = facts
        if not isinstance(choices, list):
            raise BrokenAnswer("sent choices that are no list")
        reported = raw.get("usage") or "x_groq" in raw or "timings" in raw
        for choice in choices:
            if not isinstance(choice, dict):
                raise BrokenAnswer("sent a choice that is not an object")
            delta, reason = choice.get("delta") or choice.get("message") or {}, _reason(choice)
            if not isinstance(delta, dict):
                raise BrokenAnswer("sent a delta that is not an object")
            index, ended = _index(choice, 0), reason is not None
            if not ended and self._ended.get(index):
                ended = not any(value for name, value in delta.items() if name != "role")
            self._ended[index] = ended
            self.complete, self.ended = all(self._ended.values()), False
            reported = reported or "usage" in choice
            logprobs = _logprobs(choice) if choice.get("logprobs") else None
            chunks.append(Chunk(index, _checked(delta), reason, logprobs, None, self._facts))
        if reported and (usage := read_answer(raw, self._told)) is not None:
            # What is told beside a choice may be told again: Google's compatible endpoint counts in
            # every event.
            self.ended = self.complete and not choices and len(self._ended) >= self._wanted
            chunks.append(Chunk(usage=usage, facts=self._facts))
        return chunks


def write(body: Callable[[], Json]) -> bytes:
    """A request body, made and written; raises `InvalidRequest` for what is nested too deeply."""
    try:
        return msgspec.json.encode(body())
    except RecursionError:
        raise InvalidRequest("The request is nested too deeply.") from None


def _check(raw: Json, choices: Any) -> None:
    """Raises the error that stands in the place of an answer, or beside it."""
    if (raw.get("error") or not choices) and (error := hidden_error(raw)) is not None:
        raise _reported(status_of(error), error)


def _checked(delta: Json) -> Json:
    """A delta or message whose tool calls have a usable shape and whose reasoning has the name that clients look for."""
    if calls := delta.get("tool_calls"):
        for call in calls if isinstance(calls, list) else [None]:
            if not isinstance(call, dict) or not isinstance(
                call.get("function") or call.get("custom") or {}, dict
            ):
                raise BrokenAnswer("sent a tool call that is not an object")
    if isinstance(delta.get("content"), list) and (thoughts := _thoughts(delta["content"])):
        delta = delta | {"reasoning_content": thoughts}
    if (
        "reasoning" in delta
        and isinstance(delta["reasoning"], str)
        and not delta.get("reasoning_content")
    ):
        return delta | {"reasoning_content": delta["reasoning"]}
    return delta


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
        raise BrokenAnswer("sent a choice whose index is no index")
    return index


def _reason(choice: Json) -> str | None:
    """Why a choice ended, if it did."""
    if error := choice.get("error"):
        raise _reported(status_of(error), error)
    reason = choice.get("finish_reason")
    if not reason or not isinstance(reason, str):
        return None
    if reason.lower() in BROKEN:
        raise BrokenAnswer("gave up in the middle of its answer")
    return reason


def _logprobs(choice: Json) -> Json | None:
    logprobs = choice.get("logprobs")
    return logprobs if isinstance(logprobs, dict) else None


def _facts(raw: Json) -> Json | None:
    facts = {}
    for name, value in raw.items():
        if name not in REPLY_FIELDS and value is not None:
            facts[name] = value  # noqa: PERF403 - a comprehension is one more call for each chunk
    return facts or None


def _reported(status: int, error: Any) -> Refused:
    """An error object (or text) of an upstream as what the asker is told."""
    message = clip(text_of(error), 1000) or f"The upstream answered with status {status}."
    code, param = (
        (error.get("code"), error.get("param")) if isinstance(error, dict) else (None, None)
    )
    code = str(code) if isinstance(code, str | int) and not isinstance(code, bool) else None
    if status in (400, 413, 422) and (
        code == "context_length_exceeded" or OVERFLOW.search(message)
    ):
        return Refused(400, message, param="messages", code="context_length_exceeded")
    return Refused(status, message, param=param if isinstance(param, str) else None, code=code)


def _without_developer(message: Message) -> Message:
    return (
        msgspec.structs.replace(message, role="system") if message.role == "developer" else message
    )
