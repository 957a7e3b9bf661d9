"""What Converse answers, event by event: chunks, usage and errors.

An event is an object with one field, named for its kind.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from chattable.adapters.anthropic.reader import object_in, text_in
from chattable.adapters.anthropic.request import JSON_TOOL
from chattable.adapters.bedrock.errors import error_from
from chattable.adapters.decoding import hidden_error, read_object
from chattable.adapters.errors import InvalidUpstreamResponse
from chattable.adapters.vendors.usage import BEDROCK, BEDROCK_HOUR, read_usage
from chattable.agents.chat import Chunk, Json

FINISHES = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
# Ends that leave nothing to use: as a plain end they would be saved and cached as if the model had
# chosen to say no more.
BROKEN = {
    "malformed_model_output": "gave up on a malformed answer",
    "malformed_tool_use": "made a call that is no call",
}


class _Block(Struct):
    """One content block that has begun; text and thoughts begin with their first piece."""

    call: int | None = None  # its number among the calls
    json: bool = False  # a call that is the answer itself
    ours: bool = True  # not one of the provider's own tools
    said: bool = False  # any of its arguments
    pieces: list[str] = []  # of its thoughts, or of a picture
    signature: str = ""
    redacted: str = ""
    image: str = ""  # its format
    citations: list[Json] = []


class BedrockStream:
    """Reads one streamed answer.

    Thoughts are passed on as `reasoning_content` while they come, and again at their end as signed
    `thinking_blocks`, in the form in which they must go back. What the provider's own tools did is
    left out.
    """

    def __init__(self) -> None:
        self.complete = False
        self.ended = False
        self._blocks: dict[int, _Block] = {}
        self._calls = 0
        self._images = 0
        self._cited: list[Json] = []  # that were not passed on yet
        self._facts: Json = {}

    def feed(self, data: bytes) -> list[Chunk]:
        """What one event adds."""
        raw = read_object(data)
        if len(raw) > 1 and (error := hidden_error(raw)) is not None:
            raise error_from(error)
        return [chunk for kind in raw for chunk in self.on_event(kind, object_in(raw, kind))]

    def on_event(self, kind: str, event: Json) -> list[Chunk]:
        """What one event adds; events of kinds that do not exist yet add nothing."""
        if kind == "contentBlockDelta":
            return self._delta(_index(event), object_in(event, "delta"))
        if kind == "contentBlockStart":
            return self._start(_index(event), object_in(event, "start"))
        if kind == "contentBlockStop":
            return self._stop(_index(event))
        if kind == "messageStop":
            return self._end(event)
        if kind == "metadata":
            return self._count(event)
        if kind == "error" or kind.endswith("Exception"):
            raise error_from(event, kind=kind)
        return []

    def _start(self, index: int, start: Json) -> list[Chunk]:
        block = self._blocks[index] = _Block()
        if "image" in start:
            block.image = text_in(object_in(start, "image"), "format")
        elif "toolUse" in start:
            return self._begin(block, object_in(start, "toolUse"))
        elif "toolResult" in start:
            block.ours = False
        return []

    def _begin(self, block: _Block, call: Json) -> list[Chunk]:
        """A call begins."""
        block.ours = call.get("type") != "server_tool_use"
        name = text_in(call, "name")
        if not name:
            raise InvalidUpstreamResponse("sent a call without a name")
        block.json = name == JSON_TOOL
        if block.json or not block.ours:
            return []
        block.call, self._calls = self._calls, self._calls + 1
        function = {"name": name, "arguments": ""}
        head = {
            "index": block.call,
            "id": text_in(call, "toolUseId"),
            "type": "function",
            "function": function,
        }
        return [Chunk(delta={"tool_calls": [head]})]

    def _delta(self, index: int, delta: Json) -> list[Chunk]:
        block = self._blocks.setdefault(index, _Block())
        if "text" in delta:
            return _say("content", text_in(delta, "text"))
        if "toolUse" in delta:
            return self._argue(block, text_in(object_in(delta, "toolUse"), "input"))
        if "reasoningContent" in delta:
            thought = object_in(delta, "reasoningContent")
            block.signature += text_in(thought, "signature")
            block.redacted += text_in(thought, "redactedContent")
            block.pieces.append(text_in(thought, "text"))
            return _say("reasoning_content", block.pieces[-1])
        if "image" in delta and isinstance(source := object_in(delta, "image").get("source"), dict):
            block.pieces.append(text_in(source, "bytes"))
        elif "citation" in delta:
            self._cited.append(object_in(delta, "citation"))
        return []

    def _argue(self, block: _Block, text: str) -> list[Chunk]:
        """A piece of a call's arguments, or of the answer where `JSON_TOOL` was forced."""
        if not text or not block.ours:
            return []
        block.said = True
        if block.json:
            return _say("content", text)
        if block.call is None:
            raise InvalidUpstreamResponse("sent a piece of a call that never began")
        return [
            Chunk(delta={"tool_calls": [{"index": block.call, "function": {"arguments": text}}]})
        ]

    def _stop(self, index: int) -> list[Chunk]:
        block = self._blocks.pop(index, None)
        if block is None:
            return []
        if (block.call is not None or block.json) and not block.said:
            return self._argue(block, "{}")
        if block.image and block.pieces:
            url = {"url": f"data:image/{block.image};base64,{''.join(block.pieces)}"}
            image = {"index": self._images, "type": "image_url", "image_url": url}
            self._images += 1
            return [Chunk(delta={"images": [image]})]
        thought: Json = {}
        if block.redacted:
            thought = {"index": index, "type": "redacted_thinking", "data": block.redacted}
        elif block.signature:
            thought = {
                "index": index,
                "type": "thinking",
                "thinking": "".join(block.pieces),
                "signature": block.signature,
            }
        return [Chunk(delta={"thinking_blocks": [thought]})] if thought else []

    def _end(self, event: Json) -> list[Chunk]:
        reason = text_in(event, "stopReason")
        if reason in BROKEN:
            raise InvalidUpstreamResponse(BROKEN[reason])
        if not reason:
            raise InvalidUpstreamResponse("ended its answer without a reason")
        chunks = [chunk for index in sorted(self._blocks) for chunk in self._stop(index)]
        self.complete = True
        self._facts = {"stop_reason": reason}
        if more := event.get("additionalModelResponseFields"):
            self._facts["additional_model_response_fields"] = more
        finish = FINISHES.get(reason, "stop")
        if finish == "tool_calls" and not self._calls:
            finish = "stop"  # the only call was the answer itself
        delta: Json = {"citations": self._cited} if self._cited else {}
        self._cited = []  # there may be several ends
        return [*chunks, Chunk(delta=delta, finish_reason=finish, facts=self._facts)]

    def _count(self, event: Json) -> list[Chunk]:
        """What the answer used; the last event."""
        self.ended = self.complete
        if isinstance(tier := event.get("serviceTier"), dict) and isinstance(tier.get("type"), str):
            self._facts = self._facts | {"service_tier": tier["type"]}
        if event.get("trace"):
            self._facts = self._facts | {"trace": event["trace"]}
        raw = event.get("usage")
        if not isinstance(raw, dict):
            return []
        told = _kept_for_an_hour(raw)
        usage = read_usage(raw, told, BEDROCK)
        return [Chunk(usage=usage, facts=self._facts)] if usage is not None else []


def _kept_for_an_hour(raw: Json) -> Json:
    """What was written to a cache for longer than the usual five minutes."""
    details, told = raw.get("cacheDetails"), dict[str, Any]()
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and detail.get("ttl") == "1h":
            read_usage(detail, told, BEDROCK_HOUR)
    return told


def events_of(raw: Json) -> list[tuple[str, Json]]:
    """A whole answer as the events of the stream that it might have been."""
    if "output" not in raw and (error := hidden_error(raw)) is not None:
        raise error_from(error)
    content = object_in(object_in(raw, "output"), "message").get("content")
    if not isinstance(content, list):
        raise InvalidUpstreamResponse("sent a message without content")
    events: list[tuple[str, Json]] = []
    for i, block in enumerate(content):
        if not isinstance(block, dict):
            raise InvalidUpstreamResponse("sent a content block that is not an object")
        events += [(kind, event | {"contentBlockIndex": i}) for kind, event in _events_of(block)]
        events.append(("contentBlockStop", {"contentBlockIndex": i}))
    return [*events, ("messageStop", raw), ("metadata", raw)]


def _events_of(block: Json) -> list[tuple[str, Json]]:
    if "toolUse" in block:
        call = object_in(block, "toolUse")
        given = call.get("input")
        text = msgspec.json.encode(given if isinstance(given, dict) else {}).decode()
        return [
            ("contentBlockStart", {"start": block}),
            ("contentBlockDelta", {"delta": {"toolUse": {"input": text}}}),
        ]
    if "reasoningContent" in block:
        thought = object_in(block, "reasoningContent")
        thought = (
            thought["reasoningText"] if isinstance(thought.get("reasoningText"), dict) else thought
        )
        return [("contentBlockDelta", {"delta": {"reasoningContent": thought}})]
    if "citationsContent" in block:
        cited = object_in(block, "citationsContent")
        deltas = [
            *_list(cited, "content"),
            *({"citation": citation} for citation in _list(cited, "citations")),
        ]
        return [("contentBlockDelta", {"delta": delta}) for delta in deltas]
    if "image" in block:
        return [("contentBlockStart", {"start": block}), ("contentBlockDelta", {"delta": block})]
    return [("contentBlockDelta", {"delta": block})] if "text" in block else []


def _list(raw: Json, name: str) -> list[Any]:
    """A field that is a list or nothing."""
    given = raw.get(name) or []
    if not isinstance(given, list):
        raise InvalidUpstreamResponse(f"sent {name} that are no list")
    return given


def _say(name: str, text: str) -> list[Chunk]:
    return [Chunk(delta={name: text})] if text else []


def _index(event: Json) -> int:
    index = event.get("contentBlockIndex")
    if type(index) is not int or index < 0:
        raise InvalidUpstreamResponse("sent a content block whose index is no index")
    return index
