"""The response cache: an identical request is answered from what is kept, or together with one that is under way."""

from __future__ import annotations

import asyncio
from typing import Protocol

from msgspec import Struct

from chattable.agents.chat import Chat
from chattable.agents.chattable import Trace
from chattable.budget.line import Line
from chattable.budget.periodic import Periodic
from chattable.proxy.cache import entries
from chattable.proxy.cache.controls import Controls
from chattable.proxy.cache.flights import Flight
from chattable.proxy.cache.keys import key_of
from chattable.proxy.cache.lookups import Alone, Aside, Lookup, Together
from chattable.proxy.cache.members import Ask, Attempt, Member
from chattable.proxy.cache.memory import MemoryStore
from chattable.proxy.cache.redis import RedisStore
from chattable.proxy.cache.store import Follow, Found, Lead, Place, Store
from chattable.proxy.catalog.catalog import Entry
from chattable.proxy.config import settings
from chattable.proxy.identity.auth import Caller

RENEW = 1.0  # seconds between two renewals of leases
SLICE = 256  # leases in one step


class Cache(Protocol):
    """Answers identical requests once."""

    def lookup(
        self, chat: Chat, entry: Entry, caller: Caller, controls: Controls, ask: Ask, trace: Trace
    ) -> Lookup:
        """The answer to a request; `ask` makes the call, at most once, and notes it in `trace`."""
        ...

    async def purge(self, *, user: str = "", model: str = "") -> bool:
        """Forgets the answers that a user (by id) asked for, those of a model (by our name or as provider/model), or all.

        Returns False where Redis is away: nothing was forgotten then.
        """
        ...

    def stats(self) -> Stats:
        """What this process has seen."""
        ...

    async def start(self) -> None:
        """Connects."""
        ...

    async def stop(self) -> None:
        """Ends what is under way."""
        ...


class Stats(Struct):
    """What became of requests in this process since it started."""

    hits: int = 0
    misses: int = 0
    joins: int = 0
    bypasses: int = 0
    stores: int = 0
    bytes: int = 0  # kept in memory, or sent to Redis
    flights: int = 0  # under way now


class NoCache:
    """Remembers nothing."""

    def lookup(
        self, chat: Chat, entry: Entry, caller: Caller, controls: Controls, ask: Ask, trace: Trace
    ) -> Lookup:
        """A call of its own."""
        return Aside(ask, {})

    async def purge(self, *, user: str = "", model: str = "") -> bool:
        """Nothing to forget."""
        return True

    def stats(self) -> Stats:
        """Nothing seen."""
        return Stats()

    async def start(self) -> None:
        """Nothing to connect."""

    async def stop(self) -> None:
        """Nothing to end."""


class Answers:
    """The cache of a process: its flights, on a store."""

    def __init__(self, store: Store, config: settings.Cache) -> None:
        self.store = store
        self.most = config.max_entry_kb * 2**10
        self._scope = config.scope
        self._flights: dict[bytes, Flight] = {}
        self._leads: dict[str, tuple[Flight, Lead]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stats = Stats()
        self._upkeep = Periodic("leases of shared answers", self._renew, RENEW)

    async def start(self) -> None:
        """Connects, and begins to renew leases where processes share answers."""
        await self.store.start()
        if isinstance(self.store, RedisStore):
            self.store.on_follower(self._followed)
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
        """By the key of the request; one that is not cached goes by the cache."""
        key = None
        if entry.cache_ttl is not None and not (controls.no_cache and controls.no_store):
            key = key_of(chat, entry, caller.principal, self._scope)
        if key is None or entry.cache_ttl is None:
            self._stats.bypasses += 1
            return Aside(ask, {"x-cache": "BYPASS"})
        place = Place(key, _tags(entry, caller))
        ttl = self._ttl(entry.cache_ttl, controls.ttl, entry)
        if controls.no_cache or controls.no_store:
            return Alone(self, place, controls, ask, ttl)
        return Together(
            self, place, Member(ask, trace, stream=chat.stream, ttl=ttl), controls.max_age
        )

    async def purge(self, *, user: str = "", model: str = "") -> bool:
        """Forgets by the words that answers are kept with."""
        tags = [f"{kind}:{name}" for kind, name in (("user", user), ("model", model)) if name]
        return all([await self.store.purge(tag) for tag in tags or [""]])

    def stats(self) -> Stats:
        """The counters, as they are now."""
        self._stats.bytes, self._stats.flights = self.store.size, len(self._flights)
        return self._stats

    def count(self, headers: dict[str, str]) -> None:
        """Notes what became of a request."""
        match headers["x-cache"]:
            case "HIT":
                self._stats.hits += 1
            case "JOIN":
                self._stats.joins += 1
            case "BYPASS":
                self._stats.bypasses += 1
            case _:
                self._stats.misses += 1

    def stored(self) -> None:
        """Notes that an answer was stored."""
        self._stats.stores += 1

    async def join(
        self, place: Place, member: Member, max_age: float | None
    ) -> tuple[Flight, dict[str, str]]:
        """The flight of a request, and what that means for it."""
        while True:
            flight = self._flights.get(place.key)
            if flight is None:
                headers, flight = await self._first(place, member, max_age)
                return flight, headers
            flight.members[member] = None
            attempt = flight.attempt
            if attempt is not None and attempt.complete:  # it is about to be stored
                return flight, {"x-cache": "HIT", "age": "0"}
            try:
                await flight.decided.wait()
            except BaseException:
                await flight.leave(member)
                raise
            found = flight.found
            if found is None:
                return flight, {"x-cache": "JOIN"}
            if max_age is None or found.age <= max_age:
                return flight, _hit(found)
            flight.members.pop(member)

    async def _first(
        self, place: Place, member: Member, max_age: float | None
    ) -> tuple[dict[str, str], Flight]:
        flight = self._flights[place.key] = Flight(place, self)
        flight.members[member] = None
        try:
            how = await flight.look(max_age)
        except BaseException:
            flight.members.pop(member)
            if flight.members:
                self._fly(flight, None)
            else:
                self.landed(flight)
                flight.decided.set()
            raise
        if flight.found is not None:
            return _hit(flight.found), flight
        self._fly(flight, how)
        return {"x-cache": "MISS" if isinstance(how, Lead) else "JOIN"}, flight

    async def keep(self, place: Place, lead: Lead, answer: Attempt, ttl: float) -> None:
        """Stores the answer of a request that was made alone."""
        if answer.size <= self.most and entries.clean(answer.chunks):
            body = entries.encode(place.key, answer.chunks)
            if len(body) <= self.most and await self.store.leave(place, lead, body=body, ttl=ttl):
                self.stored()

    def landed(self, flight: Flight) -> None:
        """Nobody joins it any more."""
        if self._flights.get(flight.place.key) is flight:
            del self._flights[flight.place.key]

    def leads(self, flight: Flight, lead: Lead) -> None:
        """Renews its lease from now on."""
        if lead.flight is not None:
            self._leads[lead.flight] = flight, lead

    def leads_no_more(self, lead: Lead) -> None:
        """Does not any more."""
        self._leads.pop(lead.flight or "", None)

    def _fly(self, flight: Flight, how: Lead | Follow | None) -> None:
        task = flight.begin(how)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _followed(self, name: str) -> None:
        if found := self._leads.get(name):
            flight, lead = found
            flight.share(lead)

    async def _renew(self) -> None:
        leads = list(self._leads.values())
        for at in range(0, len(leads), SLICE):
            some = leads[at : at + SLICE]
            followed = await self.store.renew([(flight.place, lead) for flight, lead in some])
            for (flight, lead), yes in zip(some, followed, strict=True):
                if yes:
                    flight.share(lead)

    def _ttl(self, ttl: float, wish: float | None, entry: Entry) -> float:
        """How long an answer is kept: where it is for others as well, a request may only shorten it."""
        if wish is None:
            return ttl
        return wish if self._scope == "user" or not entry.model.leaf else min(ttl, wish)


def open_cache(config: settings.Config, line: Line | None) -> Cache:
    """The cache that a config describes, on Redis if there is a line to one."""
    cache = config.cache
    if cache is None or not cache.enabled:
        return NoCache()
    return Answers(RedisStore(line) if line else MemoryStore(cache.memory_mb * 2**20), cache)


def _tags(entry: Entry, caller: Caller) -> tuple[str, ...]:
    """The words by which an answer can be purged."""
    return (
        f"user:{caller.principal.user.id}",
        f"model:{entry.name}",
        f"model:{entry.source[0]}/{entry.source[-1]}",
    )


def _hit(found: Found) -> dict[str, str]:
    return {"x-cache": "HIT", "age": str(int(found.age))}
