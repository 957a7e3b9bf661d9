"""One form for every reply (`StreamNormalizer`), and one answer out of it (`Accumulator`)."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import msgspec
from msgspec import Struct

from chattable.agents.chat import Chunk, Json, Message, Usage
from chattable.agents.tool_calls import ToolCallAssembler, merge

FINISHES = ("stop", "length", "tool_calls", "content_filter", "function_call")
# of a choice that ended and never said why: nothing to rely on; clients read null
INCOMPLETE = "incomplete"
# What others call them; whatever is in neither list is a plain end.
SYNONYMS = {
    "max_tokens": "length",
    "model_length": "length",
    "tool_use": "tool_calls",
    "tool_call": "tool_calls",
    "safety": "content_filter",
    "refusal": "content_filter",
}
# with any of these, a message without text has no content
CONTENT_SUBSTITUTES = ("tool_calls", "refusal", "function_call", "audio")


class _Open(Struct):
    """What has been said so far of one choice of a stream."""

    role_sent: bool = False
    calls: ToolCallAssembler = msgspec.field(default_factory=ToolCallAssembler)


class StreamNormalizer:
    """Brings a stream of chunks into the form that every client library accepts.

    Law: a choice's first chunk carries the role, no other does; choices appear in the order of
    their index; tool calls have the form that `ToolCallAssembler` gives them; the finish reason
    is one of OpenAI's, or `INCOMPLETE`, and comes alone, once, at the end, for a provider may
    go on after one: the last one counts, and an answer with tool calls never ends with `stop`.
    The usage comes last, once, and with no choice. Role-only and empty chunks are held back:
    every chunk that is passed on is real output.
    """

    def __init__(self) -> None:
        self._choices: dict[int, _Open] = {}
        self._finishes: dict[int, str] = {}  # by choice, the last one that was given
        self._facts: Json | None = None
        self.usage: Usage | None = None

    def feed(self, chunk: Chunk) -> list[Chunk]:
        """What this chunk adds, none or more chunks."""
        if chunk.usage is not None:
            self.usage = chunk.usage  # providers that repeat it send a running total
        if chunk.facts:
            self._facts = chunk.facts
        delta = chunk.delta
        content = delta.get("content")
        if content is not None and type(content) is not str:
            delta = delta | {"content": _joined(content)}
            content = delta["content"]
        choice = self._choices.get(chunk.index)
        plain = choice is not None and choice.role_sent and chunk.finish_reason is None
        if plain and content and len(delta) == 1:
            # the common case, at once
            return [Chunk(chunk.index, delta, None, chunk.logprobs, None, self._facts)]
        return self._feed(chunk, delta, choice)

    def _feed(self, chunk: Chunk, delta: Json, choice: _Open | None) -> list[Chunk]:
        gained = _without_empty(delta)
        if chunk.finish_reason:
            self._finishes[chunk.index] = chunk.finish_reason
        if not gained and not (chunk.logprobs and chunk.logprobs.get("content")):
            return []
        out: list[Chunk] = []
        if choice is None:
            out += self._open_up_to(chunk.index)
            choice = self._choices[chunk.index]
        if "tool_calls" in gained:
            _assemble_calls(gained, choice)
        if not gained and not chunk.logprobs:
            return out
        if not choice.role_sent:
            choice.role_sent = True
            gained = {"role": "assistant", "content": "", **gained}
        out.append(Chunk(chunk.index, gained, None, chunk.logprobs, None, self._facts))
        return out

    def end(self, unsaid: str = "stop") -> list[Chunk]:
        """The finish reasons, `unsaid` where none was given, then the usage."""
        out: list[Chunk] = []
        for index in self._finishes or [0]:
            if index not in self._choices:
                out += self._open_up_to(index)
        for index, choice in self._choices.items():
            if not choice.role_sent:
                out.append(Chunk(index, {"role": "assistant", "content": ""}, facts=self._facts))
            finish = _finish(self._finishes.get(index, unsaid))
            if finish == "stop" and choice.calls:
                finish = "tool_calls"
            out.append(Chunk(index, {}, finish, facts=self._facts))
        if self.usage is not None:
            out.append(Chunk(usage=self.usage, facts=self._facts))
        return out

    def _open_up_to(self, index: int) -> list[Chunk]:
        """Opens choice `index` after all lower ones, for clients append choices as they come."""
        out = []
        for i in range(index):
            lower = self._choices.setdefault(i, _Open())
            if not lower.role_sent:
                lower.role_sent = True
                out.append(Chunk(i, {"role": "assistant", "content": ""}, facts=self._facts))
        self._choices[index] = _Open()
        return out


class Choice(Struct):
    """One of the answers of a completion, in OpenAI's form."""

    index: int
    message: Json
    logprobs: Json | None
    finish_reason: str | None


class Accumulator:
    """Folds a normalized stream to one answer.

    Strings and lists grow; of everything else the last value counts.
    """

    def __init__(self) -> None:
        self._choices: dict[int, Choice] = {}
        self.usage: Usage | None = None
        self.facts: Json = {}

    def add(self, chunk: Chunk) -> None:
        """Takes the next chunk."""
        if chunk.facts:
            self.facts = chunk.facts
        if chunk.usage is not None:
            self.usage = chunk.usage
            return
        choice = self._choices.get(chunk.index)
        if choice is None:
            choice = self._choices[chunk.index] = Choice(chunk.index, {}, None, None)
        if chunk.delta:
            _grow(choice.message, chunk.delta)
        if chunk.finish_reason:
            choice.finish_reason = chunk.finish_reason
        if chunk.logprobs:
            choice.logprobs = choice.logprobs or {}
            _grow(choice.logprobs, chunk.logprobs)

    def choices(self) -> list[Choice]:
        """The answers so far, each message with the fields that clients require."""
        for choice in self._choices.values():
            message = choice.message
            calls = message.get("tool_calls")
            if calls and "index" in calls[0]:
                message["tool_calls"] = [
                    {k: v for k, v in call.items() if k != "index"} for call in calls
                ]
            if not message.get("content") and any(map(message.get, CONTENT_SUBSTITUTES)):
                message["content"] = None
            message.setdefault("refusal", None)
        return [self._choices[i] for i in sorted(self._choices)]

    def message(self) -> Message:
        """The first answer, as a message of a conversation."""
        choices = self.choices()
        return as_message(choices[0].message) if choices else Message("assistant", "")


def as_message(raw: Json) -> Message:
    """A message in OpenAI's JSON form as a `Message`, unknown fields kept."""
    message = msgspec.convert({"role": "assistant"} | raw, Message)
    message.extra = {k: v for k, v in raw.items() if k not in Message.__struct_fields__}
    return message


def _without_empty(delta: Json) -> Json:
    """What a delta really adds, without the role."""
    gained = {}
    for name, value in delta.items():
        if value is not None and value not in ("", []) and name != "role":
            gained[name] = value  # noqa: PERF403 - a comprehension is one more call for each chunk
    return gained


def _assemble_calls(gained: Json, choice: _Open) -> None:
    """Replaces pieces of calls by what they add; by nothing where all are held back."""
    gained["tool_calls"] = choice.calls.feed(gained["tool_calls"])
    if not gained["tool_calls"]:
        del gained["tool_calls"]
    elif not choice.role_sent:
        gained.setdefault("content", None)  # a message that begins with calls has no text


def _grow(whole: Json, delta: Json) -> None:
    for key, new in delta.items():
        old = whole.get(key)
        if key == "tool_calls":
            whole[key] = merge(old or [], new)
            continue
        match old, new:
            case str(), str() if key != "role":
                whole[key] = old + new
            case list(), list():
                old.extend(new)
            case dict(), dict():
                _grow(old, new)
            case _ if new is not None or old is None:
                # chunks are shared
                whole[key] = deepcopy(new) if isinstance(new, (dict, list)) else new


def _finish(reason: str) -> str:
    """A finish reason by OpenAI's name."""
    name = str(reason).lower()
    return name if name in FINISHES or name == INCOMPLETE else SYNONYMS.get(name, "stop")


def _joined(content: Any) -> str:
    """The text of a content that came as parts instead of a string."""
    if isinstance(content, list):
        return "".join(
            part["text"]
            for part in content
            if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    return str(content)
