"""A conversation on its way from one program to another, and what there is to tell of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from chattable.agents.chat import Message, Usage
from chattable.agents.errors import clip
from chattable.proxy.store.sessions.port import Item, SessionRecord

MAX_NOTES = 100  # of one conversation
MAX_FIELDS_NAMED = 30  # named in one note


class Unreadable(Exception):
    """A file or conversation that cannot be taken; `param` is the path of the wrong field."""

    def __init__(
        self, message: str, param: str | None = None, *, code: str = "invalid_value"
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class ImportNote(Struct, frozen=True):
    """What became of something on the way; `index` and `id` name the message as the source does."""

    message: str
    index: int | None = None
    id: str | None = None


class ImportNotes:
    """What there is to tell of one conversation: so many notes, and how many more there were."""

    def __init__(self) -> None:
        self._notes: list[ImportNote] = []
        self._more = 0
        self._lost: Counter[str] = Counter()

    # the public word for it
    def add(self, message: str, index: int | None = None, id: object = None) -> None:  # noqa: A002
        """Notes something about the conversation, or about one message of it."""
        if len(self._notes) < MAX_NOTES:
            self._notes.append(ImportNote(message, index, None if id is None else clip(id, 100)))
        else:
            self._more += 1

    def lost(self, names: Iterable[str]) -> None:
        """Notes that fields have no counterpart here: one note says so of all messages."""
        self._lost.update(clip(name, 60) for name in names)

    def all(self) -> list[ImportNote]:
        """The notes, in the order they came."""
        notes = list(self._notes)
        if self._more:
            notes.append(ImportNote(f"{self._more} more notes are left out"))
        if self._lost:
            named = [
                f"{name} ({count}×)" if count > 1 else name
                for name, count in self._lost.most_common(MAX_FIELDS_NAMED)
            ]
            others = (
                [f"{len(self._lost) - MAX_FIELDS_NAMED} others"]
                if len(self._lost) > MAX_FIELDS_NAMED
                else []
            )
            notes.append(
                ImportNote(
                    f"not kept, for there is nothing like it here: {', '.join([*named, *others])}"
                )
            )
        return notes


class Node(Struct, kw_only=True):
    """A message as a source has it; without one it joins those behind it to those before."""

    id: str
    parent: str | None
    index: int
    message: Message | None = None
    speaker: str = ""
    tokens: int | None = None
    usage: Usage | None = None
    request_id: str = ""
    incomplete: bool = False
    side: bool = False
    created_at: int = 0


class Transcript(Struct):
    """A conversation that was read: the session, and its items with parents before children."""

    session: SessionRecord
    items: list[Item]


def made(items: list[Item], head: str | None, **fields: Any) -> Transcript:
    """A transcript of a session with these fields."""
    return Transcript(SessionRecord(id="", user_id="", head=head, **fields), items)
