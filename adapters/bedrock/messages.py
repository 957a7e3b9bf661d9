"""The messages of a chat as Converse's system prompt and turns of content blocks.

What has no place in OpenAI's messages lives in fields beside the known ones, by the same names as
with Anthropic, so that a conversation may move from one to the other: `thinking_blocks`,
`is_error`, `cache_control`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from chattable.adapters.bedrock.models import Family
from chattable.adapters.params import invalid
from chattable.adapters.turns import (
    call_of,
    data_url,
    fit_call_id,
    interleave,
    take_turns,
    thoughts,
)
from chattable.adapters.vendors.history import BEDROCK_IDS
from chattable.agents.chat import Json, Message
from chattable.agents.errors import clip

IMAGES = {"gif": "gif", "jpeg": "jpeg", "jpg": "jpeg", "png": "png", "webp": "webp"}
VIDEOS = {
    "3gpp": "three_gp",
    "matroska": "mkv",
    "mp4": "mp4",
    "mpeg": "mpeg",
    "quicktime": "mov",
    "webm": "webm",
} | {
    "x-flv": "flv",
    "x-matroska": "mkv",
    "x-ms-wmv": "wmv",
}
OFFICE = "application/vnd.openxmlformats-officedocument."
DOCUMENTS = {
    "application/pdf": "pdf",
    "application/msword": "doc",
    "application/vnd.ms-excel": "xls",
    f"{OFFICE}wordprocessingml.document": "docx",
    f"{OFFICE}spreadsheetml.sheet": "xlsx",
    "application/json": "txt",
    "text/csv": "csv",
    "text/html": "html",
    "text/markdown": "md",
}
NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9()\[\]-]+")
MAX_DOCUMENT_NAME_CHARS = 150


class Conversation:
    """The system prompt and the turns of one request.

    Law: no two documents in it have the same name.
    """

    def __init__(self, messages: Sequence[Message], kind: Family) -> None:
        self._kind = kind
        # of documents, each with the last number that it was given
        self._names: dict[str, int] = {}
        self.system, self.turns = take_turns(
            messages,
            instructions=self._instructions,
            blocks=self._blocks,
            answers=lambda block: "toolResult" in block,
            fit=_id,
        )
        _trim(self.turns[-1])

    @property
    def called(self) -> list[str]:
        """The names of the tools that were called, each once."""
        blocks = (block for turn in self.turns for block in turn["content"])
        return list(
            dict.fromkeys(block["toolUse"]["name"] for block in blocks if "toolUse" in block)
        )

    @property
    def thoughtless(self) -> bool:
        """Whether the last turn of calls has lost the thought that led to them."""
        said = [turn["content"] for turn in self.turns if turn["role"] == "assistant"]
        return (
            bool(said)
            and any("toolUse" in block for block in said[-1])
            and "reasoningContent" not in said[-1][0]
        )

    def _blocks(self, message: Message, where: str) -> list[Json]:
        """What a message says, unless it is an instruction."""
        content = self._content(message, where)
        if message.role == "assistant":
            known = thoughts(message) if self._kind.signatures else ()
            content = interleave(
                ((at, _thought(thought)) for at, thought in known),
                (*content, *(_call(call) for call in message.tool_calls or ())),
            )
        elif message.role == "tool":
            content = _result(message, content, where)
        elif message.role != "user":
            raise invalid(
                f"{where}.role",
                "this model knows no such messages; answer calls with the role 'tool'",
            )
        return self._cached(content, message)

    def _instructions(self, message: Message, where: str) -> list[Json]:
        content = self._content(message, where)
        if any(not block.keys() & {"text", "cachePoint"} for block in content):
            raise invalid(f"{where}.content", "instructions of this model are text")
        return self._cached(content, message)

    def _content(self, message: Message, where: str) -> list[Json]:
        """Content as blocks; what is empty is left out, as empty text is refused."""
        content = message.content or message.refusal or ""
        parts: list[Json] = (
            content if isinstance(content, list) else [{"type": "text", "text": content}]
        )
        blocks = []
        for j, part in enumerate(parts):
            block = self._part(part, f"{where}.content[{j}]")
            if block.get("text", "x").strip():
                blocks += [block, *cache_point(part, self._kind)]
        return blocks

    def _cached(self, blocks: list[Json], message: Message) -> list[Json]:
        """The blocks, and a cache point if the client marked the message but not its last part."""
        return (
            blocks + cache_point(message.extra, self._kind)
            if blocks and "cachePoint" not in blocks[-1]
            else blocks
        )

    def _part(self, part: Json, where: str) -> Json:
        kind = part.get("type")
        if kind in ("text", "refusal"):
            return {"text": part[kind]}
        if kind in ("image_url", "video_url"):
            url = part[kind].get("url") if isinstance(part.get(kind), dict) else None
            return _media(*data_url(url, f"{where}.{kind}.url", or_else=""), f"{where}.{kind}.url")
        if kind == "input_audio":
            sound = part["input_audio"]
            return {
                "audio": {
                    "format": str(sound.get("format")),
                    "source": {"bytes": str(sound.get("data"))},
                }
            }
        if kind == "file":
            return self._file(part["file"], f"{where}.file")
        raise invalid(f"{where}.type", f"this model does not read '{clip(kind)}'")

    def _file(self, file: Json, where: str) -> Json:
        kind, data = data_url(file.get("file_data"), f"{where}.file_data", or_else="")
        if kind.startswith(("image/", "video/")):
            return _media(kind, data, f"{where}.file_data")
        known = DOCUMENTS.get(kind) or ("txt" if kind.startswith("text/") else None)
        if known is None:
            raise invalid(
                f"{where}.file_data",
                f"this model reads PDF, office documents and text, not {clip(kind)}",
            )
        return {
            "document": {
                "format": known,
                "name": self._name(file.get("filename")),
                "source": {"bytes": data},
            }
        }

    def _name(self, given: Any) -> str:
        """A document's name in the characters that are allowed, and unlike the others."""
        stem = str(given or "").rpartition(".")[0] or str(given or "")
        name = wanted = NOT_IN_NAMES.sub(" ", stem).strip()[:MAX_DOCUMENT_NAME_CHARS] or "document"
        number = self._names.get(wanted, 1)
        while name in self._names:
            number += 1
            name = f"{wanted} ({number})"
        self._names[wanted] = number
        self._names.setdefault(name, 1)
        return name


def cache_point(marked: Json, kind: Family) -> list[Json]:
    """The cache point that Anthropic's mark asks for, where the model takes one."""
    mark = marked.get("cache_control")
    if not kind.prompt_caching or not isinstance(mark, dict):
        return []
    return [
        {
            "cachePoint": {"type": "default"}
            | ({"ttl": mark["ttl"]} if mark.get("ttl") and kind.cache_ttl else {})
        }
    ]


def _result(message: Message, content: list[Json], where: str) -> list[Json]:
    """A tool's answer; points to cache up to stand behind it."""
    if any("audio" in block for block in content):
        raise invalid(f"{where}.content", "this model does not hear what tools answer")
    said = [block for block in content if "cachePoint" not in block]
    status = {"status": "error"} if message.extra.get("is_error") else {}
    result = {
        "toolResult": {"toolUseId": _id(message.tool_call_id or ""), "content": said} | status
    }
    return [result, *[block for block in content if "cachePoint" in block][-1:]]


def _media(kind: str, data: str, where: str) -> Json:
    name, _, form = kind.partition("/")
    known = {"image": IMAGES, "video": VIDEOS}.get(name, {}).get(form)
    if known is None:
        raise invalid(
            where,
            f"this model does not see {clip(kind)}; "
            f"it takes {', '.join(sorted({*IMAGES.values()}))}",
        )
    return {name: {"format": known, "source": {"bytes": data}}}


def _thought(thought: Json) -> Json:
    if thought["type"] == "thinking":
        return {
            "reasoningContent": {
                "reasoningText": {"text": thought["thinking"], "signature": thought["signature"]}
            }
        }
    return {"reasoningContent": {"redactedContent": thought["data"]}}


def _call(call: Json) -> Json:
    name, arguments = call_of(call)
    return {"toolUse": {"toolUseId": call["id"], "name": name, "input": arguments}}


def _id(given: str) -> str:
    """A call's id in the characters and the length that are allowed; other providers use more."""
    return fit_call_id(given, BEDROCK_IDS) or "_"


def _trim(last: Json) -> None:
    """Words put into the assistant's mouth must not end in white space."""
    block = last["content"][-1]
    if last["role"] == "assistant" and "text" in block:
        block["text"] = block["text"].rstrip()
