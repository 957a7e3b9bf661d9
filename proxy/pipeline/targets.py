"""The targets of a model name: in which order they are asked, and when the next one is."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from hashlib import sha256

from msgspec import Struct

from chattable.adapters.errors import (
    CircuitOpened,
    ConnectionLimitReached,
    ConnectionReclaimed,
    UpstreamError,
    UpstreamHTTPError,
)
from chattable.adapters.upstream import Upstream
from chattable.adapters.vendors.refusals import Cause, cause_of
from chattable.agents.chat import Chat
from chattable.agents.chattable import FailedAttempt, Progress, Trace
from chattable.agents.errors import ChatError, ModelNotFound
from chattable.proxy.catalog.catalog import Catalog, Entry
from chattable.proxy.catalog.circuits import LastError, State
from chattable.proxy.identity.auth import Caller

OVERFLOW = "context_length_exceeded"
# below 500, what another target may not say
UPSTREAM_ONLY_STATUSES = (401, 402, 403, 404, 407, 408, 409, 425, 429)
MAX_WAIT_S = 5.0  # seconds that are waited to ask a target again; longer waits are the client's
BACKOFF_S = 0.25  # seconds before a target is asked again that names no time; doubled each time
AT_HOME, AWAY = "kept", "moved"  # where a session's call was answered

Sleep = Callable[[float], Awaitable[None]]


class _Tried(Struct):
    """A target that failed and may be asked again."""

    entry: Entry
    times: int  # that it was asked
    began: float
    due: float


class TargetSelector:
    """The targets of one call, best first.

    Law: another target comes before a wait. Each is asked once, and one whose circuit is open only
    where there is no other; where nobody else is left, those that failed in passing are asked
    again, as often as the config says, after a wait. A client's own mistake is nobody else's to
    answer; a prompt that is too long goes on to a target that can read more. What a key may not use
    is not asked in the place of what it may.
    """

    def __init__(
        self,
        catalog: Catalog,
        chat: Chat,
        entry: Entry,
        caller: Caller,
        trace: Trace,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._catalog = catalog
        self._stream = chat.stream
        self._caller = caller
        self._trace = trace
        self._sleep = sleep
        self._session = caller.session.id if caller.session else ""
        self._left = _ordered(entry, self._session)
        self._home = self._left[0] if self._session else None
        self._names = list(entry.fallbacks)
        self._seen = {entry.name}
        self._resting: list[Entry] = []
        self._tried: list[_Tried] = []
        self._again: _Tried | None = None  # what the target to come was before
        self._least = 0  # tokens that a target must be able to read
        self._upcoming: Entry | None = self._next()
        self._asked: Entry | None = None
        self._open = False  # its outcome is not known yet
        self._state = State.CLOSED  # of its circuit, when it was asked
        self._began = 0.0
        self._first: float | None = None
        self.progress = Progress()  # of the attempt under way

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._upcoming) is not None:
            self._upcoming = None
            self._asked, self._open, self._began, self._first = entry, True, time.monotonic(), None
            followed = bool(self._left or self._resting) or (
                bool(self._names) and self._may_fall_back()
            )
            if entry.health is not None:
                self._state = entry.health.begin()
            if self._session:
                self._trace.affinity = AT_HOME if entry is self._home else AWAY
            again = self._again
            self.progress = Progress(
                began=again.began if again is not None else 0.0,
                followed=followed,
                home=self._session,
                worth=self._worth,
            )
            yield entry

    def followed(self, error: BaseException | None) -> bool:
        """Whether a target is asked next, if the one asked last has failed like this."""
        if self._first is not None or not (isinstance(error, Exception) and _another_may(error)):
            return False
        return self.progress.followed or bool(self._tried or self._repeatable(error))

    def answering(self) -> None:
        """Notes that the target asked last has begun to answer."""
        if self._first is None:
            self._first = time.monotonic() - self._began

    async def failed(self, error: Exception) -> bool:
        """Notes how it failed; whether a target is asked next, maybe the same after a wait."""
        asked = self._asked
        assert asked is not None
        self._note(asked, error)
        if self._first is not None or not _another_may(error):
            return False
        self._trace.waited += time.monotonic() - self._began
        if isinstance(error, CircuitOpened):
            self._resting.append(asked)
        elif isinstance(error, ChatError) and error.code == OVERFLOW:
            self._least = (asked.context_length or 0) + 1
        else:
            self._tried += self._repeatable(error)
        self._again = None
        self._upcoming = self._next() or await self._after_a_wait()
        return self._upcoming is not None

    def ended(self, ok: bool | None = None) -> None:
        """Notes what became of it, once; None: nobody knows, for nobody waited."""
        if self._open and self._asked is not None and self._asked.health is not None:
            self._asked.health.end(self._state, ok, self._first)
        self._open = False
        self.progress.worth = None  # a circle is memory until the next collection

    def _worth(self) -> bool:
        """Whether it is still worth asking: its circuit may have opened meanwhile."""
        health = self._asked.health if self._asked is not None else None
        return (
            health is None
            or self._state is not State.CLOSED
            or not health.tripped
            or not self.progress.followed
        )

    def _note(self, asked: Entry, error: Exception) -> None:
        """What an error says of the target's health."""
        health = asked.health
        if health is None or not isinstance(error, UpstreamError):
            self.ended()
            return
        status = getattr(error, "status", None)
        # it was not sent, so nobody else has told
        if isinstance(error, ConnectionLimitReached) and isinstance(asked.model, Upstream):
            self._trace.failures.append(FailedAttempt(asked.model.asked, error.message))
        if _another_may(error) and error.code != OVERFLOW and not isinstance(error, CircuitOpened):
            health.last = LastError(time.time(), status, error.code, error.message)
        self.ended(False if _unwell(error) else None)
        if isinstance(error, UpstreamHTTPError) and cause_of(error) is Cause.ACCOUNT:
            health.give_up()

    def _repeatable(self, error: Exception) -> list[_Tried]:
        """The target asked last, if it may be asked again after an error like this."""
        asked, again = self._asked, self._again
        if (
            asked is None
            or not isinstance(asked.model, Upstream)
            or not isinstance(error, UpstreamError)
        ):
            return []
        model, times = asked.model, again.times + 1 if again is not None else 1
        most = model.retries if error.retries is None else min(error.retries, model.retries)
        if times > most or (
            isinstance(error, UpstreamHTTPError) and cause_of(error) is Cause.ACCOUNT
        ):
            return []
        due = time.monotonic() + _delay(error, times)
        began, limits = again.began if again is not None else self._began, model.timeouts
        patience = min(limits.first_token, limits.total) if self._stream else limits.total
        return [_Tried(asked, times, began, due)] if due <= began + patience else []

    async def _after_a_wait(self) -> Entry | None:
        """Of those that failed, the one that may be asked first; None: none soon enough."""
        tried = min(self._tried, key=lambda tried: tried.due, default=None)
        if tried is None or (wait := tried.due - time.monotonic()) > MAX_WAIT_S:
            return None
        self._tried.remove(tried)
        self._again = tried
        if wait > 0:
            await self._sleep(wait)
            self._trace.waited += wait
        return tried.entry

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

    def _may_fall_back(self) -> bool:
        """Whether a fallback is left that is there for the caller."""
        for name in self._names:
            if name not in self._seen:
                with suppress(ModelNotFound):
                    return bool(self._catalog.find(name, self._caller.principal))
        return False

    def _look_up(self, name: str) -> None:
        if name in self._seen:
            return
        self._seen.add(name)
        with suppress(ModelNotFound):
            entry = self._catalog.find(name, self._caller.principal)
            self._left = _ordered(entry, self._session)
            self._names += entry.fallbacks


def _delay(error: UpstreamError, times: int) -> float:
    """Seconds until a target is asked again: as it says, else longer each time."""
    if isinstance(error, UpstreamHTTPError) and error.retry_after is not None:
        return error.retry_after
    spread = random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, hides nothing
    return float(BACKOFF_S * 2 ** (times - 1) * spread)


def _ordered(entry: Entry, key: str) -> list[Entry]:
    """A name's targets: by weight, alike for all turns of a session; else the quicker of two."""
    targets = entry.targets
    if len(targets) < 2:
        return list(targets or [entry])
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
    return (
        0.0 if health is None or health.latency is None else health.latency * (health.under_way + 1)
    )


def _another_may(error: Exception) -> bool:
    """Whether another target may do better."""
    if isinstance(error, ChatError) and error.code == OVERFLOW:
        return True
    if isinstance(error, UpstreamHTTPError):
        cause = cause_of(error)
        return cause is not Cause.PROMPT and (
            error.status >= 500 or error.status in UPSTREAM_ONLY_STATUSES or cause is Cause.ACCOUNT
        )
    return isinstance(error, UpstreamError) and not isinstance(error, ConnectionReclaimed)


def _unwell(error: UpstreamError) -> bool:
    """Whether an error says that the target is unwell, whatever it is asked."""
    if isinstance(error, UpstreamHTTPError) and (
        error.code == OVERFLOW or cause_of(error) is Cause.USE
    ):
        return False
    return _another_may(error) and not isinstance(error, (ConnectionLimitReached, CircuitOpened))
