"""What an upstream means is told as it is, under whatever key, with whatever bytes it says so (rows of docs/faults.md)."""

import gzip
import json
import zlib
from typing import Any

import brotli
import pytest
from answers import CHUNKED_SSE, Plain, Raw, Sse, bytewise, framed, head, sse_event
from backports import zstd
from echo_model import ask, chat_chunks, chat_completion
from faults.test_upstream_faults import chunk, cut, json_answer, refused

UPSTREAM, INVALID = "upstream_error", "invalid_request_error"
# An error in the place of an answer → its status, type and code, and what its message has in it.
HIDDEN: dict[str, Any] = {
    "error, with a status": ({"error": {"code": 429, "message": "slow down"}}, 429, UPSTREAM, "429", "slow down"),
    "error, by its code": ({"error": {"code": "rate_limit", "message": "slow"}}, 429, UPSTREAM, "rate_limit", "slow"),
    "error, by its type": ({"error": {"type": "overloaded_error"}}, 503, UPSTREAM, "upstream_overloaded", "overloaded"),
    "error, as text": ({"error": "Internal Server Error"}, 502, UPSTREAM, "upstream_error", "failed"),
    "error, beside choices": ({"error": {"code": 400, "message": "bad"}, "choices": []}, 400, INVALID, "400", "bad"),
    "errors": ({"errors": [{"message": "no such model", "status": 404}]}, 404, INVALID, None, "no such model"),
    "object": ({"object": "error", "message": "EngineCore died", "code": 500}, 502, UPSTREAM, "upstream_error", "failed"),
    "object, 400": ({"object": "error", "message": "too hot", "type": "BadRequestError"}, 400, INVALID, None, "too hot"),
    "detail": ({"detail": "Too Many Requests"}, 429, UPSTREAM, "rate_limit_exceeded", "Too Many Requests"),
    "code and message": ({"code": 503, "message": "busy"}, 503, UPSTREAM, "upstream_overloaded", "overloaded"),
    "credentials": ({"error": {"code": 401, "message": "bad key"}}, 502, UPSTREAM, "upstream_auth_error", "operator"),
    "nobody knows": ({"detail": "something"}, 502, UPSTREAM, "upstream_error", "failed"),
    "too long": (
        {"error": {"code": 400, "message": "maximum context length is 8 tokens"}},
        400, INVALID, "context_length_exceeded", "8 tokens",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HIDDEN)
def test_a1_e1_an_error_in_the_place_of_an_answer_has_the_status_it_means(house, name):
    body, status, kind, code, words = HIDDEN[name]
    ways = {
        "whole": (False, Plain(200, body)),
        "whole, where a stream was asked for": (True, Plain(200, body)),
        "whole, called a stream": (
            True,
            json_answer(json.dumps(body).encode(), **{"content-type": "text/event-stream"}),
        ),
        "in a stream": (True, Sse([body])),
        "behind a role": (True, Sse([chunk({"role": "assistant", "content": ""}), body])),
        "in a list": (False, Plain(200, [body])) if "error" in body else (False, Plain(200, body)),
    }
    for stream, answer in ways.values():
        house.upstream.script(answer)
        told = house.ask(model="once", stream=stream)
        assert words in refused(told, status, kind, code)
    assert len(house.upstream.requests) == len(ways)
    house.upstream.script(Sse([chunk({"content": "a"}), body]))  # and [DONE]
    told = house.ask(stream=True)
    assert told.said == "a" and words in told.cut["message"] and told.cut["code"] == code
    house.upstream.script(Sse([*chat_chunks(ask("a b")), body]))  # it had said that it was whole
    assert words in house.ask(stream=True).cut["message"]


NAMED = {
    "an object": b'{"message": "EngineCore died", "status": 429}',
    "with its own": b'{"error": {"message": "EngineCore died", "code": 429}}',
    "text": b"Too Many Requests",
}


@pytest.mark.parametrize("name", NAMED)
def test_a1_an_event_that_is_named_error_is_one(house, name):
    event = b"event: error\ndata: " + NAMED[name] + b"\n\n"
    house.upstream.script(Sse([event]))
    assert house.ask(model="once", stream=True).status == 429
    house.upstream.script(Sse([chunk({"content": "a"}), event]))
    told = house.ask(stream=True)
    assert told.said == "a" and told.cut["message"].startswith("The upstream limits its requests")


def test_a1_an_error_of_one_choice(house):
    failed = {
        "index": 0,
        "delta": {"content": ""},
        "finish_reason": "error",
        "error": {"code": 429, "message": "slow"},
    }
    house.upstream.script(Sse([{"choices": [failed]}]))
    assert house.ask(model="once", stream=True).status == 429
    for reason in ("error", "abort", "CANCELLED"):
        house.upstream.script(Sse([chunk({"content": "a"}), chunk({}, reason)]))
        cut(house.ask(stream=True), "upstream_error", "a")


NOTHING = {
    "only its end": [],
    "only a role": [chunk({"role": "assistant", "content": ""})],
    "only its usage": [
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}}
    ],
    "nothing in it": [{}, {"choices": []}, chunk({})],
}


@pytest.mark.parametrize("name", NOTHING)
def test_a2_an_answer_without_choices_is_none(house, name):
    house.upstream.script(Sse(NOTHING[name]))
    assert "without an answer" in refused(
        house.ask(stream=True), 502, "upstream_error", "upstream_error"
    )
    house.upstream.script(Plain(200, {"choices": [{"message": {"role": "assistant"}}]}))
    assert "without an answer" in refused(house.ask(), 502, "upstream_error", "upstream_error")


def test_a2_an_answer_that_never_says_why_it_ended_is_told_as_it_is(house):
    house.upstream.script(Sse([chunk({"content": "a"}), chunk({"content": " b"})]))
    told = house.ask(stream=True)
    assert (told.said, told.events[-1]) == ("a b", "[DONE]")
    assert [c["finish_reason"] for e in told.events[:-1] for c in e["choices"]] == [None, None]
    house.upstream.script(
        Plain(200, {"choices": [{"message": {"role": "assistant", "content": "a b"}}]})
    )
    told = house.ask()
    assert (told.said, told.completion["choices"][0]["finish_reason"]) == ("a b", None)


def test_a2_an_empty_answer_that_says_it_is_one_is_one(house):
    house.upstream.script(Sse([chunk({"role": "assistant", "content": ""}), chunk({}, "stop")]))
    told = house.ask(stream=True)
    assert (told.said, told.events[-1]) == ("", "[DONE]")
    assert [c["finish_reason"] for e in told.events[:-1] for c in e["choices"]] == [None, "stop"]


def test_a3_the_last_finish_reason_counts(house):
    house.upstream.script(
        Sse(
            [
                chunk({}, "stop"),
                chunk({"content": "a"}, "stop"),
                chunk({"content": "b"}),
                chunk({"content": "c"}, "length"),
            ]
        )
    )
    told = house.ask(stream=True)
    assert told.said == "abc"
    assert [
        c["finish_reason"] for e in told.events[:-1] for c in e["choices"] if c["finish_reason"]
    ] == ["length"]
    house.upstream.script(
        Sse([chunk({"content": "a"}, "stop"), chunk({"content": "b"})], done=False)
    )
    cut(house.ask(stream=True), "upstream_error", "ab")  # it went on, and never ended


def test_c9_calls_are_never_a_plain_end(house):
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    house.upstream.script(Sse([chunk({"tool_calls": [call]}), chunk({}, "stop")]))
    ends = [c["finish_reason"] for e in house.ask(stream=True).events[:-1] for c in e["choices"]]
    assert ends[-1] == "tool_calls"
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    house.upstream.script(Plain(200, {"choices": [{"message": message, "finish_reason": "stop"}]}))
    assert house.ask().completion["choices"][0]["finish_reason"] == "tool_calls"


# --- harmless bytes ---------------------------------------------------------------------------------------------------

LOGPROBS = b'"logprobs":{"content":[{"token":"a","logprob":NaN,"top_logprobs":[{"token":"b","logprob":-Infinity}]}]}'
END = sse_event(chunk({}, "stop")) + b"data: [DONE]\n\n"
A = sse_event(chunk({"content": "a"}))
HARMLESS = {
    "empty data": (b"data:\n\ndata: \n\n" + A + b"data:\n\n" + END, "a"),
    "no last blank line": (A + sse_event(chunk({"content": "b"}, "stop")).rstrip(b"\n"), "ab"),
    "NaN": (A + b'data: {"choices":[{"index":0,"delta":{"content":"b"},' + LOGPROBS + b"}]}\n\n" + END, "ab"),
    "half a letter": (b'data: {"choices":[{"index":0,"delta":{"content":"a\\ud83d"}}]}\n\n' + END, "a\ufffd"),
    "a raw tab": (b'data: {"choices":[{"index":0,"delta":{"content":"a\tb"}}]}\n\n' + END, "a\tb"),
    "heartbeats": (b"\n\n: ping\n\nevent: ping\ndata: ping\n\n" + A + b"data: null\n\ndata: {}\n\nid: 7\n\n" + END, "a"),
    "lone CR": ((A + END).replace(b"\n", b"\r"), "a"),
    "a mark": (b"\xef\xbb\xbf" + A + END, "a"),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_d_harmless_bytes_of_a_stream(house, name):
    data, said = HARMLESS[name]
    for kind in ("text/event-stream", "text/plain", "application/json", ""):
        headers = {"transfer-encoding": "chunked"} | ({"content-type": kind} if kind else {})
        house.upstream.script(
            Raw([head(200, headers), *map(framed, bytewise(data)), framed(b"")], close=False)
        )
        told = house.ask(stream=True)
        assert (told.said, told.events[-1]) == (said, "[DONE]"), kind
    # nobody asked for a stream, or says it is one
    house.upstream.script(Raw([head(200, {"connection": "close"}) + data]))
    assert house.ask().said == said


def test_d_what_cannot_be_read_is_counted(house):
    house.upstream.script(
        Sse([chunk({"content": "a"}), "pong", "[]", chunk({"content": "b"}, "stop")])
    )
    assert house.ask(model="any/odd", stream=True).said == "ab"  # a cause of its own in the log
    assert (
        "stub/odd: 2 events that nobody can read were left out of an answer"
        in house.server.log()[house.logged :]
    )
    house.upstream.script(
        Sse(
            [
                chunk({"content": "a"}),
                '{"choices":[{"index":0,"delta":{"content":"lost',
                chunk({}, "stop"),
            ]
        )
    )
    cut(house.ask(stream=True), "upstream_error", "a")  # text is lost with this one


@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b"\n\n \t\r\n", b"\xef\xbb\xbf\n"])
def test_d_a_mark_or_space_before_a_whole_answer(house, before):
    body = before + json.dumps(chat_completion(ask("x y"))).encode()
    for stream in (False, True):
        house.upstream.script(
            Raw([head(200, {"content-length": str(len(body))}), *bytewise(body)], close=False)
        )
        assert house.ask(stream=stream).said == "x y"
    odd = (
        b'{"choices":[{"index":0,"message":{"content":"a\\udc00"},"finish_reason":"stop",'
        + LOGPROBS
        + b"}]}"
    )
    house.upstream.script(json_answer(before + odd))
    told = house.ask()
    assert told.said == "a\N{REPLACEMENT CHARACTER}"
    assert told.completion["choices"][0]["logprobs"]["content"][0]["logprob"] is None


PACKED = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
}


@pytest.mark.parametrize("encoding", PACKED)
def test_d_an_answer_that_is_packed_though_nobody_asked(house, encoding):
    pack = PACKED[encoding]
    headers = {"content-encoding": encoding.upper()}
    house.upstream.script(
        json_answer(pack(json.dumps(chat_completion(ask("x y"))).encode()), **headers)
    )
    assert house.ask().said == "x y"
    stream = pack(b"".join(map(sse_event, chat_chunks(ask("x y z")))) + b"data: [DONE]\n\n")
    house.upstream.script(
        Raw(
            [head(200, CHUNKED_SSE, headers), *map(framed, bytewise(stream)), framed(b"")],
            close=False,
        )
    )
    told = house.ask(stream=True)
    assert (told.said, told.events[-1]) == ("x y z", "[DONE]")
    house.upstream.script(
        Raw(
            [head(200, CHUNKED_SSE, headers), framed(stream[: len(stream) // 2]), framed(b"")],
            close=False,
        )
    )
    told = house.ask(stream=True)  # cut, and properly ended by whoever stands between
    assert told.status == 502 or told.cut["code"] == "upstream_error"
    house.upstream.script(
        Plain(400, pack(b'{"error": {"message": "too hot", "param": "temperature"}}'), headers)
    )
    assert refused(house.ask(), 400, "invalid_request_error", None) == "too hot"
    house.upstream.script(json_answer(b"no such bytes", **headers))
    assert "compressed" in refused(house.ask(), 502, "upstream_error", "upstream_error")
