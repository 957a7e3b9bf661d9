"""What Ollama sends, in bytes of the documented shapes, and what it means.

Ollama's own package judges the shapes.
"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ollama._types import ChatResponse
from wired import DATA, folded, only, read, same_for_every_cut, streamed

from chattable.adapters.errors import InvalidUpstreamResponse, UpstreamHTTPError
from chattable.adapters.ollama.ndjson import LineDecoder
from chattable.adapters.ollama.wire import OllamaWire
from chattable.adapters.sse import EventTooLarge
from chattable.agents.chat import Chat, Usage
from chattable.agents.fold import as_message

WIRE = OllamaWire()
STREAMS = sorted(path.name for path in DATA.glob("ollama_*_stream.jsonl"))
WHOLE = sorted(path.name for path in DATA.glob("ollama_*.json"))
GOOD = [name for name in STREAMS if "error" not in name]


def stream(name: str):
    return streamed(WIRE, (DATA / name).read_bytes())


def plain(name: str):
    return folded(WIRE.parse_response((DATA / name).read_bytes()))


def answer(message: Any = None, **fields: Any) -> bytes:
    return json.dumps(
        {"model": "m", "created_at": "t", "message": message or {}, "done": True, **fields}
    ).encode()


# --- lines ------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.binary(max_size=5).map(lambda line: line.replace(b"\n", b"x")), max_size=5),
    st.binary(max_size=3),
    st.data(),
)
def test_lines_however_they_are_cut(lines, rest, data):
    rest = rest.replace(b"\n", b"x")
    whole = b"".join(line + b"\n" for line in lines) + rest
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    decoder, out = LineDecoder(), []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        out += decoder.feed(whole[start:end])
    assert out == [line for line in lines if line.strip()], (
        "a line without its end is never given out"
    )


def test_a_line_without_an_end():
    decoder = LineDecoder(limit=10)
    assert decoder.feed(b"x" * 10) == []
    with pytest.raises(EventTooLarge):
        decoder.feed(b"x")
    assert LineDecoder(limit=3).feed(b"long\n\n  \r\nlonger\nabc") == [b"long", b"longer"]


# --- what it means ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOOD + WHOLE)
def test_ollamas_own_types_take_what_is_read_here(name):
    for line in (DATA / name).read_bytes().splitlines():
        assert ChatResponse.model_validate_json(line).message.role == "assistant"


@pytest.mark.parametrize("name", GOOD)
def test_every_cut_of_every_stream_means_the_same(name):
    same_for_every_cut(WIRE, (DATA / name).read_bytes())


@pytest.mark.parametrize("name", GOOD)
def test_a_stream_is_complete_with_its_last_line_only(name):
    reader, seen = WIRE.stream_reader(), []
    for line in (DATA / name).read_bytes().splitlines():
        reader.feed(line)
        seen.append((reader.complete, reader.ended))
    assert seen == [(False, False)] * (len(seen) - 1) + [(True, True)]


def test_text_usage_and_facts():
    fold = stream("ollama_text_stream.jsonl")
    assert (only(fold).message["content"], only(fold).finish_reason) == ("Grüß dich 👋", "stop")
    assert fold.usage == Usage(26, 282, 308)
    assert fold.facts == {
        "done_reason": "stop", "total_duration": 4883583458, "load_duration": 1334875,
        "prompt_eval_duration": 342546000, "eval_duration": 4535599000,
    }  # fmt: skip


def test_thoughts_are_reasoning():
    choice = only(stream("ollama_thinking_stream.jsonl"))
    assert (choice.message["reasoning_content"], choice.message["content"]) == (
        "Tenths first: 9.8 has more.",
        "9.8 is larger.",
    )
    assert choice.finish_reason == "length"
    message = only(plain("ollama_plain.json")).message
    assert (message["reasoning_content"], message["content"]) == ("JSON then.", '{"city": "Paris"}')


def test_parallel_calls_without_ids():
    choice = only(stream("ollama_tools_stream.jsonl"))
    calls = choice.message["tool_calls"]
    assert choice.finish_reason == "tool_calls" and choice.message["content"] is None
    assert [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls] == [
        ("get_weather", {"city": "Zürich", "days": 3}),
        ("get_weather", {"city": "Paris"}),
        ("get_time", {}),
    ]
    assert calls == only(stream("ollama_tools_stream.jsonl")).message["tool_calls"], (
        "the ids are the same for the same bytes"
    )
    other = (DATA / "ollama_tools_stream.jsonl").read_bytes().replace(b"2026-11-03", b"2026-11-04")
    assert not {c["id"] for c in calls} & {
        c["id"] for c in only(streamed(WIRE, other)).message["tool_calls"]
    }


def test_ids_that_are_given_are_kept_and_numbers_stay_whole():
    choice = only(plain("ollama_tools.json"))
    assert [call["id"] for call in choice.message["tool_calls"]] == ["call_ol1", "call_ol2"]
    assert json.loads(choice.message["tool_calls"][0]["function"]["arguments"]) == {
        "city": "Paris",
        "at": 12345678901234,
    }
    assert choice.finish_reason == "tool_calls"


def test_probabilities():
    logprobs = only(stream("ollama_logprobs_stream.jsonl")).logprobs
    assert logprobs
    first, second = logprobs["content"]
    assert (first["token"], first["logprob"], first["bytes"]) == ("Ja", -0.5, [74, 97])
    assert [top["bytes"] for top in first["top_logprobs"]] == [[74, 97], [74, 195, 169]] and second[
        "top_logprobs"
    ] == []


def test_a_turn_goes_back_as_it_came():
    """The thoughts and calls of an answer are what the next request has."""
    message = as_message(only(stream("ollama_tools_stream.jsonl")).message)
    [turn] = json.loads(WIRE.build_request(Chat("m", [message]), "m"))["messages"]
    assert turn["thinking"] == "Two things."
    assert [call["function"] for call in turn["tool_calls"]] == [
        {"name": "get_weather", "arguments": {"city": "Zürich", "days": 3}},
        {"name": "get_weather", "arguments": {"city": "Paris"}},
        {"name": "get_time", "arguments": {}},
    ]


USAGE = [
    ({"prompt_eval_count": 5, "eval_count": 3}, Usage(5, 3, 8)), ({"prompt_eval_count": 5}, Usage(5, 0, 5)),
    ({"eval_count": 3}, Usage(0, 3, 3)),
    ({"prompt_eval_count": 0, "eval_count": 3}, Usage(0, 3, 3)),
    ({"prompt_eval_count": -5, "eval_count": 3.0}, Usage(0, 3, 3)),
    ({"prompt_eval_count": 10**18}, None),
    ({"prompt_eval_count": "5"}, None), ({}, None),
]  # fmt: skip


@pytest.mark.parametrize("counts, meant", USAGE)
def test_usage_is_read_field_by_field(counts, meant):
    fold = folded(WIRE.parse_response(answer({"content": "x"}, **counts)))
    assert fold.usage == meant and only(fold).message["content"] == "x"


@pytest.mark.parametrize(
    "reason, meant",
    [("stop", "stop"), ("length", "length"), (None, "stop"), ("of_tomorrow", "stop")],
)
def test_ends(reason, meant):
    assert (
        only(
            folded(WIRE.parse_response(answer({"content": "x"}, done_reason=reason)))
        ).finish_reason
        == meant
    )


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_an_error_inside_a_stream():
    data = (DATA / "ollama_error_stream.jsonl").read_bytes()
    with pytest.raises(UpstreamHTTPError) as caught:
        read(WIRE, [data])
    assert (caught.value.status, caught.value.retries) == (502, None)
    assert (
        caught.value.message.startswith("an error was encountered")
        and "41327" not in caught.value.message
    )
    assert "/usr/share" not in caught.value.message
    chunks, complete, _ = read(WIRE, [data.splitlines(keepends=True)[0]])
    assert not complete and "".join(chunk.text for chunk in chunks) == "Hel"


ERRORS = [
    (404, "model 'qwen9' not found", (404, "model", "model_not_found")),
    (404, "404 page not found", (404, None, None)),
    (400, "registry.ollama.ai/library/llama2:latest does not support tools", (400, "tools", None)),
    (400, '"llama2" does not support thinking', (400, "reasoning_effort", None)),
    (400, "this model is missing data required for image input", (400, "messages", None)),
    (400, "failed to parse grammar", (400, "response_format", None)),
    (400, "the input length exceeds the context length", (400, "messages", "context_length_exceeded")),
    (500, "the prompt is too long; prompt length: 9, context length: 8", (400, "messages", "context_length_exceeded")),
    (500, "model requires more system memory (9 GiB) than is available (4 GiB)", (500, None, None)),
    (503, "server busy, please try again. maximum pending requests exceeded", (503, None, None)),
    (401, "unauthorized", (401, None, None)),
]  # fmt: skip


@pytest.mark.parametrize("status, text, meant", ERRORS)
def test_errors_of_ollama(status, text, meant):
    error = WIRE.parse_error(status, json.dumps({"error": text}).encode())
    assert (error.status, error.param, error.code) == meant and error.message == text


@pytest.mark.parametrize(
    "text, kept",
    [
        ("open /root/.ollama/models/blobs/sha256-ab: no such file", "open … no such file"),
        ('Post "http://10.0.0.7:3031/completion": EOF', 'Post "http:/…": EOF'),
        ("dial tcp [::1]:11434: connect: refused", "dial tcp …: connect: refused"),
    ],
)
def test_where_things_are_on_the_server_is_nobodys_business(text, kept):
    assert WIRE.parse_error(500, json.dumps({"error": text}).encode()).message == kept


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"\xff",
        b"[]",
        b"5",
        b'"x"',
        b'{"error": []}',
        b'{"error": {}}',
        b"[" * 2000,
    ],
)
def test_errors_of_no_shape(body):
    assert WIRE.parse_error(503, body).message == "The upstream answered with status 503."


NONSENSE = [b"{}", b"[]", b"", b"\xff", b"5", b"null", b'{"done": 1}', b'{"done": true, "message": 5}', answer({"content": 5}),
            answer({"tool_calls": [{}]}), answer({"tool_calls": [{"function": {"name": ""}}]}), answer({"tool_calls": {}}),
            answer({"thinking": []}), answer(done=False), answer(done_reason=7), b'{"x":' * 2000]  # fmt: skip


@pytest.mark.parametrize("body", NONSENSE, ids=range(len(NONSENSE)))
def test_answers_that_are_none(body):
    with pytest.raises(InvalidUpstreamResponse):
        WIRE.parse_response(body)


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)
CALL = ODD | st.fixed_dictionaries(
    {"function": ODD | st.fixed_dictionaries({"name": st.text(max_size=3), "arguments": ODD})}
)
SAID = st.fixed_dictionaries(
    {}, optional={"content": st.text() | ODD, "thinking": st.text(), "tool_calls": st.lists(CALL)}
)
LINE = st.fixed_dictionaries(
    {"message": SAID | ODD},
    optional={
        "done": st.booleans(),
        "done_reason": st.text() | ODD,
        "logprobs": ODD | st.lists(ODD),
        "error": ODD,
    }
    | dict.fromkeys(
        ("prompt_eval_count", "eval_count", "total_duration", "created_at", "model", "StatusCode"),
        ODD,
    ),
)


@given(st.lists(LINE | ODD, max_size=4))
def test_hostile_streams_break_in_the_known_ways_only(lines):
    try:
        chunks, _, _ = read(WIRE, [b"".join(json.dumps(line).encode() + b"\n" for line in lines)])
    except (InvalidUpstreamResponse, UpstreamHTTPError) as broken:
        assert isinstance(broken.message, str) and broken.message.isprintable()
        return
    json.dumps([choice.message for choice in folded(chunks).choices()])


@given(st.integers(400, 599), ODD | st.fixed_dictionaries({"error": ODD}))
def test_hostile_errors_are_errors(status, body):
    refused = WIRE.parse_error(status, json.dumps(body).encode())
    assert 400 <= refused.status < 600 and refused.message.isprintable()
