"""What may be kept of a session, and the text that it is stored as in every database."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from typing import Any

import msgspec

from chattable.agents.chat import NO_USAGE, Json, Message, Usage
from chattable.agents.parsing import MESSAGE_FIELDS
from chattable.proxy.store.errors import Invalid
from chattable.proxy.store.sessions.port import Item, NewItem, Summary
from chattable.proxy.store.text import MAX_LENGTH, UNSTORABLE, is_placeholder, printable

MAX_ALIAS = 512
NEW = "new"  # the name by which a request asks for a fresh session
MAX_MESSAGE_LENGTH = 32 * 2**20  # characters of JSON
MAX_OBJECT_LENGTH = 2**20
MAX_DEPTH = 200  # of nested JSON, so that every reader can read what was written
# OpenAI's limits of metadata
MAX_METADATA_PAIRS, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512
MAX_RECENT_TURNS = 32  # that are recognised when they come again
TURN_KEY_LENGTH = 22

_decode = msgspec.json.Decoder().decode
_usage = msgspec.json.Decoder(Usage).decode


def checked_alias(alias: str) -> str:
    """Returns the alias, or refuses what is none."""
    if not 1 <= len(alias) <= MAX_ALIAS:
        raise Invalid(
            f"The id of a session must have 1 to {MAX_ALIAS} characters, not {len(alias)}.",
            "conversation",
        )
    return printable(alias, "conversation")


def new_alias(alias: str) -> str:
    """Returns an alias that a session may be given, so that requests can name it."""
    checked_alias(alias)
    if alias == NEW or is_placeholder(alias):
        why = "names no session: a request that says so means a new one, or none."
        raise Invalid(f"{alias!r} {why}", "conversation")
    return alias


def alias_digest(alias: str) -> str:
    """What the alias is found by, of one length for all."""
    return hashlib.sha256(alias.encode()).hexdigest()


def findable_id(text: str) -> str:
    """Returns the id, or "" for what cannot be one and what a driver might refuse."""
    return text if text.isascii() and text.isprintable() else ""


def cleaned(text: str, limit: int = MAX_LENGTH) -> str:
    """A short text as both databases take it, cleaned and not refused.

    A refusal would come too late, after the answer was sent.
    """
    if text.isprintable() and text.isascii() and len(text) <= limit and "  " not in text:
        return text.strip()
    shown = "".join(
        " " if unicodedata.category(character) in UNSTORABLE else character
        for character in text[: 4 * limit]
    )
    return " ".join(shown.split())[:limit].rstrip()


def checked_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """Returns the metadata, or says which pair is too much."""
    if len(metadata) > MAX_METADATA_PAIRS:
        raise Invalid(
            f"metadata may have {MAX_METADATA_PAIRS} pairs, not {len(metadata)}.", "metadata"
        )
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise Invalid(
                f"metadata must map strings to strings; the value of {key!a} is none.", "metadata"
            )
        if len(key) > MAX_METADATA_KEY or len(value) > MAX_METADATA_VALUE:
            raise Invalid(
                f"metadata's keys may have {MAX_METADATA_KEY} characters,"
                f" its values {MAX_METADATA_VALUE}: {key[:MAX_METADATA_KEY]!a}.",
                "metadata",
            )
    return metadata


def written(value: Any, field: str, limit: int = MAX_OBJECT_LENGTH) -> str:
    """The value as JSON text, or a refusal that names the field.

    NUL and lone surrogates are escaped.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"{field} cannot be written as JSON: {error}.", field) from None
    if len(text) > limit:
        raise Invalid(f"{field} may have {limit} characters of JSON, not {len(text)}.", field)
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise Invalid(f"{field} is nested more than {MAX_DEPTH} levels deep.", field)
    return text


def read(text: str | bytes) -> Any:
    """The value that was written."""
    if text == "{}":  # most sessions have none of their own
        return {}
    try:
        return _decode(text)
    except msgspec.DecodeError:  # lone surrogates, and what only Python takes for JSON
        return json.loads(text)


def message_text(message: Message) -> str:
    """A message with all its fields as text."""
    return written(msgspec.to_builtins(message.to_json()), "messages", MAX_MESSAGE_LENGTH)


def message_of(text: str | bytes) -> Message:
    """The message that was written."""
    raw: Json = read(text)
    if raw.keys() <= MESSAGE_FIELDS:
        return Message(**raw)
    known = {name: raw.pop(name) for name in MESSAGE_FIELDS if name in raw}
    return Message(**known, extra=raw)


def usage_text(usage: Usage | None) -> str | None:
    """A usage as text."""
    return None if usage is None else written(msgspec.to_builtins(usage), "usage")


def usage_of(text: str | None) -> Usage | None:
    """The usage that was written."""
    return None if text is None else _usage(text)


def summary_text(summary: Summary) -> str:
    """The words of a summary as text."""
    return written(summary.text, "summary")


def tokens_of(entry: NewItem | Item) -> int:
    """The message's tokens: as counted, or a quarter of its characters."""
    if entry.tokens is not None:
        return max(0, entry.tokens)
    return (
        4
        + (len(entry.message.text) + sum(len(str(call)) for call in entry.message.tool_calls or ()))
        // 4
    )


def used(entries: tuple[NewItem, ...], before: Usage = NO_USAGE) -> Usage:
    """What a session used once it has these entries."""
    for entry in entries:
        if entry.usage is not None:
            before = before + entry.usage
    return before


def turn_key(key: str) -> str:
    """What a turn is recognised by, in few characters."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:TURN_KEY_LENGTH]


def remembered(recent: str, key: str) -> str:
    """The keys of the last turns with this one."""
    return (turn_key(key) + recent)[: MAX_RECENT_TURNS * TURN_KEY_LENGTH] if key else recent


def has_key(recent: str, key: str) -> bool:
    """Says whether a turn with this key was among the last."""
    wanted = turn_key(key)
    return bool(key) and any(
        recent[i : i + TURN_KEY_LENGTH] == wanted for i in range(0, len(recent), TURN_KEY_LENGTH)
    )


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            part
            for outer in level
            for part in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(part, dict | list | tuple)
        ]
    return depth
