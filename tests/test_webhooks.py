"""Budget events reach a real endpoint: verified by OpenAI's own SDK, retried when it fails, never twice at a time."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from answers import Answer, Gate, Line, Plain, Raw, Redirect, Request, Silent, Slow, error, head
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from openai import InvalidWebhookSignatureError, OpenAI
from process import free_port
from upstream import ScriptedUpstream

from chattable.adapters.http_client import HttpClient
from chattable.budget.outbox import Outbox, OutboxEvent
from chattable.proxy.config.webhook_settings import check_secret, check_url
from chattable.proxy.people.webhooks import (
    MAX_ATTEMPTS,
    MAX_ATTEMPTS_AT_ONCE,
    Deliveries,
    WebhookEndpoint,
    backoff,
)

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SDK = OpenAI(api_key="sk-x", webhook_secret=SECRET)
OK = Plain(204)


class Held(Gate):
    """Says 200 once it is released."""

    async def play(self, request: Request, line: Line) -> None:
        await self.before(self.n)
        await Plain(200, "thanks").play(request, line)


class HangUp(Answer):
    """Reads the request and resets the connection."""

    async def play(self, request: Request, line: Line) -> None:
        line.close(reset=True)


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class Row:
    notice: OutboxEvent
    state: str = "waiting"
    due: float = 0.0
    attempts: int = 0


class MemoryOutbox(Outbox):
    """The outbox's law in a dict, on a clock that only tests move."""

    def __init__(self, count: int = 1) -> None:
        self.clock = Clock(0.0)
        self.rows: dict[str, Row] = {}
        self.asked: list[int] = []
        self.delays: list[float] = []
        self.calls: list[str] = []
        self.before: Callable[[str], Awaitable[None]] | None = None
        self._changed = asyncio.Event()
        for number in range(count):
            data = {"limit": "lim_1", "percent": 80}
            notice = OutboxEvent(
                id=f"evt_{number}", at=1_795_000_000 + number, kind="budget.threshold", data=data
            )
            self.rows[notice.id] = Row(notice)

    async def claim(self, most: int, lease: float) -> list[OutboxEvent]:
        self.asked.append(most)
        await self._called("claim")
        free = [
            row
            for row in self.rows.values()
            if row.state == "waiting" and row.due <= self.clock.now
        ][:most]
        for row in free:
            row.due, row.attempts = self.clock.now + lease, row.attempts + 1
        return [replace(n, attempts=row.attempts) for row in free for n in [row.notice]]

    async def done(self, ids: Sequence[str]) -> None:
        await self._called("done")
        for id in ids:
            self.rows[id].state = "done"

    async def failed(self, id: str, retry_in: float) -> None:
        await self._called("failed")
        self.delays.append(retry_in)
        self.rows[id].due = self.clock.now + retry_in

    async def dead(self, id: str) -> None:
        await self._called("dead")
        self.rows[id].state = "dead"

    async def until(self, condition: Callable[..., bool]) -> None:
        """Waits until the condition holds; it is looked at again after every call."""
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def ended(self) -> None:
        await self.until(lambda: all(row.state != "waiting" for row in self.rows.values()))

    def states(self) -> set[str]:
        return {row.state for row in self.rows.values()}

    async def _called(self, name: str) -> None:
        self.calls.append(name)
        asyncio.get_running_loop().call_soon(self._changed.set)  # after what the call does
        if self.before is not None:
            await self.before(name)


@pytest.fixture
def endpoint() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        running.reply = lambda request: OK
        yield running


Start = Callable[..., Awaitable[Deliveries]]


@pytest.fixture
async def start(endpoint: ScriptedUpstream) -> AsyncIterator[Start]:
    """Starts deliveries to the endpoint that look into the outbox only when poked."""
    async with AsyncExitStack() as stack:

        async def begin(outbox: MemoryOutbox, path: str = "/budget", **options: Any) -> Deliveries:
            transport = HttpClient()
            stack.push_async_callback(transport.aclose)
            url = options.pop("url", f"http://127.0.0.1:{endpoint.port}{path}")
            deliveries = Deliveries(
                outbox, WebhookEndpoint(url, SECRET), transport, **{"interval": 3600, **options}
            )
            stack.push_async_callback(deliveries.stop)
            await deliveries.start()
            return deliveries

        yield begin


def verify(request: Request) -> Any:
    return SDK.webhooks.unwrap(request.body, request.headers)


# --- what is sent ----------------------------------------------------------------------------------------------------


async def test_the_sdk_verifies_what_arrives(endpoint, start):
    outbox = MemoryOutbox()
    await start(outbox, path="/hooks/budget?team=red")
    await outbox.ended()
    [request] = endpoint.requests
    assert (request.method, request.path) == ("POST", "/hooks/budget?team=red")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == "evt_0"
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 60
    expected = {
        "type": "budget.threshold",
        "timestamp": "2026-11-18T11:06:40Z",
        "data": {"limit": "lim_1", "percent": 80},
    }
    assert request.json == expected
    assert verify(request).type == "budget.threshold"
    assert outbox.calls.count("done") == 1 and outbox.states() == {"done"}


@pytest.mark.parametrize("part", ["body", "webhook-id", "webhook-timestamp", "secret"])
async def test_a_forged_delivery_fails_verification(endpoint, start, part):
    outbox = MemoryOutbox()
    await start(outbox)
    await outbox.ended()
    [request] = endpoint.requests
    body, headers, secret = request.body, dict(request.headers), SECRET
    if part == "body":
        body = body.replace(b"80", b"81")
    elif part == "secret":
        secret = "another secret, long enough"
    else:
        headers[part] = headers[part][:-1] + ("1" if headers[part][-1] != "1" else "2")
    SDK.webhooks.verify_signature(request.body, request.headers)
    with pytest.raises(InvalidWebhookSignatureError, match="does not match"):
        SDK.webhooks.verify_signature(body, headers, secret=secret)


async def test_a_delivery_that_is_replayed_later_is_too_old(endpoint, start):
    outbox = MemoryOutbox()
    await start(outbox, clock=Clock(time.time() - 400))
    await outbox.ended()
    [request] = endpoint.requests
    SDK.webhooks.verify_signature(request.body, request.headers, tolerance=500)
    with pytest.raises(InvalidWebhookSignatureError, match="too old"):
        SDK.webhooks.verify_signature(request.body, request.headers)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    data=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), json_values, max_size=4
    ),
    secret=st.sampled_from([SECRET, "ein Geheimnis mit Ümläuten", "0123456789abcdef"]),
)
def test_whatever_the_data_and_the_form_of_the_secret(data, secret):
    webhook = WebhookEndpoint("https://host.example/x", secret)
    request = webhook.request(
        OutboxEvent(id="evt_1", at=0, kind="usage.implausible", data=data, attempts=1),
        int(time.time()),
    )
    lines = [line.partition(": ") for line in request.headers.decode().splitlines()]
    headers = {name: value for name, _, value in lines}
    SDK.webhooks.verify_signature(request.body, headers, secret=secret)
    assert json.loads(request.body) == {
        "type": "usage.implausible",
        "timestamp": "1970-01-01T00:00:00Z",
        "data": data,
    }


# --- failures --------------------------------------------------------------------------------------------------------


async def test_a_retry_keeps_id_and_body_and_has_its_own_timestamp(endpoint, start):
    outbox, clock = MemoryOutbox(), Clock(time.time() - 60)
    endpoint.script(error(500, "oh"))
    deliveries = await start(outbox, clock=clock, chance=lambda: 0.5)
    await outbox.until(lambda: bool(outbox.delays))
    assert outbox.delays == [10]
    clock.now, outbox.clock.now = clock.now + 50, 10
    deliveries.poke()
    await outbox.ended()
    first, second = endpoint.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"] and first.body == second.body
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == 50
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]
    verify(first), verify(second)


FAILURES: dict[str, tuple[Answer, str]] = {
    "500": (error(500, "oh"), "status 500"),
    "404": (error(404, "where"), "status 404"),
    "redirect": (Redirect("/elsewhere"), "status 302"),
    "permanent redirect": (Redirect("/elsewhere", 308), "status 308"),
    "not modified": (Plain(304), "status 304"),
    "hang": (Silent(), "no answer within 1 s"),
    "crawling headers": (
        Slow(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", per_second=10, raw=True),
        "no answer within 1 s",
    ),
    "reset": (HangUp(), "ConnectionLost"),
    "no answer": (Raw([]), "ConnectionLost"),
    "gibberish": (Raw([b"\x00\xff nothing like HTTP\r\n\r\n"]), "InvalidHttp"),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_any_failure_is_tried_again(endpoint, start, caplog, name):
    answer, text = FAILURES[name]
    endpoint.script(answer)
    outbox = MemoryOutbox()
    deliveries = await start(
        outbox, deadline=1 if text.startswith("no answer") else 10, chance=lambda: 0.5
    )
    await outbox.until(lambda: bool(outbox.delays))
    assert outbox.states() == {"waiting"} and text in caplog.text
    outbox.clock.now = 10
    deliveries.poke()
    await outbox.ended()
    assert outbox.states() == {"done"}
    # nothing was asked elsewhere
    assert [request.path for request in endpoint.requests] == ["/budget", "/budget"]


async def test_nobody_listens(start):
    outbox = MemoryOutbox()
    await start(outbox, url=f"http://127.0.0.1:{free_port()}/")
    await outbox.until(lambda: bool(outbox.delays))
    assert outbox.states() == {"waiting"}


@pytest.mark.parametrize(
    "value, delay",
    [("120", 120), ("1", 10), ("9" * 400, 86_400), ("-5", 10), ("soon", 10), ("٣٠٠", 10)],
)
async def test_retry_after_may_make_the_wait_longer(endpoint, start, value, delay):
    endpoint.script(
        Raw([f"HTTP/1.1 429 Busy\r\nretry-after: {value}\r\ncontent-length: 0\r\n\r\n".encode()])
    )
    outbox = MemoryOutbox()
    await start(outbox, chance=lambda: 0.5)
    await outbox.until(lambda: bool(outbox.delays))
    assert outbox.delays == [delay]


async def test_gone_is_dead_at_once(endpoint, start, caplog):
    endpoint.script(error(410, "gone"))
    outbox = MemoryOutbox()
    await start(outbox)
    await outbox.ended()
    assert outbox.states() == {"dead"} and outbox.delays == []
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert (
        "evt_0 (budget.threshold) is given up at attempt 1 and kept as dead: status 410"
        in record.getMessage()
    )


async def test_after_the_last_attempt_it_is_dead_and_kept(endpoint, start, caplog):
    endpoint.reply = lambda request: error(503, "never")
    outbox = MemoryOutbox()
    deliveries = await start(outbox)
    for attempt in range(1, MAX_ATTEMPTS):
        await outbox.until(lambda attempt=attempt: len(outbox.delays) == attempt)
        outbox.clock.now = outbox.rows["evt_0"].due
        deliveries.poke()
    await outbox.ended()
    assert len(endpoint.requests) == MAX_ATTEMPTS and outbox.states() == {"dead"}
    assert len({request.headers["webhook-id"] for request in endpoint.requests}) == 1
    assert f"given up at attempt {MAX_ATTEMPTS}" in caplog.text


def test_the_attempts_take_about_a_day_and_spread():
    def total(chance: float) -> float:
        return sum(backoff(attempt, chance) for attempt in range(1, MAX_ATTEMPTS))

    assert 20 * 3600 < total(0.0) < total(0.5) < total(1.0) < 34 * 3600
    assert all(backoff(n, 0.0) > 2 * backoff(n - 1, 0.5) for n in range(2, MAX_ATTEMPTS))


@pytest.mark.parametrize("status, state", [(200, "done"), (410, "dead")])
@pytest.mark.parametrize("body", ["hangs", "never ends", "is cut off"])
async def test_the_status_counts_whatever_becomes_of_the_body(endpoint, start, status, state, body):
    class Odd(Answer):
        async def play(self, request: Request, line: Line) -> None:
            await line.write(head(status, {"content-length": str(2**40)}))
            if body == "is cut off":
                line.close(reset=True)
            while body == "never ends":
                await line.write(b"x" * 65536)
            await asyncio.get_running_loop().create_future()

    endpoint.script(Odd())
    outbox, began = MemoryOutbox(), time.monotonic()
    await start(outbox, deadline=1 if body == "hangs" else 60)
    await outbox.ended()
    assert outbox.states() == {state} and time.monotonic() - began < 5
    await endpoint.until(lambda: endpoint.open_connections == 0)


# --- many at a time --------------------------------------------------------------------------------------------------


async def test_only_a_few_at_a_time_and_all_in_the_end(endpoint, start):
    held = Held()
    endpoint.reply = lambda request: held
    outbox = MemoryOutbox(20)
    deliveries = await start(outbox)
    await endpoint.until(lambda: len(endpoint.requests) == MAX_ATTEMPTS_AT_ONCE)
    # the oldest
    assert sorted(r.headers["webhook-id"] for r in endpoint.requests) == [
        f"evt_{n}" for n in range(MAX_ATTEMPTS_AT_ONCE)
    ]
    deliveries.poke()
    held.release()
    await outbox.ended()
    assert min(outbox.asked) > 0  # a poke while all places are taken asks for nothing
    assert outbox.states() == {"done"} and len(endpoint.requests) == 20
    assert (
        len({r.connection for r in endpoint.requests})
        == endpoint.peak_connections
        == MAX_ATTEMPTS_AT_ONCE
    )


async def test_two_replicas_never_post_the_same_notice(endpoint, start):
    outbox = MemoryOutbox(30)
    await asyncio.gather(start(outbox), start(outbox))
    await outbox.ended()
    assert sorted(r.headers["webhook-id"] for r in endpoint.requests) == sorted(outbox.rows)


async def test_a_lease_is_longer_than_an_attempt_and_ends_when_its_holder_dies(endpoint, start):
    endpoint.script(Silent())
    outbox = MemoryOutbox()
    first = await start(outbox)
    await endpoint.until(lambda: len(endpoint.requests) == 1)
    second = await start(outbox)
    await outbox.until(lambda: outbox.calls.count("claim") == 2)
    outbox.clock.now = 30  # three times as long as an attempt may take
    second.poke()
    await outbox.until(lambda: outbox.calls.count("claim") == 3)
    assert outbox.rows["evt_0"].attempts == 1
    await first.stop()
    outbox.clock.now = 61
    second.poke()
    await outbox.ended()
    assert [r.headers["webhook-id"] for r in endpoint.requests] == [
        "evt_0",
        "evt_0",
    ] and outbox.states() == {"done"}


async def test_a_claim_that_comes_too_late_is_not_used(endpoint, start):
    outbox, clock = MemoryOutbox(), Clock(time.time())

    async def slow(name: str) -> None:
        clock.now += 31 if outbox.calls == ["claim"] else 0

    outbox.before = slow
    deliveries = await start(outbox, clock=clock)
    await outbox.until(lambda: outbox.rows["evt_0"].attempts == 1)
    outbox.clock.now = 61
    deliveries.poke()
    await outbox.ended()
    assert len(endpoint.requests) == 1 and outbox.rows["evt_0"].attempts == 2


# --- stops and outages -----------------------------------------------------------------------------------------------


async def test_a_hanging_endpoint_does_not_delay_stop(endpoint, start):
    endpoint.reply = lambda request: Silent()
    outbox = MemoryOutbox(MAX_ATTEMPTS_AT_ONCE)
    deliveries = await start(outbox)
    await endpoint.until(lambda: len(endpoint.requests) == MAX_ATTEMPTS_AT_ONCE)
    began = time.monotonic()
    await deliveries.stop()
    assert time.monotonic() - began < 2
    await endpoint.until(lambda: endpoint.aborted == MAX_ATTEMPTS_AT_ONCE)
    assert outbox.calls == ["claim"] and outbox.states() == {"waiting"}


async def test_stop_lets_a_quick_answer_be_noted(endpoint, start):
    held, outbox = Held(), MemoryOutbox(MAX_ATTEMPTS_AT_ONCE + 1)
    endpoint.script(*[held] * MAX_ATTEMPTS_AT_ONCE)
    deliveries = await start(outbox)
    await endpoint.until(lambda: len(endpoint.requests) == MAX_ATTEMPTS_AT_ONCE)
    stopping = asyncio.create_task(deliveries.stop())
    await asyncio.sleep(0)  # it has begun
    held.release()
    await stopping
    assert [row.state for row in outbox.rows.values()] == ["done"] * MAX_ATTEMPTS_AT_ONCE + [
        "waiting"
    ]
    assert len(endpoint.requests) == MAX_ATTEMPTS_AT_ONCE  # nothing new was begun


async def test_a_hanging_outbox_does_not_delay_stop(start):
    async def hang(name: str) -> None:
        await asyncio.get_running_loop().create_future()

    outbox = MemoryOutbox()
    outbox.before = hang
    deliveries = await start(outbox)
    await outbox.until(lambda: outbox.calls == ["claim"])
    began = time.monotonic()
    await deliveries.stop()
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("name", ["claim", "done"])
async def test_an_outage_of_the_outbox_is_survived(endpoint, start, caplog, name):
    outbox = MemoryOutbox()

    async def fail_once(call: str) -> None:
        if call == name and outbox.calls.count(name) == 1:
            raise ConnectionError("the database is away")

    outbox.before = fail_once
    deliveries = await start(outbox)
    await outbox.until(lambda: "the database is away" in caplog.text)
    outbox.clock.now = 61
    deliveries.poke()
    await outbox.ended()
    assert {r.headers["webhook-id"] for r in endpoint.requests} == {"evt_0"}
    assert len(endpoint.requests) == (2 if name == "done" else 1)  # at least once, with one id


async def test_the_interval_finds_what_nobody_pokes_for(endpoint, start):
    outbox = MemoryOutbox(0)
    await start(outbox, interval=0.01)
    await outbox.until(lambda: outbox.calls.count("claim") >= 3)
    outbox.rows |= MemoryOutbox().rows
    await outbox.until(lambda: outbox.states() == {"done"})


# --- config ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [error(500, "oh"), error(410, "gone"), HangUp()])
async def test_no_log_tells_the_secret_the_path_or_the_query(endpoint, start, caplog, answer):
    caplog.set_level(logging.DEBUG)
    endpoint.script(answer)
    outbox = MemoryOutbox()
    await start(outbox, path="/T0PATH?token=T0QUERY")
    await outbox.until(
        lambda: bool({"failed", "dead"} & {*outbox.calls}) and "evt_0" in caplog.text
    )
    shown = caplog.text + repr(
        WebhookEndpoint("https://host.example:8443/T0PATH?token=T0QUERY", SECRET)
    )
    assert f"http://127.0.0.1:{endpoint.port}:" in shown and "https://host.example:8443" in shown
    for hidden in ("T0PATH", "T0QUERY", SECRET, SECRET[6:]):
        assert hidden not in shown


@pytest.mark.parametrize(
    "url",
    [
        "https://host.example/x",
        "http://127.0.0.1:9/x?token=1",
        "http://[::1]:9/",
        "https://10.0.0.7",
        "HTTPS://host.example/ü",
    ],
)
def test_urls_that_are_taken(url):
    assert check_url(url) == url
    WebhookEndpoint(url, SECRET)


@pytest.mark.parametrize(
    "url, text",
    [
        ("", "must be a URL"),
        ("host.example/T0P", "must be a URL"),
        ("ftp://host.example/T0P", "must be a URL"),
        ("file:///T0P", "must be a URL"),
        ("unix:///T0P", "must be a URL"),
        ("https:///T0P", "must be a URL"),
        ("https://host.example:0/T0P", "must be a URL"),
        ("https://host.example:99999/T0P", "must be a URL"),
        ("https://host.example:x/T0P", "must be a URL"),
        ("https://[::1/T0P", "must be a URL"),
        ("https://host.example/T0P\r\nx: y", "must be a URL"),
        ("https://host.example/\u202eT0P", "must be a URL"),
        ("https://host.example/T0P x", "must be a URL"),
        ("https://host.example\\@other.example/T0P", "must be a URL"),
        ("https://host.example/\ud800T0P", "must be a URL"),
        ("https://T0P:pw@host.example/", "user or password"),
        ("https://@host.example/T0P", "user or password"),
        ("https://host.example/x#T0P", "never sent"),
    ],
)
def test_urls_that_are_refused(url, text):
    with pytest.raises(ValueError, match=text) as caught:
        check_url(url)
    assert "T0P" not in str(caught.value)
    with pytest.raises(ValueError, match=text):
        WebhookEndpoint(url, SECRET)


@pytest.mark.parametrize(
    "secret, text",
    [
        ("", "must not be empty; make one: python3 -c"),
        ("short", "at least 16"),
        ("fifteen letters", "at least 16"),
        ("whsec_", "at least 16"),
        ("whsec_c2hvcnQ=", "at least 16"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", "base64"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2La-_Sw", "base64"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw-_-_", "base64"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLÄÄÄ", "base64"),
        ("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "easy to guess"),
        ("aaaaaaaaaaaaaaaaaaaa", "easy to guess"),
        (SECRET + "\n", "line breaks"),
        ("a secret with \ud800 in it", "control characters"),
        ("                    ", "spaces around"),
    ],
)
def test_secrets_that_are_refused(secret, text):
    with pytest.raises(ValueError, match=text) as caught:
        WebhookEndpoint("https://host.example/x", secret)
    assert len(secret) < 10 or secret.strip() not in str(caught.value) or not secret.strip()
    with pytest.raises(ValueError, match=text):
        check_secret(secret)
