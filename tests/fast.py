"""The pytest plugin of `make test-fast`: a test that starts another program is skipped as it does.

Our servers, PostgreSQL, Valkey and the real model are all programs of their own. So a test itself
decides whether it is fast, and nobody has to keep a list.
"""

import os
import platform
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

SERVERS_THAT_RUN = ("CHATTABLE_TEST_POSTGRES", "CHATTABLE_TEST_REDIS")
Report = Generator[None, pytest.TestReport, pytest.TestReport]
LEAST = 1 / 3  # of the suite: where fewer are fast, what most tests use has come to start a program


class Watch:
    """Skips the running test when it starts a program, whatever its code makes of that."""

    def __init__(self) -> None:
        self._running = False
        self._reason = ""

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        """Hears of every program before it starts."""
        if self._running and event == "subprocess.Popen":
            self._reason = f"starts {Path(os.fsdecode(args[0])).name}"
            pytest.skip(self._reason)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        self._running, self._reason = True, ""
        try:
            return (yield)
        finally:
            self._running = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Report:
        report = yield
        if self._reason and report.failed:
            path, line, _ = item.location
            report.outcome = "skipped"
            report.longrepr = (path, line or 0, f"Skipped: {self._reason}")
        return report


def pytest_configure(config: pytest.Config) -> None:
    """Watches this run; audit hooks cannot be removed."""
    for name in SERVERS_THAT_RUN:
        os.environ.pop(name, None)
    platform.platform()  # asks the program `uname` once, whoever is the first to call it
    watch = Watch()
    sys.addaudithook(watch.audit)
    config.pluginmanager.register(watch)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a run of the whole suite in which hardly a test was fast."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or session.config.args_source is pytest.Config.ArgsSource.ARGS:
        return
    ran, left = (len(reporter.stats.get(outcome, ())) for outcome in ("passed", "skipped"))
    if ran < LEAST * (ran + left):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"\nOnly {ran} of {ran + left} tests are fast: what do they all start?")
