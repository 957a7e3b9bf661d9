"""A bell between processes: it tells those who wait that it is worth looking now.

Nothing depends on its ringing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from chattable.budget.periodic import Periodic

log = logging.getLogger("chattable")

PAUSE = 1.0  # seconds between two attempts to hear anything
PATIENCE = 1.0  # seconds that connecting may take
SILENCE = 60.0  # seconds after which a connection that says nothing may be a dead one


class Bell:
    """Listens to one channel, on a connection of its own.

    Law: waiting never takes longer than was said, and nothing raises.
    """

    def __init__(self, url: str, channel: str) -> None:
        self._pool: ConnectionPool = ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=None,
            socket_connect_timeout=PATIENCE,
            retry=Retry(NoBackoff(), 0),
        )
        self._channel = channel
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._prefix = ""
        self._told: Callable[[str], None] = lambda _: None
        self._listening = Periodic(
            "listening to other processes", self._hear_them, PAUSE, at_once=True
        )

    def start(self) -> None:
        """Begins to listen."""
        self._listening.start()

    async def stop(self) -> None:
        """Ends."""
        await self._listening.stop()
        await self._pool.disconnect()

    def listen(self, prefix: str, told: Callable[[str], None]) -> None:
        """Who is told of words that begin so."""
        self._prefix, self._told = prefix, told

    async def wait(self, word: str, seconds: float) -> None:
        """Returns when the word is heard, or after so many seconds."""
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(word, []).append(heard)
        try:
            async with asyncio.timeout(seconds):
                await heard
        except TimeoutError:
            pass
        finally:
            waiting = self._waiting[word]
            waiting.remove(heard)
            if not waiting:
                del self._waiting[word]

    async def _hear_them(self) -> None:
        try:
            await self._listen()
        except Exception as error:  # Redis is away, which others say
            log.debug("nothing is heard of other processes: %r", error)

    async def _listen(self) -> None:
        async with asyncio.timeout(PATIENCE):
            connection: Connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
            await connection.send_command("SUBSCRIBE", self._channel)
        try:
            while True:
                async with asyncio.timeout(SILENCE):
                    said = await connection.read_response()
                match said:
                    case [b"message", _, bytes(word)]:
                        self._hear(word.decode(errors="replace"))
        finally:
            await connection.disconnect(nowait=True)
            await self._pool.release(connection)

    def _hear(self, word: str) -> None:
        if word.startswith(self._prefix):
            self._told(word)
        for heard in self._waiting.get(word, ()):
            if not heard.done():
                heard.set_result(None)
