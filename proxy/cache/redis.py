"""Answers kept on Redis or Valkey, for all processes: each step is one script and round trip."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from chattable.budget.periodic import Periodic
from chattable.budget.storage.redis import Job, RedisScript, RedisScripts
from chattable.proxy.cache.controls import MAX_TTL_S
from chattable.proxy.cache.redis_scripts import (
    ACQUIRE_SCRIPT,
    PURGE_SCRIPT,
    READ_SCRIPT,
    RELEASE_SCRIPT,
    RENEW_SCRIPT,
    SCRIPTS,
    SHARE_SCRIPT,
)
from chattable.proxy.cache.store import CacheKey, Follow, Lead, Store, StoredAnswer

log = logging.getLogger("chattable")

NAMESPACE = "chattable:{cache}:"  # the braces keep all keys on one node of a cluster
LEASE_MS = 3_000  # that a flight counts as under way without being renewed
FOLLOWERS_MS = 5_000  # that a process counts as following without looking
BATCHES_MS = 30_000  # that what was shared can be read
LOOK_EVERY_S = 0.5  # that followers look whether the leader lives, whatever they are told
RECONNECT_PAUSE_S = 1.0  # between two attempts to hear anything
CONNECT_TIMEOUT_S = 1.0
MAX_SILENCE_S = 60.0  # after which a connection that says nothing may be a dead one
UNKNOWN = Lead(b"")  # where the server does not answer


class Notifier:
    """Listens to one channel, on a connection of its own, for those who wait for a word.

    Law: a word only tells that it is worth looking now, and nothing depends on its coming. Waiting
    never takes longer than was said, and nothing raises.
    """

    def __init__(self, url: str, channel: str) -> None:
        self._pool: ConnectionPool = ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=None,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._channel = channel
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._prefix = ""
        self._told: Callable[[str], None] = lambda _: None
        self._listening = Periodic(
            "listening to other processes", self._hear_them, RECONNECT_PAUSE_S, at_once=True
        )

    def start(self) -> None:
        """Begins to listen."""
        self._listening.start()

    async def stop(self) -> None:
        """Ends."""
        await self._listening.stop()
        await self._pool.disconnect()

    def listen(self, prefix: str, told: Callable[[str], None]) -> None:
        """Who is told of words that begin so."""
        self._prefix, self._told = prefix, told

    async def wait(self, word: str, seconds: float) -> None:
        """Returns when the word is heard, or after so many seconds."""
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(word, []).append(heard)
        try:
            async with asyncio.timeout(seconds):
                await heard
        except TimeoutError:
            pass
        finally:
            waiting = self._waiting[word]
            waiting.remove(heard)
            if not waiting:
                del self._waiting[word]

    async def _hear_them(self) -> None:
        try:
            await self._listen()
        except Exception as error:  # Redis is away, which others say
            log.debug("nothing is heard of other processes: %r", error)

    async def _listen(self) -> None:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            get: Any = self._pool.get_connection
            connection: Connection = await get()
            await connection.send_command("SUBSCRIBE", self._channel)
        try:
            while True:
                async with asyncio.timeout(MAX_SILENCE_S):
                    said = await connection.read_response()
                match said:
                    case [b"message", _, bytes(word)]:
                        self._hear(word.decode(errors="replace"))
        finally:
            await connection.disconnect(nowait=True)
            await self._pool.release(connection)

    def _hear(self, word: str) -> None:
        if word.startswith(self._prefix):
            self._told(word)
        for heard in self._waiting.get(word, ()):
            if not heard.done():
                heard.set_result(None)


class RedisStore(Store):
    """Keeps answers on a server, by its clock; what is evicted there is a miss here."""

    def __init__(
        self, redis: str | RedisScripts, *, namespace: str = NAMESPACE, lease: int = LEASE_MS
    ) -> None:
        self.failures = 0  # steps that went on without the server
        self.bytes = 0  # stored by this process
        self._scripts = redis if isinstance(redis, RedisScripts) else RedisScripts(redis)
        self._space = namespace
        self._lease = lease
        self._me = secrets.token_hex(8)
        self._flights = 0
        self._notifier = Notifier(self._scripts.url, self._name("channel", self._me))

    @property
    def away(self) -> bool:
        """Whether every request is a miss at present."""
        return self._scripts.away

    @property
    def size(self) -> int:
        """Bytes stored by this process, those included that are no longer there."""
        return self.bytes

    def on_follower(self, told: Callable[[str], None]) -> bool:
        """Has `told` called with a flight that another process begins to follow."""
        self._notifier.listen(f"{self._me}:", told)
        return True

    async def start(self) -> None:
        """Connects, or goes on without."""
        await self._scripts.start(script.text for script in SCRIPTS)
        self._notifier.start()

    async def stop(self) -> None:
        """Finishes what was asked and hangs up; leads still held are left to their leases."""
        await self._notifier.stop()
        await self._scripts.stop()

    async def acquire(
        self, key: CacheKey, *, lead: bool = True, max_age: float | None = None
    ) -> StoredAnswer | Lead | Follow:
        """The answer, the lead, or the one to follow."""
        flight = self._new_flight() if lead else ""
        try:
            reply = await self._ask(self._acquire(key, flight, max_age))
        except asyncio.CancelledError:  # it may lead all the same
            if flight:
                self._scripts.post(self._release(key, Lead(b"", flight)))
            raise
        match reply:
            case [1, bytes(body), int(age)]:
                return StoredAnswer(body, age / 1000)
            case [2, bytes(stamp), bytes(mine)]:
                return Lead(stamp, mine.decode() or None)
            case [3, bytes(other)]:
                return Follow(other.decode(errors="replace"))
        return UNKNOWN

    async def release(
        self,
        key: CacheKey,
        lead: Lead,
        *,
        body: bytes = b"",
        ttl: float = 0.0,
        last: Sequence[bytes] = (),
    ) -> bool:
        """Stores the answer and lets followers go, in one step."""
        body = body if lead.stamp else b""
        if lead.flight is None and not body:
            return False
        stored: bool = await self._ask(self._release(key, lead, body, ttl, last)) == [1]
        self.bytes += len(body) if stored else 0
        return stored

    async def purge(self, tag: str = "") -> bool:
        """Gives the tag a new generation; entries of an old one are never read and expire."""
        job = self._job(
            PURGE_SCRIPT, [self._generation(tag)], secrets.token_hex(8), (MAX_TTL_S + 86400) * 1000
        )
        done: bool = await self._ask(job) == [1]
        return done

    async def renew(self, leads: Sequence[tuple[CacheKey, Lead]]) -> list[bool]:
        """Renews all leases in one step."""
        keys = [
            name
            for key, lead in leads
            for name in (
                self._name("lease", key),
                self._name("batches", lead.flight or ""),
                self._name("followers", lead.flight or ""),
            )
        ]
        flights = [lead.flight or "" for _, lead in leads]
        reply = await self._ask(self._job(RENEW_SCRIPT, keys, self._lease, BATCHES_MS, *flights))
        if reply is None or len(reply) != len(leads):
            return []
        return [state == 2 for state in reply]

    async def share(self, key: CacheKey, lead: Lead, batch: bytes) -> bool:
        """Appends to the batches and tells the followers."""
        flight = lead.flight or ""
        keys = [
            self._name("lease", key),
            self._name("batches", flight),
            self._name("followers", flight),
        ]
        led: bool = await self._ask(
            self._job(
                SHARE_SCRIPT, keys, flight, self._lease, BATCHES_MS, self._name("channel"), batch
            )
        ) == [1]
        return led

    async def read_batches(
        self, key: CacheKey, follow: Follow, start: int
    ) -> tuple[bool, list[bytes]] | None:
        """Reads the batches."""
        keys = [
            self._name("lease", key),
            self._name("batches", follow.flight),
            self._name("followers", follow.flight),
        ]
        match await self._ask(
            self._job(READ_SCRIPT, keys, follow.flight, self._me, FOLLOWERS_MS, start)
        ):
            case [int(led), *batches]:
                return led == 1, [batch for batch in batches if isinstance(batch, bytes)]
        return None

    async def wait(self, follow: Follow) -> None:
        """Waits to be told, or as long as it makes sense not to look."""
        await self._notifier.wait(follow.flight, LOOK_EVERY_S)

    async def _ask(self, job: Job) -> Any:
        reply = await self._scripts.ask(job)
        self.failures += reply is None
        return reply

    def _acquire(self, key: CacheKey, flight: str, max_age: float | None) -> Job:
        age: str | int = "" if max_age is None else round(max_age * 1000)
        keys = [self._name("entry", key), self._name("lease", key), *self._generations(key)]
        prefixes = self._name("followers"), self._name("channel")
        return self._job(
            ACQUIRE_SCRIPT, keys, flight, self._me, self._lease, FOLLOWERS_MS, age, *prefixes
        )

    def _release(
        self,
        key: CacheKey,
        lead: Lead,
        body: bytes = b"",
        ttl: float = 0.0,
        last: Sequence[bytes] = (),
    ) -> Job:
        flight = lead.flight or ""
        keys = [
            self._name("entry", key),
            self._name("lease", key),
            self._name("batches", flight),
            self._name("followers", flight),
        ]
        rest: tuple[str | bytes | int, ...] = (
            body,
            max(1, round(ttl * 1000)),
            BATCHES_MS,
            lead.stamp,
            self._name("channel"),
            *last,
        )
        return self._job(RELEASE_SCRIPT, [*keys, *self._generations(key)], flight, *rest)

    def _new_flight(self) -> str:
        self._flights += 1
        return f"{self._me}:{self._flights}"

    def _job(self, script: RedisScript, keys: Sequence[str], *arguments: str | bytes | int) -> Job:
        return Job(script.name, script.text, (len(keys), *keys, *arguments), sensible=_list)

    def _generations(self, key: CacheKey) -> list[str]:
        return [self._generation(tag) for tag in ("", *key.tags)]

    def _generation(self, tag: str) -> str:
        """The key of a tag's generation; hashed, for a name may hold anything."""
        return self._name(
            "tag", sha256(tag.encode(errors="surrogatepass")).hexdigest() if tag else "all"
        )

    def _name(self, kind: str, what: CacheKey | str = "") -> str:
        return f"{self._space}{kind}:{what.digest.hex() if isinstance(what, CacheKey) else what}"


def _list(reply: Any) -> bool:
    return isinstance(reply, list) and bool(reply)
