"""The journal on a real disk: what was written survives, what is done leaves, nobody takes what another process still owns."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chattable.budget import journal as module
from chattable.budget.holds import Settlement, UnheldCall
from chattable.budget.journal import Journal, JournalRecord
from chattable.budget.ledger import Charge, HoldRequest
from chattable.budget.limits import Payer
from chattable.proxy.failpoints import from_environment


def end(name: str) -> Settlement:
    return Settlement(name, "settled", Charge(prompt=3, completion=4, estimated=True), "late")


def record(name: str) -> UnheldCall:
    return UnheldCall(
        HoldRequest(id=name, payer=Payer(user="u", team="t"), model="m", prompt=0, max_output=1),
        Charge(completion=5),
    )


def left(folder: Path) -> list[JournalRecord]:
    return [line for _, lines in Journal(folder).orphans() for line in lines]


def test_lines_of_a_dead_process_come_back_as_they_were(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from test_journal import Journal, end, record\n"
        "j = Journal(Path(sys.argv[1])); j.write(end('a')); j.write(record('b')); "
        "j.write(end('c')); j.done('c')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)], timeout=30
    )
    assert run.returncode == -signal.SIGKILL
    assert left(tmp_path)[:2] == [end("a"), record("b")]  # and c once more, which is harmless
    assert left(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_lines_are_read_as_earlier_versions_wrote_them(tmp_path: Path) -> None:
    (tmp_path / "1-old.jsonl").write_bytes(
        b'{"type":"End","id":"a","state":"settled","used":{"prompt":3,"completion":4,'
        b'"estimated":true},"reason":"late"}\n'
        b'{"type":"Record","call":{"id":"b","asker":{"user":"u","team":"t"},"model":"m",'
        b'"prompt":0,"most":1,"least":1,"request":""},"used":{"completion":5}}\n'
    )
    assert left(tmp_path) == [end("a"), record("b")]


def test_the_files_of_a_living_process_are_its_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(end("a"))
    assert left(tmp_path) == []
    journal.close()
    assert left(tmp_path) == [end("a")]


def test_lines_that_nobody_booked_are_handed_out_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(end("a"))
    journal.close()
    orphans: Any = Journal(tmp_path).orphans()
    next(orphans)
    orphans.close()  # whoever had them failed
    assert left(tmp_path) == [end("a")]


def test_a_file_leaves_when_all_of_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 1000)
    journal = Journal(tmp_path)
    names = [f"h{i}" for i in range(100)]
    for name in names:
        journal.write(end(name))
    assert len(list(tmp_path.iterdir())) > 5
    for name in names:
        journal.done(name)
    assert len(list(tmp_path.iterdir())) == 1
    journal.close()
    assert list(tmp_path.iterdir()) == []


DAMAGE = {
    "torn": (b'{"type":"End","id":"to', [3]),
    "no JSON": (b"nonsense\n", [3]),
    "no line of ours": (b'{"type":"Odd"}\n', [3]),
    "a page that was lost": (b"\0" * 100, [3]),
    "several": (b"x\n\xff\n" + b"y\n" * 30, [*range(3, 35)]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_lines_cost_only_themselves_and_are_counted_said_and_kept(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage, numbers = DAMAGE[name]
    journal = Journal(tmp_path)
    for line in ("a", "b"):
        journal.write(end(line))
    journal._segments[0].write(damage)
    if name != "torn":
        journal.write(end("c"))
    journal.close()
    (file,) = tmp_path.iterdir()
    heir = Journal(tmp_path)
    found = [line.id for _, lines in heir.orphans() for line in lines]
    assert found == (["a", "b"] if name == "torn" else ["a", "b", "c"])
    assert heir.damaged == len(numbers)
    (kept,) = tmp_path.iterdir()
    assert kept.name == file.name + ".damaged" and damage in kept.read_bytes()
    (said,) = caplog.messages
    assert said.startswith(f"{kept}: {len(numbers)} lines cannot be read and are not booked: 3")
    assert said.endswith(", …") == (len(numbers) > 20)
    assert left(tmp_path) == []  # it is not handed out again


def test_a_journal_that_cannot_be_written_is_found_by_the_probe(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "here")
    journal.probe()
    assert len(list((tmp_path / "here").iterdir())) == 1  # the file for the lines to come
    shutil.rmtree(tmp_path / "here")
    with pytest.raises(FileNotFoundError):  # nobody could find the open file that has room
        journal.probe()
    journal.close()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        Journal(tmp_path / "file" / "below").probe()


def test_a_full_disk_is_an_error_and_costs_no_line_that_was_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(end("a"))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    names = iter(range(10**9))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError, match=r"File too large|No space"):
            while True:  # what is left of the file it has
                journal.write(end(f"h{next(names)}"))
        with pytest.raises(OSError, match=r"File too large|No space"):
            journal.probe()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    journal.probe()
    journal.write(end("z"))
    journal.sync()
    journal.close()
    refused = f"h{next(names) - 1}"
    kept = {line.id for line in left(tmp_path)}
    assert {"a", "h0", "z"} <= kept
    assert refused not in kept
    assert len(kept) == int(refused[1:]) + 2
    assert list(tmp_path.iterdir()) == []


def test_a_line_longer_than_a_file_has_one_of_its_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    long = Settlement("long", "settled", Charge(), "x" * 3_000_000)
    journal.write(long)
    journal.close()
    assert left(tmp_path) == [long]


def test_a_failpoint_that_makes_no_sense_is_refused() -> None:
    from_environment({})("anything")
    with pytest.raises(ValueError, match="after_hold:kill9@3"):
        from_environment({"CHATTABLE_FAILPOINT": "after_hold"})


def test_where_no_room_can_be_reserved_zeros_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    journal = Journal(tmp_path)
    journal.write(end("a"))
    [file] = tmp_path.iterdir()
    assert file.stat().st_size == module.SEGMENT_BYTES
    assert file.stat().st_blocks * 512 >= module.SEGMENT_BYTES
    journal.close()
    assert left(tmp_path) == [end("a")]


def test_where_no_room_can_be_reserved_a_full_disk_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(os, "pwrite", full_disk)
    with pytest.raises(OSError, match="No space left"):
        Journal(tmp_path).write(end("a"))
    assert not list(tmp_path.iterdir())


def full_disk(_file: int, data: bytes, at: int) -> int:
    """Takes half of what it is given, then nothing."""
    if at:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return len(data) // 2
