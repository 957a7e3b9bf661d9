"""Runs the server: one process, or several that share a socket."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from typing import Any

import uvicorn
from litestar.types import ASGIApp
from msgspec.structs import replace
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from chattable.proxy.app import build
from chattable.proxy.config import Config
from chattable.proxy.http import BoundedHttp
from chattable.proxy.setup import StartError, find_config, prepare

log = logging.getLogger("chattable")


class Workers(Multiprocess):
    """Several processes; a stop signal that comes again reaches all of them."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told)

    def _told(self, number: int, _: Any) -> None:
        if number not in self.signal_queue and not self.should_exit.is_set():
            self.signal_queue.append(number)
            return
        for process in self.processes:  # uvicorn only waits for them now, and told them SIGTERM before
            if process.exitcode is None and process.pid is not None:
                os.kill(process.pid, signal.SIGTERM)


WORKER_CONFIG = "CHATTABLE_WORKER_CONFIG"  # tells a worker process which file its parent read


def serve(config: Config, path: str | None) -> None:
    """Serves until a signal ends it. Law: what keeps it from starting is found before a first key is made and shown."""
    _log_to_stderr()
    listener = listen(config.server.host, config.server.port)
    server = replace(config.server, port=listener.getsockname()[1])
    config = replace(config, server=server)
    options = uvicorn.Config(
        "chattable.proxy.serve:worker" if server.workers > 1 else build(config),
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
    log.info("serving %s at http://%s:%d/v1", ", ".join(names) or "nothing yet", server.host, server.port)
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again after an orderly end, which is exit code 0
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
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
    except OSError as error:
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror}; choose with --host and --port") from None
    return listener


def worker() -> ASGIApp:
    """The application of one worker process."""
    _log_to_stderr()
    return build(find_config(os.environ[WORKER_CONFIG] or None))


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # progress says all that a migration has to say
