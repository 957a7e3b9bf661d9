"""Every law of a stream, checked on bytes, whatever the upstream does; and the SDK must read the same out of them."""

import json
from typing import Any

import pytest
from answers import CHUNKED_SSE, Raw, Sse, framed, head, splits, sse_event
from compat.browser import Browser
from compat.hostile import CASES, EMOJI, STOP, Body, Case, delta, said
from compat.strict import LawBroken, StrictStream, read
from echo_model import ask
from openai import LengthFinishReasonError, OpenAI
from openai.types.chat import ChatCompletion
from upstream import ScriptedUpstream

USAGE = {"stream_options": {"include_usage": True}}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("f", "g")
]


def stream(browser: Browser, body: dict[str, Any], **law: Any) -> StrictStream:
    """The strictly read answer to a streamed request."""
    page = browser.chat(body | {"stream": True})
    assert page.status == 200, page.body
    assert (
        page.headers["content-type"].startswith("text/event-stream")
        and "x-request-id" in page.headers
    )
    return read(
        page.body, include_usage=bool(body.get("stream_options")), **{"n": body.get("n", 1)} | law
    )


@pytest.mark.parametrize("options", [{}, USAGE], ids=["", "usage"])
@pytest.mark.parametrize("model", ["m", "persona"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_upstream_reads_like_any_other(
    browser: Browser, upstream: ScriptedUpstream, case: Case, model: str, options: Any
) -> None:
    upstream.script(case.answer)
    answer = stream(
        browser, ask("hi", model=model, n=1 + len(case.more), **options), unsaid=case.finish is None
    )
    first, *rest = answer.choices
    assert (first.text, first.finish) == (case.text, case.finish)
    assert [(call.name, call.text) for call in first.calls] == case.calls
    assert [choice.text for choice in rest] == case.more
    assert first.texts.get("reasoning_content", "") == case.reasoning
    if options and case.usage:
        assert answer.usage and answer.usage["total_tokens"] == case.usage


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_sdk_reads_the_same(client: OpenAI, upstream: ScriptedUpstream, case: Case) -> None:
    upstream.script(case.answer)
    request = ask("hi", n=1 + len(case.more), **USAGE)
    with client.chat.completions.stream(**request) as running:
        try:
            completion: ChatCompletion = running.get_final_completion()
        except LengthFinishReasonError as cut_short:
            completion = cut_short.completion
    assert [choice.message.content or "" for choice in completion.choices] == [
        case.text,
        *case.more,
    ]
    calls: Any = completion.choices[0].message.tool_calls or []
    assert [(call.function.name, call.function.arguments) for call in calls] == case.calls
    assert completion.choices[0].finish_reason == case.finish
    assert {choice.message.role for choice in completion.choices} == {"assistant"}


@pytest.mark.parametrize(
    "model",
    ["m", "plain-m", "echo", "scripted", "caller", "thinker", "persona", "manager", "jsonish"],
)
@pytest.mark.parametrize(
    "options",
    [{}, USAGE, {"stream_options": {"include_usage": False}}],
    ids=["", "usage", "no_usage"],
)
def test_every_kind_of_model_keeps_the_laws(browser: Browser, model: str, options: Any) -> None:
    page = browser.chat(ask("hello there", model=model, stream=True, **options))
    answer = read(page.body, include_usage=options == USAGE)
    whole = browser.chat(ask("hello there", model=model)).json["choices"][0]
    assert (answer.text or None, answer.choices[0].finish) == (
        whole["message"]["content"] or None,
        whole["finish_reason"],
    )
    assert {chunk["model"] for chunk in answer.chunks} == {model}


TEXTS = [
    "",
    " ",
    "\n\n",
    EMOJI,
    "data: [DONE]\n\n",
    'quote " and \\ back',
    "x" * 100_000,
    "\u2028\x85\x00",
]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:20]))
@pytest.mark.parametrize("model", ["m", "echo"])
def test_any_text_comes_back_whole(
    browser: Browser, upstream: ScriptedUpstream, model: str, text: str
) -> None:
    upstream.script(Sse([*said(text[:7], text[7:]), STOP]))
    assert stream(browser, ask(text, model=model)).text == text


def test_emoji_survive_a_cut_at_every_byte(browser: Browser, upstream: ScriptedUpstream) -> None:
    data = b"".join(sse_event(event) for event in (*said("👩‍🚀é"), STOP)) + sse_event("[DONE]")
    for pieces in splits(data):
        upstream.script(
            Raw([head(200, CHUNKED_SSE), *map(framed, pieces), framed(b"")], close=False)
        )
        assert stream(browser, ask("hi")).text == "👩‍🚀é"


@pytest.mark.parametrize(
    "fields", [{"n": 3}, {"logprobs": True, "top_logprobs": 2}, {"n": 2, **USAGE}], ids=str
)
def test_what_a_request_asks_for_keeps_the_laws(browser: Browser, fields: Any) -> None:
    answer = stream(browser, ask("one two three", **fields))
    assert [choice.text for choice in answer.choices] == ["one two three"] * fields.get("n", 1)
    tokens = [entry["token"] for choice in answer.choices for entry in choice.logprobs]
    assert tokens == (["one", " two", " three"] if "logprobs" in fields else [])


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("options", [{}, USAGE], ids=["", "usage"])
def test_a_stream_that_breaks_says_so_last(
    browser: Browser, upstream: ScriptedUpstream, end: Any, options: Any
) -> None:
    upstream.script(Sse([*said("so", " far")], done=False, end=end))
    answer = stream(browser, ask("hi", **options), fails=True)
    # a reset may overtake what was sent before
    assert "so far".startswith(answer.text) and answer.choices[0].finish is None
    assert answer.error and answer.error["code"] == "upstream_error"


def test_an_agent_that_breaks_says_so_last(browser: Browser) -> None:
    answer = stream(browser, ask("hi", model="half"), fails=True)
    assert (
        answer.text == "so far "
        and answer.error
        and answer.error["message"] == "The script says no."
    )


NONSENSE = {
    "not_json": "{",
    "choices_no_list": {"choices": 7},
    "choices_an_object": {"choices": {"index": 0}},
    "choice_no_object": {"choices": ["hello"]},
    "delta_no_object": {"choices": [{"index": 0, "delta": "hello"}]},
    "index_is_text": {"choices": [{"index": "0", "delta": {"content": "x"}}]},
    "index_is_endless": {"choices": [{"index": 10**9, "delta": {"content": "x"}}]},
    "index_is_negative": {"choices": [{"index": -1, "delta": {"content": "x"}}]},
    "calls_are_text": delta({"tool_calls": "f()"}),
    "call_is_null": delta({"tool_calls": [None]}),
    "function_is_text": delta({"tool_calls": [{"index": 0, "function": "f()"}]}),
    "gave_up": delta({}, "error"),
    "an_error": {"error": {"message": "out of memory"}},
    "an_error_of_text": {"error": "out of memory"},
}


@pytest.mark.parametrize("event", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_ends_a_stream_with_an_error(
    browser: Browser, upstream: ScriptedUpstream, event: Any
) -> None:
    upstream.script(Sse([*said("so", " far"), sse_event(event), *said("more"), STOP]))
    answer = stream(browser, ask("hi"), fails=True)
    assert answer.text == "so far" and answer.choices[0].finish is None
    assert answer.error and answer.error["code"] == "upstream_error"


# Streams that are wrong in one way each: the reader above must see every one of them.
GOOD: list[Body] = [
    {
        "choices": [
            {
                "index": 0,
                "delta": {"role": "assistant", "content": "a"},
                "logprobs": None,
                "finish_reason": None,
            }
        ]
    },
    {"choices": [{"index": 0, "delta": {"content": "b"}, "logprobs": None, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]},
]
GOOD = [
    {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"} | chunk
    for chunk in GOOD
]


def bytes_of(chunks: list[Any], done: bool = True) -> bytes:
    return b"".join(sse_event(chunk) for chunk in [*chunks, *(["[DONE]"] if done else [])])


def changed(at: int, field: str, value: Any) -> bytes:
    """The good stream with one field of one choice changed."""
    chunks = json.loads(json.dumps(GOOD))
    chunks[at]["choices"][0][field] = value
    return bytes_of(chunks)


def called(*pieces: dict[str, Any]) -> bytes:
    chunks = json.loads(json.dumps(GOOD))
    chunks[1:2] = [json.loads(json.dumps(GOOD[1])) for _ in pieces]
    for chunk, piece in zip(chunks[1:], pieces, strict=False):
        chunk["choices"][0]["delta"] = {"tool_calls": [piece]}
    return bytes_of(chunks)


FIRST = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
WRONG: dict[str, bytes] = {
    "crlf": bytes_of(GOOD).replace(b"\n", b"\r\n"),
    "no_blank_line": bytes_of(GOOD)[:-1],
    "no_done": bytes_of(GOOD, done=False),
    "done_twice": bytes_of([GOOD[0], "[DONE]", *GOOD[1:]]),
    "done_not_last": bytes_of([*GOOD[:-1], "[DONE]", GOOD[-1]], done=False),
    "named_event": b"event: ping\n" + bytes_of(GOOD),
    "id_line": b"id: 1\n\n" + bytes_of(GOOD),
    "empty_data": b"data:\n\n" + bytes_of(GOOD),
    "another_id": bytes_of([*GOOD[:-1], GOOD[-1] | {"id": "d"}]),
    "another_model": bytes_of([*GOOD[:-1], GOOD[-1] | {"model": "d"}]),
    "created_is_text": bytes_of([chunk | {"created": "1"} for chunk in GOOD]),
    "role_twice": changed(1, "delta", {"role": "assistant", "content": "b"}),
    "role_never": changed(0, "delta", {"content": "a"}),
    "role_of_another": changed(0, "delta", {"role": "model", "content": "a"}),
    "empty_delta": changed(1, "delta", {}),
    "finish_with_content": changed(2, "delta", {"content": "c"}),
    "finish_unheard_of": changed(2, "finish_reason", "eos"),
    "finish_missing": changed(2, "finish_reason", None),
    "finish_too_early": changed(1, "finish_reason", "stop"),
    "index_one_first": changed(0, "index", 1),
    "index_missing": changed(1, "index", None),
    "usage_not_asked_for": bytes_of(
        [*GOOD, GOOD[0] | {"choices": [], "usage": {"prompt_tokens": 1}}]
    ),
    "usage_null_not_asked_for": bytes_of([chunk | {"usage": None} for chunk in GOOD]),
    "no_choices": bytes_of([GOOD[0] | {"choices": []}, *GOOD]),
    "error_inside": bytes_of([GOOD[0], GOOD[1] | {"error": {"message": "x"}}, GOOD[2]]),
    "call_without_index": called({k: v for k, v in FIRST.items() if k != "index"}),
    "call_without_id": called({k: v for k, v in FIRST.items() if k != "id"}),
    "call_id_twice": called(FIRST, FIRST),
    "call_name_twice": called(FIRST, {"index": 0, "function": {"name": "f", "arguments": "{}"}}),
    "call_index_one_first": called(FIRST | {"index": 1}),
    "call_arguments_no_text": called(FIRST | {"function": {"name": "f", "arguments": {}}}),
}


def test_the_strict_reader_accepts_a_good_stream() -> None:
    assert read(bytes_of(GOOD)).text == "ab"
    assert (
        read(b": comment\n\n" + called(FIRST, {"index": 0, "function": {"arguments": "{}"}}))
        .choices[0]
        .calls[0]
        .text
        == "{}"
    )


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_the_strict_reader_sees_every_fault(wrong: bytes) -> None:
    with pytest.raises(LawBroken):
        read(wrong)


@pytest.mark.parametrize("name", ["usage_missing", "usage_does_not_add_up", "usage_not_null"])
def test_the_strict_reader_sees_wrong_usage(name: str) -> None:
    counts = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    last = GOOD[0] | {"choices": [], "usage": counts}
    chunks = [chunk | {"usage": None} for chunk in GOOD]
    assert read(bytes_of([*chunks, last]), include_usage=True).usage == counts
    wrong: dict[str, list[Body]] = {
        "usage_missing": chunks,
        "usage_does_not_add_up": [*chunks, last | {"usage": counts | {"total_tokens": 4}}],
        "usage_not_null": [*GOOD, last],
    }
    with pytest.raises(LawBroken):
        read(bytes_of(wrong[name]), include_usage=True)
