"""/v1/conversations: the sessions that a user's clients began, in the shapes of OpenAI's API."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from litestar import Router, delete, get, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, FromQuery, JSONBody, SkipValidation
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict

from chattable.agents.chat import Json
from chattable.agents.errors import InvalidRequest
from chattable.agents.params import check_params, fitting
from chattable.proxy.conversations.item_pages import find
from chattable.proxy.conversations.items import message_of
from chattable.proxy.identity.auth import Caller
from chattable.proxy.routes.typed import (
    FEW,
    Deleted,
    InjectedCaller,
    InjectedServices,
    Items,
    LenientRequest,
    ListPage,
    page,
)
from chattable.proxy.services import Services
from chattable.proxy.store.errors import Conflict, Invalid, NotFound
from chattable.proxy.store.sessions.port import Item, NewItem, SessionRecord
from chattable.proxy.store.sessions.values import cleaned, tokens_of

MAX_NEW_ITEMS = 20  # in one request


class ConversationChange(Struct, forbid_unknown_fields=True):
    """Body of POST /v1/conversations/{id}: what is given is replaced."""

    metadata: dict[str, str] | UnsetType | None = UNSET
    title: str | UnsetType | None = UNSET
    model: str | UnsetType | None = UNSET
    params: dict[str, Any] | UnsetType | None = UNSET
    state: dict[str, Any] | UnsetType | None = UNSET


class NewConversation(ConversationChange, forbid_unknown_fields=True):
    """Body of POST /v1/conversations."""

    items: list[dict[str, Any]] | None = None
    alias: str | None = None


class NewTitle(Struct, forbid_unknown_fields=True):
    """Body of POST /v1/conversations/{id}/title; without one, the title is made."""

    title: str | None = None


class NewFork(Struct, forbid_unknown_fields=True):
    """Body of POST /v1/conversations/{id}/fork."""

    at: str | None = None
    alias: str | None = None


class ConversationRow(Struct, kw_only=True):
    """A conversation as a list has it: without what may be large."""

    id: str
    object: str = "conversation"
    created_at: int
    metadata: dict[str, str]
    alias: str | None
    title: str | None
    model: str | None
    message_count: int
    updated_at: int


class ConversationPage(ListPage[ConversationRow], kw_only=True):
    """A page of conversations."""


class ConversationObject(ConversationRow, kw_only=True):
    """A conversation in OpenAI's form, with what ours have besides."""

    params: dict[str, Any]
    state: dict[str, Any]


class ConversationUsage(Struct, kw_only=True):
    """What all turns of a conversation used, also on other branches."""

    id: str
    object: str = "conversation.usage"
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, Any] | UnsetType = UNSET
    completion_tokens_details: dict[str, Any] | UnsetType = UNSET
    message_count: int


async def own_session(
    conversation_id: FromPath[str], caller: InjectedCaller, services: InjectedServices
) -> SessionRecord:
    """The caller's conversation of this id or alias, or `NotFound`."""
    try:
        return await services.session_store.open(
            caller.principal.user.id, conversation_id, create=False
        )
    except (Invalid, NotFound):
        raise NotFound("conversation", conversation_id) from None


InjectedSession = NamedDependency[SkipValidation[SessionRecord]]
SESSION = {"session": Provide(own_session)}


@post("/conversations", status_code=200, summary="Create a conversation")
async def create_conversation(
    data: JSONBody[NewConversation], caller: InjectedCaller, services: InjectedServices
) -> ConversationObject:
    given = _fields(services, caller, data)
    items = _items(entries(data.items or []))
    like = SessionRecord(id="", user_id="", head=items[-1].id if items else None, **given)
    store = services.session_store
    try:
        made = await store.restore(caller.principal.user.id, like, items, alias=data.alias)
    except (Conflict, Invalid) as error:
        raise _of_alias(error) from None
    return conversation(made)


@get(
    "/conversations",
    summary="List conversations, the one that something was last said in first",
)
async def list_conversations(
    caller: InjectedCaller,
    services: InjectedServices,
    limit: Items = FEW,
    after: FromQuery[str | None] = None,
) -> ConversationPage:
    found = await services.session_store.list(caller.principal.user.id, max(1, limit), after)
    rows = [row(session) for session in found.data[:limit]]
    return page(ConversationPage, rows, more=found.has_more or len(found.data) > limit)


@get("/conversations/{conversation_id:str}", summary="Describe a conversation, by id or alias")
async def get_conversation(session: InjectedSession) -> ConversationObject:
    return conversation(session)


@post(
    "/conversations/{conversation_id:str}",
    status_code=200,
    summary="Change a conversation's fields",
)
async def update_conversation(
    data: JSONBody[ConversationChange],
    session: InjectedSession,
    caller: InjectedCaller,
    services: InjectedServices,
) -> ConversationObject:
    fields = _fields(services, caller, data, session)
    return conversation(await services.session_store.update(session, **fields))


@delete(
    "/conversations/{conversation_id:str}",
    status_code=200,
    summary="Delete a conversation with its items",
)
async def delete_conversation(session: InjectedSession, services: InjectedServices) -> Deleted:
    await services.session_store.delete(session)
    return Deleted(id=session.id, object="conversation.deleted")


@get("/conversations/{conversation_id:str}/usage", summary="What a conversation used")
async def get_conversation_usage(session: InjectedSession) -> ConversationUsage:
    return ConversationUsage(
        id=session.id, message_count=session.message_count, **msgspec.to_builtins(session.usage)
    )


@post(
    "/conversations/{conversation_id:str}/title",
    status_code=200,
    summary="Give a conversation a title, or have one made",
)
async def title_conversation(
    data: JSONBody[NewTitle],
    session: InjectedSession,
    caller: InjectedCaller,
    services: InjectedServices,
) -> ConversationObject:
    if not cleaned(data.title or ""):
        return conversation(
            await services.pipeline.sessions.titles_and_summaries.regenerate_title(session, caller)
        )
    return conversation(await services.session_store.update(session, title=data.title))


@post(
    "/conversations/{conversation_id:str}/fork",
    status_code=200,
    summary="Copy a conversation, up to an item",
)
async def fork_conversation(
    data: JSONBody[NewFork],
    session: InjectedSession,
    caller: InjectedCaller,
    services: InjectedServices,
) -> ConversationObject:
    store = services.session_store
    try:
        end = None if data.at is None else (await find(store, session, data.at))[0].id
        made = await store.fork(session, end, alias=data.alias)
    except (Conflict, Invalid) as error:
        raise _of_alias(error) from None
    params = fitting(made.params, services.catalogs.current.accepts(made.model, caller.principal))
    if params != made.params:  # an older version let them in
        made = await store.update(made, params=params)
    return conversation(made)


ROUTES = Router(
    "/",
    dependencies=SESSION,
    request_class=LenientRequest,
    tags=["Conversations"],
    route_handlers=[
        create_conversation,
        list_conversations,
        get_conversation,
        update_conversation,
        delete_conversation,
        get_conversation_usage,
        title_conversation,
        fork_conversation,
    ],
)


def conversation(session: SessionRecord) -> ConversationObject:
    """A session in OpenAI's form, with what ours have besides."""
    return ConversationObject(**asdict(row(session)), params=session.params, state=session.state)


def row(session: SessionRecord) -> ConversationRow:
    """A session as a list has it: without what may be large."""
    return ConversationRow(
        id=session.id,
        created_at=session.created_at,
        metadata=session.metadata,
        alias=session.alias,
        title=session.title,
        model=session.model,
        message_count=session.message_count,
        updated_at=int(session.updated_at),
    )


def entries(items: list[Json]) -> list[NewItem]:
    """What a request's items become, or `InvalidRequest` naming the field that is wrong."""
    if len(items) > MAX_NEW_ITEMS:
        message = (
            "Invalid 'items': array too long. Expected an array with maximum length"
            f" {MAX_NEW_ITEMS}, but got one with {len(items)}."
        )
        raise InvalidRequest(message, param="items", code="array_above_max_length")
    return [NewItem(message=message_of(item, f"items[{i}]")) for i, item in enumerate(items)]


def _fields(
    services: Services,
    caller: Caller,
    given: ConversationChange,
    before: SessionRecord | None = None,
) -> dict[str, Any]:
    """What is given of a session's fields; null empties one.

    Refuses a model that the caller cannot ask, and params that are not for this model.
    """
    fields = {name: getattr(given, name) for name in ConversationChange.__struct_fields__}
    fields = {name: value for name, value in fields.items() if value is not UNSET}
    for name in ("metadata", "params", "state"):
        if name in fields and fields[name] is None:
            fields[name] = {}
    if fields.get("model") is not None:
        services.catalogs.current.find(fields["model"], caller.principal)
    if fields.keys() & {"model", "params"}:
        model = fields.get("model", before.model if before else None)
        params = fields.get("params", before.params if before else {})
        check_params(params, services.catalogs.current.accepts(model, caller.principal))
    return fields


def _items(given: list[NewItem]) -> list[Item]:
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
