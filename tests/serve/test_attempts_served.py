"""What an operator can read of failures, and what a hanging target or an abandoned answer costs others: on the real process."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from answers import Gate, Plain, Raw, Request, Reset, Silent, error, head, proper
from echo_model import ask as asked
from openai import APIStatusError, InternalServerError, OpenAI, RateLimitError
from process import Chattable, chattable
from upstream import ScriptedUpstream

KEY = "sk-key-of-one-0123456789"
CONFIG = f"""
database_url: sqlite:///chattable.db
providers:
  one: {{{{kind: openai, base_url: "{{one}}", api_key: {KEY}, retries: 0, timeouts: {{{{first_token: 500ms, total: 30s}}}}}}}}
  two: {{{{kind: openai, base_url: "{{two}}", api_key: x, retries: 0}}}}
  narrow: {{{{kind: openai, base_url: "{{one}}", api_key: x, retries: 0, max_connections: 4, timeouts: {{{{connect: 3s}}}}}}}}
  keys: {{{{kind: openai, base_url: "{{one}}", api_keys: [first-key, second-key, third-key], retries: 0}}}}
models:
  fast: {{{{provider: one, model: small, fallbacks: [other]}}}}
  alone: {{{{provider: one, model: small}}}}
  other: {{{{provider: two, model: big}}}}
  stubborn: {{{{provider: one, model: small, retries: 2}}}}
  narrow: {{{{provider: narrow}}}}
  keys: {{{{provider: keys}}}}
  embed: {{{{provider: one, fallbacks: [other]}}}}
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


def sdk(server: Chattable, user: str = "alice", **key: Any) -> OpenAI:
    return OpenAI(
        base_url=f"{server.base_url}/v1", api_key=server.user_key(user, **key), max_retries=0
    )


def ask(client: OpenAI, model: str, text: str = "hello there", **fields: Any) -> Any:
    """The raw answer, whose headers matter."""
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.with_raw_response.create(
        model=model, messages=messages, **fields
    )


def target(server: Chattable, name: str) -> Any:
    """How the first target of a name is doing."""
    (state,) = [
        model for model in server.admin("GET", "/admin/models")["data"] if model["id"] == name
    ]
    return state["targets"][0]


def lines(
    server: Chattable, wanted: int, path: str = "/v1/chat/completions"
) -> list[dict[str, Any]]:
    """The access log's lines of a path, once there are so many."""
    until = time.monotonic() + 10
    while True:
        found = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
        found = [line for line in found if line["path"] == path]
        if len(found) >= wanted or time.monotonic() > until:
            return found
        threading.Event().wait(0.02)


def test_e4_the_log_says_who_asked_what_and_how_attempts_failed(
    server: Chattable, upstreams: Pair
) -> None:
    one, _ = upstreams
    client = sdk(server)
    ask(client, "other")
    one.script(error(503, f"no room for {KEY} at {one.url}"))
    ask(client, "fast")
    one.script(error(500, "boom"))
    with pytest.raises(InternalServerError):
        ask(client, "alone")
    one.script(error(500, "no vectors"))
    with pytest.raises(APIStatusError):
        client.embeddings.create(model="alone", input="x")
    well, carried, failed = lines(server, 3)
    assert (well["user"], well["model"], well["target"], well["attempts"]) == (
        "alice",
        "other",
        "two/big",
        1,
    )
    assert "failures" not in well and "code" not in well
    assert (carried["status"], carried["model"], carried["target"], carried["attempts"]) == (
        200,
        "fast",
        "two/big",
        2,
    )
    (failure,) = carried["failures"]
    assert (failure["target"], failure["status"]) == ("one/small", 503)
    assert (
        failure["error"].startswith("no room for …")
        and KEY not in server.log()
        and one.url not in json.dumps(failure)
    )
    assert (failed["status"], failed["code"], failed["failures"][0]["error"]) == (
        502,
        "upstream_error",
        "boom",
    )
    (vectors,) = lines(server, 1, "/v1/embeddings")
    assert (vectors["user"], vectors["target"], vectors["failures"][0]["error"]) == (
        "alice",
        "one/small",
        "no vectors",
    )


def test_e4_the_last_error_of_a_target_is_shown(server: Chattable, upstreams: Pair) -> None:
    one, _ = upstreams

    def shown() -> Any:
        return target(server, "alone")["last_error"]

    assert shown() is None
    before = time.time()
    one.script(error(500, f"boom {KEY}"))
    with pytest.raises(InternalServerError):
        ask(sdk(server), "alone")
    last = shown()
    assert (last["status"], last["message"]) == (500, "boom …")
    assert before - 1 <= last["at"] <= time.time() + 1
    one.script(Silent())
    with pytest.raises(InternalServerError):
        ask(sdk(server), "alone", stream=True)
    assert (shown()["status"], shown()["code"]) == (None, "upstream_timeout")


def test_e4_an_outage_is_told_once_a_second(tmp_path: Path, upstreams: Pair) -> None:
    one, two = upstreams
    with chattable(CONFIG.format(one=one.url, two=two.url), directory=tmp_path) as server:
        key = server.user_key("alice")
        for file in filter(Path.is_file, tmp_path.glob("chattable.db*")):
            file.write_bytes(b"this is no database " * 1000)
        began, told = time.monotonic(), len(server.log())
        body = asked("x") | {"model": "other"}
        with httpx.Client(base_url=server.base_url, trust_env=False) as client:

            def refused(number: int) -> int:
                headers = {"authorization": f"Bearer {key[:-5]}{number:05}"}
                return client.post("/v1/chat/completions", json=body, headers=headers).status_code

            with ThreadPoolExecutor(8) as pool:
                statuses = set(pool.map(refused, range(400)))
        assert statuses == {503}
        assert len(lines(server, 400)) == 400
        said = [line for line in server.log()[told:].splitlines() if not line.startswith("{")]
        seconds = time.monotonic() - began
        assert said and sum(map(len, said)) < 20_000 * (seconds + 1)
        assert len([line for line in said if "Traceback" in line]) <= 4 * (seconds + 1)


def test_e6_every_attempt_that_was_sent_is_charged(server: Chattable, upstreams: Pair) -> None:
    """A reset may have cost a prompt, whoever is asked next: it is charged at once or a moment later."""
    one, two = upstreams
    client = sdk(server)
    server.admin(
        "POST", "/admin/budgets", {"subject": {"user": "alice"}, "per": "day", "tokens": 100_000}
    )

    def spent() -> tuple[int, int]:
        entries = server.admin("GET", "/admin/ledger?user=alice&limit=100")["data"]
        return sum(entry["spent"]["tokens"] for entry in entries), sum(
            entry["held"]["tokens"] for entry in entries
        )

    def becomes(tokens: int) -> None:
        until = time.monotonic() + 10
        while spent() != (tokens, 0):  # the charge of one that is followed comes a second later
            assert time.monotonic() < until, (spent(), tokens, one.tokens, two.tokens)

    one.script(Reset())
    with pytest.raises(InternalServerError):
        ask(client, "alone", max_tokens=50)
    prompt, held = spent()
    assert prompt > 0 and held == 0
    one.script(Reset())
    assert ask(client, "stubborn", max_tokens=50).headers["x-chattable-attempts"] == "2"
    becomes(2 * prompt + one.tokens)
    one.script(Reset(), Reset())
    with pytest.raises(InternalServerError):
        ask(client, "stubborn", max_tokens=50)
    becomes(4 * prompt + one.tokens)
    one.script(Reset())
    assert ask(client, "fast", max_tokens=50).headers["x-chattable-model"] == "two/big"
    becomes(5 * prompt + one.tokens + two.tokens)


def test_e3_one_keys_empty_account_rests_that_key_only(server: Chattable, upstreams: Pair) -> None:
    one, _ = upstreams
    client = sdk(server)
    hasty, empty = error(429, "slow down"), error(402, "Insufficient credits")
    one.script(hasty, hasty, empty)
    with pytest.raises(RateLimitError) as told:
        ask(client, "keys")
    assert 1 <= int(told.value.response.headers["retry-after"]) <= 5
    state = target(server, "keys")
    assert state["circuit"] == "closed" and state["keys_resting"] == 3
    assert len(one.requests) == 3
    # nor is it told as the account of all keys next time: the key that is free first is asked
    assert ask(client, "keys").parse().choices[0].message.content == "hello there"
    one.script(empty)
    with pytest.raises(RateLimitError):
        ask(client, "keys")


def test_e3_an_empty_account_of_one_key_inside_a_200(server: Chattable, upstreams: Pair) -> None:
    one, _ = upstreams
    body = {"error": {"message": "Insufficient credits", "code": 402}}
    one.script(Plain(200, body))
    with pytest.raises(RateLimitError) as told:
        ask(sdk(server), "keys")
    assert told.value.response.headers["retry-after"] in ("0", "1")
    assert target(server, "keys")["circuit"] == "closed"
    assert ask(sdk(server), "keys").parse().choices[0].message.content == "hello there"
    assert len({request.headers["authorization"] for request in one.requests}) == 2


def test_e3_a_429_that_names_no_time_is_worth_a_retry(server: Chattable, upstreams: Pair) -> None:
    upstreams[0].script(error(429, "slow down"))
    with pytest.raises(RateLimitError) as told:
        ask(sdk(server), "alone")
    assert told.value.response.headers["retry-after"] == "1"


def test_e3_an_empty_account_is_not_the_users_budget(server: Chattable, upstreams: Pair) -> None:
    upstreams[0].script(error(429, "You exceeded your current quota.", "insufficient_quota"))
    with pytest.raises(InternalServerError) as told:
        ask(sdk(server), "alone", stream=True)
    assert told.value.status_code == 502 and "operator" in told.value.message
    assert told.value.code != "insufficient_quota" and len(upstreams[0].requests) == 1


HANGING = {
    "silence": Silent(),
    "headers, then silence": Raw(
        [head(200, {"content-type": "application/json", "content-length": "50"})],
        close=False,
        delay_s=60,
    ),
}


@pytest.mark.parametrize("name", HANGING)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_e8_a_hanging_target_gives_way_by_first_token(
    server: Chattable, upstreams: Pair, stream: bool, name: str
) -> None:
    one, two = upstreams
    one.script(HANGING[name])
    began = time.monotonic()
    raw = ask(sdk(server), "fast", stream=stream)
    if stream:
        assert (
            "".join(chunk.choices[0].delta.content or "" for chunk in raw.parse() if chunk.choices)
            == "hello there"
        )
    assert raw.headers["x-chattable-model"] == "two/big"
    assert 0.5 <= time.monotonic() - began < 5  # not `total`
    assert len(two.requests) == 1


def test_e8_so_do_embeddings(server: Chattable, upstreams: Pair) -> None:
    one, two = upstreams
    one.script(Silent())
    two.script(Plain(200, {"data": [], "usage": {"prompt_tokens": 1, "total_tokens": 1}}))
    began = time.monotonic()
    raw = sdk(server).embeddings.with_raw_response.create(model="embed", input="x")
    assert raw.headers["x-chattable-model"] == "two/big" and time.monotonic() - began < 5


@pytest.mark.parametrize(
    "model, key",
    [("alone", {}), ("fast", {"models": ["fast"]})],
    ids=["alone", "no right to another"],
)
def test_e8_one_that_is_alone_may_think_as_long_as_it_may_answer(
    server: Chattable, upstreams: Pair, model: str, key: dict[str, Any]
) -> None:
    gate = Gate()
    upstreams[0].script(gate)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, sdk(server, **key), model)
        gate.wait()
        with pytest.raises(TimeoutError):
            answer.result(1)  # twice `first_token`
        gate.release()
        assert answer.result(10).headers["x-chattable-attempts"] == "1"


def leave_streams(
    server: Chattable, upstream: ScriptedUpstream, count: int, open_at_once: int
) -> None:
    """Clients that ask for streams and go away; their turns are drained."""
    key, gate = server.user_key("absent"), Gate(2)
    upstream.reply = lambda request: (
        gate if request.json["messages"][-1]["content"] == "long" else proper(request)
    )
    body = json.dumps(asked("long") | {"model": "narrow", "stream": True}).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
    left = []
    for _ in range(count):
        line = socket.create_connection(("127.0.0.1", httpx.URL(server.base_url).port or 0))
        line.sendall(request % (key.encode(), len(body), body))
        left.append(line)
    upstream.wait(lambda: len(upstream.requests) >= open_at_once)
    for line in left:
        line.close()


def test_f13_answers_that_nobody_reads_give_way(server: Chattable, upstreams: Pair) -> None:
    one, _ = upstreams
    leave_streams(server, one, 7, 4)
    began = time.monotonic()
    for n in range(3):
        assert (
            ask(sdk(server, "bob"), "narrow", f"hello {n}").headers["x-chattable-model"]
            == "narrow/narrow"
        )
    assert time.monotonic() - began < 3  # none had to wait until the others were done
    one.wait(lambda: one.aborted >= 1)
    until = time.monotonic() + 10
    while not (
        rows := [
            row
            for row in server.admin("GET", "/admin/usage?group_by=user")["data"]
            if row["user"] == "absent"
        ]
    ):
        assert time.monotonic() < until
    capped, beyond = divmod(rows[0]["completion_tokens"], 4096)
    assert capped > 0 and beyond == 0  # the cap of each: leaving makes no call cheaper


def test_an_answer_that_somebody_else_reads_does_not_give_way(upstreams: Pair) -> None:
    one, _ = upstreams
    config = CONFIG.replace(
        "max_connections: 4, timeouts: {{connect: 3s}}",
        "max_connections: 1, timeouts: {{connect: 1s}}",
    )
    with chattable(config.format(one=one.url, two=one.url) + "cache: {scope: user}\n") as server:
        url, client = f"{server.base_url}/v1/chat/completions", httpx.Client(timeout=20)
        headers = {"authorization": f"Bearer {server.user_key('ann')}"}
        body = asked("one two three") | {"model": "narrow", "stream": True}
        gate = Gate(3)
        one.script(gate)
        with client.stream("POST", url, json=body, headers=headers) as leader:
            next(leader.iter_text())
            follower = client.send(
                client.build_request("POST", url, json=body, headers=headers), stream=True
            )
            words = follower.iter_text()
            read = next(words)
        assert follower.headers["x-cache"] == "JOIN"
        with pytest.raises(InternalServerError) as busy:
            ask(sdk(server, "bob"), "narrow", "hello")
        assert busy.value.code == "upstream_busy"
        gate.release()
        read += "".join(words)
        assert "three" in read and read.endswith("data: [DONE]\n\n")
        assert len(one.requests) == 1


def test_f13_who_has_fewest_is_served_first(server: Chattable, upstreams: Pair) -> None:
    one, _ = upstreams
    gates: list[Gate] = []

    def reply(request: Request) -> Any:
        if request.json["messages"][-1]["content"] != "held":
            return proper(request)
        gates.append(Gate())
        return gates[-1]

    one.reply = reply
    greedy, modest = sdk(server, "greedy"), sdk(server, "modest")
    with ThreadPoolExecutor(8) as pool:
        held = [pool.submit(ask, greedy, "narrow", "held") for _ in range(6)]
        one.wait(lambda: len(one.requests) == 4)
        served = pool.submit(ask, modest, "narrow", "hello")
        until = time.monotonic() + 5
        while target(server, "narrow")["under_way"] < 7:
            assert time.monotonic() < until
        gates[0].release()
        served.result(5)
        # before the two that waited longer
        assert one.requests[4].json["messages"][-1]["content"] == "hello"
        for number in range(1, 6):
            one.wait(lambda number=number: len(gates) > number)
            gates[number].release()
        assert all(answer.result(10).status_code == 200 for answer in held)


def test_affinity_a_session_keeps_its_key_and_says_so(server: Chattable, upstreams: Pair) -> None:
    one, _ = upstreams
    client = sdk(server)
    homes = set()
    for n in range(8):
        one.clear()
        raws = [
            ask(client, "keys", f"turn {i}", extra_headers={"x-session-id": f"s{n}"})
            for i in range(3)
        ]
        assert {raw.headers["x-chattable-affinity"] for raw in raws} == {"kept"}
        keys = {request.headers["authorization"] for request in one.requests}
        assert len(keys) == 1
        homes |= keys
    assert len(homes) > 1
    one.script(error(401, "Incorrect API key provided"))
    assert (
        ask(client, "keys", "more", extra_headers={"x-session-id": "s0"}).headers[
            "x-chattable-affinity"
        ]
        == "moved"
    )
    assert "x-chattable-affinity" not in ask(client, "keys").headers
