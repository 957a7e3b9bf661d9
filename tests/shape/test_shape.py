"""`make shape` counts right, on a tree so small that one can count along."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from counts import Tree, complexity, inside
from shape import FOLDERS, ROOT, of_code

TOP = f'''"""Prose is no statement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import small.lib.middle
from small.lib import bottom

if TYPE_CHECKING:
    from small.lib import unused

LONG = "{"x" * 100}"


class Entry:
    """Stands twice."""

    def size(self, one):
        return 1 if one else 2


class _Hidden:
    pass
'''
MIDDLE = """
try:
    from small.lib.bottom import Entry
except ImportError:
    import small.lib.unused


def later():
    import small.app.top
"""
BOTTOM = """
class Entry:
    pass


class _Hidden:
    pass


def branches(a, b):
    if a and b or not a:
        return [x for x in a if x]
    elif b:
        pass
    for x in a:
        try:
            assert x
        except ValueError:
            pass
        except TypeError:
            pass
    while b:
        b = 1 if a else 0
    return a
"""


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    files = {
        "app/top.py": TOP,
        "lib/middle.py": MIDDLE,
        "lib/bottom.py": BOTTOM,
        "lib/unused.py": "x = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return Tree(tmp_path, ["app", "lib"], "small", apart=["app"])


def test_lines_and_expressions(tree: Tree) -> None:
    assert tree.lines == sum(text.count("\n") for text in (TOP, MIDDLE, BOTTOM)) + 1
    assert tree.long_lines == 1
    assert tree.conditionals == 2


def test_statements(tree: Tree) -> None:
    # four imports, a condition with one below, LONG, a class with a function with one, and another
    # class with one
    assert tree.statements(apart=True) == 4 + 2 + 1 + 3 + 2
    # of the middle 5, of the bottom two classes of one each and 13 of the function, of the last 1
    assert tree.statements(apart=False) == 5 + 4 + 13 + 1


def test_classes(tree: Tree) -> None:
    assert tree.twice == ["Entry"]


def test_imports(tree: Tree) -> None:
    assert tree.imports["small.app.top"] == {"small.lib.middle", "small.lib.bottom"}
    assert tree.imports["small.lib.middle"] == {"small.lib.bottom", "small.lib.unused"}
    assert tree.longest_chain == ["small.app.top", "small.lib.middle", "small.lib.bottom"]


def test_a_circle_of_imports_ends(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.py").write_text("import small.a.y\n")
    (tmp_path / "a/y.py").write_text("import small.a.x\n")
    assert len(Tree(tmp_path, ["a"], "small").longest_chain) == 2


def test_complexity(tree: Tree) -> None:
    # 1, if, and, or, comprehension with its if, elif, for, two handlers, assert, while, ternary
    assert tree.functions == 3
    assert tree.branched == ["lib/bottom.py:10 branches (13)"]


def test_a_function_inside_counts_for_itself(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    text = "def f(a):\n    def g():\n        return 1 if a else 2\n    return g\n"
    (tmp_path / "a/x.py").write_text(text)
    (source,) = Tree(tmp_path, ["a"], "small").sources
    assert [complexity(function) for function in source.functions] == [1, 2]
    assert not [node for node in inside(source.functions[0]) if node is source.functions[1]]


def test_folders(tree: Tree) -> None:
    assert tree.fullest == ("lib", 3)
    assert tree.files_of("app") == 1


def test_the_present_code_has_figures() -> None:
    figures = list(of_code(Tree(ROOT, FOLDERS, "chattable")))
    assert len(figures) == 10
    assert all(figure.value for figure in figures)


def test_chats_are_walked() -> None:
    command = [sys.executable, str(Path(__file__).with_name("shape.py")), "--markdown"]
    table = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True).stdout
    rows = dict(line.strip("| ").split(" | ")[:2] for line in table.splitlines()[2:])
    plain, session = rows["files that a plain chat runs through"], rows["files, with a session"]
    assert 10 < int(plain) < int(session)


def test_no_chat_leaves_a_circle() -> None:
    """What a chat leaves is freed at once: the garbage collector stops every request when it runs."""
    command = [sys.executable, str(Path(__file__).with_name("circles.py"))]
    told = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True).stdout
    left = json.loads(told.splitlines()[-1])
    assert len(left) > 5 and not any(left.values()), left
