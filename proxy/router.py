"""Which targets are asked for a model name, in which order, and when the next one is worth asking."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256

from chattable.adapters.errors import Refused, UpstreamError
from chattable.agents.errors import ChatError, ModelNotFound
from chattable.proxy.auth import Caller
from chattable.proxy.catalog import Catalog, Entry

OVERFLOW = "context_length_exceeded"
THEIR_OWN = (401, 402, 403, 404, 407, 408, 409, 425, 429)  # below 500, what another target may not say


class Routes:
    """The targets of one call, best first.

    Law: each is asked once at most, and one whose circuit is open only where there is no other. A client's own mistake is
    nobody else's to answer; a prompt that is too long goes on to a target that can read more. What a key may not use is not
    asked in the place of what it may.
    """

    def __init__(self, catalog: Catalog, entry: Entry, caller: Caller) -> None:
        self._catalog = catalog
        self._caller = caller
        self._left = _ordered(entry, caller)
        self._names = list(entry.fallbacks)
        self._seen = {entry.name}
        self._resting: list[Entry] = []
        self._least = 0  # tokens that a target must be able to read
        self._upcoming: Entry | None = self._next()
        self._asked: Entry | None = None  # whose outcome is not known yet
        self._began = 0.0
        self._first: float | None = None

    def __iter__(self) -> Iterator[Entry]:
        while self._upcoming is not None:
            entry, self._upcoming = self._upcoming, None
            self._asked, self._began, self._first = entry, time.monotonic(), None
            if entry.health is not None:
                entry.health.begin()
            yield entry

    def more(self) -> bool:
        """Whether somebody else may be asked if this one fails before its first word."""
        return self._first is None and bool(self._left or self._names or self._resting)

    def answering(self) -> None:
        """Notes that the target asked last has begun to answer."""
        if self._first is None:
            self._first = time.monotonic() - self._began

    def failed(self, error: Exception) -> bool:
        """Notes how it failed; whether there is another one that may do better."""
        overflow = isinstance(error, ChatError) and error.code == OVERFLOW
        asked, its_fault = self._asked, _its_fault(error)
        self.ended(False if its_fault else None)
        if self._first is not None or not (its_fault or overflow):
            return False
        if overflow and asked is not None:
            self._least = (asked.context_length or 0) + 1
        self._upcoming = self._next()
        return self._upcoming is not None

    def ended(self, ok: bool | None = None) -> None:
        """Notes what became of it, once; None: nobody knows, for nobody waited."""
        if self._asked is not None and self._asked.health is not None:
            self._asked.health.end(ok, self._first)
        self._asked = None

    def _next(self) -> Entry | None:
        """The next target; a fallback's are looked up only when it is its turn."""
        while self._left or self._names:
            while self._left:
                target = self._left.pop(0)
                if target.context_length is not None and target.context_length < self._least:
                    continue
                if target.health is None or target.health.willing:
                    self._resting = []  # who rests is asked only where nobody else is
                    return target
                self._resting.append(target)
            if self._names:
                self._look_up(self._names.pop(0))
        return self._resting.pop(0) if self._resting else None

    def _look_up(self, name: str) -> None:
        if name in self._seen:
            return
        self._seen.add(name)
        with suppress(ModelNotFound):
            entry = self._catalog.find(name, self._caller.principal)
            self._left = _ordered(entry, self._caller)
            self._names += entry.fallbacks


def _ordered(entry: Entry, caller: Caller) -> list[Entry]:
    """A name's targets: by weight, the same for all turns of a session; or without weights, the quicker of two."""
    targets = entry.targets
    if len(targets) < 2:
        return list(targets or [entry])
    key = caller.session.id if caller.session else ""
    if key or any(target.weight is not None for target in targets):
        ordered = sorted(targets, key=lambda target: _draw(target, key))
    else:
        ordered = random.sample(targets, len(targets))
        if _busyness(ordered[1]) < _busyness(ordered[0]):
            ordered[0], ordered[1] = ordered[1], ordered[0]
    return ordered


def _draw(target: Entry, key: str) -> float:
    """Smaller for who comes earlier: by weight, at random or, with a key, by a hash of it."""
    if key:
        digest = sha256(f"{key}\n{target.source}".encode(errors="surrogatepass")).digest()
        chance = (int.from_bytes(digest[:8]) + 1) / (2**64 + 1)
    else:
        chance = 1.0 - random.random()  # noqa: S311 - spreads load, hides nothing
    weight = 1 if target.weight is None else target.weight
    return -math.log(chance) / weight if weight else math.inf


def _busyness(target: Entry) -> float:
    health = target.health
    return 0.0 if health is None or health.latency is None else health.latency * (health.under_way + 1)


def _its_fault(error: Exception | None) -> bool:
    """Whether another target may do better."""
    if isinstance(error, Refused):
        return error.status >= 500 or error.status in THEIR_OWN
    return isinstance(error, UpstreamError)
