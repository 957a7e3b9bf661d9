"""Measures Chattable beside other gateways that come from PyPI or npm, by two public methods.

    python tests/bench/peers.py [--quick] [--peers ferrogw,litellm] [--cache FOLDER] [--json FILE]

docs/benchmarks.md explains the methods and every column.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from against import interruptible, scratch
from fidelity import CHECKS, Spent, fidelity, spent
from gateways import (
    ALL_ON,
    CHATTABLE,
    DIRECT,
    NGINX,
    PEERS,
    Gateway,
    PeerError,
    first_answer,
    last_words,
)
from measuring import Round, combine, one_round
from report import ROOT, machine, versions
from rows import Row, chat
from run import chosen, prepare, say
from setups import Running, stub

WORKLOADS = ("plain", "stream")
Rounds = defaultdict[str, list[Round]]


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int = 25  # of interleaved calls
    calls: int = 7  # one after the other, in each round
    requests: int = 8_000  # of each workload
    connections: int = 10
    trials: int = 2
    starts: int = 3


QUICK = Size(rounds=5, requests=400, starts=1)


@dataclass
class Measured:
    """All that one run saw of a gateway."""

    gateway: Gateway
    running: Running
    cold_s: float
    sequential: Rounds = field(default_factory=lambda: defaultdict(list))  # by workload
    loaded: Rounds = field(default_factory=lambda: defaultdict(list))
    peak_mb: float = 0.0
    faults: dict[str, str] = field(default_factory=dict)  # by check of fidelity
    spent: Spent | None = None

    def row(self, workload: str, connections: int = 1) -> Row:
        """Returns the load of a workload on this gateway."""
        stream = workload == "stream"
        return Row(
            name=f"{self.gateway.name}, {workload}",
            setup=self.gateway.name,
            path=self.gateway.path,
            body=chat(self.gateway.model, stream),
            first=b" one" if stream else b"",
            expect=b"[DONE]" if stream else b"how can I help you today?",
            connections=connections,
            requests=0,
        )

    def ask(
        self, workload: str, upstream: Running, requests: int, connections: int = 1
    ) -> list[Round]:
        """Sends some of a workload's requests; no round comes of a gateway that is gone."""
        row = self.row(workload, connections)
        try:
            return [one_round(row, self.running, upstream, requests)]
        except (OSError, TimeoutError) as error:
            say(f"  {row.name}: {error}")
            return []

    def serves(self, workload: str, upstream: Running, size: Size) -> bool:
        """Warms a workload up; says whether it has answers at all."""
        seen = self.ask(workload, upstream, 2 * size.connections, size.connections)
        return any(one.bad < one.requests for one in seen)


def started(gateway: Gateway, upstream: Running, stack: ExitStack, starts: int) -> Measured:
    """Starts a gateway some times, the last of them for the stack."""
    seconds = []
    for _ in range(starts - 1):
        with gateway.start(upstream.port) as running:
            seconds.append(first_answer(gateway, running))
    running = stack.enter_context(gateway.start(upstream.port))
    seconds.append(first_answer(gateway, running))
    return Measured(gateway, running, median(seconds))


def measure(all_of_them: Sequence[Measured], upstream: Running, size: Size) -> None:
    """Measures the workloads that each gateway serves, by one method and then by the other."""
    turns = [
        (one, workload)
        for one in all_of_them
        for workload in WORKLOADS
        if one.serves(workload, upstream, size)
    ]
    for number in range(size.rounds):
        say(f"calls in turns, round {number + 1} of {size.rounds}")
        for one, workload in shuffled(turns):
            one.sequential[workload] += one.ask(workload, upstream, size.calls)
    for number in range(size.trials):
        say(f"{size.requests} requests a workload, trial {number + 1} of {size.trials}")
        for one, workload in shuffled(turns):
            seen = one.ask(workload, upstream, size.requests, size.connections)
            one.loaded[workload] += seen
    for one in all_of_them:
        one.peak_mb = peak(one.running)


def shuffled(turns: Sequence[tuple[Measured, str]]) -> list[tuple[Measured, str]]:
    """Returns the turns in another order."""
    return random.sample(turns, len(turns))


def peak(running: Running) -> float:
    """Returns the megabytes that a server's processes have had at most, each at its own time."""
    family = running.process.tree() if running.process else []
    return sum(high_water(process.pid) for process in family) / 1e3


def high_water(pid: int) -> int:
    """Returns the most resident memory that a process has had, in kilobytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def examine(one: Measured) -> None:
    """Checks what a gateway passes on, and its budget, each with a server of its own."""
    say(f"checking {one.gateway.name}")
    try:
        one.faults = fidelity(one.gateway)
        if one.gateway.with_budget:
            one.spent = spent(one.gateway, one.gateway.with_budget)
    except (PeerError, OSError, RuntimeError, TimeoutError) as error:
        say(f"  {one.gateway.name}: {error}")


def contenders(names: Sequence[str], cache: Path) -> tuple[list[Gateway], dict[str, str]]:
    """Installs the chosen peers; returns what can be started, and why the rest cannot."""
    found, missing = [DIRECT, *([NGINX] if shutil.which("nginx") else []), CHATTABLE, ALL_ON], {}
    for peer in (peer for peer in PEERS if peer.name in names):
        say(f"installing {peer.name} {peer.version}")
        try:
            found.append(peer.gateway(cache))
        except PeerError as error:
            missing[peer.name] = str(error)
    return found, missing


def compare(
    gateways: Sequence[Gateway], missing: dict[str, str], size: Size, checks: bool = True
) -> list[Measured]:
    """Starts all gateways, measures them in turns and then looks at what each passes on."""
    measured: list[Measured] = []
    with ExitStack() as stack:
        upstream = stack.enter_context(stub())
        for gateway in gateways:
            say(f"starting {gateway.name}")
            try:
                measured.append(started(gateway, upstream, stack, size.starts))
            except (PeerError, OSError, RuntimeError, TimeoutError) as error:
                missing[gateway.name] = last_words(str(error))
        measure(measured, upstream, size)
    for one in measured:
        if checks and one.gateway is not DIRECT:
            examine(one)
    return measured


def added(one: Measured, direct: Measured, workload: str, number: str) -> str:
    """Returns a latency on top of the direct call's, the median over the rounds."""
    pairs = zip(one.sequential[workload], direct.sequential[workload], strict=False)
    more = [getattr(seen, number) - getattr(bare, number) for seen, bare in pairs]
    return f"{median(more):.3f}" if more else "–"


def table(measured: Sequence[Measured]) -> Iterator[str]:
    """Yields the lines of the tables, with what is wrong below them."""
    direct = next(one for one in measured if one.gateway is DIRECT)
    yield f"{'one call at a time: p50 added, ms':<34}{'plain':>9}{'first word':>12}{'stream':>9}"
    for one in measured:
        cells = [
            added(one, direct, *what)
            for what in (("plain", "p50_ms"), ("stream", "first_ms"), ("stream", "p50_ms"))
        ]
        if one is not direct:
            yield f"{titled(one):<34}{cells[0]:>9}{cells[1]:>12}{cells[2]:>9}"
    for workload in WORKLOADS:
        yield ""
        titles = "".join(f"{title:>9}" for title in ("CPU µs", "req/s", "p50 ms", "p99 ms", "bad"))
        yield f"{f'10 at once: {workload}':<34}{titles}"
        for one in measured:
            yield f"{titled(one):<34}" + loaded(one, workload)
    yield ""
    yield f"{'':<34}{'peak MB':>9}{'cold s':>9}{'fidelity':>10}{'overspent':>11}"
    for one in (one for one in measured if one is not direct):
        right = sum(not wrong for wrong in one.faults.values())
        score = f"{right}/{len(CHECKS)}" if one.faults else "–"
        beyond = str(one.spent.beyond) if one.spent else "–"
        yield f"{titled(one):<34}{one.peak_mb:>9.0f}{one.cold_s:>9.2f}{score:>10}{beyond:>11}"
    for one in measured:
        for check, wrong in one.faults.items():
            if wrong:
                yield f"{one.gateway.name}, {check}: {wrong}"


def titled(one: Measured) -> str:
    return f"{one.gateway.name} {one.gateway.version}".strip()


def loaded(one: Measured, workload: str) -> str:
    """Returns the cells of a gateway under load: medians of the trials."""
    if not one.loaded[workload]:
        return f"{'–':>9}  not served"
    seen = combine(one.row(workload), one.loaded[workload], median, median)
    cpu = "–" if seen.cpu_us is None else f"{seen.cpu_us:.1f}"
    latency = f"{seen.p50_ms:>9.3f}{seen.p99_ms:>9.3f}"
    return f"{cpu:>9}{seen.per_second:>9.0f}{latency}{seen.bad:>9}"


def saved(one: Measured) -> dict[str, Any]:
    """Returns what the file keeps of a gateway: every round."""
    rounds = {
        method: {load: [asdict(seen) for seen in all_seen] for load, all_seen in by_load.items()}
        for method, by_load in (("sequential", one.sequential), ("loaded", one.loaded))
    }
    rest = {"peak MB": one.peak_mb, "cold s": one.cold_s}
    checks = {"fidelity": one.faults, "spent": asdict(one.spent) if one.spent else None}
    return {"name": one.gateway.name, "version": one.gateway.version} | rounds | rest | checks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, requests and starts")
    parser.add_argument("--peers", default="", help="comma-separated names, also with *")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir(), "chattable-peers"),
        help="where peers are installed, and found again",
    )
    parser.add_argument("--json", type=Path, help="default: bench-results/peers-DATE.json")
    options = parser.parse_args()
    names = chosen([peer.name for peer in PEERS], options.peers)

    now, where = datetime.now(UTC), machine()
    prepare()
    with interruptible():
        try:
            with scratch():
                gateways, missing = contenders(names, options.cache.absolute())
                measured = compare(gateways, missing, QUICK if options.quick else Size())
        except KeyboardInterrupt:
            return 130
    print("\n".join(table(measured)))
    for name, reason in missing.items():
        print(f"not measured: {name}: {reason}")
    file = options.json or ROOT / "bench-results" / f"peers-{now:%Y%m%dT%H%M%SZ}.json"
    head = {"date": now.isoformat(), "quick": options.quick, "machine": where}
    kept = head | {"versions": versions(), "missing": missing}
    kept |= {"gateways": [saved(one) for one in measured]}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    print(f"\nraw numbers: {file}")
    return wrong_with_us(measured, missing)


def wrong_with_us(measured: Sequence[Measured], missing: dict[str, str]) -> int:
    """Returns the exit code: what is wrong with others is told, what is wrong with us fails."""
    ours = [one for one in measured if one.gateway in (CHATTABLE, ALL_ON)]
    bad = [seen.bad for one in ours for rounds in one.loaded.values() for seen in rounds]
    faults = [wrong for one in ours for wrong in one.faults.values()]
    overspent = [one.spent.beyond for one in ours if one.spent]
    return int(any([*bad, *faults, *overspent, len(ours) < 2]))


if __name__ == "__main__":
    sys.exit(main())
