"""The table, the machine it was measured on, and the raw numbers as JSON."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from measuring import Round, combine
from rows import FIGURES, Row
from setups import PINNED

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "chattable",
    "litestar",
    "uvicorn",
    "granian",
    "httptools",
    "aiohttp",
    "msgspec",
    "sqlalchemy",
    "uvloop",
)
TOLD = {
    "nginx": ["nginx", "-v"],
    "commit": ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],
}


def machine() -> dict[str, Any]:
    """Describes where this was measured."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(": ")[2] for line in cpuinfo if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "pinned": PINNED,
        "kernel": platform.release(),
        "load average before": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Names what was measured, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    for name, command in TOLD.items():
        told = (
            subprocess.run(command, capture_output=True, text=True, check=False)
            if shutil.which(command[0])
            else None
        )
        if told and told.returncode == 0:
            found[name] = (told.stdout or told.stderr).strip().rpartition("/")[2]
    return found


@dataclass
class Report:
    """Everything one run has measured."""

    date: datetime
    quick: bool
    machine: dict[str, Any]
    versions: dict[str, str]
    rows: list[Row]
    rounds: dict[str, list[Round]]
    probes: dict[str, float]

    def __post_init__(self) -> None:
        self.best = {row.name: combine(row, self.rounds[row.name], min, max) for row in self.rows}
        self.median = {
            row.name: combine(row, self.rounds[row.name], median, median) for row in self.rows
        }

    @property
    def bad(self) -> int:
        return sum(seen.bad for seen in self.best.values())

    def figures(self) -> dict[str, float]:
        """Returns what the rows give together, as far as they were measured, and the probes."""
        given = {}
        for figure in FIGURES:
            rows = [self.median[name] for name in figure.rows if name in self.median]
            if len(rows) == len(figure.rows):
                given[f"{figure.name} [{figure.unit}]"] = figure.value(*rows)
        return given | self.probes

    def ratio(self, row: Row) -> str:
        """Says how many times its reference a row costs."""
        mine, other = self.median[row.name], self.median.get(row.versus)
        if other is None:
            return ""
        if mine.cpu_us is not None and other.cpu_us:
            return f"{mine.cpu_us / other.cpu_us:.1f} × {row.versus} (CPU)"
        return f"{mine.p50_ms / other.p50_ms:.1f} × {row.versus} (p50)"

    def line(self, row: Row) -> str:
        best, middle = self.best[row.name], self.median[row.name]
        cpus = [seen.cpu_us for seen in (middle, best)]
        costs = "".join(" " * 9 if cpu is None else f"{cpu:>9.1f}" for cpu in cpus)
        waits = "".join(f"{ms:>8.3f}" for ms in (middle.p50_ms, middle.p99_ms, middle.first_ms))
        wrong = "" if abs(best.calls - row.calls) < 0.01 else f"  CALLS: {row.calls:g} expected"
        counts = f"{best.calls:>7.2f}{best.bad:>5}"
        speed = f"{middle.per_second:>8.0f}"
        return f"{row.name:<22}{costs}{speed}{waits}{counts}  {self.ratio(row)}{wrong}"

    def text(self) -> str:
        """Returns the table with its machine, versions and date."""
        where, pinned = self.machine, "pinned" if self.machine["pinned"] else "NOT pinned"
        lines = [
            f"{self.date:%Y-%m-%d %H:%M} UTC · {where['cpu']}, {where['cores']} cores, {pinned} · "
            f"Linux {where['kernel']}",
            ", ".join(f"{name} {version}" for name, version in self.versions.items()),
        ]
        if self.rows:
            titles = f"{'row':<22}{'CPU µs':>9}{'best':>9}{'req/s':>8}{'p50 ms':>8}{'p99 ms':>8}"
            titles += f"{'first':>8}{'calls':>7}{'bad':>5}  ratio"
            lines += ["", titles, *map(self.line, self.rows)]
        figures = self.figures()
        return "\n".join(
            [*lines, "", *(f"{name:<52}{value:>10.3f}" for name, value in figures.items())]
        )

    def save(self, file: Path) -> None:
        """Writes every round as JSON."""
        rows = [
            {
                "name": row.name,
                "setup": row.setup,
                "connections": row.connections,
                "versus": row.versus,
            }
            | {"best": asdict(self.best[row.name]), "median": asdict(self.median[row.name])}
            | {"rounds": [asdict(seen) for seen in self.rounds[row.name]]}
            for row in self.rows
        ]
        head = {
            "date": self.date.isoformat(),
            "quick": self.quick,
            "machine": self.machine,
            "versions": self.versions,
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            json.dumps(
                head | {"rows": rows, "figures": self.figures()}, indent=1, ensure_ascii=False
            )
            + "\n"
        )
