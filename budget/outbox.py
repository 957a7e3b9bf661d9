"""The events that wait in the database until the webhook has taken them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from chattable.budget.storage.statements import Dialect, Steps, array
from chattable.budget.storage.storage import Storage
from chattable.budget.tables import TEXT


class OutboxEvent(Struct, frozen=True, kw_only=True):
    """Something that happened to a budget."""

    id: str  # ours and without a dot, which would make what is signed ambiguous
    at: int  # when it happened, unix seconds
    kind: str  # budget.threshold, budget.overdraft
    data: dict[str, Any]
    # how often it was claimed: the bound on attempts holds across replicas and restarts
    attempts: int = 0
    state: str = "waiting"  # waiting done dead


class Outbox:
    """Hands events out.

    Law: a claimed one is nobody else's until its lease ends; any step may be repeated.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def claim(self, most: int, lease: float) -> list[OutboxEvent]:
        """Claims due events, the oldest first, for `lease` seconds; each counts as an attempt."""
        return await self._storage.run(lambda: _claim(self._storage.dialect, most, lease))

    async def done(self, ids: Sequence[str]) -> None:
        """They are delivered."""
        await self._storage.run(lambda: _mark(self._storage.dialect, ids, "done"))

    async def failed(self, id: str, retry_in: float) -> None:  # noqa: A002 - the public word for it
        """It is due again in so many seconds."""
        await self._storage.run(lambda: _again(self._storage.dialect, id, retry_in))

    async def dead(self, id: str) -> None:  # noqa: A002
        """It is kept, and never due again."""
        await self._storage.run(lambda: _mark(self._storage.dialect, [id], "dead"))

    async def newest(self, most: int, before: str = "") -> list[OutboxEvent]:
        """The events, newest first, from behind the one with the id `before`."""
        return await self._storage.read(lambda: _newest(most, before))


def _claim(dialect: Dialect, most: int, lease: float) -> Steps[list[OutboxEvent]]:
    skip = f"{dialect.lock('notices')} SKIP LOCKED" if dialect.locks else ""
    due = yield (
        "SELECT id, at, kind, data, attempts FROM notices"
        f" WHERE state = 'waiting' AND due <= {dialect.now} ORDER BY at, id LIMIT :most{skip}",
        {"most": most},
    )
    yield (
        f"UPDATE notices SET attempts = attempts + 1, due = {dialect.now} + :lease"
        f" WHERE id IN {dialect.rows('rows', {'id': TEXT})}",
        {"lease": lease, **array([[row[0]] for row in due])},
    )
    return [
        OutboxEvent(id=i, at=at, kind=kind, data=json.loads(data), attempts=n + 1)
        for i, at, kind, data, n in due
    ]


def _mark(dialect: Dialect, ids: Sequence[str], state: str) -> Steps[None]:
    yield (
        f"UPDATE notices SET state = :state WHERE id IN {dialect.rows('rows', {'id': TEXT})}",
        {"state": state, **array([[i] for i in ids])},
    )


def _again(dialect: Dialect, notice_id: str, retry_in: float) -> Steps[None]:
    yield (
        f"UPDATE notices SET due = {dialect.now} + :wait WHERE id = :id",
        {"wait": retry_in, "id": notice_id},
    )


def _newest(most: int, before: str) -> Steps[list[OutboxEvent]]:
    rows = yield (
        "SELECT id, at, kind, data, attempts, state FROM notices WHERE :before = ''"
        " OR (at, id) < (SELECT at, id FROM notices WHERE id = :before)"
        " ORDER BY at DESC, id DESC LIMIT :most",
        {"before": before, "most": most},
    )
    return [
        OutboxEvent(id=i, at=at, kind=kind, data=json.loads(data), attempts=n, state=state)
        for i, at, kind, data, n, state in rows
    ]
