"""What Anthropic answers, event by event: chunks, usage and errors."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Struct

from chattable.adapters.anthropic.request import JSON_TOOL
from chattable.adapters.decoding import as_object, hidden_error, read_object, status_of, text_of
from chattable.adapters.errors import InvalidUpstreamResponse, UpstreamHTTPError
from chattable.adapters.vendors.usage import ANTHROPIC, ANTHROPIC_PROMPT, UsageFields, read_usage
from chattable.agents.chat import Chunk, Json
from chattable.agents.errors import clip

OVERFLOW = re.compile(r"prompt is too long|exceeds? (the )?(model's )?(maximum )?context", re.I)
FINISHES = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
TIERS = {"standard": "default", "priority": "priority"}
# What an error inside a stream would have been as a status.
STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
CODES = {"rate_limit_error": "rate_limit_exceeded", "request_too_large": "request_too_large"}
# How Anthropic's names of fields, which begin its messages, are called in a chat completion.
FIELDS = re.compile(
    r"(messages|system|tools|tool_choice|max_tokens|temperature|top_p|stop_sequences|thinking"
    r"|output_config)\b[.:]"
)
NAMES = {
    "system": "messages",
    "stop_sequences": "stop",
    "thinking": "reasoning_effort",
    "output_config": "response_format",
}


class _Block(Struct):
    """One content block that has begun."""

    kind: str
    raw: Json
    at: int  # where its text begins in the answer
    pieces: list[str] = []  # of its thoughts, or of the arguments of its call
    signature: str = ""
    call: int | None = None  # its number among the calls
    citations: list[Json] = []


class AnthropicStream:
    """Reads one streamed message.

    Thoughts are passed on as `reasoning_content` while they come, and again at their end as signed
    `thinking_blocks`, in the form in which they must go back. What the provider's own tools did is
    left out. Usage comes in running totals, that of the prompt first, and is passed on as it comes.
    """

    def __init__(self) -> None:
        self.complete = False
        self.ended = False
        self._blocks: dict[int, _Block] = {}
        self._calls = 0
        self._length = 0  # of the text so far
        self._cited: list[Json] = []  # that were not passed on yet
        self._refused = False
        self._figures: Json = {}  # of the usage
        self._facts: Json = {}

    def feed(self, data: bytes) -> list[Chunk]:
        """What one event adds."""
        return self.on_event(read_object(data))

    def on_event(self, event: Json) -> list[Chunk]:
        """What one event adds; events of kinds that do not exist yet add nothing."""
        kind = event.get("type")
        if kind == "content_block_delta":
            return self._delta(_index(event), object_in(event, "delta"))
        if kind == "content_block_start":
            return self._start(_index(event), object_in(event, "content_block"))
        if kind == "content_block_stop":
            return self._stop(_index(event))
        if kind == "message_start":
            # What it says of the output is a placeholder.
            return self._count(object_in(event, "message"), ANTHROPIC_PROMPT)
        if kind == "message_delta":
            ended = self._end(object_in(event, "delta")) if event.get("delta") is not None else []
            return ended + self._count(event, ANTHROPIC)
        if kind == "message_stop":
            self.complete = self.ended = True
        elif (error := hidden_error(event)) is not None:
            raise error_from(error)
        return []

    def _start(self, index: int, raw: Json) -> list[Chunk]:
        """A block begins, with all of its content where the message came at once."""
        self.complete = False
        block = self._blocks[index] = _Block(str(raw.get("type")), raw, self._length)
        if block.kind == "text":
            given = raw.get("citations")
            block.citations = (
                [cited for cited in given if isinstance(cited, dict)]
                if isinstance(given, list)
                else []
            )
            return self._text(text_in(raw, "text"))
        if block.kind == "thinking":
            block.signature = text_in(raw, "signature")
            return self._think(block, text_in(raw, "thinking"))
        if block.kind != "tool_use":
            return []
        name = text_in(raw, "name")
        if not name:
            raise InvalidUpstreamResponse("sent a call without a name")
        if name == JSON_TOOL:  # the answer itself
            return []
        block.call, self._calls = self._calls, self._calls + 1
        call = {
            "index": block.call,
            "id": text_in(raw, "id"),
            "type": "function",
            "function": {"name": name, "arguments": ""},
        }
        return [Chunk(delta={"tool_calls": [call]})]

    def _delta(self, index: int, delta: Json) -> list[Chunk]:
        kind = delta.get("type")
        block = self._blocks.get(index)
        if block is None:
            raise InvalidUpstreamResponse("sent a piece of a content block that never began")
        if kind == "text_delta" and block.kind == "text":
            return self._text(text_in(delta, "text"))
        if kind == "thinking_delta" and block.kind == "thinking":
            return self._think(block, text_in(delta, "thinking"))
        if kind == "input_json_delta" and block.kind == "tool_use":
            return self._argue(block, text_in(delta, "partial_json"))
        if kind == "signature_delta":
            block.signature += text_in(delta, "signature")
        elif kind == "citations_delta":
            block.citations.append(object_in(delta, "citation"))
        return []

    def _stop(self, index: int) -> list[Chunk]:
        block = self._blocks.pop(index, None)
        if block is None:
            return []
        # the arguments stand where the block began, or there are none
        if block.kind == "tool_use" and not block.pieces:
            given = block.raw.get("input")
            return self._argue(
                block, msgspec.json.encode(given if isinstance(given, dict) else {}).decode()
            )
        for citation in block.citations:
            self._cited.append(citation | {"start_index": block.at, "end_index": self._length})
        if block.kind == "thinking" and block.signature:
            thought = {
                "index": index,
                "type": "thinking",
                "thinking": "".join(block.pieces),
                "signature": block.signature,
            }
            return [Chunk(delta={"thinking_blocks": [thought]})]
        if block.kind == "redacted_thinking":
            thought = {"index": index, "type": block.kind, "data": text_in(block.raw, "data")}
            return [Chunk(delta={"thinking_blocks": [thought]})]
        return []

    def _end(self, delta: Json) -> list[Chunk]:
        """The end of the answer, unless this is only news of what it used."""
        reason = delta.get("stop_reason")
        if not isinstance(reason, str):
            return []
        chunks = [chunk for index in sorted(self._blocks) for chunk in self._stop(index)]
        self.complete = True
        facts = {"stop_reason": reason}
        if isinstance(delta.get("stop_sequence"), str):
            facts["stop_sequence"] = delta["stop_sequence"]
        self._facts = self._facts | facts  # chunks that are on their way keep what was known
        finish = FINISHES.get(reason, "stop")
        if finish == "tool_calls" and not self._calls:
            finish = "stop"  # the only call was the answer itself
        return [
            *chunks,
            Chunk(delta=self._last_words(delta), finish_reason=finish, facts=self._facts),
        ]

    def _last_words(self, delta: Json) -> Json:
        """What is said of the whole answer: why it was refused, and its sources.

        Once, for there may be several ends.
        """
        out: Json = {}
        cited, self._cited = self._cited, []
        details = delta.get("stop_details")
        if (
            isinstance(details, dict)
            and (why := text_in(details, "explanation"))
            and not self._refused
        ):
            out["refusal"] = why
            self._refused = True
        if pages := [
            _annotation(citation) for citation in cited if isinstance(citation.get("url"), str)
        ]:
            out["annotations"] = pages
        if passages := [citation for citation in cited if not isinstance(citation.get("url"), str)]:
            out["citations"] = passages
        return out

    def _text(self, text: str) -> list[Chunk]:
        self._length += len(text)
        return [Chunk(delta={"content": text})] if text else []

    def _think(self, block: _Block, text: str) -> list[Chunk]:
        block.pieces.append(text)
        return [Chunk(delta={"reasoning_content": text})] if text else []

    def _argue(self, block: _Block, text: str) -> list[Chunk]:
        """A piece of a call's arguments, or of the answer where `JSON_TOOL` was forced."""
        if not text:
            return []
        block.pieces.append(text)
        if block.call is None:
            return self._text(text)
        return [
            Chunk(delta={"tool_calls": [{"index": block.call, "function": {"arguments": text}}]})
        ]

    def _count(self, raw: Json, places: UsageFields) -> list[Chunk]:
        """The usage so far."""
        report = raw.get("usage")
        if not isinstance(report, dict):
            return []
        if isinstance(tier := report.get("service_tier"), str) and tier in TIERS:
            self._facts = self._facts | {"service_tier": TIERS[tier]}
        usage = read_usage(report, self._figures, places)
        return [Chunk(usage=usage, facts=self._facts)] if usage is not None else []


def _annotation(citation: Json) -> Json:
    """A page that was cited, in OpenAI's form."""
    fields = ("url", "title", "start_index", "end_index")
    return {
        "type": "url_citation",
        "url_citation": {k: citation[k] for k in fields if citation.get(k) is not None},
    }


def error_from(error: Any, status: int | None = None) -> UpstreamHTTPError:
    """An error object (or text) as the error that the caller gets."""
    message, error = text_of(error), as_object(error)
    kind = error["type"] if isinstance(error.get("type"), str) else ""
    status = status or STATUSES.get(kind) or status_of(error or message)
    message = clip(message, 1000) or f"The upstream answered with status {status}."
    if status in (400, 413) and OVERFLOW.search(message):
        return UpstreamHTTPError(400, message, param="messages", code="context_length_exceeded")
    if kind == "not_found_error" and message.startswith("model:"):
        return UpstreamHTTPError(status, message, param="model", code="model_not_found")
    return UpstreamHTTPError(
        status, message, param=_param(message), code=_code(kind, error.get("details"))
    )


def _param(message: str) -> str | None:
    """The parameter that a message begins with, by OpenAI's name."""
    field = FIELDS.match(message)
    return NAMES.get(field[1], field[1]) if field else None


def _code(kind: str, details: Any) -> str | None:
    code = details.get("error_code") if isinstance(details, dict) else None
    return code if isinstance(code, str) else CODES.get(kind)


def _index(event: Json) -> int:
    index = event.get("index")
    if type(index) is not int or index < 0:
        raise InvalidUpstreamResponse("sent a content block whose index is no index")
    return index


def object_in(raw: Json, name: str) -> Json:
    """A field that must be an object."""
    value = raw.get(name)
    if not isinstance(value, dict):
        raise InvalidUpstreamResponse(f"sent a {name} that is not an object")
    return value


def text_in(raw: Json, name: str) -> str:
    """A text field; absent is empty."""
    value = raw.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidUpstreamResponse(f"sent a {name} that is not text")
    return value or ""
