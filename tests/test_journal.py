"""The journal on a real disk: what was written survives, what is done leaves, nobody takes what another process still owns."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chattable.budget import journal as module
from chattable.budget.calls import End, Record
from chattable.budget.journal import Journal, Line
from chattable.budget.ledger import Used, Wish
from chattable.budget.limits import Asker
from chattable.proxy.failpoints import from_environment


def end(name: str) -> End:
    return End(name, "settled", Used(prompt=3, completion=4, estimated=True), "late")


def record(name: str) -> Record:
    return Record(Wish(id=name, asker=Asker(user="u", team="t"), model="m", prompt=0, most=1), Used(completion=5))


def left(folder: Path) -> list[Line]:
    return [line for _, lines in Journal(folder).orphans() for line in lines]


def test_lines_of_a_dead_process_come_back_as_they_were(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from test_journal import Journal, end, record\n"
        "j = Journal(Path(sys.argv[1])); j.write(end('a')); j.write(record('b')); j.write(end('c')); j.done('c')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)], timeout=30)
    assert run.returncode == -signal.SIGKILL
    assert left(tmp_path)[:2] == [end("a"), record("b")]  # and c once more, which is harmless
    assert left(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


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
    orphans = Journal(tmp_path).orphans()
    next(orphans)
    orphans.close()  # whoever had them failed
    assert left(tmp_path) == [end("a")]


def test_a_file_leaves_when_all_of_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT", 1000)
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


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(end("a"))
    (file,) = tmp_path.iterdir()
    with file.open("ab") as torn:
        torn.write(b'{"type":"End","id":"to')
    journal.close()
    assert left(tmp_path) == [end("a")]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no disk that is always full")
def test_a_full_disk_is_an_error_and_not_a_loss_of_the_next_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(end("a"))
    segment = journal._segments[0]
    real, full = segment._file, os.open("/dev/full", os.O_WRONLY)
    segment._file = full
    with pytest.raises(OSError, match="No space"):
        journal.write(end("b"))
    with pytest.raises(OSError, match="No space"):
        journal.probe()
    os.close(full)
    segment._file = real
    journal.probe()
    journal.write(end("c"))
    journal.sync()
    journal.close()
    assert left(tmp_path) == [end("a"), end("c")]


def test_a_failpoint_that_makes_no_sense_is_refused() -> None:
    from_environment({})("anything")
    with pytest.raises(ValueError, match="after_hold:kill9@3"):
        from_environment({"CHATTABLE_FAILPOINT": "after_hold"})
