"""The ends of conversations that this process read or wrote last: they need not be read again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from chattable.budget.storage.statements import Row
from chattable.proxy.store.sessions.port import Item
from chattable.proxy.store.sessions.rows import item_of

MAX_SESSIONS = 1024
MAX_CHARACTERS = 4 * 2**20  # of the messages of all of them


class KnownEnd(Struct):
    """The last messages of one conversation, as its row was when they were read."""

    stamp: tuple[Any, ...]
    items: tuple[Item, ...]
    most: int  # messages that were asked for
    characters: int


class KnownEnds:
    """Keeps what operations read and write, for the next turn of the same session.

    Law: what is found is what reading would give. The row that a turn locks says whether anything
    has happened to the conversation since, on whichever replica: every turn moves `recent` and
    `updated_at`, every deletion `erased` or `trimmed`. What a transaction wrote that was undone
    after all is never found, for no row has its stamp.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, KnownEnd] = OrderedDict()
        self._characters = 0

    def find(self, row: Row, messages: int, tokens: int) -> tuple[Item, ...] | None:
        """The last messages that have so many tokens together; None where they must be read."""
        known = self._known.get(row["id"])
        if known is None or known.stamp != _stamp(row):
            return None
        self._known.move_to_end(row["id"])
        items = known.items[-messages:]
        for at in range(len(items) - 1, -1, -1):
            tokens -= items[at].tokens
            if tokens < 0:
                return items[at + 1 :]
        return items if len(items) == messages or items[0].position == 1 else None

    def remember(self, row: Row, items: tuple[Item, ...], most: int) -> None:
        """Keeps the last messages of a conversation that nothing was deleted from."""
        self._drop(row["id"])
        characters = sum(_characters(item) for item in items)
        if not items or characters > MAX_CHARACTERS:
            return
        self._known[row["id"]] = KnownEnd(_stamp(row), items, most, characters)
        self._characters += characters
        while self._characters > MAX_CHARACTERS or len(self._known) > MAX_SESSIONS:
            self._drop(next(iter(self._known)))

    def extend(self, before: Row, after: Row, new: Iterable[Row]) -> None:
        """Adds what a turn appended, whose session's row was `before` and is `after`."""
        known = self._known.get(before["id"])
        if known is None or known.stamp != _stamp(before):
            return
        items = (*known.items, *map(item_of, new))[-known.most :]
        self.remember(after, items, known.most)

    def _drop(self, session: str) -> None:
        known = self._known.pop(session, None)
        if known is not None:
            self._characters -= known.characters


def _stamp(row: Row) -> tuple[Any, ...]:
    turns = row["head"], row["recent"], row["updated_at"]
    return *turns, row["erased"], row["trimmed"], row["summary_upto"]


def _characters(item: Item) -> int:
    """A rough size: what is no text counts by its written form."""
    message = item.message
    content = message.content if isinstance(message.content, str) else str(message.content)
    return len(content) + len(str(message.tool_calls)) + len(str(message.extra))
