"""The ways in which a request meets the cache: not at all, alone, or together with those that ask the same."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol, Self

from chattable.agents.chat import Chunk, Usage
from chattable.proxy.cache import entries
from chattable.proxy.cache.controls import Controls
from chattable.proxy.cache.flights import Flight
from chattable.proxy.cache.members import Ask, Attempt, Member
from chattable.proxy.cache.store import NEVER, Found, Lead, Place, Store


class Lookup(Protocol):
    """What the cache knows of one request, and its answer."""

    @property
    def saved(self) -> Usage | None:
        """What an answer that cost nothing had cost; known at its end."""
        ...

    @property
    def asked(self) -> bool:
        """Whether this request's own call is made: it is charged for that, and for nothing else."""
        ...

    @property
    def headers(self) -> dict[str, str]:
        """What the client is told; changes when a request that was to join asks by itself after all."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    def answer(self) -> AsyncGenerator[Chunk]:
        """The answer, wherever it comes from."""
        ...


class Desk(Protocol):
    """What a lookup needs of the cache."""

    store: Store
    most: int  # bytes of an answer that is kept

    def count(self, headers: dict[str, str]) -> None:
        """Notes what became of a request."""
        ...

    async def join(
        self, place: Place, member: Member, max_age: float | None
    ) -> tuple[Flight, dict[str, str]]:
        """The flight of a request, and what that means for it."""
        ...

    async def keep(self, place: Place, lead: Lead, answer: Attempt, ttl: float) -> None:
        """Stores the answer of a request that was made alone."""
        ...


class Aside:
    """A request that has nothing to do with the cache."""

    asked = True
    saved: Usage | None = None

    def __init__(self, ask: Ask, headers: dict[str, str]) -> None:
        self.headers = headers
        self._ask = ask

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    def answer(self) -> AsyncGenerator[Chunk]:
        """Its own call."""
        return self._ask()


class Alone:
    """A request that is not to be answered from the cache, or not to be kept: it shares its call with nobody."""

    saved: Usage | None = None

    def __init__(self, hub: Desk, place: Place, controls: Controls, ask: Ask, ttl: float) -> None:
        self.headers = {"x-cache": "BYPASS" if controls.no_cache else "MISS"}
        self.asked = True
        self._hub, self._place, self._controls, self._ask, self._ttl = (
            hub,
            place,
            controls,
            ask,
            ttl,
        )
        self._lead = Lead(b"")
        self._chunks: list[Chunk] | None = None

    async def __aenter__(self) -> Self:
        age = NEVER if self._controls.no_cache else self._controls.max_age
        found = await self._hub.store.enter(self._place, lead=False, max_age=age)
        if isinstance(found, Lead):
            self._lead = found
        elif isinstance(found, Found):
            self._chunks = entries.decode(self._place.key, found.body)
            if self._chunks is not None:
                self.asked = False
                self.headers = {"x-cache": "HIT", "age": str(int(found.age))}
        self._hub.count(self.headers)
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def answer(self) -> AsyncGenerator[Chunk]:
        """What is kept, or its own call, which may be kept then."""
        if self._chunks is not None:
            for chunk in self._chunks:
                yield chunk
            self.saved = entries.usage_of(self._chunks)
            return
        kept = Attempt()
        async with aclosing(self._ask()) as chunks:
            async for chunk in chunks:
                if not self._controls.no_store and kept.size <= self._hub.most:
                    kept.add(chunk)
                yield chunk
        if not self._controls.no_store:
            await self._hub.keep(self._place, self._lead, kept, self._ttl)


class Together:
    """A request that is answered from the cache, with others, or first."""

    def __init__(self, hub: Desk, place: Place, member: Member, max_age: float | None) -> None:
        self._hub, self._place, self._member, self._max_age = hub, place, member, max_age
        self._headers: dict[str, str] = {}
        self._flight: Flight | None = None

    @property
    def asked(self) -> bool:
        """Whether it made the call."""
        return self._member.asked

    @property
    def saved(self) -> Usage | None:
        """What the answer of somebody else had cost, once it was read to its end."""
        attempt = self._flight and self._flight.attempt
        if (
            not attempt
            or self._member.asked
            or not attempt.complete
            or self._member.at < attempt.end
        ):
            return None
        return entries.usage_of(attempt.chunks)

    @property
    def headers(self) -> dict[str, str]:
        """HIT, JOIN, or MISS if it made the call."""
        return {"x-cache": "MISS"} if self._member.asked else self._headers

    async def __aenter__(self) -> Self:
        self._flight, self._headers = await self._hub.join(self._place, self._member, self._max_age)
        self._hub.count(self._headers)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._flight is not None:
            await self._flight.leave(self._member)

    def answer(self) -> AsyncGenerator[Chunk]:
        """The answer of the flight."""
        assert self._flight is not None
        return self._member.read(self._flight)
