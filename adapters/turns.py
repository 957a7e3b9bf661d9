"""Messages as other providers have them: turns of two sides, calls with their arguments taken apart, files as bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from chattable.adapters.params import invalid
from chattable.agents.chat import Json, Message
from chattable.agents.errors import InvalidRequest

Blocks = Callable[[Message, str], list[Json]]
# What a thought must carry to go back to the model that had it, by its type.
THOUGHTS = {"thinking": ("thinking", "signature"), "redacted_thinking": ("data",)}


def take_turns(
    messages: Iterable[Message], *, instructions: Blocks, blocks: Blocks, answers: Callable[[Json], bool]
) -> tuple[list[Json], list[Json]]:
    """The blocks of the system prompt, and the turns: neighbours of one role are one, and answers to calls come first in it."""
    system: list[Json] = []
    turns: list[Json] = []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if message.role in ("system", "developer"):
            system += instructions(message, where)
            continue
        role = "assistant" if message.role == "assistant" else "user"
        if not (said := blocks(message, where)):
            continue
        if not turns or turns[-1]["role"] != role:
            turns.append({"role": role, "content": said})
            continue
        turns[-1]["content"] += said
        if role == "user":
            turns[-1]["content"].sort(key=lambda block: not answers(block))
    if not turns and system:  # instructions alone are a question too
        turns, system = [{"role": "user", "content": system}], []
    if not turns:
        raise says_nothing()
    return system, turns


def says_nothing() -> InvalidRequest:
    """Messages that are all empty."""
    return InvalidRequest("Invalid 'messages': none of them says anything.", param="messages")


def thoughts(message: Message) -> Iterator[tuple[int, Json]]:
    """The thoughts that can go back, each with its place; one without its signature is another model's, or was cut."""
    raw = message.extra.get("thinking_blocks")
    for thought in raw if isinstance(raw, list) else ():
        kind = thought.get("type") if isinstance(thought, dict) else None
        fields = THOUGHTS.get(kind, ()) if isinstance(kind, str) else ()
        if fields and all(isinstance(thought.get(field), str) for field in fields):
            at = thought.get("index")
            yield at if isinstance(at, int) else 0, {"type": kind} | {field: thought[field] for field in fields}


def weave(thoughts: Iterable[tuple[int, Json]], said: Iterable[Json]) -> list[Json]:
    """Thoughts where they were, words and calls in the gaps between them; none at the end, where no turn may have one."""
    rest = iter(said)
    blocks: list[Json] = []
    end = 0  # of what stays
    for at, thought in thoughts:
        while len(blocks) < at and (block := next(rest, None)):
            blocks.append(block)
            end = len(blocks)
        blocks.append(thought)
    if last := list(rest):
        return blocks + last
    return blocks[:end]


def call_of(call: Json) -> tuple[str, Json]:
    """The name of what is called and its arguments; text that is no object, cut off or never JSON, is kept as it is."""
    body: Json = next((body for body in (call.get("function"), call.get("custom")) if isinstance(body, dict)), {})
    text = body.get("arguments") or body.get("input") or "{}"
    try:
        arguments = msgspec.json.decode(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        arguments = None
    return str(body.get("name") or ""), arguments if isinstance(arguments, dict) else {"arguments": text}


def data_url(url: Any, where: str, *, or_else: str = "an http(s) URL or ") -> tuple[str, str]:
    """The media type and the base64 of a data URL."""
    head, comma, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    head = head[:200].lower()
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise invalid(where, f"expected {or_else}a data URL in base64, data:<media type>;base64,<data>")
    return head[5:].partition(";")[0] or "text/plain", data
