"""Scripts that run in a Redis which may be slow or away.

Whatever waits goes in one round trip, and nobody waits for long.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

log = logging.getLogger("chattable")

T = TypeVar("T")
Command = tuple[str | bytes | int, ...]

TIMEOUT = 0.1  # seconds that a round trip may take
GRACE = 0.02  # seconds more, in which a loop that was busy itself reads what came in time
PAUSE = 1.0  # seconds between two looks at a server that is away
PATIENCE = 1.0  # seconds that connecting may take, where no request waits for it
BATCH = 128  # steps in one round trip, so that a burst of ours is no slowness of the server's
OWED = 4096  # steps that are kept for a server that is away
QUIET = 10.0  # seconds between two warnings
WRITES = "redis.call('SET', KEYS[1], '1', 'PX', 1000) return {1}"  # as all that is asked of it does
PROBE = (
    hashlib.sha1(WRITES.encode(), usedforsecurity=False).hexdigest(),
    WRITES,
    (1, "chattable:probe"),
)


# What a server that is of no use may have said; the first class that matches counts.
TROUBLES: list[tuple[type[Exception], str]] = [
    (OutOfMemoryError, "is full: it answered OOM"),
    (ReadOnlyError, "is read-only: it answered READONLY, as a replica does"),
    (BusyLoadingError, "is still loading its data"),
    (AuthenticationError, "does not accept our password"),
    (NoPermissionError, "does not permit our user what is asked"),
    (ResponseError, "answered an error"),
]


def trouble(cause: object) -> str:
    """What is wrong with the server, as said behind its name; its own words are for the log."""
    if not isinstance(cause, Exception):
        return "answered what makes no sense"
    return next((words for kind, words in TROUBLES if isinstance(cause, kind)), "did not answer")


class RedisScript:
    """A script, and the name that a server knows it by once it has seen it."""

    __slots__ = ("name", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.name = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def integers(reply: Any) -> bool:
    """Whether an answer is a list of integers."""
    return isinstance(reply, list) and all(isinstance(number, int) for number in reply)


class Job:
    """A run of a script; one to keep is run later if the server is away."""

    __slots__ = ("answer", "arguments", "keep", "name", "sensible", "text")

    answer: asyncio.Future[Any]

    def __init__(
        self,
        name: str,
        text: str,
        arguments: Command,
        keep: bool = False,
        sensible: Callable[[Any], bool] = integers,
    ) -> None:
        self.name = name
        self.text = text
        self.arguments = arguments
        self.keep = keep
        self.sensible = sensible  # whether an answer is one


class RedisScripts:
    """Runs scripts, for all who begin with it and until the last of them ends.

    Law: every job is answered, sensibly, or with None if it was not run or nobody knows; nothing
    raises. A step that is not answered in time closes the connection, so that a late answer is
    never read as another's. Steps are then skipped until a probe in the background has been
    answered: an outage costs one round trip's patience, once.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.away = False
        self.trouble = "did not answer"  # what was last wrong with the server
        self._pool: ConnectionPool = ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=None,
            socket_connect_timeout=PATIENCE,
            retry=Retry(NoBackoff(), 0),
        )
        self._users = 0
        self._scripts: list[str] = []
        self._waiting: deque[Job] = deque()
        self._owed: deque[Job] = deque(maxlen=OWED)
        self._pump: asyncio.Task[None] | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._quiet_until = 0.0

    async def start(self, scripts: Iterable[str] = ()) -> None:
        """Connects, or begins to look for the server, which is told of the scripts."""
        self._users += 1
        self._scripts += scripts
        if self.away:
            return
        try:
            await self._connect()
        except Exception as error:
            self._lose(error, [])

    async def stop(self) -> None:
        """Finishes what was asked and hangs up."""
        self._users -= 1
        if self._users > 0:
            return
        if self._pump is not None:
            await self._pump
        if self._recovery is not None:
            self._recovery.cancel()
            with suppress(asyncio.CancelledError):
                await self._recovery
        await self._pool.disconnect()

    def post(self, job: Job) -> None:
        """Sends a job with whatever else waits."""
        job.answer = asyncio.get_running_loop().create_future()
        if self.away:
            self._skip(job)
            return
        self._waiting.append(job)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run())

    async def ask(self, job: Job) -> Any:
        """Sends a job and waits for its answer; a caller that is cancelled leaves it to be run."""
        self.post(job)
        return await job.answer

    async def _run(self) -> None:
        while self._waiting:
            jobs = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            try:
                replies = await _soon(self._trip(jobs))
            except Exception as error:
                # whatever it is: requests do not fail for want of what is kept there
                self._lose(error, jobs)
            else:
                for job, reply in zip(jobs, replies, strict=True):
                    self._answer(job, reply)

    async def _trip(self, jobs: Sequence[Job]) -> list[Any]:
        async with self._connection() as connection:
            replies = await _exchange(
                connection, [("EVALSHA", job.name, *job.arguments) for job in jobs]
            )
            if unknown := [
                i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)
            ]:
                again = await _exchange(
                    connection, [("EVAL", jobs[i].text, *jobs[i].arguments) for i in unknown]
                )
                for i, reply in zip(unknown, again, strict=True):
                    replies[i] = reply
        return replies

    async def _connect(self) -> None:
        """Has a connection ready, to a server that knows the scripts."""
        async with asyncio.timeout(PATIENCE), self._connection() as connection:
            await _exchange(connection, [("SCRIPT", "LOAD", text) for text in self._scripts])

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """A connection that was alive a moment ago; closed where something goes wrong."""
        connection: Connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            yield connection
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            await self._pool.release(connection)

    def _answer(self, job: Job, reply: Any) -> None:
        good = job.sensible(reply)
        if not good:
            self._warn(reply)
        if not job.answer.done():
            job.answer.set_result(reply if good else None)

    def _skip(self, job: Job) -> None:
        if job.keep:
            self._owed.append(job)
        if not job.answer.done():
            job.answer.set_result(None)

    def _lose(self, error: Exception, jobs: Sequence[Job]) -> None:
        """The server is away: nobody waits for it until it is back."""
        self._warn(error)
        self.away = True
        for job in [*jobs, *self._waiting]:
            self._skip(job)
        self._waiting.clear()
        self._recovery = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        while True:
            await asyncio.sleep(PAUSE)
            try:
                await self._connect()
                [reply] = await _soon(self._trip([Job(*PROBE)]))
            except Exception as error:
                self._warn(error)
                continue
            if isinstance(reply, list):
                break
        self.away = False
        log.info("Redis is back")
        owed, self._owed = self._owed, deque(maxlen=OWED)
        for job in owed:
            self.post(job)

    def _warn(self, cause: object) -> None:
        self.trouble = trouble(cause)
        if self._quiet_until <= time.monotonic():
            self._quiet_until = time.monotonic() + QUIET
            log.warning("Redis %s, requests go on without: %r", self.trouble, cause)


async def _exchange(connection: Connection, commands: Sequence[Command]) -> list[Any]:
    """Sends all, then reads all; a command that failed is answered by its error."""
    await connection.send_packed_command(connection.pack_commands(commands))
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except ReadOnlyError:  # no longer the primary: another connection may find it
            raise
        except ResponseError as error:
            replies.append(error)
    return replies


async def _soon(work: Awaitable[T]) -> T:
    """The result, if it comes in time."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        late = loop.call_later(TIMEOUT, lambda: limit.reschedule(loop.time() + GRACE))
        try:
            return await work
        finally:
            late.cancel()
