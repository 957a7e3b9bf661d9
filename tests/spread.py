"""Shares tests out among processes that run side by side: those of one server stay together, and
the longest begin first.
"""

import re
from functools import cache

import pytest
from xdist.scheduler import LoadScopeScheduling

# From the longest to the shortest; tests of which a pattern captures the same stay together.
# Other tests stay with their file.
TOGETHER = [
    re.compile(pattern)
    for pattern in (
        r"promises/test_crashes\.py::(test_p3\w+\[\w+)",
        r"promises/(test_session_histories)\.py::.*\[(\w+)",
        r"promises/.*\[(sqlite|postgresql)",
        r"compat/(test_openai_suite)",
        r"(faults)/test_(?!signals)",
        r"contract/test_ledger_machine\.py::(.*)",
        r"sim/test_ledger_sim\.py::(.*)",
        r"(compat)/",
    )
]


@cache
def place(test: str) -> tuple[int, str]:
    """Where a test's group stands among the others, and its name."""
    for i, pattern in enumerate(TOGETHER):
        if found := pattern.search(test):
            return i, " ".join(found.groups())
    return len(TOGETHER), test.partition("::")[0]


def longest_first(items: list[pytest.Item]) -> None:
    """Puts tests in the order in which their groups begin."""
    items.sort(key=lambda item: place(item.nodeid)[0])


class Spread(LoadScopeScheduling):
    """Hands out whole groups, in the order of the tests."""

    def __init__(self, config: pytest.Config, log: object) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return " ".join(map(str, place(nodeid)))
