"""Runs openai-python's own tests against the real server and prints what came of them; see openai_suite.py."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # the tests' folder, as pytest has it

from compat.openai_suite import run  # noqa: E402

if __name__ == "__main__":
    report = run()
    if report.failed:
        print(report.output)
    print(report)
    sys.exit(not report.good)
