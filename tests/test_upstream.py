"""The stub upstream must be right before anything else is measured against it."""

import asyncio
import json
import socket
import time

import pytest
from answers import (
    Endless,
    Gate,
    Html,
    Plain,
    Raw,
    Redirect,
    Reset,
    Silent,
    Slow,
    Sse,
    bytewise,
    error,
    framed,
    head,
    splits,
)
from echo_model import ask, chat_chunks, example
from openai import APIConnectionError, AsyncOpenAI, NotFoundError, OpenAI, RateLimitError
from upstream import ScriptedUpstream

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}},
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": WEATHER}}
    for name in ("weather", "alarm")
]


@pytest.fixture
def upstream():
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture
def client(upstream):
    with OpenAI(base_url=upstream.url, api_key="sk-x", max_retries=0) as client:
        yield client


def post(upstream, body, timeout=5.0) -> socket.socket:
    """Sends one chat request on a fresh socket and leaves reading to the test."""
    data = json.dumps(body).encode()
    line = socket.create_connection(("127.0.0.1", upstream.port), timeout=timeout)
    line.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%s" % (len(data), data)
    )
    return line


def read_all(line: socket.socket) -> bytes:
    return b"".join(iter(lambda: line.recv(65536), b""))


def test_echoes_and_records(upstream, client):
    answer = client.chat.completions.create(
        **ask("hello there  world"), extra_headers={"X-Trace": "7"}
    )
    assert answer.choices[0].message.content == "hello there  world"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 3)
    [request], [spent] = upstream.requests, upstream.usage_log
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.headers["x-trace"] == "7" and request.json["model"] == "m"
    upstream.wait(lambda: upstream.completed == 1)
    assert (spent.total_tokens, spent.complete) == (6, True)


@pytest.mark.parametrize("usage", [False, True])
def test_streams_word_by_word(upstream, client, usage):
    options = {"stream_options": {"include_usage": True}} if usage else {}
    chunks = list(client.chat.completions.create(**ask("one two three"), stream=True, **options))
    assert [c.choices[0].delta.content for c in chunks if c.choices] == [
        "",
        "one",
        " two",
        " three",
        None,
    ]
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert [c.usage.total_tokens for c in chunks if c.usage] == ([6] if usage else [])
    assert upstream.tokens == 6


@pytest.mark.parametrize(
    "text, names", [("call weather", ["weather"]), ("call alarm and weather", ["alarm", "weather"])]
)
def test_calls_the_tools_it_is_asked_for_in_both_forms(client, text, names):
    whole = client.chat.completions.create(**ask(text, tools=TOOLS)).choices[0]
    with client.chat.completions.stream(**ask(text, tools=TOOLS)) as stream:
        streamed = stream.get_final_completion().choices[0]
    for choice in (whole, streamed):
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        assert [call.function.name for call in choice.message.tool_calls] == names
        assert json.loads(choice.message.tool_calls[0].function.arguments) == {
            "city": "x",
            "days": 2,
        }


def test_a_tool_result_is_answered_in_words(client):
    messages = [
        {"role": "user", "content": "call weather"},
        {"role": "tool", "tool_call_id": "c", "content": "rain"},
    ]
    assert (
        client.chat.completions.create(model="m", messages=messages, tools=TOOLS)
        .choices[0]
        .message.content
        == "rain"
    )


def test_json_n_logprobs_and_length(client):
    schema = {"name": "w", "schema": WEATHER}
    answer = client.chat.completions.create(
        **ask("hi", response_format={"type": "json_schema", "json_schema": schema})
    )
    assert json.loads(answer.choices[0].message.content) == example(WEATHER)
    answer = client.chat.completions.create(
        **ask("a b c", n=2, logprobs=True, top_logprobs=1, max_tokens=2)
    )
    assert [(c.index, c.finish_reason, c.message.content) for c in answer.choices] == [
        (n, "length", "a b") for n in (0, 1)
    ]
    assert [len(t.top_logprobs) for t in answer.choices[0].logprobs.content] == [1, 1]
    assert answer.usage.completion_tokens == 4


def test_models_and_unknown_paths(client):
    assert [model.id for model in client.models.list()] == ["m"]
    with pytest.raises(NotFoundError):
        client.embeddings.create(model="m", input="x")


def test_scripted_answers_are_taken_in_order_and_by_path(upstream, client):
    upstream.script(
        error(429, "slow", code="rate_limit_exceeded", headers={"Retry-After": "1"}),
        path="/completions",
    )
    upstream.script(Html(), Plain(200, b"{", {"content-type": "application/json"}))
    assert "Sign in" in str(client.get("/models", cast_to=str))
    with pytest.raises(RateLimitError) as caught:
        client.chat.completions.create(**ask("x"))
    assert caught.value.response.headers["retry-after"] == "1"
    with pytest.raises(ValueError):
        client.chat.completions.create(**ask("x"))
    assert (
        client.chat.completions.create(**ask("proper again")).choices[0].message.content
        == "proper again"
    )


def test_resets_before_and_within_the_answer(upstream, client):
    upstream.script(
        Reset(), Reset(after_bytes=30), Sse(chat_chunks(ask("a b"))[:2], done=False, end="reset")
    )
    with pytest.raises(APIConnectionError):
        client.chat.completions.create(**ask("x"))
    with post(upstream, ask("x")) as line:
        assert line.recv(100) == b"HTTP/1.1 200 Scripted\r\ncontent"[:30]
        with pytest.raises(ConnectionResetError):
            line.recv(100)
    with post(upstream, ask("x", stream=True)) as line, pytest.raises(ConnectionResetError):
        read_all(line)
    assert upstream.aborted == 0 and upstream.usage_log[-1].total_tokens == 2


def test_a_stream_may_end_without_its_end(upstream):
    upstream.script(Sse(end="close"))
    with post(upstream, ask("x", stream=True)) as line:
        data = read_all(line)
    assert data.endswith(b"data: [DONE]\n\n\r\n") and not data.endswith(b"0\r\n\r\n")


LEFT = {
    "silent": Silent(),
    "slow": Slow(b"data: x\n\n", 0.01),
    "held": Gate(1),
    "endless": Endless(),
    "an endless line": Endless("line"),
}


@pytest.mark.parametrize("answer", LEFT.values(), ids=LEFT)
def test_counts_clients_that_leave(upstream, answer):
    upstream.script(answer)
    with post(upstream, ask("x", stream=True)):
        upstream.wait(lambda: len(upstream.requests) == 1)
        assert upstream.open_connections == 1
    upstream.wait(lambda: upstream.aborted == 1)
    assert upstream.open_connections == 0 and not any(
        spent.complete for spent in upstream.usage_log
    )


def test_an_endless_stream_stops_where_its_reader_stops(upstream):
    endless = Endless("line")
    upstream.script(endless)
    with post(upstream, ask("x")) as line:
        while len(line.recv(65536)) and endless.sent < 1_000_000:
            pass
    upstream.wait(lambda: upstream.aborted == 1)
    assert endless.sent < 100_000_000


async def test_a_gate_holds_the_stream_and_survives_a_client_that_leaves(upstream):
    gate = Gate(2)
    upstream.script(gate, gate)
    async with AsyncOpenAI(base_url=upstream.url, api_key="x", max_retries=0) as client:
        leaving = await client.chat.completions.create(**ask("a b c"), stream=True)
        await gate.arrival()
        await leaving.close()
        await upstream.until(lambda: upstream.aborted == 1)
        stream = await client.chat.completions.create(**ask("a b c"), stream=True)
        seen = [(await anext(stream)).choices[0].delta.content for _ in range(2)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(
                asyncio.shield(waiting := asyncio.ensure_future(anext(stream))), 0.05
            )
        gate.release()
        seen.append((await waiting).choices[0].delta.content)
        assert seen == ["", "a", " b"]
        assert [chunk.choices[0].delta.content async for chunk in stream] == [" c", None]


def test_a_gate_holds_an_unstreamed_answer(upstream):
    gate = Gate()
    upstream.script(gate)
    with post(upstream, ask("x"), timeout=0.05) as line:
        gate.wait()
        with pytest.raises(TimeoutError):
            line.recv(1)
        gate.release()
        line.settimeout(5)
        assert line.recv(15) == b"HTTP/1.1 200 Sc"


def test_every_split_and_every_byte_arrive_whole(upstream):
    data = head(200, {"content-length": "4"}) + "é→".encode()[:4]
    assert (
        all(b"".join(pieces) == data for pieces in splits(data))
        and len(list(splits(data))) == len(data) - 1
    )
    upstream.script(Raw(bytewise(data)))
    with post(upstream, ask("x")) as line:
        assert read_all(line) == data


def test_redirects(upstream, client):
    upstream.script(Redirect("/v1/models"))
    assert client.get("/elsewhere", cast_to=object)["object"] == "list"
    assert [request.path for request in upstream.requests] == ["/v1/elsewhere", "/v1/models"]


def test_counts_connections_and_hangs_up(upstream):
    lines = [post(upstream, ask("x")) for _ in range(3)]
    upstream.wait(lambda: upstream.completed == 3)
    assert (upstream.open_connections, upstream.peak_connections) == (3, 3)
    assert len({request.connection for request in upstream.requests}) == 3
    upstream.hang_up()
    assert all(read_all(line).startswith(b"HTTP/1.1 200") for line in lines)
    upstream.wait(lambda: upstream.open_connections == 0)
    assert upstream.aborted == 0
    upstream.clear()
    assert (upstream.requests, upstream.usage_log, upstream.peak_connections) == ([], [], 0)
    for line in lines:
        line.close()


def test_reads_chunked_requests_and_keeps_the_connection(upstream):
    with socket.create_connection(("127.0.0.1", upstream.port), timeout=5) as line:
        start = b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
        body = json.dumps(ask("x")).encode()
        for piece in bytewise(start + framed(body[:9]) + framed(body[9:]) + framed(b"")):
            line.sendall(piece)
        assert line.recv(15) == b"HTTP/1.1 200 Sc"
        line.sendall(b"GET /v1/models HTTP/1.1\r\nconnection: close\r\n\r\n")
        assert b'"object": "list"' in read_all(line)
    assert (
        upstream.requests[0].json == ask("x")
        and len({r.connection for r in upstream.requests}) == 1
    )


def test_a_late_wait_fails_within_its_deadline(upstream):
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match="0 requests"):
        upstream.wait(lambda: upstream.aborted == 1, timeout=0.05)
    assert time.monotonic() - begun < 5
