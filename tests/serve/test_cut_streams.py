"""What is no whole answer is kept nowhere: not in the cache, not as completed in a session, whatever the provider speaks."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from answers import Answer, Gate, Plain, Raw, Sse, framed, head
from conversations import Kept
from process import Chattable, chattable
from upstream import ScriptedUpstream
from wire.test_same_chunks import STREAMS, last, pieces

KINDS = [name for name in STREAMS if " " not in name]
CONFIG = """
models:
  two: {{targets: [{{provider: openai, model: m, weight: 1}}, {{provider: openai, model: n, weight: 0}}]}}
  openai/*: {{provider: openai}}
agents:
  persona: {{model: openai/m, context: "You are terse.", cache: true}}
cache: {{}}
sessions: {{}}
providers:
  azure: {{kind: azure, base_url: "{url}", api_key: key-of-azure, retries: 0}}
  openai: {{kind: openai, base_url: "{url}", api_key: key-of-openai, retries: 0}}
  anthropic: {{kind: anthropic, base_url: "{url}", api_key: key-of-anthropic, retries: 0}}
  gemini: {{kind: gemini, base_url: "{url}", api_key: key-of-gemini, retries: 0}}
  ollama-native: {{kind: ollama-native, base_url: "{url}", retries: 0}}
  bedrock: {{kind: bedrock, base_url: "{url}", api_key: key-of-bedrock, region: eu-central-1, retries: 0}}
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def server(upstream: ScriptedUpstream) -> Iterator[Chattable]:
    models = "".join(f"  {kind}/*: {{provider: {kind}}}\n" for kind in KINDS if kind != "openai")
    config = CONFIG.format(url=upstream.url).replace("agents:", models + "agents:")
    with chattable(config) as running:
        yield running


@pytest.fixture(autouse=True)
def clear(upstream: ScriptedUpstream) -> None:
    upstream.clear()


def client(server: Chattable, user: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {server.user_key(user)}"}
    return httpx.Client(
        base_url=f"{server.base_url}/v1", headers=headers, timeout=20, trust_env=False
    )


def post(
    http: httpx.Client, model: str, text: str = "hi", *, stream: bool = True, **headers: Any
) -> httpx.Response:
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": text}]}
    return http.post("/chat/completions", json=body, headers=headers)


def streamed(kind: str, *events: bytes) -> Raw:
    """These events, properly framed and properly ended."""
    start = head(200, {"content-type": STREAMS[kind][0], "transfer-encoding": "chunked"})
    return Raw([start, *map(framed, events), framed(b"")], close=False)


def failed(answer: httpx.Response) -> bool:
    """Whether it is an error, with a status or as the last event."""
    if answer.status_code != 200:
        return answer.status_code == 502
    return (
        '"error"' in answer.text.rstrip("\n").rpartition("\n\n")[2] and "[DONE]" not in answer.text
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_is_cut_at_any_event_is_kept_nowhere(
    server: Chattable, upstream: ScriptedUpstream, kind: str
) -> None:
    events, kept = pieces(kind), Kept(server)
    with client(server, f"cut-{kind}") as http:
        for at in range(last(kind, events) + 1):
            headers: dict[str, Any] = {"x-session-id": f"s{at}"}
            upstream.script(streamed(kind, *events[:at]))
            answer = post(http, f"{kind}/m{at}", **headers)
            assert failed(answer), answer.text
            assert kept.said(f"cut-{kind}", f"s{at}") == []
            upstream.script(streamed(kind, *events))
            answer = post(http, f"{kind}/m{at}", **headers)  # asked again, and whole
            assert answer.headers["x-cache"] == "MISS" and answer.text.endswith("[DONE]\n\n")
            assert [item.incomplete for item in kept.path(f"cut-{kind}", f"s{at}")] == [
                False,
                False,
            ]
            assert post(http, f"{kind}/m{at}").headers["x-cache"] == "HIT"
        assert len(upstream.requests) == 2 * (last(kind, events) + 1)


UNSAID: dict[str, Answer] = {
    "streamed": Sse([{"choices": [{"index": 0, "delta": {"content": "as far"}}]}]),
    "whole": Plain(
        200, {"choices": [{"index": 0, "message": {"content": "as far"}, "finish_reason": None}]}
    ),
}


@pytest.mark.parametrize("model", ["openai/m", "persona"])
@pytest.mark.parametrize("how", UNSAID)
def test_a2_an_answer_that_never_says_why_it_ended_is_told_and_not_completed(
    server: Chattable, upstream: ScriptedUpstream, model: str, how: str
) -> None:
    user, kept = f"unsaid-{model.replace('/', '-')}-{how}", Kept(server)
    with client(server, user) as http:
        for name in ("first", "second"):  # and nothing of the first is left for the second
            upstream.script(UNSAID[how])
            answer = post(http, model, stream=how == "streamed", **{"x-session-id": name})
            assert (
                answer.status_code == 200
                and "as far" in answer.text
                and answer.headers["x-cache"] == "MISS"
            )
            assert '"finish_reason":"' not in answer.text and "incomplete" not in answer.text
            assert [item.incomplete for item in kept.path(user, name)] == [False, True]
            items = http.get(f"/conversations/{answer.headers['x-session-id']}/items").json()[
                "data"
            ]
            assert [item["status"] for item in items] == ["incomplete", "completed"]
    assert len(upstream.requests) == 2


def test_a_broken_answer_is_the_next_targets(server: Chattable, upstream: ScriptedUpstream) -> None:
    broken: list[Answer] = [
        Sse([]),
        Plain(200, {"error": {"code": 429, "message": "slow"}}),
        Plain(200, {"detail": "Service Unavailable"}),
        Sse([{"object": "error", "message": "EngineCore died", "code": 500}]),
        Plain(200, {"choices": []}),
    ]
    with client(server, "targets") as http:
        for number, answer in enumerate(broken):
            upstream.clear()
            upstream.script(answer)
            told = post(http, "two", f"hello {number}")
            assert told.status_code == 200 and told.text.endswith("[DONE]\n\n")
            assert len(upstream.requests) == 2


def test_e7_an_error_in_the_middle_is_the_same_for_all_who_read_along(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    said = {"choices": [{"index": 0, "delta": {"content": "as far"}}]}
    gate = Gate(1, [said, {"error": {"code": 429, "message": "slow down"}}])
    upstream.script(gate)
    with client(server, "along") as http:
        body: Any = {
            "model": "openai/m",
            "stream": True,
            "messages": [{"role": "user", "content": "together"}],
        }
        with http.stream("POST", "/chat/completions", json=body) as one:
            gate.wait()
            with http.stream("POST", "/chat/completions", json=body) as two:
                assert (one.headers["x-cache"], two.headers["x-cache"]) == ("MISS", "JOIN")
                gate.release()
                texts = [answer.read().decode().split("\n\n") for answer in (one, two)]
        assert (
            texts[0][-2] == texts[1][-2]
            and "The upstream limits its requests: slow down" in texts[0][-2]
        )
        assert len(upstream.requests) == 1
        assert post(http, "openai/m", "together").headers["x-cache"] == "MISS"
