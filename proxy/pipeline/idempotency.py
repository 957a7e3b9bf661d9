"""`Idempotency-Key`: one upstream call for all repeats of a request, on any replica."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Struct

from chattable.agents.chat import Chat, Chunk
from chattable.budget.periodic import Periodic
from chattable.budget.storage.errors import StorageUnavailable
from chattable.budget.storage.statements import Dialect, Steps, array
from chattable.budget.storage.storage import Storage
from chattable.budget.tables import TEXT
from chattable.proxy.errors import DatabaseUnavailableError, InProgressError, KeyReusedError
from chattable.proxy.identity.auth import Caller
from chattable.proxy.reply_stream import ReplyStream

log = logging.getLogger("chattable")

KEPT = 86_400.0  # seconds that an answer is kept for repeats
LEASE = 60.0  # seconds that a call counts as under way without being renewed
RENEW = 20.0  # seconds between two renewals
MOST = 8 * 2**20  # bytes of an answer that is kept; a repeat of a larger one is a new call

_encode = msgspec.json.Encoder(order="sorted").encode


class Answer(Struct):
    """What is kept."""

    id: str
    created: int
    chunks: list[Chunk]


_decode = msgspec.json.Decoder(Answer).decode


class Once:
    """A call that happens once.

    Left without an exception, it is kept for its repeats; with one, the key is free again.
    """

    def __init__(self, replay: list[Chunk] | None = None) -> None:
        self.replay = replay
        self.headers = {} if replay is None else {"idempotency-replayed": "true"}
        self.seen: list[Chunk] = []

    def see(self, chunk: Chunk) -> None:
        """Notes a step of the answer."""
        self.seen.append(chunk)


class KeyClaim(Struct):
    """A key's answer: the one that was kept, or the one that is to be kept now."""

    kept: str | None
    answer: bytes | None = None


class Idempotency:
    """Knows which keys were used, in the database and by its clock.

    Law: of any number of requests with one user's key and one body, on any replica, one is asked
    upstream at a time and one is answered; every later one gets that answer for 24 hours. A key
    whose process died is free again after its lease. In each session a key is another one.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._running: set[tuple[str, str]] = set()
        self._upkeep = Periodic(
            "idempotency keys under way", self._renew, RENEW, expected=(StorageUnavailable,)
        )

    async def start(self) -> None:
        """Begins to renew leases and to forget old answers."""
        self._upkeep.start()

    async def stop(self) -> None:
        """Ends; keys of calls still under way are left to their leases."""
        await self._upkeep.stop()

    @asynccontextmanager
    async def once(self, chat: Chat, caller: Caller, reply: ReplyStream) -> AsyncGenerator[Once]:
        """A chat that is answered once for its key, or the answer that was given before."""
        if not caller.idempotency_key:
            yield Once()
            return
        asked = [chat.model, chat.stream, chat.params, [m.to_json() for m in chat.messages]]
        async with self.claim(caller, asked) as claim:
            if claim.kept is not None:
                answer = _decode(claim.kept)
                reply.id, reply.created = answer.id, answer.created
                yield Once(answer.chunks)
                return
            once = Once()
            yield once
            claim.answer = _encode(Answer(reply.id, reply.created, once.seen))

    @asynccontextmanager
    async def claim(self, caller: Caller, asked: Any) -> AsyncGenerator[KeyClaim]:
        """The right to answer under the caller's key, or the answer that was given."""
        place = caller.principal.user.id, sha256(_scoped(caller).encode()).hexdigest()
        body = sha256(_encode(asked)).hexdigest()
        try:
            kept = await self._storage.run(lambda: _begin(self._storage.dialect, place, body))
        except StorageUnavailable as error:
            log.warning("idempotency is unknown: %s", error)
            raise DatabaseUnavailableError from None
        claim = KeyClaim(kept)
        if kept is not None:
            yield claim
            return
        self._running.add(place)
        try:
            yield claim
        except BaseException:
            await self._end(place, None)
            raise
        else:
            answer = claim.answer
            await self._end(place, answer.decode() if answer and len(answer) <= MOST else None)
        finally:
            self._running.discard(place)

    async def forget(self, user: str) -> None:
        """Forgets what a user was answered."""
        await self._storage.run(lambda: _forget(user))

    async def _end(self, place: tuple[str, str], answer: str | None) -> None:
        with suppress(StorageUnavailable):  # its lease ends by itself
            await self._storage.run(lambda: _finish(place, answer))

    async def _renew(self) -> None:
        await self._storage.run(lambda: _renew(self._storage.dialect, sorted(self._running)))


def _scoped(caller: Caller) -> str:
    """The key, with the session that the request names."""
    key, ref = caller.idempotency_key, caller.session_ref
    return f"{key}\n{ref.name}" if ref and ref.named else key


class _Kept(Struct):
    body: str
    answer: str | None
    free: bool  # nobody is answering it any more, or it is too old to count


def _begin(dialect: Dialect, place: tuple[str, str], body: str) -> Steps[str | None]:
    """The kept answer; None if this call is the one to be made."""
    names = dict(zip(("user", "key"), place, strict=True)) | {"body": body}
    where = "user_id = :user AND key = :key"
    added = yield (
        "INSERT INTO idempotency (user_id, key, body, lease_until, created_at) VALUES (:user, "
        ":key, :body,"
        f" {dialect.now} + {LEASE}, {dialect.now}) ON CONFLICT DO NOTHING RETURNING 1",
        names,
    )
    if added:
        return None
    rows = yield (
        f"SELECT body, answer, created_at < {dialect.now} - {KEPT} OR (answer IS NULL AND "
        f"lease_until < {dialect.now})"
        f" FROM idempotency WHERE {where}{dialect.lock('idempotency')}",
        {"user": place[0], "key": place[1]},
    )
    if not rows:  # it was freed just now
        raise InProgressError
    kept = _Kept(*rows[0])
    if kept.free:
        yield (
            f"UPDATE idempotency SET body = :body, answer = NULL, lease_until = {dialect.now} + "
            f"{LEASE},"
            f" created_at = {dialect.now} WHERE {where}",
            names,
        )
        return None
    if kept.body != body:
        raise KeyReusedError
    if kept.answer is None:
        raise InProgressError
    return kept.answer


def _forget(user: str) -> Steps[None]:
    yield "DELETE FROM idempotency WHERE user_id = :user", {"user": user}


def _finish(place: tuple[str, str], answer: str | None) -> Steps[None]:
    names = dict(zip(("user", "key"), place, strict=True))
    if answer is None:
        yield (
            "DELETE FROM idempotency WHERE user_id = :user AND key = :key AND answer IS NULL",
            names,
        )
    else:
        yield (
            "UPDATE idempotency SET answer = :answer WHERE user_id = :user AND key = :key",
            names | {"answer": answer},
        )


def _renew(dialect: Dialect, places: Sequence[tuple[str, str]]) -> Steps[None]:
    if places:
        yield (
            f"UPDATE idempotency SET lease_until = {dialect.now} + {LEASE}"
            f" WHERE (user_id, key) IN {dialect.rows('rows', {'user_id': TEXT, 'key': TEXT})}",
            array(places),
        )
    yield f"DELETE FROM idempotency WHERE created_at < {dialect.now} - {KEPT}", {}
