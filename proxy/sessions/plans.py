"""What a turn makes of a request: the messages that are asked, those that are new, and where in the tree they go."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from msgspec import UNSET, Struct, UnsetType, to_builtins

from chattable.agents.chat import NO_USAGE, Chat, Chunk, Message
from chattable.proxy.conversations.items import asked as askable
from chattable.proxy.store.page import MAX_LIMIT
from chattable.proxy.store.sessions.chain import (
    NOT_HISTORY,
    content_digest,
    conversation_messages,
    paired,
)
from chattable.proxy.store.sessions.port import Item, NewItem, SessionRecord, SessionStore, Window
from chattable.proxy.store.sessions.values import tokens_of

SUMMARY = "What was said before, in short:\n\n"
AGAIN = 60.0  # seconds in which an SDK asks again for an answer that was given and did not reach it


class Plan(Struct, frozen=True, kw_only=True):
    """How a request is answered, and what is stored if it is."""

    mode: str  # as the header x-session-mode says it
    messages: list[Message]  # what is asked
    new: tuple[Message, ...] = ()  # what the request adds to the tree
    parent: str | None = None  # behind which message
    head: str | UnsetType | None = UNSET  # what must still be the head; UNSET: whatever is
    off_path: bool = False  # stored beside the conversation: the head stays where it is
    injected: int = 0
    replay: list[Chunk] | None = None  # the answer, where nothing is asked
    length: int = 0  # stored messages since the summary, as far as they fit
    cut: bool = False  # whether there are more that do not
    # what was said after the part of an answer that this one replaces
    following: tuple[NewItem, ...] = ()


class Unanswered(Struct, frozen=True):
    """The new messages of a request, or the last one again, which is to be answered anew."""

    messages: list[Message]
    anew: bool


async def mirrored(
    store: SessionStore, session: SessionRecord, chat: Chat, *, off_path: bool = False
) -> Plan:
    """The client keeps the history: what it sent is asked as it is, and what of it is new becomes a branch."""
    match = await store.match(session, chat.messages)
    # A lone prompt beside a conversation, which no chat UI would ask for without streaming it: the
    # head stays where it is.
    spoken_count = len(conversation_messages(chat.messages))
    lone = match.id is None and not chat.stream and spoken_count == 1
    off_path = off_path or not spoken_count or (lone and session.head is not None)
    mode = "side" if off_path else "mirrored" if match.id == session.head else "branched"
    head = None if lone and not off_path else UNSET
    return Plan(
        mode=mode,
        messages=chat.messages,
        new=match.rest,
        parent=match.id,
        head=head,
        off_path=off_path,
    )


async def appended(
    store: SessionStore,
    session: SessionRecord,
    chat: Chat,
    *,
    most: int,
    tokens: int | None,
    retried: float | None = None,
    window: Window | None = None,
    failed: bool = False,
    anew: bool = False,
) -> Plan:
    """The server keeps the history: the end of it, as much as fits, is asked before what is new.

    Law: tool calls and their answers are never parted, and no answer comes without its question. A
    system message of the request stands, for this call, in the place of the stored one. What a
    request that is `retried` at this time asks is not asked again where it was answered just
    before, unless it has `failed` since. The last question that is asked `anew` gets another answer
    beside the one it has. An answer takes the place of a part of it: what was said behind that
    follows it on a new branch.
    """
    asked = conversation_messages(chat.messages)
    if session.head is None:
        return Plan(mode="appended", messages=chat.messages, new=tuple(chat.messages), head=None)
    room = room_beside(chat, tokens)
    if window is None:
        window = await store.window(session, messages=most, tokens=room)
    system = [message for message in chat.messages if message.role in NOT_HISTORY]
    added = [] if system else await _system(store, session, window)
    if window.summary is not None:
        added.append(Message("system", SUMMARY + window.summary.text))
    kept = [item for item in window.items if item.message.role not in NOT_HISTORY]
    cut = _begins(window.items) != (window.summary.upto if window.summary else None)
    items = _fitting(kept, None if room is None else room - _size(added), cut=cut)
    cut = cut or len(items) < len(kept)
    parent: str | None = session.head
    at = None if retried is None else _answered(items, asked, retried)
    if at is not None and failed and not items[at].incomplete:
        at = None
    replay = None if at is None or items[at].incomplete else _replayed(items[at])
    if at is None and (anew or (items and items[-1].incomplete)):
        at = _answered(items, asked)
        at = at if at == len(items) - 1 else None
    following: tuple[NewItem, ...] = ()
    if at is not None:
        if replay is None and items[at].id != session.head:
            following = await _following(store, session, items[at])
        parent = items[at - len(asked)].parent
        items = items[: at - len(asked)]
    stored = [item.message for item in items]
    stored = [
        message for message, kept in zip(stored, paired([*stored, *asked]), strict=False) if kept
    ]
    messages = [*system, *askable(added), *askable(stored), *asked]
    return Plan(
        mode="appended",
        messages=messages,
        new=tuple(asked),
        parent=parent,
        head=session.head,
        injected=len(messages) - len(chat.messages),
        replay=replay,
        length=len(items),
        cut=cut,
        following=following,
    )


def room_beside(chat: Chat, tokens: int | None) -> int | None:
    """How many tokens of a prompt are left for what is stored."""
    return None if tokens is None else max(0, tokens - _size(chat.messages))


async def resent(store: SessionStore, session: SessionRecord, chat: Chat) -> bool:
    """Whether a client sends its own history: nobody who sends only what is new sends what an assistant said."""
    asked = conversation_messages(chat.messages)
    if session.head is None or len(asked) == 1:
        return False
    if any(message.role == "assistant" for message in asked):
        return True
    return (await store.match(session, asked)).id == session.head


async def unanswered(store: SessionStore, session: SessionRecord, chat: Chat) -> Unanswered | None:
    """What is new of a request whose client resends all that it has said, without the answers.

    None where it does not.
    """
    asked = conversation_messages(chat.messages)
    if session.head is None or len(asked) < 2 or any(message.role != "user" for message in asked):
        return None
    known, after = 0, None
    while True:
        page = await store.items(session, min(2 * len(asked), MAX_LIMIT), after, descending=False)
        for item in page.data:
            if item.message.role == "user":
                if known == len(asked) or content_digest(item.message) != content_digest(
                    asked[known]
                ):
                    return None
                known += 1
        if not page.has_more:
            break
        after = page.data[-1].id
    if known == 0:
        return None
    unsaid = [message for message in chat.messages if message.role in NOT_HISTORY]
    return Unanswered([*unsaid, *(asked[known:] or asked[-1:])], known == len(asked))


def _size(messages: Sequence[Message]) -> int:
    return sum(tokens_of(NewItem(message=message)) for message in messages)


def _fitting(items: Sequence[Item], room: int | None, *, cut: bool) -> Sequence[Item]:
    """The newest messages that there is room for; where some are cut off, no answer whose question is among those."""
    first = len(items)
    while first and (room is None or items[first - 1].tokens <= room):
        first -= 1
        room = None if room is None else room - items[first].tokens
    if (
        (cut or first)
        and first < len(items)
        and items[first].message.role == "assistant"
        and not items[first].message.tool_calls
    ):
        first += 1
    return items[first:]


def _begins(items: Sequence[Item]) -> str | None:
    """What the first message of a window follows; None: nothing."""
    return items[0].parent if items else ""


async def _system(store: SessionStore, session: SessionRecord, window: Window) -> list[Message]:
    """The system messages that the conversation begins with, wherever the window begins."""
    items: Sequence[Item] = window.items
    if _begins(items) is not None:
        items = (await store.items(session, 2, descending=False)).data
    return [
        item.message
        for item in itertools.takewhile(lambda item: item.message.role in NOT_HISTORY, items)
    ]


def _answered(
    items: Sequence[Item],
    asked: Sequence[Message],
    now: float | None = None,
) -> int | None:
    """Where the newest answer to these very messages is; with `now`, if it was given just before.

    An answer whose time is well ahead of `now` was given before a clock was set back: nobody knows
    how long ago.
    """
    wanted = [content_digest(message) for message in asked]
    for at in range(len(items) - 1, len(wanted) - 1, -1):
        if now is not None and abs(items[at].created_at - now) > AGAIN:
            break
        before = items[at - len(wanted) : at]
        if (
            items[at].message.role == "assistant"
            and wanted
            and [content_digest(item.message) for item in before] == wanted
        ):
            return at
    return None


async def _following(
    store: SessionStore, session: SessionRecord, item: Item
) -> tuple[NewItem, ...]:
    """What was said after a message, to be said after another; its usage is counted already."""
    found: list[NewItem] = []
    after = item.id
    while True:
        page = await store.items(session, MAX_LIMIT, after, descending=False)
        found += [
            NewItem(
                message=item.message,
                tokens=item.tokens,
                speaker=item.speaker,
                incomplete=item.incomplete,
            )
            for item in page.data
        ]
        if not page.has_more:
            return tuple(found)
        after = page.data[-1].id


def _replayed(item: Item) -> list[Chunk]:
    """A stored answer as it was given."""
    delta = dict(to_builtins(item.message.to_json()))
    calls = delta.get("tool_calls")
    if calls:
        delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
    delta = {name: value for name, value in delta.items() if value is not None or name == "content"}
    return [
        Chunk(0, delta),
        Chunk(finish_reason="tool_calls" if calls else "stop"),
        Chunk(usage=item.usage or NO_USAGE),
    ]
