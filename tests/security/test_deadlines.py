"""Clients that begin and do not go on, by a clock that the test moves: each is told, in time."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from chattable.proxy.errors import describe
from chattable.proxy.http.edge import EdgeMiddleware
from chattable.proxy.http.protocol import LINGER, MAX_HEAD, PROGRESS, BoundedHttp
from chattable.proxy.telemetry.access_log import AccessLog

PATIENCE = 30.0
MAX_BODY = 10 * PROGRESS
HEAD = b"POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
WHOLE = HEAD % 5 + b"hello"


class Timer:
    def __init__(self, at: float, call: Callable[..., None]) -> None:
        self.at, self.call = at, call

    def cancel(self) -> None:
        self.at = float("inf")


class Loop:
    """Runs tasks on the real loop, and timers when the test says that time has passed."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []
        self.create_task = asyncio.get_running_loop().create_task

    def call_later(self, delay: float, call: Callable[..., None]) -> Timer:
        self.timers.append(Timer(self.now + delay, call))
        return self.timers[-1]

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer.at <= self.now]
        self.timers = [timer for timer in self.timers if self.now < timer.at < float("inf")]
        for timer in due:
            timer.call()


class Line(asyncio.Transport):
    """What the server did to the connection."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = self.ended = self.paused = False

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Log(AccessLog):
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def add(self, line: dict[str, Any]) -> None:
        self.lines.append(line)


class Door:
    """A connection to an application that answers with the size of the body, once it may."""

    def __init__(self) -> None:
        self.loop, self.line, self.log = Loop(), Line(), Log()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.reads = True
        edge = EdgeMiddleware(
            self.app,
            self.log,
            patience=PATIENCE,
            max_body=MAX_BODY,
            failure_of=lambda _, error: describe(error),
        )
        config = uvicorn.Config(edge, log_config=None, proxy_headers=False)
        config.load()
        self.protocol = BoundedHttp(config, ServerState(), {}, _loop=self.loop)
        self.protocol.connection_made(self.line)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        size, more, status = 0, self.reads, 200
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size, more = size + len(message["body"]), message["more_body"]
        await self.may_answer.wait()
        body = b"%d" % size
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def come(self, data: bytes) -> None:
        if not self.line.closed:
            self.protocol.data_received(data)
        for _ in range(5):
            await asyncio.sleep(0)

    async def later(self, seconds: float) -> None:
        self.loop.pass_time(seconds)
        for _ in range(5):
            await asyncio.sleep(0)

    @property
    def statuses(self) -> list[int]:
        return [int(part[:3]) for part in self.line.sent.split(b"HTTP/1.1 ")[1:]]

    @property
    def logged(self) -> list[int]:
        return [line["status"] for line in self.log.lines]

    @property
    def error(self) -> dict[str, Any]:
        head, _, body = self.line.sent.rpartition(b"\r\n\r\n")
        assert b"content-type: application/json" in head and b"x-request-id: req_" in head
        return json.loads(body)["error"]


@pytest.fixture
async def door() -> Door:
    return Door()


@pytest.mark.parametrize(
    "came",
    [b"", b"\r\n", b"POST /v1/x HT", HEAD[:-4] % 5, HEAD % 5, HEAD % 5 + b"hel"],
)
async def test_a_silent_connection_and_half_a_request_get_408(door: Door, came: bytes) -> None:
    if came:
        await door.come(came)
    await door.later(PATIENCE - 1)
    assert not door.line.sent and not door.line.ended
    await door.later(1)
    assert (door.statuses, door.logged, door.line.ended) == ([408], [408], True)
    assert (door.error["code"], door.error["type"]) == ("request_timeout", "invalid_request_error")
    assert "30 seconds" in door.error["message"]
    await door.later(LINGER)
    assert door.line.closed


async def test_the_408_has_the_id_of_its_log_line(door: Door) -> None:
    await door.come(HEAD % 5)
    await door.later(PATIENCE)
    assert f"x-request-id: {door.log.lines[0]['id']}".encode() in door.line.sent
    assert (door.log.lines[0]["path"], len(door.log.lines)) == ("/v1/x", 1)


async def test_a_dripping_body_gets_408_and_one_that_comes_on_gets_time(door: Door) -> None:
    await door.come(HEAD % (8 * PROGRESS))
    for _ in range(6):
        await door.later(PATIENCE - 1)
        await door.come(b"x" * PROGRESS)
    assert not door.line.sent
    await door.later(PATIENCE / 2)
    await door.come(b"x" * (PROGRESS // 2))
    await door.later(PATIENCE / 2)
    assert door.statuses == [408]


async def test_a_dripping_head_gets_408(door: Door) -> None:
    await door.come(b"GET / HTTP/1.1\r\n")
    for _ in range(3):
        await door.later(PATIENCE / 4)
        await door.come(b"a: b\r\n")
    await door.later(PATIENCE / 4)
    assert door.statuses == [408]


async def test_whole_requests_have_all_the_time_that_their_answers_take(door: Door) -> None:
    door.may_answer.clear()
    await door.come(WHOLE)
    await door.later(100 * PATIENCE)
    assert not door.line.sent
    door.may_answer.set()
    await door.later(0)
    assert (door.statuses, door.line.closed) == ([200], False)
    await door.come(WHOLE[:20])  # and the next on the same connection has a deadline of its own
    await door.later(PATIENCE)
    assert door.statuses == [200, 408]


async def test_half_a_request_behind_another_never_speaks_into_its_answer(door: Door) -> None:
    door.may_answer.clear()
    await door.come(WHOLE + WHOLE[:20])
    await door.later(3 * PATIENCE)
    assert not door.line.sent
    door.may_answer.set()
    await door.later(0)
    assert door.statuses == [200]
    await door.later(PATIENCE)
    assert door.statuses == [200, 408]


async def test_a_connection_that_is_kept_is_closed_without_a_word(door: Door) -> None:
    await door.come(WHOLE)
    await door.come(b"\r\n")
    await door.later(PATIENCE)
    assert (door.statuses, door.line.closed) == ([200], True)


async def test_who_is_not_read_is_not_late(door: Door) -> None:
    door.protocol.flow.pause_reading()
    await door.come(HEAD % 5)
    door.protocol.flow.pause_reading()
    await door.later(PATIENCE)
    assert not door.line.sent


# Refusals of the connection itself


@pytest.mark.parametrize(
    ("came", "status"),
    [(b"NONSENSE\r\n\r\n", 400), (b"GET / HTTP/1.1\r\na: " + b"x" * MAX_HEAD, 431)],
)
async def test_what_is_not_http_is_refused_in_our_shape(
    door: Door,
    came: bytes,
    status: int,
) -> None:
    await door.come(came)
    assert (door.statuses, door.logged, door.line.ended, door.line.closed) == (
        [status],
        [status],
        True,
        False,
    )
    assert door.error["type"] == "invalid_request_error" and door.error["message"]
    await door.come(WHOLE)  # nothing hides behind it
    assert door.statuses == [status]


async def test_nonsense_behind_a_request_lets_it_have_its_answer_and_no_more(door: Door) -> None:
    door.may_answer.clear()
    await door.come(WHOLE + b"NONSENSE\r\n\r\n")
    await door.come(WHOLE)
    assert not door.line.sent
    door.may_answer.set()
    await door.later(0)
    assert (door.statuses, door.line.closed) == ([200], True)


async def test_a_refused_client_that_goes_on_sending_is_cut_off(door: Door) -> None:
    await door.come(b"NONSENSE\r\n\r\n")
    for _ in range(40):
        await door.come(b"x" * 2**16)
    assert door.line.closed


# Answers that come before the whole request


async def test_what_is_left_of_a_request_is_read_so_that_its_answer_arrives(door: Door) -> None:
    door.reads = False  # as for a body that is too large
    await door.come(
        b"POST /v1/x HTTP/1.1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (2 * MAX_BODY),
    )
    assert (door.statuses, door.line.ended, door.line.closed) == ([200], True, False)
    await door.come(b"x" * MAX_BODY)
    assert not door.line.closed
    await door.later(LINGER)
    assert door.line.closed


@pytest.mark.parametrize("close", [b"", b"connection: close\r\n"])
async def test_no_more_of_it_than_makes_sense(door: Door, close: bytes) -> None:
    door.reads = False
    await door.come(b"POST /v1/x HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n" % (close, 10 * MAX_BODY))
    for _ in range(3):
        await door.come(b"x" * MAX_BODY)
    assert (door.statuses, door.line.closed) == ([200], True)


async def test_a_connection_that_is_kept_serves_the_next_once_the_rest_has_come(door: Door) -> None:
    door.reads = False
    await door.come(HEAD % MAX_BODY)
    assert door.statuses == [200]
    await door.come(b"x" * MAX_BODY)
    door.reads = True
    await door.come(WHOLE)
    assert door.statuses == [200, 200] and not door.line.closed


async def test_the_rest_of_an_answered_request_has_a_deadline_too(door: Door) -> None:
    door.reads = False
    await door.come(HEAD % MAX_BODY + b"x")
    for _ in range(4):
        await door.come(b"x")
        await door.later(PATIENCE / 4)
    assert (door.statuses, door.line.closed) == ([200], True)


# Clients that close their direction


async def test_a_client_that_closes_its_direction_is_answered(door: Door) -> None:
    door.may_answer.clear()
    await door.come(WHOLE)
    assert door.protocol.eof_received() is True
    door.may_answer.set()
    await door.later(0)
    assert (door.statuses, door.line.closed) == ([200], True)


@pytest.mark.parametrize("came", [b"", WHOLE, WHOLE + WHOLE[:20], HEAD % 5])
async def test_one_that_waits_for_nothing_is_hung_up_on(door: Door, came: bytes) -> None:
    if came:
        await door.come(came)
    assert not door.protocol.eof_received()


async def test_one_that_leaves_in_the_middle_of_its_request_is_logged_as_that(door: Door) -> None:
    await door.come(HEAD % 5)
    door.protocol.connection_lost(None)
    await door.later(0)
    assert door.logged == [499]
