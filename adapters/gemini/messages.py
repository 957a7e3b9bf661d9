"""The messages of a chat as Gemini's system instruction and contents.

What Gemini says that has no place in OpenAI's messages lives in fields beside the known ones and
finds its way back: the signature of a thought is `extra_content.google.thought_signature`, on the
tool call that it stands behind or else on the message, as Google's own OpenAI-compatible endpoint
has it. A tool's failure is marked by `is_error` on its message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chattable.adapters.params import invalid
from chattable.adapters.turns import (
    INSTRUCTIONS,
    OPENING,
    asked_until,
    call_of,
    data_url,
    refuse_silence,
    says_nothing,
    with_distinct_call_ids,
)
from chattable.agents.chat import Json, Message
from chattable.agents.errors import clip

# What Google documents as the signature of calls that another model made, or that lost theirs on
# the way.
UNSIGNED = "skip_thought_signature_validator"
ADDRESSES = ("https://", "http://", "gs://")
# Endings of addresses that tell what is there; elsewhere the model finds out itself.
KINDS = {ending: f"image/{ending}" for ending in ("gif", "heic", "heif", "jpeg", "png", "webp")} | {
    "jpg": "image/jpeg",
    "mp3": "audio/mp3",
    "mp4": "video/mp4",
    "pdf": "application/pdf",
    "wav": "audio/wav",
}


class Contents:
    """The contents of one request in the making.

    Law: the user begins; neighbours of one role are one content; the answers to calls are a content
    of their own, in the order of the calls. Instructions behind the last of the model's words keep
    their place, as the user's content.
    """

    def __init__(self, messages: Sequence[Message], *, signs: bool) -> None:
        self.system: list[Json] = []
        self.list: list[Json] = []
        self._signs = signs
        # by id: the place among all calls, and the function's name
        self._calls: dict[str, tuple[int, str]] = {}
        # answers to calls, until the next message that is none
        self._results: dict[int, list[Json]] = {}
        messages = with_distinct_call_ids(messages)
        end = asked_until(messages)
        for i, message in enumerate(messages[:end]):
            self._add(message, f"messages[{i}]")
        answered = self._flush()
        last = self.list[-1]["role"] if self.list and not answered else ""
        if last == "model":
            refuse_silence(messages[end - 1], f"messages[{end - 1}]")
        for i, message in enumerate(messages[end:], end):
            said = _instructions(message, f"messages[{i}]")
            if last == "model":
                self._say("user", said)
            else:
                self.system += said
        if not self.list and self.system:  # instructions alone are a question too
            self.list, self.system = [{"role": "user", "parts": self.system}], []
        if not self.list:
            raise says_nothing()

    def _add(self, message: Message, where: str) -> None:
        if message.role in INSTRUCTIONS:
            self.system += _instructions(message, where)
        elif message.role == "tool":
            self._answer(message, where)
        elif message.role == "assistant":
            self._say("model", self._said(message, where))
        elif message.role == "user":
            self._say("user", _content(message, where))
        else:
            raise invalid(
                f"{where}.role",
                "this model knows no such messages; answer calls with the role 'tool'",
            )

    def _say(self, role: str, parts: list[Json]) -> None:
        if not parts:
            return
        answered = self._flush()
        if not self.list and role == "model":
            self.list.append({"role": "user", "parts": [{"text": OPENING}]})
        if self.list and not answered and self.list[-1]["role"] == role:
            self.list[-1]["parts"] += parts
        else:
            self.list.append({"role": role, "parts": parts})

    def _flush(self) -> bool:
        """Whether the answers to calls were waiting, and now stand."""
        if not self._results:
            return False
        parts = [part for at in sorted(self._results) for part in self._results[at]]
        self.list.append({"role": "user", "parts": parts})
        self._results = {}
        return True

    def _said(self, message: Message, where: str) -> list[Json]:
        """An assistant's words, then its calls, the first of which is signed."""
        parts = _content(message, where)
        if parts and (signature := _signature(message.extra)):
            parts[-1] = parts[-1] | {"thoughtSignature": signature}
        for i, call in enumerate(message.tool_calls or ()):
            part = _call(call)
            self._calls[part["functionCall"]["id"]] = (
                len(self._calls),
                part["functionCall"]["name"],
            )
            if signature := _signature(call) or (UNSIGNED if self._signs and i == 0 else ""):
                part["thoughtSignature"] = signature
            parts.append(part)
        return parts

    def _answer(self, message: Message, where: str) -> None:
        call = message.tool_call_id or ""
        at, name = self._calls.get(call, (len(self._calls), ""))
        name = name or message.name or ""
        if not name:
            raise invalid(
                f"{where}.tool_call_id", f"no message before it made the call '{clip(call)}'"
            )
        texts, media = [], []
        for part in _content(message, where):
            texts.append(part["text"]) if "text" in part else media.append(part)
        response: Json = {"id": call, "name": name}
        # One text under one name: as an object of its own it would lose digits of large numbers,
        # and `$ref` has a meaning.
        response["response"] = {
            "error" if message.extra.get("is_error") else "output": "".join(texts)
        }
        if self._signs and media:
            response["parts"], media = media, []
        self._results.setdefault(at, []).extend([{"functionResponse": response}, *media])


def _instructions(message: Message, where: str) -> list[Json]:
    parts = _content(message, where)
    if any("text" not in part for part in parts):
        raise invalid(f"{where}.content", "instructions of this model are text")
    return parts


def _call(call: Json) -> Json:
    name, arguments = call_of(call)
    return {"functionCall": {"id": str(call.get("id") or ""), "name": name, "args": arguments}}


def _signature(raw: Any) -> str:
    """The signature of a call or a message, if it has one of Google's."""
    for key in ("extra_content", "google", "thought_signature"):
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw if isinstance(raw, str) else ""


def _content(message: Message, where: str) -> list[Json]:
    """Content as parts; empty text is left out."""
    content = message.content if message.content is not None else message.refusal
    if not isinstance(content, list):
        return [{"text": content}] if content else []
    parts = [_part(part, f"{where}.content[{j}]") for j, part in enumerate(content)]
    return [part for part in parts if part.get("text") != ""]


def _part(part: Json, where: str) -> Json:
    kind = part.get("type")
    if kind in ("text", "refusal"):
        return {"text": part[kind]}
    if kind in ("image_url", "video_url"):
        url = part[kind].get("url") if isinstance(part.get(kind), dict) else None
        return _media(url, f"{where}.{kind}.url")
    if kind == "input_audio":
        return {"inlineData": _sound(part["input_audio"], f"{where}.input_audio")}
    if kind == "file":
        file = part["file"]
        name = "file_data" if file.get("file_data") is not None else "file_id"
        return _media(file.get(name), f"{where}.file.{name}")
    raise invalid(f"{where}.type", f"this model does not read '{clip(kind)}'")


def _media(url: Any, where: str) -> Json:
    """A picture, film, sound or document: its bytes, or where Google finds it."""
    if isinstance(url, str) and url.startswith(ADDRESSES):
        known = KINDS.get(url.partition("?")[0].rpartition(".")[2].lower())
        return {"fileData": {"fileUri": url} | ({"mimeType": known} if known else {})}
    kind, data = data_url(url, where)
    return {"inlineData": {"mimeType": kind, "data": data}}


def _sound(sound: Json, where: str) -> Json:
    kind, data = sound.get("format"), sound.get("data")
    if not isinstance(kind, str) or not kind.isalnum():
        raise invalid(f"{where}.format", "expected the format of the sound, as 'wav' or 'mp3'")
    if not isinstance(data, str):
        raise invalid(f"{where}.data", "expected the sound in base64")
    return {"mimeType": f"audio/{kind.lower()}", "data": data}
