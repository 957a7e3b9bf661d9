"""The commands `export` and `import`: conversations to a file, and from one."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from chattable.agents.errors import clip
from chattable.proxy.importers.transcripts.formats import READABLE, WRITABLE, chosen, exported
from chattable.proxy.importers.transcripts.report import AcceptsOf, ImportResult, imported
from chattable.proxy.importers.transcripts.transcript import Unreadable
from chattable.proxy.people.audit import COMMAND_LINE, Audit
from chattable.proxy.people.users import Users
from chattable.proxy.store.errors import NotFound
from chattable.proxy.store.sessions.port import SessionRecord, SessionStore
from chattable.proxy.telemetry.progress import Progress, show_progress

STANDARD_STREAM = "-"  # a file's name that means standard output or input
MAX_WARNINGS_SHOWN = 20  # of one conversation
PAGE_SESSIONS = 1000


class TransferError(Exception):
    """A file that cannot be read or written."""


async def export_file(
    store: SessionStore, users: Users, file: str, user: str | None, name: str
) -> None:
    """Writes conversations of one user, or of all, to a file that appears once it is complete."""
    form = chosen(name, WRITABLE)
    owner = None if user is None else (await users.get(user)).id
    ids = [(session.user_id, session.id) async for session in _sessions(store, owner)]
    done = 0
    with _output(file) as out, _progress() as tell:
        for number, (whose, one) in enumerate(ids, 1):
            try:
                session = await store.open(whose, one, create=False)
            except NotFound:  # meanwhile
                continue
            async for block in exported(store, session, form):
                out.write(block)
            done += 1
            tell(number, len(ids), "exporting")
    print(
        f"{_counted(done, 'conversation')} exported",
        file=sys.stderr if file == STANDARD_STREAM else sys.stdout,
    )


async def import_file(
    store: SessionStore,
    users: Users,
    audit: Audit,
    file: str,
    user: str,
    name: str,
    accepts: AcceptsOf,
) -> int:
    """Imports a file into a user's conversations, reports on each, and returns how many failed."""
    if name:
        chosen(name, READABLE)
    owner = await users.get(user)
    good = failed = warned = 0
    form, lines = name, list[str]()
    with _input(file) as (stream, size), _progress() as tell:
        async with audit.entry(
            COMMAND_LINE, "conversation.import", user, {"file": file, "format": name}
        ) as effect:
            effect.about(owner.id, owner.name)
            try:
                async for outcome in imported(store, owner.id, stream, name, accepts):
                    form = outcome.format
                    good += outcome.id is not None
                    failed += outcome.id is None
                    warned += bool(outcome.warnings)
                    lines += _told(outcome)
                    if size:
                        tell(min(stream.tell(), size), size, "importing")
            except Unreadable as error:
                raise TransferError(f"{file}: {error.message}") from None
    for line in lines:
        print(line)
    told = [f"{_counted(good, 'conversation')} imported", *([f"{failed} failed"] if failed else [])]
    print(", ".join([*told, *([f"{warned} with warnings"] if warned else [])]), f"(format {form})")
    return failed


async def _sessions(store: SessionStore, user: str | None) -> AsyncIterator[SessionRecord]:
    """Every session once, also those that move to the front of the list meanwhile."""
    seen: set[str] = set()
    after = None
    while True:
        page = await store.list(user, PAGE_SESSIONS, after)
        fresh = [session for session in page.data if session.id not in seen]
        for session in fresh:
            seen.add(session.id)
            yield session
        if not page.has_more or not fresh:
            return
        after = page.data[-1].id


def _told(outcome: ImportResult) -> Iterator[str]:
    """What is to be told of a conversation, if anything is."""
    name = clip(outcome.title or outcome.source_id or "without a title", 60)
    if outcome.error is not None:
        why = clip(outcome.error["message"], 500)
        yield f"{outcome.index + 1}. {name}, line {outcome.line}: failed: {why}"
    elif outcome.warnings:
        yield f"{outcome.index + 1}. {name}: {_counted(outcome.messages, 'message')}"
    for note in outcome.warnings[:MAX_WARNINGS_SHOWN]:
        place = "" if note.index is None else f"message {note.index + 1}: "
        yield f"   {place}{clip(note.message, 500)}"
    if len(outcome.warnings) > MAX_WARNINGS_SHOWN:
        yield f"   … and {len(outcome.warnings) - MAX_WARNINGS_SHOWN} more"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar for a person at a terminal, nothing for anything else."""
    if not sys.stderr.isatty():
        yield lambda done, total, what: None
        return
    with show_progress(sys.stderr) as tell:
        yield tell


@contextmanager
def _output(file: str) -> Iterator[BinaryIO]:
    """The file to write, readable by its owner only; one that is not finished leaves none."""
    if file == STANDARD_STREAM:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = Path(f"{file}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            yield out
        part.replace(file)
    except OSError as error:
        raise TransferError(f"{file} cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _input(file: str) -> Iterator[tuple[BinaryIO, int]]:
    """The file to read and its size; 0 where nobody knows."""
    if file == STANDARD_STREAM:
        yield sys.stdin.buffer, 0
        return
    try:
        stream = Path(file).open("rb")  # noqa: SIM115 - closed below, and only opening it may fail
    except OSError as error:
        raise TransferError(f"{file} cannot be read: {error.strerror}") from None
    with stream:
        yield stream, os.fstat(stream.fileno()).st_size
