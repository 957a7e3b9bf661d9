"""Who changed what, written down before it happens."""

import json
import logging
import re
import time
import unicodedata
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from sqlalchemy import RowMapping, or_, select

from chattable.proxy.errors import describe
from chattable.proxy.store import tables
from chattable.proxy.store.database import Database
from chattable.proxy.store.errors import Invalid, Unavailable
from chattable.proxy.store.ids import new_id
from chattable.proxy.store.page import Page, checked_limit, page_of
from chattable.proxy.store.secret import masked
from chattable.proxy.store.text import MAX_LENGTH, UNSTORABLE, printable

log = logging.getLogger("chattable")

AUDIT_ID = "aud_"
BEGUN, DONE, DENIED = "begun", "done", "denied"
MAX_ITEMS = 50  # of a list in the details; a longer one ends in "…"
OUR_SECRET = re.compile(r"sk-[\w-]{20,}")
QUIET = 60.0  # seconds in which a key's further attempts are not noted
MAX_QUIET = 10_000  # keys that are remembered for that

audit = tables.audit


class Actor(msgspec.Struct, frozen=True):
    """Who acts: a user's id and name, or how else they were let in; never a secret."""

    id: str
    name: str
    request_id: str | None = None


COMMAND_LINE = Actor("command line", "command line")


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One change, or the attempt.

    An outcome that stays `begun` says that nobody knows: the process or the database died.
    """

    id: str
    at: int
    actor: str
    actor_name: str
    action: str
    target: str | None
    target_name: str
    request_id: str | None
    details: dict[str, Any]
    outcome: str


class Effect:
    """What a change turned out to be about, once that is known."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def about(self, id: str, name: str) -> None:  # noqa: A002 - the public word for it
        """Says which row it is, by its id and its name."""
        self.found = {"target": _fit(id), "target_name": _fit(name)}


class Audit:
    """The audit trail, in SQL.

    Law: an entry is committed before its change begins, and where it cannot be, `entry` raises
    `Unavailable` and the change does not happen. Afterwards it says what came of it, in the words
    that the actor was told. Whatever is in an entry is bounded and printable; secrets are kept out
    by those who write it.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._clock = clock
        self._monotonic = monotonic
        self._quiet: dict[str, float] = {}  # key id → until when
        self._last = 0  # millisecond in the last id: ids of one process sort as they were written

    @asynccontextmanager
    async def entry(
        self, actor: Actor, action: str, target: str = "", details: Mapping[str, Any] | None = None
    ) -> AsyncIterator[Effect]:
        """Surrounds a change; `target` is what the actor called the thing."""
        effect, entry_id = Effect(), await self._write(actor, action, target, details or {}, BEGUN)
        try:
            yield effect
        except Exception as error:
            failure = describe(error)
            word = "refused" if failure.status < 500 else "failed"
            await self._close(entry_id, effect, f"{word}: {failure.message}")
            raise
        await self._close(entry_id, effect, DONE)

    async def denied(self, actor: Actor, key_id: str, attempt: str) -> None:
        """Notes that a good key was not enough, at most once per key and `QUIET` seconds; fails silently: nothing changes."""
        now = self._monotonic()
        if self._quiet.get(key_id, 0.0) > now:
            return
        if len(self._quiet) >= MAX_QUIET:
            self._quiet = {key: until for key, until in self._quiet.items() if until > now}
        if len(self._quiet) >= MAX_QUIET:
            return
        self._quiet[key_id] = now + QUIET
        try:
            await self._write(actor, DENIED, attempt, {"key": key_id}, "refused: not an admin")
        except Unavailable as error:
            log.warning(
                "an attempt of key %s at %s is not in the audit trail: %s",
                key_id,
                _fit(attempt),
                error,
            )

    async def list(
        self,
        limit: int = 100,
        after: str | None = None,
        *,
        actor: str = "",
        action: str = "",
        target: str = "",
        since: int | None = None,
        until: int | None = None,
    ) -> Page[AuditEntry]:
        """Returns entries of [since, until), newest first, from behind the one with the id `after`; ids and names both match."""
        query = select(audit).order_by(audit.c.id.desc()).limit(checked_limit(limit) + 1)
        if after is not None:
            if not after.startswith(AUDIT_ID):
                raise Invalid(
                    f"after must be the id of an entry, not {after!r}; begin again without it.",
                    "after",
                )
            query = query.where(audit.c.id < printable(after, "after"))
        if actor:
            query = query.where(
                or_(audit.c.actor == printable(actor, "actor"), audit.c.actor_name == actor)
            )
        if action:
            query = query.where(audit.c.action == printable(action, "action"))
        if target:
            query = query.where(
                or_(audit.c.target == printable(target, "target"), audit.c.target_name == target)
            )
        if since is not None:
            query = query.where(audit.c.at >= since)
        if until is not None:
            query = query.where(audit.c.at < until)
        async with self._database.connect() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return page_of([_entry_of(row) for row in rows], limit)

    async def _write(
        self, actor: Actor, action: str, target: str, details: Mapping[str, Any], outcome: str
    ) -> str:
        now = self._clock()
        self._last = max(int(now * 1000), self._last + 1)
        row = {
            "id": new_id(AUDIT_ID, (self._last + 0.5) / 1000), "at": int(now), "actor": actor.id, "actor_name": actor.name,
            "action": action, "target_name": _fit(target), "request_id": actor.request_id,
            "details": json.dumps(_told(details)), "outcome": outcome,
        }  # fmt: skip
        async with self._database.begin() as connection:
            await connection.execute(audit.insert().values(row))
        return str(row["id"])

    async def _close(self, entry_id: str, effect: Effect, outcome: str) -> None:
        statement = (
            audit.update()
            .where(audit.c.id == entry_id)
            .values(outcome=_fit(outcome, 500), **effect.found)
        )
        try:
            async with self._database.begin() as connection:
                await connection.execute(statement)
        except Unavailable as error:  # the change is what it is; its entry stays begun
            log.warning(
                "the audit entry %s stays begun, though it is %s: %s",
                entry_id,
                _fit(outcome),
                error,
            )


def _fit(text: str, limit: int = MAX_LENGTH) -> str:
    """A text as an entry may hold it: storable, bounded, and without a key that somebody took for a name."""
    shown = OUR_SECRET.sub(lambda found: masked(found[0]), text[: limit + 100])[:limit]
    shown = "".join(
        "\ufffd" if unicodedata.category(character) in UNSTORABLE else character
        for character in shown
    )
    return shown if len(text) <= limit else f"{shown}…"


def _told(value: Any) -> Any:
    """A value as an entry may hold it: texts fit, collections are cut, and numbers are such that every reader takes them."""
    if isinstance(value, str):
        return _fit(value)
    if isinstance(value, Mapping):
        return dict([(_fit(key), _told(part)) for key, part in value.items()][:MAX_ITEMS])
    if isinstance(value, list | tuple):
        return [_told(part) for part in value[:MAX_ITEMS]] + (
            ["…"] if len(value) > MAX_ITEMS else []
        )
    if isinstance(value, int) and abs(value) >= 2**63:
        return "out of range"
    return value


def _entry_of(row: RowMapping) -> AuditEntry:
    return AuditEntry(
        **{column.name: row[column] for column in audit.c}
        | {"details": json.loads(row[audit.c.details])}
    )
