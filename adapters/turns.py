"""Messages as other providers have them.

Turns of two sides, calls with their arguments decoded, files as base64.
"""

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
UNANSWERED = "(There was no answer.)"  # to a call that the conversation left unanswered
# the user's turn where the assistant begins
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
    it; no two calls share an id, which `fit` makes as the vendor wants it, and every call has an
    answer if the conversation went on after it. Instructions that follow the assistant's last words
    keep their place, as the user's turn.
    """
    conversation = _Conversation(instructions, blocks)
    end = asked_until(messages)
    for i, message in enumerate(with_distinct_call_ids(messages, fit)):
        conversation.add(message, f"messages[{i}]", trailing=i >= end, asks=i == end - 1)
    system, turns = conversation.system, conversation.turns
    if not turns and system:  # instructions alone are a question too
        turns, system = [{"role": "user", "content": system}], []
    if not turns:
        raise says_nothing()
    if turns[-1]["role"] == "user":
        conversation.answer_calls("messages")
    for turn in turns:
        if turn["role"] == "user" and len(turn["content"]) > 1:
            turn["content"].sort(key=lambda block: not answers(block))
    return system, turns


class _Conversation:
    """The system prompt and the turns so far."""

    def __init__(self, instructions: Blocks, blocks: Blocks) -> None:
        self._instructions = instructions
        self._blocks = blocks
        self._unanswered: list[str] = []  # ids of calls
        self.system: list[Json] = []
        self.turns: list[Json] = []

    def add(self, message: Message, where: str, *, trailing: bool, asks: bool) -> None:
        """Adds a message.

        `trailing`: it stands behind the last of the words; `asks`: it is the last of them.
        """
        instructs = message.role in INSTRUCTIONS
        if instructs and not (trailing and self._assistant_spoke):
            self.system += self._instructions(message, where)
            return
        said = self._instructions(message, where) if instructs else self._blocks(message, where)
        if not said:
            if asks and self._assistant_spoke:
                refuse_silence(message, where)
        elif message.role == "assistant":
            self._add_assistant(message, said, where)
        else:
            self._add_user(message, said)

    def answer_calls(self, where: str) -> None:
        """Answers the calls that have no answer, for the conversation went on without."""
        for call in self._unanswered:
            answer = Message("tool", UNANSWERED, tool_call_id=call, extra={"is_error": True})
            self._say("user", self._blocks(answer, where))
        self._unanswered = []

    @property
    def _assistant_spoke(self) -> bool:
        """Whether the last turn is the assistant's."""
        return bool(self.turns) and self.turns[-1]["role"] == "assistant"

    def _add_assistant(self, message: Message, said: list[Json], where: str) -> None:
        if not self.turns:
            self._say("user", self._blocks(Message("user", OPENING), where))
        self.answer_calls(where)
        self._unanswered = list(dict.fromkeys(_id(call) for call in message.tool_calls or ()))
        self._say("assistant", said)

    def _add_user(self, message: Message, said: list[Json]) -> None:
        if message.role == "tool" and message.tool_call_id in self._unanswered:
            self._unanswered.remove(message.tool_call_id)
        self._say("user", said)

    def _say(self, role: str, said: list[Json]) -> None:
        if self.turns and self.turns[-1]["role"] == role:
            self.turns[-1]["content"] += said
        else:
            self.turns.append({"role": role, "content": said})


def asked_until(messages: Sequence[Message]) -> int:
    """The index from which on there are instructions only."""
    end = len(messages)
    while end and messages[end - 1].role in INSTRUCTIONS:
        end -= 1
    return end


def refuse_silence(message: Message, where: str) -> None:
    """Refuses an empty last message: without it the model would continue the assistant's words."""
    if message.role == "user":
        raise invalid(
            f"{where}.content", "the last message says nothing, and this model takes no empty ones"
        )


def with_distinct_call_ids(
    messages: Sequence[Message], fit: Callable[[str], str] = str
) -> Sequence[Message]:
    """The messages with calls' ids as `fit` makes them, all different, and their answers alike."""
    given = [_id(call) for message in messages for call in message.tool_calls or ()]
    if len(given) == len(set(given)) and given == [fit(i) for i in given]:
        return messages
    count: dict[str, int] = {}  # of ids in use: how often each was wanted
    now: dict[str, str] = {}  # the id of the last call that was given this one
    out = []
    for message in messages:
        if message.tool_calls:
            message = replace(message, tool_calls=_renamed(message.tool_calls, fit, count, now))
        elif message.tool_call_id in now:
            message = replace(message, tool_call_id=now[message.tool_call_id])
        out.append(message)
    return out


def _renamed(
    calls: list[Json], fit: Callable[[str], str], count: dict[str, int], now: dict[str, str]
) -> list[Json]:
    """The calls with ids of their own, which are noted in `now`."""
    renamed = []
    for call in calls:
        now[_id(call)] = made = _unused(fit, _id(call), count)
        renamed.append(call | {"id": made})
    return renamed


def _unused(fit: Callable[[str], str], given: str, count: dict[str, int]) -> str:
    """An id that no earlier call has; later ones do not count, so that a history keeps its ids."""
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


def fit_call_id(given: str, ids: CallIds) -> str:
    """A call's id in the shape that a vendor wants; the same id always becomes the same."""
    odd = ids.strange and re.search(ids.strange, given)
    plain = re.sub(ids.strange, "_", given) if odd else given
    if len(plain) > ids.most > 0 or len(plain) < ids.least or (ids.least and odd):
        return hashlib.sha256(given.encode(errors="surrogatepass")).hexdigest()[: ids.most]
    return plain


def says_nothing() -> InvalidRequest:
    """Messages that are all empty."""
    return InvalidRequest("Invalid 'messages': none of them says anything.", param="messages")


def thoughts(message: Message) -> Iterator[tuple[int, Json]]:
    """The thoughts that can go back, each with its place: those that have their signatures."""
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


def interleave(thoughts: Iterable[tuple[int, Json]], said: Iterable[Json]) -> list[Json]:
    """Thoughts where they were, with words and calls between them.

    A thought at the end is left out, for no turn may end with one.
    """
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
    """The name of what is called, and its arguments; text that is no object is kept as it is."""
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
