"""The checklist, 47 to 50: browsers of other origins, odd paths, methods, and what HTTP clients get away with."""

import gzip
import json
import zlib
from typing import Any

import pytest
from compat.browser import CHAT, Browser
from compat.serving import ORIGIN
from compat.strict import read
from echo_model import ask
from openai import OpenAI
from process import Chattable, chattable

ASKED = "authorization,content-type,x-stainless-lang,x-stainless-retry-count,x-session-id,openai-organization,x-anything"


@pytest.mark.parametrize(
    "path", [CHAT, "/v1/models", "/v1/models/m", "/chat/completions", "/v1/v1/models"]
)
def test_47_preflight(browser: Browser, path: str) -> None:
    browser.key = ""  # a preflight never carries a key
    page = browser.ask(
        "OPTIONS",
        path,
        origin=ORIGIN,
        access_control_request_method="POST",
        access_control_request_headers=ASKED,
    )
    assert (page.status, page.body) == (204, b"") and page.headers[
        "access-control-allow-origin"
    ] in (ORIGIN, "*")
    assert {"GET", "POST"} <= {
        method.strip() for method in page.headers["access-control-allow-methods"].split(",")
    }
    allowed = {
        name.strip().lower() for name in page.headers["access-control-allow-headers"].split(",")
    }
    assert set(ASKED.split(",")) <= allowed
    assert "x-request-id" in page.headers


def test_47_answers_and_errors_are_readable(browser: Browser) -> None:
    pages = {
        200: browser.get("/v1/models", origin=ORIGIN),
        400: browser.chat({}, origin=ORIGIN),
        401: browser.chat(ask("hi"), origin=ORIGIN, authorization="Bearer sk-wrong"),
        404: browser.get("/v1/nothing", origin=ORIGIN),
        405: browser.ask("PUT", CHAT, origin=ORIGIN),
        413: browser.chat(b"x" * (21 * 2**20), origin=ORIGIN),
        500: browser.chat(ask("hi", model="buggy"), origin=ORIGIN),
    }
    stream = browser.chat(ask("hi", stream=True), origin=ORIGIN)
    for status, page in [*pages.items(), (200, stream)]:
        assert page.status == status and page.headers.get("access-control-allow-origin") in (
            ORIGIN,
            "*",
        ), page
        exposed = {
            name.strip() for name in page.headers["access-control-expose-headers"].split(",")
        }
        ours = {name for name in page.headers if name.startswith("x-")} - {
            "x-content-type-options",
            "x-accel-buffering",
        }
        assert {"x-request-id", "retry-after", *ours} <= exposed


def test_47_other_origins_are_not_let_in(browser: Browser) -> None:
    for other in ("https://evil.example.com", "null", "tauri://localhost"):
        page = browser.get("/v1/models", origin=other)
        # the browser refuses, not we
        assert page.status == 200 and "access-control-allow-origin" not in page.headers


ALIASES = [
    "/v1/chat/completions",
    "/v1/chat/completions/",
    "/chat/completions",
    "/chat/completions/",
    "//v1/chat/completions",
    "/v1//chat/completions",
    "/v1/chat//completions//",
    "/v1/v1/chat/completions",
    "/v1/v1/v1/chat/completions/",
]


@pytest.mark.parametrize("path", ALIASES)
def test_48_spellings_of_a_path(browser: Browser, path: str) -> None:
    page = browser.ask("POST", path, ask("hi", model="echo"))
    assert page.status == 200 and page.json["choices"][0]["message"]["content"] == "hi"
    models = path.replace("chat/completions", "models").replace("chat//completions", "models")
    assert browser.get(models).json["object"] == "list"
    assert browser.get(models.rstrip("/") + "/meta/llama-3.1:8b").json["id"] == "meta/llama-3.1:8b"


@pytest.mark.parametrize("base", ["", "/", "/v1/", "/v1/v1", "//v1"])
def test_48_spellings_of_a_base_url(server: Chattable, key: str, base: str) -> None:
    with OpenAI(base_url=server.base_url + base, api_key=key, max_retries=0) as client:
        assert client.models.retrieve("echo").id == "echo"
        assert (
            client.chat.completions.create(**ask("hi", model="echo")).choices[0].message.content
            == "hi"
        )


def test_49_stored_completions_that_are_off(browser: Browser) -> None:
    for path in ALIASES[:4]:
        page = browser.get(path)
        assert page.error == (405, "invalid_request_error", None, "method_not_allowed")
        assert "POST" in page.headers["allow"]


def test_50_one_connection_for_everything(browser: Browser) -> None:
    assert browser.get("/health").status == 200
    kept = browser.connection.sock
    requests: list[tuple[str, str, Any]] = [
        ("POST", CHAT, ask("hi", model="echo")),
        ("POST", CHAT, ask("hi", model="echo", stream=True)),
        ("POST", CHAT, {}),
        ("GET", "/nothing", None),
        ("HEAD", "/v1/models", None),
        ("OPTIONS", CHAT, None),
        ("POST", CHAT, ask("hi", model="buggy", stream=True)),
        ("GET", "/v1/models", None),
    ]
    for method, path, body in requests:
        browser.ask(method, path, body)
        assert browser.connection.sock is kept, (method, path)


def test_50_close(browser: Browser) -> None:
    page = browser.chat(ask("hi", model="echo", stream=True), connection="close")
    assert read(page.body).text == "hi"


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("GZIP", gzip.compress), ("deflate", zlib.compress)],
)
def test_50_packed_bodies(browser: Browser, encoding: str, pack: Any) -> None:
    body = pack(json.dumps(ask("hello there", model="echo")).encode())
    page = browser.chat(body, content_encoding=encoding, content_type="application/json")
    assert page.json["choices"][0]["message"]["content"] == "hello there"
    assert (
        browser.chat(body[:-9] if encoding == "deflate" else b"x", content_encoding=encoding).status
        == 400
    )
    bomb = pack(b" " * (64 * 2**20))
    assert browser.chat(bomb, content_encoding=encoding).error == (
        413,
        "invalid_request_error",
        None,
        "request_too_large",
    )


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-8",
        "x",
    ],
)
def test_50_content_types(browser: Browser, kind: str | None) -> None:
    headers = {} if kind is None else {"content_type": kind}
    page = browser.chat(json.dumps(ask("hi", model="echo")).encode(), **headers)
    assert page.status == 200 and page.json["choices"][0]["message"]["content"] == "hi"


@pytest.mark.parametrize(
    "accept", ["*/*", "application/json", "text/event-stream", "text/html", "gzip"]
)
def test_50_accept_changes_nothing(browser: Browser, accept: str) -> None:
    for stream in (False, True):
        page = browser.chat(
            ask("hi", model="echo", stream=stream), accept=accept, accept_encoding="gzip, br, zstd"
        )
        assert page.status == 200 and "content-encoding" not in page.headers
        kind = "text/event-stream" if stream else "application/json"
        assert page.headers["content-type"].startswith(kind)


def test_47_no_page_may_call_by_default() -> None:
    with chattable() as plain, Browser(plain.base_url, plain.user_key()) as browser:
        page = browser.get("/v1/models", origin=ORIGIN)
        assert page.status == 200 and "access-control-allow-origin" not in page.headers
        assert browser.ask("OPTIONS", CHAT, origin=ORIGIN).status in (204, 405)
