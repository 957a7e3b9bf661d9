"""Which Pythons and pips are supported: said alike everywhere, told by make, tried by CI."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "pyproject.toml").read_text()
SUPPORTED = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', TEXT)
OLDEST, NEWEST = SUPPORTED[0], SUPPORTED[-1]


def test_the_supported_versions_are_the_same_everywhere() -> None:
    pyproject = tomllib.loads(TEXT)
    tool = pyproject["tool"]
    assert pyproject["project"]["requires-python"] == f">={OLDEST}"
    assert tool["mypy"]["python_version"] == OLDEST
    assert tool["ruff"]["target-version"] == "py" + OLDEST.replace(".", "")
    assert f"--python-version {OLDEST} " in (ROOT / "Makefile").read_text()
    readme = (ROOT / "README.md").read_text()
    assert f"make and Python {', '.join(SUPPORTED[:-1])} or {NEWEST}," in readme
    assert f"from pip {tool['chattable']['oldest-pip']} on" in readme
    images = re.findall(r"^FROM python:([\d.]+)", (ROOT / "Dockerfile").read_text(), re.M)
    assert set(images) <= set(SUPPORTED)


def test_a_commit_is_checked_by_what_make_runs() -> None:
    recipes = re.findall(
        r"^(?:lint|types):.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M
    )
    made = [
        line.strip().replace("$(BIN)", ".venv/bin")
        for recipe in recipes
        for line in recipe.splitlines()
    ]
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    assert [hook["entry"] for hook in repository["hooks"]] == made


@pytest.mark.parametrize(
    ("argument", "now", "planted", "code", "told"),
    [
        ("", "", "", 0, ""),
        ("pip", "", "", 0, ""),
        ("", f">={OLDEST}", ">=9.1", 1, r"3.*, 9\.1 or newer is needed\. .*PYTHON=python3"),
        ("pip", f">={OLDEST}", ">=9.1", 1, r"has the old Python 3.*: make clean, then make again"),
        ("pip", 'oldest-pip = "', 'oldest-pip = "99', 1, r"older than 99.*install --upgrade pip,"),
        ("", f":: {NEWEST}", ":: 3.1", 0, r"newer than the tested .*PYTHON=python3\.1\n"),
    ],
)
def test_make_says_what_to_do(
    tmp_path: Path, argument: str, now: str, planted: str, code: int, told: str,
) -> None:  # fmt: skip
    (tmp_path / "pyproject.toml").write_text(TEXT.replace(now, planted))
    command = [sys.executable, str(ROOT / ".ci" / "floors.py"), *argument.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert re.search(told, done.stderr) if told else done.stderr == ""


# A make that only tells what it is asked for and makes environments, of fakes as well.
MAKE = """
echo "make $*"
venv=.venv python=
for word; do
    case $word in VENV=*) venv=${word#*=} ;; PYTHON=*) python=${word#*=} ;; esac
done
[ -z "$python" ] && exit
mkdir -p "$venv/bin"
cp "$(command -v "$python")" "$venv/bin/python"
cp "$(command -v fake-pip)" "$venv/bin/pip"
"""
ONE_MISSING = """\
make .venv/dev PYTHON=python3.11 PIP=oldest
== Python 3.11, installed by pip 1
make check
== Python 3.12 is not here: not installed and not tested on it
make test ARGS=tests/test_locks.py PYTHON=python3.13 VENV=.venv-3.13 PIP=newest
== Python 3.13, installed by pip 1
make test-fast VENV=.venv-3.13
"""
ONE_HERE = """\
== Python 3.11 is not here: not installed and not tested on it
make .venv/dev PYTHON=python3.12 PIP=
== Python 3.12, installed by pip 1
make check
== Python 3.13 is not here: not installed and not tested on it
make test ARGS=tests/test_locks.py PYTHON=python3.12 VENV=.venv-newest-pip PIP=newest
== Python 3.12, installed by pip 1
"""
NONE_HERE = """\
== Python 3.11 is not here: not installed and not tested on it
== Python 3.12 is not here: not installed and not tested on it
== Python 3.13 is not here: not installed and not tested on it
None of Python 3.11 3.12 3.13 is here: install one, or name it in PYTHONS.
"""


@pytest.mark.parametrize(
    ("here", "told"),
    [({"3.11", "3.13"}, ONE_MISSING), ({"3.12"}, ONE_HERE), (set[str](), NONE_HERE)],
    ids=["one is missing", "one is here", "none is here"],
)
def test_ci_tries_every_python_that_is_here(tmp_path: Path, here: set[str], told: str) -> None:
    versions = ("3.11", "3.12", "3.13")
    classifiers = "\n".join(f'"Programming Language :: Python :: {v}",' for v in versions)
    (tmp_path / "pyproject.toml").write_text(classifiers)
    (tmp_path / ".ci").mkdir()
    script = shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    programs = {"make": MAKE, "fake-pip": "echo pip 1", "python3": "exit 1", "pyenv": "exit 1"}
    for version in versions:
        python = f'if [ "$1" = --version ]; then echo Python {version}; else echo {version}; fi'
        programs[f"python{version}"] = python if version in here else "exit 1"
    for name, script_text in programs.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{script_text}\n")
        program.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.defpath}"}
    done = subprocess.run([script], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout + done.stderr == told
    assert done.returncode == (0 if here else 1)
