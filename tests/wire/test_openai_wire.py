"""What providers really send, in bytes, and what it means; what we send them, in bytes.

`llamacpp_*` were recorded; the others have the shapes that their providers document.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from chattable.adapters.errors import InvalidUpstreamResponse, UpstreamHTTPError
from chattable.adapters.openai.wire import OpenAIWire, Quirks
from chattable.adapters.services import VENDORS
from chattable.adapters.sse import SseDecoder
from chattable.agents.chat import Chat, Message, Usage
from chattable.agents.fold import Accumulator, StreamNormalizer

DATA = Path(__file__).parent / "data"
STREAMS = sorted(
    path.name for path in DATA.glob("*_stream.txt") if b"chat.completion.chunk" in path.read_bytes()
)


def read(blocks):
    """The chunks of a stream that comes in these blocks, and whether it came to its end."""
    decoder, reader = SseDecoder(), OpenAIWire().stream_reader()
    chunks = [
        chunk for block in blocks for event in decoder.feed(block) for chunk in reader.feed(event)
    ]
    return chunks, reader.complete


def folded(chunks) -> Accumulator:
    normal, fold = StreamNormalizer(), Accumulator()
    for chunk in chunks:
        for out in normal.feed(chunk):
            fold.add(out)
    for out in normal.end():
        fold.add(out)
    return fold


def stream(name: str) -> Accumulator:
    chunks, complete = read([(DATA / name).read_bytes()])
    assert complete
    return folded(chunks)


def plain(name: str) -> Accumulator:
    return folded(OpenAIWire().parse_response((DATA / name).read_bytes()))


def used(fold: Accumulator) -> Any:
    assert fold.usage
    return fold.usage


def only(fold: Accumulator):
    [choice] = fold.choices()
    return choice


@pytest.mark.parametrize("name", [name for name in STREAMS if "error" not in name])
def test_every_cut_of_every_stream_means_the_same(name):
    data = (DATA / name).read_bytes()
    whole = read([data])
    assert read([data[i : i + 1] for i in range(len(data))]) == whole
    for at in range(1, len(data), 7):
        assert read([data[:at], data[at:]]) == whole


def test_llamacpp():
    fold = stream("llamacpp_stream.txt")
    assert only(fold).message["content"].startswith("Hello,") and only(fold).finish_reason in (
        "stop",
        "length",
    )
    whole = plain("llamacpp_plain.json")
    assert only(whole).message == {
        "role": "assistant",
        "content": only(whole).message["content"],
        "refusal": None,
    }
    assert whole.usage == Usage(36, 12, 48, {"cached_tokens": 0})
    assert "timings" in whole.facts


def test_openai_usage_and_facts():
    fold = stream("openai_usage_stream.txt")
    assert only(fold).message["content"] == "Grüß dich 👋"
    assert (used(fold).prompt_tokens, used(fold).completion_tokens, used(fold).total_tokens) == (
        19,
        10,
        29,
    )
    assert used(fold).prompt_tokens_details["cached_tokens"] == 4
    assert used(fold).completion_tokens_details["reasoning_tokens"] == 3
    assert (fold.facts["service_tier"], fold.facts["system_fingerprint"]) == (
        "default",
        "fp_06737a9306",
    )
    assert not fold.facts.keys() & {"id", "model", "created", "object", "choices", "usage"}


def test_openai_parallel_tools():
    message = only(stream("openai_parallel_tools_stream.txt")).message
    assert message["content"] is None
    assert [
        (c["id"], c["function"]["name"], json.loads(c["function"]["arguments"]))
        for c in message["tool_calls"]
    ] == [
        ("call_DdmO9pD3xa9XTPNJ32zg2hcA", "get_weather", {"city": "Paris"}),
        ("call_ABCf9pD3xa9XTPNJ32zg2xyz", "get_time", {"tz": "CET"}),
    ]
    whole = only(plain("openai_plain.json"))
    assert whole.finish_reason == "tool_calls"
    assert [(c["id"], c["type"], c["function"]["name"]) for c in whole.message["tool_calls"]] == [
        ("call_abc123", "function", "get_weather"),
        ("call_abc124", "function", "get_time"),
    ]
    assert all("index" not in call for call in whole.message["tool_calls"])


def test_gemini_numbers_all_its_calls_0_and_names_none():
    choice = only(stream("gemini_compatible_tools_stream.txt"))
    names = [call["function"]["name"] for call in choice.message["tool_calls"]]
    assert names == ["get_weather", "get_time"] and choice.finish_reason == "tool_calls"
    assert len({call["id"] for call in choice.message["tool_calls"]} - {""}) == 2


def test_openai_refusal():
    choice = only(stream("openai_refusal_stream.txt"))
    assert (choice.message["refusal"], choice.message["content"]) == ("I'm sorry, I can't.", None)


def test_openai_logprobs():
    tokens = only(stream("openai_logprobs_stream.txt")).logprobs["content"]
    assert [(t["token"], len(t["top_logprobs"])) for t in tokens] == [("Hello", 2), ("!", 2)]


def test_openai_several_choices():
    choices = stream("openai_n_stream.txt").choices()
    assert [(c.index, c.message["content"], c.finish_reason) for c in choices] == [
        (0, "one", "stop"),
        (1, "uno dos tres", "length"),
    ]


def test_several_choices_are_complete_only_together():
    """Law: what one choice says after another has ended is waited for."""
    reader, seen = OpenAIWire().stream_reader(), []
    for event in SseDecoder().feed((DATA / "openai_n_stream.txt").read_bytes())[:-1]:
        reader.feed(event)
        seen.append(reader.complete)
    assert seen == [False] * 7 + [True]


def test_vllm_reasoning():
    fold = stream("vllm_reasoning_stream.txt")
    assert only(fold).message["reasoning_content"] == "The user greets."
    assert only(fold).message["content"] == "\n\nHello." and fold.usage == Usage(11, 9, 20)


def test_deepseek_reasoning_and_usage_beside_the_last_delta():
    for fold in (stream("deepseek_reasoning_stream.txt"), plain("deepseek_plain.json")):
        assert (
            only(fold).message["reasoning_content"] == "9.11 is smaller."
            and only(fold).message["content"] == "9.8"
        )
        assert used(fold).total_tokens == 27 and used(fold).completion_tokens_details == {
            "reasoning_tokens": 8
        }
        assert only(fold).finish_reason == "stop"


def test_openrouter_reasoning_by_another_name_and_comments():
    fold = stream("openrouter_reasoning_stream.txt")
    assert (
        only(fold).message["reasoning_content"] == "Thinking."
        and only(fold).message["content"] == "Done"
    )
    assert only(fold).finish_reason == "stop" and used(fold).total_tokens == 82
    assert fold.facts["provider"] == "Groq"


def test_mistral_content_as_parts():
    fold = stream("mistral_parts_stream.txt")
    assert only(fold).message["content"] == "It is." and used(fold).total_tokens == 15


@pytest.mark.parametrize("name", [name for name in STREAMS if "error" in name])
def test_an_error_inside_a_good_status(name):
    with pytest.raises(UpstreamHTTPError) as caught:
        read([(DATA / name).read_bytes()])
    assert caught.value.status == (500 if "vllm" in name else 502) and caught.value.retries is None
    kept = (DATA / name).read_bytes().partition(b'"error"')[0].rpartition(b"data: ")[0]
    chunks, complete = read([kept])
    assert not complete and "".join(chunk.text for chunk in chunks) == "Hel"


# --- what we send ----------------------------------------------------------------------------------------------------


def sent(params=None, *, streaming=False, messages=None, **quirks):
    chat = Chat("ours", messages or [Message("user", "hi")], streaming, params or {})
    return json.loads(OpenAIWire(Quirks(**quirks)).build_request(chat, "theirs"))


def test_a_request_goes_out_as_it_came():
    params = {
        "temperature": 0.1,
        "x_unknown": {"a": [1, None]},
        "max_tokens": 5,
        "stop": None,
        "seed": 2**62,
    }
    assert sent(params) == {
        "model": "theirs",
        "messages": [{"role": "user", "content": "hi"}],
        **params,
    }


def test_unknown_fields_of_messages_survive():
    raw: dict[str, Any] = {
        "role": "user",
        "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}],
        "prefix": True,
    }
    message = Message("user", raw["content"], extra={"prefix": True})
    assert sent(messages=[message])["messages"] == [raw]


@pytest.mark.parametrize(
    "options",
    [None, {}, {"include_usage": False}, {"include_usage": True}, {"include_obfuscation": False}],
)
def test_the_usage_of_a_stream_is_always_asked_for(options):
    body = sent({"stream_options": options} if options is not None else {}, streaming=True)
    assert body["stream"] is True and body["stream_options"] == (options or {}) | {
        "include_usage": True
    }


def test_stream_options_go_only_where_they_are_known():
    assert "stream_options" not in sent({"stream_options": {"include_usage": True}})
    assert "stream_options" not in sent(
        {"stream_options": {"include_usage": True}}, streaming=True, stream_usage=False
    )


@pytest.mark.parametrize(
    "params, cap",
    [({}, None), ({"max_tokens": 9}, 9), ({"max_completion_tokens": 7}, 7), ({"max_tokens": 9, "max_completion_tokens": 7}, 7),
     ({"max_tokens": None, "max_completion_tokens": 7}, 7), ({"max_tokens": 0}, 0)],
)  # fmt: skip
def test_one_name_for_the_cap_on_output(params, cap):
    body = sent(params, max_tokens="max_tokens")
    assert body.get("max_tokens") == cap and "max_completion_tokens" not in body


def test_quirks_are_applied():
    body = sent(
        {"store": True, "user": "u"},
        developer=False,
        drops=frozenset({"store"}),
        messages=[Message("developer", "be kind")],
    )
    assert body == {
        "model": "theirs",
        "messages": [{"role": "system", "content": "be kind"}],
        "user": "u",
    }


@pytest.mark.parametrize(
    "name", [name for name, vendor in VENDORS.items() if isinstance(vendor.wire, OpenAIWire)]
)
def test_every_compatible_vendor_gets_a_request_that_keeps_the_words(name):
    chat = Chat(
        "m",
        [Message("developer", "be kind"), Message("user", "hi")],
        True,
        {"max_completion_tokens": 3},
    )
    body = json.loads(VENDORS[name].wire.build_request(chat, "theirs"))
    assert [m["content"] for m in body["messages"]] == ["be kind", "hi"] and body["stream"] is True
    assert 3 in (body.get("max_tokens"), body.get("max_completion_tokens"))


# --- errors ----------------------------------------------------------------------------------------------------------

ERRORS = [
    (400, {"error": {"message": "m", "type": "t", "param": "p", "code": "c"}}, (400, "m", "p", "c")),
    (400, {"error": "text"}, (400, "text", None, None)),
    (400, [{"error": {"code": 400, "message": "m", "status": "INVALID_ARGUMENT"}}], (400, "m", None, "400")),
    (400, {"object": "error", "message": "m", "type": "BadRequestError", "param": None, "code": 400}, (400, "m", None, "400")),
    (422, {"detail": [{"loc": ["body"]}]}, (422, "The upstream answered with status 422.", None, None)),
    (400, {"error": {"message": "This model's maximum context length is 8 tokens"}},
     (400, "This model's maximum context length is 8 tokens", "messages", "context_length_exceeded")),
    (413, {"error": {"message": "prompt is too long: 9 tokens"}},
     (400, "prompt is too long: 9 tokens", "messages", "context_length_exceeded")),
    (500, {"error": {"message": "maximum context length"}}, (500, "maximum context length", None, None)),
]  # fmt: skip


@pytest.mark.parametrize("status, body, meant", ERRORS)
def test_errors_of_every_shape(status, body, meant):
    error = OpenAIWire().parse_error(status, json.dumps(body).encode())
    assert (error.status, error.message, error.param, error.code) == meant


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"\xff", b"[]", b"[[]]", b"5", b'"x"', b'{"error": []}', b"[" * 2000]
)
def test_errors_of_no_shape(body):
    assert OpenAIWire().parse_error(503, body).message == "The upstream answered with status 503."


@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"choices": []}', b'{"choices": [5]}', b'{"choices": [{}]}', b"[]", b"", b"\xff"],
)
def test_answers_that_are_none(body):
    with pytest.raises(InvalidUpstreamResponse):
        OpenAIWire().parse_response(body)
