"""What users can touch is documented: settings, routes, commands, headers and error codes."""

import argparse
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import generated_docs
import pytest
from answers import Plain
from litestar import Litestar
from process import chattable
from upstream import ScriptedUpstream

from chattable.adapters.services import VENDORS
from chattable.proxy import errors
from chattable.proxy.__main__ import parser
from chattable.proxy.app import EXPOSED, build
from chattable.proxy.config.schema import settings
from chattable.proxy.config.settings import Config

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOT_OF_USERS = {"architecture", "benchmarks", "faults", "promises"}
PAGES = {path.stem: path.read_text() for path in sorted(DOCS.glob("*.md"))}
USERS = {name: text for name, text in PAGES.items() if name not in NOT_OF_USERS}
ALL = "\n".join(USERS.values())
CODE = [
    path
    for folder in ("agents", "adapters", "budget", "proxy")
    for path in (ROOT / folder).rglob("*.py")
]


def test_every_setting_is_documented() -> None:
    assert {setting.name for setting in generated_docs.all_settings()} == set(settings())
    places = set(re.findall(r"<!-- settings: (\S+) -->", PAGES["configuration"]))
    missing = [
        name
        for name in settings()
        if not any(name.startswith(f"{place}.") for place in places)
        and not ("-" in places and "." not in name)
    ]
    assert not missing


def test_every_operation_is_documented() -> None:
    places = re.findall(r"<!-- operation: (\S+) -->", PAGES["admin-api"])
    assert sorted(places) == sorted(generated_docs.operations().by_id)


@pytest.mark.parametrize("name", ["configuration", "admin-api"])
def test_what_is_generated_is_up_to_date(name: str) -> None:
    assert generated_docs.renewed(PAGES[name]) == PAGES[name], "run `make docs`"


def test_every_example_of_the_admin_api_is_answered() -> None:
    """In the order of the page; an id that an answer gives stands for its name from then on."""
    with ScriptedUpstream() as upstream:
        config = f"providers: {{stub: {{kind: openai, base_url: '{upstream.url}', api_key: x}}}}\n"
        config += "models: {fast: {provider: stub}}\ncache: {ttl: 1h}\n"
        config += "agents: {echo: {use: 'chattable.agents.echo:Echo'}}\n"
        with chattable(config) as server:
            key = server.admin_key
            ids = {"SESSION_ID": server.admin("POST", "/v1/conversations", {"alias": "old"})["id"]}
            given = {
                "create_team": "TEAM_ID",
                "create_key": "KEY_ID",
                "create_budget": "BUDGET_ID",
                "add_items": "ITEM_ID",
            }
            for name in re.findall(r"<!-- operation: (\S+) -->", PAGES["admin-api"]):
                if name.startswith("forward_"):
                    upstream.script(Plain(200, {"object": "list", "data": []}))
                command = generated_docs.example(name).replace("YOUR_KEY", key)
                command = command.replace("http://127.0.0.1:8000", server.base_url)
                for word, one in ids.items():
                    command = command.replace(word, one)
                command = command.replace(
                    "curl -s", "curl -s --noproxy '*' -w '\\n%{http_code}'", 1
                )
                done = subprocess.run(
                    ["bash", "-c", command], capture_output=True, text=True, timeout=30
                )
                answer, _, status = done.stdout.rpartition("\n")
                assert status.startswith("2"), f"{name}: {command}\n{answer}"
                if name == "delete_user":
                    server.user_key("alice")  # whom the examples below ask about
                if name in given:
                    found = re.search(r'"id":"([^"]+)"', answer)
                    assert found is not None, answer
                    ids[given[name]] = found[1]


@pytest.mark.parametrize("kind", VENDORS)
def test_every_kind_is_documented(kind: str) -> None:
    assert f"| `{kind}` |" in PAGES["providers"]
    if env := VENDORS[kind].key_env:
        assert f"`{env}`" in PAGES["providers"]


def test_every_route_is_documented(tmp_path: Path) -> None:
    app = build(Config(database_url=f"sqlite:///{tmp_path}/x.db")).app
    assert isinstance(app, Litestar)
    routes = {route.path for route in app.routes}
    public = {
        re.sub(r"{(\w+):\w+}", r"{\1}", path) for path in routes if not path.startswith("/schema/")
    }
    assert len(public) > 8
    assert not [path for path in public if f"{path}`" not in ALL and f"{path} " not in ALL]


def test_every_header_is_documented() -> None:
    named = {
        name
        for path in CODE
        for name in re.findall(r"\"(x-chattable-[a-z-]+|x-request-id)\"", path.read_text())
    }
    assert len(named) >= 4
    assert not [name for name in named | set(EXPOSED) if f"`{name}`" not in PAGES["api"]]


def test_every_error_code_is_documented() -> None:
    said = {code for path in CODE for code in re.findall(r"code=\"([a-z_]+)\"", path.read_text())}
    codes = said | {row.code for row in errors.TABLE if row.code}
    codes |= {code for *_, code in (*errors.UPSTREAM_FAILURES.values(), errors.UPSTREAM_FAILED)}
    assert len(codes) > 15
    assert not [code for code in codes if f"`{code}`" not in PAGES["errors"]]


def test_every_command_is_documented() -> None:
    def walk(command: argparse.ArgumentParser) -> Iterator[str]:
        for action in command._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, below in action.choices.items():
                    yield name
                    yield from walk(below)
            elif action.dest != "help":
                yield from action.option_strings

    lines = PAGES["operations"].partition("## Command line\n")[2].splitlines()
    commands = " ".join(line for line in lines if line.startswith("chattable "))
    words = set(walk(parser()))
    assert len(words) > 15
    assert not [
        word for word in words if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", commands)
    ]


def test_every_page_opens_with_something_to_do_and_fits_the_screen() -> None:
    for name, text in USERS.items():
        assert re.match(r"# .+\n\n", text), name
        assert name in {"README", "glossary"} or "```" in text[:700], name
        wide = [line for line in text.splitlines() if len(line) > 100]
        assert not wide, (name, wide)


def headings(text: str) -> set[str]:
    """What a link into a page may name."""
    found = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_every_link_leads_somewhere() -> None:
    pages = [
        ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
    ]
    for page in [*pages, *DOCS.rglob("*.md")]:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if link.startswith("http"):
                continue
            name, _, place = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), f"{page.name}: {link}"
            assert not place or place in headings(target.read_text()), f"{page.name}: {link}"


def test_the_index_names_every_page() -> None:
    assert not [name for name in PAGES if f"({name}.md)" not in PAGES["README"] + "(README.md)"]


def test_no_text_names_a_page_that_is_not_there() -> None:
    current = set(ROOT.glob("*.md")) - {ROOT / "CHANGELOG.md"}  # which tells of the past as well
    texts = [*CODE, *current, *DOCS.rglob("*.md"), *(ROOT / "tests").rglob("*.py")]
    for path in texts:
        for name in re.findall(r"\bdocs/([\w/-]+\.md)\b", path.read_text()):
            assert (DOCS / name).is_file(), f"{path.relative_to(ROOT)}: docs/{name}"


def test_where_to_change_what_names_files_that_are_there() -> None:
    rows = PAGES["architecture"].partition("## Where to change what\n")[2].partition("\n## ")[0]
    found = re.findall(r"`([\w./-]+/[\w./-]*)`", rows)
    assert rows.count("\n- **") == 10
    assert len(found) >= 15
    assert not [name for name in found if not (ROOT / name).exists()]


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
