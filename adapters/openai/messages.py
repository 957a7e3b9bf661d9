"""The messages of a chat as a server compatible with OpenAI takes them.

What a vendor takes is its row in vendors/history.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from chattable.adapters.turns import fit_call_id
from chattable.adapters.vendors.history import FOREIGN, MARKS, SIGNATURES, Takes
from chattable.agents.chat import Json, Message

BRIDGE = "OK."  # what an assistant says where somebody must
# their value has their own name
PARTS = ("text", "refusal", "image_url", "video_url", "input_audio", "file")
CALLS = frozenset({"id", "type", "function", "custom"})
# What the pieces of one thought have in common beside the id, and which of their fields grow.
SAME_THOUGHT, GROWING = ("type", "index", "format"), ("text", "summary", "data")


def translate(messages: Iterable[Message], takes: Takes) -> list[Json]:
    """New messages with the fields that the row takes, in an order that it takes."""
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


def is_marked(tool: Any) -> bool:
    """Whether a tool is marked as one to be cached."""
    return isinstance(tool, dict) and not MARKS.isdisjoint(tool)


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
        out["tool_call_id"] = fit_call_id(message.tool_call_id, takes.ids)
    if message.tool_calls:
        out["tool_calls"] = [_call(call, takes) for call in message.tool_calls]
    if message.refusal is not None and takes.refusals:
        out["refusal"] = message.refusal
    out |= _extra(message.extra, takes)
    if message.role == "assistant":
        _think(out, message, takes)
    return out


def _extra(extra: Json, takes: Takes) -> Json:
    """The fields beside the known ones that the vendor takes."""
    known = takes.fields | {"function_call"}
    return {
        name: value
        for name, value in extra.items()
        if name in known or (takes.others and name not in FOREIGN)
    }


def _content(message: Message, takes: Takes) -> str | list[Json] | None:
    content = message.content
    if isinstance(content, list):
        return _parts(content, takes)
    if not content and message.refusal is not None and not takes.refusals:
        return message.refusal
    if content is None and message.refusal is None and not message.tool_calls:
        return _without_words(message.extra, takes)
    return content


def _parts(content: list[Json], takes: Takes) -> str | list[Json]:
    """The parts that the vendor takes, or their text where it takes text alone."""
    parts = [_part(part, takes) for part in content]
    if takes.parts or any(part.get("type") != "text" for part in parts):
        return parts
    return "".join(str(part.get("text") or "") for part in parts)


def _without_words(extra: Json, takes: Takes) -> str | None:
    """The content of a message that has none: null where something stands in its place."""
    if "function_call" in extra:
        return None
    audio = extra.get("audio")
    if "audio" in takes.fields and audio is not None:
        return None
    return _text(audio.get("transcript")) if isinstance(audio, dict) else ""


def _part(part: Json, takes: Takes) -> Json:
    kind = part.get("type")
    if kind not in PARTS:
        return part
    if kind == "refusal" and not takes.refusals:
        return {"type": "text", "text": part.get(kind) or ""}
    if takes.others:
        return {k: v for k, v in part.items() if k not in FOREIGN}
    kept = takes.fields | {"type", kind}
    return {k: v for k, v in part.items() if k in kept}


def _call(call: Json, takes: Takes) -> Json:
    out = {k: v for k, v in call.items() if k in CALLS or k in SIGNATURES & takes.fields}
    return out | {"id": fit_call_id(str(call.get("id") or ""), takes.ids)}


def _think(out: Json, message: Message, takes: Takes) -> None:
    """Puts the thoughts where the vendor looks for them."""
    text = message.reasoning_content or _text(message.extra.get("reasoning"))
    for place in takes.thoughts:
        if place == "reasoning_details":
            if details := _merged(message.extra.get(place)):
                out[place] = details
        elif text and place == "parts":
            out["content"] = _with_thought(text, out["content"])
        elif text:
            out[place] = text
    if takes.wants_thoughts and message.tool_calls:
        out.setdefault("reasoning_content", "")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _with_thought(text: str, content: str | list[Json] | None) -> list[Json]:
    """Content as parts, a thought first, as Mistral has it."""
    thought: Json = {"type": "thinking", "thinking": [{"type": "text", "text": text}]}
    if isinstance(content, list):
        return [thought, *content]
    return [thought, {"type": "text", "text": content}] if content else [thought]


def _merged(details: Any) -> list[Json]:
    """OpenRouter's pieces of thoughts put together, for thoughts must come back as they were."""
    whole: list[Json] = []
    for piece in details if isinstance(details, list) else ():
        if not isinstance(piece, dict):
            continue
        if not whole or _begins_another(whole[-1], piece):
            whole.append(dict(piece))
        else:
            _grow(whole[-1], piece)
    return whole


def _begins_another(last: Json, piece: Json) -> bool:
    """Whether a piece begins a thought of its own.

    It does if it has another id, type, index or format, or text after a signature.
    """
    if not last or any(piece.get(k, last.get(k)) != last.get(k) for k in SAME_THOUGHT):
        return True
    ids = last.get("id"), piece.get("id")
    if None not in ids and ids[0] != ids[1]:
        return True
    return bool(last.get("signature")) and bool(piece.get("text"))


def _grow(last: Json, piece: Json) -> None:
    for name, value in piece.items():
        if name in GROWING and isinstance(value, str) and isinstance(last.get(name), str):
            last[name] += value
        elif value is not None:
            last[name] = value
