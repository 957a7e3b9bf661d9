"""Measures the shape of the code and prints it beside where it should get: `make shape`.

    python tests/shape/shape.py [--markdown] [--names] [--still]

With --names it also says which functions, class names and imports are meant; --still leaves out
what is measured by serving chats. docs/architecture.md keeps the figures from before and after a
change of the house.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counts import GRADE_C, LONG_LINE, Tree

ROOT = Path(__file__).parents[2]
FOLDERS = ("agents", "adapters", "budget", "proxy")
IMPORTERS = ("proxy/importers",)


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    name: str
    value: str
    target: str = ""


def of_code(tree: Tree) -> Iterator[Figure]:
    """The figures that the code's text gives."""
    branched, functions = len(tree.branched), tree.functions
    folder, count = tree.fullest
    yield Figure("longest chain of imports", f"{len(tree.longest_chain) - 1}", "≤ 12")
    yield Figure(f"lines over {LONG_LINE} characters", share(tree.long_lines, tree.lines), "0")
    yield Figure("functions of grade C or worse", share(branched, functions), "≤ 3 %")
    yield Figure("names of several public classes", f"{len(tree.twice)}", "0")
    yield Figure("files at the top of proxy/", f"{tree.files_of('proxy')}", "≤ 20")
    yield Figure(f"files of the fullest folder, {folder}/", f"{count}", "≤ 20")
    yield Figure("statements without importers", f"{tree.statements(apart=False):,}", "fewer")
    yield Figure("statements of importers", f"{tree.statements(apart=True):,}")
    yield Figure("conditional expressions per 1,000 lines", f"{per_thousand(tree):.1f}")
    yield Figure("lines", f"{tree.lines:,}")


def of_chats() -> Iterator[Figure]:
    """The figures that served chats give."""
    command = [sys.executable, str(Path(__file__).with_name("walked.py"))]
    walk = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if walk.returncode:
        raise RuntimeError(walk.stderr[-3000:])
    told: dict[str, Any] = json.loads(walk.stdout)
    plain, session = told["plain"], told["session"]
    yield Figure("files that a plain chat runs through", f"{len(plain['files'])}", "≤ 25")
    yield Figure("functions that a plain chat runs through", f"{plain['functions']}")
    yield Figure("files, with a session", f"{len(session['files'])}", "≤ 32")
    yield Figure("functions, with a session", f"{session['functions']}")


def share(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.1f} %)"


def per_thousand(tree: Tree) -> float:
    return 1000 * tree.conditionals / tree.lines


def plain(figures: Sequence[Figure]) -> Iterator[str]:
    yield f"{'':<44}{'now':>16}{'target':>10}"
    for figure in figures:
        yield f"{figure.name:<44}{figure.value:>16}{figure.target:>10}"


def markdown(figures: Sequence[Figure]) -> Iterator[str]:
    yield "| | now | target |"
    yield "|---|---|---|"
    for figure in figures:
        yield f"| {figure.name} | {figure.value} | {figure.target} |"


def named(tree: Tree) -> Iterator[str]:
    """What the figures count, by name."""
    yield f"\nfunctions of grade C or worse (complexity of {GRADE_C} or more):"
    yield from (f"  {name}" for name in tree.branched)
    yield f"\nnames of several public classes:\n  {', '.join(tree.twice)}"
    yield f"\nlongest chain of imports:\n  {' > '.join(tree.longest_chain)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--markdown", action="store_true", help="a table for docs/architecture.md")
    parser.add_argument("--names", action="store_true", help="say which functions, names, imports")
    parser.add_argument("--still", action="store_true", help="serve no chats")
    options = parser.parse_args()

    tree = Tree(ROOT, FOLDERS, "chattable", IMPORTERS)
    figures = [*([] if options.still else of_chats()), *of_code(tree)]
    print("\n".join((markdown if options.markdown else plain)(figures)))
    if options.names:
        print("\n".join(named(tree)))


if __name__ == "__main__":
    main()
