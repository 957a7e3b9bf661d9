"""/v1/conversations/{id}/export and /v1/conversations/import."""

from __future__ import annotations

import io
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any
from urllib.parse import quote

from litestar import Request, Response, get, post
from litestar.exceptions import HTTPException
from litestar.params import FromPath
from litestar.response import Stream
from litestar.types import ControllerRouterHandler

from chattable.agents.chat import Json
from chattable.agents.errors import InvalidRequest
from chattable.proxy.parsing import surrogates as halves
from chattable.proxy.routes.conversations import own
from chattable.proxy.routes.request_context import caller_of, header, read_body
from chattable.proxy.services import House
from chattable.proxy.store.errors import Unavailable
from chattable.proxy.store.sessions import Session
from chattable.proxy.transcripts.formats import READABLE, WRITABLE, Format, chosen, exported
from chattable.proxy.transcripts.report import AWAY, Outcome, imported
from chattable.proxy.transcripts.transcript import Unreadable

MOST = 10_000  # conversations in one request
UNSAFE = re.compile(
    r'[\x00-\x1f\x7f-\x9f"*/:<>?\\|\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+'
)
LONGEST = 80  # characters of a file's name


def routes(house: House) -> list[ControllerRouterHandler]:
    """Conversations as files; another user's do not exist."""
    store = house.session_store

    @get(
        "/v1/conversations/{conversation_id:str}/export",
        summary="A conversation as a file; ?format=",
    )
    async def export_conversation(
        request: Request[Any, Any, Any], conversation_id: FromPath[str]
    ) -> Stream:
        session = await own(request, house, conversation_id)
        form = chosen(request.query_params.get("format", "native"), WRITABLE)
        blocks = exported(store, session, form)
        first = await anext(blocks, b"")  # what fails at once is answered as an error
        headers = {"content-disposition": disposition(session, form)}
        return Stream(_with(first, blocks), media_type=form.media_type, headers=headers)

    @post(
        "/v1/conversations/import",
        status_code=200,
        summary="Import a file of conversations; ?format=, or it is recognised",
    )
    async def import_conversations(request: Request[Any, Any, Any]) -> Response[bytes]:
        caller = await caller_of(request, house)
        if header(request, b"content-encoding").lower() not in ("", "identity"):
            raise HTTPException(
                "Send the file as it is, without a Content-Encoding.", status_code=415
            )
        name = request.query_params.get("format", "")
        if name:
            chosen(name, READABLE)
        who, body = caller.principal, io.BytesIO(await read_body(request, house.max_body))
        accepts = partial(house.catalog.accepts, principal=who)
        outcomes = imported(store, who.user.id, body, name, accepts)
        try:
            return Response(
                halves.encode(await _report(outcomes, name)), media_type="application/json"
            )
        except Unreadable as error:
            raise InvalidRequest(error.message, param=error.param, code=error.code) from None

    return [export_conversation, import_conversations]


def disposition(session: Session, form: Format) -> str:
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


async def _report(outcomes: AsyncGenerator[Outcome], name: str) -> Json:
    """What became of each conversation.

    Law: `Unavailable` only where nothing was imported, so that a retry does no harm.
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
                raise Unavailable(AWAY)
            good += outcome.id is not None
            data.append(outcome.shown())
            if len(data) == MOST:
                data.append(_cut(outcome))
                break
    return {
        "object": "import",
        "format": form,
        "imported": good,
        "failed": len(data) - good,
        "data": data,
    }


def _cut(last: Outcome) -> Json:
    message = f"One request imports {MOST:,} conversations: what comes behind this one was not read. Send the rest by itself."
    error = {"message": message, "param": None, "code": "too_many", "line": last.line}
    return Outcome(last.index + 1, last.line, last.format, "", error=error).shown()
