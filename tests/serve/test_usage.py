"""Usage, events and end users as admins and users meet them: the real process, unmodified SDKs, an upstream with its own log."""

import base64
import csv
import http.server
import io
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.error import HTTPError

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI, RateLimitError
from process import Chattable, chattable
from upstream import ScriptedUpstream

SECRET = "correct-horse-battery-staple"
CONFIG = """
providers:
  stub: {{kind: openai, base_url: "{url}", api_key: x, retries: 0}}
models:
  m: {{provider: stub, price: {{input: 10, output: 20}}}}
  "wild/*": {{provider: stub}}
agents:
  twice: {{use: "chattable.agents.scripted:Scripted", replies: [[{{ask: m}}, {{ask: m}}]]}}
budgets: {{thresholds: [50, 100], webhook: {{url: "{hook}/events", secret: "{secret}"}}}}
"""


class Hook:
    """A webhook that keeps what it was told."""

    def __init__(self) -> None:
        hook = self
        self.posts: list[tuple[dict[str, str], bytes]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                hook.posts.append(
                    ({name.lower(): value for name, value in self.headers.items()}, body)
                )
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    running = Hook()
    yield running
    running.close()


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def server(upstream: ScriptedUpstream, hook: Hook) -> Iterator[Chattable]:
    with chattable(CONFIG.format(url=upstream.url, hook=hook.url, secret=SECRET)) as running:
        yield running


@pytest.fixture(autouse=True)
def clear(upstream: ScriptedUpstream) -> None:
    upstream.clear()


def ask(
    server: Chattable,
    key: str,
    text: str = "one two three",
    *,
    headers: dict[str, str] | None = None,
    **fields: Any,
) -> Any:
    sdk = OpenAI(base_url=f"{server.base_url}/v1", api_key=key, max_retries=0)
    fields = {"model": "m", "max_tokens": 5, **fields}
    messages: Any = [{"role": "user", "content": text}]
    return sdk.chat.completions.create(messages=messages, extra_headers=headers, **fields)


def soon(look: Callable[[], Any], wanted: Any) -> None:
    """Usage is there within a moment, not at once."""
    end = time.monotonic() + 10
    while (seen := look()) != wanted and time.monotonic() < end:
        time.sleep(0.02)
    assert seen == wanted


def tokens(server: Chattable, query: str) -> dict[str, int]:
    rows = server.admin("GET", f"/admin/usage?{query}")["data"]
    return {
        "/".join(
            str(row[name]) for name in query.partition("=")[2].partition("&")[0].split(",")
        ): row["total_tokens"]
        for row in rows
    }


def test_usage_of_everybody_is_grouped_and_equals_the_upstreams_log(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    alice, bob = server.user_key("alice"), server.user_key("bob")
    # one held, one not
    server.admin(
        "POST", "/admin/budgets", {"subject": {"user": "bob"}, "per": "day", "tokens": 100_000}
    )
    ask(server, alice)
    used_by_alice = upstream.tokens
    ask(server, bob)
    list(ask(server, bob, stream=True))
    soon(lambda: tokens(server, "group_by=user").get("alice"), used_by_alice)
    assert sum(tokens(server, "group_by=user").values()) == upstream.tokens
    assert tokens(server, "group_by=user&user=bob") == {"bob": upstream.tokens - used_by_alice}
    (row,) = server.admin("GET", "/admin/usage?group_by=model,user&user=bob")["data"]
    assert row == {
        "model": "m", "user": "bob", "requests": 2, "cached_requests": 0,
        "prompt_tokens": row["prompt_tokens"],
        "completion_tokens": row["completion_tokens"], "total_tokens": row["prompt_tokens"] + row["completion_tokens"],
        "cached_tokens": 0, "tokens_saved": 0,
        "cost_usd": (row["prompt_tokens"] * 10 + row["completion_tokens"] * 20) / 1_000_000,
    }  # fmt: skip
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert list(tokens(server, f"group_by=day&from={today}")) == [today]
    assert tokens(server, "group_by=day&to=2026-01-01") == {}


def test_an_agents_turn_is_charged_as_the_models_it_asked(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    key = server.user_key("agentic")
    ask(server, key, model="twice")
    soon(lambda: tokens(server, "group_by=agent,model&user=agentic"), {"twice/m": upstream.tokens})
    assert server.admin("GET", "/admin/usage?user=agentic")["data"][0]["requests"] == 2


def test_one_sees_ones_own_usage_and_budgets_and_no_others(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    key, other = server.user_key("carol"), server.user_key("dora")
    server.admin(
        "POST", "/admin/budgets", {"subject": {"user": "carol"}, "per": "day", "tokens": 5000}
    )
    ask(server, key)
    mine = upstream.tokens
    ask(server, other)

    def get(path: str, key: str = key) -> Any:
        answer = httpx.get(server.base_url + path, headers={"authorization": f"Bearer {key}"})
        return answer.json()

    soon(
        lambda: [row["total_tokens"] for row in get("/v1/me/usage", other)["data"]],
        [upstream.tokens - mine],
    )
    for attempt in ("group_by=user", "group_by=user&user=dora"):
        assert [
            (row["user"], row["total_tokens"]) for row in get(f"/v1/me/usage?{attempt}")["data"]
        ] == [("carol", mine)]
    (budget,) = get("/v1/me/budgets")["data"]
    assert (budget["tokens"], budget["spent"], budget["remaining"]) == (5000, mine, 5000 - mine)
    assert get("/v1/me/budgets", other)["data"] == []
    assert (
        httpx.get(
            server.base_url + "/admin/usage", headers={"authorization": f"Bearer {key}"}
        ).status_code
        == 403
    )
    assert httpx.get(server.base_url + "/v1/me/usage").status_code == 401


def test_a_spreadsheet_gets_values_and_no_formulas(server: Chattable) -> None:
    ask(server, server.user_key("=1+1"))
    soon(lambda: "=1+1" in tokens(server, "group_by=user"), True)
    request = urllib.request.Request(
        server.base_url + "/admin/usage?group_by=user&format=csv",
        headers={"authorization": f"Bearer {server.admin_key}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["content-type"].startswith("text/csv")
        rows = list(csv.DictReader(io.StringIO(answer.read().decode())))
    assert "'=1+1" in {row["user"] for row in rows}
    assert all(int(row["total_tokens"]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("group_by=planet", "group_by"),
        ("from=yesterday", "from"),
        ("to=2026-13-01", "to"),
        ("from=" + "9" * 30, "from"),
        ("user=%00", "user"),
    ],
)
def test_a_report_that_makes_no_sense_is_refused(server: Chattable, query: str, param: str) -> None:
    with pytest.raises(HTTPError) as refused:
        server.admin("GET", f"/admin/usage?{query}")
    assert refused.value.code == 400
    assert json.loads(refused.value.msg.partition(": ")[2])["error"]["param"] == param


def test_the_command_line_prints_the_same(server: Chattable) -> None:
    ask(server, server.user_key("eve"))
    soon(lambda: "eve" in tokens(server, "group_by=user"), True)
    run = subprocess.run(
        [sys.executable, "-m", "chattable.proxy", "usage", "--by", "user,model", "--config", "config.yaml"],
        capture_output=True, text=True, timeout=30, cwd=server.directory,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    head, *lines = [line.split() for line in run.stdout.splitlines()]
    assert head[:3] == ["user", "model", "requests"]
    assert ["eve", "m", "1"] in [line[:3] for line in lines]


def test_a_threshold_is_told_once_signed_and_listed(
    server: Chattable, upstream: ScriptedUpstream, hook: Hook
) -> None:
    key = server.user_key("frank")
    ask(server, key, max_tokens=3)
    amount = 10 * upstream.tokens
    budget = server.admin(
        "POST", "/admin/budgets", {"subject": {"user": "frank"}, "per": "day", "tokens": amount}
    )
    for _ in range(6):
        ask(server, key, max_tokens=3)
    events = server.admin("GET", "/admin/events")["data"]
    mine = [event for event in events if event["data"]["budget"] == budget["id"]]
    assert [(event["kind"], event["data"]["percent"]) for event in mine] == [
        ("budget.threshold", 50)
    ]

    def posted() -> list[Any]:
        found = [(headers, body, json.loads(body)) for headers, body in hook.posts]
        return [one for one in found if one[2]["data"].get("budget") == budget["id"]]

    soon(lambda: len(posted()), 1)
    headers, body, told = posted()[0]
    assert (told["type"], told["data"]["percent"], told["data"]["amount"]) == (
        "budget.threshold",
        50,
        amount,
    )
    OpenAI(
        api_key="x", webhook_secret="whsec_" + base64.b64encode(SECRET.encode()).decode()
    ).webhooks.verify_signature(body, headers)
    soon(
        lambda: [
            e["state"]
            for e in server.admin("GET", "/admin/events")["data"]
            if e["id"] == mine[0]["id"]
        ],
        ["done"],
    )


class TestOnBehalf:
    """Who is charged: the key's owner, unless a trusted key says otherwise."""

    @pytest.mark.parametrize("headers", [{"x-user-id": "u-17"}, {"x-openwebui-user-id": "u-18"}])
    def test_a_trusted_key_charges_whom_it_names(
        self, server: Chattable, upstream: ScriptedUpstream, headers: dict[str, str]
    ) -> None:
        (name,) = headers.values()
        ask(server, server.user_key("librechat", trusted=True), headers=headers)
        soon(lambda: tokens(server, "group_by=user").get(name), upstream.tokens)

    def test_the_body_names_the_user_for_a_trusted_key(
        self, server: Chattable, upstream: ScriptedUpstream
    ) -> None:
        ask(server, server.user_key("webui", trusted=True), user="u-19")
        soon(lambda: tokens(server, "group_by=user").get("u-19"), upstream.tokens)

    def test_an_object_names_the_user_by_its_id(
        self,
        server: Chattable,
        upstream: ScriptedUpstream,
    ) -> None:
        key = server.user_key("pipelines", trusted=True)
        ask(server, key, extra_body={"user": {"id": "u-21", "name": "Zoë"}})
        soon(lambda: tokens(server, "group_by=user").get("u-21"), upstream.tokens)

    @pytest.mark.parametrize("trusted", [True, False])
    @pytest.mark.parametrize(
        ("path", "asks"),
        [
            ("chat/completions", "messages"),
            *(("embeddings", "input"), ("completions", "prompt"), ("moderations", "input")),
            *(("images/generations", "prompt"), ("audio/speech", "input"), ("rerank", "query")),
        ],
    )
    def test_f9_a_user_that_is_no_text_is_refused_by_name_on_every_route(
        self, server: Chattable, upstream: ScriptedUpstream, path: str, asks: str, trusted: bool
    ) -> None:
        headers = {"authorization": f"Bearer {server.user_key('typist', trusted=trusted)}"}
        said: Any = [{"role": "user", "content": "hi"}] if asks == "messages" else "hi"
        for user, param in ((5, "user"), (True, "user"), (["u"], "user"), ({"id": 5}, "user.id")):
            body = {"model": "m", asks: said, "user": user}
            answer = httpx.post(f"{server.base_url}/v1/{path}", json=body, headers=headers)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert upstream.requests == []

    def test_f9_a_user_that_cannot_be_named_so_is_refused_as_user(
        self,
        server: Chattable,
        upstream: ScriptedUpstream,
    ) -> None:
        key = server.user_key("odd-body", trusted=True)
        for user in ("a\0b", "x" * 300, "user_nobody"):
            with pytest.raises(BadRequestError) as refused:
                ask(server, key, user=user)
            assert refused.value.param == "user"
        assert upstream.requests == []

    def test_a_placeholder_is_nobody(self, server: Chattable, upstream: ScriptedUpstream) -> None:
        ask(
            server,
            server.user_key("raw", trusted=True),
            headers={"x-user-id": "{{LIBRECHAT_USER_ID}}"},
        )
        soon(lambda: tokens(server, "group_by=user").get("raw"), upstream.tokens)

    def test_no_other_key_moves_the_charge(
        self, server: Chattable, upstream: ScriptedUpstream
    ) -> None:
        key = server.user_key("mallory")
        for i in range(3):
            ask(
                server,
                key,
                user=f"victim{i}",
                headers={"x-user-id": f"victim{i}", "x-openwebui-user-id": f"victim{i}"},
            )
        soon(lambda: tokens(server, "group_by=user").get("mallory"), upstream.tokens)
        assert not [name for name in tokens(server, "group_by=user") if name.startswith("victim")]
        assert not [
            user
            for user in server.admin("GET", "/admin/users?limit=100")["data"]
            if user["name"].startswith("victim")
        ]

    def test_the_named_users_budget_binds(
        self, server: Chattable, upstream: ScriptedUpstream
    ) -> None:
        server.admin("POST", "/admin/users", {"name": "u-20"})
        server.admin(
            "POST", "/admin/budgets", {"subject": {"user": "u-20"}, "per": "day", "tokens": 0}
        )
        with pytest.raises(RateLimitError, match="user u-20"):
            ask(server, server.user_key("front", trusted=True), headers={"x-user-id": "u-20"})
        assert upstream.requests == []

    def test_a_name_that_cannot_be_is_refused(
        self, server: Chattable, upstream: ScriptedUpstream
    ) -> None:
        with pytest.raises(BadRequestError):
            ask(server, server.user_key("odd", trusted=True), headers={"x-user-id": "a%00b"})
        assert upstream.requests == []


@pytest.mark.parametrize("name", ["wild/a\0b", "wild/\x1b[2J", "wild/" + "x" * 300])
def test_a_name_that_nobody_would_want_in_a_report_is_no_model(
    server: Chattable, upstream: ScriptedUpstream, name: str
) -> None:
    with pytest.raises(NotFoundError):
        ask(server, server.user_key("namer"), model=name)
    assert upstream.requests == []
    ask(server, server.user_key("namer"), model="wild/thing")
