"""A conversation on its way from one program to another, and what there is to tell of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from chattable.agents.chat import Message, Usage
from chattable.agents.errors import clip
from chattable.proxy.store.sessions.port import Item, SessionRecord

MOST_NOTES = 100  # of one conversation
MOST_FIELDS = 30  # named in one note


class Unreadable(Exception):
    """A file, or a conversation in it, that cannot be taken; `param` is the path of the field that is wrong."""

    def __init__(
        self, message: str, param: str | None = None, *, code: str = "invalid_value"
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class Note(Struct, frozen=True):
    """What became of something on the way; `index` and `id` name the message as the source does."""

    message: str
    index: int | None = None
    id: str | None = None


class Notes:
    """What there is to tell of one conversation: so many notes, and how many more there would have been."""

    def __init__(self) -> None:
        self._notes: list[Note] = []
        self._more = 0
        self._lost: Counter[str] = Counter()

    def add(self, message: str, index: int | None = None, id: object = None) -> None:  # noqa: A002 - the public word for it
        """Notes something about the conversation, or about one message of it."""
        if len(self._notes) < MOST_NOTES:
            self._notes.append(Note(message, index, None if id is None else clip(id, 100)))
        else:
            self._more += 1

    def lost(self, names: Iterable[str]) -> None:
        """Notes that fields have no counterpart here: one note says so of all messages."""
        self._lost.update(clip(name, 60) for name in names)

    def all(self) -> list[Note]:
        """The notes, in the order they came."""
        notes = list(self._notes)
        if self._more:
            notes.append(Note(f"{self._more} more notes are left out"))
        if self._lost:
            named = [
                f"{name} ({count}×)" if count > 1 else name
                for name, count in self._lost.most_common(MOST_FIELDS)
            ]
            others = (
                [f"{len(self._lost) - MOST_FIELDS} others"] if len(self._lost) > MOST_FIELDS else []
            )
            notes.append(
                Note(f"not kept, for there is nothing like it here: {', '.join([*named, *others])}")
            )
        return notes


class Node(Struct, kw_only=True):
    """A message as a source has it; one without a message only joins those behind it to those before."""

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
    """A conversation that was read: the session, whose head is one of the items, and these with parents before children."""

    session: SessionRecord
    items: list[Item]


def made(items: list[Item], head: str | None, **fields: Any) -> Transcript:
    """A transcript of a session with these fields."""
    return Transcript(SessionRecord(id="", user_id="", head=head, **fields), items)
