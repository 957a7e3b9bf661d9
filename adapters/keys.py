"""The keys of one provider: they take turns, and one that was refused rests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from hashlib import sha256

from chattable.adapters.errors import UpstreamHTTPError
from chattable.adapters.vendors.refusals import Cause, cause_of

# of a key that the provider rejects, or whose account has no money
REJECTED_REST_S = 300.0
# of a key that was used too fast, where the provider does not say how long; and at most
RATE_LIMITED_REST_S, MAX_RATE_LIMITED_REST_S = 5.0, 60.0


class ApiKey:
    """One key, with the lines of the headers that carry it."""

    def __init__(self, secret: str, headers: bytes) -> None:
        self.secret = secret
        self.headers = headers
        self.rests_until = 0.0
        self.rejected_until = 0.0  # rests because it is rejected, not because it was used too fast


class Keys:
    """The keys of one provider.

    Law: every key is used as often as the others; one that rests is used only where all do. All
    calls of one session have the same key while it does not rest, so that what the provider has
    cached for it is found again.
    """

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

    def for_session(self, home: str) -> tuple[ApiKey, bool]:
        """A session's own key, or the next best while it rests; and whether it is its own."""
        now = self._clock()
        ranked = sorted(
            self._keys,
            key=lambda key: sha256(f"{home}\n{key.secret}".encode(errors="surrogatepass")).digest(),
        )
        best = next((key for key in ranked if key.rests_until <= now), None)
        best = best or min(self._keys, key=lambda key: key.rests_until)
        return best, best is ranked[0]

    def note_refusal(self, key: ApiKey, error: UpstreamHTTPError) -> bool:
        """Notes a refusal that may be the key's fault; True if another key may be asked at once."""
        now = self._clock()
        cause = cause_of(error)
        if cause in (Cause.KEY, Cause.ACCOUNT):
            key.rests_until = key.rejected_until = now + REJECTED_REST_S
        elif error.status == 429:
            key.rests_until = now + min(
                RATE_LIMITED_REST_S if error.retry_after is None else error.retry_after,
                MAX_RATE_LIMITED_REST_S,
            )
        else:
            return False
        return any(other.rests_until <= now for other in self._keys)

    def for_all_keys(self, error: UpstreamHTTPError) -> UpstreamHTTPError:
        """One key's refusal as the provider's: worth a wait while another key is good."""
        now = self._clock()
        good = [key.rests_until for key in self._keys if key.rejected_until <= now]
        if not good or cause_of(error) not in (Cause.KEY, Cause.ACCOUNT):
            return error
        message = "One of the provider's keys was refused: ask again for another one."
        return UpstreamHTTPError(429, message, retry_after=max(0.0, min(good) - now))
