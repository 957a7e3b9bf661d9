"""What is put under load: the stub itself, nginx before it, Chattable before it, each on its own core."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import uvloop
from load import SERIAL, USER, Load, measure

sys.path.insert(0, str(Path(__file__).parents[1]))
from databases import postgres_server
from process import Chattable, Process, chattable, free_port, start
from valkeys import valkey_server

SERVER_CORE, LOAD_CORE = 0, 1
START = 120.0  # seconds a server may take to start: other work may be on its core
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
  guide: {model: m, context: You are a guide to the town., instructions: Answer in one sentence.}
  host: {model: guide, context: You welcome visitors., instructions: Ask the guide what you need.}
"""

NGINX = """\
daemon off; worker_processes 1; pid nginx.pid; error_log stderr crit;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 100000000;
  client_max_body_size 64m; client_body_buffer_size 1m;
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
    # clock_getcpuclockid(3), which Python does not offer
    return time.clock_gettime(~process.pid << 3 | 2)


@dataclass
class Running:
    """Something that answers on a port; without a process of its own there is no CPU to count."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)
    process: Process | None = None
    users: Iterator[int] | None = None  # the numbers that take turns in `headers`

    def cpu_s(self) -> float:
        """Returns the user and system seconds of all its processes, ended threads and children included."""
        family = self.process.tree() if self.process else []
        ended = [process.cpu_times() for process in family]
        return sum(map(cpu_clock, family)) + sum(
            times.children_user + times.children_system for times in ended
        )

    def rss(self) -> int:
        """Returns the resident bytes of all its processes."""
        return sum(
            process.memory_info().rss for process in (self.process.tree() if self.process else [])
        )


Program = tuple[str, ...]  # the command that runs an installed Chattable, without its arguments
HERE: Program = (sys.executable, "-m", "chattable.proxy")
# From the stub's port and a program to something under load.
Setup = Callable[[int, Program], AbstractContextManager[Running]]


@contextmanager
def stub(*arguments: str) -> Iterator[Running]:
    """Runs the stub beside the load generator."""
    port, script = free_port(), str(Path(__file__).with_name("stub.py"))
    command = [*on_core(LOAD_CORE), sys.executable, script, str(port), *arguments]
    process = start(command, ready_url=f"http://127.0.0.1:{port}/")
    try:
        yield Running(port)
    finally:
        process.stop()


@contextmanager
def direct(stub_port: int, program: Program = HERE) -> Iterator[Running]:
    """Puts nothing between the load and the stub."""
    yield Running(stub_port)


@contextmanager
def nginx(stub_port: int, program: Program = HERE) -> Iterator[Running]:
    """Runs nginx as a plain reverse proxy with keep-alive to the stub, in a directory of its own."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-nginx-") as home:
        Path(home).chmod(0o711)  # nginx's worker, which is another user, has its folders in it
        Path(home, "nginx.conf").write_text(
            NGINX.replace("STUB", str(stub_port)).replace("PORT", str(port))
        )
        command = [*on_core(SERVER_CORE), "nginx", "-p", home, "-c", "nginx.conf", "-e", "stderr"]
        process = start(command, ready_url=f"http://127.0.0.1:{port}/")
        try:
            yield Running(port, process=process)
        finally:
            process.stop()


def chattable_with(config: str = CONFIG, *arguments: str, **key_fields: bool) -> Setup:
    """Returns the setup of a Chattable with this config (STUB stands for the stub's port).

    It has one user, whose key has these fields.
    """

    @contextmanager
    def running(stub_port: int, program: Program = HERE) -> Iterator[Running]:
        text, prefix = config.replace("STUB", str(stub_port)), on_core(SERVER_CORE)
        where: dict[str, Any] = {"prefix": prefix, "program": program, "timeout": START}
        with chattable(text, *arguments, **where) as server:
            headers = bearer(server.user_key("bench", **key_fields))
            yield Running(int(server.base_url.rpartition(":")[2]), headers, server)

    return running


def bearer(key: str) -> dict[str, str]:
    """Returns the header that carries a key."""
    return {"authorization": f"Bearer {key}"}


BUDGETS = CONFIG + "budgets: {default: {tokens: 1000000000000, per: day}}\n"
RATES = (
    "rate_limits: {default: {requests_per_minute: 100000000, tokens_per_minute: 1000000000, "
    "parallel: 100000}}\n"
)
CACHE = "cache: {ttl: 1h}\n"
SESSIONS = "sessions: {window: {messages: 20}}\n"
ALL_ON = BUDGETS + RATES + CACHE
USERS = 2000  # so many that a key is asked again only after the server has forgotten it


@contextmanager
def migrated(config: str, stub_port: int, program: Program) -> Iterator[Running]:
    """Runs Chattable on a database that it does not migrate by itself."""
    with tempfile.TemporaryDirectory() as home:
        Path(home, "config.yaml").write_text(config.replace("STUB", str(stub_port)))
        subprocess.run([*program, "migrate"], cwd=home, check=True, capture_output=True)
        with chattable_with(config)(stub_port, program) as running:
            yield running


@contextmanager
def with_postgres(stub_port: int, program: Program = HERE) -> Iterator[Running]:
    """Runs Chattable with budgets on a PostgreSQL of its own, from its wheel, on the load generator's core."""
    with postgres_server() as url:
        config = BUDGETS + f"database_url: {url}\n"
        with migrated(config, stub_port, program) as running:
            yield running


@contextmanager
def all_on_postgres_and_valkey(stub_port: int, program: Program = HERE) -> Iterator[Running]:
    """Runs Chattable with all that is shared between replicas, the stores on the load generator's core."""
    with valkey_server() as valkey, postgres_server() as url:
        stores = f"database_url: {url}\nredis_url: {valkey.url}\n"
        with migrated(ALL_ON + stores, stub_port, program) as running:
            yield running


def with_sessions(*lengths: int, sessions: int = 32) -> Setup:
    """Returns the setup with all on and, for each connection, a session of each length.

    The newest 20 messages of a session are sent.
    """

    @contextmanager
    def running(stub_port: int, program: Program = HERE) -> Iterator[Running]:
        with chattable_with(ALL_ON + SESSIONS)(stub_port, program) as server:
            for length in lengths:
                named = replace(server, headers=server.headers | in_session(length, USER))
                send(named, "/v1/chat/completions", sessions, talk(length))
            yield server

    return running


def in_session(length: int, who: bytes) -> dict[str, str]:
    """Returns the header of a session that began with so many stored messages."""
    return {"x-session-id": f"{length}-{who.decode()}"}


def talk(length: int) -> dict[str, Any]:
    """Returns the request whose answer is the last of so many messages of some 20 words."""
    words = " ".join(f"word{n}" for n in range(20))
    roles = [("user", "assistant")[n % 2] for n in range(length - 1)]
    texts = [f"{n}: {words} {SERIAL.decode()}" for n in range(length - 1)]
    said = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    return {"model": "m", "messages": said}


@contextmanager
def with_five_budgets(stub_port: int, program: Program = HERE) -> Iterator[Running]:
    """Runs Chattable with budgets on each user, a key, a team, a model and everyone.

    All five bind a call.
    """
    with chattable_with(BUDGETS)(stub_port, program) as server:
        assert isinstance(server.process, Chattable)
        admin = server.process.admin
        admin("PATCH", "/admin/users/bench", {"team": "red"})
        key = admin("POST", "/admin/users/bench/keys", {})
        subjects = ({"key": key["id"]}, {"team": "red"}, {"model": "m"}, {"everyone": True})
        for subject in subjects:
            admin("POST", "/admin/budgets", {"subject": subject, "per": "day", "tokens": 10**12})
        yield Running(server.port, bearer(key["key"]), server.process)


@contextmanager
def with_users(stub_port: int, program: Program = HERE) -> Iterator[Running]:
    """Runs Chattable with all on and many users, who ask one after the other."""
    name, key = f"user-{USER.decode()}", key_of(USER)
    with chattable_with(ALL_ON)(stub_port, program) as server:
        assert isinstance(server.process, Chattable)
        admin = Running(server.port, bearer(server.process.admin_key), server.process)
        send(admin, "/admin/users", USERS, {"name": name})
        send(admin, f"/admin/users/{name}/keys", USERS, {"key": key})
        yield Running(server.port, bearer(key), server.process, users=itertools.cycle(range(USERS)))


def key_of(user: bytes) -> str:
    """Returns the key of one of many users, by his number."""
    return f"sk-bench-{user.decode()}"


def send(server: Running, path: str, requests: int, body: dict[str, Any]) -> None:
    """Prepares a server by one request of each user; a refusal raises, with the server's words."""
    load = Load(
        port=server.port,
        path=path,
        headers=server.headers,
        body=json.dumps(body).encode(),
        connections=min(2, requests),  # what waits for the database too long is refused
        requests=requests,
        users=iter(range(requests)),
    )
    result = uvloop.run(measure(load))
    if result.bad:
        raise RuntimeError(f"POST {path}: {result.bad} of {requests} refused: {result.sample}")


SETUPS: dict[str, Setup] = {
    "direct": direct,
    "nginx": nginx,
    "chattable": chattable_with(),
    "plain-2-workers": chattable_with(CONFIG, "--workers", "2"),
    "budgets": chattable_with(BUDGETS),
    "budget-2-workers": chattable_with(BUDGETS, "--workers", "2"),
    "five-budgets": with_five_budgets,
    "budgets-postgres": with_postgres,
    "all-on": chattable_with(ALL_ON),
    "end-users": chattable_with(ALL_ON, trusted=True),
    "users": with_users,
    "sessions": with_sessions(20, 2000),
    "sessions-new": with_sessions(),
    "all-on-shared": all_on_postgres_and_valkey,
}
