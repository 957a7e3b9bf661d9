"""ShareGPT's format: turns with `from` and `value`, or with `role` and `content`."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from chattable.agents.chat import Json, Message
from chattable.proxy.importers.transcripts.fields import list_in, moment, said_in, stand_in, text_in
from chattable.proxy.importers.transcripts.messages import call, json_kind, message_of
from chattable.proxy.importers.transcripts.native import line
from chattable.proxy.importers.transcripts.transcript import (
    ImportNotes,
    Node,
    Transcript,
    Unreadable,
    made,
)
from chattable.proxy.importers.transcripts.tree import bounded, grown
from chattable.proxy.store.sessions.port import Item, SessionRecord

WRITTEN = {
    "user": "human",
    "assistant": "gpt",
    "tool": "observation",
    "function": "observation",
    "developer": "system",
}
ROLES = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(
        ("gpt", "assistant", "chatgpt", "bing", "bard", "claude", "model", "bot", "ai"), "assistant"
    ),
    **dict.fromkeys(("function_call", "function-call", "tool_call", "tool_calls"), "call"),
    **dict.fromkeys(
        ("observation", "tool", "tool_response", "function", "function_response", "ipython"), "tool"
    ),
    "system": "system",
    "developer": "developer",
}
TURNS = ("conversations", "conversation", "messages")
KNOWN = (*TURNS, "id", "title", "model", "system", "images", "created_at")
SAID = ("from", "role", "value", "content", "text", "tool_calls", "tool_call_id", "name")
IMAGE = "<image>"


async def write(
    session: SessionRecord, batches: AsyncIterator[tuple[Item, ...]]
) -> AsyncIterator[bytes]:
    """One line: the words up to the head, and the calls of tools."""
    yield b'{"id":' + line(session.id).rstrip() + b',"conversations":['
    comma = b""
    async for batch in batches:
        turns = [line(turn).rstrip() for item in batch for turn in _turns(item.message)]
        if turns:
            yield comma + b",".join(turns)
            comma = b","
    yield b"]}\n"


def _turns(message: Message) -> list[Json]:
    """The turns that a message is: its words, then its calls."""
    turns = []
    words = shown_content(message)
    if words or not message.tool_calls:
        turns.append({"from": WRITTEN.get(message.role, message.role), "value": words})
    if message.tool_calls:
        calls = [_function(one) for one in message.tool_calls]
        turns.append(
            {
                "from": "function_call",
                "value": json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False),
            }
        )
    return turns


def shown_content(message: Message) -> str:
    """A message's content as text, in which parts without words have a name."""
    if not isinstance(message.content, list):
        return message.content or message.refusal or ""
    return "\n".join(
        part["text"] if isinstance(part.get("text"), str) else _part(part)
        for part in message.content
    )


def _part(part: Json) -> str:
    image = part.get("image_url")
    address = image.get("url") if isinstance(image, dict) else image
    if isinstance(address, str):
        return stand_in("image", "" if address.startswith("data:") else address)
    return stand_in(str(part.get("type", "part")))


def _function(one: Json) -> Json:
    function = one.get("function") or one.get("custom")
    given = function if isinstance(function, dict) else {}
    arguments = given.get("arguments", given.get("input", ""))
    try:
        return {"name": given.get("name"), "arguments": json.loads(str(arguments))}
    except (ValueError, RecursionError):
        return {"name": given.get("name"), "arguments": arguments}


def fits(value: Any) -> bool:
    """Says whether this is a conversation: an object with turns, or the turns alone."""
    if isinstance(value, dict):
        turns = next((value[name] for name in TURNS if isinstance(value.get(name), list)), None)
        return turns is not None and ("messages" not in value or _is_turn(turns))
    return isinstance(value, list) and _is_turn(value)


def _is_turn(turns: list[Any]) -> bool:
    return bool(turns) and isinstance(turns[0], dict) and "from" in turns[0]


def read(value: Any, notes: ImportNotes) -> Transcript:
    """One conversation."""
    raw: Json = value if isinstance(value, dict) else {"conversations": value}
    turns = next((raw[name] for name in TURNS if isinstance(raw.get(name), list)), None)
    if turns is None:
        raise Unreadable(
            "A conversation must be an object with an array 'conversations', or such an array.",
            "conversations",
        )
    bounded(turns)
    reader = _Reader(list_in(raw, "images"), notes)
    if system := text_in(raw, "system"):
        reader.add(Message("system", system), -1)
    for index, turn in enumerate(turns):
        reader.take(turn, index)
    items, kept = grown(reader.nodes, notes)
    notes.lost(said_in(raw, KNOWN))
    return made(
        items,
        kept[reader.nodes[-1].id if reader.nodes else None],
        title=text_in(raw, "title") or None,
        model=text_in(raw, "model") or None,
        created_at=moment(raw.get("created_at")),
    )


def _content(turn: Json) -> Any:
    contents = (turn.get(name) for name in ("value", "content", "text"))
    return next((content for content in contents if content is not None), None)


def _openai_message(turn: Json, role: str, content: Any) -> Message:
    """A turn that is a message in OpenAI's form, under other names."""
    fields = {name: turn[name] for name in ("tool_calls", "tool_call_id") if name in turn}
    given = "assistant" if role == "call" else role
    return message_of({"role": given, "content": content, **fields})


class _Reader:
    """Reads turns, and pairs what tools say with the calls before it."""

    def __init__(self, images: list[Any], notes: ImportNotes) -> None:
        self.nodes: list[Node] = []
        self._images = deque(images)
        self._notes = notes
        self._waiting: deque[str] = deque()  # ids of calls
        self._calls = 0

    def add(self, message: Message | None, index: int, speaker: str = "") -> None:
        """Adds a message behind the others."""
        parent = self.nodes[-1].id if self.nodes else None
        self.nodes.append(
            Node(id=str(index), parent=parent, index=index, message=message, speaker=speaker)
        )

    def take(self, turn: Any, index: int) -> None:
        """Adds a turn, or notes why not."""
        try:
            if not isinstance(turn, dict):
                raise Unreadable(f"expected an object, not {json_kind(turn)}")
            name = text_in(turn, "from", "role")
            role = ROLES.get(name.lower())
            if role is None:
                raise Unreadable(f"nothing is known of who speaks: {name!a:.60}")
            self._notes.lost(said_in(turn, SAID))
            speaker = (
                name if role == "assistant" and name.lower() not in ("gpt", "assistant") else ""
            )
            self.add(self._message(turn, role, index), index, speaker)
        except Unreadable as error:
            self._notes.add(f"left out: {error.message}", index)

    def _message(self, turn: Json, role: str, index: int) -> Message:
        content = _content(turn)
        if isinstance(content, list) or "tool_calls" in turn or "tool_call_id" in turn:
            return _openai_message(turn, role, content)
        if not isinstance(content, str | None):
            raise Unreadable(f"expected words, not {json_kind(content)}")
        words = self._pictured(content or "")
        if role == "call":
            return self._called(words, index)
        if role == "tool":
            return Message("tool", words, tool_call_id=self._answered(index))
        return Message(role, words)

    def _called(self, words: str, index: int) -> Message:
        try:
            given = json.loads(words)
        except (ValueError, RecursionError):
            given = None
        calls = []
        for one in given if isinstance(given, list) else [given]:
            name = text_in(one, "name") if isinstance(one, dict) else ""
            if not name:
                self._notes.add(
                    "this call is no JSON with a name and arguments: kept as words", index
                )
                return Message("assistant", words)
            self._calls += 1
            calls.append(
                call(f"call_{self._calls}", name, one.get("arguments", one.get("parameters")))
            )
        self._waiting = deque(one["id"] for one in calls)
        return Message("assistant", tool_calls=calls)

    def _answered(self, index: int) -> str | None:
        if self._waiting:
            return self._waiting.popleft()
        self._notes.add("answers no call before it: it is kept, and models are not shown it", index)
        return None

    def _pictured(self, words: str) -> str:
        """The words with the names of the pictures, which are files elsewhere."""
        first, *others = words.split(IMAGE)
        names = (
            stand_in("image", self._images.popleft()) if self._images else IMAGE for _ in others
        )
        return first + "".join(part for pair in zip(names, others, strict=True) for part in pair)
