"""Several upstreams behind one name: clients of a name never see that one of them fails before its first token."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from answers import Answer, Plain, Request, Reset, Silent, Sse, error, proper
from echo_model import ask as asked
from echo_model import chat_chunks
from openai import (
    APIError,
    AsyncOpenAI,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    OpenAI,
)
from process import Chattable, chattable
from upstream import ScriptedUpstream

CONFIG = """
database_url: sqlite:///chattable.db
providers:
  one:
    {{kind: openai, base_url: "{one}", api_key: key-of-one, retries: 0,
     timeouts: {{first_token: 400ms, connect: 400ms, total: 1s}}}}
  two: {{kind: openai, base_url: "{two}", api_key: key-of-two, retries: 0}}
  many: {{kind: openai, base_url: "{one}", api_keys: [first-key, second-key, third-key], retries: 0}}
  gone: {{kind: openai, base_url: "http://127.0.0.1:9/v1", retries: 0}}
models:
  fast: {{provider: one, model: small, fallbacks: [other]}}
  other: {{provider: two, model: big, context_length: 100000, price: {{input: 2, output: 3}}}}
  tight: {{provider: one, model: small, context_length: 100, fallbacks: [tiny, other]}}
  tiny: {{provider: one, model: tiny, context_length: 50}}
  dead: {{provider: gone, fallbacks: [other]}}
  turns: {{provider: many, model: small}}
  alone: {{provider: one, model: small}}
  pair: {{targets: [{{provider: one, weight: 3}}, {{provider: two, weight: 1}}]}}
  spare: {{targets: [{{provider: one, weight: 1}}, {{provider: two, weight: 0}}]}}
  equal: {{targets: [{{provider: one}}, {{provider: two}}]}}
agents:
  persona: {{model: fast, context: "You are terse."}}
"""


Pair = tuple[ScriptedUpstream, ScriptedUpstream]


@pytest.fixture
def upstreams() -> Iterator[Pair]:
    with ScriptedUpstream() as one, ScriptedUpstream() as two:
        yield one, two


@pytest.fixture
def server(upstreams: Pair) -> Iterator[Chattable]:
    one, two = upstreams
    with chattable(CONFIG.format(one=one.url, two=two.url)) as running:
        yield running


def sdk(server: Chattable, **key: Any) -> OpenAI:
    return OpenAI(
        base_url=f"{server.base_url}/v1", api_key=server.user_key("alice", **key), max_retries=0
    )


def ask(client: OpenAI, model: str, text: str = "hello there", **fields: Any) -> tuple[str, Any]:
    """The words of the answer, and its headers."""
    messages: Any = [{"role": "user", "content": text}]
    raw = client.chat.completions.with_raw_response.create(model=model, messages=messages, **fields)
    answer: Any = raw.parse()
    if fields.get("stream"):
        return "".join(
            chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices
        ), raw.headers
    return answer.choices[0].message.content, raw.headers


def begun(text: str = "half") -> list[Any]:
    """The beginning of a stream: a role, then a word."""
    chunks = chat_chunks(asked(text))
    return chunks[:2]


FAILURES: dict[str, Answer] = {
    "500": error(500, "boom"),
    "429": error(429, "slow down", headers={"retry-after": "60"}),
    "401": error(401, "Incorrect API key provided: key-of-one."),
    "404": error(404, "The model `small` does not exist", "model_not_found"),
    "reset": Reset(),
    "silent": Silent(),
    "html": Plain(200, b"<!doctype html>", {"content-type": "text/html"}),
    "only a role": Sse(chat_chunks(asked("x"))[:1], done=False, end="reset"),
    "cut before a word": Reset(90),
}


def test_a_failure_before_the_first_token_is_not_seen(server: Chattable, upstreams: Pair) -> None:
    one, two = upstreams
    client = sdk(server)
    for name, failure in FAILURES.items():
        for stream in (False, True):
            one.script(failure)
            text, headers = ask(client, "fast", stream=stream, max_tokens=50)
            assert (text, headers["x-chattable-model"]) == ("hello there", "two/big"), name
            assert headers["x-chattable-attempts"] == "2", name
            assert (
                [r.json["model"] for r in one.requests],
                [r.json["model"] for r in two.requests],
            ) == (["small"], ["big"]), name
            assert two.requests[0].headers["authorization"] == "Bearer key-of-two"
            one.clear()
            two.clear()
            for _ in range(2):
                ask(client, "fast")  # it is well again: no circuit opens
            one.clear()


def test_after_the_first_token_the_client_is_told(server: Chattable, upstreams: Pair) -> None:
    one, two = upstreams
    one.script(Sse(begun("a b c d"), done=False, end="reset"))
    with pytest.raises(APIError) as seen:
        ask(sdk(server), "fast", stream=True)
    assert "in the middle of its answer" in seen.value.message
    assert two.requests == []


def test_a_clients_own_mistake_is_asked_once(server: Chattable, upstreams: Pair) -> None:
    one, two = upstreams
    one.script(error(400, "'temperature' is too high", "invalid_value", "temperature"))
    with pytest.raises(BadRequestError) as refused:
        ask(sdk(server), "fast", temperature=9)
    assert (refused.value.param, len(one.requests), len(two.requests)) == ("temperature", 1, 0)
    (state,) = [
        model for model in server.admin("GET", "/admin/models")["data"] if model["id"] == "alone"
    ]
    assert (state["targets"][0]["failed"], state["targets"][0]["circuit"]) == (0, "closed")


def test_a_prompt_that_is_too_long_goes_to_who_can_read_it(
    server: Chattable, upstreams: Pair
) -> None:
    one, _ = upstreams
    one.script(
        error(400, "This model's maximum context length is 100 tokens.", "context_length_exceeded")
    )
    text, headers = ask(sdk(server), "tight")
    assert (text, headers["x-chattable-model"]) == ("hello there", "two/big")
    # and not `tiny`, which reads even less
    assert [request.json["model"] for request in one.requests] == ["small"]
    one.script(
        error(400, "This model's maximum context length is 100 tokens.", "context_length_exceeded")
    )
    with pytest.raises(BadRequestError) as refused:
        ask(sdk(server), "alone")
    assert refused.value.code == "context_length_exceeded"


def test_a_key_gets_no_model_in_place_of_another_that_it_may_not_use(
    server: Chattable, upstreams: Pair
) -> None:
    one, two = upstreams
    one.script(error(500, "boom"))
    with pytest.raises(InternalServerError):
        ask(sdk(server, models=["fast"]), "fast")
    assert two.requests == []
    with pytest.raises(NotFoundError):
        ask(sdk(server, models=["fast"]), "other")


def test_each_attempt_is_charged_at_its_own_models_price(
    server: Chattable, upstreams: Pair
) -> None:
    one, two = upstreams
    client = sdk(server)
    server.admin(
        "POST", "/admin/budgets", {"subject": {"user": "alice"}, "per": "day", "tokens": 100_000}
    )
    one.script(error(500, "boom"), Silent())
    for _ in range(2):
        assert ask(client, "fast", max_tokens=50)[0] == "hello there"
    entries = server.admin("GET", "/admin/ledger?user=alice&limit=100")["data"]
    assert sum(entry["held"]["tokens"] for entry in entries) == 0
    rows = {
        row["model"]: row
        for row in server.admin("GET", "/admin/usage?group_by=model&user=alice")["data"]
    }
    assert rows["other"]["total_tokens"] == two.tokens
    assert rows["other"]["cost_usd"] == pytest.approx(
        sum(2 * spent.prompt_tokens + 3 * spent.completion_tokens for spent in two.usage_log) / 1e6
    )
    assert rows["fast"]["requests"] == 1  # the silent one: nobody knows what it used
    assert (
        two.requests[0].json[
            "max_completion_tokens"
            if "max_completion_tokens" in two.requests[0].json
            else "max_tokens"
        ]
        == 50
    )


def test_an_agent_does_not_see_it_either(server: Chattable, upstreams: Pair) -> None:
    one, _ = upstreams
    one.script(error(503, "busy"))
    assert ask(sdk(server), "persona")[0] == "hello there"


def test_a_provider_that_is_away_is_left_alone_for_a_while(
    server: Chattable, upstreams: Pair
) -> None:
    one, two = upstreams
    one.reply = lambda request: error(500, "boom")
    client = sdk(server)
    for _ in range(12):
        assert ask(client, "fast")[0] == "hello there"
    assert (len(one.requests), len(two.requests)) == (5, 12)
    (state,) = [
        model for model in server.admin("GET", "/admin/models")["data"] if model["id"] == "fast"
    ]
    assert (state["targets"][0]["circuit"], state["targets"][0]["asked"], state["fallbacks"]) == (
        "open",
        "one/small",
        ["other"],
    )
    with pytest.raises(InternalServerError):  # it has nobody else: asking is better than not
        ask(client, "alone")
    one.reply = proper
    assert ask(client, "dead")[0] == "hello there"
    deadline = time.monotonic() + 15
    while ask(client, "fast")[1]["x-chattable-model"] != "one/small":
        assert time.monotonic() < deadline
    (state,) = [
        model for model in server.admin("GET", "/admin/models")["data"] if model["id"] == "fast"
    ]
    assert state["targets"][0]["circuit"] == "closed"


def test_weights_are_shares_and_a_session_stays_where_it_is(
    server: Chattable, upstreams: Pair
) -> None:
    one, two = upstreams
    client = sdk(server)
    for n in range(120):
        ask(client, "pair", f"question {n}")
    assert len(one.requests) + len(two.requests) == 120
    assert 70 <= len(one.requests) <= 108  # three quarters, give or take four deviations
    used = Counter[str]()
    for n in range(30):
        homes = {
            ask(client, "pair", f"{i}", extra_headers={"x-session-id": f"s{n}"})[1][
                "x-chattable-model"
            ]
            for i in range(2)
        }
        assert len(homes) == 1
        used[homes.pop()] += 1
    assert len(used) == 2  # not all of them in one place
    for n in range(10):
        assert ask(client, "spare", f"{n}")[1]["x-chattable-model"] == "one/spare"
    one.script(error(500, "boom"))
    assert ask(client, "spare")[1]["x-chattable-model"] == "two/spare"


def test_without_weights_the_quicker_is_asked_more_often(
    server: Chattable, upstreams: Pair
) -> None:
    one, two = upstreams
    one.reply = lambda request: Sse(delay_s=0.05) if request.json["stream"] else proper(request)
    client = sdk(server)
    for n in range(40):
        ask(client, "equal", f"question {n}", stream=True)
    assert len(two.requests) > 2 * len(one.requests) > 0


async def test_two_hundred_clients_and_a_healthy_fallback(
    server: Chattable, upstreams: Pair
) -> None:
    """One target fails 30 % of its calls, hangs or dies in turns; before the first token nobody is told."""
    one, two = upstreams
    chance = random.Random(7)

    def reply(request: Request) -> Answer:
        draw = chance.random()
        if draw < 0.3:
            return chance.choice(
                [error(500, "boom"), error(429, "slow"), Reset(), error(503, "busy")]
            )
        return Silent() if draw < 0.33 else proper(request)

    one.reply = reply
    async with AsyncOpenAI(
        base_url=f"{server.base_url}/v1",
        api_key=server.user_key("alice"),
        max_retries=0,
        timeout=60,
    ) as client:

        async def one_client(number: int) -> list[bool]:
            seen = []
            for turn in range(3):
                text = f"client {number} turn {turn}"
                messages: Any = [{"role": "user", "content": text}]
                if number % 2:
                    stream = await client.chat.completions.create(
                        model="fast", messages=messages, stream=True
                    )
                    said = "".join(
                        [
                            chunk.choices[0].delta.content or ""
                            async for chunk in stream
                            if chunk.choices
                        ]
                    )
                else:
                    whole = await client.chat.completions.create(model="fast", messages=messages)
                    said = whole.choices[0].message.content or ""
                seen.append(said == text)
            return seen

        outcomes = await asyncio.gather(*(one_client(number) for number in range(200)))
    assert all(all(seen) for seen in outcomes)
    assert len(two.requests) > 0
    deadline = time.monotonic() + 15
    while (state := server.admin("GET", "/admin/models")["data"][0]["targets"][0])["under_way"]:
        assert time.monotonic() < deadline, state


def test_keys_take_turns_and_a_dead_one_rests(server: Chattable, upstreams: Pair) -> None:
    one, _ = upstreams
    client = sdk(server)

    def keys() -> list[str]:
        return [
            request.headers["authorization"].removeprefix("Bearer ") for request in one.requests
        ]

    for n in range(6):
        ask(client, "turns", f"{n}")
    assert keys() == ["first-key", "second-key", "third-key"] * 2
    one.clear()
    one.script(
        error(401, "Incorrect API key provided: first-key."),
        error(429, "slow down", headers={"retry-after": "30"}),
    )
    assert ask(client, "turns")[1]["x-chattable-attempts"] == "3"  # the third one is well
    for n in range(4):
        ask(client, "turns", f"{n}")
    assert keys() == ["first-key", "second-key", *["third-key"] * 5]
    (state,) = [
        model for model in server.admin("GET", "/admin/models")["data"] if model["id"] == "turns"
    ]
    assert (state["targets"][0]["keys"], state["targets"][0]["keys_resting"]) == (3, 2)
    one.script(error(403, "no"))
    with pytest.raises(InternalServerError) as refused:  # all rest
        ask(client, "turns")
    assert "credentials" in refused.value.message


def test_what_a_provider_has_no_place_for_is_left_out_or_refused(upstreams: Pair) -> None:
    one, _ = upstreams
    config = f"""
providers:
  lenient: {{kind: mistral, base_url: "{one.url}", api_key: x}}
  strict: {{kind: mistral, base_url: "{one.url}", api_key: x, unsupported: reject}}
models: {{lenient: {{provider: lenient}}, strict: {{provider: strict}}}}
"""
    with chattable(config) as server:
        client = sdk(server)
        ask(client, "lenient", logit_bias={"7": 1})
        assert "logit_bias" not in one.requests[-1].json
        with pytest.raises(BadRequestError) as refused:
            ask(client, "strict", logit_bias={"7": 1})
        assert (refused.value.param, len(one.requests)) == ("logit_bias", 1)
        ask(client, "strict", temperature=0.5, user="u")
        assert one.requests[-1].json["temperature"] == 0.5
