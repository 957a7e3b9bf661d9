"""Lists that grow, page by page, as an admin reads them."""

import csv
import io
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError

import pytest
from process import Chattable, chattable

CONFIG = """
agents:
  echo: {use: "chattable.agents.echo:Echo"}
"""
USERS = [f"person {n}" for n in range(5)]


@pytest.fixture(scope="module")
def server() -> Iterator[Chattable]:
    with chattable(CONFIG) as running:
        for user in USERS:
            running.admin("POST", "/admin/users", {"name": user})
        yield running


def pages(server: Chattable, path: str) -> list[Any]:
    """All rows of a list, two at a time."""
    rows, after = [], ""
    while True:
        page = server.admin("GET", f"{path}&limit=2{after and f'&after={after}'}")
        assert len(page["data"]) <= 2
        rows += page["data"]
        if not page["has_more"]:
            return rows
        after = page["last_id"]


def test_budgets_come_in_pages_as_they_were_made(server: Chattable) -> None:
    made = [
        server.admin(
            "POST", "/admin/budgets", {"subject": {"user": user}, "per": "day", "tokens": 10}
        )
        for user in USERS
    ]
    whole = server.admin("GET", "/admin/budgets")
    assert (whole["data"], whole["has_more"]) == (made, False)
    assert pages(server, "/admin/budgets?") == made
    # whatever is changed later
    server.admin("PATCH", f"/admin/budgets/{made[0]['id']}", {"tokens": 20})
    assert [row["id"] for row in pages(server, "/admin/budgets?")] == [row["id"] for row in made]
    assert pages(server, "/admin/budgets?user=person%203") == [made[3]]


@pytest.mark.parametrize(
    "query",
    ["budgets?limit=0", "budgets?limit=1001", "budgets?limit=x", "budgets?after=lim_none",
     "budgets?after=%00", "usage?limit=0", "usage?limit=1001", "usage?group_by=user&after=x",
     "usage?after=W10", "usage?group_by=user&after=WyJcdTAwMDAiXQ"],
)  # fmt: skip
def test_a_page_that_cannot_be_is_refused(server: Chattable, query: str) -> None:
    with pytest.raises(HTTPError) as refused:
        server.admin("GET", f"/admin/{query}")
    assert refused.value.code == 400


def test_a_small_report_is_what_it_was(server: Chattable) -> None:
    report = server.admin("GET", "/admin/usage")
    assert (list(report), len(report["data"])) == (["object", "data", "has_more"], 1)


def test_a_spreadsheet_without_rows_has_its_columns(server: Chattable) -> None:
    request = urllib.request.Request(
        f"{server.base_url}/admin/usage?group_by=user,day&format=csv&to=2020-01-01",
        headers={"authorization": f"Bearer {server.admin_key}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        (columns,) = csv.reader(io.StringIO(answer.read().decode()))
    assert columns[:3] == ["user", "day", "requests"]
