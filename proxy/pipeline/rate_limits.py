"""Rate limits of users, keys and teams for each turn, and of models for each call."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from msgspec import Struct

from chattable.agents.chat import Chat, Chunk
from chattable.budget.rates import Allowance, Permit, RateLimit, RateLimitedError, Rates, headers
from chattable.budget.rates_memory import MemoryRates
from chattable.proxy.catalog.catalog import Entry
from chattable.proxy.config import settings
from chattable.proxy.errors import RateLimitExceededError
from chattable.proxy.identity.auth import Caller
from chattable.proxy.reply_stream import ReplyStream

if TYPE_CHECKING:
    from chattable.budget.storage.redis import RedisScripts

YIELD = 5.0  # seconds that a turn may take to end
BYTES_PER_TOKEN = 4  # of ordinary text: what a prompt weighs until its usage is known


class _Turn(Struct, frozen=True):
    """A turn under way: whose it is, and what it counts against."""

    user: str
    limits: list[RateLimit]
    reply: ReplyStream | None  # None: it is part of another turn


class Admission:
    """A call that is let in while the context lasts, and the tokens it has used so far.

    `RateLimitExceededError` is raised at once, or by `wait` where the limits are a round trip away.
    """

    def __init__(self, limiter: RateLimiter, call_id: str, turn: _Turn, estimate: int) -> None:
        self.permit: Permit | None = None
        self.asking: asyncio.Task[Permit] | None = None
        self.used = 0
        self._limiter = limiter
        self._call_id = call_id
        self._turn = turn
        self._estimate = estimate

    async def __aenter__(self) -> Self:
        if self._turn.limits:
            asking = self._limiter.enter(self._turn, self._call_id, self._estimate)
            if self._limiter.rates.shared:
                self.asking = asyncio.create_task(asking)
            else:
                self.permit = await asking
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._turn.limits:
            await self._limiter.leave(self, self._call_id)

    async def wait(self) -> dict[str, str]:
        """Waits until the call is let in, for its headers; else `RateLimitExceededError`."""
        if self.permit is None and self.asking is not None:
            self.permit = await asyncio.shield(self.asking)
        return headers(self.permit) if self.permit else {}

    async def known(self) -> Permit | None:
        """What was answered, which takes a moment at most; None: it was not let in."""
        with suppress(RateLimitExceededError):
            await self.wait()
        return self.permit

    def see(self, chunk: Chunk) -> None:
        """Notes a step of the answer."""
        if chunk.usage is not None:
            self.used += chunk.usage.total_tokens


class RateLimiter:
    """Lets calls in.

    Law: a turn counts once against its user, key and team, and every model it asks against that
    model. A turn that nobody reads any more ends when its own user needs its place for another.
    """

    def __init__(self, rates: Rates, limits: settings.RateLimits) -> None:
        self.rates = rates
        self._turns: dict[str, _Turn] = {}  # those that count against somebody, by call
        self._default = None if limits.default is None else _rate(limits.default)
        self._named = {
            f"{kind}:{name}": _rate(rate)
            for kind, named in (
                ("user", limits.users),
                ("team", limits.teams),
                ("key", limits.keys),
                ("model", limits.models),
            )
            for name, rate in named.items()
        }

    def call(
        self,
        chat: Chat,
        entry: Entry,
        caller: Caller,
        *,
        nested: bool,
        reply: ReplyStream | None = None,
    ) -> Admission:
        """The right to make a call, once it is let in.

        Where entering takes a round trip, only `Admission.wait` waits for it: what else is asked
        meanwhile shares the trip.
        """
        limits = self._limits(entry, caller, nested=nested)
        turn = _Turn(caller.principal.user.id, limits, None if nested else reply)
        if not limits:
            return Admission(self, "", turn, 0)
        call_id = (
            f"{caller.request_id}_{random.getrandbits(64):016x}" if nested else caller.request_id
        )
        estimate = sum([len(message.text) for message in chat.messages]) // BYTES_PER_TOKEN
        return Admission(self, call_id, turn, estimate)

    async def enter(self, turn: _Turn, call_id: str, estimate: int) -> Permit:
        """Enters, if need be in the place of a turn of the same user that nobody reads."""
        if turn.reply is not None:
            self._turns[call_id] = turn
        try:
            return await self._entered(turn, call_id, estimate)
        except BaseException:
            self._turns.pop(call_id, None)
            raise

    async def _entered(self, turn: _Turn, call_id: str, estimate: int) -> Permit:
        try:
            try:
                return await self.rates.enter(turn.limits, call_id, estimate)
            except RateLimitedError as error:
                parallel = error.kind == "parallel"
                if not parallel or not await self._yielded(error.subject, turn.user, call_id):
                    raise
            return await self.rates.enter(turn.limits, call_id, estimate)
        except RateLimitedError as error:
            raise RateLimitExceededError(error) from None

    async def leave(self, admission: Admission, call_id: str) -> None:
        """Ends what was let in."""
        self._turns.pop(call_id, None)
        if (permit := await admission.known()) is not None:
            await self.rates.leave(permit, admission.used)

    async def _yielded(self, subject: str, user: str, but: str) -> bool:
        """Ends this user's oldest turn that counts against the subject and that nobody reads."""
        for call_id, turn in list(self._turns.items()):
            reply = turn.reply
            if reply is None or reply.task is None or not reply.left:
                continue
            counts = any(limit.subject == subject for limit in turn.limits)
            if turn.user == user and counts and call_id != but:
                task = reply.task
                reply.stop()
                await asyncio.wait([task], timeout=YIELD)
                return True
        return False

    def _limits(self, entry: Entry, caller: Caller, *, nested: bool) -> list[RateLimit]:
        if not self._named and self._default is None:
            return []
        who, found = caller.principal, []
        if not nested:
            own = self._named.get(f"user:{who.user.name}", self._default)
            if own is not None:
                found.append(RateLimit(f"user {who.user.name}", own))
            for subject, name in (("team", who.team_name), ("key", who.key_id)):
                if name and (rate := self._named.get(f"{subject}:{name}")):
                    found.append(RateLimit(f"{subject} {name}", rate))
        if rate := self._named.get(f"model:{entry.name}"):
            found.append(RateLimit(f"model {entry.name}", rate))
        return found


def open_rates(redis: RedisScripts | None) -> Rates:
    """Rates that all processes share by way of Redis, if there is one, else this one's own."""
    if redis is None:
        return MemoryRates()
    from chattable.budget.rates_redis import RedisRates  # only for who has a Redis

    return RedisRates(redis)


def _rate(rate: settings.Rate) -> Allowance:
    return Allowance(
        requests_per_minute=rate.requests_per_minute,
        tokens_per_minute=rate.tokens_per_minute,
        parallel=rate.parallel,
    )
