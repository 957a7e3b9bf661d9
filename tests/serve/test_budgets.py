"""Budgets as users and admins meet them: the real process, an unmodified SDK, an upstream with a log of its own."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.error import HTTPError

import pytest
from answers import Plain, Reset, Silent, Sse, error
from echo_model import chat_chunks
from openai import OpenAI, RateLimitError
from process import Chattable, chattable
from upstream import ScriptedUpstream

CONFIG = """
providers:
  stub: {{kind: openai, base_url: "{url}", api_key: x, retries: 0}}
  hasty: {{kind: openai, base_url: "{url}", api_key: x, retries: 0, timeouts: {{first_token: 1s, total: 2s}}}}
models:
  m: {{provider: stub, price: {{input: 1, output: 2}}}}
  hasty: {{provider: hasty}}
  small: {{provider: stub, max_output: 33}}
agents:
  twice: {{use: "chattable.agents.scripted:Scripted", replies: [[{{ask: m}}, {{ask: m}}]]}}
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def server(upstream: ScriptedUpstream) -> Iterator[Chattable]:
    with chattable(CONFIG.format(url=upstream.url)) as running:
        yield running


@pytest.fixture(autouse=True)
def clear(upstream: ScriptedUpstream) -> None:
    upstream.clear()


class Person:
    """A user with a budget and an SDK."""

    def __init__(self, server: Chattable, name: str, **budget: Any) -> None:
        self.server, self.name = server, name
        self.client = OpenAI(base_url=f"{server.base_url}/v1", api_key=server.user_key(name))
        body = {"subject": {"user": name}, "per": "day", **budget}
        self.budget = server.admin("POST", "/admin/budgets", body)["id"] if budget else ""

    def ask(self, text: str = "hi", **fields: Any) -> Any:
        fields = {"model": "m", "max_tokens": 5, **fields}
        messages: Any = [{"role": "user", "content": text}]
        return self.client.chat.completions.create(messages=messages, **fields)

    def row(self) -> dict[str, Any]:
        found = self.server.admin("GET", f"/admin/budgets?user={self.name}")["data"]
        return next(row for row in found if row["id"] == self.budget)

    def kinds(self) -> list[str]:
        return [
            entry["kind"]
            for entry in self.server.admin("GET", f"/admin/ledger?user={self.name}&limit=1000")[
                "data"
            ]
        ]


def books_balance(server: Chattable) -> None:
    assert server.admin("POST", "/admin/ledger/verify", {})["differences"] == 0


def refused(
    server: Chattable, method: str, path: str, body: Any = None
) -> tuple[int, dict[str, Any]]:
    with pytest.raises(HTTPError) as raised:
        server.admin(method, path, body)
    return raised.value.code, json.loads(raised.value.msg.partition(": ")[2])["error"]


def test_what_was_used_is_booked_to_the_token(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    alice = Person(server, "alice", tokens=10_000)
    alice.ask("one two three")
    list(alice.ask("four five", stream=True))
    row = alice.row()
    assert row["spent"] == upstream.tokens > 0
    assert (row["held"], row["remaining"]) == (0, 10_000 - row["spent"])
    assert alice.kinds() == ["hold", "settle"] * 2
    books_balance(server)


def test_a_spent_budget_is_one_request_and_no_upstream_call(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    bob = Person(server, "bob", tokens=0)
    seen: list[str] = []
    bob.client = bob.client.with_options(default_headers={"x-test": "1"})
    with pytest.raises(RateLimitError) as raised:
        bob.ask()
    seen.append(raised.value.response.headers["x-request-id"])
    assert raised.value.code == "insufficient_quota"
    assert raised.value.response.request.headers["x-stainless-retry-count"] == "0"
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert "retry-after" not in raised.value.response.headers
    midnight = datetime.fromtimestamp(int(raised.value.response.headers["x-budget-reset"]), UTC)
    assert str(raised.value.body["message"]) == (  # type: ignore[index]
        "Token budget for user bob is used up: 0 tokens per day, resets at "
        f"{midnight:%Y-%m-%dT%H:%M:%SZ}."
    )
    assert midnight.hour == midnight.minute == 0
    assert upstream.requests == []


def test_output_is_capped_to_what_remains_and_the_cap_is_sent(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    carol = Person(server, "carol", tokens=60)
    answer = carol.ask("hello", max_tokens=5000)
    sent = upstream.requests[-1].json["max_tokens"]
    assert 0 < sent < 60
    assert answer.usage.total_tokens <= 60
    carol.ask("hello", max_tokens=None, model="m")
    assert upstream.requests[-1].json["max_completion_tokens"] <= 60
    rich = Person(server, "croesus", tokens=1_000_000)
    rich.ask("hello", max_tokens=None, model="small")
    assert upstream.requests[-1].json["max_completion_tokens"] == 33
    rich.ask("hello", max_tokens=None)
    assert upstream.requests[-1].json["max_completion_tokens"] == 4096


def test_a_burst_at_a_tight_limit_spends_nothing_beyond_it(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    dave = Person(server, "dave", tokens=200)
    dave.client = dave.client.with_options(max_retries=0)

    def one(_: int) -> int:
        try:
            dave.ask("hello", max_tokens=3)
        except RateLimitError:
            return 0
        return 1

    with ThreadPoolExecutor(32) as pool:
        admitted = sum(pool.map(one, range(200)))
    row = dave.row()
    assert 0 < admitted < 200
    assert row["spent"] == upstream.tokens <= 200
    assert row["held"] == 0
    books_balance(server)


def test_an_upstream_that_ignores_its_cap_is_cut(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    erin = Person(server, "erin", tokens=500)
    liar = chat_chunks({"model": "m", "messages": [{"role": "user", "content": "w " * 100}]}, len)
    upstream.script(Sse([chunk for chunk in liar if not chunk.get("usage")]))
    chunks = list(erin.ask("hi", max_tokens=10, stream=True))
    words = [chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(words) <= 11
    assert chunks[-1].choices[0].finish_reason == "length"
    assert erin.row()["held"] == 0
    books_balance(server)


@pytest.mark.parametrize(
    ("name", "script", "kinds", "spent"),
    [
        ("refused", error(400, "no"), ["hold", "void"], 0),
        ("limited", error(429, "slow down"), ["hold", "void"], 0),
        ("broken", error(500, "oops"), ["hold", "void"], 0),
    ],
)
def test_refused_before_the_first_byte_costs_nothing(
    server: Chattable,
    upstream: ScriptedUpstream,
    name: str,
    script: Any,
    kinds: list[str],
    spent: int,
) -> None:
    frank = Person(server, f"frank-{name}", tokens=500)
    frank.client = frank.client.with_options(max_retries=0)
    upstream.script(script)
    with pytest.raises(Exception, match=r"Error code|Connection"):
        frank.ask()
    assert frank.kinds() == kinds
    assert (frank.row()["spent"], frank.row()["held"]) == (spent, 0)


@pytest.mark.parametrize(
    ("name", "answer", "told"),
    [("silent", Silent(), "within"), ("reset", Reset(), "Error code|Connection")],
)
def test_no_answer_at_all_costs_the_prompt_and_is_flagged(
    server: Chattable, upstream: ScriptedUpstream, name: str, answer: Any, told: str
) -> None:
    grace = Person(server, f"grace-{name}", tokens=500)
    grace.client = grace.client.with_options(max_retries=0)
    upstream.script(answer)
    with pytest.raises(Exception, match=told):
        grace.ask("one two three", model="hasty", stream=True)
    hold, settle = server.admin("GET", f"/admin/ledger?user={grace.name}")["data"]
    assert grace.row()["spent"] == settle["spent"]["tokens"] == 3
    assert settle["upper"] == hold["held"] and hold["upper"] is None


def test_a_stream_that_dies_costs_what_was_said(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    heidi = Person(server, "heidi", tokens=5000)
    upstream.script(
        Sse(
            chat_chunks(
                {"model": "m", "messages": [{"role": "user", "content": "a b c d e"}]}, len
            )[:4],
            done=False,
            end="reset",
        )
    )
    with pytest.raises(Exception, match="middle"):
        list(heidi.ask("a b c d e", stream=True, max_tokens=50))
    row = heidi.row()
    assert 0 < row["spent"] < 60
    assert row["held"] == 0
    books_balance(server)


def test_an_agents_turn_is_charged_at_its_leaves(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    ivan = Person(server, "ivan", tokens=50_000)
    answer = ivan.ask("hello", model="twice")
    assert len(upstream.requests) == 2
    assert ivan.row()["spent"] == upstream.tokens == answer.usage.total_tokens
    assert ivan.kinds() == ["hold", "settle"] * 2


def test_the_charge_does_not_depend_on_when_the_client_leaves(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    judy = Person(server, "judy", tokens=10_000_000)
    text = "word " * 30

    def leave(after: int) -> None:
        stream = judy.ask(text, stream=True, max_tokens=100)
        for i, _ in enumerate(stream):
            if i >= after:
                break
        stream.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(leave, [i % 33 for i in range(100)]))
    upstream.wait(lambda: upstream.completed + upstream.aborted >= 100)
    deadline = time.monotonic() + 10
    while judy.row()["held"] and time.monotonic() < deadline:
        threading.Event().wait(0.05)
    assert judy.row()["spent"] == upstream.tokens
    assert judy.kinds().count("settle") == 100
    books_balance(server)


def test_grants_raise_and_refunds_give_back(server: Chattable) -> None:
    ken = Person(server, "ken", tokens=1)
    with pytest.raises(RateLimitError):
        ken.ask()
    row = server.admin(
        "POST", f"/admin/budgets/{ken.budget}/grant", {"tokens": 500, "reason": "demo"}
    )
    assert row["remaining"] == 501
    ken.ask()
    spent = ken.row()["spent"]
    assert (
        server.admin(
            "POST", f"/admin/budgets/{ken.budget}/refund", {"tokens": spent, "reason": "sorry"}
        )["spent"]
        == 0
    )
    books_balance(server)


def test_cost_budgets_count_micro_dollars(server: Chattable) -> None:
    lea = Person(server, "lea", cost_usd=0.01)
    answer = lea.ask("hello there")
    expected = (answer.usage.prompt_tokens * 1 + answer.usage.completion_tokens * 2) / 1_000_000
    assert lea.row()["spent_usd"] == pytest.approx(expected)
    poor = Person(server, "mallory", cost_usd=0)
    with pytest.raises(
        RateLimitError, match=r"Cost budget for user mallory is used up: \$0 per day"
    ):
        poor.ask()


def test_an_agent_whose_model_finds_no_budget_is_refused_like_the_model(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    poor = Person(server, "poor", tokens=0)
    with pytest.raises(RateLimitError) as raised:
        poor.ask(model="twice")
    assert raised.value.code == "insufficient_quota"
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert upstream.requests == []


def test_a_team_shares_its_budget(server: Chattable) -> None:
    server.admin("POST", "/admin/users", {"name": "nick", "team": "blue"})
    server.admin("POST", "/admin/users", {"name": "olga", "team": "blue"})
    nick, olga = Person(server, "nick"), Person(server, "olga")
    server.admin(
        "POST", "/admin/budgets", {"subject": {"team": "blue"}, "per": "total", "tokens": 25}
    )
    nick.ask("hello", max_tokens=3)
    with pytest.raises(RateLimitError, match="team blue"):
        for _ in range(20):
            olga.ask("hello", max_tokens=3)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"per": "day", "tokens": 1}, 400, "subject"),
        ({"subject": {}, "per": "day", "tokens": 1}, 400, "subject"),
        ({"subject": {"planet": "mars"}, "per": "day", "tokens": 1}, 400, "subject"),
        ({"subject": {"team": ""}, "per": "day", "tokens": 1}, 400, "subject.team"),
        ({"subject": {"team": "t"}, "per": "fortnight", "tokens": 1}, 400, "per"),
        ({"subject": {"team": "t"}, "per": "day"}, 400, "tokens"),
        ({"subject": {"team": "t"}, "per": "day", "tokens": -1}, 400, "tokens"),
        ({"subject": {"team": "t"}, "per": "day", "tokens": 10**18}, 400, "tokens"),
        ({"subject": {"team": "t"}, "per": "day", "tokens": 1.5}, 400, "tokens"),
        ({"subject": {"team": "t"}, "per": "day", "tokens": 1, "mode": "maybe"}, 400, "mode"),
        ({"subject": {"team": "t"}, "per": "day", "tokens": 1, "colour": "red"}, 400, "colour"),
        ({"subject": {"team": "t\0"}, "per": "day", "tokens": 1}, 400, "subject.team"),
        ({"subject": {"team": "t"}, "per": "day", "tokens": 1, "models": ["\0"]}, 400, "models"),
        ({"subject": {"user": "nobody"}, "per": "day", "tokens": 1}, 404, "subject.user"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(
    server: Chattable, body: Any, status: int, param: str | None
) -> None:
    code, told = refused(server, "POST", "/admin/budgets", body)
    assert (code, told["param"]) == (status, param)
    assert set(told) == {"message", "type", "param", "code"}


def test_changed_and_ended_budgets(server: Chattable) -> None:
    pat = Person(server, "pat", tokens=0)
    assert (
        server.admin("PATCH", f"/admin/budgets/{pat.budget}", {"tokens": 100, "mode": "soft"})[
            "mode"
        ]
        == "soft"
    )
    pat.ask()
    assert server.admin("DELETE", f"/admin/budgets/{pat.budget}")["deleted"]
    assert refused(server, "DELETE", f"/admin/budgets/{pat.budget}")[0] == 404
    pat.ask(max_tokens=4000)


def test_a_soft_budget_tells_the_client_and_refuses_nothing(server: Chattable) -> None:
    uma = Person(server, "uma", tokens=1000, mode="soft")
    more = server.admin(
        "POST",
        "/admin/budgets",
        {"subject": {"user": "uma"}, "per": "month", "tokens": 10, "mode": "soft"},
    )["id"]

    def told(**fields: Any) -> str | None:
        fields = {
            "model": "m",
            "max_tokens": 5,
            "messages": [{"role": "user", "content": "hi"}],
            **fields,
        }
        answer: Any = uma.client.chat.completions.with_raw_response.create(**fields)
        list(answer.parse()) if fields.get("stream") else answer.parse()
        return answer.headers.get("x-budget-warning")

    assert told() == more
    assert set(str(told(max_tokens=1000)).split(", ")) == {uma.budget, more}
    assert set(str(told(max_tokens=1000, stream=True)).split(", ")) == {uma.budget, more}
    for budget in (uma.budget, more):
        server.admin("PATCH", f"/admin/budgets/{budget}", {"tokens": 100_000})
    assert told() is None


def test_a_hard_budget_beside_a_soft_one_says_both(server: Chattable) -> None:
    vic = Person(server, "vic", tokens=1, mode="soft")
    server.admin(
        "POST", "/admin/budgets", {"subject": {"user": "vic"}, "per": "month", "tokens": 100_000}
    )
    messages: Any = [{"role": "user", "content": "hi"}]
    answer = vic.client.chat.completions.with_raw_response.create(
        model="m", max_tokens=5, messages=messages
    )
    assert answer.headers["x-budget-warning"] == vic.budget
    assert int(answer.headers["x-budget-remaining-tokens"]) > 0


def test_the_default_budget_is_each_users_own_until_they_have_another(
    upstream: ScriptedUpstream,
) -> None:
    config = CONFIG.format(url=upstream.url) + "budgets: {default: {tokens: 25, per: day}}\n"
    with chattable(config) as server:
        quinn, rose, sam = (
            Person(server, "quinn"),
            Person(server, "rose"),
            Person(server, "sam", tokens=100_000),
        )
        quinn.client = quinn.client.with_options(max_retries=0)
        quinn.ask(max_tokens=3)
        with pytest.raises(RateLimitError, match="user quinn"):
            for _ in range(20):
                quinn.ask(max_tokens=3)
        rose.ask(max_tokens=5)
        for _ in range(5):
            sam.ask(max_tokens=30)


def test_four_processes_and_a_tight_limit(upstream: ScriptedUpstream) -> None:
    """P1 and P5: what was spent is what the upstream says, and never more than the limit, however many ask at once."""
    with chattable(CONFIG.format(url=upstream.url) + "server: {workers: 4}\n") as server:
        tina = Person(server, "tina", tokens=400)
        time_to_believe = time.monotonic() + 10
        while tina.row()["remaining"] != 400 and time.monotonic() < time_to_believe:
            threading.Event().wait(0.05)
        threading.Event().wait(1.1)  # every worker learns within a second that there are limits

        def one(_: int) -> int:
            # a connection of its own
            client = OpenAI(
                base_url=tina.client.base_url, api_key=tina.client.api_key, max_retries=0
            )
            try:
                client.chat.completions.create(
                    model="m", max_tokens=4, messages=[{"role": "user", "content": "hello"}]
                )
            except RateLimitError:
                return 0
            return 1

        with ThreadPoolExecutor(24) as pool:
            admitted = sum(pool.map(one, range(200)))
        row = tina.row()
        assert 0 < admitted < 200
        assert row["spent"] == upstream.tokens <= 400
        assert row["held"] == 0
        books_balance(server)


def test_usage_that_cannot_be_is_counted_instead(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    uma = Person(server, "uma", tokens=5000)
    usage: Any
    for usage in (
        None,
        {"prompt_tokens": -5, "completion_tokens": 1},
        {"prompt_tokens": "many"},
        {"prompt_tokens": 10**18},
        [],
    ):
        message = {"role": "assistant", "content": "hello there world"}
        upstream.script(
            Plain(
                200,
                {
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                    "usage": usage,
                },
            )
        )
        before = uma.row()["spent"]
        uma.ask("one two")
        assert 3 <= uma.row()["spent"] - before <= 20
    books_balance(server)


def test_the_command_line_verifies_the_books(server: Chattable) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chattable.proxy", "ledger", "verify"],
        cwd=server.directory, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert re.fullmatch(r"[1-9]\d* accounts, 0 differences\n", done.stdout)


def test_pictures_are_held_for_what_they_may_cost(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    vera = Person(server, "vera", tokens=3000)
    vera.client = vera.client.with_options(max_retries=0)
    picture = {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}
    held: Any = [{"role": "user", "content": [{"type": "text", "text": "what is this"}, picture]}]
    vera.client.chat.completions.create(model="m", max_tokens=5, messages=held)
    assert server.admin("GET", "/admin/ledger?user=vera")["data"][0]["held"]["tokens"] > 1600
    with pytest.raises(RateLimitError, match="too little for this request"):
        held = [{"role": "user", "content": [picture, picture]}]
        vera.client.chat.completions.create(model="m", max_tokens=5, messages=held)
    assert len(upstream.requests) == 1


def test_a_tool_call_that_dies_costs_what_was_said(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    walt = Person(server, "walt", tokens=5000)
    call = {
        "index": 0,
        "id": "c",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
    }
    events: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "tool_calls": [call]}}]},
        {"error": {"message": "oops"}},
    ]
    upstream.script(Sse(events, done=False))
    with pytest.raises(Exception, match="failed"):
        list(walt.ask("the weather please", stream=True, max_tokens=50))
    assert walt.kinds() == ["hold", "settle"]
    assert walt.row()["spent"] > 5
    books_balance(server)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"reason": "x"}, "tokens"),
        ({"reason": "x", "tokens": -1}, "tokens"),
        ({"reason": "x", "tokens": 10**18}, "tokens"),
        ({"reason": "x", "cost_usd": 1e300}, "cost_usd"),
        ({"reason": "\0", "tokens": 1}, "reason"),
        ({"reason": "", "tokens": 1}, "reason"),
        ({"tokens": 1}, "reason"),
    ],
)
def test_a_grant_that_makes_no_sense_is_refused(server: Chattable, body: Any, param: str) -> None:
    xena = Person(server, "xena", tokens=10)
    for verb in ("grant", "refund"):
        code, told = refused(server, "POST", f"/admin/budgets/{xena.budget}/{verb}", body)
        assert (code, told["param"]) == (400, param)
    assert (
        refused(server, "POST", "/admin/budgets/no%00ne/grant", {"tokens": 1, "reason": "x"})[0]
        == 404
    )
    assert refused(server, "GET", "/admin/ledger?budget=%00")[0] == 400


def test_a_session_has_a_budget_of_its_own(server: Chattable, upstream: ScriptedUpstream) -> None:
    person = Person(server, "talker")
    session = person.client.conversations.create().id
    server.admin(
        "POST", "/admin/budgets", {"subject": {"session": session}, "per": "total", "tokens": 400}
    )
    said = 0
    with pytest.raises(RateLimitError) as refused_:
        while said < 50:
            person.ask("some words that add up", extra_headers={"x-session-id": session})
            said += 1
    assert 1 <= said < 50
    assert refused_.value.code == "insufficient_quota"
    assert person.ask("elsewhere").choices[0].message.content
    (row,) = server.admin("GET", f"/admin/usage?group_by=session&user=talker&session={session}")[
        "data"
    ]
    assert (row["session"], row["requests"], row["total_tokens"] <= 400) == (session, said, True)
    unknown = {"subject": {"session": "conv_unknown"}, "per": "day", "tokens": 1}
    status, error_ = refused(server, "POST", "/admin/budgets", unknown)
    assert (status, error_["param"]) == (404, "subject.session")
    books_balance(server)
