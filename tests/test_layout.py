"""The plan of the house: what is packaged, what is no package, and who may import whom."""

import ast
import re
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("agents", "adapters", "budget", "proxy")
MAY_IMPORT = {
    "budget": set(),
    "agents": set(),
    "adapters": {"agents"},
    "proxy": {"agents", "adapters", "budget"},
}
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Modules of chattable that a file imports, those for type checkers only left out."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module and node.module.startswith("chattable."):
                found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("chattable.")}
    return found


def test_every_folder_with_code_is_packaged() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {"chattable." + str(path.parent.relative_to(ROOT)).replace("/", ".") for path in FILES}
    assert sorted(listed) == sorted(there)


def test_the_four_folders_are_no_packages() -> None:
    assert not [path for path in FILES if path.name == "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    others = {name.split(".")[1] for name in imports(path)} - {folder}
    assert others <= MAY_IMPORT[folder]


def room(module: str) -> str:
    """The folder of a module; one that stands beside the folders is a room of its own."""
    return ".".join(module.split(".")[:3])


def test_rooms_import_in_one_direction() -> None:
    modules = {
        "chattable." + ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in FILES
    }
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        others = {room(name) for name in imports(path) & modules.keys()}
        graph.setdefault(room(module), set()).update(others - {room(module)})
    circle = TopologicalSorter(graph)
    circle.prepare()  # raises `CycleError`, which names the rooms


def test_importers_are_reached_from_the_command_line_and_the_routes_only() -> None:
    importing = {
        path.relative_to(ROOT).parts[1]
        for path in FILES
        if any(name.startswith("chattable.proxy.importers.") for name in imports(path))
    }
    assert importing == {"__main__.py", "cli", "routes", "importers"}


def test_nothing_tracked_names_a_machine_or_a_registry() -> None:
    words = re.compile(
        r"files\.python" + r"hosted|pypi" + r"\.org|/root/|registry\.np" + r"mjs", re.I
    )
    texts = [
        path
        for path in ROOT.iterdir()
        if path.is_file() and path.suffix in {".lock", ".toml", ".md", ".yaml", ".json"}
    ]
    assert not [path.name for path in [*texts, *FILES] if words.search(path.read_text())]
