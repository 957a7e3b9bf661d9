"""What typed handlers share: bodies and queries by their types, what is injected, pages."""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeAlias, TypeVar, cast

import msgspec
from litestar import Request, Response
from litestar.di import NamedDependency, Provide
from litestar.enums import MediaType
from litestar.params import QueryParameter, SkipValidation
from litestar.types import TypeDecodersSequence
from msgspec import Struct

from chattable.agents.errors import InvalidRequest
from chattable.agents.parsing import explain
from chattable.proxy.identity.auth import Caller
from chattable.proxy.parsing import surrogates
from chattable.proxy.parsing.json_bounds import TooComplex
from chattable.proxy.people.audit import Actor
from chattable.proxy.routes.guards import house_of
from chattable.proxy.routes.request_context import integer, read_body, read_json
from chattable.proxy.services import Services

T = TypeVar("T")
P = TypeVar("P", bound="ListPage[Any]")

NO_BODY = b" "  # Litestar leaves an argument out where a body is empty
MAX_ITEMS = 100  # of a page in OpenAI's shape


class TypedRequest(Request[Any, Any, Any]):
    """A request whose JSON body becomes its handler's `data`, or `InvalidRequest` naming the field.

    Nothing is guessed: Litestar's own conversion would take "yes" for true.
    """

    async def body(self) -> bytes:
        """The body as it came; a space where there is none."""
        return await read_body(self, self.max_body) or NO_BODY

    async def json(self) -> Any:
        """The body as a value of the type that the handler declares."""
        return self.converted(await read_json(self, self.max_body))

    @property
    def max_body(self) -> int:
        """How many bytes a body may have."""
        return house_of(self).max_body

    def converted(self, given: Any) -> Any:
        """The value as what the handler declares."""
        kind = self.route_handler.parsed_fn_signature.parameters["data"].annotation
        try:
            return surrogates.convert(given, kind)
        except msgspec.ValidationError as error:
            raise explain(error) from None


class LenientRequest(TypedRequest):
    """The same, where no body is an empty one, and texts may hold halves of characters."""

    async def json(self) -> Any:
        """The body as a value of the type that the handler declares."""
        body = await read_body(self, self.max_body)
        try:
            given = await read_json(self, self.max_body) if body else {}
        except TooComplex:
            raise
        except InvalidRequest:
            try:
                given = surrogates.decode(body)
            except ValueError:
                given = None
            if not isinstance(given, dict):
                raise
        return self.converted(given)


class TextResponse(Response[Any]):
    """An answer, whatever characters are in it."""

    def render(self, content: Any, media_type: str, enc_hook: Any = None) -> bytes:
        """The body."""
        if media_type.startswith(MediaType.JSON):
            return surrogates.encode(content)
        return super().render(content, media_type, enc_hook)


class PageLimit(int):
    """How many rows a page of ours may have; their stores say how many that are."""


class EntryNumber(int):
    """The number of a ledger's entry."""


class ItemLimit(int):
    """How many rows a page in OpenAI's shape may have; 0 is a page without any."""


def _item_limit(text: str) -> ItemLimit:
    limit = integer(text, "limit")
    if limit > MAX_ITEMS:
        message = f"Invalid value for 'limit': expected a value <= {MAX_ITEMS}, but got {limit}."
        raise InvalidRequest(message, param="limit", code="integer_above_max_value")
    return ItemLimit(limit)


DECODERS: TypeDecodersSequence = [
    (lambda kind: kind is PageLimit, lambda _, text: PageLimit(integer(text, "limit"))),
    (lambda kind: kind is EntryNumber, lambda _, text: EntryNumber(integer(text, "after"))),
    (lambda kind: kind is ItemLimit, lambda _, text: _item_limit(text)),
]


def _whole(lowest: int, highest: int | None = None) -> QueryParameter:
    extra: dict[str, Any] = {"type": "integer", "minimum": lowest}
    return QueryParameter(schema_extra=extra if highest is None else {**extra, "maximum": highest})


PAGE, FEW, FIRST = PageLimit(100), ItemLimit(20), EntryNumber(0)  # where none is given
MOST = PageLimit(1000)  # … of lists that had no pages once: who knows of none sees all, or 1,000
Limit = Annotated[PageLimit, _whole(1, 1000)]
Entries = Annotated[EntryNumber, _whole(0)]
Items = Annotated[ItemLimit, _whole(0, MAX_ITEMS)]

InjectedServices: TypeAlias = NamedDependency[SkipValidation[Services]]
InjectedActor: TypeAlias = NamedDependency[SkipValidation[Actor]]
InjectedCaller: TypeAlias = NamedDependency[SkipValidation[Caller]]


def _services(request: Request[Any, Any, Any]) -> Services:
    return house_of(request)


def _actor(request: Request[Any, Any, Any]) -> Actor:
    actor: Actor = cast(Any, request.scope)["actor"]
    return actor


def _caller(request: Request[Any, Any, Any]) -> Caller:
    caller: Caller = cast(Any, request.scope)["caller"]
    return caller


SERVICES = {"services": Provide(_services, sync_to_thread=False)}
ACTOR = {"actor": Provide(_actor, sync_to_thread=False)}  # whom `require_admin` has let in
CALLER = {"caller": Provide(_caller, sync_to_thread=False)}  # whom `require_key` has let in


class ListPage(Struct, Generic[T], kw_only=True):
    """A page of a list, in OpenAI's form."""

    object: str = "list"
    data: list[T]
    has_more: bool
    first_id: str | int | None = None
    last_id: str | int | None = None


class Deleted(Struct, kw_only=True):
    """What is no more."""

    id: str
    object: str
    deleted: bool = True


def page(kind: type[P], data: list[Any], *, more: bool = False) -> P:
    """A page of rows, each with an id."""
    ends = {"first_id": data[0].id, "last_id": data[-1].id} if data else {}
    return kind(data=data, has_more=more, **ends)
