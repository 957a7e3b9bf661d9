"""One log line a cause and second: an outage is logged, not each request that meets it."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

AGAIN = 1.0  # seconds until a cause is told again
LONGEST = 200  # characters of a text that tell causes apart
DEEPEST = 10  # exceptions behind one that are looked at
MOST = 1000  # causes that are remembered
# what differs from request to request: ids, amounts, times
OWN = re.compile(r"[0-9a-f]{8,}|[0-9]+")


class Floods(logging.Filter):
    """Passes warnings of one cause once in `AGAIN` seconds, with the number left out before.

    A cause is the text, and the exception behind it, without ids and numbers. A record that nobody
    can read passes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._told: dict[str, tuple[float, int]] = {}  # cause → when, how many since

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written."""
        if record.levelno < logging.WARNING:
            return True
        try:
            text = record.getMessage()
        except Exception:
            return True
        cause = OWN.sub("#", text[:LONGEST] + _behind(record))
        now = self._clock()
        at, left_out = self._told.get(cause, (now - AGAIN, 0))
        if now - at < AGAIN:
            self._told[cause] = at, left_out + 1
            return False
        if len(self._told) >= MOST:
            self._told.clear()
        self._told[cause] = now, 0
        if left_out:
            record.msg, record.args = (
                f"{text} ({left_out} more like this since it was last said)",
                (),
            )
        return True


def _behind(record: logging.LogRecord) -> str:
    """What failed first: the type of the exception, and the beginning of what it says."""
    error = record.exc_info[1] if record.exc_info else None
    for _ in range(DEEPEST):  # causes may go in a circle
        if error is None or error.__cause__ is None:
            break
        error = error.__cause__
    if error is None:
        return ""
    said = [arg[:LONGEST] for arg in error.args if isinstance(arg, str)]
    return "\n".join([type(error).__qualname__, *said[:3]])
