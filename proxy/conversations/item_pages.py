"""The items of a stored conversation: one of them by its id, or a page."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress

from msgspec import Struct

from chattable.agents.chat import Json
from chattable.proxy.conversations.items import items_of, keys_of, message_id
from chattable.proxy.store.errors import NotFound
from chattable.proxy.store.page import MAX_LIMIT
from chattable.proxy.store.sessions.chain import ITEM
from chattable.proxy.store.sessions.port import Item, NewItem, SessionRecord, SessionStore

OUR_ID = re.compile(r"[a-z]+_[\w-]{43}(\.\d+)?")


class Listed(Struct, frozen=True):
    """An item; `key` is the id that we gave it, also where it came with one of its own."""

    key: str
    item: Json


class Listing(Struct, frozen=True):
    """Some items, and whether there are more."""

    data: list[Listed]
    has_more: bool


def listed(id: str, stored: Item | NewItem) -> list[Listed]:  # noqa: A002 - the public word for it
    """The items of a message with this id."""
    items = items_of(id, stored.message, incomplete=stored.incomplete)
    return [Listed(key, item) for key, item in zip(keys_of(id, items), items, strict=True)]


async def find(store: SessionStore, session: SessionRecord, item_id: str) -> tuple[Item, Json]:
    """An item by either id, and the message that it is part of; `NotFound`."""
    message = await _message(store, session, item_id)
    if message is not None:
        for one in listed(message.id, message):
            if item_id in (one.key, one.item["id"]):
                return message, one.item
    raise NotFound("item", item_id)


async def read(
    store: SessionStore, session: SessionRecord, limit: int, after: str | None, *, descending: bool
) -> Listing:
    """At most `limit` items of a conversation, from an end or behind another one.

    Law: behind an item of a message come the others of that message, then those of the messages
    behind it; behind one that was deleted those of the messages behind it; behind one that never
    was, none.
    """
    rest: list[Listed] = []
    cursor = None
    if after is not None:
        message = await _message(store, session, after)
        cursor = message.id if message is not None else message_id(after)
        if message is not None:
            rest = _ordered([message], descending=descending)
            place = next(
                (i for i, one in enumerate(rest) if after in (one.key, one.item["id"])), None
            )
            if place is None:
                return Listing([], False)
            rest = rest[place + 1 :]
    page = await store.items(session, max(1, limit), cursor, descending=descending)
    found = rest + _ordered(page.data, descending=descending)
    return Listing(found[:limit], page.has_more or len(found) > limit)


async def _message(store: SessionStore, session: SessionRecord, item_id: str) -> Item | None:
    """The message of an item, by the id that we gave the item or by the one it came with.

    Of several that came with one id it is the last; the whole conversation is read for it.
    """
    with suppress(NotFound):
        return await store.item(session, message_id(item_id))
    more, after = OUR_ID.fullmatch(item_id) is None, None
    while more:
        page = await store.items(session, MAX_LIMIT, after)
        for message in page.data:
            if (
                message.message.role == ITEM
                and listed(message.id, message)[0].item["id"] == item_id
            ):
                return message
        more, after = page.has_more, page.data[-1].id if page.data else None
    return None


def _ordered(messages: Iterable[Item], *, descending: bool) -> list[Listed]:
    return [
        one
        for message in messages
        for one in listed(message.id, message)[:: -1 if descending else 1]
    ]
