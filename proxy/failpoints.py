"""Crashes on purpose, for tests: inert unless the environment names a point."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Mapping

VARIABLE = "CHATTABLE_FAILPOINT"
SIGNALS = {"kill9": signal.SIGKILL, "stop": signal.SIGSTOP}


def from_environment(env: Mapping[str, str]) -> Callable[[str], None]:
    """What to call at each point; `after_hold:kill9@3` kills the process there the third time."""
    plan = env.get(VARIABLE, "")
    if not plan:
        return lambda _: None
    found = re.fullmatch(r"(\w+):(kill9|stop)@(\d+)", plan)
    if found is None:
        raise ValueError(f"{VARIABLE} must read like after_hold:kill9@3, not {plan!r}")
    point, action, count = found[1], SIGNALS[found[2]], int(found[3])
    seen: Counter[str] = Counter()

    def reach(name: str) -> None:
        seen[name] += 1
        if name == point and seen[name] == count:
            os.kill(os.getpid(), action)

    return reach
