"""Runs the server: one process, or several that share a socket."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvicorn
from litestar.types import ASGIApp
from msgspec.structs import replace
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from chattable.proxy.app import build
from chattable.proxy.cli.startup import StartError, find_config, prepare
from chattable.proxy.config.settings import Config
from chattable.proxy.http.protocol import BoundedHttp
from chattable.proxy.telemetry.log_floods import Floods
from chattable.proxy.telemetry.redaction import RedactingFormatter, redactor
from chattable.proxy.version import VERSION

log = logging.getLogger("chattable")

PART: int = getattr(select, "PIPE_BUF", 512)  # bytes that a pipe with room takes at once
MAX_LATE = 1000  # records that wait for a log that is blocked


class Workers(Multiprocess):
    """Several processes; one that ends is started anew, a second stop signal reaches all."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._losses = Losses()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told)

    def _told(self, number: int, _: Any) -> None:
        if number not in self.signal_queue and not self.should_exit.is_set():
            self.signal_queue.append(number)
            return
        # uvicorn only waits for them now, and told them SIGTERM before
        for process in self.processes:
            if process.exitcode is None and process.pid is not None:
                os.kill(process.pid, signal.SIGTERM)

    def keep_subprocess_alive(self) -> None:
        """Starts those anew that have ended."""
        before = list(self.processes)
        super().keep_subprocess_alive()
        for old, new in zip(before, self.processes, strict=True):
            if old is not new:
                self._losses.note(old.pid, old.exitcode)


class Losses:
    """Says why workers ended: every cause at once, and while it goes on once in `AGAIN` seconds."""

    AGAIN = 60.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[int | None, tuple[float, int]] = {}  # exit code → when, how many since

    def note(self, pid: int | None, code: int | None) -> None:
        """A worker has ended with this exit code, or by the signal of that negative number."""
        at, count = self._told.get(code, (-self.AGAIN, 0))
        count += 1
        if self._clock() - at < self.AGAIN:
            self._told[code] = at, count
            return
        self._told[code] = self._clock(), 0
        times = f" ({count} workers did since this was last said)" if count > 1 else ""
        log.error("worker %s %s%s; another takes its place", pid, _cause(code), times)


def _cause(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


WORKER_CONFIG = "CHATTABLE_WORKER_CONFIG"  # tells a worker process which file its parent read


def serve(config: Config, path: str | None) -> None:
    """Serves until a signal ends it.

    Law: what keeps it from starting is found before a first key is made and shown.
    """
    _ignore_hangups()
    _log_to_stderr(config)
    listener = listen(config.server.host, config.server.port)
    server = replace(config.server, port=listener.getsockname()[1])
    config = replace(config, server=server)
    options = uvicorn.Config(
        "chattable.proxy.cli.serve:worker" if server.workers > 1 else build(config),
        factory=server.workers > 1,
        workers=server.workers,
        http=BoundedHttp,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(server.grace) + 5,
    )
    asyncio.run(prepare(config))
    names = [*config.agents, *config.models]
    served, where = ", ".join(names) or "nothing yet", f"http://{server.host}:{server.port}/v1"
    log.info("chattable %s, serving %s at %s", VERSION, served, where)
    # uvicorn raises it again after an orderly end, which is exit code 0
    signal.signal(signal.SIGTERM, lambda *_: None)
    if server.workers > 1:
        os.environ[WORKER_CONFIG] = path or ""
        supervisor = Workers(options, [listener])
        supervisor.run()
        if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
            raise StartError("a worker could not start; its own words are above")
    else:
        uvicorn.Server(options).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address; connections are taken once the server runs."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
    except OSError as error:
        raise StartError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose with --host and --port"
        ) from None
    return listener


def worker() -> ASGIApp:
    """The application of one worker process."""
    _ignore_hangups()
    config = find_config(os.environ[WORKER_CONFIG] or None)
    _log_to_stderr(config)
    return build(config)


class Stderr(logging.Handler):
    """Writes to standard error while somebody takes it.

    Law: nobody waits for whoever reads the log. What finds no room goes with the next record, the
    oldest not at all where too much waits; no lock is shared with the thread of `AccessLog`, which
    may be stuck.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[bytes] = deque(maxlen=MAX_LATE)

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record."""
        try:
            line = self.format(record)
        except Exception:  # never the fault of whoever logs it
            line = f"{record.pathname}:{record.lineno} logged what cannot be written"
        self._waiting.append(f"{line}\n".encode(errors="backslashreplace"))
        self.flush()

    def flush(self) -> None:
        """Writes what waits, in parts that a pipe with room takes whole."""
        with suppress(OSError):  # nobody can be told
            while self._waiting and _has_room(2):
                rest = self._waiting.popleft()
                end = rest.rfind(b"\n", 0, PART) + 1 or PART  # another's line may come between
                if rest := rest[os.write(2, rest[:end]) :]:
                    self._waiting.appendleft(rest)


def _has_room(descriptor: int) -> bool:
    if sys.platform == "win32":  # only sockets can be asked there
        return True
    return bool(select.select([], [descriptor], [], 0)[1])


def _ignore_hangups() -> None:
    """Until the application says in the log what it makes of them."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _log_to_stderr(config: Config) -> None:
    handler = Stderr()
    form = "%(asctime)s %(levelname)s %(name)s %(message)s"
    handler.addFilter(Floods())
    handler.setFormatter(RedactingFormatter(form, redactor(config, os.environ)))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # progress says all that a migration has to say
    logging.getLogger("alembic").setLevel(logging.WARNING)
