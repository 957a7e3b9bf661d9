"""Messages as other providers have them: turns of two sides, calls with their arguments taken apart, files as bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from chattable.adapters.params import invalid
from chattable.adapters.vendors.history import CallIds
from chattable.agents.chat import Json, Message
from chattable.agents.errors import InvalidRequest

Blocks = Callable[[Message, str], list[Json]]
# What a thought must carry to go back to the model that had it, by its type.
THOUGHTS = {"thinking": ("thinking", "signature"), "redacted_thinking": ("data",)}
INSTRUCTIONS = ("system", "developer")
UNANSWERED = "(There was no answer.)"  # to a call that the conversation went on without
# where a conversation begins so and somebody must have asked
OPENING = "(The assistant speaks first.)"


def take_turns(
    messages: Sequence[Message],
    *,
    instructions: Blocks,
    blocks: Blocks,
    answers: Callable[[Json], bool],
    fit: Callable[[str], str],
) -> tuple[list[Json], list[Json]]:
    """The blocks of the system prompt, and the turns.

    Law: the user begins; neighbours of one role are one turn, and answers to calls come first in
    it; no two calls share an id, which `fit` makes as the vendor wants it, and each that was spoken
    on behind has an answer. Instructions behind the last of the assistant's words keep their place,
    as the user's turn.
    """
    system: list[Json] = []
    turns: list[Json] = []
    waiting: dict[str, None] = {}  # calls that were not answered yet
    end = asked_until(messages)

    def add(role: str, said: list[Json]) -> None:
        if not turns or turns[-1]["role"] != role:
            turns.append({"role": role, "content": said})
            return
        turns[-1]["content"] += said

    def go_on(where: str) -> None:
        for call in waiting:
            add(
                "user",
                blocks(
                    Message("tool", UNANSWERED, tool_call_id=call, extra={"is_error": True}), where
                ),
            )
        waiting.clear()

    for i, message in enumerate(distinct(messages, fit)):
        where = f"messages[{i}]"
        told = message.role in INSTRUCTIONS
        if told and not (i >= end and turns and turns[-1]["role"] == "assistant"):
            system += instructions(message, where)
            continue
        role = "assistant" if message.role == "assistant" else "user"
        said = instructions(message, where) if told else blocks(message, where)
        if not said:
            if i == end - 1 and turns and turns[-1]["role"] == "assistant":
                refuse_silence(message, where)
            continue
        if role == "assistant":
            if not turns:
                add("user", blocks(Message("user", OPENING), where))
            go_on(where)
            waiting = dict.fromkeys(_id(call) for call in message.tool_calls or ())
        elif message.role == "tool":
            waiting.pop(message.tool_call_id or "", None)
        add(role, said)
    if not turns and system:  # instructions alone are a question too
        turns, system = [{"role": "user", "content": system}], []
    if not turns:
        raise says_nothing()
    if turns[-1]["role"] == "user":
        go_on("messages")
    for turn in turns:
        if turn["role"] == "user" and len(turn["content"]) > 1:
            turn["content"].sort(key=lambda block: not answers(block))
    return system, turns


def asked_until(messages: Sequence[Message]) -> int:
    """The place behind which there are instructions only."""
    end = len(messages)
    while end and messages[end - 1].role in INSTRUCTIONS:
        end -= 1
    return end


def refuse_silence(message: Message, where: str) -> None:
    """Refuses an empty last message of the user behind the assistant's words, which would be gone on with."""
    if message.role == "user":
        raise invalid(
            f"{where}.content", "the last message says nothing, and this model takes no empty ones"
        )


def distinct(messages: Sequence[Message], fit: Callable[[str], str] = str) -> Sequence[Message]:
    """The messages with calls' ids as `fit` makes them, no two the same, and the answers with the ids of their calls."""
    given = [_id(call) for message in messages for call in message.tool_calls or ()]
    if len(given) == len(set(given)) and given == [fit(i) for i in given]:
        return messages
    count: dict[str, int] = {}  # of ids in use: how often each was wanted
    now: dict[str, str] = {}  # the id of the last call that was given this one
    out = []
    for message in messages:
        if message.tool_calls:
            calls = []
            for call in message.tool_calls:
                now[_id(call)] = made = _unused(fit, _id(call), count)
                calls.append(call | {"id": made})
            message = replace(message, tool_calls=calls)
        elif message.tool_call_id in now:
            message = replace(message, tool_call_id=now[message.tool_call_id])
        out.append(message)
    return out


def _unused(fit: Callable[[str], str], given: str, count: dict[str, int]) -> str:
    """An id that no call before has: those after do not count, so that a history that grows keeps its ids."""
    wanted = made = fit(given)
    times = count.get(wanted, 1)
    while made in count:
        times += 1
        made = fit(f"{wanted}_{times}")
    count[wanted] = times
    count.setdefault(made, 1)
    return made


def _id(call: Json) -> str:
    return str(call.get("id") or "")


def fitting(given: str, ids: CallIds) -> str:
    """A call's id in the shape that a vendor wants: one that has it stays, and the same always becomes the same."""
    odd = ids.strange and re.search(ids.strange, given)
    plain = re.sub(ids.strange, "_", given) if odd else given
    if len(plain) > ids.most > 0 or len(plain) < ids.least or (ids.least and odd):
        return hashlib.sha256(given.encode(errors="surrogatepass")).hexdigest()[: ids.most]
    return plain


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
            yield (
                at if isinstance(at, int) else 0,
                {"type": kind} | {field: thought[field] for field in fields},
            )


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
    body: Json = next(
        (body for body in (call.get("function"), call.get("custom")) if isinstance(body, dict)), {}
    )
    text = body.get("arguments") or body.get("input") or "{}"
    try:
        arguments = msgspec.json.decode(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        arguments = None
    return str(body.get("name") or ""), arguments if isinstance(arguments, dict) else {
        "arguments": text
    }


def data_url(url: Any, where: str, *, or_else: str = "an http(s) URL or ") -> tuple[str, str]:
    """The media type and the base64 of a data URL."""
    head, comma, data = url.partition(",") if isinstance(url, str) else ("", "", "")
    head = head[:200].lower()
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise invalid(
            where, f"expected {or_else}a data URL in base64, data:<media type>;base64,<data>"
        )
    return head[5:].partition(";")[0] or "text/plain", data
