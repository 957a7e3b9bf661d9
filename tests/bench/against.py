"""Compares the present tree with another revision, row by row, in pairs.

    python tests/bench/against.py REVISION [--rows plain,'all-on*'] [--pairs 21] [--json FILE]

Exits 1 where the present tree costs more than 1.05 times as much, with an interval without 1.
docs/benchmarks.md explains every column.
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from measuring import Round, one_round
from paired import DEARER, FEWEST, Pair, Ratio, pair_of, ratio
from probes import PROBES
from report import ROOT, machine, versions
from revisions import RevisionError, checked_out, copied, named, present
from rows import ROWS, Row
from run import chosen, prepare, say
from setups import SETUPS, Program, Running, stub

PAIRS = 21
SHARE = 4  # of a row's requests, one in so many a round: pairs close in time, and many of them
OURS = [row for row in ROWS if row.setup not in {"direct", "nginx"}]


@dataclass(frozen=True)
class Comparison:
    """A number of one row, measured of both revisions; `missing` says why there is none."""

    name: str
    unit: str
    pairs: Sequence[Pair[float]] = ()
    missing: str = ""

    @property
    def ratio(self) -> Ratio | None:
        return ratio(self.pairs) if self.pairs else None

    def line(self) -> str:
        if self.ratio is None:
            return f"{self.name:<44}{self.unit:<8}{'–':>10}{'–':>12}  {self.missing}"
        old, new = median(pair.old for pair in self.pairs), median(pair.new for pair in self.pairs)
        return f"{self.name:<44}{self.unit:<8}{old:>10.3f}{new:>12.3f}  {self.ratio}"


@dataclass(frozen=True)
class Measured:
    """The rounds of one row."""

    row: Row
    pairs: Sequence[Pair[Round]] = ()
    missing: str = ""

    @property
    def bad(self) -> int:
        """The bad answers of the present tree; those of the other one are not its fault."""
        return sum(pair.new.bad for pair in self.pairs)

    def comparisons(self) -> Iterator[Comparison]:
        """Yields CPU per request; with one connection, where nothing queues, latency as well."""
        yield self.of("cpu_us", "CPU µs")
        if self.row.connections == 1:
            yield self.of("p50_ms", "p50 ms")
            if self.row.first:
                yield self.of("first_ms", "first ms")

    def of(self, number: str, unit: str) -> Comparison:
        values = [Pair(getattr(pair.old, number), getattr(pair.new, number)) for pair in self.pairs]
        return Comparison(self.row.name, unit, values, self.missing)


def measured(
    rows: Sequence[Row],
    programs: Pair[Program],
    upstream: Running,
    pairs: int,
) -> Iterator[Measured]:
    """Measures rows of one setup, round by round; a row that one side cannot serve has no pairs."""
    with ExitStack() as stack:
        start = SETUPS[rows[0].setup]
        old = started(lambda: stack.enter_context(start(upstream.port, programs.old)))
        new = started(lambda: stack.enter_context(start(upstream.port, programs.new)))
        failing = {row.name: unserved(row, old, new, upstream) for row in rows}
        served = [row for row in rows if not failing[row.name]]
        seen: dict[str, list[Pair[Round]]] = {row.name: [] for row in rows}
        for number in range(pairs):
            for row in served:
                requests = row.requests // SHARE
                sides = (
                    partial(one_round, row, side, upstream, requests)
                    for side in (old, new)
                    if side is not None  # which serves no row
                )
                seen[row.name].append(pair_of(number, *sides))
    for row in rows:
        yield Measured(row, seen[row.name], failing[row.name])


def started(start: Callable[[], Running]) -> Running | None:
    """Starts a server; None, and the reason on standard error, where it does not start."""
    try:
        return start()
    except Exception as error:  # whatever a revision of another time does with this configuration
        say(f"  does not start: {error}")
        return None


def unserved(row: Row, old: Running | None, new: Running | None, upstream: Running) -> str:
    """Warms a row up; says which side answers none of its requests, or nothing."""
    for side, running in (("old", old), ("new", new)):
        if running is None or not serves(row, running, upstream):
            return f"not served by the {side} one"
    return ""


def serves(row: Row, running: Running, upstream: Running) -> bool:
    """Says whether a row has answers at all."""
    try:
        seen = one_round(row, running, upstream, row.requests // SHARE)
    except (OSError, TimeoutError) as error:
        say(f"  {row.name}: {error}")
        return False
    return seen.bad < seen.requests


def probed(name: str, programs: Pair[Program], upstream: Running) -> Iterator[Comparison]:
    """Compares what a probe measures of both."""

    def measure(program: Program) -> dict[str, float]:
        return PROBES[name](upstream.port, True, program)

    try:
        old, new = partial(measure, programs.old), partial(measure, programs.new)
        seen = [pair_of(number, old, new) for number in range(FEWEST)]
    except (OSError, RuntimeError, TimeoutError) as error:
        say(f"  {error}")
        yield Comparison(name, "", missing="cannot be measured")
        return
    for figure in seen[0].old:
        what, _, unit = figure.rpartition(" [")
        values = [Pair(pair.old[figure], pair.new[figure]) for pair in seen]
        yield Comparison(what, unit.rstrip("]"), values)


def compare(
    rows: Sequence[Row], probes: Sequence[str], programs: Pair[Program], pairs: int
) -> tuple[list[Measured], list[Comparison]]:
    """Measures rows, setup by setup, and probes."""
    by_setup = sorted(rows, key=lambda row: list(SETUPS).index(row.setup))
    found: list[Measured] = []
    figures: list[Comparison] = []
    with stub() as upstream:
        for setup, group in groupby(by_setup, key=lambda row: row.setup):
            together = list(group)
            say(f"{setup}: {', '.join(row.name for row in together)}")
            found += measured(together, programs, upstream, pairs)
        for name in probes:
            say(f"probe {name}")
            figures += probed(name, programs, upstream)
    return sorted(found, key=lambda one: rows.index(one.row)), figures


@contextmanager
def scratch() -> Iterator[None]:
    """Has every temporary folder of this process in one, which is removed whatever ends it."""
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        Path(home).chmod(0o711)  # PostgreSQL, which may be another user, has its folder in it
        before, tempfile.tempdir = tempfile.tempdir, home
        try:
            yield
        finally:
            tempfile.tempdir = before


@contextmanager
def interruptible() -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM end a run once, so that the clean-up is not cut short."""

    def end(*_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        say("cleaning up")
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def save(file: Path, head: dict[str, Any], rows: list[Measured], lines: list[Comparison]) -> None:
    """Writes every pair as JSON."""
    raw = [
        {
            "name": one.row.name,
            "missing": one.missing,
            "pairs": [asdict(pair) for pair in one.pairs],
        }
        for one in rows
    ]
    ratios = [asdict(line) | {"ratio": line.ratio and asdict(line.ratio)} for line in lines]
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(head | {"rows": raw, "ratios": ratios}, indent=1, ensure_ascii=False)
    file.write_text(text + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("revision", help="what git knows it by")
    parser.add_argument("--rows", default="", help="comma-separated names, also with *")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"at least {FEWEST}")
    parser.add_argument("--json", type=Path, help="default: bench-results/against-DATE.json")
    options = parser.parse_args()
    if options.pairs < FEWEST:
        parser.error(f"--pairs must be at least {FEWEST}")
    names = chosen([*(row.name for row in OURS), *PROBES], options.rows)
    rows = [row for row in OURS if row.name in names]
    probes = [name for name in PROBES if name in names]

    now, where = datetime.now(UTC), machine()
    prepare()
    with interruptible():
        try:
            old, new = named(options.revision), present()
            with scratch(), checked_out(options.revision) as before, copied() as after:
                found, figures = compare(rows, probes, Pair(before, after), options.pairs)
        except RevisionError as error:
            say(str(error))
            return 2
        except KeyboardInterrupt:
            return 130
    lines = [line for one in found for line in one.comparisons()] + figures
    head = {"date": now.isoformat(), "old": old, "new": new, "pairs": options.pairs}
    head |= {"machine": where, "versions": versions()}
    file = options.json or ROOT / "bench-results" / f"against-{now:%Y%m%dT%H%M%SZ}.json"
    save(file, head, found, lines)
    print(f"{'':<52}{old:>10}{new:>12}  ratio (95 % interval)")
    print("\n".join(line.line() for line in lines))
    print(f"\nraw numbers: {file}")
    return verdict(found, lines)


def verdict(found: Sequence[Measured], lines: Sequence[Comparison]) -> int:
    """Prints what fails; returns the exit code."""
    dearer = [f"{line.name} ({line.unit})" for line in lines if line.ratio and line.ratio.dearer]
    lost = [one.row.name for one in found if "new" in one.missing]
    bad = [f"{one.row.name} ({one.bad})" for one in found if one.bad]
    for what, names in (("bad answers", bad), ("not served any more", lost)):
        if names:
            print(f"{what}: {', '.join(names)}")
    print(f"above {DEARER}, 1 left out: {', '.join(dearer) or 'nothing'}")
    return 1 if dearer or lost or bad else 0


if __name__ == "__main__":
    sys.exit(main())
