"""/v1/conversations/{id}/items: what was said in a conversation, and what else is kept of it."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Router, delete, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import Struct

from chattable.agents.errors import InvalidRequest, clip
from chattable.proxy.conversations.item_pages import Listing, find, listed, read
from chattable.proxy.routes.typed import (
    FEW,
    InjectedCaller,
    InjectedServices,
    Items,
    LenientRequest,
)
from chattable.proxy.routes.user.conversations import (
    SESSION,
    ConversationObject,
    InjectedSession,
    conversation,
    entries,
)
from chattable.proxy.sessions.locks import Claim, new_holder
from chattable.proxy.store.sessions.port import TurnRecord

PATH = "/conversations/{conversation_id:str}/items"
ORDERS = ("asc", "desc")


class NewItems(Struct, forbid_unknown_fields=True):
    """Body of POST /v1/conversations/{id}/items."""

    items: list[dict[str, Any]]


class ItemPage(Struct, kw_only=True):
    """A page of items; its ends are strings in OpenAI's form even where there are none."""

    object: str = "list"
    data: list[dict[str, Any]]
    has_more: bool
    first_id: str
    last_id: str


@post(PATH, status_code=200, summary="Add items to the end of a conversation")
async def add_items(
    data: JSONBody[NewItems],
    session: InjectedSession,
    caller: InjectedCaller,
    services: InjectedServices,
) -> ItemPage:
    todo = entries(data.items)
    store, locks = services.session_store, services.pipeline.sessions.locks
    holder = new_holder()
    ids: tuple[str, ...] = ()
    if todo:
        async with locks.hold(session, Claim(holder)) as held:
            now = held.session
            turn = TurnRecord(
                entries=tuple(todo),
                parent=now.head,
                head=now.head,
                holder=holder,
                request_id=caller.request_id,
            )
            ids = (await store.commit(now, turn)).ids
            locks.freed(holder)
    made = [one for key, entry in zip(ids, todo, strict=True) for one in listed(key, entry)]
    return _page(Listing(made, has_more=False))


@get(PATH, summary="List a conversation's items; `include[]` asks for what is there anyway")
async def list_items(
    session: InjectedSession,
    services: InjectedServices,
    limit: Items = FEW,
    order: Annotated[str, QueryParameter(schema_extra={"enum": list(ORDERS)})] = "desc",
    after: FromQuery[str] = "",
) -> ItemPage:
    if order not in ORDERS:
        message = f"Invalid value: '{clip(order)}'. Supported values are: 'asc' and 'desc'."
        raise InvalidRequest(message, param="order", code="invalid_value")
    store, descending = services.session_store, order == "desc"
    return _page(await read(store, session, limit, after or None, descending=descending))


@get(PATH + "/{item_id:str}", summary="Show one item")
async def get_item(
    item_id: FromPath[str], session: InjectedSession, services: InjectedServices
) -> dict[str, Any]:
    _, item = await find(services.session_store, session, item_id)
    return item


@delete(
    PATH + "/{item_id:str}",
    status_code=200,
    summary="Delete an item, and with it the others of the same message",
)
async def delete_item(
    item_id: FromPath[str], session: InjectedSession, services: InjectedServices
) -> ConversationObject:
    store = services.session_store
    message, _ = await find(store, session, item_id)
    return conversation(await store.delete_item(session, message.id))


ROUTES = Router(
    "/",
    dependencies=SESSION,
    request_class=LenientRequest,
    tags=["Conversations"],
    route_handlers=[add_items, list_items, get_item, delete_item],
)


def _page(found: Listing) -> ItemPage:
    return ItemPage(
        data=[one.item for one in found.data],
        has_more=found.has_more,
        first_id=found.data[0].key if found.data else "",
        last_id=found.data[-1].key if found.data else "",
    )
