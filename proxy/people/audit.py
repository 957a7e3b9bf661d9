"""Who changed what, written down before it happens."""

import json
import logging
import re
import time
import unicodedata
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from chattable.budget.storage.errors import StorageUnavailable
from chattable.budget.storage.statements import Row, Statement, Steps, T
from chattable.budget.storage.storage import Storage
from chattable.proxy.store.errors import Invalid
from chattable.proxy.store.ids import Ids
from chattable.proxy.store.page import Page, checked_limit, page_of
from chattable.proxy.store.secret import masked
from chattable.proxy.store.text import MAX_LENGTH, UNSTORABLE, printable

log = logging.getLogger("chattable")

AUDIT_ID = "aud_"
BEGUN, DONE, DENIED = "begun", "done", "denied"
MAX_ITEMS = 50  # of a list in the details; a longer one ends in "…"
OUR_SECRET = re.compile(r"sk-[\w-]{20,}")
QUIET_AFTER_DENIAL_S = 60.0  # in which a key's further attempts are not recorded
MAX_QUIET_KEYS = 10_000  # that are remembered for that


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


FIELDS = AuditEntry.__struct_fields__
WHERE = {
    "after": "id < :after",
    "actor": "(actor = :actor OR actor_name = :actor)",
    "action": "action = :action",
    "target": "(target = :target OR target_name = :target)",
    "since": "at >= :since",
    "until": "at < :until",
}


class Effect:
    """What a change turned out to be about, once that is known."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def about(self, id: str, name: str) -> None:  # noqa: A002 - the public word for it
        """Says which row it is, by its id and its name."""
        self.found = {"target": _fit(id), "target_name": _fit(name)}


class Audit:
    """The audit trail, in SQL.

    Law: no change without its entry. `recorded` commits both at once; `entry` commits the entry
    before the change begins, and says afterwards what came of it, in the words that the actor was
    told. Where an entry cannot be committed, both raise `StorageUnavailable` and the change does
    not happen. Whatever is in an entry is bounded and printable; secrets are kept out by those who
    write it.
    """

    def __init__(
        self,
        storage: Storage,
        outcome_of: Callable[[Exception], str],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = storage
        self._outcome_of = outcome_of  # what the actor is told of an error
        self._clock = clock
        self._monotonic = monotonic
        self._quiet: dict[str, float] = {}  # key id → until when
        self._ids = Ids(clock)

    @asynccontextmanager
    async def entry(
        self, actor: Actor, action: str, target: str = "", details: Mapping[str, Any] | None = None
    ) -> AsyncIterator[Effect]:
        """Surrounds a change; `target` is what the actor called the thing."""
        effect, entry_id = Effect(), await self._write(actor, action, target, details or {}, BEGUN)
        try:
            yield effect
        except Exception as error:
            await self._close(
                entry_id, effect.found | {"outcome": _fit(self._outcome_of(error), 500)}
            )
            raise
        await self._close(entry_id, effect.found | {"outcome": DONE})

    async def recorded(
        self,
        actor: Actor,
        action: str,
        target: str,
        details: Mapping[str, Any],
        change: Callable[[Effect], Steps[T]],
    ) -> T:
        """Runs a change and writes its entry in one transaction; `target` is as in `entry`."""
        effect, row = Effect(), self._row(actor, action, target, details, DONE)

        def operation() -> Steps[T]:
            result = yield from change(effect)
            yield _written(row | effect.found)
            return result

        try:
            return await self._storage.run(operation)
        except StorageUnavailable:
            raise
        except Exception as error:
            refused = row | effect.found | {"outcome": _fit(self._outcome_of(error), 500)}
            await self._afterwards(refused, _written(refused))
            raise

    async def denied(self, actor: Actor, key_id: str, attempt: str) -> None:
        """Records that a good key was not enough, once per key and `QUIET_AFTER_DENIAL_S`.

        A database that is away is only logged, because nothing changes.
        """
        now = self._monotonic()
        if self._quiet.get(key_id, 0.0) > now:
            return
        if len(self._quiet) >= MAX_QUIET_KEYS:
            self._quiet = {key: until for key, until in self._quiet.items() if until > now}
        if len(self._quiet) >= MAX_QUIET_KEYS:
            return
        self._quiet[key_id] = now + QUIET_AFTER_DENIAL_S
        try:
            await self._write(actor, DENIED, attempt, {"key": key_id}, "refused: not an admin")
        except StorageUnavailable as error:
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
        """Returns entries of [since, until), newest first, from behind the one with the id `after`.

        Ids and names both match.
        """
        given: Row = {"most": checked_limit(limit) + 1}
        if after is not None:
            if not after.startswith(AUDIT_ID):
                raise Invalid(
                    f"after must be the id of an entry, not {after!r}; begin again without it.",
                    "after",
                )
            given["after"] = printable(after, "after")
        for name, wanted in (("actor", actor), ("action", action), ("target", target)):
            if wanted:
                given[name] = printable(wanted, name)
        given |= {k: at for k, at in (("since", since), ("until", until)) if at is not None}
        return page_of(await self._storage.read(lambda: _listed(given)), limit)

    async def _write(
        self, actor: Actor, action: str, target: str, details: Mapping[str, Any], outcome: str
    ) -> str:
        row = self._row(actor, action, target, details, outcome)
        await self._storage.run(lambda: _once(_written(row)))
        return str(row["id"])

    def _row(
        self, actor: Actor, action: str, target: str, details: Mapping[str, Any], outcome: str
    ) -> Row:
        return {
            "id": self._ids.new(AUDIT_ID),
            "at": int(self._clock()),
            "actor": actor.id,
            "actor_name": actor.name,
            "action": action,
            "target": None,
            "target_name": _fit(target),
            "request_id": actor.request_id,
            "details": json.dumps(_told(details)),
            "outcome": outcome,
        }

    async def _close(self, entry_id: str, found: dict[str, str]) -> None:
        settings = ", ".join(f"{name} = :{name}" for name in found)
        row = {**found, "id": entry_id}
        await self._afterwards(row, (f"UPDATE audit SET {settings} WHERE id = :id", row))

    async def _afterwards(self, row: Row, statement: Statement) -> None:
        """Writes what came of a change, which is what it is: an entry that was begun stays so."""
        try:
            await self._storage.run(lambda: _once(statement))
        except StorageUnavailable as error:
            log.warning(
                "the audit entry %s stays begun or is missing, though it is %s: %s",
                row["id"],
                row["outcome"],
                error,
            )


def _once(statement: Statement) -> Steps[None]:
    yield statement


def _written(row: Row) -> Statement:
    values = ", ".join(f":{name}" for name in FIELDS)
    return f"INSERT INTO audit ({', '.join(FIELDS)}) VALUES ({values})", row


def _listed(given: Row) -> Steps[list[AuditEntry]]:
    where = " AND ".join(WHERE[name] for name in given if name in WHERE) or "TRUE"
    rows = yield (
        f"SELECT {', '.join(FIELDS)} FROM audit WHERE {where} ORDER BY id DESC LIMIT :most",
        given,
    )
    return [_entry_of(row) for row in rows]


def _fit(text: str, limit: int = MAX_LENGTH) -> str:
    """A text as an entry may hold it: storable, bounded, and with keys masked."""
    shown = OUR_SECRET.sub(lambda found: masked(found[0]), text[: limit + 100])[:limit]
    shown = "".join(
        "\ufffd" if unicodedata.category(character) in UNSTORABLE else character
        for character in shown
    )
    return shown if len(text) <= limit else f"{shown}…"


def _told(value: Any) -> Any:
    """A value as an entry may hold it: bounded, and with numbers that every reader takes."""
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


def _entry_of(row: Sequence[Any]) -> AuditEntry:
    fields = dict(zip(FIELDS, row, strict=True))
    return AuditEntry(**fields | {"details": json.loads(fields["details"])})
