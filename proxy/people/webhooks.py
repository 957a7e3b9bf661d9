"""Delivers budget events to a webhook by the Standard Webhooks specification.

Deliveries are signed and retried; what fails too often is kept as dead.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import msgspec

from chattable.adapters.transport import (
    Request,
    Response,
    Transport,
    Url,
    header,
    header_lines,
)
from chattable.budget.outbox import Outbox, OutboxEvent
from chattable.budget.periodic import Periodic
from chattable.proxy.config.webhook_settings import check_url, signing_key

log = logging.getLogger("chattable")

MAX_ATTEMPTS = 10
# Each delay is three times the one before: ten attempts take a little over a day.
FIRST_DELAY_S = 10.0
DELAY_GROWTH = 3.0
MAX_RETRY_AFTER_S = 86_400.0  # the longest Retry-After that is obeyed
ATTEMPT_TIMEOUT_S = 10.0  # for an attempt in all
MAX_ATTEMPTS_AT_ONCE = 4
POLL_INTERVAL_S = 5.0  # between two looks into the outbox when nothing pokes it
STOP_GRACE_S = 1.0  # that a stop waits for attempts under way
MAX_ANSWER_BYTES = 16 * 2**10  # of an answer that are read


class Undelivered(Exception):
    """An attempt failed; the text says how, without the URL."""

    def __init__(self, why: str, *, final: bool = False, wait: float = 0.0) -> None:
        super().__init__(why)
        self.final = final
        self.wait = wait


class WebhookEndpoint:
    """Where events are posted and the key that signs them.

    Printing it shows the origin only, because path and query may be secret.
    """

    def __init__(self, url: str, secret: str) -> None:
        self._url = Url.parse(check_url(url))
        self._key = signing_key(secret)

    def __repr__(self) -> str:
        return f"{'https' if self._url.origin[0] else 'http'}://{self._url.authority}"

    def request(self, event: OutboxEvent, now: int) -> Request:
        """One attempt.

        Law: id and body are the same for every attempt, timestamp and signature are this one's.
        """
        happened = f"{datetime.fromtimestamp(event.at, UTC):%Y-%m-%dT%H:%M:%SZ}"
        body = msgspec.json.encode({"type": event.kind, "timestamp": happened, "data": event.data})
        headers = {
            "content-type": "application/json",
            "user-agent": "chattable",
            "webhook-id": event.id,
            "webhook-timestamp": str(now),
            "webhook-signature": self._sign(event.id, now, body),
        }
        return Request("POST", self._url, header_lines(headers.items()), body)

    def _sign(self, notice_id: str, now: int, body: bytes) -> str:
        signed = b"%s.%d.%s" % (notice_id.encode(), now, body)
        return "v1," + base64.b64encode(hmac.digest(self._key, signed, hashlib.sha256)).decode()


class Deliveries:
    """Posts what waits in the outbox, a few events at a time.

    Law: an event is delivered at least once or ends dead, and then the log says so; two replicas
    never post the same one at the same time.
    """

    def __init__(
        self,
        outbox: Outbox,
        webhook: WebhookEndpoint,
        transport: Transport,
        *,
        interval: float = POLL_INTERVAL_S,
        deadline: float = ATTEMPT_TIMEOUT_S,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._outbox = outbox
        self._webhook = webhook
        self._transport = transport
        self._deadline = deadline
        self._lease = 6 * deadline
        self._clock = clock
        self._chance = chance
        self._poked = asyncio.Event()
        self._polling = Periodic(
            f"webhook {webhook!r}, looking into the outbox",
            self._take,
            interval,
            at_once=True,
            expected=(Exception,),
            sleep=self._until_poked,
        )
        self._running: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begins to look into the outbox."""
        self._polling.start()

    async def stop(self) -> None:
        """Ends in a second or two, whatever hangs.

        What is cut off is posted again when its lease ends, with the same id.
        """
        await self._polling.stop()
        if not self._running:
            return
        _, late = await asyncio.wait(self._running, timeout=STOP_GRACE_S)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=STOP_GRACE_S)

    def poke(self) -> None:
        """Looks into the outbox now: there may be something."""
        self._poked.set()

    async def _until_poked(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._poked.wait()
        self._poked.clear()

    async def _take(self) -> None:
        """Begins as many deliveries as there are free places."""
        free = MAX_ATTEMPTS_AT_ONCE - len(self._running)
        if not free:
            return  # the next one that ends pokes
        asked = self._clock()
        events = await self._outbox.claim(free, self._lease)
        if self._clock() - asked > self._lease / 2:
            # the database was so slow that a lease could end before its attempt does: somebody
            # claims them again
            return
        for event in events:
            task = asyncio.create_task(self._deliver(event))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self.poke()

    async def _deliver(self, event: OutboxEvent) -> None:
        try:
            try:
                await self._post(event)
            except Undelivered as error:
                await self._fail(event, error)
            else:
                await self._outbox.done([event.id])
        except Exception as error:
            log.warning(
                "webhook %r: %s may come twice, the outbox did not note its fate: %s",
                self._webhook,
                event.id,
                error,
            )

    async def _post(self, event: OutboxEvent) -> None:
        """One attempt; raises `Undelivered` unless it is answered with 2xx."""
        end = time.monotonic() + self._deadline
        response = self._transport.send(self._webhook.request(event, int(self._clock())))
        try:
            await response.head(self._deadline)
        except TimeoutError:
            raise Undelivered(f"no answer within {self._deadline:g} s") from None
        except Exception as error:  # only its name: its text may hold the URL
            raise Undelivered(type(error).__name__) from None
        await _drain(response, end)
        status = response.status
        if not 200 <= status < 300:
            raise Undelivered(f"status {status}", final=status == 410, wait=_retry_after(response))

    async def _fail(self, event: OutboxEvent, error: Undelivered) -> None:
        if error.final or event.attempts >= MAX_ATTEMPTS:
            await self._outbox.dead(event.id)
            text = "webhook %r: %s (%s) is given up at attempt %d and kept as dead: %s"
            log.error(text, self._webhook, event.id, event.kind, event.attempts, error)
            return
        delay = max(error.wait, backoff(event.attempts, self._chance()))
        await self._outbox.failed(event.id, delay)
        text = "webhook %r: attempt %d at %s (%s) failed, the next is in %.0f s: %s"
        log.warning(text, self._webhook, event.attempts, event.id, event.kind, delay, error)


def backoff(attempt: int, chance: float) -> float:
    """Seconds until the next attempt, up to a fifth more or less by `chance` in [0, 1)."""
    return FIRST_DELAY_S * DELAY_GROWTH ** (attempt - 1) * (0.8 + 0.4 * chance)


async def _drain(response: Response, end: float) -> None:
    """Reads a short answer to its end, so that its connection can be used again."""
    size = 0
    try:
        with suppress(Exception):  # the status has said what counts
            while block := await response.read(end - time.monotonic()):
                size += len(block)
                if size > MAX_ANSWER_BYTES:
                    break
    finally:
        response.close()


def _retry_after(response: Response) -> float:
    """Seconds that the endpoint asks to wait; 0 when it does not say, or gives a date."""
    text = header(response, b"retry-after")
    return min(float(text), MAX_RETRY_AFTER_S) if text.isdigit() else 0.0
