"""Counts what one request costs in calls, tasks, statements and encodings: figures that repeat.

    python tests/bench/figures.py [REVISION] [--rows plain,hit] [--requests 25] [--json FILE]

With a revision its counts stand beside the present ones, and the exit code is 1 where a present one
is higher. docs/benchmarks.md says how they are made.
"""

import argparse
import json
import mmap
import select
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from against import OURS, interruptible, scratch
from counted import COUNTS
from measuring import load_of
from process import Process
from report import ROOT
from revisions import RevisionError, checked_out, named, present
from rows import Row
from run import chosen, prepare, say
from setups import HERE, SETUPS, Program, Running, stub, with_sessions

COUNTED = ("plain", "stream", "budget", "all-on", "session-20", "hit")
SETTING = SETUPS | {"sessions": with_sessions(20, sessions=1)}  # one connection has one session
WARM_UP = 40  # requests: a session knows its last 32 turns
QUIET = 0.06  # seconds without a call in which every thread sleeps: the request is over
STUCK = 0.3  # seconds after which a stream gets its next chunk though the last did not come out
PATIENCE = 10.0  # seconds until a request must be over

Counts = tuple[int, ...]  # in the order of COUNTS


@dataclass(frozen=True)
class Figures:
    """What each request of a row counted."""

    row: Row
    requests: Sequence[Counts]

    @property
    def medians(self) -> list[float]:
        return [median(kind) for kind in zip(*self.requests, strict=True)]

    def shown(self, kind: int) -> str:
        """Returns a median, marked with ~ where fewer than half of the requests have just that."""
        if not self.requests:
            return "–"
        seen, middle = [float(counts[kind]) for counts in self.requests], self.medians[kind]
        return ("~" if 2 * seen.count(middle) < len(seen) else "") + f"{middle:g}"


class Cells:
    """The counts of a server that `counted.py` runs, as they are at the moment."""

    def __init__(self, file: Path) -> None:
        self._layout = struct.Struct(f"={len(COUNTS)}Q")
        file.write_bytes(bytes(self._layout.size))
        with file.open("r+b") as shared:
            self._map = mmap.mmap(shared.fileno(), self._layout.size)

    def read(self) -> Counts:
        return self._layout.unpack(self._map)


class Wire:
    """A connection that waits for each answer."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self.answer = bytearray()

    def send(self, request: bytes) -> None:
        self.answer = bytearray()
        self._socket.sendall(request)

    def hears(self, seconds: float) -> bool:
        """Waits for more of the answer; says whether some came."""
        if not select.select([self._socket], [], [], seconds)[0]:
            return False
        data = self._socket.recv(1 << 20)
        if not data:
            raise ConnectionError(f"the server hung up after {bytes(self.answer[:300])!r}")
        self.answer += data
        return True

    @property
    def complete(self) -> bool:
        head, end, body = self.answer.partition(b"\r\n\r\n")
        _, found, size = head.lower().partition(b"content-length:")
        if found:
            return bool(end) and len(body) >= int(size.split(b"\r\n", 1)[0])
        return bool(end) and body.endswith(b"\r\n0\r\n\r\n")

    def close(self) -> None:
        self._socket.close()


class Counter:
    """Sends requests one by one and says what the server did for each."""

    def __init__(self, cells: Cells, server: Running, upstream: Running) -> None:
        assert server.process is not None
        self._cells, self.process = cells, server.process
        self._client, self._stub = Wire(server.port), Wire(upstream.port)

    def close(self) -> None:
        self._client.close()
        self._stub.close()

    def count(self, request: bytes, expect: bytes) -> Counts:
        """Counts one request from its first byte until nothing moves any more."""
        before = self._settled()
        self.ask(request, expect)
        return tuple(now - then for now, then in zip(self._settled(), before, strict=True))

    def ask(self, request: bytes, expect: bytes) -> None:
        """Sends one request and reads its answer, a stream chunk by chunk."""
        self._client.send(request)
        sent = 1
        while not self._client.complete:
            came = self._client.hears(STUCK)
            if not came or self._client.answer.count(b"\n\n") >= sent:
                self._next()
                sent += 1
        if self._client.answer[9:12] != b"200" or expect not in self._client.answer:
            raise RuntimeError(f"a bad answer: {bytes(self._client.answer[:600])!r}")

    def _next(self) -> None:
        """Has the stub send the next chunk of a stream, if there is one."""
        self._stub.send(b"GET /next HTTP/1.1\r\nhost: stub\r\n\r\n")
        while not self._stub.complete:
            self._stub.hears(PATIENCE)

    def _settled(self) -> Counts:
        """Waits until the server has nothing to do; returns its counts."""
        late, since, seen = time.monotonic() + PATIENCE, time.monotonic(), self._cells.read()
        while (now := time.monotonic()) < late and now - since < QUIET:
            time.sleep(0.002)
            counts = self._cells.read()
            if counts != seen or not asleep(self.process):
                since, seen = time.monotonic(), counts
        return seen


def asleep(process: Process) -> bool:
    """Says whether every thread of a process waits for something; where /proc is not, always."""
    try:
        stats = [stat.read_text() for stat in Path(f"/proc/{process.pid}/task").glob("*/stat")]
    except OSError:  # a thread has just ended
        return False
    return all(stat.rpartition(") ")[2].startswith("S") for stat in stats)


def counted(rows: Sequence[Row], program: Program, requests: int) -> list[Figures]:
    """Counts rows, each with a server of its own; a row that is not served has no requests."""
    found = []
    with stub("--by-step") as upstream:
        for row in rows:
            say(f"  {row.name}")
            try:
                found.append(Figures(row, counted_row(row, program, upstream, requests)))
            except (OSError, RuntimeError) as error:
                say(f"    not served: {error}")
                found.append(Figures(row, ()))
    return found


def counted_row(row: Row, program: Program, upstream: Running, requests: int) -> list[Counts]:
    """Counts so many requests of a row, after others that do what is done only once."""
    python, _, module = program
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        file = Path(home, "counts")
        cells, script = Cells(file), str(Path(__file__).with_name("counted.py"))
        with SETTING[row.setup](upstream.port, (python, script, str(file), module)) as server:
            load, counter = load_of(row, server, requests), Counter(cells, server, upstream)
            try:
                for _ in range(WARM_UP):
                    counter.ask(load.request(0), row.expect)
                return [counter.count(load.request(0), row.expect) for _ in range(requests)]
            finally:
                counter.close()
                counter.process.popen.kill()  # an orderly end waits for slowed loops


def table(new: Sequence[Figures], old: Sequence[Figures]) -> Iterator[str]:
    """Yields the lines of counts, those of the other revision first where there is one."""
    yield f"{'per request':<20}" + "".join(f"{one.row.name:>18}" for one in new)
    for kind, name in enumerate(COUNTS):
        cells = [one.shown(kind) for one in new]
        if old:
            before = [one.shown(kind) for one in old]
            cells = [f"{then} → {now}" for then, now in zip(before, cells, strict=True)]
        yield f"{name:<20}" + "".join(f"{cell:>18}" for cell in cells)


def higher(new: Sequence[Figures], old: Sequence[Figures]) -> list[str]:
    """Returns what counts more than in the other revision."""
    return [
        f"{name} of {one.row.name}"
        for one, other in zip(new, old, strict=False)
        if one.requests and other.requests
        for name, now, then in zip(COUNTS, one.medians, other.medians, strict=True)
        if now > then
    ]


def saved(measured: Sequence[Figures]) -> dict[str, Any]:
    """Returns what a file keeps of a revision."""
    return {
        one.row.name: {
            "median": dict(zip(COUNTS, one.medians, strict=True)),
            "requests": one.requests,
        }
        for one in measured
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("revision", nargs="?", default="", help="what git knows it by")
    parser.add_argument("--rows", default=",".join(COUNTED), help="comma-separated, also with *")
    parser.add_argument("--requests", type=int, default=25, help="that are counted in each row")
    parser.add_argument("--json", type=Path, help="default: bench-results/figures-DATE.json")
    options = parser.parse_args()
    names = chosen([row.name for row in OURS], options.rows)
    rows = [row for row in OURS if row.name in names]

    now = datetime.now(UTC)
    prepare()
    old: list[Figures] = []
    with interruptible():
        try:
            with scratch():
                if options.revision:
                    say(named(options.revision))
                    with checked_out(options.revision) as program:
                        old = counted(rows, program, options.requests)
                say(present())
                new = counted(rows, HERE, options.requests)
        except RevisionError as error:
            say(str(error))
            return 2
        except KeyboardInterrupt:
            return 130
    print("\n".join(table(new, old)))
    file = options.json or ROOT / "bench-results" / f"figures-{now:%Y%m%dT%H%M%SZ}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = {"date": now.isoformat(), "new": saved(new), "old": saved(old)}
    file.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    print(f"\nraw numbers: {file}")
    if more := higher(new, old):
        print(f"higher: {', '.join(more)}")
    return 1 if more or not all(one.requests for one in new) else 0


if __name__ == "__main__":
    sys.exit(main())
