"""Measures Chattable beside nginx and a direct call, in one run on one machine, and prints what was measured.

    python tests/bench/run.py [--quick] [--rows 'direct*,plain'] [--rounds 3] [--json FILE]

docs/benchmarks.md explains every row.
"""

import argparse
import fnmatch
import gc
import os
import resource
import shutil
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from measuring import Round, one_round
from probes import PROBES
from report import ROOT, Report, machine, versions
from rows import ROWS, Row
from setups import HERE, LOAD_CORE, PINNED, SETUPS, Running, stub


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def measure_rows(
    rows: list[Row], upstream: Running, quick: bool, rounds: int
) -> dict[str, list[Round]]:
    """Measures all rows round by round, so that a slow minute of the machine hits them alike."""
    seen: dict[str, list[Round]] = {row.name: [] for row in rows}
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(SETUPS[name](upstream.port, HERE))
            for name in {row.setup for row in rows}  # each once
        }
        for number in range(rounds + 1):
            say(f"round {number} of {rounds}" if number else "warming up")
            for row in rows:
                requests = row.requests // (8 if quick else 1) // (1 if number else 4)
                result = one_round(row, running[row.setup], upstream, requests)
                seen[row.name] += [result] if number else []
    return seen


def chosen(names: Iterable[str], selected: str) -> list[str]:
    """Returns the names that match one of the comma-separated patterns; all without a pattern.

    A pattern that no name matches ends the program, which says what there is.
    """
    known, patterns = list(names), [word.strip() for word in selected.split(",") if word.strip()]
    unknown = [pattern for pattern in patterns if not fnmatch.filter(known, pattern)]
    if unknown:
        raise SystemExit(f"no row {', '.join(unknown)}; there are {', '.join(known)}")
    return [n for n in known if any(fnmatch.fnmatch(n, pattern) for pattern in patterns or ["*"])]


def without_nginx(rows: list[Row]) -> list[Row]:
    """Returns the rows that can be measured here."""
    there = [row for row in rows if row.setup != "nginx" or shutil.which("nginx")]
    if len(there) < len(rows):
        say("nginx is not on PATH: its rows are left out")
    return there


def prepare() -> None:
    """Makes room and quiet: no collector pauses here, descriptors for thousands of streams.

    Servers inherit the limit, and that they may write byte code: without it every start compiles.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.disable()
    if PINNED:
        os.sched_setaffinity(0, {LOAD_CORE})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    fewer = "an eighth of the requests, fewer idle streams"
    parser.add_argument("--quick", action="store_true", help=fewer)
    parser.add_argument("--rows", default="", help="comma-separated names, also with *")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--json", type=Path, help="where the raw numbers go (default: bench-results/DATE.json)"
    )
    options = parser.parse_args()

    names = chosen([*(row.name for row in ROWS), *PROBES], options.rows)
    rows = without_nginx([row for row in ROWS if row.name in names])
    now, where, what = datetime.now(UTC), machine(), versions()
    prepare()
    with stub() as upstream:
        rounds = measure_rows(rows, upstream, options.quick, options.rounds)
        probes: dict[str, float] = {}
        for name in (name for name in PROBES if name in names):
            say(f"probe {name}")
            probes |= PROBES[name](upstream.port, options.quick, HERE)
    report = Report(now, options.quick, where, what, rows, rounds, probes)
    print(report.text())
    file = options.json or ROOT / "bench-results" / f"{now:%Y%m%dT%H%M%SZ}.json"
    report.save(file)
    print(f"\nraw numbers: {file}")
    return 1 if report.bad else 0


if __name__ == "__main__":
    sys.exit(main())
