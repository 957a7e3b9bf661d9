"""One line of the log for a cause and second: an outage is told, not the thousands of requests that meet it."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

AGAIN = 1.0  # seconds until a cause is told again
LONGEST = 200  # characters of an exception's text that tell causes apart
MOST = 1000  # causes that are remembered
OWN = re.compile(r"[0-9a-f]{8,}|[0-9]+")  # what differs from request to request: ids, amounts, times


class Floods(logging.Filter):
    """Lets warnings and errors of one cause through once in `AGAIN` seconds, with the number of those left out before.

    A cause is the text, and that of an exception with its type, without ids and numbers.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._told: dict[tuple[str, str], tuple[float, int]] = {}  # cause → when, how many since

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written."""
        if record.levelno < logging.WARNING:
            return True
        text, error = record.getMessage(), record.exc_info[1] if record.exc_info else None
        while error is not None and error.__cause__ is not None:
            error = error.__cause__
        cause = OWN.sub("#", text), OWN.sub("#", repr(error)[:LONGEST])
        now = self._clock()
        at, left_out = self._told.get(cause, (now - AGAIN, 0))
        if now - at < AGAIN:
            self._told[cause] = at, left_out + 1
            return False
        if len(self._told) >= MOST:
            self._told.clear()
        self._told[cause] = now, 0
        if left_out:
            record.msg, record.args = f"{text} ({left_out} more like this since it was last said)", ()
        return True
