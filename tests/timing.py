"""Says at the end of a run where its time went."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest

SHORT = 30.0  # seconds of tests about which nothing needs to be said
FILES = 10  # that are named


class Timing:
    """Adds up what tests took, their fixtures included; several processes may run them."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._seconds: Any = Counter[str]()  # a Counter adds up fractions as well
        self._tests = Counter[str]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes down one phase of one test."""
        file = report.nodeid.partition("::")[0]
        self._seconds[file] += report.duration
        self._tests[file] += report.when == "call"

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        """Prints the folders and the files that took longest."""
        took, tests = time.monotonic() - self._began, self._seconds.total()
        if tests < SHORT:
            return
        processes = config.getoption("numprocesses", None) or 1
        terminalreporter.section(f"{took:.0f} s with {processes} processes, {tests:.0f} s of tests")
        for line in self._table():
            terminalreporter.write_line(line)

    def _table(self) -> Iterator[str]:
        folders: Any = Counter[str]()
        tests = Counter[str]()
        for file, seconds in self._seconds.items():
            folder = str(PurePosixPath(file).parent)
            folders[folder] += seconds
            tests[folder] += self._tests[file]
        yield from self._rows("folder", folders, tests, None)
        yield from self._rows("file", self._seconds, self._tests, FILES)

    @staticmethod
    def _rows(title: str, took: Any, tests: Counter[str], most: int | None) -> Iterator[str]:
        yield f"seconds  tests  {title}"
        for name, seconds in took.most_common(most):
            yield f"{seconds:7.1f}  {tests[name]:5}  {name}"
