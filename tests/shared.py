"""What the processes of one test run share: a folder, in which the first that needs a thing makes
it for all of them.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = "CHATTABLE_TEST_RUN"  # set by the first process of a run, for those that it starts


def open_run() -> None:
    """Makes the folder; its name is short, because a socket's path has 107 bytes."""
    os.environ[FOLDER] = tempfile.mkdtemp(prefix="chattable-run-")


def close_run() -> None:
    """Removes it."""
    shutil.rmtree(os.environ.pop(FOLDER), ignore_errors=True)


def in_a_run() -> bool:
    """Says whether pytest is running us."""
    return FOLDER in os.environ


def run_folder() -> Path:
    """The folder."""
    return Path(os.environ[FOLDER])


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Keeps the other processes of the run waiting until the block ends."""
    with (run_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the file, and with the process
        yield
