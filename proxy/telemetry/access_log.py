"""One line of JSON per request, written apart: a blocked log never slows an answer."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections import deque
from typing import Any, BinaryIO

import msgspec

BATCH = 0.1  # seconds between writes
# lines; when the log is blocked for so long that more wait, the oldest are dropped
MAX_WAITING = 20_000

encode = msgspec.json.Encoder().encode
# a key where a path has an id: it is no secret any more once it is in a log
SECRET = re.compile(rb"sk-[A-Za-z0-9_-]{8,}")


class AccessLog:
    """Collects lines and lets a thread write them."""

    def __init__(self, sink: BinaryIO | None = None) -> None:
        self._sink = sink or sys.stderr.buffer
        self._lines: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._waiting = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)

    def start(self) -> None:
        """Begins to write."""
        self._thread.start()

    def add(self, line: dict[str, Any]) -> None:
        """Notes one request."""
        self._lines.append(encode(line))
        if not self._waiting.is_set():
            self._waiting.set()

    def stop(self) -> None:
        """Writes what is left, unless the log is blocked."""
        self._closing = True
        self._waiting.set()
        self._thread.join(timeout=1)

    def _run(self) -> None:
        while not self._closing:
            self._waiting.wait()
            self._waiting.clear()
            if not self._closing:
                time.sleep(BATCH)
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            if lines:
                self._sink.write(SECRET.sub(b"sk-****", b"\n".join(lines)) + b"\n")
                self._sink.flush()
