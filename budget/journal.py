"""What was used and is not yet in the ledger, on this machine's own disk: a crash, or a database that is away, loses nothing."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import msgspec

from chattable.budget.calls import End, Record

SEGMENT = 1 << 20  # bytes after which a new file is begun
SUFFIX = ".jsonl"

Line = End | Record
_decode = msgspec.json.Decoder(End | Record).decode
_encode = msgspec.json.Encoder().encode


class Journal:
    """Files of lines in one directory, a set of them for each process.

    Law: a line that `write` returned from survives the process; one that `sync` returned after, the machine. A line leaves
    with its file, once all of the file's lines are `done`. A process owns the files that it has locked; the lock ends with
    the process, and then `orphans` hands them to whoever asks first. Lines may be handed out again after another crash.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._segments: list[_Segment] = []
        self._where: dict[str, _Segment] = {}

    def write(self, line: Line) -> None:
        """Adds a line; OSError when the disk does not take it."""
        segment = self._current()
        segment.write(_encode(line))
        segment.open.add(line.id)
        self._where[line.id] = segment

    def probe(self) -> None:
        """Raises OSError when the disk would not take a line."""
        self._current().write(b"")

    def done(self, line_id: str) -> None:
        """Says that the ledger has it."""
        segment = self._where.pop(line_id, None)
        if segment is None:
            return
        segment.open.discard(line_id)
        if not segment.open and segment is not self._segments[-1]:
            segment.end()
            self._segments.remove(segment)

    def sync(self) -> None:
        """Waits until what was written is on the disk: some tenths of a millisecond, not for the event loop."""
        for segment in list(self._segments):
            segment.sync()

    def close(self) -> None:
        """Ends; files with lines that are not done stay for the next process."""
        for segment in self._segments:
            segment.end(keep=bool(segment.open))
        self._segments.clear()
        self._where.clear()

    def orphans(self) -> Iterator[tuple[Path, list[Line]]]:
        """The lines of dead processes, a file at a time; each is removed when the caller comes back for the next."""
        for path in sorted(self._directory.glob(f"*{SUFFIX}")) if self._directory.is_dir() else ():
            try:
                file = path.open("rb")
            except FileNotFoundError:  # somebody else was faster
                continue
            with file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                if path.exists():  # it may have been removed before we had the lock
                    yield path, _lines(file.read())
                    path.unlink(missing_ok=True)

    def _current(self) -> _Segment:
        if not self._segments or self._segments[-1].size > SEGMENT:
            self._segments.append(_Segment(self._directory))
        return self._segments[-1]


class _Segment:
    """One locked file."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = directory / f"{os.getpid()}-{uuid4().hex[:12]}{SUFFIX}"
        hidden = self.path.with_suffix(".new")  # nobody may find it before it is locked
        self._file = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        hidden.rename(self.path)
        _sync_names(directory)
        self.size, self._torn = 0, False
        self.open: set[str] = set()

    def write(self, line: bytes) -> None:
        data = b"\n%b\n" % line if self._torn else b"%b\n" % line
        written = os.write(self._file, data)
        self.size += written
        self._torn = written != len(data)
        if self._torn:
            raise OSError("the journal's disk is full")

    def sync(self) -> None:
        os.fdatasync(self._file)

    def end(self, *, keep: bool = False) -> None:
        if not keep:
            self.path.unlink(missing_ok=True)
        os.close(self._file)


def _sync_names(directory: Path) -> None:
    names = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(names)
    finally:
        os.close(names)


def _lines(data: bytes) -> list[Line]:
    """The whole lines; the last may be torn."""
    found: list[Line] = []
    for line in data.splitlines():
        try:
            found.append(_decode(line))
        except msgspec.DecodeError:
            continue
    return found
