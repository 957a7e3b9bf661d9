"""Runs a module with everything counted that repeats from request to request.

    python tests/bench/counted.py FILE MODULE [ARGUMENT ...]

The counts are in FILE, one 64-bit number for each of `COUNTS`, and current at any moment: whoever
maps the file reads them without asking. What this file's own functions call is counted, they are
not: the counts are those of the module without them.
"""

import asyncio
import json
import mmap
import queue
import runpy
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

COUNTS = (
    "Python calls",
    "C calls",
    "tasks",
    "thread hand-overs",
    "SQL statements",
    "SQL commits",
    "JSON encodes",
    "JSON decodes",
)
CALLS, C_CALLS, TASKS, HAND_OVERS, STATEMENTS, COMMITS, ENCODES, DECODES = range(len(COUNTS))
ENCODING = {"encode": ENCODES, "encode_into": ENCODES, "encode_lines": ENCODES}
DECODING = {"decode": DECODES, "decode_lines": DECODES}
# Time passes more slowly: few requests have what is done by the clock among their own, such as the
# tick of a loop in the background or the lookup of a key that was not seen for a second.
SLOWER = 20  # times
BACKGROUND = 0.05  # seconds; a sleep that is shorter belongs to a request

# An addition has no call in it: no other thread gets its turn meanwhile, so none is lost.
cells = memoryview(bytearray(8 * len(COUNTS))).cast("Q")


def profile(frame: FrameType, event: str, _: Any) -> None:
    """Counts calls; a coroutine that goes on is one, as each of its frames is entered again."""
    if event == "c_call":
        cells[C_CALLS] += 1
    elif event == "call" and frame.f_code.co_filename != __file__:
        cells[CALLS] += 1


class Task(asyncio.Task[Any]):
    """A task that is counted when it is made, by whatever makes it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        cells[TASKS] += 1
        super().__init__(*args, **options)


class Queue(queue.SimpleQueue[Any]):
    """The queue by which executors and SQLite's threads get their work."""

    def put(self, *args: Any, **options: Any) -> None:
        cells[HAND_OVERS] += 1
        super().put(*args, **options)

    def put_nowait(self, *args: Any) -> None:
        cells[HAND_OVERS] += 1
        super().put_nowait(*args)


class Codec:
    """An encoder or decoder of msgspec whose use is counted."""

    made: type[Any]
    methods: dict[str, int]

    def __init__(self, *args: Any, **options: Any) -> None:
        self._inner = self.made(*args, **options)
        for name, cell in self.methods.items():
            if hasattr(self._inner, name):
                setattr(self, name, counted(getattr(self._inner, name), cell))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def counted(function: Callable[..., Any], cell: int) -> Callable[..., Any]:
    """Returns a function that counts its calls."""

    def call(*args: Any, **options: Any) -> Any:
        cells[cell] += 1
        return function(*args, **options)

    return call


def statement(sql: str) -> None:
    """Counts a statement that SQLite runs, those of transactions among them."""
    cells[STATEMENTS] += 1
    if sql[:6] == "COMMIT":
        cells[COMMITS] += 1


def connecting(connect: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
    """Returns a way to connect whose connections tell of their statements."""

    def traced(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.set_trace_callback(statement)
        return connection

    return traced


def slowed(clock: Callable[[], float]) -> Callable[[], float]:
    """Returns a clock that goes on from now, more slowly."""
    began = clock()

    def read() -> float:
        return began + (clock() - began) / SLOWER

    return read


def prolonged(sleep: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a way to sleep that takes longer where a loop in the background does it."""

    def longer(delay: float, *args: Any) -> Any:
        return sleep(delay * SLOWER if delay >= BACKGROUND else delay, *args)

    return longer


def count() -> None:
    """Puts the counting ones in place of what they count; before anything else is imported."""
    loops: Any = asyncio
    queues: Any = queue
    databases: Any = sqlite3
    loops.Task = loops.tasks.Task = Task
    asyncio.sleep = asyncio.tasks.sleep = prolonged(asyncio.sleep)
    time.sleep, time.time = prolonged(time.sleep), slowed(time.time)
    time.monotonic = slowed(time.monotonic)
    queues.SimpleQueue = Queue
    databases.connect = databases.dbapi2.connect = connecting(sqlite3.connect)
    json.dumps, json.loads = counted(json.dumps, ENCODES), counted(json.loads, DECODES)

    import msgspec

    ours: Any = msgspec.json
    ours.Encoder = type("Encoder", (Codec,), {"made": ours.Encoder, "methods": ENCODING})
    ours.Decoder = type("Decoder", (Codec,), {"made": ours.Decoder, "methods": DECODING})
    ours.encode, ours.decode = counted(ours.encode, ENCODES), counted(ours.decode, DECODES)
    threading.setprofile(profile)
    sys.setprofile(profile)


if __name__ == "__main__":
    file, module, *rest = sys.argv[1:]
    with Path(file).open("r+b") as shared:
        cells = memoryview(mmap.mmap(shared.fileno(), 8 * len(COUNTS))).cast("Q")
    sys.path.pop(0)  # this folder, whose modules are none of the program's
    sys.argv = [module, *rest]
    count()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.setprofile(None)
