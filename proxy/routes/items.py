"""/v1/conversations/{id}/items: what was said in a conversation, and what else is kept of it."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, delete, get, post
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler
from msgspec import Struct

from chattable.agents.chat import Json
from chattable.agents.errors import InvalidRequest, clip
from chattable.proxy.conversations.item_pages import Listing, find, listed, read
from chattable.proxy.routes.conversations import (
    answer,
    body_of,
    conversation,
    entries,
    limit_of,
    named,
    own,
)
from chattable.proxy.services import House
from chattable.proxy.sessions.locks import Claim, new_holder
from chattable.proxy.store.sessions import Turn

PATH = "/v1/conversations/{conversation_id:str}/items"


class NewItems(Struct, forbid_unknown_fields=True):
    """Body of POST /v1/conversations/{id}/items."""

    items: list[Json]


def routes(house: House) -> list[ControllerRouterHandler]:
    """The items of a conversation; `include[]` asks for nothing that is not there anyway."""
    store = house.session_store
    locks = house.pipeline.sessions.locks

    @post(PATH, status_code=200, summary="Add items to the end of a conversation")
    async def add(
        request: Request[Any, Any, Any], conversation_id: FromPath[str]
    ) -> Response[bytes]:
        caller, new = await body_of(request, house, NewItems)
        todo = entries(new.items)
        session, holder = await named(store, caller, conversation_id), new_holder()
        ids: tuple[str, ...] = ()
        if todo:
            async with locks.hold(session, Claim(holder)) as held:
                now = held.session
                turn = Turn(
                    entries=tuple(todo),
                    parent=now.head,
                    head=now.head,
                    holder=holder,
                    request_id=caller.request_id,
                )
                ids = (await store.commit(now, turn)).ids
                locks.freed(holder)
        made = [one for key, entry in zip(ids, todo, strict=True) for one in listed(key, entry)]
        return answer(_page(Listing(made, has_more=False)))

    @get(PATH, summary="List a conversation's items; ?limit= ?order=asc|desc ?after=")
    async def page(
        request: Request[Any, Any, Any], conversation_id: FromPath[str]
    ) -> Response[bytes]:
        session, limit = await own(request, house, conversation_id), limit_of(request)
        order = request.query_params.get("order", "desc")
        if order not in ("asc", "desc"):
            message = f"Invalid value: '{clip(order)}'. Supported values are: 'asc' and 'desc'."
            raise InvalidRequest(message, param="order", code="invalid_value")
        after = request.query_params.get("after") or None
        return answer(_page(await read(store, session, limit, after, descending=order == "desc")))

    @get(PATH + "/{item_id:str}", summary="Show one item")
    async def show(
        request: Request[Any, Any, Any], conversation_id: FromPath[str], item_id: FromPath[str]
    ) -> Response[bytes]:
        _, item = await find(store, await own(request, house, conversation_id), item_id)
        return answer(item)

    @delete(
        PATH + "/{item_id:str}",
        status_code=200,
        summary="Delete an item, and with it the others of the same message",
    )
    async def remove(
        request: Request[Any, Any, Any], conversation_id: FromPath[str], item_id: FromPath[str]
    ) -> Response[bytes]:
        session = await own(request, house, conversation_id)
        message, _ = await find(store, session, item_id)
        return answer(conversation(await store.delete_item(session, message.id)))

    return [add, page, show, remove]


def _page(found: Listing) -> Json:
    """A page of items; its ends, where the next page begins, are strings in OpenAI's form even where there is none."""
    ends = (
        {"first_id": found.data[0].key, "last_id": found.data[-1].key}
        if found.data
        else {"first_id": "", "last_id": ""}
    )
    return {
        "object": "list",
        "data": [one.item for one in found.data],
        "has_more": found.has_more,
        **ends,
    }
