"""One round of one row: send the load, count the CPU of the server's processes and the calls that reached the stub."""

import json
import sys
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import uvloop
from load import Load, measure
from rows import Row
from setups import Running

Choice = Callable[[Iterable[float]], float]


@dataclass(frozen=True)
class Round:
    """What a round showed; `cpu_us` is per request, None where no server process stands between."""

    requests: int
    cpu_us: float | None
    per_second: float
    p50_ms: float
    p99_ms: float
    first_ms: float
    calls: float  # upstream calls per request
    bad: int


def load_of(row: Row, target: Running, requests: int) -> Load:
    """Aims a row at a running setup."""
    return Load(
        port=target.port,
        path=row.path,
        headers=target.headers | row.headers,
        body=row.body,
        connections=row.connections,
        requests=max(row.connections, requests),
        first=row.first,
        expect=row.expect,
        users=target.users,
    )


def posts(upstream: Running) -> int:
    """Asks the stub how many calls it has answered."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{upstream.port}/", timeout=10) as answer:
        return int(json.loads(answer.read())["posts"])


def one_round(row: Row, target: Running, upstream: Running, requests: int) -> Round:
    """Runs one load; bad answers are counted and the first one is shown."""
    calls, cpu = posts(upstream), target.cpu_s()
    seen = uvloop.run(measure(load_of(row, target, requests)))
    cpu, calls = target.cpu_s() - cpu, posts(upstream) - calls
    if seen.bad:
        print(
            f"  {row.name}: {seen.bad} bad answers, the first one: {seen.sample!r}", file=sys.stderr
        )
    return Round(
        requests=seen.requests,
        cpu_us=cpu / seen.requests * 1e6 if target.process else None,
        per_second=seen.per_second,
        p50_ms=seen.p50_ms,
        p99_ms=seen.p99_ms,
        first_ms=seen.first_ms,
        calls=calls / seen.requests,
        bad=seen.bad,
    )


def combine(row: Row, rounds: list[Round], less: Choice, more: Choice) -> Round:
    """Combines rounds number by number: `less` where less is better, `more` for requests per second."""
    cpus = [seen.cpu_us for seen in rounds if seen.cpu_us is not None]
    return Round(
        requests=rounds[0].requests,
        cpu_us=less(cpus) if cpus else None,
        per_second=more(seen.per_second for seen in rounds),
        p50_ms=less(seen.p50_ms for seen in rounds),
        p99_ms=less(seen.p99_ms for seen in rounds),
        first_ms=less(seen.first_ms for seen in rounds),
        # the least expected
        calls=max((seen.calls for seen in rounds), key=lambda calls: abs(calls - row.calls)),
        bad=sum(seen.bad for seen in rounds),
    )
