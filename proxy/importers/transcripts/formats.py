"""The formats that conversations are exported to and imported from, by name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from msgspec import Struct
from msgspec.structs import replace

from chattable.agents.errors import InvalidRequest, clip
from chattable.proxy.config.hints import hint
from chattable.proxy.importers.transcripts import (
    chatgpt,
    librechat,
    markdown,
    native,
    openai_jsonl,
    openwebui,
    sharegpt,
)
from chattable.proxy.importers.transcripts.messages import json_kind
from chattable.proxy.importers.transcripts.transcript import ImportNotes, Transcript, Unreadable
from chattable.proxy.importers.transcripts.values import Value, values_in
from chattable.proxy.store.errors import NotFound
from chattable.proxy.store.sessions.port import Item, SessionRecord, SessionStore

BATCH_MESSAGES = 500  # messages in memory at a time
MAX_VALUES_TRIED = 100  # values looked at for a format that is known

Writer = Callable[[SessionRecord, AsyncIterator[tuple[Item, ...]]], AsyncIterator[bytes]]


class Format(Struct, frozen=True, kw_only=True):
    """One format: how it is recognised and read, how it is written; `whole`: with every branch."""

    name: str
    fits: Callable[[Any], bool] | None = None
    read: Callable[[Any, ImportNotes], Transcript] | None = None
    gather: Callable[[Iterator[Value]], Iterator[Value]] = lambda values: values
    write: Writer | None = None
    whole: bool = False
    media_type: str = "application/x-ndjson"
    ending: str = "jsonl"


# The first that fits is taken.
FORMATS = (
    Format(
        name="native",
        fits=native.fits,
        read=native.read,
        gather=native.gather,
        write=native.write,
        whole=True,
    ),
    Format(name="chatgpt", fits=chatgpt.fits, read=chatgpt.read),
    Format(name="openwebui", fits=openwebui.fits, read=openwebui.read),
    Format(name="librechat", fits=librechat.fits, read=librechat.read),
    Format(name="sharegpt", fits=sharegpt.fits, read=sharegpt.read, write=sharegpt.write),
    Format(name="openai", fits=openai_jsonl.fits, read=openai_jsonl.read, write=openai_jsonl.write),
    Format(name="markdown", write=markdown.write, media_type="text/markdown", ending="md"),
)
READABLE = {one.name: one for one in FORMATS if one.read}
WRITABLE = {one.name: one for one in FORMATS if one.write}


class FoundConversation(Struct):
    """A conversation in a file, or what is wrong with it."""

    index: int
    line: int
    format: str
    source_id: str
    notes: ImportNotes
    transcript: Transcript | None = None
    error: Unreadable | None = None


def chosen(name: str, among: dict[str, Format]) -> Format:
    """The format of this name, or `InvalidRequest` with those there are."""
    if name not in among:
        known = ", ".join(among)
        message = (
            f"Invalid value for 'format': '{clip(name, 40)}' is none of {known}{hint(name, among)}."
        )
        raise InvalidRequest(message, param="format", code="invalid_value")
    return among[name]


def detect(value: Any) -> Format | None:
    """The format of a conversation; None if it is of none."""
    return next((one for one in READABLE.values() if one.fits and one.fits(value)), None)


def conversations(stream: BinaryIO, name: str = "") -> Iterator[FoundConversation]:
    """The conversations in a file, of the format named, or of the first that fits.

    Law: what is no conversation is found too, with the reason; `Unreadable` is raised only for a
    file that has none at all.
    """
    values = values_in(stream)
    unknown: list[Value] = []
    form = chosen(name, READABLE) if name else None
    while form is None:
        value = next(values, None)
        if value is None or len(unknown) == MAX_VALUES_TRIED:
            raise _unknown(unknown)
        unknown.append(value)
        form = detect(value.value)
    gathered = form.gather(_chained(unknown, values))
    for index, value in enumerate(gathered):
        yield _found(index, value, form)


def _chained(first: list[Value], rest: Iterator[Value]) -> Iterator[Value]:
    while first:
        yield first.pop(0)
    yield from rest


def _unknown(values: list[Value]) -> Unreadable:
    if not values:
        return Unreadable("The file is empty.", code="unsupported_format")
    first = values[0]
    what = (
        first.why or f"it is {json_kind(first.value)} of none of the formats {', '.join(READABLE)}"
    )
    return Unreadable(
        "There is no conversation in this file. "
        f"What is wrong with the first value, in line {first.line}: {what}.",
        code="unsupported_format",
    )


def _found(index: int, value: Value, form: Format) -> FoundConversation:
    assert form.read and form.fits
    notes = ImportNotes()
    fields = value.value if isinstance(value.value, dict) else {}
    source = next(
        (
            clip(given, 100)
            for key in ("id", "conversation_id", "conversationId")
            if isinstance(given := fields.get(key), str)
        ),
        "",
    )
    found = FoundConversation(index, value.line, form.name, source, notes)
    try:
        if value.why:
            raise Unreadable(f"This cannot be read: {value.why}.", code=value.code)
        if not form.fits(value.value):
            raise Unreadable(
                f"This is {json_kind(value.value)}, but no conversation of the format {form.name}."
            )
        found.transcript = form.read(value.value, notes)
    except Unreadable as error:
        found.error = error
    except RecursionError:
        found.error = Unreadable("This is nested too deeply.")
    return found


async def exported(
    store: SessionStore, session: SessionRecord, form: Format
) -> AsyncIterator[bytes]:
    """The session in this format; a batch of its messages at a time is in memory."""
    assert form.write
    if form.whole:
        session, batches = (
            await _without_deleted(store, session),
            store.export(session, BATCH_MESSAGES),
        )
    else:
        batches = _path(store, session)
    async for block in form.write(session, batches):
        yield block


async def _without_deleted(store: SessionStore, session: SessionRecord) -> SessionRecord:
    """The session with a head and a summary that name no deleted message, for none is exported."""
    head, summary = await _last_kept(store, session, session.head), session.summary
    # another branch's summary stays: what is left before its end cannot be found from the head
    if summary is not None and (await store.window(session, messages=1)).summary is not None:
        upto = await _last_kept(store, session, summary.upto)
        summary = replace(summary, upto=upto or summary.upto)
    return replace(session, head=head, summary=summary)


async def _last_kept(
    store: SessionStore, session: SessionRecord, message_id: str | None
) -> str | None:
    """The id of a message, or of the last one before it that is left if it was deleted."""
    if message_id is None:
        return None
    with suppress(NotFound):
        return (await store.item(session, message_id)).id
    before = (await store.items(session, 1, message_id)).data
    return before[0].id if before else None


async def _path(store: SessionStore, session: SessionRecord) -> AsyncIterator[tuple[Item, ...]]:
    """The messages from the first to the head."""
    after = None
    while True:
        page = await store.items(session, BATCH_MESSAGES, after, descending=False)
        if page.data:
            yield page.data
        if not page.has_more:
            return
        after = page.data[-1].id
