"""Plans the turn of a request: which messages are asked, which are stored, and where."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from msgspec import UNSET, Struct, UnsetType, to_builtins

from chattable.agents.chat import NO_USAGE, Chat, Chunk, Message
from chattable.proxy.conversations.items import model_messages
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
# an SDK that did not get the answer sends the request again within this time
RETRY_WINDOW_S = 60.0


class Plan(Struct, frozen=True, kw_only=True):
    """How a request is answered, and what is stored if it is."""

    mode: str  # as the header x-session-mode gives it
    messages: list[Message]  # what the model is asked
    new: tuple[Message, ...] = ()  # what the request adds to the tree
    parent: str | None = None  # the id of the message that the new ones follow
    head: str | UnsetType | None = UNSET  # what must still be the head; UNSET: any head will do
    off_path: bool = False  # stored beside the conversation: the head stays where it is
    injected: int = 0  # how many messages the server added
    replay: list[Chunk] | None = None  # the answer, where no model is asked
    length: int = 0  # stored messages since the summary, as far as they fit
    cut: bool = False  # whether there are more, which do not fit
    # what follows the incomplete answer that this turn replaces: it is stored after the new one
    following: tuple[NewItem, ...] = ()


class Unanswered(Struct, frozen=True):
    """The new messages of a request; `anew`: the last question again, for another answer."""

    messages: list[Message]
    anew: bool


class _History(Struct, frozen=True):
    """What of a conversation goes into a prompt."""

    system: list[Message]  # its system messages and its summary
    items: Sequence[Item]
    cut: bool


async def mirrored(
    store: SessionStore, session: SessionRecord, chat: Chat, *, off_path: bool = False
) -> Plan:
    """Plans for a client that keeps the history: it is asked as it came, its new part is stored."""
    match = await store.match(session, chat.messages)
    # A lone prompt beside a conversation, which no chat UI would ask for without streaming it: the
    # head stays where it is.
    count = len(conversation_messages(chat.messages))
    lone = match.id is None and not chat.stream and count == 1
    off_path = off_path or not count or (lone and session.head is not None)
    mode = "side" if off_path else "mirrored" if match.id == session.head else "branched"
    return Plan(
        mode=mode,
        messages=chat.messages,
        new=match.rest,
        parent=match.id,
        head=None if lone and not off_path else UNSET,
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
    """Plans for a server that keeps the history: its end, as much as fits, goes before what is new.

    Law: tool calls and their answers are never parted, and no answer comes without its question. A
    system message of the request replaces the stored one for this call. A request that is `retried`
    at this time is not asked again if it was answered just before, unless it has `failed` since. A
    last question that is asked `anew` gets another answer beside the one it has. A new answer
    replaces an incomplete one: what followed that follows the new one, on a new branch.
    """
    asked = conversation_messages(chat.messages)
    if session.head is None:
        return Plan(mode="appended", messages=chat.messages, new=tuple(chat.messages), head=None)
    room = room_beside(chat, tokens)
    if window is None:
        window = await store.window(session, messages=most, tokens=room)
    system = [message for message in chat.messages if message.role in NOT_HISTORY]
    history = await _history(store, session, window, room, with_system=not system)
    items, following = history.items, tuple[NewItem, ...]()
    parent: str | None = session.head
    at, replay = _given_answer(items, asked, retried=retried, failed=failed, anew=anew)
    if at is not None:
        if replay is None and items[at].id != session.head:
            following = await _following(store, session, items[at])
        parent = items[at - len(asked)].parent
        items = items[: at - len(asked)]
    messages = [*system, *_askable(history.system, items, asked), *asked]
    return Plan(
        mode="appended",
        messages=messages,
        new=tuple(asked),
        parent=parent,
        head=session.head,
        injected=len(messages) - len(chat.messages),
        replay=replay,
        length=len(items),
        cut=history.cut,
        following=following,
    )


def room_beside(chat: Chat, tokens: int | None) -> int | None:
    """How many of a prompt's tokens are left for the history."""
    return None if tokens is None else max(0, tokens - _size(chat.messages))


async def resent(store: SessionStore, session: SessionRecord, chat: Chat) -> bool:
    """Whether a client sends its own history: who sends only what is new sends no answers."""
    asked = conversation_messages(chat.messages)
    if session.head is None or len(asked) == 1:
        return False
    if any(message.role == "assistant" for message in asked):
        return True
    return (await store.match(session, asked)).id == session.head


async def unanswered(store: SessionStore, session: SessionRecord, chat: Chat) -> Unanswered | None:
    """What is new of a request whose client resends all its questions, without the answers.

    None for any other request.
    """
    asked = conversation_messages(chat.messages)
    if session.head is None or len(asked) < 2 or any(message.role != "user" for message in asked):
        return None
    known = await _stored_questions(store, session, asked)
    if not known:
        return None
    system = [message for message in chat.messages if message.role in NOT_HISTORY]
    return Unanswered([*system, *(asked[known:] or asked[-1:])], known == len(asked))


async def _stored_questions(
    store: SessionStore, session: SessionRecord, asked: Sequence[Message]
) -> int:
    """How many of these are the conversation's questions; 0 if it has others, or more."""
    known = 0
    limit = min(2 * len(asked), MAX_LIMIT)
    async with aclosing(_items(store, session, None, limit)) as items:
        async for item in items:
            if item.message.role != "user":
                continue
            if known == len(asked) or content_digest(item.message) != content_digest(asked[known]):
                return 0
            known += 1
    return known


async def _history(
    store: SessionStore,
    session: SessionRecord,
    window: Window,
    room: int | None,
    *,
    with_system: bool,
) -> _History:
    """What of a window there is room for, after the system messages and the summary."""
    summary = window.summary
    # what the window follows; None: it begins the conversation
    follows = window.items[0].parent if window.items else ""
    system = await _system(store, session, window.items, follows) if with_system else []
    if summary is not None:
        system.append(Message("system", SUMMARY + summary.text))
    kept = [item for item in window.items if item.message.role not in NOT_HISTORY]
    cut = follows != (summary.upto if summary else None)
    items = _fitting(kept, None if room is None else room - _size(system), cut=cut)
    return _History(system, items, cut or len(items) < len(kept))


def _askable(
    system: Sequence[Message], items: Sequence[Item], asked: Sequence[Message]
) -> list[Message]:
    """The history that may go before these messages, as a model takes it."""
    stored = [item.message for item in items]
    keep = paired([*stored, *asked])
    whole = [message for message, kept in zip(stored, keep, strict=False) if kept]
    return model_messages([*system, *whole])


def _size(messages: Sequence[Message]) -> int:
    """The estimated tokens of messages that are not stored."""
    return sum([tokens_of(NewItem(message=message)) for message in messages])


def _fitting(items: Sequence[Item], room: int | None, *, cut: bool) -> Sequence[Item]:
    """The newest messages that there is room for.

    Where earlier ones are missing they do not begin with an answer, whose question is among those.
    """
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


async def _system(
    store: SessionStore, session: SessionRecord, items: Sequence[Item], follows: str | None
) -> list[Message]:
    """The system messages that the conversation begins with, wherever these items begin."""
    if follows is not None:
        items = (await store.items(session, 2, descending=False)).data
    system = []
    for item in items:
        if item.message.role not in NOT_HISTORY:
            break
        system.append(item.message)
    return system


def _given_answer(
    items: Sequence[Item],
    asked: Sequence[Message],
    *,
    retried: float | None,
    failed: bool,
    anew: bool,
) -> tuple[int | None, list[Chunk] | None]:
    """Where the answer to these messages is, if it is given again or replaced; and its replay.

    No replay: another answer replaces this one, or stands beside it.
    """
    if retried is not None:
        at = _answered(items, asked, retried)
        if at is not None and items[at].incomplete:
            return at, None
        if at is not None and not failed:
            return at, _replayed(items[at])
    if anew or (items and items[-1].incomplete):
        at = _answered(items, asked)
        if at == len(items) - 1:
            return at, None
    return None, None


def _answered(
    items: Sequence[Item],
    asked: Sequence[Message],
    now: float | None = None,
) -> int | None:
    """Where the newest answer to exactly these messages is; with `now`, if it was just given.

    An answer whose time is well ahead of `now` was given before a clock was set back: how long ago
    is unknown.
    """
    wanted = [content_digest(message) for message in asked]
    for at in range(len(items) - 1, len(wanted) - 1, -1):
        if now is not None and abs(items[at].created_at - now) > RETRY_WINDOW_S:
            break
        before = items[at - len(wanted) : at]
        if (
            items[at].message.role == "assistant"
            and wanted
            and [content_digest(item.message) for item in before] == wanted
        ):
            return at
    return None


async def _items(
    store: SessionStore, session: SessionRecord, after: str | None, limit: int = MAX_LIMIT
) -> AsyncGenerator[Item]:
    """The messages of a conversation from the first, or from behind one, to the head."""
    while True:
        page = await store.items(session, limit, after, descending=False)
        for item in page.data:
            yield item
        if not page.has_more:
            return
        after = page.data[-1].id


async def _following(
    store: SessionStore, session: SessionRecord, item: Item
) -> tuple[NewItem, ...]:
    """What was said after a message, to be stored after another; its usage is counted already."""
    return tuple(
        [
            NewItem(
                message=item.message,
                tokens=item.tokens,
                speaker=item.speaker,
                incomplete=item.incomplete,
            )
            async for item in _items(store, session, item.id)
        ]
    )


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
