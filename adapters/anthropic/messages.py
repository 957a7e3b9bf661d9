"""The messages of a chat as Anthropic's system prompt and turns of content blocks.

What Anthropic says that has no place in OpenAI's messages lives in fields beside the known ones and
finds its way back: `thinking_blocks` on an assistant's message (signed thoughts, each with the
`index` it had among the blocks of its answer), `is_error` on a tool's, `cache_control` on messages,
on their parts and on tools. Parts of Anthropic's own types pass as they are.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence

from chattable.adapters.params import invalid
from chattable.adapters.turns import (
    THOUGHTS,
    call_of,
    data_url,
    fit_call_id,
    interleave,
    take_turns,
    thoughts,
)
from chattable.adapters.vendors.history import ANTHROPIC_IDS
from chattable.agents.chat import Json, Message
from chattable.agents.errors import clip


def translate(messages: Sequence[Message]) -> tuple[list[Json], list[Json]]:
    """The blocks of the system prompt, and the turns."""
    answers = lambda block: block["type"] == "tool_result"  # noqa: E731
    system, turns = take_turns(
        messages, instructions=_instructions, blocks=_blocks, answers=answers, fit=_id
    )
    _trim(turns[-1])
    return system, turns


def starts_with_thoughts(turn: Json) -> bool:
    """Whether the model may go on thinking after this turn.

    A turn of calls must begin with the thoughts that led to them.
    """
    kinds = [block["type"] for block in turn["content"]]
    return "tool_use" not in kinds or kinds[0] in THOUGHTS


def called(turns: Iterable[Json]) -> list[str]:
    """The names of the tools that were called, each once."""
    blocks = (block for turn in turns for block in turn["content"])
    return list(
        dict.fromkeys(str(block.get("name")) for block in blocks if block["type"] == "tool_use")
    )


def _blocks(message: Message, where: str) -> list[Json]:
    """What a message says, unless it is an instruction."""
    if message.role == "assistant":
        blocks = _said(message, where)
    elif message.role == "tool":
        blocks = [_result(message, where)]
    elif message.role == "user":
        blocks = _content(message, where)
    else:
        raise invalid(
            f"{where}.role",
            f"this model knows no '{clip(message.role)}' messages; "
            "calls are answered by the role 'tool'",
        )
    return _cached(blocks, message)


def _instructions(message: Message, where: str) -> list[Json]:
    blocks = _content(message, where)
    for block in blocks:
        if block["type"] != "text":
            raise invalid(f"{where}.content", "instructions of this model are text")
    return _cached(blocks, message)


def _said(message: Message, where: str) -> list[Json]:
    """An assistant's turn."""
    return interleave(
        thoughts(message),
        (*_content(message, where), *(_call(call) for call in message.tool_calls or ())),
    )


def _call(call: Json) -> Json:
    name, arguments = call_of(call)
    return {"type": "tool_use", "id": call["id"], "name": name, "input": arguments}


def _result(message: Message, where: str) -> Json:
    block: Json = {"type": "tool_result", "tool_use_id": _id(message.tool_call_id or "")}
    if content := _content(message, where):
        block["content"] = content
    if message.extra.get("is_error"):
        block["is_error"] = True
    return block


def _content(message: Message, where: str) -> list[Json]:
    """Content as blocks; what is empty is left out, as empty text is refused."""
    content = message.content or message.refusal or ""
    if isinstance(content, list):
        blocks = [_part(part, f"{where}.content[{j}]") for j, part in enumerate(content)]
    else:
        blocks = [{"type": "text", "text": content}]
    return [block for block in blocks if block["type"] != "text" or block["text"].strip()]


def _part(part: Json, where: str) -> Json:
    kind = part["type"]
    if kind in ("text", "refusal"):
        block = {"type": "text", "text": part[kind]}
    elif kind == "image_url":
        block = _image(part["image_url"]["url"], f"{where}.image_url.url")
    elif kind == "file":
        block = _file(part["file"], f"{where}.file")
    elif kind == "input_audio":
        raise invalid(f"{where}.type", "this model does not hear audio")
    else:
        return part
    return block | {k: part[k] for k in ("cache_control", "citations") if part.get(k) is not None}


def _image(url: str, where: str) -> Json:
    if url.startswith(("https://", "http://")):
        return {"type": "image", "source": {"type": "url", "url": url}}
    kind, data = data_url(url, where)
    return {
        "type": "image",
        "source": {
            "type": "base64",
            "media_type": kind.replace("image/jpg", "image/jpeg"),
            "data": data,
        },
    }


def _file(file: Json, where: str) -> Json:
    """A document: a PDF, plain text, or a file that the provider already has."""
    title = {"title": file["filename"]} if isinstance(file.get("filename"), str) else {}
    if isinstance(file.get("file_id"), str):
        return {"type": "document", "source": {"type": "file", "file_id": file["file_id"]}, **title}
    url = file.get("file_data")
    if not isinstance(url, str):
        raise invalid(f"{where}.file_data", "expected a data URL")
    kind, data = data_url(url, f"{where}.file_data")
    if kind.startswith("image/"):
        return _image(url, where)
    if kind == "application/pdf":
        source = {"type": "base64", "media_type": kind, "data": data}
    elif kind.startswith("text/") or kind == "application/json":
        try:
            text = base64.b64decode(data).decode()
        except ValueError:
            raise invalid(f"{where}.file_data", "the text is not UTF-8 in base64") from None
        source = {"type": "text", "media_type": "text/plain", "data": text}
    else:
        raise invalid(f"{where}.file_data", f"this model reads PDF and text, not {clip(kind)}")
    return {"type": "document", "source": source, **title}


def _id(given: str) -> str:
    """A call's id in the characters that are allowed; other providers use more."""
    return fit_call_id(given, ANTHROPIC_IDS) or "_"


def _cached(blocks: list[Json], message: Message) -> list[Json]:
    """The blocks, the last of them marked if the client marked the message."""
    mark = message.extra.get("cache_control")
    if mark is not None and blocks:
        blocks[-1] = blocks[-1] | {"cache_control": mark}
    return blocks


def _trim(last: Json) -> None:
    """Words put into the assistant's mouth must not end in white space."""
    block: Json = last["content"][-1]
    if last["role"] == "assistant" and block["type"] == "text":
        last["content"][-1] = block | {"text": block["text"].rstrip()}
