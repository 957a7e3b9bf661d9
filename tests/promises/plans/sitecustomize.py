"""Gives each worker its own failpoint: Python runs this before anything of the server.

The folder `CHATTABLE_TEST_PLANS` has one file for each worker to come, in their order; a worker
takes the first that is left and writes down, under its pid, what it was given. When none is left a
worker lives.
"""

import os
import sys
from pathlib import Path

FAILPOINT = "CHATTABLE_FAILPOINT"


def _take(folder: Path) -> str:
    for plan in sorted(folder.glob("*.plan")):
        mine = folder / f"{os.getpid()}.taken"
        try:
            plan.rename(mine)  # only one of those who want it succeeds
        except FileNotFoundError:
            continue
        return mine.read_text()
    return ""


_folder = os.environ.get("CHATTABLE_TEST_PLANS")
# a worker, and not the supervisor or its resource tracker
if _folder and "--multiprocessing-fork" in sys.orig_argv:
    os.environ[FAILPOINT] = _take(Path(_folder))
