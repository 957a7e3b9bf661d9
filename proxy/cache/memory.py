"""Answers kept in the memory of this process: the same law as on Redis, for one process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from msgspec import Struct

from chattable.proxy.cache.store import Follow, Found, Lead, Place, Store

OVERHEAD = 512  # bytes that an entry takes beside its body


class _Entry(Struct):
    body: bytes
    tags: tuple[str, ...]
    stamp: bytes
    at: float
    until: float


class MemoryStore(Store):
    """Keeps at most so many bytes; what was not asked for the longest goes first."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._purges: dict[str, int] = {}
        self._bytes = 0

    @property
    def size(self) -> int:
        """Bytes kept."""
        return self._bytes

    async def enter(
        self, place: Place, *, lead: bool = True, max_age: float | None = None
    ) -> Found | Lead | Follow:
        """Whoever does not find an answer leads: one process has no others."""
        entry, now = self._entries.get(place.key), self._clock()
        if entry is not None:
            if entry.until <= now or entry.stamp != self._stamp(entry.tags):
                self._drop(place.key)
            elif max_age is None or now - entry.at <= max_age:
                self._entries.move_to_end(place.key)
                return Found(entry.body, now - entry.at)
        return Lead(self._stamp(place.tags))

    async def leave(
        self,
        place: Place,
        lead: Lead,
        *,
        body: bytes = b"",
        ttl: float = 0.0,
        last: Sequence[bytes] = (),
    ) -> bool:
        """Stores an answer, unless it was purged before it came or is larger than all there is room for."""
        weight = len(body) + OVERHEAD
        if not body or weight > self._most or lead.stamp != self._stamp(place.tags):
            return False
        self._drop(place.key)
        now = self._clock()
        self._entries[place.key] = _Entry(body, place.tags, lead.stamp, now, now + ttl)
        self._bytes += weight
        while self._bytes > self._most:
            self._drop(next(iter(self._entries)))
        return True

    async def purge(self, tag: str = "") -> bool:
        """Forgets at once, and what is on its way as well."""
        self._purges[tag] = self._purges.get(tag, 0) + 1
        for key in [key for key, entry in self._entries.items() if not tag or tag in entry.tags]:
            self._drop(key)
        return True

    def _stamp(self, tags: Sequence[str]) -> bytes:
        """How often all and each of these tags were purged."""
        return " ".join(str(self._purges.get(tag, 0)) for tag in ("", *tags)).encode()

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= len(entry.body) + OVERHEAD
