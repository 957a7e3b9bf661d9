"""Measures what grows with a database: everything beside the same on an empty one.

    python tests/bench/scale.py [--scale 0.05] [--databases sqlite,postgresql] [--json FILE]

docs/benchmarks.md explains every row.
"""

import argparse
import asyncio
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from filling import Sizes, fill
from load import measure
from measuring import load_of
from report import ROOT, machine, versions
from rows import Row, chat
from run import prepare, say
from setups import (
    BUDGETS,
    HERE,
    SERVER_CORE,
    START,
    Running,
    bearer,
    on_core,
    stub,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
from databases import fresh_postgres, held, migrate, postgres_server
from process import Chattable, chattable

CHAT = Row(name="chat", setup="", body=chat(), requests=1_000)
FEW = Sizes().scaled(0)  # of an empty database, so that what is asked for is there
STARTS = 3
ANSWER_S = 900.0  # seconds that the slowest answer may take

# What is asked besides chats; {month} is the first day of the last month.
ASKED = {
    "ledger verify": ("POST", "/admin/ledger/verify"),
    "usage, month by day": ("GET", "/admin/usage?group_by=day&from={month}"),
    "usage, month by user,day": ("GET", "/admin/usage?group_by=user,day&from={month}"),
    "usage, today by model": ("GET", "/admin/usage?group_by=model&from={today}"),
    "usage of a user": ("GET", "/admin/usage?group_by=model&user=person-7"),
    "budgets": ("GET", "/admin/budgets"),
    "budgets of a user": ("GET", "/admin/budgets?user=person-7"),
    "ledger of a user": ("GET", "/admin/ledger?user=person-7"),
    "ledger of the busiest user": ("GET", "/admin/ledger?user=person-0"),
    "ledger of a budget": ("GET", "/admin/ledger?budget=lim_7"),
    "ledger of the largest budget": ("GET", "/admin/ledger?budget=lim_default"),
    "users": ("GET", "/admin/users"),
    "sessions": ("GET", "/admin/sessions"),
    "cache": ("GET", "/admin/cache"),
    "my budgets": ("GET", "/v1/me/budgets"),
    "models": ("GET", "/v1/models"),
}


@dataclass
class Seen:
    """What one thing cost: numbers of each round."""

    unit: str
    empty: list[float] = field(default_factory=list)
    full: list[float] = field(default_factory=list)
    waits_ms: list[float] = field(default_factory=list)  # the longest that a chat took meanwhile
    size: int = 0  # bytes of the full one's answer

    def line(self, name: str) -> str:
        """The row of the table."""
        old, new = median(self.empty), median(self.full)
        wait = f"{median(self.waits_ms):>12.1f}" if self.waits_ms else " " * 12
        size = f"{self.size / 1e3:>11.1f}" if self.size else " " * 11
        return f"{name:<30}{self.unit:>5}{old:>11.2f}{new:>11.2f}{new / old:>8.2f}{wait}{size}"


class Chats:
    """Asks one chat after the other, and knows how long the slowest took."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.slowest_ms = 0.0

    def __enter__(self) -> "Chats":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=ANSWER_S)
        headers = self._server.headers | {"content-type": "application/json"}
        while not self._ended.is_set():
            began = time.perf_counter()
            connection.request("POST", "/v1/chat/completions", chat(), headers)
            answer = connection.getresponse()
            answer.read()
            took = (time.perf_counter() - began) * 1e3
            if answer.status != 200:
                say(f"  a chat was answered {answer.status} after {took:.0f} ms")
            self.slowest_ms = max(self.slowest_ms, took)
        connection.close()


@dataclass
class Side:
    """A server on an empty or on a full database."""

    config: str
    home: str
    running: Running | None = None

    def serve(self) -> Any:
        """Runs the server until the block ends."""
        where: dict[str, Any] = {"prefix": on_core(SERVER_CORE), "timeout": START}
        return chattable(self.config, directory=self.home, migrated=False, **where)

    def chats(self) -> float:
        """The CPU of a chat with a budget, in µs."""
        assert self.running is not None
        cpu = self.running.cpu_s()
        result = uvloop.run(measure(load_of(CHAT, self.running, CHAT.requests)))
        if result.bad:
            raise RuntimeError(f"{result.bad} bad answers: {result.sample}")
        return (self.running.cpu_s() - cpu) / result.requests * 1e6

    def ask(self, method: str, path: str) -> tuple[float, bytes]:
        """How long an answer took, in ms, and the answer."""
        assert self.running is not None and isinstance(self.running.process, Chattable)
        connection = http.client.HTTPConnection("127.0.0.1", self.running.port, timeout=ANSWER_S)
        mine = path.startswith("/v1/me")
        key = self.running.headers if mine else bearer(self.running.process.admin_key)
        began = time.perf_counter()
        connection.request(method, path, headers=key)
        answer = connection.getresponse()
        data = answer.read()
        took = (time.perf_counter() - began) * 1e3
        connection.close()
        if answer.status != 200:
            say(f"  {method} {path}: {answer.status} after {took:.0f} ms: {data[:300]!r}")
        return took, data


def measured(
    sides: list[Side], rounds: int, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, Seen]]:
    """Measures everything of both sides in turn; the first round is a warm-up."""
    empty, full = sides
    for unit, name, of in (("s", "start", 0), ("MB", "memory at the start", 1)):
        if wanted(name):
            seen = Seen(unit)
            for _ in range(STARTS):
                for side, kept in ((empty, seen.empty), (full, seen.full)):
                    with side.serve() as server:
                        numbers = server.ready_after, Running(0, process=server).rss() / 1e6
                        kept.append(numbers[of])
            yield name, seen
    with ExitStack() as stack:
        for side in sides:
            server = stack.enter_context(side.serve())
            headers = bearer(server.user_key("bench"))
            side.running = Running(int(server.base_url.rpartition(":")[2]), headers, server)
        if wanted("chat"):
            yield "chat", in_turns(Seen("µs"), sides, max(rounds, 7), Side.chats)
        today = datetime.now(UTC).date()
        dates = {"today": today, "month": today.fromordinal(today.toordinal() - 30)}
        for name, (method, path) in ASKED.items():
            if wanted(name):
                yield name, asked(sides, rounds, method, path.format(**dates))
        if wanted("memory at the end"):
            ends = [side.running.rss() / 1e6 for side in sides if side.running]
            yield "memory at the end", Seen("MB", ends[:1], ends[1:])
    if wanted("ledger verify, by command"):
        yield "ledger verify, by command", in_turns(Seen("ms"), sides, 1, verified)


def in_turns(seen: Seen, sides: list[Side], rounds: int, number: Callable[[Side], float]) -> Seen:
    """Measures a number of both, after a warm-up where there are several rounds."""
    for turn in range(-1 if rounds > 1 else 0, rounds):
        for side, kept in zip(sides, (seen.empty, seen.full), strict=True):
            found = number(side)
            if turn >= 0:
                kept.append(found)
    return seen


def asked(sides: list[Side], rounds: int, method: str, path: str) -> Seen:
    """Asks both, and the full one once more in every round while somebody chats."""
    seen = Seen("ms")
    for _ in range(rounds):
        for side, kept in zip(sides, (seen.empty, seen.full), strict=True):
            took, data = side.ask(method, path)
            kept.append(took)
        seen.size = len(data)
        full = sides[1].running
        assert full is not None
        with Chats(full) as chats:
            _, data = sides[1].ask(method, path)
        seen.waits_ms.append(chats.slowest_ms)
        if path.endswith("/verify") and json.loads(data).get("differences") != 0:
            raise RuntimeError(f"the books do not balance: {data[:500]!r}")
    return seen


def verified(side: Side) -> float:
    """How long `chattable ledger verify` takes, in ms."""
    began = time.perf_counter()
    done = subprocess.run(
        [*on_core(SERVER_CORE), *HERE, "ledger", "verify"],
        cwd=side.home,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        say(f"  ledger verify: exit {done.returncode}: {done.stderr[-300:]}")
    return (time.perf_counter() - began) * 1e3


def config_of(stub_port: int, url: str, models: int) -> str:
    """A config with a budget for each user and so many models."""
    many = "".join(f"  model-{n}: {{provider: bench}}\n" for n in range(models))
    text = BUDGETS.replace("STUB", str(stub_port)).replace("agents:\n", f"{many}agents:\n")
    return f"database_url: {url}\n{text}"


@contextmanager
def on_sqlite(sizes: Sizes, stub_port: int) -> Iterator[list[Side]]:
    """Servers on two files."""
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as scratch:
        yield [
            made(f"sqlite:///{scratch}/{name}.db", Path(scratch, name), some, stub_port)
            for name, some in (("empty", FEW), ("full", sizes))
        ]


@contextmanager
def on_postgres(sizes: Sizes, stub_port: int) -> Iterator[list[Side]]:
    """Servers on two databases of one PostgreSQL, from its wheel."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-scale-") as scratch,
        postgres_server() as server,
        held(fresh_postgres(server)) as empty,
        held(fresh_postgres(server)) as full,
    ):
        yield [
            made(empty, Path(scratch, "empty"), FEW, stub_port),
            made(full, Path(scratch, "full"), sizes, stub_port),
        ]


def made(url: str, home: Path, sizes: Sizes, stub_port: int) -> Side:
    """A database that is filled, and the folder of its server."""
    home.mkdir()
    began = time.monotonic()
    asyncio.run(migrate(url))
    asyncio.run(fill(url, sizes))
    say(f"  {sizes.calls:,} calls: filled in {time.monotonic() - began:.0f} s")
    side = Side(config_of(stub_port, url, sizes.models), str(home))
    Path(home, "config.yaml").write_text(side.config)
    return side


DATABASES = {"sqlite": on_sqlite, "postgresql": on_postgres}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", type=float, default=1.0, help="0.05: a twentieth of the rows")
    parser.add_argument("--databases", default=",".join(DATABASES))
    parser.add_argument("--rows", default="", help="comma-separated beginnings of names")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="default: bench-results/scale-DATE.json")
    options = parser.parse_args()

    names = [name for name in options.rows.split(",") if name]
    sizes, now = Sizes().scaled(options.scale), datetime.now(UTC)
    report: dict[str, Any] = {
        "date": now.isoformat(),
        "machine": machine(),
        "versions": versions(),
        "sizes": asdict(sizes),
    }
    prepare()
    print(f"{now:%Y-%m-%d %H:%M} UTC · load average {report['machine']['load average before']}")
    print(", ".join(f"{count:,} {name}" for name, count in asdict(sizes).items()))
    with stub() as upstream:
        for database in options.databases.split(","):
            say(database)
            title = f"{database:<30}{'':>5}{'empty':>11}{'full':>11}{'ratio':>8}"
            print(f"\n{title}{'chat ≤ ms':>12}{'kB':>11}", flush=True)
            found: dict[str, Any] = {}
            with DATABASES[database](sizes, upstream.port) as sides:
                wanted = lambda name: not names or name.startswith(tuple(names))  # noqa: E731
                for name, seen in measured(sides, options.rounds, wanted):
                    print(seen.line(name), flush=True)
                    found[name] = asdict(seen)
            report[database] = found
    file = options.json or ROOT / "bench-results" / f"scale-{now:%Y%m%dT%H%M%SZ}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(f"\nraw numbers: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
