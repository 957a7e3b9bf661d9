"""What `make test-fast` leaves out, and that it says so where that is nearly everything."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STARTS = """
import asyncio, subprocess, sys
from contextlib import suppress
import pytest

@pytest.fixture(scope="session")
def server():
    with subprocess.Popen([sys.executable, "-c", "0"]) as process:
        yield process

async def later():
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "0")
    await process.wait()

def test_by_fixture(server): pass
def test_by_fixture_again(server): pass
def test_in_the_body(): subprocess.run([sys.executable, "-c", "0"], check=True)
async def test_in_a_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(later())
async def test_in_a_task_that_nobody_asks():
    task = asyncio.create_task(later())
    await asyncio.wait([task])
    assert task.exception() is None
"""
FAST = """
import pytest

@pytest.mark.parametrize("which", range(5))
def test_fast(which): pass
"""
WRONG = "def test_wrong(): assert False"


@pytest.mark.parametrize(
    ("tests", "code", "told"),
    [
        (STARTS + FAST, 0, "5 passed, 5 skipped in"),
        (FAST + WRONG, 1, "1 failed, 5 passed in"),
        (STARTS, 1, "Only 0 of 5 tests are fast: what do they all start?"),
    ],
    ids=["what starts a program is left out", "a failure is a failure", "hardly a test is fast"],
)
def test_fast_runs(tmp_path: Path, tests: str, code: int, told: str) -> None:
    settings = '[tool.pytest.ini_options]\nasyncio_mode = "auto"\ntestpaths = ["."]\n'
    (tmp_path / "pyproject.toml").write_text(settings)
    (tmp_path / "test_it.py").write_text(tests)
    env = os.environ | {
        "PYTHONPATH": str(Path(__file__).parent),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": "fast,pytest_asyncio.plugin",
    }
    command = [sys.executable, "-m", "pytest", "-q"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert told in done.stdout
    assert done.returncode == code, done.stdout
