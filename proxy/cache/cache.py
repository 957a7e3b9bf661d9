"""The response cache: identical requests get what is kept, or one answer under way together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Self

from msgspec import Struct

from chattable.agents.chat import Chat, Chunk, Usage
from chattable.agents.chattable import Trace
from chattable.budget.periodic import Periodic
from chattable.proxy.cache.controls import Controls
from chattable.proxy.cache.keys import key_of
from chattable.proxy.cache.memory import MemoryStore
from chattable.proxy.cache.singleflight import Flight
from chattable.proxy.cache.store import NOT_FROM_STORE, CacheKey, Follow, Lead, Store, StoredAnswer
from chattable.proxy.cache.waiter import Ask, Waiter
from chattable.proxy.catalog.catalog import Entry
from chattable.proxy.config import settings
from chattable.proxy.identity.auth import Caller

if TYPE_CHECKING:
    from chattable.budget.storage.redis import RedisScripts

RENEW_EVERY_S = 1.0  # leases of flights that others may follow
MAX_LEASES_A_STEP = 256


class Stats(Struct):
    """What became of requests in this process since it started."""

    hits: int = 0
    misses: int = 0
    joins: int = 0
    bypasses: int = 0
    stores: int = 0
    bytes: int = 0  # kept in memory, or sent to Redis
    flights: int = 0  # under way now


class Bypass:
    """A request that has nothing to do with the cache."""

    made_the_call = True
    saved_usage: Usage | None = None

    def __init__(self, ask: Ask, headers: dict[str, str]) -> None:
        self.headers = headers
        self.ask = ask

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        del self.ask  # it may hold this

    def answer(self) -> AsyncGenerator[Chunk]:
        """Its own call."""
        return self.ask()


Lookup = Bypass | Waiter  # what the cache knows of one request, and its answer


class ResponseCache:
    """Answers identical requests once: the flights of a process, on a store."""

    def __init__(self, store: Store, config: settings.Cache) -> None:
        self.store = store
        self.max_bytes = config.max_entry_kb * 2**10  # of an answer that is kept
        self.leads: dict[str, tuple[Flight, Lead]] = {}  # whose leases are renewed
        self.seen = Stats()
        self._enabled = config.enabled
        self._scope = config.scope
        self._flights: dict[bytes, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._upkeep = Periodic("leases of shared answers", self._renew, RENEW_EVERY_S)

    async def start(self) -> None:
        """Connects, and begins to renew leases where processes share answers."""
        await self.store.start()
        if self.store.on_follower(self._on_follower):
            self._upkeep.start()

    async def stop(self) -> None:
        """Ends flights that nobody is left to read, and hangs up."""
        await self._upkeep.stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=1)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=5)
        await self.store.stop()

    def lookup(
        self, chat: Chat, entry: Entry, caller: Caller, controls: Controls, ask: Ask, trace: Trace
    ) -> Lookup:
        """The answer to a request; `ask` makes the call, at most once, and notes it in `trace`."""
        if not self._enabled:
            return Bypass(ask, {})
        digest = None
        if entry.cache_ttl is not None and not (controls.no_cache and controls.no_store):
            digest = key_of(chat, entry, caller.principal, self._scope)
        if digest is None or entry.cache_ttl is None:
            self.seen.bypasses += 1
            return Bypass(ask, {"x-cache": "BYPASS"})
        key = CacheKey(digest, _tags(entry, caller))
        ttl = self._ttl(entry.cache_ttl, controls.ttl, entry)
        return Waiter(self, key, controls, ask, trace, stream=chat.stream, ttl=ttl)

    async def purge(self, *, user: str = "", model: str = "") -> bool:
        """Forgets the answers of a user (by id), of a model (ours, or as provider/model), or all.

        Returns False where Redis is away: nothing was forgotten then.
        """
        tags = [f"{kind}:{name}" for kind, name in (("user", user), ("model", model)) if name]
        return all([await self.store.purge(tag) for tag in tags or [""]])

    def stats(self) -> Stats:
        """The counters, as they are now."""
        self.seen.bytes, self.seen.flights = self.store.size, len(self._flights)
        return self.seen

    def count(self, headers: dict[str, str]) -> None:
        """Notes what became of a request."""
        match headers["x-cache"]:
            case "HIT":
                self.seen.hits += 1
            case "JOIN":
                self.seen.joins += 1
            case "BYPASS":
                self.seen.bypasses += 1
            case _:
                self.seen.misses += 1

    async def join(self, waiter: Waiter) -> tuple[Flight, dict[str, str]]:
        """The flight of a request, and what that means for it."""
        key, controls = waiter.key, waiter.controls
        if controls.no_cache or controls.no_store:
            flight = Flight(key, self, shared=False)
            flight.closed = controls.no_store
            return flight, await self._first(flight, waiter)
        while (under_way := self._flights.get(key.digest)) is not None:
            flight = under_way
            flight.waiters[waiter] = None
            if flight.gives_way:
                waiter.doomed = flight.answer
            answer = flight.answer
            if answer is not None and answer.complete:  # it is about to be stored
                return flight, {"x-cache": "HIT", "age": "0"}
            try:
                await flight.decided.wait()
            except BaseException:
                await flight.leave(waiter)
                raise
            found = flight.found
            if found is None:
                return flight, {"x-cache": "JOIN"}
            if controls.max_age is None or found.age <= controls.max_age:
                return flight, _hit(found)
            flight.waiters.pop(waiter)
        flight = self._flights[key.digest] = Flight(key, self)
        return flight, await self._first(flight, waiter)

    async def _first(self, flight: Flight, waiter: Waiter) -> dict[str, str]:
        flight.waiters[waiter] = None
        controls = waiter.controls
        try:
            how = await flight.look(NOT_FROM_STORE if controls.no_cache else controls.max_age)
        except BaseException:
            flight.waiters.pop(waiter)
            if flight.waiters:
                self._fly(flight, None)
            else:
                self.landed(flight)
                flight.decided.set()
            raise
        if flight.found is not None:
            return _hit(flight.found)
        self._fly(flight, how)
        if controls.no_cache:
            return {"x-cache": "BYPASS"}
        return {"x-cache": "MISS" if isinstance(how, Lead) else "JOIN"}

    def landed(self, flight: Flight) -> None:
        """Nobody joins it any more."""
        if self._flights.get(flight.key.digest) is flight:
            del self._flights[flight.key.digest]

    def _fly(self, flight: Flight, how: Lead | Follow | None) -> None:
        task = flight.begin(how)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_follower(self, name: str) -> None:
        if found := self.leads.get(name):
            flight, lead = found
            flight.follow(lead)

    async def _renew(self) -> None:
        leads = list(self.leads.values())
        for at in range(0, len(leads), MAX_LEASES_A_STEP):
            some = [
                (flight, lead, flight.followed)
                for flight, lead in leads[at : at + MAX_LEASES_A_STEP]
            ]
            followed = await self.store.renew([(flight.key, lead) for flight, lead, _ in some])
            for (flight, lead, before), now in zip(some, followed, strict=False):
                if now:
                    flight.follow(lead)
                elif before:  # else somebody may have come meanwhile
                    flight.follow_no_more()

    def _ttl(self, ttl: float, wish: float | None, entry: Entry) -> float:
        """Seconds that an answer is kept; a request may only shorten it where others get it."""
        if wish is None:
            return ttl
        return wish if self._scope == "user" or not entry.model.leaf else min(ttl, wish)


def open_cache(config: settings.Config, redis: RedisScripts | None) -> ResponseCache:
    """The cache that a config describes, on Redis if there is one."""
    cache = config.cache or settings.Cache(enabled=False)
    if redis is not None and cache.enabled:
        from chattable.proxy.cache.redis import RedisStore  # only for who has a Redis

        return ResponseCache(RedisStore(redis), cache)
    return ResponseCache(MemoryStore(cache.memory_mb * 2**20), cache)


def _tags(entry: Entry, caller: Caller) -> tuple[str, ...]:
    """The words by which an answer can be purged."""
    return (
        f"user:{caller.principal.user.id}",
        f"model:{entry.name}",
        f"model:{entry.source[0]}/{entry.source[-1]}",
    )


def _hit(found: StoredAnswer) -> dict[str, str]:
    return {"x-cache": "HIT", "age": str(int(found.age))}
