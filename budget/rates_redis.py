"""Rates that all processes share, by way of Redis or Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from itertools import islice

from chattable.budget.rates import (
    Bound,
    Level,
    Pass,
    RateLimitedError,
    Rates,
    check_room,
    gauges,
    weight,
)
from chattable.budget.rates_lua import ENTER_SCRIPT, LEAVE_SCRIPT, RENEW_SCRIPT, SCRIPTS, Script
from chattable.budget.storage.redis import Job, RedisScripts

NAMESPACE = "chattable:{rates}:"  # the braces keep all bounds of a call on one node of a cluster
SLICE = 64  # renewals under way at once


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

    async def enter(self, bounds: Sequence[Bound], call_id: str, tokens: int) -> Pass:
        """Lets a call in or raises."""
        passed = Pass(
            call_id=call_id,
            bounds=tuple([bound for bound in bounds if bound.rate.limited]),
            estimate=tokens,
        )
        if not passed.bounds:
            return passed
        if self._scripts.away:
            self.failures += 1
            return passed
        self._open[call_id] = passed
        try:
            reply = await self._scripts.ask(self._enter(passed))
        except asyncio.CancelledError:  # it may be let in all the same
            del self._open[call_id]
            self._scripts.post(self._leave(passed, 0))
            raise
        return self._judge(passed, reply)

    async def leave(self, passed: Pass, used: int) -> None:
        """Ends a call; a server that is away hears of it later."""
        if self._open.pop(passed.call_id, None) is not None:
            await self._scripts.ask(self._leave(passed, max(0, used)))

    async def renew(self, passes: Iterable[Pass]) -> None:
        """Gives slots a new lease."""
        waiting = iter(passes)
        while not self._scripts.away and (some := list(islice(waiting, SLICE))):
            await asyncio.gather(
                *[self._scripts.ask(self._job(RENEW_SCRIPT, passed, 0)) for passed in some]
            )

    def _judge(self, passed: Pass, reply: list[int] | None) -> Pass:
        """What the server's answer means; no answer, or none that makes sense, lets in."""
        bounds = passed.bounds
        if reply is not None and len(reply) == 1 + 3 * len(bounds):
            levels: list[Level] = list(zip(reply[1::3], reply[2::3], reply[3::3], strict=True))
            if reply[0]:
                requests, tokens = gauges(bounds, levels)
                return Pass(
                    call_id=passed.call_id,
                    bounds=bounds,
                    estimate=passed.estimate,
                    requests=requests,
                    tokens=tokens,
                )
            try:
                check_room(bounds, levels, passed.estimate)
            except RateLimitedError:
                del self._open[passed.call_id]
                raise
        self.failures += 1
        return passed

    def _enter(self, passed: Pass) -> Job:
        limits = []
        for bound in passed.bounds:
            rate = bound.rate
            limits += [
                _known(rate.requests_per_minute),
                _known(rate.tokens_per_minute),
                _known(rate.parallel),
            ]
        return self._job(ENTER_SCRIPT, passed, passed.estimate, limits)

    def _leave(self, passed: Pass, used: int) -> Job:
        numbers = []
        for bound in passed.bounds:
            requests, tokens = (
                _known(bound.rate.requests_per_minute),
                _known(bound.rate.tokens_per_minute),
            )
            numbers += [requests, tokens, weight(tokens, passed.estimate)]
        return self._job(LEAVE_SCRIPT, passed, used, numbers, keep=True)

    def _job(
        self,
        script: Script,
        passed: Pass,
        number: int,
        numbers: Sequence[int] = (),
        keep: bool = False,
    ) -> Job:
        names = [
            sha256(bound.subject.encode(errors="surrogatepass")).hexdigest()
            for bound in passed.bounds
        ]
        keys = [
            f"{self._namespace}{name}:{part}" for name in names for part in ("counter", "slots")
        ]
        now = "" if self._clock is None else str(round(self._clock() * 1000))
        call = passed.call_id.encode(errors="surrogatepass")
        return Job(script.name, script.text, (len(keys), *keys, call, number, now, *numbers), keep)


def _known(limit: int | None) -> int:
    return -1 if limit is None else limit
