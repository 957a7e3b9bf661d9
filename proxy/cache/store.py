"""Where answers are kept: the port and its words.

On Redis it is also how processes share an answer under way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from msgspec import Struct

NOT_FROM_STORE = -1.0  # as `max_age`: no kept answer is young enough


class StoredAnswer(Struct, frozen=True):
    """A stored answer."""

    body: bytes
    age: float  # seconds


class Lead(Struct, frozen=True):
    """Nobody has the answer.

    `flight`: others wait for ours; None: they do not, or nobody would tell them.
    """

    # what `release` takes, so that a purge in between counts; empty: the answer cannot be stored
    stamp: bytes
    flight: str | None = None


class Follow(Struct, frozen=True):
    """Another process is on its way to the answer."""

    flight: str


class CacheKey(Struct, frozen=True):
    """What an answer is kept under, and the words by which it can be purged."""

    digest: bytes
    tags: tuple[str, ...]  # such as user:user_0123 and model:fast; none holds a space


class Store(ABC):
    """Keeps answers for a while.

    Law. What was stored under a key is found under it until its time is up, and never under
    another. What was asked before a purge of one of its tags is never found after it, nor what was
    stored before. Of all who `acquire` a key at once and may lead, in any process, one leads until
    it releases it or has not renewed its lease; the others follow. A store that is away answers
    `Lead` without flight or stamp, soon: nothing here ever raises.
    """

    @abstractmethod
    async def acquire(
        self, key: CacheKey, *, lead: bool = True, max_age: float | None = None
    ) -> StoredAnswer | Lead | Follow:
        """The answer, if it is not too old; else the lead, if it is wanted and nobody has it."""

    @abstractmethod
    async def release(
        self,
        key: CacheKey,
        lead: Lead,
        *,
        body: bytes = b"",
        ttl: float = 0.0,
        last: Sequence[bytes] = (),
    ) -> bool:
        """Ends a lead, and stores the answer if there is one; returns whether it was stored.

        `last` are the batches that followers have not seen.
        """

    @abstractmethod
    async def purge(self, tag: str = "") -> bool:
        """Forgets all answers with a tag, without one all; False where the store is away.

        Nothing was forgotten then.
        """

    @property
    def size(self) -> int:
        """Bytes that this process knows to be kept."""
        return 0

    async def start(self) -> None:  # noqa: B027 - optional by design
        """Opens what must be open."""

    async def stop(self) -> None:  # noqa: B027
        """Closes it."""

    # What only a store between processes has to do.

    def on_follower(self, told: Callable[[str], None]) -> bool:
        """Has `told` called with a flight that another process begins to follow, if any can."""
        return False

    async def renew(self, leads: Sequence[tuple[CacheKey, Lead]]) -> list[bool]:
        """Gives leads a new lease; returns which somebody follows, or nothing if nobody knows."""
        return [False for _ in leads]

    async def share(self, key: CacheKey, lead: Lead, batch: bytes) -> bool:
        """Hands followers the next part of an answer; returns False where the lead is lost."""
        return False

    async def read_batches(
        self, key: CacheKey, follow: Follow, start: int
    ) -> tuple[bool, list[bytes]] | None:
        """Whether the leader lives, and its batches from `start` on; None if nobody knows."""
        return None

    async def wait(self, follow: Follow) -> None:  # noqa: B027
        """Returns when there may be more to `read_batches`."""
