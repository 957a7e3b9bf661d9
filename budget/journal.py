"""What was used and is not yet in the ledger, on this machine's own disk.

So neither a crash nor a database that is away loses any of it.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import uuid4

import msgspec

from chattable.budget.holds import Settlement, UnheldCall

log = logging.getLogger("chattable")

SEGMENT_BYTES = 1 << 20  # of a file
USUAL_LINE_BYTES = 4096  # what a line has at most, unless names are very long
SUFFIX = ".jsonl"
DAMAGED = ".damaged"  # ends the name of a file that has lines nobody can read
MAX_LOGGED_LINES = 20  # numbers of damaged lines in one log line

JournalRecord = Settlement | UnheldCall
_decode = msgspec.json.Decoder(Settlement | UnheldCall).decode
_encode = msgspec.json.Encoder().encode


class Journal:
    """Files of lines in one directory, a set of them for each process.

    Law: a line survives the process once `write` has returned, and the machine once `sync` has. A
    line leaves with its file, once all of the file's lines are `done`. A process owns the files
    that it has locked; the lock ends with the process, and then `orphans` hands them to whoever
    asks first. Lines may be handed out again after another crash. What cannot be read is counted,
    logged and kept.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.damaged = 0  # lines that could not be read
        self._segments: list[_Segment] = []
        self._where: dict[str, _Segment] = {}

    def write(self, line: JournalRecord) -> None:
        """Adds a line; OSError when there is no room on the disk for more."""
        data = _encode(line) + b"\n"
        segment = self._segment(len(data))
        segment.write(data)
        line_id = line.id
        segment.open.add(line_id)
        self._where[line_id] = segment

    def probe(self) -> None:
        """Raises OSError where there is no room for a line, or will be none for those behind it."""
        self._segment(USUAL_LINE_BYTES)
        trial = self.directory / f"{os.getpid()}-{uuid4().hex[:12]}.new"
        os.close(os.open(trial, os.O_WRONLY | os.O_CREAT, 0o600))
        trial.unlink(missing_ok=True)

    def done(self, line_id: str) -> None:
        """Marks a line as booked in the ledger."""
        segment = self._where.pop(line_id, None)
        if segment is None:
            return
        segment.open.discard(line_id)
        if not segment.open and segment is not self._segments[-1]:
            segment.end()
            self._segments.remove(segment)

    def sync(self) -> None:
        """Waits until what was written is on the disk; too slow for the event loop."""
        for segment in list(self._segments):
            segment.sync()

    def close(self) -> None:
        """Ends; files with lines that are not done stay for the next process."""
        for segment in self._segments:
            segment.end(keep=bool(segment.open))
        self._segments.clear()
        self._where.clear()

    def orphans(self) -> Iterator[tuple[Path, list[JournalRecord]]]:
        """The lines of dead processes, a file at a time.

        A file is removed when the caller asks for the next one.
        """
        for path in sorted(self.directory.glob(f"*{SUFFIX}")) if self.directory.is_dir() else ():
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
                    lines, damaged = _lines(file.read())
                    yield path, lines
                    if damaged:
                        self._keep(path, damaged)
                    else:
                        path.unlink(missing_ok=True)

    def _keep(self, path: Path, damaged: Sequence[int]) -> None:
        """Puts a file aside that has lines nobody can read."""
        self.damaged += len(damaged)
        kept = path.with_name(path.name + DAMAGED)
        path.rename(kept)
        numbers = ", ".join(map(str, damaged[:MAX_LOGGED_LINES])) + ", …" * (
            len(damaged) > MAX_LOGGED_LINES
        )
        log.error("%s: %d lines cannot be read and are not booked: %s", kept, len(damaged), numbers)

    def _segment(self, room: int) -> _Segment:
        """The file that has so much room."""
        if not self._segments or not self._segments[-1].has(room):
            self._segments.append(_Segment(self.directory, max(SEGMENT_BYTES, room)))
        return self._segments[-1]


class _Segment:
    """One locked file, whose place on the disk is taken from the beginning.

    A line is then a copy in memory and no system call.
    """

    def __init__(self, directory: Path, size: int) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = directory / f"{os.getpid()}-{uuid4().hex[:12]}{SUFFIX}"
        hidden = self.path.with_suffix(".new")  # nobody may find it before it is locked
        self._file = os.open(hidden, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _take_room(self._file, size)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._memory = mmap.mmap(self._file, size)
            hidden.rename(self.path)
            _sync_names(directory)
        except BaseException:
            os.close(self._file)
            hidden.unlink(missing_ok=True)
            raise
        self._size, self._end = size, 0
        self.open: set[str] = set()

    def has(self, room: int) -> bool:
        return self._end + room <= self._size

    def write(self, line: bytes) -> None:
        end = self._end + len(line)
        self._memory[self._end : end] = line
        self._end = end

    def sync(self) -> None:
        self._memory.flush()

    def end(self, *, keep: bool = False) -> None:
        self._memory.close()
        if not keep:
            self.path.unlink(missing_ok=True)
        os.close(self._file)


def _take_room(file: int, size: int) -> None:
    """Takes a file's place on the disk: one with holes would end the process on a full disk."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    zeros, written = bytes(size), 0  # macOS
    while written < size:
        written += os.pwrite(file, zeros[written:], written)


def _sync_names(directory: Path) -> None:
    names = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(names)
    finally:
        os.close(names)


def _lines(data: bytes) -> tuple[list[JournalRecord], list[int]]:
    """The lines, and the numbers of damaged ones: torn, or zeros of a page that was lost."""
    found: list[JournalRecord] = []
    damaged: list[int] = []
    for number, line in enumerate(data.rstrip(b"\0").split(b"\n"), 1):
        rest = line.lstrip(b"\0")
        try:
            if rest:
                found.append(_decode(rest))
            whole = rest == line
        except msgspec.DecodeError:
            whole = False
        if not whole:
            damaged.append(number)
    return found, damaged
