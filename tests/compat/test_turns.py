"""The checklist, 14 to 20: roles and parts, tools, failures in mid-stream, silence, clients that leave."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from answers import Gate, Plain, Reset, Silent, Sse, error
from compat.browser import CHAT, Browser
from compat.hostile import STOP, delta, said
from compat.serving import UPSTREAM_KEY, config
from compat.strict import read
from echo_model import ask
from openai import APIError, AsyncOpenAI, BadRequestError, OpenAI
from process import Chattable, chattable
from upstream import ScriptedUpstream

CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": CITY}}
    for name in ("weather", "alarm")
]


def test_14_developer(client: OpenAI, upstream: ScriptedUpstream) -> None:
    messages: Any = [
        {"role": "developer", "content": "be brief", "name": "dev"},
        {"role": "user", "content": "hi"},
    ]
    for model in ("m", "plain-m", "persona", "echo"):
        assert (
            client.chat.completions.create(model=model, messages=messages)
            .choices[0]
            .message.content
            == "hi"
        )
    knows, lacks, persona = (request.json["messages"] for request in upstream.requests)
    assert knows == messages
    assert lacks == [{"role": "system", "content": "be brief", "name": "dev"}, messages[1]]
    assert persona == [{"role": "system", "content": "You are terse."}, *messages]


PARTS = [{"type": "text", "text": "hello "}, {"type": "text", "text": "there"}]


def test_15_content_as_string_or_parts(browser: Browser, upstream: ScriptedUpstream) -> None:
    for model in ("m", "echo"):
        for content in ("hello there", PARTS):
            page = browser.chat(
                {"model": model, "messages": [{"role": "user", "content": content}]}
            )
            assert page.json["choices"][0]["message"]["content"].split() == ["hello", "there"]
    assert [request.json["messages"][0]["content"] for request in upstream.requests] == [
        "hello there",
        PARTS,
    ]


@pytest.mark.parametrize(
    "assistant", [{"content": None}, {}, {"content": ""}], ids=["null", "absent", "empty"]
)
def test_15_no_content_beside_tool_calls(
    client: OpenAI, upstream: ScriptedUpstream, assistant: Any
) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages: Any = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", **assistant, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "rain"},
    ]
    assert (
        client.chat.completions.create(model="m", messages=messages).choices[0].message.content
        == "rain"
    )
    [request] = upstream.requests
    sent = request.json["messages"][1]
    assert sent == {"role": "assistant", "content": assistant.get("content"), "tool_calls": [call]}


@pytest.mark.parametrize("model", ["m", "plain-m", "persona"])
def test_16_tools(browser: Browser, model: str) -> None:
    [choice] = browser.chat(ask("please call weather", model=model, tools=TOOLS)).json["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    [call] = choice["message"]["tool_calls"]
    assert set(call) == {"id", "type", "function"} and call["id"] and call["type"] == "function"
    assert call["function"]["name"] == "weather" and isinstance(call["function"]["arguments"], str)
    assert set(json.loads(call["function"]["arguments"])) == {"city"}


def test_16_tools_of_an_agent(client: OpenAI) -> None:
    choice = client.chat.completions.create(**ask("hi", model="caller")).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    calls: Any = choice.message.tool_calls
    assert [
        (call.id, call.function.name, json.loads(call.function.arguments)) for call in calls
    ] == [
        ("call_a", "weather", {"city": "Oslo"}),
        ("call_b", "alarm", {"at": 7}),
    ]


def test_16_arguments_that_came_as_an_object(client: OpenAI, upstream: ScriptedUpstream) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"city": "Oslo"}}}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    upstream.script(
        Plain(200, {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})
    )
    answer = client.chat.completions.create(**ask("hi")).choices[0].message
    assert answer.content is None and answer.tool_calls
    assert json.loads(answer.tool_calls[0].function.arguments) == {"city": "Oslo"}  # type: ignore[union-attr]


@pytest.mark.parametrize("model", ["m", "caller"])
def test_17_tools_in_a_stream(browser: Browser, client: OpenAI, model: str) -> None:
    body: Any = ask("please call weather and alarm", model=model, tools=TOOLS)
    [choice] = read(browser.chat(body | {"stream": True}).body).choices
    assert choice.finish == "tool_calls" and [call.name for call in choice.calls] == [
        "weather",
        "alarm",
    ]
    assert all(json.loads(call.text) for call in choice.calls)
    with client.chat.completions.stream(**body) as running:
        done = [event for event in running if event.type == "tool_calls.function.arguments.done"]
        message = running.get_final_completion().choices[0].message
    assert [event.name for event in done] == ["weather", "alarm"]
    calls: Any = message.tool_calls
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": f"{call.function.name} done"}
        for call in calls
    ]
    follow_up: Any = [
        *body["messages"],
        message.model_dump(exclude_none=True, exclude={"parsed"}),
        *results,
    ]
    for call in follow_up[1]["tool_calls"]:
        call["function"].pop("parsed_arguments", None)
    answer = client.chat.completions.create(model=model, messages=follow_up, tools=TOOLS)
    assert answer.choices[0].message.content == (
        "alarm done" if model == "m" else "it is seven in Oslo"
    )


@pytest.mark.parametrize("model", ["m", "echo"])
@pytest.mark.parametrize("stream", [False, True])
def test_17_answer_to_a_call_that_nobody_made(
    client: OpenAI, upstream: ScriptedUpstream, model: str, stream: bool
) -> None:
    stray: Any = [
        {"role": "user", "content": "hi"},
        {"role": "tool", "tool_call_id": "call_x", "content": "rain"},
    ]
    with pytest.raises(BadRequestError) as refused:
        client.chat.completions.create(model=model, messages=stray, stream=stream)
    assert (refused.value.param, refused.value.code) == (
        "messages",
        None,
    ) and "tool_calls" in refused.value.message
    assert not upstream.requests


@pytest.mark.parametrize("model", ["m", "persona", "manager"])
@pytest.mark.parametrize("end", ["close", "reset"])
def test_18_failure_in_mid_stream(
    browser: Browser, client: OpenAI, upstream: ScriptedUpstream, model: str, end: Any
) -> None:
    gates = [Gate(2, said("so", " far", " good"), done=False, end=end) for _ in range(2)]
    upstream.script(*gates)
    with browser.open("POST", CHAT, ask("hi", model=model, stream=True)) as answer:
        begun = answer.read1()  # the first words are here before the upstream breaks
        gates[0].release()
        stream = read(begun + answer.read(), fails=True)
    assert stream.error and stream.error["type"] == "upstream_error" and stream.error["message"]
    assert stream.choices[0].finish is None and stream.text
    gates[1].release()
    with pytest.raises(APIError, match="upstream"):
        list(client.chat.completions.create(**ask("hi", model=model), stream=True))


async def test_18_failure_in_mid_stream_through_the_async_sdk(async_client: AsyncOpenAI) -> None:
    words = []
    with pytest.raises(APIError, match="The script says no"):
        async for chunk in await async_client.chat.completions.create(
            **ask("hi", model="half"), stream=True
        ):
            words.append(chunk.choices[0].delta.content)
    assert words == ["so far "]


FAILURES = {
    "reset": (Reset(), 502),
    "error_status": (error(500, "boom"), 502),
    "error_as_first_event": (Sse([{"error": {"message": "boom", "code": 500}}]), 502),
    "error_after_the_role": (
        Sse([delta({"role": "assistant", "content": ""}), {"error": {"message": "boom"}}]),
        502,
    ),
    "end_after_the_role": (Sse([delta({"role": "assistant"})], done=False), 502),
    "no_event": (Sse([], done=False), 502),
}


@pytest.mark.parametrize("model", ["m", "persona"])
@pytest.mark.parametrize(("answer", "status"), FAILURES.values(), ids=FAILURES)
def test_18_failure_before_the_first_token(
    browser: Browser, upstream: ScriptedUpstream, model: str, answer: Any, status: int
) -> None:
    upstream.script(answer)
    page = browser.chat(ask("hi", model=model, stream=True))
    assert page.error[:2] == (status, "upstream_error")
    assert UPSTREAM_KEY not in page.body.decode() and str(upstream.port) not in page.message


def test_19_keepalive_in_silence(
    browser: Browser, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    for n in (0, 2):  # before the first word, and between words
        gate, again = Gate(n), Gate(n)
        upstream.script(gate)
        with browser.open("POST", CHAT, ask("one two three", stream=True)) as answer:
            stream = b""
            while stream.count(b": keep-alive\n\n") < 2:
                piece = answer.read1()
                assert piece, stream
                stream += piece
            gate.release()
            stream += answer.read()
        told = read(stream)
        assert told.comments >= 2 and told.text == "one two three"
        upstream.script(again)
        with client.chat.completions.create(**ask("one two three"), stream=True) as chunks:
            again.release()
            assert (
                "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three"
            )


def test_19_the_sdk_survives_keepalives(client: OpenAI, upstream: ScriptedUpstream) -> None:
    upstream.script(Sse([*said("one", " two"), STOP], delay_s=0.25))
    with client.chat.completions.stream(**ask("hi")) as running:
        assert running.get_final_completion().choices[0].message.content == "one two"


@pytest.fixture(scope="module")
def cancelling(one_upstream: ScriptedUpstream) -> Iterator[tuple[Chattable, str]]:
    """A second server, which stops what nobody waits for, and a key for it."""
    with chattable(config(one_upstream, on_disconnect="cancel")) as running:
        yield running, running.user_key()


def leave_after(server: Chattable, key: str, body: Any, until: bytes) -> None:
    """Asks, reads until some bytes have come, and hangs up."""
    data = json.dumps(body).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: "
        f"{len(data)}\r\n\r\n"
    )
    with socket.create_connection(
        ("127.0.0.1", int(server.base_url.rpartition(":")[2])), timeout=10
    ) as line:
        line.sendall(head.encode() + data)
        seen = b""
        while until not in seen:
            piece = line.recv(65536)
            assert piece, seen
            seen += piece


LONG = " ".join(f"w{n}" for n in range(400))


@pytest.mark.parametrize("model", ["m", "persona", "manager"])
def test_20_a_client_that_leaves_cancels_the_upstream(
    cancelling: Any, upstream: ScriptedUpstream, model: str
) -> None:
    server, key = cancelling
    gate = Gate(3)
    upstream.script(gate)
    leave_after(server, key, ask(LONG, model=model, stream=True), b" w1")
    try:
        upstream.wait(lambda: upstream.aborted == 1, timeout=1)
    finally:
        gate.release()
    [spent] = upstream.usage_log
    assert not spent.complete and server.running


def test_20_a_client_that_leaves_before_the_first_token(
    cancelling: Any, upstream: ScriptedUpstream
) -> None:
    server, key = cancelling
    upstream.script(Silent())
    with Browser(server.base_url, key) as browser:
        browser.connection.request(
            "POST", CHAT, json.dumps(ask("hi")), {"authorization": f"Bearer {key}"}
        )
        upstream.wait(lambda: len(upstream.requests) == 1)
    upstream.wait(lambda: upstream.aborted == 1, timeout=1)


def test_20_a_client_that_stays_is_not_cancelled(
    cancelling: Any, upstream: ScriptedUpstream
) -> None:
    server, key = cancelling
    with Browser(server.base_url, key) as browser:
        assert read(browser.chat(ask(LONG, stream=True)).body).text == LONG
        assert browser.chat(ask(LONG)).json["choices"][0]["message"]["content"] == LONG
    assert upstream.aborted == 0


@pytest.mark.parametrize("model", ["m", "persona"])
def test_20_drain_reads_the_answer_to_its_end(
    server: Chattable, key: str, upstream: ScriptedUpstream, model: str
) -> None:
    gate = Gate(3)
    upstream.script(gate)
    leave_after(server, key, ask(LONG, model=model, stream=True), b" w1")
    gate.release()
    upstream.wait(lambda: [spent.complete for spent in upstream.usage_log] == [True])
    [spent] = upstream.usage_log
    assert spent.completion_tokens == 400 and upstream.aborted == 0


def test_20_drain_of_an_unstreamed_answer(
    server: Chattable, key: str, upstream: ScriptedUpstream
) -> None:
    gate = Gate()
    upstream.script(gate)
    with Browser(server.base_url, key) as browser:
        browser.connection.request(
            "POST", CHAT, json.dumps(ask(LONG)), {"authorization": f"Bearer {key}"}
        )
        gate.wait()
    gate.release()
    upstream.wait(lambda: [spent.complete for spent in upstream.usage_log] == [True])
    assert upstream.aborted == 0
