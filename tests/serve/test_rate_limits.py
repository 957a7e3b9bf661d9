"""Rate limits as clients meet them: the real process, an unmodified SDK, in-process and on a real Valkey."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai import OpenAI, RateLimitError
from process import Chattable, chattable
from upstream import ScriptedUpstream
from valkeys import valkey_server

CONFIG = """
server: {{workers: {workers}}}
redis_url: "{redis}"
providers:
  stub: {{kind: openai, base_url: "{url}", api_key: x, retries: 0}}
models:
  m: {{provider: stub}}
  slow: {{provider: stub}}
agents:
  twice: {{use: "chattable.agents.scripted:Scripted", replies: [[{{ask: slow}}, {{ask: slow}}]]}}
rate_limits:
  default: {{requests_per_minute: 600}}
  users:
    quick: {{requests_per_minute: 60}}
    wordy: {{tokens_per_minute: 60}}
    lonely: {{parallel: 1}}
    rare: {{requests_per_minute: 1}}
    burst: {{requests_per_minute: 20}}
  teams: {{red: {{requests_per_minute: 2}}}}
  models: {{slow: {{requests_per_minute: 1}}}}
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="module", params=["in-process", "valkey"])
def server(request: pytest.FixtureRequest, upstream: ScriptedUpstream) -> Iterator[Chattable]:
    if request.param == "in-process":
        with chattable(CONFIG.format(url=upstream.url, redis="", workers=1)) as running:
            yield running
        return
    with (
        valkey_server() as valkey,
        chattable(CONFIG.format(url=upstream.url, redis=valkey.url, workers=4)) as running,
    ):
        yield running


@pytest.fixture(autouse=True)
def clear(upstream: ScriptedUpstream) -> None:
    upstream.clear()


def client(server: Chattable, name: str, *, retries: int = 0) -> OpenAI:
    return OpenAI(
        base_url=f"{server.base_url}/v1", api_key=server.user_key(name), max_retries=retries
    )


def ask(sdk: OpenAI, text: str = "hi", model: str = "m") -> str:
    answer = sdk.chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}], max_tokens=5
    )
    return answer.choices[0].message.content or ""


def test_a_default_client_that_hits_a_limit_recovers_by_itself(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    sdk = client(server, "quick", retries=5)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(sdk), range(62)))  # 60 at once, then one a second
    assert len(answers) == len(upstream.requests) == 62
    assert all(answers)


def test_a_refusal_says_what_limits_and_how_long(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    sdk = client(server, "rare")
    ask(sdk)
    with pytest.raises(RateLimitError) as refused:
        ask(sdk)
    error, headers = refused.value, refused.value.response.headers
    assert (error.code, error.type, error.param) == ("rate_limit_exceeded", "requests", None)
    told = r"Rate limit reached for user rare: 1 requests? per minute\. Try again in (1m0|5\d.*)s\."
    assert re.fullmatch(told, error.body["message"]), error.body  # type: ignore[index]
    assert 0 < float(headers["retry-after"]) <= 60
    assert 0 < float(headers["retry-after-ms"]) <= 60_000
    assert "x-should-retry" not in headers
    assert len(upstream.requests) == 1


def test_headers_tell_what_is_left_on_plain_answers_and_streams(server: Chattable) -> None:
    sdk = client(server, "somebody")
    raw = sdk.chat.completions.with_raw_response
    seen = [
        raw.create(
            model="m", messages=[{"role": "user", "content": "hi"}], max_tokens=5, stream=stream
        ).headers
        for stream in (False, True)
    ]
    assert [headers["x-ratelimit-limit-requests"] for headers in seen] == ["600", "600"]
    assert [int(headers["x-ratelimit-remaining-requests"]) for headers in seen] == [599, 598]
    assert "x-ratelimit-limit-tokens" not in seen[0]


def test_tokens_used_beyond_the_estimate_are_waited_for(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    sdk = client(server, "wordy")
    ask(sdk, "a " * 80)  # 160 bytes are estimated as 40 tokens, and are 80
    with pytest.raises(RateLimitError) as refused:
        ask(sdk, "hi")
    assert refused.value.type == "tokens"
    assert len(upstream.requests) == 1


def test_a_team_shares_its_rate(server: Chattable) -> None:
    for name in ("rita", "rosa"):
        server.admin("POST", "/admin/users", {"name": name, "team": "red"})
    rita, rosa = client(server, "rita"), client(server, "rosa")
    ask(rita)
    ask(rosa)
    with pytest.raises(RateLimitError, match="team red"):
        ask(rita)


def test_a_models_rate_counts_the_agents_that_ask_it(server: Chattable) -> None:
    with pytest.raises(RateLimitError, match="model slow"):
        ask(client(server, "agentic"), model="twice")


def test_one_call_at_a_time(server: Chattable, upstream: ScriptedUpstream) -> None:
    sdk = client(server, "lonely")
    stream = sdk.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "a b c"}], max_tokens=5, stream=True
    )
    first = next(iter(stream))
    assert first.choices
    stream.close()
    other = client(server, "lonely", retries=4)
    assert ask(other)  # the turn that was left is finished, and then there is room again


def test_a_burst_is_let_in_to_the_last_place_and_no_further(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    sdk = client(server, "burst")

    def one(_: int) -> int:
        try:
            ask(sdk)
        except RateLimitError:
            return 0
        return 1

    with ThreadPoolExecutor(25) as pool:
        admitted = sum(pool.map(one, range(100)))
    assert 20 <= admitted <= 22  # and one every three seconds that the burst took
    assert len(upstream.requests) == admitted


def test_without_redis_calls_are_let_in_and_counted_as_such(upstream: ScriptedUpstream) -> None:
    with valkey_server() as valkey:
        config = CONFIG.format(url=upstream.url, redis=valkey.url, workers=1)
        with chattable(config) as server:
            sdk = client(server, "rare")
            ask(sdk)
            with pytest.raises(RateLimitError):
                ask(sdk)
            valkey.kill()
            assert [ask(sdk) for _ in range(5)]
            ready = server.admin("GET", "/health/ready")
            assert ready["status"] == "ok"
            assert "let in uncounted" in ready["degraded"]["rate_limits"]
