"""Says what to do where the Python or its pip is older than pyproject.toml allows.

`make` runs it twice: with the Python that it is given, then, as `floors.py pip`, with the virtual
environment's own. Every Python 3 has to be able to run it, for it is there for the old ones.
"""

import re
import sys
from pathlib import Path

PROJECT = Path("pyproject.toml").read_text(encoding="utf-8")
TESTED = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
PYTHON = "{}.{}".format(*sys.version_info)


def floor(key: str) -> str:
    """Returns the oldest version that pyproject.toml allows."""
    return re.findall(rf'^{key} = "[>=]*([\d.]+)"', PROJECT, re.MULTILINE)[0]


def older(version: str, than: str) -> bool:
    """Compares the first two numbers."""
    mine, other = ([int(number) for number in re.findall(r"\d+", it)[:2]] for it in (version, than))
    return mine < other


def check_python() -> None:
    """Ends the program if it is too old; says so if it is newer than the tested ones."""
    oldest, newest = floor("requires-python"), TESTED[-1]
    if older(PYTHON, oldest):
        problem = f"{sys.executable} is Python {PYTHON}, {oldest} or newer is needed"
        sys.exit(f"make: {problem}. Name another: make PYTHON=python{newest}")
    if older(newest, PYTHON):
        note = f"Python {PYTHON} is newer than the tested ones, {', '.join(TESTED)}"
        advice = f"If something fails: make clean, then make PYTHON=python{newest}"
        print(f"make: {note}. {advice}", file=sys.stderr)


def check_environment() -> None:
    """Ends the program if the virtual environment is of an older Python, or without a good pip."""
    if older(PYTHON, floor("requires-python")):
        sys.exit(f"make: the environment has the old Python {PYTHON}: make clean, then make again")
    try:
        from pip import __version__ as pip
    except ImportError:
        sys.exit("make: the environment has no pip: make clean, then make again")
    if older(pip, floor("oldest-pip")):
        upgrade = f"{sys.executable} -m pip install --upgrade pip"
        sys.exit(f"make: pip {pip} is older than {floor('oldest-pip')}: {upgrade}, then make again")


if sys.argv[1:] == ["pip"]:
    check_environment()
else:
    check_python()
