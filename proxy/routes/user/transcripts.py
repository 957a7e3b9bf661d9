"""/v1/conversations/{id}/export and /v1/conversations/import."""

from __future__ import annotations

import io
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

from litestar import Request, Router, get, post
from litestar.exceptions import HTTPException
from litestar.params import QueryParameter
from litestar.response import Stream
from msgspec import Struct

from chattable.agents.chat import Json
from chattable.agents.errors import InvalidRequest
from chattable.budget.storage.errors import StorageUnavailable
from chattable.proxy.importers.transcripts.formats import (
    READABLE,
    WRITABLE,
    Format,
    chosen,
    exported,
)
from chattable.proxy.importers.transcripts.report import AWAY, ImportResult, imported
from chattable.proxy.importers.transcripts.transcript import Unreadable
from chattable.proxy.routes.documented import BODY, FILE, errors, operation
from chattable.proxy.routes.request_context import header, read_body
from chattable.proxy.routes.typed import InjectedCaller, InjectedServices
from chattable.proxy.routes.user.conversations import SESSION, InjectedSession
from chattable.proxy.store.sessions.port import SessionRecord

MOST = 10_000  # conversations in one request
UNSAFE = re.compile(
    r'[\x00-\x1f\x7f-\x9f"*/:<>?\\|\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+'
)
LONGEST = 80  # characters of a file's name


class ImportReport(Struct, kw_only=True):
    """What became of each conversation of a file."""

    object: str = "import"
    format: str
    imported: int
    failed: int
    data: list[dict[str, Any]]


@get(
    "/conversations/{conversation_id:str}/export",
    operation_class=operation(answer=FILE),
    summary="A conversation as a file",
)
async def export_conversation(
    session: InjectedSession,
    services: InjectedServices,
    form: Annotated[
        str, QueryParameter(name="format", schema_extra={"enum": list(WRITABLE)})
    ] = "native",
) -> Stream:
    kind = chosen(form, WRITABLE)
    blocks = exported(services.session_store, session, kind)
    first = await anext(blocks, b"")  # what fails at once is answered as an error
    headers = {"content-disposition": disposition(session, kind)}
    return Stream(_with(first, blocks), media_type=kind.media_type, headers=headers)


@post(
    "/conversations/import",
    status_code=200,
    operation_class=operation(body=FILE),
    responses=errors(*BODY),
    summary="Import a file of conversations; its format is recognised where none is given",
)
async def import_conversations(
    request: Request[Any, Any, Any],
    caller: InjectedCaller,
    services: InjectedServices,
    form: Annotated[
        str, QueryParameter(name="format", schema_extra={"enum": ["", *READABLE]})
    ] = "",
) -> ImportReport:
    if header(request.scope, b"content-encoding").lower() not in ("", "identity"):
        raise HTTPException("Send the file as it is, without a Content-Encoding.", status_code=415)
    if form:
        chosen(form, READABLE)
    who, body = caller.principal, io.BytesIO(await read_body(request, services.max_body))
    accepts = partial(services.catalogs.current.accepts, principal=who)
    outcomes = imported(services.session_store, who.user.id, body, form, accepts)
    try:
        return await _report(outcomes, form)
    except Unreadable as error:
        raise InvalidRequest(error.message, param=error.param, code=error.code) from None


ROUTES = Router(
    "/",
    dependencies=SESSION,
    tags=["Conversations"],
    route_handlers=[export_conversation, import_conversations],
)


def disposition(session: SessionRecord, form: Format) -> str:
    """The header that names the file: by the id for old clients, by the title for all others."""
    title = UNSAFE.sub(" ", session.title or "").strip(" .")[:LONGEST].strip(" .")
    plain = f'attachment; filename="{session.id}.{form.ending}"'
    return (
        f"{plain}; filename*=UTF-8''{quote(f'{title}.{form.ending}', safe='')}" if title else plain
    )


async def _with(first: bytes, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for block in blocks:
        yield block


async def _report(outcomes: AsyncGenerator[ImportResult], name: str) -> ImportReport:
    """What became of each conversation.

    Law: `StorageUnavailable` only where nothing was imported, so that a retry does no harm.
    """
    data: list[Json] = []
    good = 0
    form = name
    async with aclosing(outcomes):
        async for outcome in outcomes:
            form = outcome.format
            if (
                outcome.error is not None
                and outcome.error["code"] == "database_unavailable"
                and not good
            ):
                raise StorageUnavailable(AWAY)
            good += outcome.id is not None
            data.append(outcome.shown())
            if len(data) == MOST:
                data.append(_cut(outcome))
                break
    return ImportReport(format=form, imported=good, failed=len(data) - good, data=data)


def _cut(last: ImportResult) -> Json:
    message = (
        f"One request imports {MOST:,} conversations: what comes behind this one was not read."
        " Send the rest by itself."
    )
    error = {"message": message, "param": None, "code": "too_many", "line": last.line}
    return ImportResult(last.index + 1, last.line, last.format, "", error=error).shown()
