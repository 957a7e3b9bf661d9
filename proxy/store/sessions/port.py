"""Sessions: conversations that the server keeps, as a port; `sql_store.py` keeps them.

A session is a tree of messages with a head. The path from the root to the head is the conversation;
the other branches are what was edited, regenerated or said on the side. A message's id says what it
is and what came before it (`chain.py`), so that the same message after the same ones is
stored once, however often it is sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Protocol

from msgspec import UNSET, Struct, UnsetType, field

from chattable.agents.chat import Json, Message, Usage
from chattable.proxy.store.page import Page

SESSION_ID = "conv_"


class Summary(Struct, frozen=True):
    """What stands for the beginning of a conversation, up to and including message `upto`."""

    text: str
    upto: str


class SessionRecord(Struct, frozen=True, kw_only=True):
    """A conversation without its messages; `message_count` is of the path to the head."""

    id: str
    user_id: str
    alias: str | None = None  # what the user's client calls it
    title: str | None = None
    model: str | None = None
    params: Json = {}
    state: Json = {}
    metadata: dict[str, str] = {}
    head: str | None = None  # the id of the last message; None: nothing was said yet
    message_count: int = 0
    summary: Summary | None = None
    # of every turn, also on other branches and on the side
    usage: Usage = field(default_factory=lambda: Usage(0, 0, 0))
    created_at: int = 0
    updated_at: float = 0.0  # when something was last said


class NewItem(Struct, frozen=True, kw_only=True):
    """A message that is to be stored; `tokens` not given is estimated."""

    message: Message
    tokens: int | None = None
    speaker: str = ""  # the model or agent that said it
    usage: Usage | None = None
    incomplete: bool = False  # cut off: the client left, or the model broke down


class Item(Struct, frozen=True, kw_only=True):
    """A stored message; `position` counts from 1 at the root of its path."""

    id: str
    parent: str | None
    position: int
    message: Message
    speaker: str
    tokens: int
    usage: Usage | None
    request_id: str
    incomplete: bool
    side: bool
    created_at: int


class Window(Struct, frozen=True):
    """The end of a conversation, in order, and what stands for the part before it."""

    items: tuple[Item, ...]
    summary: Summary | None


class Match(Struct, frozen=True):
    """How much of a client's own history is stored, and what comes after it.

    `id` is the deepest stored message, `matched` counts those that are stored. Neither `matched`
    nor `rest` includes messages that are no history (`chain.NOT_HISTORY`).
    """

    id: str | None
    matched: int
    rest: tuple[Message, ...]


class TurnRecord(Struct, frozen=True, kw_only=True):
    """What one exchange adds to a session: `entries`, each the parent of the next."""

    entries: tuple[NewItem, ...] = ()
    parent: str | None = None  # what the first entry follows; None: it begins the conversation anew
    head: str | UnsetType | None = UNSET  # what the head must still be; UNSET: whatever it is
    side: bool = False  # a title, a tag: stored, never the head
    key: str = ""  # the same key again changes nothing
    holder: str = ""  # whose lock ends with this turn
    request_id: str = ""
    model: str | UnsetType = UNSET
    state: Json | UnsetType = UNSET


class Committed(Struct, frozen=True):
    """The session after a turn, and the ids of its entries; `repeated`: it was there before."""

    session: SessionRecord
    ids: tuple[str, ...]
    repeated: bool = False


class Retention(Struct, frozen=True, kw_only=True):
    """What is kept; None: all of it."""

    newest: int | None = None  # sessions per user
    seconds: float | None = None  # since something was last said
    messages: int | None = None  # per session: the oldest go


class SessionStore(Protocol):
    """Where conversations are kept.

    Law: a session belongs to one user, and to everybody else it does not exist: another user's id
    is answered exactly like one that nobody has. `NotFound`, `Invalid`, `Conflict` and
    `StorageUnavailable` are the only refusals. A write happens wholly or not at all. What was
    stored is returned as it was, NUL, lone surrogates and unknown fields included. Messages never
    change, except by being deleted. Reading a window and committing a turn cost the same in a
    conversation of 20 messages and of 20,000.
    """

    async def open(
        self, user: str, name: str | None, *, create: bool = True, model: str | None = None
    ) -> SessionRecord:
        """Returns the user's session with this id or alias; None is a new one.

        An alias has 1–512 printable characters. Law: whatever is no id of a session of this user is
        an alias. What is unknown is made, or with `create=False` raises `NotFound`. Of any number
        of calls with one unknown alias one makes the session, all return it.
        """
        ...

    async def find(self, id: str) -> SessionRecord:  # noqa: A002 - the public word for it
        """Returns anybody's session with this id, or raises `NotFound`; for administration only."""
        ...

    async def take(
        self,
        user: str,
        name: str | None,
        holder: str,
        seconds: float,
        *,
        create: bool = True,
        model: str | None = None,
        messages: int = 500,
        tokens: int | None = None,
    ) -> tuple[SessionRecord, Window | None]:
        """Opens a session, locks it and returns the end of its conversation.

        No window while another holder has the lock. Law: the same as `open`, `lock` and `window`
        one after the other, which a store need not do at once.
        """
        session = await self.open(user, name, create=create, model=model)
        mine = await self.lock(session, holder, seconds)
        if mine is None:
            return session, None
        return mine, await self.window(mine, messages=messages, tokens=tokens)

    async def lock(
        self, session: SessionRecord, holder: str, seconds: float
    ) -> SessionRecord | None:
        """Locks the session for a holder, and returns it as it is now; None while another has it.

        Law: never waits; the store's own clock counts, for all replicas. A holder may lock again,
        which begins the time anew.
        """
        ...

    async def unlock(self, session: SessionRecord, holder: str) -> None:
        """Ends the holder's lock, if it is still theirs."""
        ...

    async def holder(self, session: SessionRecord) -> str:
        """Returns who has the session locked; "" for nobody, and from a store that cannot say."""
        return ""

    async def hand_over(self, session: SessionRecord, holder: str, to: str) -> bool:
        """Gives a lock another name, if it is still this holder's, and says so; its time goes on.

        Law: nobody else has the session in between. A store that cannot do that says False.
        """
        return False

    async def window(
        self,
        session: SessionRecord,
        *,
        messages: int = 500,
        tokens: int | None = None,
        at: str | None = None,
    ) -> Window:
        """Returns at most so many of the last messages on the path to the head, or to `at`.

        Law: the messages are consecutive and end with the last one, without those a summary on this
        path stands for, and without halves of tool calls (`chain.paired`). With `tokens`,
        the sum of theirs is at most that.
        """
        ...

    async def match(self, session: SessionRecord, messages: Sequence[Message]) -> Match:
        """Returns how much of a client's history some path of this session begins with."""
        ...

    async def commit(self, session: SessionRecord, turn: TurnRecord) -> Committed:
        """Adds a turn and moves the head to its last entry, or without entries to `parent`.

        `HeadMoved` if `turn.head` is not the head any more. Law: an entry whose id is stored is not
        stored again, except where the stored one was deleted, incomplete or on the side, and this
        one is not. Entries with the roles system and developer are stored like all others.
        """
        ...

    async def list(
        self, user: str | None, limit: int = 20, after: str | None = None
    ) -> Page[SessionRecord]:
        """Returns the user's sessions, or everybody's; the last one used comes first."""
        ...

    async def update(
        self,
        session: SessionRecord,
        *,
        title: str | UnsetType | None = UNSET,
        model: str | UnsetType | None = UNSET,
        params: Json | UnsetType = UNSET,
        state: Json | UnsetType = UNSET,
        metadata: dict[str, str] | UnsetType = UNSET,
        summary: Summary | UnsetType | None = UNSET,
    ) -> SessionRecord:
        """Replaces what is given and returns the session as it is now.

        A title is cleaned, everything else kept as it is.
        """
        ...

    async def delete(self, session: SessionRecord) -> None:
        """Removes the session with every message."""
        ...

    async def forget(self, user: str, limit: int = 100) -> int:
        """Removes at most so many of the user's sessions and returns how many; 0: none is left."""
        ...

    async def items(
        self,
        session: SessionRecord,
        limit: int = 20,
        after: str | None = None,
        *,
        descending: bool = True,
    ) -> Page[Item]:
        """Returns messages of the path to the present head.

        Law: an unknown `after` begins behind the end; a deleted message still serves as `after`,
        and one of another branch does by its position.
        """
        ...

    # the public word for it
    async def item(self, session: SessionRecord, id: str) -> Item:  # noqa: A002
        """Returns a message of any branch, or raises `NotFound`."""
        ...

    # the public word for it
    async def delete_item(self, session: SessionRecord, id: str) -> SessionRecord:  # noqa: A002
        """Erases a message: its text is gone, those after it stay, with their ids."""
        ...

    async def fork(
        self, session: SessionRecord, at: str | None = None, *, alias: str | None = None
    ) -> SessionRecord:
        """Makes a session of the path to the head, or to `at`; the two share nothing afterwards."""
        ...

    async def sweep(self, keep: Retention, user: str | None = None, limit: int = 100) -> int:
        """Removes what need not be kept, of one user or of everybody.

        Touches at most `limit` sessions, and returns how many it did.
        """
        ...

    def export(self, session: SessionRecord, batch: int = 500) -> AsyncIterator[tuple[Item, ...]]:
        """Yields every message of every branch, parents before children, a batch at a time."""
        ...

    async def restore(
        self, user: str, session: SessionRecord, items: Iterable[Item], *, alias: str | None = None
    ) -> SessionRecord:
        """Makes a session like an exported one.

        Its messages get ids of their own; `head` and `summary` follow.
        """
        ...
