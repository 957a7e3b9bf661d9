"""The tools of the benchmark: what they compare, what they count, what they leave behind."""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from databases import migrated_sqlite

from chattable.budget.sql_ledger import SqlLedger
from chattable.proxy.store.database import Database

sys.path.insert(0, str(Path(__file__).parent))
import revisions
from against import OURS, Comparison, Measured, verdict
from counted import COUNTS
from fidelity import CHECKS, Spent, calls, folded
from figures import Figures, counted, higher
from filling import Sizes, fill
from gateways import BUDGET, CHATTABLE, DIRECT, PEERS, Gateway, Peer, PeerError
from load import holds, unchunked
from measuring import Round
from paired import Pair, Ratio, pair_of, ratio, trimmed
from peers import Size, compare, contenders, saved, table
from probes import PROBES
from rows import ROWS
from scale import ASKED
from setups import HERE

DOCS = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
CUT = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%b0\r\n\r\n"
PLAIN = next(row for row in ROWS if row.name == "plain")


def chunked(*parts: bytes) -> bytes:
    return CUT % b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


def test_an_end_that_a_server_cut_in_two_is_seen() -> None:
    answer = chunked(b"data: one\n\ndata: [DO", b"NE]\n\n")
    assert unchunked(answer) == b"data: one\n\ndata: [DONE]\n\n"
    assert holds(answer, b"data: [DONE]")
    assert not holds(chunked(b"data: one\n\n"), b"data: [DONE]")


def test_every_row_and_probe_is_documented() -> None:
    names = [*(row.name for row in ROWS), *PROBES, *ASKED]
    assert [name for name in names if f"`{name}`" not in DOCS] == []


# By the tables of the sign test at 5 %.
@pytest.mark.parametrize(("count", "left_out"), [(9, 1), (11, 1), (12, 2), (15, 3), (21, 5)])
def test_the_interval_of_a_median(count: int, left_out: int) -> None:
    assert trimmed(count) == left_out
    values = [Pair(2.0, 2.0 * (1 + n / 100)) for n in range(count)]
    found = ratio(values)
    assert found.low == pytest.approx(1 + left_out / 100)
    assert found.high == pytest.approx(1 + (count - 1 - left_out) / 100)
    assert found.median == pytest.approx(1 + (count - 1) / 200)


def test_pairs_are_measured_in_turns() -> None:
    seen: list[str] = []

    def measure(name: str) -> str:
        seen.append(name)
        return name

    pairs = [pair_of(n, lambda: measure("old"), lambda: measure("new")) for n in range(4)]
    assert pairs == [Pair("old", "new")] * 4
    assert seen == ["old", "new", "new", "old"] * 2


def measured(*ratios: float, bad: int = 0, missing: str = "") -> Measured:
    def seen(cpu: float, bad: int = 0) -> Round:
        return Round(100, cpu, 1.0, 1.0, 1.0, 1.0, 1.0, bad)

    return Measured(PLAIN, [Pair(seen(100.0), seen(100.0 * one, bad)) for one in ratios], missing)


@pytest.mark.parametrize(
    ("row", "code", "told"),
    [
        (measured(*[1.04] * 9), 0, "left out: nothing"),
        (measured(*[1.06] * 9), 1, "left out: plain (CPU µs)"),
        (measured(*[1.06] * 7, 0.9, 0.9), 0, "left out: nothing"),  # the interval has 1 in it
        (measured(*[1.0] * 9, bad=1), 1, "bad answers: plain (9)"),
        (measured(missing="not served by the old one"), 0, "left out: nothing"),
        (measured(missing="not served by the new one"), 1, "not served any more: plain"),
    ],
)
def test_verdict(row: Measured, code: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict([row], list(row.comparisons())) == code
    assert told in capsys.readouterr().out


def test_a_row_that_one_side_cannot_serve_has_dashes() -> None:
    (line,) = measured(missing="not served by the old one").comparisons()
    assert line.line().split()[:5] == ["plain", "CPU", "µs", "–", "–"]
    assert line.line().endswith("not served by the old one")
    assert Comparison("x", "s", [Pair(2.0, 1.0)] * 9).ratio == Ratio(0.5, 0.5, 0.5)


def test_a_worktree_goes_whatever_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    trees: list[Path] = []

    @contextmanager
    def interrupted(tree: Path) -> Iterator[None]:
        assert (tree / "pyproject.toml").exists()
        trees.append(tree)
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(revisions, "installed", interrupted)
    with pytest.raises(KeyboardInterrupt), revisions.checked_out("HEAD"):
        pass
    assert not trees[0].parent.exists()
    listed = ["git", "worktree", "list"]
    known = subprocess.run(listed, cwd=revisions.ROOT, check=True, capture_output=True, text=True)
    assert str(trees[0]) not in known.stdout


def test_an_unknown_revision_is_named() -> None:
    with pytest.raises(revisions.RevisionError, match="no-such-revision"):
        revisions.named("no-such-revision")


PROGRAM = """
import asyncio, json, sqlite3, sys
from concurrent.futures import ThreadPoolExecutor
import msgspec

def nothing():
    pass

async def later():
    pass

async def main(rounds, calls):
    encode, decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(int).decode
    connection = sqlite3.connect(":memory:")
    with ThreadPoolExecutor(1) as thread:
        for _ in range(rounds):
            await asyncio.create_task(later())
            await asyncio.get_running_loop().run_in_executor(thread, nothing)
            connection.execute("BEGIN")
            connection.execute("SELECT 1").fetchall()
            connection.commit()
            json.dumps(1), msgspec.json.encode(1), encode(1)
            json.loads("1"), msgspec.json.decode(b"1"), decode(b"1")
    for _ in range(calls):
        nothing()
        len("")

asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
"""


def counts(folder: Path, rounds: int, calls: int) -> dict[str, int]:
    """Counts a whole run of the program."""
    (folder / "counts").write_bytes(bytes(8 * len(COUNTS)))
    (folder / "program.py").write_text(PROGRAM)
    script = str(Path(__file__).with_name("counted.py"))
    command = [sys.executable, script, str(folder / "counts"), "program", str(rounds), str(calls)]
    # Without byte code of the program, which one run would write and the next one read.
    env = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(command, check=True, env=env, timeout=60)
    read = struct.unpack(f"={len(COUNTS)}Q", (folder / "counts").read_bytes())
    return dict(zip(COUNTS, read, strict=True))


def test_each_kind_is_counted(tmp_path: Path) -> None:
    once, again = counts(tmp_path, 1, 0), counts(tmp_path, 11, 0)
    assert {kind: (again[kind] - once[kind]) / 10 for kind in COUNTS[2:]} == {
        "tasks": 1,
        "thread hand-overs": 1,
        "SQL statements": 3,
        "SQL commits": 1,
        "JSON encodes": 3,
        "JSON decodes": 3,
    }


def test_calls_are_counted_one_by_one(tmp_path: Path) -> None:
    none, many = counts(tmp_path, 0, 0), counts(tmp_path, 0, 100)
    assert many["Python calls"] - none["Python calls"] == 100
    assert many["C calls"] - none["C calls"] == 100


def test_figures_repeat() -> None:
    first, again = (counted([PLAIN], HERE, 25)[0] for _ in range(2))
    assert first.medians == again.medians
    assert first.medians[0] > 100
    assert higher([again], [first]) == []
    fewer = Figures(PLAIN, [tuple(count - 1 for count in one) for one in first.requests])
    assert higher([first], [fewer]) == [f"{kind} of plain" for kind in COUNTS]


def test_what_is_compared_has_a_server() -> None:
    assert {row.setup for row in OURS} & {"direct", "nginx"} == set()
    assert "plain" in {row.name for row in OURS}


TINY = Size(rounds=2, calls=2, requests=20, trials=1, starts=1)
CALL = {"id": "call_1", "function": {"name": "get", "arguments": "{}"}}


def test_peers_are_measured_and_checked() -> None:
    missing: dict[str, str] = {}
    direct, chattable = compare([DIRECT, CHATTABLE], missing, TINY)
    assert missing == {}
    assert chattable.faults == dict.fromkeys(CHECKS, "")
    assert chattable.spent is not None
    assert chattable.spent.beyond == 0
    assert 0 < chattable.spent.answered < 200
    for one in (direct, chattable):
        rounds = [*one.sequential.values(), *one.loaded.values()]
        assert [len(seen) for seen in rounds] == [2, 2, 1, 1]
        assert not any(seen.bad for all_seen in rounds for seen in all_seen)
    lines = [line for line in table([direct, chattable]) if line.startswith("chattable")]
    assert len(lines) == 4
    assert f"{len(CHECKS)}/{len(CHECKS)}" in lines[-1]
    assert saved(chattable)["spent"] == {"answered": chattable.spent.answered} | {
        "tokens": chattable.spent.tokens
    }


def test_a_peer_that_cannot_be_installed_or_started_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone(Peer):
        def gateway(self, cache: Path) -> Gateway:
            raise PeerError("cannot be installed: no such package")

    fields: dict[str, Any] = {"package": "x", "version": "1", "headers": {}}
    silent = Peer(name="silent", command=(sys.executable, "-c", "print('no disk')"), **fields)
    (tmp_path / "silent-1").mkdir()
    (tmp_path / "silent-1" / "installed").touch()
    gone = Gone(name="gone", command=(), **fields)
    monkeypatch.setattr("peers.PEERS", (gone, silent))
    found, missing = contenders(["gone", "silent"], tmp_path)
    assert compare([DIRECT, found[-1]], missing, TINY)[0].gateway is DIRECT
    assert missing["gone"] == "cannot be installed: no such package"
    assert missing["silent"] == "does not answer: no disk"


def test_what_is_passed_on_is_compared_as_a_client_reads_it() -> None:
    first = {"index": 0, "id": "call_1", "function": {"name": "get", "arguments": "{"}}
    pieces = [first, {"index": 0, "function": {"arguments": "}"}}]
    events = [{"choices": [{"delta": {"tool_calls": [piece]}}]} for piece in pieces]
    whole = {"choices": [{"message": {"tool_calls": [CALL]}}]}
    assert folded(iter(events)) == calls(whole) == [("call_1", "get", {})]
    assert folded(iter(events[:1]))[0][2] == "no JSON: '{'"
    assert (Spent(9, BUDGET - 1).beyond, Spent(9, BUDGET + 7).beyond) == (0, 7)


def test_every_peer_is_documented() -> None:
    assert [peer.name for peer in PEERS if peer.name not in DOCS.lower()] == []


async def test_a_filled_database_is_as_a_server_left_it(tmp_path: Path) -> None:
    url = migrated_sqlite(tmp_path / "chattable.db")
    await fill(url, Sizes(calls=300, users=30, budgets=10, sessions=20, models=1))
    database = Database(url)
    await database.start()
    ledger = SqlLedger(database.storage)
    assert await ledger.verify() == []
    (row,) = await ledger.usage([], since=0, until=2**40, only={})
    entries = await ledger.entries(most=1000)
    assert (row.requests, row.prompt_tokens, len(entries)) == (300, 60_000, 2 * (300 + 30))
    assert len(await ledger.limits()) == 12
    await database.stop()


def test_growth_is_measured(tmp_path: Path) -> None:
    rows = "ledger verify,usage,budgets,ledger of,sessions"
    script = str(Path(__file__).with_name("scale.py"))
    command = [sys.executable, script, "--scale", "0", "--rounds", "1", "--rows", rows]
    command += ["--databases", "sqlite", "--json", str(tmp_path / "scale.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert " bad " not in done.stderr and "ms: " not in done.stderr, done.stderr
    found = json.loads((tmp_path / "scale.json").read_text())["sqlite"]
    assert {"usage, month by user,day", "budgets of a user", "sessions"} < set(found)
    assert all(seen["empty"] and seen["full"] for seen in found.values())
