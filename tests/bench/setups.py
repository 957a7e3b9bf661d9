"""What is put under load: the stub itself, nginx before it, Chattable before it, each on its own core."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from chattable.agents.chat import Message
from chattable.proxy.store.database import Database
from chattable.proxy.store.session_sql import SqlSessions
from chattable.proxy.store.sessions import Entry, Turn

sys.path.insert(0, str(Path(__file__).parents[1]))
from databases import postgres_server
from process import Chattable, Process, chattable, free_port, start
from valkeys import valkey_server

SERVER_CORE, LOAD_CORE = 0, 1
PINNED = bool(shutil.which("taskset")) and (os.cpu_count() or 1) > 1

CONFIG = """\
providers:
  bench: {kind: openai, base_url: "http://127.0.0.1:STUB/v1", api_key: x}
  claude: {kind: anthropic, base_url: "http://127.0.0.1:STUB/v1", api_key: x}
models:
  m: {provider: bench}
  m-claude: {provider: claude}
  m-222: {provider: bench}
  m-idle: {provider: bench}
agents:
  echo: {use: "chattable.agents.echo:Echo"}
"""

NGINX = """\
daemon off; worker_processes 1; pid nginx.pid; error_log stderr crit;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 100000000;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  upstream stub { server 127.0.0.1:STUB; keepalive 256; keepalive_requests 100000000; }
  server {
    listen 127.0.0.1:PORT backlog=2048;
    location / { proxy_pass http://stub; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }
  }
}
"""


def on_core(core: int) -> list[str]:
    """Returns the command prefix that pins a process, or nothing where pinning is impossible."""
    return ["taskset", "-c", str(core)] if PINNED else []


def cpu_clock(process: psutil.Process) -> float:
    """Reads a process's CPU clock: the same user + system time as in /proc, in nanoseconds instead of 10 ms ticks."""
    return time.clock_gettime(~process.pid << 3 | 2)  # clock_getcpuclockid(3), which Python does not offer


@dataclass
class Running:
    """Something that answers on a port; without a process of its own there is no CPU to count."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)
    process: Process | None = None

    def cpu_s(self) -> float:
        """Returns the user and system seconds of all its processes, ended threads and children included."""
        family = self.process.tree() if self.process else []
        ended = [process.cpu_times() for process in family]
        return sum(map(cpu_clock, family)) + sum(times.children_user + times.children_system for times in ended)

    def rss(self) -> int:
        """Returns the resident bytes of all its processes."""
        return sum(process.memory_info().rss for process in (self.process.tree() if self.process else []))


Setup = Callable[[int], AbstractContextManager[Running]]  # from the stub's port to something under load


@contextmanager
def stub() -> Iterator[Running]:
    """Runs the stub beside the load generator."""
    port = free_port()
    command = [*on_core(LOAD_CORE), sys.executable, str(Path(__file__).with_name("stub.py")), str(port)]
    process = start(command, ready_url=f"http://127.0.0.1:{port}/")
    try:
        yield Running(port)
    finally:
        process.stop()


@contextmanager
def direct(stub_port: int) -> Iterator[Running]:
    """Puts nothing between the load and the stub."""
    yield Running(stub_port)


@contextmanager
def nginx(stub_port: int) -> Iterator[Running]:
    """Runs nginx as a plain reverse proxy with keep-alive to the stub, in a directory of its own."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-nginx-") as home:
        Path(home, "nginx.conf").write_text(NGINX.replace("STUB", str(stub_port)).replace("PORT", str(port)))
        command = [*on_core(SERVER_CORE), "nginx", "-p", home, "-c", "nginx.conf", "-e", "stderr"]
        process = start(command, ready_url=f"http://127.0.0.1:{port}/")
        try:
            yield Running(port, process=process)
        finally:
            process.stop()


def chattable_with(config: str = CONFIG, *arguments: str, **env: str) -> Setup:
    """Returns the setup of a Chattable with this config (STUB stands for the stub's port) and one user's key."""

    @contextmanager
    def running(stub_port: int) -> Iterator[Running]:
        text = config.replace("STUB", str(stub_port))
        with chattable(text, *arguments, prefix=on_core(SERVER_CORE), **env) as server:
            headers = {"authorization": f"Bearer {server.user_key('bench')}"}
            yield Running(int(server.base_url.rpartition(":")[2]), headers, server)

    return running


BUDGETS = CONFIG + "budgets: {default: {tokens: 1000000000000, per: day}}\n"
RATES = "rate_limits: {default: {requests_per_minute: 100000000, tokens_per_minute: 1000000000, parallel: 100000}}\n"
CACHE = "cache: {ttl: 1h}\n"
SESSIONS = "sessions: {window: {messages: 20}}\n"


@contextmanager
def migrated(config: str, stub_port: int) -> Iterator[Running]:
    """Runs Chattable on a database that it does not migrate by itself."""
    with tempfile.TemporaryDirectory() as home:
        Path(home, "config.yaml").write_text(config.replace("STUB", str(stub_port)))
        subprocess.run([sys.executable, "-m", "chattable.proxy", "migrate"], cwd=home, check=True, capture_output=True)
        with chattable_with(config)(stub_port) as running:
            yield running


@contextmanager
def with_postgres(stub_port: int) -> Iterator[Running]:
    """Runs Chattable with budgets on a PostgreSQL of its own, from its wheel, on the load generator's core."""
    with postgres_server() as url, migrated(BUDGETS + f"database_url: {url}\n", stub_port) as running:
        yield running


@contextmanager
def all_on_postgres_and_valkey(stub_port: int) -> Iterator[Running]:
    """Runs Chattable with all that is shared between replicas, the stores on the load generator's core."""
    with valkey_server() as valkey, postgres_server() as url:
        stores = f"database_url: {url}\nredis_url: {valkey.url}\n"
        with migrated(BUDGETS + RATES + CACHE + stores, stub_port) as running:
            yield running


@contextmanager
def with_sessions(stub_port: int) -> Iterator[Running]:
    """Runs Chattable with all on and, for each connection, a session of 20 stored messages and one of 2,000; 20 are sent."""
    with chattable_with(BUDGETS + RATES + CACHE + SESSIONS)(stub_port) as running:
        server = running.process
        assert isinstance(server, Chattable)
        user = server.admin("GET", "/admin/users/bench")["id"]
        asyncio.run(talk(f"sqlite:///{server.directory}/chattable.db", user, (20, 2000)))
        yield running


async def talk(url: str, user: str, lengths: tuple[int, ...], sessions: int = 32) -> None:
    """Fills sessions with questions and answers of some 20 words."""
    database = Database(url)
    await database.start()
    try:
        store = SqlSessions(database)
        for length in lengths:
            for who in range(sessions):
                words = " ".join(f"word{n}" for n in range(20))
                texts = [Message("assistant" if n % 2 else "user", f"{n}: {words}") for n in range(length)]
                session = await store.open(user, f"{length}-{who:04}")
                await store.commit(session, Turn(entries=tuple(Entry(message=message) for message in texts)))
    finally:
        await database.stop()


SETUPS: dict[str, Setup] = {
    "direct": direct,
    "nginx": nginx,
    "chattable": chattable_with(),
    "budgets": chattable_with(BUDGETS),
    "budgets-postgres": with_postgres,
    "all-on": chattable_with(BUDGETS + RATES + CACHE),
    "sessions": with_sessions,
    "all-on-shared": all_on_postgres_and_valkey,
}
