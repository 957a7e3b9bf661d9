"""What users can touch is documented: settings, routes, commands, headers and error codes."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar import Litestar

from chattable.adapters.services import VENDORS
from chattable.proxy.__main__ import parser
from chattable.proxy.app import EXPOSED, build
from chattable.proxy.config.schema import settings
from chattable.proxy.config.settings import Config

ROOT = Path(__file__).parents[1]
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
CODE = [
    path
    for folder in ("agents", "adapters", "budget", "proxy")
    for path in (ROOT / folder).rglob("*.py")
]


@pytest.mark.parametrize("name", settings())
def test_every_setting_is_documented(name: str) -> None:
    section, _, leaf = name.rpartition(".")
    rows = [row for row in REFERENCE.splitlines() if row.startswith("| `")]
    assert any(
        f"`{name}`" in row or (f"`{section}." in row and f"`.{leaf}`" in row) for row in rows
    )


@pytest.mark.parametrize("kind", VENDORS)
def test_every_kind_is_documented(kind: str) -> None:
    assert f"`{kind}`" in REFERENCE


def test_every_route_is_documented(tmp_path: Path) -> None:
    app = build(Config(database_url=f"sqlite:///{tmp_path}/x.db")).app
    assert isinstance(app, Litestar)
    routes = {route.path for route in app.routes}
    public = {
        re.sub(r"{(\w+):\w+}", r"{\1}", path) for path in routes if not path.startswith("/schema/")
    }
    assert len(public) > 8
    assert not [
        path for path in public if f"{path}`" not in REFERENCE and f"{path} " not in REFERENCE
    ]


def test_every_response_header_is_documented() -> None:
    named = {
        name
        for path in CODE
        for name in re.findall(r"\"(x-chattable-[a-z-]+|x-request-id)\"", path.read_text())
    }
    assert len(named) >= 4
    assert not [name for name in named | set(EXPOSED) if f"`{name}`" not in REFERENCE]


def test_every_error_code_is_documented() -> None:
    errors = [
        path
        for path in CODE
        if path.name in ("errors.py", "chattable.py", "parsing.py", "run_turn.py")
    ]
    codes = {
        code for path in errors for code in re.findall(r"code=\"([a-z_]+)\"", path.read_text())
    }
    table = (ROOT / "proxy" / "errors.py").read_text()
    codes |= set(re.findall(r", \"([a-z_]+)\"\),\n", table))
    assert len(codes) > 15
    assert not [code for code in codes if f"`{code}`" not in REFERENCE]


def test_every_command_is_documented() -> None:
    def walk(command: argparse.ArgumentParser) -> Iterator[str]:
        for action in command._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, below in action.choices.items():
                    yield name
                    yield from walk(below)
            elif action.dest != "help":
                yield from action.option_strings

    rows = " ".join(row for row in REFERENCE.splitlines() if row.startswith("| `chattable "))
    words = set(walk(parser()))
    assert len(words) > 15
    assert not [
        word for word in words if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", rows)
    ]


NAMING = ("docs/faults.md", "docs/promises.md", "tests/security/CVE_REFERENCE.md")


@pytest.mark.parametrize("document", NAMING)
def test_every_test_that_a_document_names_is_there(document: str) -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / document).read_text()))
    assert len(named) > 10
    assert not [file for file, _ in sorted(named) if not (ROOT / file).is_file()]
    begun = [(file, name) for file, name in sorted(named) if name]
    assert not [pair for pair in begun if f"def {pair[1]}" not in (ROOT / pair[0]).read_text()]


NUMBERED = {
    "The ledger": [f"P{n}" for n in range(1, 8)],
    "The server": [f"G{n}" for n in range(2, 11)],
    "Faults": [str(n) for n in range(1, 71)],
    "Attacks": [str(n) for n in range(1, 66)],
}


@pytest.mark.parametrize("heading", NUMBERED)
def test_every_promise_fault_and_attack_has_one_row_that_names_a_test_or_is_open(
    heading: str,
) -> None:
    text = (ROOT / "docs" / "promises.md").read_text()
    [section] = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    lines = [line for line in section.splitlines() if re.match(r"\| [PG]?\d", line)]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [number for number, *_ in rows] == NUMBERED[heading]
    assert {len(row) for row in rows} == {4}
    assert not [row for row in rows if "`tests/" not in row[2] and not row[2].startswith("open: ")]


def test_every_hole_of_another_server_has_a_test_or_is_open() -> None:
    text = (ROOT / "tests" / "security" / "CVE_REFERENCE.md").read_text()
    rows = [row.split("|")[1:-1] for row in text.splitlines() if re.match(r"\| (?!where)\S", row)]
    assert len(rows) > 50
    assert {len(row) for row in rows} == {3}
    assert not [row for row in rows if "`tests/" not in row[2] and "open, with " not in row[2]]
