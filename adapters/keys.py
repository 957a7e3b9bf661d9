"""The keys of one provider: they take turns, and one that was refused rests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import httpx

from chattable.adapters.errors import Refused

DEAD = 300.0  # seconds that a key rests which the provider does not take
HASTY, HASTIEST = 5.0, 60.0  # and one that was used too fast, if the provider does not say; and at most


class ApiKey:
    """One key, with the headers that carry it."""

    def __init__(self, secret: str, headers: httpx.Headers) -> None:
        self.secret = secret
        self.headers = headers
        self.rests_until = 0.0


class Keys:
    """Law: every key is used as often as the others; one that rests is used only where all do."""

    def __init__(self, keys: Sequence[ApiKey], clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = list(keys)
        self._clock = clock
        self._turn = 0

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def resting(self) -> int:
        """How many rest now."""
        now = self._clock()
        return sum(key.rests_until > now for key in self._keys)

    def next(self) -> ApiKey:
        """The key whose turn it is."""
        if len(self._keys) == 1:
            return self._keys[0]
        now = self._clock()
        for step in range(len(self._keys)):
            key = self._keys[(self._turn + step) % len(self._keys)]
            if key.rests_until <= now:
                self._turn = (self._turn + step + 1) % len(self._keys)
                return key
        return min(self._keys, key=lambda key: key.rests_until)

    def refused(self, key: ApiKey, error: Refused) -> bool:
        """Notes a refusal that may be the key's fault; whether another key may be asked at once."""
        now = self._clock()
        if error.status in (401, 402, 403):
            key.rests_until = now + DEAD
        elif error.status == 429:
            key.rests_until = now + min(HASTY if error.retry_after is None else error.retry_after, HASTIEST)
        else:
            return False
        return any(other.rests_until <= now for other in self._keys)
