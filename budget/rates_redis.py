"""Rate limits that all processes share, by way of Redis or Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from itertools import islice

from chattable.budget.rates import (
    Level,
    Permit,
    RateLimit,
    RateLimitedError,
    Rates,
    check_room,
    tightest,
    weight,
)
from chattable.budget.rates_lua import ENTER_SCRIPT, LEAVE_SCRIPT, RENEW_SCRIPT, SCRIPTS
from chattable.budget.storage.redis import Job, RedisScript, RedisScripts

NAMESPACE = "chattable:{rates}:"  # the braces keep all limits of a call on one node of a cluster
MAX_RENEWALS = 64  # under way at once


class RedisRates(Rates):
    """Counts on a server, by its clock.

    A step is one script in one round trip, shared with the steps that wait with it.
    """

    shared = True

    def __init__(
        self,
        redis: str | RedisScripts,
        *,
        namespace: str = NAMESPACE,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__()
        self._scripts = redis if isinstance(redis, RedisScripts) else RedisScripts(redis)
        self._namespace = namespace
        self._clock = clock  # for tests; None: the server's own

    @property
    def away(self) -> bool:
        """Whether calls are let in uncounted at present."""
        return self._scripts.away

    async def start(self) -> None:
        """Connects, or goes on without."""
        await super().start()
        await self._scripts.start(script.text for script in SCRIPTS)

    async def stop(self) -> None:
        """Finishes what was asked and ends."""
        await super().stop()
        await self._scripts.stop()

    async def enter(self, limits: Sequence[RateLimit], call_id: str, tokens: int) -> Permit:
        """Lets a call in or raises."""
        permit = Permit(
            call_id=call_id,
            limits=tuple([limit for limit in limits if limit.rate.limited]),
            estimate=tokens,
        )
        if not permit.limits:
            return permit
        if self._scripts.away:
            self.failures += 1
            return permit
        self._open[call_id] = permit
        try:
            reply = await self._scripts.ask(self._enter(permit))
        except asyncio.CancelledError:  # it may be let in all the same
            del self._open[call_id]
            self._scripts.post(self._leave(permit, 0))
            raise
        return self._judge(permit, reply)

    async def leave(self, permit: Permit, used: int) -> None:
        """Ends a call; a server that is away is told later."""
        if self._open.pop(permit.call_id, None) is not None:
            await self._scripts.ask(self._leave(permit, max(0, used)))

    async def renew(self, permits: Iterable[Permit]) -> None:
        """Gives slots a new lease."""
        waiting = iter(permits)
        while not self._scripts.away and (some := list(islice(waiting, MAX_RENEWALS))):
            await asyncio.gather(
                *[self._scripts.ask(self._job(RENEW_SCRIPT, permit, 0)) for permit in some]
            )

    def _judge(self, permit: Permit, reply: list[int] | None) -> Permit:
        """What the server's answer means; no answer, or none that makes sense, lets in."""
        limits = permit.limits
        if reply is not None and len(reply) == 1 + 3 * len(limits):
            levels: list[Level] = list(zip(reply[1::3], reply[2::3], reply[3::3], strict=True))
            if reply[0]:
                requests, tokens = tightest(limits, levels)
                return Permit(
                    call_id=permit.call_id,
                    limits=limits,
                    estimate=permit.estimate,
                    requests=requests,
                    tokens=tokens,
                )
            try:
                check_room(limits, levels, permit.estimate)
            except RateLimitedError:
                del self._open[permit.call_id]
                raise
        self.failures += 1
        return permit

    def _enter(self, permit: Permit) -> Job:
        numbers = []
        for limit in permit.limits:
            rate = limit.rate
            numbers += [
                _known(rate.requests_per_minute),
                _known(rate.tokens_per_minute),
                _known(rate.parallel),
            ]
        return self._job(ENTER_SCRIPT, permit, permit.estimate, numbers)

    def _leave(self, permit: Permit, used: int) -> Job:
        numbers = []
        for limit in permit.limits:
            requests, tokens = (
                _known(limit.rate.requests_per_minute),
                _known(limit.rate.tokens_per_minute),
            )
            numbers += [requests, tokens, weight(tokens, permit.estimate)]
        return self._job(LEAVE_SCRIPT, permit, used, numbers, keep=True)

    def _job(
        self,
        script: RedisScript,
        permit: Permit,
        number: int,
        numbers: Sequence[int] = (),
        keep: bool = False,
    ) -> Job:
        names = [
            sha256(limit.subject.encode(errors="surrogatepass")).hexdigest()
            for limit in permit.limits
        ]
        keys = [
            f"{self._namespace}{name}:{part}" for name in names for part in ("counter", "slots")
        ]
        now = "" if self._clock is None else str(round(self._clock() * 1000))
        call = permit.call_id.encode(errors="surrogatepass")
        return Job(script.name, script.text, (len(keys), *keys, call, number, now, *numbers), keep)


def _known(limit: int | None) -> int:
    return -1 if limit is None else limit
