"""A conversation for people to read."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from chattable.agents.chat import Json
from chattable.proxy.importers.transcripts.sharegpt import shown_content
from chattable.proxy.store.sessions.port import Item, SessionRecord
from chattable.proxy.store.sessions.values import cleaned

NAMES = {
    "user": "User",
    "assistant": "Assistant",
    "system": "System",
    "developer": "Developer",
    "tool": "Tool",
}
FENCE = re.compile(r"^ {0,3}(`{3,}(?=[^`\n]*$)|~{3,})(.*)", re.M)
SPECIAL = re.compile(r"([\\`*_\[\]<>#])")


async def write(
    session: SessionRecord, batches: AsyncIterator[tuple[Item, ...]]
) -> AsyncIterator[bytes]:
    """The messages up to the head, each under the name of who says it."""
    facts = [
        f"`{session.id}`",
        *([f"model {escaped(session.model)}"] if session.model else []),
        *_time(session.created_at),
    ]
    yield _encoded(f"# {escaped(session.title or 'Conversation')}\n\n{' · '.join(facts)}\n")
    async for batch in batches:
        yield _encoded("".join(_section(item) for item in batch))
    yield b"\n"


def _section(item: Item) -> str:
    message = item.message
    name = NAMES.get(message.role, escaped(message.role))
    speaker = message.name or item.speaker
    facts = [f"{name} ({escaped(cleaned(speaker))})" if speaker else name, *_time(item.created_at)]
    blocks = [
        _quoted(message.reasoning_content or ""),
        fenced(shown_content(message), "")
        if message.role in ("tool", "function")
        else closed(shown_content(message)),
        *(_call(call) for call in message.tool_calls or ()),
        "*cut off*" if item.incomplete else "",
    ]
    return "\n".join([f"\n## {' · '.join(facts)}\n", *(f"{block}\n" for block in blocks if block)])


def _time(moment: int) -> list[str]:
    return (
        [f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"]
        if 0 < moment < 253402300800
        else []
    )


def _call(call: Json) -> str:
    function = call.get("function") or call.get("custom")
    given = function if isinstance(function, dict) else {}
    arguments = str(given.get("arguments", given.get("input", "")))
    return f"Calls {escaped(cleaned(str(given.get('name', ''))))}:\n\n{fenced(arguments, 'json')}"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n")) if text else ""


def fenced(text: str, language: str) -> str:
    """The text as a block of code that nothing in it ends."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def closed(text: str) -> str:
    """The text, with the end of a block of code that it leaves open, as where it was cut off."""
    fence = ""
    for found in FENCE.finditer(text):
        mark, rest = found[1], found[2]
        if not fence:
            fence = mark
        elif mark[0] == fence[0] and len(mark) >= len(fence) and not rest.strip():
            fence = ""
    return f"{text}\n{fence}" if fence else text


def escaped(text: str) -> str:
    """The text as words only, for a heading."""
    return SPECIAL.sub(r"\\\1", text)


def _encoded(text: str) -> bytes:
    return text.replace("\0", "\ufffd").encode(errors="replace")
