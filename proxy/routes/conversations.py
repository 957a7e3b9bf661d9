"""/v1/conversations: the sessions that a user's clients began, by whatever door, in the shapes of OpenAI's API."""

from __future__ import annotations

import time
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler
from msgspec import UNSET, Struct, UnsetType

from chattable.agents.chat import Json
from chattable.agents.errors import InvalidRequest
from chattable.agents.params import check_params, fitting
from chattable.agents.parsing import explain
from chattable.proxy.conversations.item_pages import find
from chattable.proxy.conversations.items import message_of
from chattable.proxy.identity.auth import Caller
from chattable.proxy.parsing import surrogates as halves
from chattable.proxy.parsing.json_bounds import TooComplex
from chattable.proxy.routes.bodies import page
from chattable.proxy.routes.request_context import caller_of, integer, read_body, read_json
from chattable.proxy.services import House
from chattable.proxy.store.errors import Conflict, Invalid, NotFound
from chattable.proxy.store.session_values import cleaned, tokens_of
from chattable.proxy.store.sessions import Entry, Item, Session, SessionStore

B = TypeVar("B")

MOST = 20  # items in one request
LIMIT = 100  # rows of a page


class Settings(Struct, forbid_unknown_fields=True):
    """Body of POST /v1/conversations/{id}: what is given is replaced."""

    metadata: dict[str, str] | UnsetType | None = UNSET
    title: str | UnsetType | None = UNSET
    model: str | UnsetType | None = UNSET
    params: Json | UnsetType | None = UNSET
    state: Json | UnsetType | None = UNSET


class New(Settings, forbid_unknown_fields=True):
    """Body of POST /v1/conversations."""

    items: list[Json] | None = None
    alias: str | None = None


class Title(Struct, forbid_unknown_fields=True):
    """Body of POST /v1/conversations/{id}/title."""

    title: str | None = None


class Fork(Struct, forbid_unknown_fields=True):
    """Body of POST /v1/conversations/{id}/fork."""

    at: str | None = None
    alias: str | None = None


def routes(house: House) -> list[ControllerRouterHandler]:
    """Conversations; another user's do not exist."""
    store = house.session_store

    @post("/v1/conversations", status_code=200, summary="Create a conversation")
    async def create(request: Request[Any, Any, Any]) -> Response[bytes]:
        caller, new = await body_of(request, house, New)
        given = _fields(house, caller, new)
        items = _items(entries(new.items or []))
        like = Session(id="", user_id="", head=items[-1].id if items else None, **given)
        try:
            made = await store.restore(caller.principal.user.id, like, items, alias=new.alias)
        except (Conflict, Invalid) as error:
            raise _of_alias(error) from None
        return answer(conversation(made))

    @get(
        "/v1/conversations",
        summary="List conversations, the one that something was last said in first",
    )
    async def listed(request: Request[Any, Any, Any]) -> Response[bytes]:
        caller, limit = await caller_of(request, house), limit_of(request)
        found = await store.list(
            caller.principal.user.id, max(1, limit), request.query_params.get("after")
        )
        rows = [row(session) for session in found.data[:limit]]
        return answer(page(rows, more=found.has_more or len(found.data) > limit))

    @get(
        "/v1/conversations/{conversation_id:str}", summary="Describe a conversation, by id or alias"
    )
    async def describe(
        request: Request[Any, Any, Any], conversation_id: FromPath[str]
    ) -> Response[bytes]:
        return answer(conversation(await own(request, house, conversation_id)))

    @post(
        "/v1/conversations/{conversation_id:str}",
        status_code=200,
        summary="Change a conversation's fields",
    )
    async def change(
        request: Request[Any, Any, Any], conversation_id: FromPath[str]
    ) -> Response[bytes]:
        caller, given = await body_of(request, house, Settings)
        session = await named(store, caller, conversation_id)
        fields = _fields(house, caller, given, session)
        return answer(conversation(await store.update(session, **fields)))

    @delete(
        "/v1/conversations/{conversation_id:str}",
        status_code=200,
        summary="Delete a conversation with its items",
    )
    async def remove(
        request: Request[Any, Any, Any], conversation_id: FromPath[str]
    ) -> Response[bytes]:
        session = await own(request, house, conversation_id)
        await store.delete(session)
        return answer({"id": session.id, "object": "conversation.deleted", "deleted": True})

    @get("/v1/conversations/{conversation_id:str}/usage", summary="What a conversation used")
    async def usage(
        request: Request[Any, Any, Any], conversation_id: FromPath[str]
    ) -> Response[bytes]:
        session = await own(request, house, conversation_id)
        used = msgspec.to_builtins(session.usage)
        return answer(
            {
                "id": session.id,
                "object": "conversation.usage",
                **used,
                "message_count": session.message_count,
            }
        )

    @post(
        "/v1/conversations/{conversation_id:str}/title",
        status_code=200,
        summary="Give a conversation a title, or have one made",
    )
    async def entitle(
        request: Request[Any, Any, Any], conversation_id: FromPath[str]
    ) -> Response[bytes]:
        caller, given = await body_of(request, house, Title)
        session = await named(store, caller, conversation_id)
        if not cleaned(given.title or ""):
            return answer(
                conversation(await house.pipeline.sessions.scribe.retitle(session, caller))
            )
        return answer(conversation(await store.update(session, title=given.title)))

    @post(
        "/v1/conversations/{conversation_id:str}/fork",
        status_code=200,
        summary="Copy a conversation, up to an item",
    )
    async def fork(
        request: Request[Any, Any, Any], conversation_id: FromPath[str]
    ) -> Response[bytes]:
        caller, given = await body_of(request, house, Fork)
        session = await named(store, caller, conversation_id)
        try:
            end = None if given.at is None else (await find(store, session, given.at))[0].id
            made = await store.fork(session, end, alias=given.alias)
        except (Conflict, Invalid) as error:
            raise _of_alias(error) from None
        params = fitting(made.params, house.catalog.accepts(made.model, caller.principal))
        if params != made.params:  # an older version let them in
            made = await store.update(made, params=params)
        return answer(conversation(made))

    return [create, listed, describe, change, remove, usage, entitle, fork]


def conversation(session: Session) -> Json:
    """A session in OpenAI's form, with what ours have besides."""
    return row(session) | {"params": session.params, "state": session.state}


def row(session: Session) -> Json:
    """A session as a list has it: without what may be large."""
    return {
        "id": session.id,
        "object": "conversation",
        "created_at": session.created_at,
        "metadata": session.metadata,
        "alias": session.alias,
        "title": session.title,
        "model": session.model,
        "message_count": session.message_count,
        "updated_at": int(session.updated_at),
    }


def entries(items: list[Json]) -> list[Entry]:
    """What a request's items become, or `InvalidRequest` naming the field that is wrong."""
    if len(items) > MOST:
        message = f"Invalid 'items': array too long. Expected an array with maximum length {MOST}, but got one with {len(items)}."
        raise InvalidRequest(message, param="items", code="array_above_max_length")
    return [Entry(message=message_of(item, f"items[{i}]")) for i, item in enumerate(items)]


async def own(request: Request[Any, Any, Any], house: House, name: str) -> Session:
    """The caller's conversation of this id or alias, or `NotFound`."""
    return await named(house.session_store, await caller_of(request, house), name)


async def named(store: SessionStore, caller: Caller, name: str) -> Session:
    """The caller's conversation of this id or alias, or `NotFound`."""
    try:
        return await store.open(caller.principal.user.id, name, create=False)
    except (Invalid, NotFound):
        raise NotFound("conversation", name) from None


async def body_of(request: Request[Any, Any, Any], house: House, kind: type[B]) -> tuple[Caller, B]:
    """Who asks, and the request body as a struct, or `InvalidRequest` naming the field; no body is an empty one."""
    caller, body = await caller_of(request, house), await read_body(request, house.max_body)
    try:
        given = await read_json(request, house.max_body) if body else {}
    except TooComplex:
        raise
    except InvalidRequest:
        try:
            given = halves.decode(body)
        except ValueError:
            given = None
        if not isinstance(given, dict):
            raise
    try:
        return caller, halves.convert(given, kind)
    except msgspec.ValidationError as error:
        raise explain(error) from None


def answer(value: Json) -> Response[bytes]:
    """An answer, whatever characters are in it."""
    return Response(halves.encode(value), media_type="application/json")


def limit_of(request: Request[Any, Any, Any]) -> int:
    """How many rows a page may have; 0 is a page without any."""
    limit = integer(request.query_params.get("limit", "20"), "limit")
    if limit > LIMIT:
        message = f"Invalid value for 'limit': expected a value <= {LIMIT}, but got {limit}."
        raise InvalidRequest(message, param="limit", code="integer_above_max_value")
    return limit


def _fields(
    house: House,
    caller: Caller,
    given: Settings,
    before: Session | None = None,
) -> dict[str, Any]:
    """What is given of a session's fields; null empties one.

    Refuses a model that the caller cannot ask, and params that are not for this model.
    """
    fields = {name: getattr(given, name) for name in Settings.__struct_fields__}
    fields = {name: value for name, value in fields.items() if value is not UNSET}
    for name in ("metadata", "params", "state"):
        if name in fields and fields[name] is None:
            fields[name] = {}
    if fields.get("model") is not None:
        house.catalog.find(fields["model"], caller.principal)
    if fields.keys() & {"model", "params"}:
        model = fields.get("model", before.model if before else None)
        params = fields.get("params", before.params if before else {})
        check_params(params, house.catalog.accepts(model, caller.principal))
    return fields


def _items(given: list[Entry]) -> list[Item]:
    """Entries as an exported session has them, each behind the one before."""
    now = int(time.time())
    return [
        Item(
            id=str(i),
            parent=str(i - 1) if i else None,
            position=i + 1,
            message=entry.message,
            speaker="",
            tokens=tokens_of(entry),
            usage=None,
            request_id="",
            incomplete=False,
            side=False,
            created_at=now,
        )
        for i, entry in enumerate(given)
    ]


def _of_alias(error: Conflict | Invalid) -> Conflict | Invalid:
    """The same refusal, by the name that the field has here."""
    if error.field == "conversation":
        error.field = "alias"
    return error
