"""Answers kept on Redis or Valkey, for all processes: each step is a script, in one round trip with whatever waits beside it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from chattable.budget.line import Job, Line
from chattable.proxy.cache.bell import Bell
from chattable.proxy.cache.controls import LONGEST
from chattable.proxy.cache.lua import (
    ENTER_SCRIPT,
    LEAVE_SCRIPT,
    PEEK_SCRIPT,
    PURGE_SCRIPT,
    RENEW_SCRIPT,
    SCRIPTS,
    SHARE_SCRIPT,
    Script,
)
from chattable.proxy.cache.store import Follow, Found, Lead, Place, Store

NAMESPACE = "chattable:{cache}:"  # the braces keep all keys on one node of a cluster
LEASE = 3_000  # milliseconds that a flight counts as under way without being renewed
CROWD = 30_000  # milliseconds that a process counts as following without looking
FLOW = 30_000  # milliseconds that what was shared can be read
POLL = 0.5  # seconds after which followers look whether the leader lives, whatever the bell says
ALONE = Lead(b"")


class RedisStore(Store):
    """Keeps answers on a server, by its clock; what is evicted there is a miss here."""

    def __init__(
        self, redis: str | Line, *, namespace: str = NAMESPACE, lease: int = LEASE
    ) -> None:
        self.failures = 0  # steps that went on without the server
        self.bytes = 0  # stored by this process
        self._line = redis if isinstance(redis, Line) else Line(redis)
        self._space = namespace
        self._lease = lease
        self._me = secrets.token_hex(8)
        self._flights = 0
        self._bell = Bell(self._line.url, self._name("bell", self._me))

    @property
    def away(self) -> bool:
        """Whether every request is a miss at present."""
        return self._line.away

    @property
    def size(self) -> int:
        """Bytes stored by this process, those included that are no longer there."""
        return self.bytes

    def on_follower(self, told: Callable[[str], None]) -> None:
        """Who is told of a flight that somebody begins to follow."""
        self._bell.listen(f"{self._me}:", told)

    async def start(self) -> None:
        """Connects, or goes on without."""
        await self._line.start(script.text for script in SCRIPTS)
        self._bell.start()

    async def stop(self) -> None:
        """Finishes what was asked and hangs up; leads still held are left to their leases."""
        await self._bell.stop()
        await self._line.stop()

    async def enter(
        self, place: Place, *, lead: bool = True, max_age: float | None = None
    ) -> Found | Lead | Follow:
        """The answer, the lead, or the one to follow."""
        flight = self._new_flight() if lead else ""
        try:
            reply = await self._ask(self._enter(place, flight, max_age))
        except asyncio.CancelledError:  # it may lead all the same
            if flight:
                self._line.post(self._leave(place, Lead(b"", flight)))
            raise
        match reply:
            case [1, bytes(body), int(age)]:
                return Found(body, age / 1000)
            case [2, bytes(stamp), bytes(mine)]:
                return Lead(stamp, mine.decode() or None)
            case [3, bytes(other)]:
                return Follow(other.decode(errors="replace"))
        return ALONE

    async def leave(
        self,
        place: Place,
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
        stored: bool = await self._ask(self._leave(place, lead, body, ttl, last)) == [1]
        self.bytes += len(body) if stored else 0
        return stored

    async def purge(self, tag: str = "") -> bool:
        """Gives the tag a new generation; entries of the old one are never read again and expire."""
        job = self._job(
            PURGE_SCRIPT, [self._generation(tag)], secrets.token_hex(8), (LONGEST + 86400) * 1000
        )
        done: bool = await self._ask(job) == [1]
        return done

    async def renew(self, leads: Sequence[tuple[Place, Lead]]) -> list[bool]:
        """Renews all leases in one step."""
        keys = [
            key
            for place, lead in leads
            for key in (self._name("lease", place), self._name("crowd", lead.flight or ""))
        ]
        job = self._job(RENEW_SCRIPT, keys, self._lease, *[lead.flight or "" for _, lead in leads])
        reply = await self._ask(job)
        if reply is None or len(reply) != len(leads):
            return [False for _ in leads]
        return [state == 2 for state in reply]

    async def share(self, place: Place, lead: Lead, batch: bytes) -> bool:
        """Appends to the flow and rings its followers."""
        flight = lead.flight or ""
        keys = [self._name("lease", place), self._name("flow", flight), self._name("crowd", flight)]
        led: bool = await self._ask(
            self._job(SHARE_SCRIPT, keys, flight, self._lease, FLOW, self._name("bell"), batch)
        ) == [1]
        return led

    async def peek(
        self, place: Place, follow: Follow, start: int
    ) -> tuple[bool, list[bytes]] | None:
        """Reads the flow."""
        keys = [
            self._name("lease", place),
            self._name("flow", follow.flight),
            self._name("crowd", follow.flight),
        ]
        match await self._ask(self._job(PEEK_SCRIPT, keys, follow.flight, self._me, CROWD, start)):
            case [int(led), *batches]:
                return led == 1, [batch for batch in batches if isinstance(batch, bytes)]
        return None

    async def news(self, follow: Follow) -> None:
        """Waits for the bell, or as long as it makes sense not to look."""
        await self._bell.wait(follow.flight, POLL)

    async def _ask(self, job: Job) -> Any:
        reply = await self._line.ask(job)
        self.failures += reply is None
        return reply

    def _enter(self, place: Place, flight: str, max_age: float | None) -> Job:
        age: str | int = "" if max_age is None else round(max_age * 1000)
        keys = [self._name("entry", place), self._name("lease", place), *self._generations(place)]
        prefixes = self._name("crowd"), self._name("bell")
        return self._job(ENTER_SCRIPT, keys, flight, self._me, self._lease, CROWD, age, *prefixes)

    def _leave(
        self,
        place: Place,
        lead: Lead,
        body: bytes = b"",
        ttl: float = 0.0,
        last: Sequence[bytes] = (),
    ) -> Job:
        flight = lead.flight or ""
        keys = [
            self._name("entry", place),
            self._name("lease", place),
            self._name("flow", flight),
            self._name("crowd", flight),
        ]
        rest: tuple[str | bytes | int, ...] = (
            body,
            max(1, round(ttl * 1000)),
            FLOW,
            lead.stamp,
            self._name("bell"),
            *last,
        )
        return self._job(LEAVE_SCRIPT, [*keys, *self._generations(place)], flight, *rest)

    def _new_flight(self) -> str:
        self._flights += 1
        return f"{self._me}:{self._flights}"

    def _job(self, script: Script, keys: Sequence[str], *arguments: str | bytes | int) -> Job:
        return Job(script.name, script.text, (len(keys), *keys, *arguments), sensible=_list)

    def _generations(self, place: Place) -> list[str]:
        return [self._generation(tag) for tag in ("", *place.tags)]

    def _generation(self, tag: str) -> str:
        """The key of a tag's generation; hashed, for a name may hold anything."""
        return self._name(
            "tag", sha256(tag.encode(errors="surrogatepass")).hexdigest() if tag else "all"
        )

    def _name(self, kind: str, what: Place | str = "") -> str:
        return f"{self._space}{kind}:{what.key.hex() if isinstance(what, Place) else what}"


def _list(reply: Any) -> bool:
    return isinstance(reply, list) and bool(reply)
