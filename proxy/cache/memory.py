"""Answers kept in the memory of this process: the same law as on Redis, for one process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from msgspec import Struct

from chattable.proxy.cache.store import CacheKey, Follow, Lead, Store, StoredAnswer

ENTRY_OVERHEAD_BYTES = 512  # beside its body


class _Entry(Struct):
    body: bytes
    tags: tuple[str, ...]
    stamp: bytes
    at: float
    until: float


class MemoryStore(Store):
    """Keeps at most so many bytes; what was not asked for the longest goes first."""

    def __init__(self, max_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._purges: dict[str, int] = {}
        self._bytes = 0

    @property
    def size(self) -> int:
        """Bytes kept."""
        return self._bytes

    async def acquire(
        self, key: CacheKey, *, lead: bool = True, max_age: float | None = None
    ) -> StoredAnswer | Lead | Follow:
        """Whoever does not find an answer leads: one process has no others."""
        entry, now = self._entries.get(key.digest), self._clock()
        if entry is not None:
            if entry.until <= now or entry.stamp != self._stamp(entry.tags):
                self._drop(key.digest)
            elif max_age is None or now - entry.at <= max_age:
                self._entries.move_to_end(key.digest)
                return StoredAnswer(entry.body, now - entry.at)
        return Lead(self._stamp(key.tags))

    async def release(
        self,
        key: CacheKey,
        lead: Lead,
        *,
        body: bytes = b"",
        ttl: float = 0.0,
        last: Sequence[bytes] = (),
    ) -> bool:
        """Stores an answer, unless it was purged before it came or is larger than all room."""
        weight = len(body) + ENTRY_OVERHEAD_BYTES
        if not body or weight > self._max_bytes or lead.stamp != self._stamp(key.tags):
            return False
        self._drop(key.digest)
        now = self._clock()
        self._entries[key.digest] = _Entry(body, key.tags, lead.stamp, now, now + ttl)
        self._bytes += weight
        while self._bytes > self._max_bytes:
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
        return " ".join([str(self._purges.get(tag, 0)) for tag in ("", *tags)]).encode()

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= len(entry.body) + ENTRY_OVERHEAD_BYTES
