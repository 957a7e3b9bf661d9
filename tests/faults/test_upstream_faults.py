"""What an upstream may do wrong, and what the client is told then: never a 500, never late, never a secret.

Every test is named after its number in the list of faults; the fixture proves afterwards that
nothing was left behind.
"""

import gzip
import json
import shutil
import time
from email.utils import formatdate
from typing import Any

import psutil
import pytest
from answers import (
    CHUNKED_SSE,
    Endless,
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
    sse_event,
)
from echo_model import ask, chat_chunks, chat_completion
from faults.world import BETWEEN, CONNECT, COOKIE, FIRST, HEADER, KEY, LEAKY, SLACK, TOTAL

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
HEAD_ONLY = Raw([head(200, CHUNKED_SSE)], close=True)


def chunk(delta, finish=None, index=0, **fields):
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "choices": [{"index": index, "delta": delta, "finish_reason": finish}],
        **fields,
    }


def json_answer(body: bytes, **headers: str) -> Plain:
    return Plain(200, body, {"content-type": "application/json", **headers})


def refused(told, status, type_, code) -> str:
    """The answer is exactly this error; returns its message."""
    assert (told.status, told.error["type"], told.error["code"]) == (status, type_, code), told.body
    assert told.headers["content-type"] == "application/json"
    return told.error["message"]


def cut(told, code, said="") -> str:
    """The stream said this much and ended with this error; returns its message."""
    assert (
        told.status == 200 and told.cut["type"] == "upstream_error" and told.cut["code"] == code
    ), told.body
    assert told.said == said
    return told.cut["message"]


@BOTH
def test_fault_01_refused(house, stream):
    told = house.ask(model="closed", stream=stream)
    refused(told, 502, "upstream_error", "upstream_unreachable")
    assert told.seconds < TOTAL + SLACK


@BOTH
def test_fault_02_reset_before_headers(house, stream):
    house.upstream.script(Reset(), Reset())
    refused(house.ask(stream=stream), 502, "upstream_error", "upstream_unreachable")
    # the request may have been seen: one more try is the most that is safe
    assert len(house.upstream.requests) == 2


@BOTH
def test_fault_02_one_reset_is_nobodys_business(house, stream):
    house.upstream.script(Reset())
    told = house.ask("a b", stream=stream)
    assert (told.status, told.said) == (200, "canary-prompt a b")
    assert told.headers["x-chattable-attempts"] == "2" == str(len(house.upstream.requests))
    assert told.headers["x-chattable-model"] == "stub/m"


@BOTH
def test_fault_02_retries_can_be_off(house, stream):
    house.upstream.script(Reset())
    refused(house.ask(model="once", stream=stream), 502, "upstream_error", "upstream_unreachable")
    assert len(house.upstream.requests) == 1


@pytest.mark.parametrize("end", ["reset", "close"])
def test_fault_03_cut_in_the_body(house, end):
    body = json.dumps(chat_completion(ask("x y"))).encode()
    torn = (
        head(200, {"content-type": "application/json", "content-length": str(len(body))})
        + body[:50]
    )
    house.upstream.script(Raw([torn]) if end == "close" else Reset(after_bytes=150))
    refused(house.ask(), 502, "upstream_error", "upstream_error")
    assert len(house.upstream.requests) == 1


@pytest.mark.parametrize("end", ["reset", "close", "finish"])
@pytest.mark.parametrize("events", range(1, 5))
def test_fault_04_cut_in_the_stream(house, end, events):
    house.upstream.script(Sse(chat_chunks(ask("a b c"))[:events], done=False, end=end))
    told = house.ask(stream=True)
    if events == 1:  # a role alone is not an answer yet, so there is still a status to tell it with
        refused(told, 502, "upstream_error", "upstream_error")
    else:
        cut(told, "upstream_error", "a b c"[: 2 * events - 3])
    assert len(house.upstream.requests) == 1


def test_fault_04_a_cut_after_the_finish_is_no_fault(house):
    house.upstream.script(Sse(chat_chunks(ask("a b c")), done=False, end="close"))
    told = house.ask(stream=True)
    assert (told.said, told.events[-1]) == ("a b c", "[DONE]")


@BOTH
def test_fault_05_nobody_accepts(house, stream):
    told = house.ask(model="hole", stream=stream)
    assert "could not be reached" in refused(told, 504, "upstream_error", "upstream_timeout")
    assert CONNECT <= told.seconds < CONNECT + SLACK


@BOTH
def test_fault_06_no_headers(house, stream):
    house.upstream.script(Silent())
    told, limit = house.ask(stream=stream), FIRST if stream else TOTAL
    assert f"within {limit:g} seconds" in refused(told, 504, "upstream_error", "upstream_timeout")
    assert limit <= told.seconds < limit + SLACK
    house.upstream.wait(lambda: house.upstream.aborted == 1)
    # it may be at work: asking again would be paying twice
    assert len(house.upstream.requests) == 1


def test_fault_06_headers_and_then_nothing(house):
    house.upstream.script(Raw([head(200, CHUNKED_SSE)], close=False, delay_s=60))
    told = house.ask(stream=True)
    assert "no token" in refused(told, 504, "upstream_error", "upstream_timeout")
    assert FIRST <= told.seconds < FIRST + SLACK


@pytest.mark.parametrize("raw", [False, True], ids=["body", "headers"])
@BOTH
def test_fault_07_byte_by_byte(house, stream, raw):
    body = (
        sse_event(chunk({"content": "x" * 500}))
        if stream
        else json.dumps(chat_completion(ask("x" * 500))).encode()
    )
    kind = "text/event-stream" if stream else "application/json"
    whole = (
        head(200, {"content-type": kind, "content-length": str(len(body))}) + body if raw else body
    )
    house.upstream.script(Slow(whole, per_second=40, raw=raw, content_type=kind))
    told, limit = house.ask(stream=stream), FIRST if stream else TOTAL
    refused(told, 504, "upstream_error", "upstream_timeout")
    assert limit <= told.seconds < limit + SLACK


@BOTH
def test_fault_07_packed_bytes_that_come_to_nothing(house, stream):
    kind = "text/event-stream" if stream else "application/json"
    start = head(200, {"content-type": kind, "content-encoding": "gzip"})
    nothing = b"\x00\x00\x00\xff\xff"  # a block of no bytes
    house.upstream.script(Raw([start, gzip.compress(b"")[:10], *[nothing] * 500], delay_s=0.05))
    told, limit = house.ask(stream=stream), FIRST if stream else TOTAL
    refused(told, 504, "upstream_error", "upstream_timeout")
    assert limit <= told.seconds < limit + SLACK


def test_fault_07_a_stream_that_falls_asleep(house):
    house.upstream.script(
        Raw(
            [head(200, CHUNKED_SSE) + framed(sse_event(chunk({"content": "a"})))],
            close=False,
            delay_s=5,
        )
    )
    told = house.ask(stream=True)
    assert "stopped sending" in cut(told, "upstream_timeout", "a")
    assert BETWEEN <= told.seconds < BETWEEN + SLACK


@BOTH
def test_fault_08_without_end(house, stream):
    endless = Endless()
    house.upstream.script(endless)
    told = house.ask(stream=stream)  # whole: an upstream that streams although nobody asked it to
    if stream:
        assert "did not finish" in cut(
            told, "upstream_timeout", told.said
        ) and told.said.startswith("onon")
    else:
        refused(told, 504, "upstream_error", "upstream_timeout")
    assert TOTAL - 0.1 <= told.seconds < TOTAL + 2 * SLACK
    house.upstream.wait(lambda: house.upstream.aborted == 1)


def test_fault_08_comments_without_end(house):
    def comments():
        while True:
            yield b": thinking\n\n"

    house.upstream.script(Sse(comments(), delay_s=0.05))
    told = house.ask(stream=True)  # comments are life, so only the time for all of it ends this
    assert "did not finish" in refused(told, 504, "upstream_error", "upstream_timeout")
    assert TOTAL - 0.1 <= told.seconds < TOTAL + SLACK


def test_fault_08_comments_after_the_end(house):
    def events():
        yield from chat_chunks(ask("a b"))
        while True:
            yield b": still here\n\n"

    house.upstream.script(Sse(events(), delay_s=0.02))
    told = house.ask(stream=True)
    assert (told.said, told.events[-1]) == ("a b", "[DONE]") and told.seconds < 1


def test_fault_09_a_line_without_end(house):
    before = psutil.Process(house.server.pid).memory_info().rss
    endless = Endless("line")
    house.upstream.script(endless)
    told = house.ask(stream=True)
    assert "without an end" in refused(told, 502, "upstream_error", "upstream_error")
    house.upstream.wait(lambda: house.upstream.aborted == 1)
    assert endless.sent < 64 * 2**20
    assert psutil.Process(house.server.pid).memory_info().rss - before < 128 * 2**20


GARBAGE = {
    "torn": b'{"id": "c", "choices": [{"message": {"content": "x',
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "string": b'"hello"',
    "number": b"17",
    "nothing": b"{}",
    "two": b'{"choices": []}{"choices": []}',
    "deep": b"[" * 2000,
    "utf8": b'{"choices": [{"message": {"content": "\xff\xfe"}}]}',
    "nul": b"\x00" * 100,
    "digits": b'{"choices": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_fault_10_garbage(house, name):
    for stream in (False, True):
        house.upstream.script(json_answer(GARBAGE[name], **LEAKY))
        refused(house.ask(stream=stream), 502, "upstream_error", "upstream_error")
    house.upstream.script(
        Sse([chunk({"content": "a"}), b"data: " + GARBAGE[name] + b"\n\n"], done=False)
    )
    cut(house.ask(stream=True), "upstream_error", "a")
    assert len(house.upstream.requests) == 3


@BOTH
def test_fault_11_html(house, stream):
    house.upstream.script(Html())
    refused(house.ask(stream=stream), 502, "upstream_error", "upstream_error")


@BOTH
def test_fault_11_html_with_an_error_status(house, stream):
    house.upstream.script(*[Html(502)] * 3)
    assert "<" not in refused(house.ask(stream=stream), 502, "upstream_error", "upstream_error")
    assert len(house.upstream.requests) == 3


def test_fault_12_half_an_event(house):
    half = b'data: {"choices": [{"index": 0, "delta": {"content": "b"}}]}'
    house.upstream.script(Sse([chunk({"content": "a"}), half[:-3]], done=False))
    cut(house.ask(stream=True), "upstream_error", "a")
    # whole but for its blank line: it is told
    house.upstream.script(Sse([chunk({"content": "a"}), half], done=False))
    cut(house.ask(stream=True), "upstream_error", "ab")


ODD = (
    "data: {a}\n\n",
    "data:{a}\n\n",
    "data: {a}\r\n\r\n",
    ": c\nevent: x\nid: 1\ndata: {a}\n\n",
    "data: {b}\ndata: {c}\n\n",
)


def odd_stream() -> bytes:
    """One answer, every event framed another way, with characters of two, three and four bytes."""
    out = b"\xef\xbb\xbf"
    for i, text in enumerate(["äöü—€🎉🧵", "end"][0]):
        whole = json.dumps(chunk({"content": text}), ensure_ascii=False)
        b, c = whole[: whole.index("choices") - 1], whole[whole.index("choices") - 1 :]
        out += ODD[i % len(ODD)].replace("{a}", whole).replace("{b}", b).replace("{c}", c).encode()
    return out + sse_event(chunk({}, "stop")) + b"data: [DONE]\n\n"


@pytest.mark.parametrize("cut_at", ["bytes", "whole", *range(7, 200, 31)])
def test_fault_13_cut_anywhere(house, cut_at):
    data = odd_stream()
    pieces = {"bytes": bytewise(data), "whole": [data]}.get(cut_at) or [
        data[:cut_at],
        data[cut_at:],
    ]
    house.upstream.script(
        Raw([head(200, CHUNKED_SSE), *map(framed, pieces), framed(b"")], close=False)
    )
    told = house.ask(stream=True)
    assert (told.said, told.events[-1]) == ("äöü—€🎉🧵", "[DONE]")


def test_fault_13_the_type_of_a_stream_in_capitals(house):
    whole = (
        b"".join(framed(sse_event(event)) for event in chat_chunks(ask("a b")))
        + framed(sse_event("[DONE]"))
        + framed(b"")
    )
    house.upstream.script(
        Raw(
            [head(200, CHUNKED_SSE, {"content-type": "Text/Event-Stream;charset=UTF-8"}) + whole],
            close=False,
        )
    )
    assert house.ask(stream=True).said == "a b"


def test_fault_14_invalid_utf8_in_a_stream(house):
    house.upstream.script(
        Sse(
            [
                chunk({"content": "a"}),
                b'data: {"choices":[{"index":0,"delta":{"content":"\xff"}}]}\n\n',
            ]
        )
    )
    cut(house.ask(stream=True), "upstream_error", "a")


@BOTH
def test_fault_15_too_much_at_once(house, stream):
    before = psutil.Process(house.server.pid).memory_info().rss
    if stream:
        house.upstream.script(Sse([b"data: " + b"x" * (20 * 2**20) + b"\n\n"]))
    else:
        size = 80 * 2**20
        start = head(200, {"content-type": "application/json", "content-length": str(size)})
        house.upstream.script(Raw([start, *[b"x" * 2**20] * 80], close=False))
    refused(house.ask(stream=stream), 502, "upstream_error", "upstream_error")
    assert psutil.Process(house.server.pid).memory_info().rss - before < 200 * 2**20


@BOTH
@pytest.mark.parametrize(
    "encoding",
    ["gzip", "br", "GZIP", "identity, gzip", "gzip, gzip", "gzip, gzip, gzip", "compress"],
)
def test_fault_16_gzip_bomb(house, stream, encoding):
    bomb = gzip.compress(b"\0" * (80 * 2**20), 9)
    before = psutil.Process(house.server.pid).memory_info().rss
    house.upstream.script(json_answer(bomb, **{"content-encoding": encoding}))
    message = refused(house.ask(stream=stream), 502, "upstream_error", "upstream_error")
    bounded = "gzip" in encoding.lower() and encoding.count(",") < 2
    assert ("compressed" in message) == (not bounded or encoding == "gzip, gzip")
    assert psutil.Process(house.server.pid).memory_info().rss - before < 200 * 2**20
    assert house.upstream.requests[0].headers["accept-encoding"] == "identity"


# --- 17, 19: refusals ------------------------------------------------------------------------------------------------


def test_fault_17_short_waits_are_waited(house):
    house.upstream.script(
        error(429, "slow down", headers={"retry-after": "0.2"}),
        error(429, "", headers={"retry-after-ms": "100"}),
    )
    told = house.ask()
    assert told.status == 200 and told.headers["x-chattable-attempts"] == "3"
    assert 0.3 <= told.seconds < TOTAL


@BOTH
@pytest.mark.parametrize("wait", [3, 30, "date"])
def test_fault_17_long_waits_are_the_clients(house, stream, wait):
    value = formatdate(time.time() + 40, usegmt=True) if wait == "date" else str(wait)
    house.upstream.script(error(429, "slow down", headers=LEAKY | {"retry-after": value}))
    told = house.ask(stream=stream)
    message = refused(told, 429, "upstream_error", "rate_limit_exceeded")
    assert message == "The upstream limits its requests: slow down"
    expected = range(38, 42) if wait == "date" else [wait]
    assert (
        int(told.headers["retry-after"]) in expected
        and int(told.headers["retry-after-ms"]) // 1000 in expected
    )
    assert told.seconds < SLACK and len(house.upstream.requests) == 1


SENSELESS = ["soon", "-5", "1e9", "1000000000", "", "nan", "inf", "9" * 400, "²", formatdate(0)]
SENSELESS_MS = ["nan", "-1", "x", "1e400", ""]


@pytest.mark.parametrize(
    "name, values", [("retry-after", SENSELESS), ("retry-after-ms", SENSELESS_MS)]
)
def test_fault_17_senseless_waits_are_neither_waited_nor_passed_on(house, name, values):
    for value in values:
        house.upstream.script(error(429, "slow", headers={name: value}))
        told = house.ask(model="once")
        refused(told, 429, "upstream_error", "rate_limit_exceeded")
        assert (told.headers["retry-after"], told.headers.get("retry-after-ms")) == ("1", None), (
            value
        )
    house.upstream.script(error(429, "slow", headers={name: values[-1]}))
    told = house.ask()
    assert (
        told.status == 200 and told.headers["x-chattable-attempts"] == "2" and told.seconds < SLACK
    )


@pytest.mark.parametrize(
    "status, tries, seen, type_, code",
    [
        (400, 1, 400, "invalid_request_error", "x"),
        (401, 1, 502, "upstream_error", "upstream_auth_error"),
        (402, 1, 502, "upstream_error", "upstream_auth_error"),
        (403, 1, 502, "upstream_error", "upstream_auth_error"),
        (404, 1, 404, "invalid_request_error", "x"),
        (408, 3, 504, "upstream_error", "upstream_timeout"),
        (418, 1, 502, "upstream_error", "upstream_error"),
        (422, 1, 422, "invalid_request_error", "x"),
        (500, 3, 502, "upstream_error", "upstream_error"),
        (503, 3, 503, "upstream_error", "upstream_overloaded"),
        (504, 3, 504, "upstream_error", "upstream_timeout"),
        (529, 3, 503, "upstream_error", "upstream_overloaded"),
        (599, 1, 502, "upstream_error", "upstream_error"),
    ],
)
def test_fault_19_refusals(house, status, tries, seen, type_, code):
    secret = f"key {KEY} at {house.upstream.url}/chat/completions is bad"
    house.upstream.script(*[error(status, secret, "x", headers=LEAKY)] * 3)
    refused(house.ask(stream=status % 2 == 0), seen, type_, code)
    assert len(house.upstream.requests) == tries


def test_fault_19_secrets_in_every_field_of_an_error(house):
    body = {
        "error": {
            "message": f"{KEY} {house.upstream.url}",
            "type": KEY,
            "param": house.upstream.url,
            "code": KEY,
        }
    }
    house.upstream.script(Plain(400, body, LEAKY))
    told = house.ask()
    assert (told.status, told.error["code"], told.error["param"]) == (400, "…", "…")


SHAPES = [
    b"", b"null", b"[]", b'"x"', b"\xff", b"{", b'{"error": 5}', b"[" * 2000, b"x" * 70_000,
    b'{"error": {"message": {"a": 1}, "code": [1], "param": 7}}',
    b'{"error": {"code": ' + b"9" * 5000 + b"}}",
    b'{"error": {"message": "' + b"x" * 60000 + b'"}}',
    b'{"error": {"message": "m", "code": "' + b"c" * 9000 + b'", "param": "' + b"p" * 9000 + b'"}}',
]  # fmt: skip


def test_fault_19_errors_of_any_shape(house):
    for body in SHAPES:
        house.upstream.script(Plain(400, body, {"content-type": "application/json"}))
        told = house.ask()
        assert (told.status, told.error["type"]) == (400, "invalid_request_error"), body[:100]
        assert len(told.body) < 5000


def test_fault_19_an_error_that_never_ends_is_still_an_error(house):
    house.upstream.script(
        Raw([head(400, {"content-length": "1000"}), b'{"error": '], close=False, delay_s=60)
    )
    told = house.ask()
    assert told.status == 400 and told.seconds < CONNECT + SLACK


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_fault_20_redirects_are_never_followed(house, status):
    house.upstream.script(Redirect(f"{house.upstream.url}/chat/completions", status))
    assert "redirect" in refused(house.ask(), 502, "upstream_error", "upstream_error")
    assert len(house.upstream.requests) == 1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")
@BOTH
def test_fault_21_tls(house, stream):
    assert house.ask(model="trusted").said.endswith("one two three")
    for bad in ("mismatched", "untrusted"):
        refused(house.ask(model=bad, stream=stream), 502, "upstream_error", "upstream_unreachable")


# --- 22-24: well-formed JSON that is no answer -----------------------------------------------------------------------

ODD_CHOICES = {
    "none": [],
    "null": None,
    "number": 5,
    "object": {"index": 0},
    "of null": [None],
    "of text": ["x"],
    "null message": [{"index": 0, "message": None, "delta": None}],
    "text message": [{"index": 0, "message": "hi", "delta": "hi"}],
    "list message": [{"index": 0, "message": [1], "delta": [1]}],
    "null index": [{"index": None, "message": {"content": "x"}, "delta": {"content": "x"}}],
    "text index": [{"index": "0", "message": {"content": "x"}, "delta": {"content": "x"}}],
    "negative index": [{"index": -1, "message": {"content": "x"}, "delta": {"content": "x"}}],
    "huge index": [{"index": 10**9, "message": {"content": "x"}, "delta": {"content": "x"}}],
    "number content": [{"index": 0, "message": {"content": 5}, "delta": {"content": 5}}],
    "object content": [{"index": 0, "message": {"content": {"a": 1}}, "delta": {"content": {"a": 1}}}],
    "null content": [{"index": 0, "message": {"content": None}, "delta": {"content": None}}],
    "odd reason": [{"index": 0, "message": {"content": "x"}, "delta": {"content": "x"}, "finish_reason": {"a": 1}}],
    "odd logprobs": [{"index": 0, "message": {"content": "x"}, "delta": {"content": "x"}, "logprobs": "x"}],
    "odd calls": [{"index": 0, "message": {"tool_calls": 5}, "delta": {"tool_calls": 5}}],
    "null call": [{"index": 0, "message": {"tool_calls": [None]}, "delta": {"tool_calls": [None]}}],
    "odd function": [{"index": 0, "message": {"tool_calls": [{"function": "f"}]}, "delta": {"tool_calls": [{"function": "f"}]}}],
    "odd call index": [{"index": 0, "message": {"tool_calls": [{"index": "x"}]}, "delta": {"tool_calls": [{"index": "x"}]}}],
    "cut arguments": [{"index": 0, "message": {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": '{"a'}}]},
                       "delta": {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a'}}]}}],
    "odd role": [{"index": 0, "message": {"role": 7, "content": "x"}, "delta": {"role": 7, "content": "x"}}],
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_CHOICES)
def test_fault_22_odd_choices(house, name):
    house.upstream.script(Plain(200, {"id": "c", "model": "other", "choices": ODD_CHOICES[name]}))
    told = house.ask()
    if told.status == 200:
        [choice] = told.completion["choices"]
        # none was given
        assert choice["message"]["role"] == "assistant" and choice["finish_reason"] is None
        assert told.completion["model"] == "m"
    else:
        refused(told, 502, "upstream_error", "upstream_error")
    assert told.seconds < SLACK
    # as bytes: the stub must not trip over it first
    odd = sse_event({"id": "d", "choices": ODD_CHOICES[name]})
    house.upstream.script(Sse([chunk({"content": "a"}), odd, chunk({}, "stop")]))
    told = house.ask(stream=True)
    assert told.status == 200 and told.seconds < SLACK
    if told.events[-1] == "[DONE]":
        assert told.said.startswith("a")
    else:
        assert told.cut["type"] == "upstream_error" and told.cut["code"] == "upstream_error"


def test_fault_22_a_choice_that_ends_long_before_the_other(house):
    house.upstream.script(
        Sse(
            [
                chunk({"content": "a"}),
                chunk({"content": "b"}, index=1),
                chunk({}, "stop"),
                chunk({"content": "c"}, "stop", index=1),
            ],
            delay_s=0.3,
        )
    )
    events = house.ask(stream=True, n=2).events
    said = [
        e["choices"][0]["delta"].get("content") or ""
        for e in events[:-1]
        if e["choices"][0]["index"] == 1
    ]
    assert events[-1] == "[DONE]" and "".join(said) == "bc"


USAGES: list[Any] = [
    None, 5, "x", [], {}, {"prompt_tokens": 0}, {"prompt_tokens": "3"},
    {"prompt_tokens": -1, "completion_tokens": 5},
    {"prompt_tokens": 10**18, "completion_tokens": 1},
    {"prompt_tokens": 10**30, "completion_tokens": 1},
    {"prompt_tokens": 1.5, "completion_tokens": 1},
    {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": 7},
]  # fmt: skip


@BOTH
def test_fault_23_senseless_usage_is_counted_here(house, stream):
    for usage in USAGES:
        if stream:
            house.upstream.script(
                Sse([chunk({"content": "a b"}), chunk({}, "stop"), {"choices": [], "usage": usage}])
            )
        else:
            house.upstream.script(
                Plain(200, {"choices": [{"message": {"content": "a b"}}], "usage": usage})
            )
        told = house.ask(
            stream=stream, **({"stream_options": {"include_usage": True}} if stream else {})
        )
        assert (told.status, told.said) == (200, "a b"), usage
        used = told.events[-2]["usage"] if stream else told.completion["usage"]
        counts = [used[k] for k in ("prompt_tokens", "completion_tokens", "total_tokens")]
        assert (
            all(type(n) is int and 0 <= n < 1000 for n in counts)
            and counts[0] + counts[1] == counts[2]
        ), usage


@pytest.mark.parametrize(
    "report",
    [{"message": f"{KEY} broke", "code": 500}, "out of memory", {"code": "x"}, {"message": None}],
)
def test_fault_24_an_error_inside_a_good_status(house, report):
    house.upstream.script(
        Sse([chunk({"content": "a"}), {"error": report}]),
        *[Sse([{"error": report}])] * 3,
        *[Plain(200, {"error": report})] * 3,
    )
    assert KEY not in cut(house.ask(stream=True), "upstream_error", "a")
    assert len(house.upstream.requests) == 1  # the answer has begun: nothing is asked twice
    refused(house.ask(stream=True), 502, "upstream_error", "upstream_error")
    refused(house.ask(), 502, "upstream_error", "upstream_error")
    assert len(house.upstream.requests) == 7  # before the first word it is as good as its status


@BOTH
def test_fault_25_an_answer_cut_by_its_length_says_so(house, stream):
    told = house.ask("a b c d", stream=stream, max_tokens=2)
    choice = told.events[-2]["choices"][0] if stream else told.completion["choices"][0]
    assert choice["finish_reason"] == "length" and told.said == "canary-prompt a"


@BOTH
def test_fault_26_no_header_of_the_upstream_passes(house, stream):
    hop = {
        "connection": "keep-alive",
        "proxy-authenticate": HEADER,
        "te": HEADER,
        "upgrade": "h2c",
        "trailer": HEADER,
    }
    answer = (
        Sse(headers=LEAKY | hop) if stream else Plain(200, chat_completion(ask("x")), LEAKY | hop)
    )
    house.upstream.script(answer)
    told = house.ask(stream=stream)
    assert (
        told.status == 200 and COOKIE not in str(told.headers) and HEADER not in str(told.headers)
    )
    assert not told.headers.keys() & {
        "set-cookie",
        "proxy-authenticate",
        "te",
        "upgrade",
        "trailer",
        "server",
    }
    house.ask()
    assert "cookie" not in house.upstream.requests[-1].headers


@BOTH
def test_fault_28_a_connection_that_died_idle(house, stream):
    house.upstream.script(Plain(200, chat_completion(ask("x")), close=True))
    house.ask()
    told = house.ask("a b", stream=stream)
    assert (told.status, told.said) == (200, "canary-prompt a b")
    house.upstream.hang_up()
    assert house.ask(stream=stream).status == 200


def test_fault_28_a_connection_that_dies_as_it_is_used(house):
    # the request has been read, and the connection ends without a byte
    house.upstream.script(Raw([b""]))
    told = house.ask()
    assert told.status == 200 and told.headers["x-chattable-attempts"] == "2" == str(
        len(house.upstream.requests)
    )


def test_fault_29_a_revoked_key_is_the_operators_matter(house):
    house.upstream.script(
        error(
            401,
            f"Incorrect API key provided: {KEY}",
            "invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )
    )
    told = house.ask()
    assert "operator" in refused(told, 502, "upstream_error", "upstream_auth_error")
    # a client that saw 401 would throw its own good key away
    assert "www-authenticate" not in told.headers


# --- headers of the upstream itself ----------------------------------------------------------------------------------

HEADS = {
    "no HTTP": b"\x16\x03\x01hello\r\n\r\n",
    "HTTP/9": b"HTTP/9.9 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    "status": b"HTTP/1.1 xyz OK\r\n\r\n",
    "both lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "huge": b"HTTP/1.1 200 OK\r\nx: " + b"a" * 100_000 + b"\r\n\r\n",
    "many": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 50_000 + b"\r\n",
    "bad chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    "long chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffffff\r\n{}\r\n",
    "early": b"HTTP/1.1 100 Continue\r\n\r\n",
}


@BOTH
@pytest.mark.parametrize("name", HEADS)
def test_an_upstream_that_hardly_speaks_http(house, name, stream):
    house.upstream.script(*[Raw([HEADS[name]])] * 3)
    told = house.ask(stream=stream)
    assert told.status == 502 and told.error["type"] == "upstream_error", told.body
    assert len(house.upstream.requests) <= 2


def test_a_clients_text_in_a_response_header(house):
    assert house.ask(model="any/x\r\nset-cookie: sid=1").status == 404
    assert house.ask(model="any/x" + "y" * 5000).status == 404
    told = house.ask(model="any/x set-cookie: sid=1 é" + "y" * 200)
    assert told.status == 200 and "set-cookie" not in told.headers
    assert (
        told.headers["x-chattable-model"].startswith("stub/x")
        and len(told.headers["x-chattable-model"]) < 300
    )
