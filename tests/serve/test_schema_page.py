"""What a browser gets from the server: pages that need nobody else."""

import re
from collections.abc import Iterator

import httpx
import pytest
from process import chattable

CONFIG = 'agents: {echo: {use: "chattable.agents.echo:Echo"}}\n'
PAGES = (
    *("/schema", "/schema/", "/schema/nowhere", "/schema/swagger", "/schema/redoc"),
    *("/schema/elements", "/schema/rapidoc", "/schema/oauth2-redirect.html"),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[httpx.Client]:
    with (
        chattable(CONFIG) as server,
        httpx.Client(base_url=server.base_url, trust_env=False) as client,
    ):
        yield client


def test_no_page_names_another_host(browser: httpx.Client) -> None:
    """F12: no URL of another host in any HTML that is served, whatever its status."""
    paths = browser.get("/schema/openapi.json").json()["paths"]
    plain = [path for path, methods in paths.items() if "get" in methods and "{" not in path]
    answers = [browser.get(path) for path in (*plain, *PAGES)]
    html = [answer.text for answer in answers if "html" in answer.headers.get("content-type", "")]
    assert len(html) >= len(PAGES)
    assert not [
        page for page in html if re.search(r"(?:https?:)?//\w|<script|<iframe|@import", page)
    ]


def test_the_page_names_every_operation(browser: httpx.Client) -> None:
    page = browser.get("/schema")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    rows = re.findall(r"<code>([A-Z]+)</code></td><td><code>([^<?]+)(?:\?[^<]*)?</code>", page.text)
    assert "<code>/admin/cache?user&amp;model</code>" in page.text
    paths = browser.get("/schema/openapi.json").json()["paths"]
    assert sorted(rows) == sorted(
        (method.upper(), path) for path, of in paths.items() for method in of
    )


def test_the_document_is_there_for_programs(browser: httpx.Client) -> None:
    assert browser.get("/schema/openapi.json").json()["info"]["title"] == "Chattable"
    assert "Chattable" in browser.get("/schema/openapi.yaml").text
