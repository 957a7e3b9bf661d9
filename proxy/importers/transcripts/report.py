"""Imports conversations, and reports on each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, BinaryIO

from msgspec import Struct

from chattable.agents.chat import Json
from chattable.agents.errors import InvalidRequest
from chattable.agents.params import Accepts, check_params
from chattable.budget.storage.errors import StorageUnavailable
from chattable.proxy.importers.transcripts.formats import FoundConversation, conversations
from chattable.proxy.importers.transcripts.transcript import ImportNote, Transcript, Unreadable
from chattable.proxy.store.errors import Conflict, Invalid, StoreError
from chattable.proxy.store.sessions.port import SessionRecord, SessionStore
from chattable.proxy.store.sessions.values import cleaned

AcceptsOf = Callable[[str | None], Accepts]

AWAY = (
    "The database is unavailable: whether this conversation is imported is unknown, "
    "and the rest of the file was not read."
)


class ImportResult(Struct):
    """What became of one conversation in a file; without an `id`, `error` says why not."""

    index: int
    line: int
    format: str
    source_id: str
    id: str | None = None
    title: str | None = None
    messages: int = 0
    warnings: list[ImportNote] = []
    error: Json | None = None

    def shown(self) -> Json:
        """As the API answers it."""
        return {
            "index": self.index,
            "source_id": self.source_id or None,
            "id": self.id,
            "title": self.title,
            "messages": self.messages,
            "warnings": self.warnings,
            "error": self.error,
        }


async def imported(
    store: SessionStore,
    user: str,
    stream: BinaryIO,
    name: str = "",
    accepts: AcceptsOf = lambda _: {},
) -> AsyncGenerator[ImportResult]:
    """Imports one conversation after the other into this user's.

    The file is read in a thread beside the event loop. `accepts` says which params a model or agent
    accepts of its own.

    Law: a conversation is imported wholly or not at all, and what is wrong with one does not keep
    another. When the database goes away, the outcome that says so is the last.
    """
    found_ones = conversations(stream, name)
    while (found := await asyncio.to_thread(next, found_ones, None)) is not None:
        outcome = ImportResult(found.index, found.line, found.format, found.source_id)
        try:
            await _store(store, user, found, outcome, accepts)
        except StorageUnavailable:
            outcome.error = _error(found, AWAY, None, "database_unavailable")
        except (InvalidRequest, Unreadable) as error:
            outcome.error = _error(found, error.message, error.param, error.code)
        except StoreError as error:
            outcome.error = _error(
                found, str(error), getattr(error, "field", None), "invalid_value"
            )
        outcome.warnings = found.notes.all()
        yield outcome
        if outcome.error is not None and outcome.error["code"] == "database_unavailable":
            return


async def _store(
    store: SessionStore,
    user: str,
    found: FoundConversation,
    outcome: ImportResult,
    accepts: AcceptsOf,
) -> None:
    if found.error is not None or found.transcript is None:
        raise found.error or Unreadable("There is nothing in this.")
    transcript = found.transcript
    outcome.title = cleaned(transcript.session.title or "") or None
    _check_messages(found, transcript)
    check_params(transcript.session.params, accepts(transcript.session.model))
    made = await _restored(store, user, transcript, found)
    outcome.id, outcome.title, outcome.messages = made.id, made.title, len(transcript.items)
    if transcript.session.title and made.title != transcript.session.title:
        found.notes.add(
            "the title is shortened, or characters that cannot be shown are taken out of it"
        )


def _check_messages(found: FoundConversation, transcript: Transcript) -> None:
    """Refuses a conversation without messages, which only our own format may have."""
    if found.format == "native" or transcript.items:
        return
    why = "There is no message in it."
    if found.notes.all():
        why = "None of its messages can be kept: the warnings say why."
    raise Unreadable(why, "messages")


async def _restored(
    store: SessionStore, user: str, transcript: Transcript, found: FoundConversation
) -> SessionRecord:
    """Stores a conversation: under its alias, unless another has it by now."""
    session, items = transcript.session, transcript.items
    if session.alias is not None:
        try:
            return await store.restore(user, session, items, alias=session.alias)
        except Conflict:
            found.notes.add(
                f"there is a conversation called {session.alias!a:.100} already: "
                "this one has no such name"
            )
        except Invalid as error:
            if error.field != "conversation":
                raise
            found.notes.add(f"its name is left out: {error}")
    return await store.restore(user, session, items)


def _error(found: FoundConversation, message: str, param: Any, code: str | None) -> Json:
    return {"message": message, "param": param, "code": code, "line": found.line}
