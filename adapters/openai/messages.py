"""The messages of a chat as a server that is compatible with OpenAI takes them, by its row in vendors/history.py."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from chattable.adapters.turns import fitting
from chattable.adapters.vendors.history import FOREIGN, MARKS, SIGNATURES, Takes
from chattable.agents.chat import Json, Message

BRIDGE = "OK."  # what an assistant says where somebody must
# their value has their own name
PARTS = ("text", "refusal", "image_url", "video_url", "input_audio", "file")
CALLS = frozenset({"id", "type", "function", "custom"})
# How the pieces of one thought are told apart, and what of them grows.
PIECE, GROWING = ("type", "id", "index", "format"), ("text", "summary", "data")


def translate(messages: Iterable[Message], takes: Takes) -> list[Json]:
    """The messages with what the row takes, in an order that it takes; what was given stays as it is."""
    out: list[Json] = []
    for message in messages:
        said = _message(message, takes)
        if takes.bridge and out and out[-1]["role"] == "tool" and said["role"] == "user":
            out.append({"role": "assistant", "content": BRIDGE})
        out.append(said)
    last = out[-1]
    if takes.prefix and last["role"] == "assistant" and "tool_calls" not in last:
        last[takes.prefix] = True
    return out


def marked(tools: Any) -> bool:
    """Whether any of the tools has a mark of what is to be cached."""
    return isinstance(tools, list) and any(
        isinstance(tool, dict) and not MARKS.isdisjoint(tool) for tool in tools
    )


def unmarked(tools: list[Any]) -> list[Any]:
    """The tools without such marks."""
    return [
        {k: v for k, v in tool.items() if k not in MARKS} if isinstance(tool, dict) else tool
        for tool in tools
    ]


def _message(message: Message, takes: Takes) -> Json:
    out: Json = {"role": message.role, "content": _content(message, takes)}
    if message.name is not None and (takes.names or message.role == "tool"):
        out["name"] = message.name
    if message.tool_call_id is not None:
        out["tool_call_id"] = fitting(message.tool_call_id, takes.ids)
    if message.tool_calls:
        out["tool_calls"] = [_call(call, takes) for call in message.tool_calls]
    if message.refusal is not None and takes.refusals:
        out["refusal"] = message.refusal
    for name, value in message.extra.items():
        if (
            name in takes.fields
            or name == "function_call"
            or (takes.others and name not in FOREIGN)
        ):
            out[name] = value
    if message.role == "assistant":
        _think(out, message, takes)
    return out


def _content(message: Message, takes: Takes) -> str | list[Json] | None:
    content = message.content
    if isinstance(content, list):
        parts = [_part(part, takes) for part in content]
        if takes.parts or any(part.get("type") != "text" for part in parts):
            return parts
        return "".join(str(part.get("text") or "") for part in parts)
    if not content and message.refusal is not None and not takes.refusals:
        return message.refusal
    if (
        content is None
        and message.refusal is None
        and not message.tool_calls
        and "function_call" not in message.extra
    ):
        audio = message.extra.get("audio")
        if "audio" in takes.fields and audio is not None:
            return None
        words = audio.get("transcript") if isinstance(audio, dict) else None
        return words if isinstance(words, str) else ""
    return content


def _part(part: Json, takes: Takes) -> Json:
    kind = part.get("type")
    if kind not in PARTS:
        return part
    if kind == "refusal" and not takes.refusals:
        return {"type": "text", "text": part.get(kind) or ""}
    if takes.others:
        return {k: v for k, v in part.items() if k not in FOREIGN}
    return {k: v for k, v in part.items() if k in ("type", kind) or k in takes.fields}


def _call(call: Json, takes: Takes) -> Json:
    out = {k: v for k, v in call.items() if k in CALLS or k in SIGNATURES & takes.fields}
    return out | {"id": fitting(str(call.get("id") or ""), takes.ids)}


def _think(out: Json, message: Message, takes: Takes) -> None:
    """Puts the thoughts where the vendor looks for them."""
    other = message.extra.get("reasoning")
    text = message.reasoning_content or (other if isinstance(other, str) else "")
    for place in takes.thoughts:
        if place == "reasoning_details":
            if details := _merged(message.extra.get(place)):
                out[place] = details
        elif text and place == "parts":
            thought: Json = {"type": "thinking", "thinking": [{"type": "text", "text": text}]}
            said = out["content"]
            words = (
                said if isinstance(said, list) else [{"type": "text", "text": said}] if said else []
            )
            out["content"] = [thought, *words]
        elif text:
            out[place] = text
    if takes.wants_thoughts and message.tool_calls:
        out.setdefault("reasoning_content", "")


def _merged(details: Any) -> list[Json]:
    """OpenRouter's pieces of thoughts, each thought in one piece again: it must come back as it was."""
    whole: list[Json] = []
    for piece in details if isinstance(details, list) else ():
        if not isinstance(piece, dict):
            continue
        last = whole[-1] if whole else {}
        if any(piece.get(k, last.get(k)) != last.get(k) for k in PIECE if k != "id") or _another(
            last, piece
        ):
            whole.append(dict(piece))
            continue
        for name, value in piece.items():
            if name in GROWING and isinstance(value, str) and isinstance(last.get(name), str):
                last[name] += value
            elif value is not None:
                last[name] = value
    return whole


def _another(last: Json, piece: Json) -> bool:
    """Whether a piece begins a thought of its own: it has another id, or comes after a signature."""
    ids = last.get("id"), piece.get("id")
    return (
        not last
        or (None not in ids and ids[0] != ids[1])
        or (bool(last.get("signature")) and bool(piece.get("text")))
    )
