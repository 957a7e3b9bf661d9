"""Other revisions to measure beside the present one, with the dependencies of their own lock."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from setups import Program

ROOT = Path(__file__).parents[2]


class RevisionError(Exception):
    """A revision that cannot be had, or cannot be installed."""


def named(revision: str) -> str:
    """Returns the short id of a revision's commit."""
    return _run("git", "rev-parse", "--verify", "--short", f"{revision}^{{commit}}").strip()


def present() -> str:
    """Returns the short id of the present commit, with a plus sign where files differ from it."""
    changed = _run("git", "status", "--porcelain").strip()
    return named("HEAD") + ("+" if changed else "")


@contextmanager
def checked_out(revision: str) -> Iterator[Program]:
    """Checks a revision out and installs it in a temporary folder; yields what runs it."""
    with tempfile.TemporaryDirectory(prefix="bench-revision-") as home:
        tree = str(Path(home, "tree"))
        try:
            _run("git", "worktree", "add", "--quiet", "--detach", tree, revision)
            with installed(Path(tree)) as program:
                yield program
        finally:  # also of a worktree that is there in part
            remove = ["git", "worktree", "remove", "--force", tree]
            subprocess.run(remove, cwd=ROOT, check=False, capture_output=True)


@contextmanager
def copied() -> Iterator[Program]:
    """Installs the present tree, as its files are now: what is edited meanwhile is not measured."""
    files = _run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    with tempfile.TemporaryDirectory(prefix="bench-present-") as home:
        for file in (file for file in files if (ROOT / file).is_file()):
            copy = Path(home, file)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, copy)
        with installed(Path(home)) as program:
            yield program


@contextmanager
def installed(tree: Path) -> Iterator[Program]:
    """Installs a tree with the versions of its own runtime lock; yields what runs it.

    Nothing of the development tools is there: what is measured is what a user has.
    """
    with tempfile.TemporaryDirectory(prefix="bench-installed-") as home:
        python, uv = str(Path(home, "bin", "python")), _uv()
        install = [uv, "pip", "install", "--quiet", "--python", python]
        lock = str(tree / "requirements.lock")
        _run(uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, home)
        _run(*install, "--require-hashes", "--requirement", lock)
        _run(*install, "--no-deps", "--no-build-isolation", "--editable", str(tree))
        yield (python, "-m", "chattable.proxy")


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if not found:
        raise RevisionError("uv is not installed; `make bench-against` installs it")
    return found


def _run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RevisionError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
