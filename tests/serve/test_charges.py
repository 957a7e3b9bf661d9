"""What a call is charged, by what is known of it: one test for each row of docs/faults.md, part B."""

import base64
import json
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from answers import Gate, Plain, Reset, Silent, Sse
from openai import OpenAI, RateLimitError
from process import Chattable, chattable, free_port
from upstream import ScriptedUpstream

CONFIG = """
providers:
  stub: {{kind: openai, base_url: "{url}", api_key: x, retries: 0, timeouts: {{first_token: 1s, total: 2s, connect: 1s}}}}
  gone: {{kind: openai, base_url: "http://127.0.0.1:{gone}/v1", api_key: x, retries: 0}}
models:
  m: {{provider: stub, price: {{input: 1, output: 2}}}}
  free: {{provider: stub, price: {{input: 0, output: 0}}}}
  long: {{provider: stub, price: {{input: 10, output: 10, long: {{above: 100, input: 1000, output: 1000}}}}}}
  drawn: {{provider: stub, model: dall-e-3}}
  safe: {{targets: [{{provider: stub, model: first}}], fallbacks: [m]}}
  nowhere: {{provider: gone, fallbacks: [m]}}
budgets: {{wait: 1s}}
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def server(upstream: ScriptedUpstream) -> Iterator[Chattable]:
    with chattable(CONFIG.format(url=upstream.url, gone=free_port())) as running:
        yield running


@pytest.fixture(autouse=True)
def clear(upstream: ScriptedUpstream) -> None:
    upstream.clear()


class Person:
    """A user with a budget and an SDK that asks once."""

    def __init__(self, server: Chattable, name: str, **budget: Any) -> None:
        self.server, self.name = server, name
        key = server.user_key(name)
        self.client = OpenAI(base_url=f"{server.base_url}/v1", api_key=key, max_retries=0)
        body = {"subject": {"user": name}, "per": "day", **(budget or {"tokens": 10_000_000})}
        self.budget = server.admin("POST", "/admin/budgets", body)["id"]

    def ask(self, text: Any = "one two three", **fields: Any) -> Any:
        messages = text if isinstance(text, list) else [{"role": "user", "content": text}]
        return self.client.chat.completions.create(
            **({"model": "m", "messages": messages} | fields)
        )

    def post(self, path: str, **body: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.client.api_key}"} | body.pop("headers", {})
        return httpx.post(
            f"{self.server.base_url}/v1{path}", json=body, headers=headers, timeout=20
        )

    @property
    def row(self) -> dict[str, Any]:
        found = self.server.admin("GET", f"/admin/budgets?user={self.name}")["data"]
        return next(row for row in found if row["id"] == self.budget)

    @property
    def entries(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.server.admin(
            "GET", f"/admin/ledger?user={self.name}&limit=1000"
        )["data"]
        return found

    def booked(self, sure: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The budget, once what is booked is what it must be: some of it follows within seconds."""
        end = time.monotonic() + 10
        while not sure(row := self.row):
            assert time.monotonic() < end, row
            threading.Event().wait(0.05)
        return row


def whole(usage: Any, text: str = "hello there", **message: Any) -> Plain:
    """An answer that came at once, with this usage."""
    said = {"role": "assistant", "content": text, **message}
    choices = [{"index": 0, "message": said, "finish_reason": "stop"}]
    return Plain(
        200,
        {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
        | usage,
    )


def chunk(text: str = "", index: int = 0, **fields: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": fields.pop("end", None)}
    return {
        "id": "x",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    } | fields


def balanced(server: Chattable) -> None:
    assert server.admin("POST", "/admin/ledger/verify", {})["differences"] == 0


def test_b7_a_connection_that_never_was_costs_nothing(server: Chattable) -> None:
    ann = Person(server, "ann7", tokens=1000)
    assert ann.ask(model="nowhere", max_tokens=5).usage.total_tokens == 6
    assert ann.row["spent"] == 6
    assert [entry["kind"] for entry in ann.entries] == ["hold", "void", "hold", "settle"]


def test_b7_silence_costs_the_prompt_and_never_refuses_the_fallback(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    text = "word " * 40  # 41 tokens and 16 for its frame: the budget has room for one such call
    bob = Person(server, "bob7", tokens=62)
    upstream.script(Silent())
    answer = bob.ask(text, model="safe", max_tokens=5, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in answer if c.choices).startswith(
        "word word"
    )
    # the fallback's, and the prompt that nobody answered
    row = bob.booked(lambda row: row["spent"] > 62)
    assert row["held"] == 0
    flagged = [entry for entry in bob.entries if entry["upper"]]
    assert flagged and flagged[-1]["kind"] == "correct"
    balanced(server)


def test_b8_four_calls_without_a_cap_share_what_there_is(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    cat = Person(server, "cat8", tokens=3000)
    gates = [Gate() for _ in range(4)]
    upstream.script(*gates)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(cat.ask) for _ in gates]
        for gate in gates:
            gate.wait()  # all four are under way at once
        for gate in gates:
            gate.release()
        assert [one.result().usage.total_tokens for one in asked] == [6] * 4
    caps = sorted(request.json["max_completion_tokens"] for request in upstream.requests)
    assert sum(caps) <= 3000 and caps[0] >= 150


def test_b8_what_is_held_is_told_apart_from_what_is_spent(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    dan = Person(server, "dan8", tokens=100)
    gate = Gate()
    upstream.script(gate)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(dan.ask, max_tokens=90)
        gate.wait()
        with pytest.raises(RateLimitError) as busy:
            dan.ask(max_tokens=90)
        gate.release()
        first.result()
    assert busy.value.code == "budget_busy"
    assert (
        busy.value.response.headers["x-should-retry"],
        busy.value.response.headers["retry-after"],
    ) == ("true", "1")
    assert "not used up" in str(busy.value) and "held" in str(busy.value)
    dan.ask(max_tokens=80)


def test_b8_a_call_waits_a_moment_for_room_that_others_hold(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    eve = Person(server, "eve8", tokens=100)
    gate = Gate()
    upstream.script(gate)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(eve.ask, max_tokens=90)
        gate.wait()
        second = pool.submit(eve.ask, max_tokens=20)
        gate.release()
        assert first.result().usage.total_tokens + second.result().usage.total_tokens == 12


@pytest.mark.parametrize(
    ("path", "body", "least"),
    [
        ("/completions", {"prompt": ["a", "b", "c"], "max_tokens": 1000}, 3000),
        ("/completions", {"prompt": "a", "n": 3, "max_tokens": 1000}, 3000),
        ("/completions", {"prompt": "a", "n": 1, "best_of": 4, "max_tokens": 1000}, 4000),
        ("/completions", {"prompt": [[1, 2], [3]], "max_tokens": 1000}, 2000),
        ("/rerank", {"query": "word " * 50, "documents": ["x"] * 100}, 5000),
        ("/embeddings", {"input": ["word " * 500] * 4}, 2000),
        ("/audio/speech", {"input": "word " * 500, "voice": "alloy"}, 3000),
    ],
)
def test_b9_what_is_forwarded_is_held_for_all_that_it_may_use(
    server: Chattable, upstream: ScriptedUpstream, path: str, body: dict[str, Any], least: int
) -> None:
    who = Person(server, f"fay9-{time.monotonic_ns()}")
    gate = Gate()
    upstream.script(gate)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(who.post, path, model="m", **body)
        gate.wait()
        assert who.row["held"] >= least
        gate.release()
        asked.result()
    assert who.row["held"] == 0


def test_a_long_prompt_is_held_and_charged_at_its_price(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    who = Person(server, "lena", cost_usd=0.1)  # a hundred tokens at the long price
    who.ask("word " * 10, model="long", max_tokens=5)
    short = who.row["spent_usd"]
    assert 0 < short < 0.001
    with pytest.raises(RateLimitError, match="too little"):
        who.ask("word " * 150, model="long", max_tokens=5)
    assert who.row["spent_usd"] == short
    rich = Person(server, "rich", cost_usd=1)
    usage = rich.ask("word " * 150, model="long", max_tokens=5).usage
    assert rich.row["spent_usd"] == pytest.approx(
        (usage.prompt_tokens + usage.completion_tokens) / 1000
    )
    assert usage.prompt_tokens > 100


def test_b9_images_are_held_by_their_price(server: Chattable, upstream: ScriptedUpstream) -> None:
    gus = Person(server, "gus9", cost_usd=0.5)
    usual, upstream.reply = (
        upstream.reply,
        lambda _: Plain(200, {"created": 1, "data": [{"b64_json": ""}] * 4}),
    )
    try:
        with ThreadPoolExecutor(20) as pool:
            asked = [
                pool.submit(gus.post, "/images/generations", model="drawn", prompt="a cat", n=4)
                for _ in range(20)
            ]
            codes = [one.result().status_code for one in asked]
    finally:
        upstream.reply = usual
    assert 0 < codes.count(200) < 20 and set(codes) == {200, 429}
    assert 0 < gus.row["spent_usd"] <= 0.5
    balanced(server)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/completions", {"prompt": "a", "n": "50"}, "n"),
        ("/completions", {"prompt": "a", "n": 2**70}, "n"),
        ("/completions", {"prompt": "a", "max_tokens": -1}, "max_tokens"),
        ("/completions", {"prompt": "a", "best_of": 1.5}, "best_of"),
        ("/completions", {"prompt": 5}, "prompt"),
        ("/images/generations", {"prompt": "a", "n": "4"}, "n"),
        ("/images/generations", {"prompt": "a", "n": 400}, "n"),
        ("/images/generations", {"prompt": ["a"]}, "prompt"),
        ("/audio/speech", {"voice": "alloy"}, "input"),
        ("/rerank", {"query": "q", "documents": "d"}, "documents"),
        ("/rerank", {"query": "q"}, "documents"),
        ("/embeddings", {"input": {"a": 1}}, "input"),
    ],
)
def test_b9_b15_what_is_forwarded_has_types(
    server: Chattable, upstream: ScriptedUpstream, path: str, body: dict[str, Any], param: str
) -> None:
    hal = Person(server, f"hal9-{time.monotonic_ns()}")
    answer = hal.post(path, model="m", **body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert not upstream.requests and not hal.entries


@pytest.mark.parametrize(
    ("body", "least"),
    [
        ({"documents": [{"text": "word " * 2000}]}, 2000),
        ({"prediction": {"type": "content", "content": "word " * 2000}}, 2000),
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "description": "word " * 2000}}
                ]
            },
            2000,
        ),
        ({"unheard_of": "word " * 2000}, 2000),
        (
            {
                "messages": [
                    {"role": "assistant", "content": "x", "reasoning_content": "word " * 2000}
                ]
            },
            2000,
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": "x",
                        "thinking_blocks": [{"t": "word " * 2000}],
                    }
                ]
            },
            2000,
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else str(value),
)
def test_b10_b17_everything_that_is_forwarded_counts(
    server: Chattable, upstream: ScriptedUpstream, body: dict[str, Any], least: int
) -> None:
    """It bounds the prompt before, and is counted where nobody reports after."""
    hello = [{"role": "user", "content": "hi"}]
    fields = {"messages": hello, "max_tokens": 5} | body
    fields["messages"] = [*body.get("messages", []), *hello] if "messages" in body else hello
    poor = Person(server, f"ida10-{time.monotonic_ns()}", tokens=1000)
    answer = poor.post("/chat/completions", model="m", **fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota"), (
        answer.text
    )
    rich = Person(server, f"ivy10-{time.monotonic_ns()}")
    upstream.script(whole({}))
    rich.post("/chat/completions", model="m", **fields)
    assert least <= rich.row["spent"] < least * 2


def test_b11_a_liar_with_fat_chunks_is_cut_within_one(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    jim = Person(server, "jim11", tokens=400)
    fat = " word" * 100
    upstream.script(Sse([chunk(fat) for _ in range(50)]))
    chunks = list(jim.ask("hi", max_tokens=150, stream=True))
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said == fat * 2 and chunks[-1].choices[0].finish_reason == "length"
    assert jim.row["spent"] == 201 and jim.row["held"] == 0


def test_b11_pieces_smaller_than_a_token_are_not_cut(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    kim = Person(server, "kim11", tokens=10_000)
    text = "understanding internationalisation " * 3
    upstream.script(Sse([*(chunk(letter) for letter in text), chunk(end="stop")]))
    chunks = list(kim.ask("hi", max_tokens=60, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_b12_a_lowered_cap_lowers_what_depends_on_it(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    lee = Person(server, "lee12", tokens=1_500)
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 2_048}}
    lee.ask("hi", max_tokens=4_000, extra_body=thinking)
    sent = upstream.requests[-1].json
    assert 1_024 <= sent["thinking"]["budget_tokens"] < sent["max_tokens"] < 1_500
    poor = Person(server, "leo12", tokens=900)
    with pytest.raises(RateLimitError, match="too little for this request"):
        poor.ask("hi", max_tokens=4_000, extra_body=thinking)


def test_b14_repeats_under_a_key_are_one_charge(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    may = Person(server, "may14")
    usage = {"usage": {"prompt_tokens": 3, "total_tokens": 3}}
    upstream.script(
        *[Plain(200, {"object": "list", "data": [{"embedding": [1.0]}], "model": "m"} | usage)] * 3
    )
    key = {"Idempotency-Key": "once-14"}
    answers = [
        may.post("/embeddings", model="m", input="one two three", headers=key) for _ in range(3)
    ]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert answers[0].content == answers[1].content == answers[2].content
    assert [answer.headers.get("idempotency-replayed") for answer in answers] == [
        None,
        "true",
        "true",
    ]
    assert (len(upstream.requests), may.row["spent"]) == (1, 3)
    other = may.post("/embeddings", model="m", input="something else", headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("usage", "said", "prompt", "output"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}, " word" * 50, 7, 50),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, " word" * 50, 3, 50),
        ({"prompt_tokens": 7, "completion_tokens": 1}, " word" * 50, 7, 50),  # a placeholder
        # one of two choices
        ({"prompt_tokens": 7, "completion_tokens": 25, "total_tokens": 32}, " word" * 50, 7, 50),
        # another tokeniser
        ({"prompt_tokens": 7, "completion_tokens": 45, "total_tokens": 52}, " word" * 50, 7, 45),
        # thoughts
        ({"prompt_tokens": 7, "completion_tokens": 400, "total_tokens": 407}, " word" * 50, 7, 400),
        ({"prompt_tokens": 7, "completion_tokens": 10**12}, " word" * 50, 7, 50),
        (None, " word" * 50, 3, 50),
    ],
    ids=[
        "no output",
        "zeros",
        "placeholder",
        "half",
        "a tenth less",
        "more",
        "beyond reason",
        "nothing",
    ],
)
def test_a4_b16_b20_the_larger_of_what_was_said_and_what_was_reported(
    server: Chattable,
    upstream: ScriptedUpstream,
    stream: bool,
    usage: Any,
    said: str,
    prompt: int,
    output: int,
) -> None:
    ned = Person(server, f"ned16-{time.monotonic_ns()}")
    reported = {} if usage is None else {"usage": usage}
    if stream:
        pieces = [
            chunk(said[:100]),
            chunk(said[100:]),
            chunk(end="stop"),
            {**chunk(), "choices": [], **reported},
        ]
        upstream.script(Sse(pieces))
        options = {"stream": True, "stream_options": {"include_usage": True}}
        told = [c.usage for c in ned.ask(max_tokens=500, **options) if c.usage][-1]
    else:
        upstream.script(whole(reported, said))
        told = ned.ask(max_tokens=500).usage
    # the client is told what is booked
    assert (told.prompt_tokens, told.completion_tokens) == (prompt, output)
    assert ned.row["spent"] == prompt + output == told.total_tokens


def test_b20_choices_are_counted_each_by_itself(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    """llama.cpp reports one of two choices, in two usage chunks, the first before the other choice's last word."""
    olga = Person(server, "olga20")
    words = ["Hello", ",", " how", " can", " I", " help", " you", "?"]
    one = {"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13}
    events: list[Any] = [chunk(word, index) for word in words[:-1] for index in (0, 1)]
    events += [
        chunk(words[-1], 0),
        chunk("", 0, end="stop"),
        {**chunk(), "choices": [], "usage": one},
    ]
    events += [
        chunk(words[-1], 1),
        chunk("", 1, end="stop"),
        {**chunk(), "choices": [], "usage": one},
    ]
    upstream.script(Sse(events))
    chunks = list(olga.ask(n=2, max_tokens=50, stream=True, stream_options={"include_usage": True}))
    text = [
        "".join(
            c.choices[0].delta.content or ""
            for c in chunks
            if c.choices and c.choices[0].index == i
        )
        for i in (0, 1)
    ]
    assert text == ["".join(words)] * 2
    assert olga.row["spent"] == 5 + 16 == chunks[-1].usage.total_tokens


def test_b20_of_several_prompts_all_are_counted(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    """llama.cpp reports the first prompt of a list, and its answer, alone."""
    ola = Person(server, "ola20")
    said = " and so on it goes"  # five tokens
    choices = [{"index": i, "text": said, "finish_reason": "stop"} for i in range(3)]
    one = {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}
    upstream.script(
        Plain(200, {"object": "text_completion", "model": "m", "choices": choices, "usage": one})
    )
    assert (
        ola.post(
            "/completions", model="m", prompt=["one two three four"] * 3, max_tokens=9
        ).status_code
        == 200
    )
    assert 3 * 4 + 3 * 5 <= ola.row["spent"] <= 3 * 4 + 3 * 5 + 2  # line ends between the prompts


def test_b16_b17_what_was_reported_before_a_cut_is_kept(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    pam = Person(server, "pam17")
    early = {
        **chunk("one "),
        "usage": {"prompt_tokens": 70, "completion_tokens": 1, "total_tokens": 71},
    }
    upstream.script(Sse([early, *(chunk("word ") for _ in range(9))], done=False, end="reset"))
    with pytest.raises(Exception, match="middle"):
        list(pam.ask(stream=True, max_tokens=50))
    # ten words, and the space behind them
    assert pam.row["spent"] == 70 + 11 and pam.row["held"] == 0


def png(width: int, height: int, size: int) -> str:
    """The data URL of a picture whose header says its size in pixels, filled up to so many bytes."""
    head = (
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
        + struct.pack(">II", width, height)
        + b"\x08\x02\x00\x00\x00"
    )
    return "data:image/png;base64," + base64.b64encode(head + bytes(size - len(head))).decode()


@pytest.mark.parametrize("size", [300_000, 1_500_000])
def test_b19_a_picture_is_held_and_charged_by_its_table(
    server: Chattable, upstream: ScriptedUpstream, size: int
) -> None:
    picture = {"type": "image_url", "image_url": {"url": png(1024, 1024, size)}}
    asked = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}]
    quin = Person(server, f"quin19-{size}")
    gate = Gate()
    upstream.script(gate)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(quin.ask, asked, max_tokens=10)
        gate.wait()
        assert quin.row["held"] < 20_000
        gate.release()
        first.result()
    upstream.script(Silent())
    before = quin.row["spent"]
    with pytest.raises(Exception, match="within"):
        quin.ask(asked, max_tokens=10, stream=True)
    assert 0 < quin.row["spent"] - before < 20_000


def test_b18_leaving_makes_no_call_cheaper(upstream: ScriptedUpstream) -> None:
    config = CONFIG.format(url=upstream.url, gone=free_port()) + "server: {on_disconnect: cancel}\n"
    with chattable(config) as server:
        for stream in (False, True):
            rob = Person(server, f"rob18-{stream}")
            gate = Gate(2)
            upstream.script(gate)
            body = {
                "model": "m",
                "messages": [{"role": "user", "content": "one two three"}],
                "max_tokens": 777,
            }
            with pytest.raises(httpx.TimeoutException):
                httpx.post(
                    f"{server.base_url}/v1/chat/completions",
                    json=body | {"stream": stream},
                    headers={"authorization": f"Bearer {rob.client.api_key}"},
                    timeout=0.5,
                )
            row = rob.booked(lambda row: not row["held"] and row["spent"] > 0)
            assert row["spent"] == 3 + 777
            assert [entry["upper"] is not None for entry in rob.entries] == [False, True]
            gate.release()


@pytest.mark.parametrize(
    "how", ["their next question", "another's stream", "another's whole answer"]
)
def test_b18_nor_does_it_where_somebody_needs_the_place(
    upstream: ScriptedUpstream, how: str
) -> None:
    config = CONFIG.format(url=upstream.url, gone=free_port()).replace(
        "retries: 0, timeouts", "max_connections: 1, retries: 0, timeouts"
    )
    with chattable(config) as server:
        rob, sue = Person(server, "rob18"), Person(server, "sue18")
        gate, stream = Gate(2), how != "another's whole answer"
        upstream.script(gate if stream else Silent())
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": "one two three"}],
            "max_tokens": 777,
        }
        with pytest.raises(httpx.TimeoutException):
            httpx.post(
                f"{server.base_url}/v1/chat/completions",
                json=body | {"stream": stream},
                headers={"authorization": f"Bearer {rob.client.api_key}", "x-session-id": "s"},
                timeout=0.4,
            )
        if how == "their next question":
            spent = rob.ask("go on", extra_headers={"x-session-id": "s"}).usage.total_tokens
        else:
            sue.ask()
            spent = 0
        assert (
            rob.booked(lambda row: not row["held"] and row["spent"] > spent)["spent"]
            == 3 + 777 + spent
        )
        assert sum(entry["upper"] is not None for entry in rob.entries) == 1
        gate.release()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_b18_an_impatient_stop_books_every_open_call(
    upstream: ScriptedUpstream, tmp_path: Path, workers: int, number: signal.Signals
) -> None:
    config = CONFIG.format(url=upstream.url, gone=free_port()) + f"server: {{workers: {workers}}}\n"
    gates = [Gate(2), Gate(2)]
    upstream.script(*gates)
    with chattable(config, directory=tmp_path) as server:
        sam = Person(server, "sam18", tokens=100_000)
        with ThreadPoolExecutor(2) as pool:
            asked = [
                pool.submit(lambda most: list(sam.ask(stream=True, max_tokens=most)), most)
                for most in (100, 200)
            ]
            for gate in gates:
                gate.wait()
            # a supervisor looks twice a second, and who is impatient presses again
            for _ in range(40):
                server.popen.send_signal(number)
                with suppress(subprocess.TimeoutExpired):
                    server.popen.wait(0.7)
                    break
            assert not server.running
            for gate in gates:
                gate.release()
            for one in asked:
                one.exception()
        admin = server.admin_key
    with chattable(config, directory=tmp_path, CHATTABLE_ADMIN_KEY=admin) as server:
        sam.server = server
        row = sam.booked(lambda row: not row["held"])
        assert row["spent"] == 3 + 100 + 3 + 200
        assert sum(entry["upper"] is not None for entry in sam.entries) == 2
        balanced(server)


def test_a_reset_after_the_first_word_costs_what_was_said(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    tom = Person(server, "tom")
    upstream.script(Sse([chunk("one two three")], done=False, end="reset"))
    with pytest.raises(Exception, match="middle"):
        list(tom.ask(stream=True))
    assert tom.row["spent"] == 3 + 3


def test_an_answer_that_is_no_json_costs_the_prompt(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    uma = Person(server, "uma")
    upstream.script(Plain(200, "<html>", {"content-type": "text/html"}), Reset())
    for _ in range(2):
        with pytest.raises(Exception, match="Error code"):
            uma.ask(max_tokens=100)
    assert uma.row["spent"] == 3 + 3
    assert [bool(entry["upper"]) for entry in uma.entries] == [False, False, False, True]


def test_the_prompt_of_an_answer_without_usage_is_all_that_was_sent(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    vic = Person(server, "vic17")
    call = {
        "id": "c",
        "type": "function",
        "function": {"name": "f", "arguments": json.dumps({"a": "word " * 500})},
    }
    upstream.script(whole({}))
    vic.ask(
        [
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "x"},
        ]
    )
    assert vic.row["spent"] > 500
