"""What Anthropic sends, in bytes, and what it means.

The data has the shapes that Anthropic documents and its SDK expects.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from anthropic.types import Message as TheirMessage
from anthropic.types import RawMessageStreamEvent
from pydantic import TypeAdapter, ValidationError

from chattable.adapters.anthropic.wire import AnthropicWire
from chattable.adapters.errors import InvalidUpstreamResponse, UpstreamHTTPError
from chattable.adapters.services import VENDORS
from chattable.adapters.sse import SseDecoder
from chattable.agents.chat import Chunk, Json, Usage
from chattable.agents.fold import Accumulator, Choice, StreamNormalizer

DATA = Path(__file__).parent / "data"
STREAMS = sorted(path.name for path in DATA.glob("anthropic_*_stream.txt"))
GOOD = [name for name in STREAMS if "error" not in name]
EVENT = TypeAdapter[Any](RawMessageStreamEvent)


def events(name: str) -> list[Json]:
    return [json.loads(data) for data in SseDecoder().feed((DATA / name).read_bytes())]


def read(blocks: list[bytes]) -> tuple[list[Chunk], bool]:
    decoder, reader = SseDecoder(), AnthropicWire().stream_reader()
    chunks = [
        chunk for block in blocks for event in decoder.feed(block) for chunk in reader.feed(event)
    ]
    return chunks, reader.complete and reader.ended


def heard(*said: Json) -> list[Chunk]:
    reader = AnthropicWire().stream_reader()
    return [chunk for event in said for chunk in reader.feed(json.dumps(event).encode())]


def folded(chunks: list[Chunk]) -> Accumulator:
    """The answer that the chunks make, brought into the one form whose laws are checked on the way."""
    normal, fold = StreamNormalizer(), Accumulator()
    out = [out for chunk in chunks for out in normal.feed(chunk)] + normal.end()
    said = [chunk for chunk in out if chunk.usage is None]
    assert [i for i, chunk in enumerate(said) if "role" in chunk.delta] == [0]
    assert [i for i, chunk in enumerate(said) if chunk.finish_reason] == [len(said) - 1] and said[
        -1
    ].delta == {}
    assert all(chunk.usage is None for chunk in out[:-1])
    for chunk in out:
        fold.add(chunk)
    return fold


def stream(name: str) -> Accumulator:
    chunks, complete = read([(DATA / name).read_bytes()])
    assert complete
    return folded(chunks)


def only(fold: Accumulator) -> Choice:
    [choice] = fold.choices()
    return choice


# --- what they send ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
def test_the_data_is_what_their_sdk_expects(name: str) -> None:
    for event in events(name):
        if event["type"] not in ("ping", "error"):
            EVENT.validate_python(event)
    with pytest.raises(ValidationError):
        EVENT.validate_python(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": None},
            }
        )


@pytest.mark.parametrize("name", ["anthropic_plain.json", "anthropic_cited.json"])
def test_the_whole_messages_are_what_their_sdk_expects(name: str) -> None:
    TheirMessage.model_validate_json((DATA / name).read_bytes())


@pytest.mark.parametrize("name", GOOD)
def test_every_cut_of_every_stream_means_the_same(name: str) -> None:
    data = (DATA / name).read_bytes()
    whole = read([data])
    assert whole[0] and whole[1]
    assert read([data[i : i + 1] for i in range(len(data))]) == whole
    for at in range(1, len(data)):
        assert read([data[:at], data[at:]]) == whole
    assert read([data.replace(b"\n", b"\r\n")]) == whole


def test_text_and_usage() -> None:
    fold = stream("anthropic_text_stream.txt")
    assert only(fold).message == {"role": "assistant", "content": "Grüß dich 👋!", "refusal": None}
    assert only(fold).finish_reason == "stop"
    assert fold.usage == Usage(442, 9, 451, {"cached_tokens": 400, "cache_write_tokens": 30})
    assert fold.facts == {"service_tier": "default", "stop_reason": "end_turn"}


def test_parallel_calls() -> None:
    choice = only(stream("anthropic_tools_stream.txt"))
    assert choice.message["content"] == "I look both up." and choice.finish_reason == "tool_calls"
    assert choice.message["tool_calls"] == [
        {
            "id": "toolu_01Pa",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city": "Orléans 🌦"}'},
        },
        {
            "id": "toolu_01Qb",
            "type": "function",
            "function": {"name": "get_time", "arguments": "{}"},
        },
    ]


def test_calls_are_numbered_as_they_begin() -> None:
    pieces = [
        chunk.delta["tool_calls"][0]
        for chunk in heard(*events("anthropic_tools_stream.txt"))
        if "tool_calls" in chunk.delta
    ]
    assert [piece["index"] for piece in pieces] == [0, 0, 0, 0, 1, 1]
    assert [piece.get("id") for piece in pieces] == [
        "toolu_01Pa",
        None,
        None,
        None,
        "toolu_01Qb",
        None,
    ]


def test_thoughts_are_told_and_kept() -> None:
    fold = stream("anthropic_thinking_stream.txt")
    message = only(fold).message
    assert (message["reasoning_content"], message["content"]) == ("Seven times eight…", "56")
    assert message["thinking_blocks"] == [
        {
            "index": 0,
            "type": "thinking",
            "thinking": "Seven times eight…",
            "signature": "EqQBCgIYAhIMxThought",
        },
        {"index": 1, "type": "redacted_thinking", "data": "EmwKAhgBEgyHidden"},
    ]
    assert fold.usage is not None and fold.usage.completion_tokens_details == {
        "reasoning_tokens": 51
    }


def test_sources() -> None:
    message = only(stream("anthropic_citations_stream.txt")).message
    assert message["content"] == "Built in 1913, open daily." and "tool_calls" not in message
    assert message["annotations"] == [
        {
            "type": "url_citation",
            "url_citation": {
                "url": "https://station.example/hours",
                "title": "Opening hours",
                "start_index": 13,
                "end_index": 26,
            },
        }
    ]
    [passage] = message["citations"]
    assert message["content"][passage["start_index"] : passage["end_index"]] == "Built in 1913"
    assert (passage["type"], passage["start_page_number"]) == ("page_location", 2)


def test_what_belongs_to_the_end_is_told_once() -> None:
    for name in ("anthropic_citations_stream.txt", "anthropic_refusal_stream.txt"):
        said = events(name)
        at = next(i for i, event in enumerate(said) if event["type"] == "message_delta")
        assert (
            only(folded(heard(*said[:at], said[at], *said[at:]))).message
            == only(stream(name)).message
        )


def test_the_last_count_stands() -> None:
    assert stream("anthropic_citations_stream.txt").usage == Usage(
        2700, 120, 2820, {"cached_tokens": 0}
    )


def test_a_refusal_says_why() -> None:
    choice = only(stream("anthropic_refusal_stream.txt"))
    assert (choice.message["content"], choice.finish_reason) == ("Half", "content_filter")
    assert choice.message["refusal"] == "This could cause harm."


def test_a_forced_call_for_the_form_is_the_answer() -> None:
    choice = only(stream("anthropic_schema_stream.txt"))
    assert choice.message == {"role": "assistant", "content": '{"colour":"blue"}', "refusal": None}
    assert choice.finish_reason == "stop"


def test_a_whole_message() -> None:
    fold = folded(AnthropicWire().parse_response((DATA / "anthropic_plain.json").read_bytes()))
    message = only(fold).message
    assert (message["content"], message["reasoning_content"]) == ("One moment.", "Both at once.")
    assert [json.loads(call["function"]["arguments"]) for call in message["tool_calls"]] == [
        {"city": "Köln"},
        {},
    ]
    assert (
        message["thinking_blocks"][0]["signature"] == "c2lnLXBsYWlu"
        and only(fold).finish_reason == "tool_calls"
    )
    assert (
        fold.usage == Usage(120, 44, 164, {"cached_tokens": 20})
        and fold.facts["service_tier"] == "priority"
    )


def test_a_whole_message_with_sources_means_what_its_stream_means() -> None:
    fold = folded(AnthropicWire().parse_response((DATA / "anthropic_cited.json").read_bytes()))
    streamed = only(stream("anthropic_citations_stream.txt")).message
    assert only(fold).message == streamed
    assert fold.facts == {"stop_reason": "stop_sequence", "stop_sequence": "END"}


@pytest.mark.parametrize("name", GOOD)
def test_a_stream_and_the_same_message_at_once_are_one_answer(name: str) -> None:
    """Law: nothing depends on how an answer came.

    Their own rules of accumulation make the message.
    """
    message: Json = {}
    for event in events(name):
        if event["type"] == "message_start":
            message = event["message"]
        elif event["type"] == "content_block_start":
            message["content"].append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            block, delta = message["content"][event["index"]], event["delta"]
            for key in ("text", "thinking", "signature"):
                if key in delta:
                    block[key] += delta[key]
            if "partial_json" in delta:
                block["pieces"] = block.get("pieces", "") + delta["partial_json"]
            if "citation" in delta:
                block["citations"].append(delta["citation"])
        elif event["type"] == "message_delta":
            message |= event["delta"]
            message["usage"] |= event["usage"]
    for block in message["content"]:
        if "pieces" in block:
            block["input"] = json.loads(block.pop("pieces"))
    TheirMessage.model_validate(message)
    whole, streamed = (
        folded(AnthropicWire().parse_response(json.dumps(message).encode())),
        stream(name),
    )
    for fold in (whole, streamed):  # arguments may be spaced in different ways
        for call in only(fold).message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        if "schema" in name:
            only(fold).message["content"] = json.loads(only(fold).message["content"])
    assert (only(whole), whole.usage, whole.facts) == (
        only(streamed),
        streamed.usage,
        streamed.facts,
    )


FINISHES = [
    ("end_turn", "stop"), ("stop_sequence", "stop"), ("pause_turn", "stop"), ("max_tokens", "length"),
    ("model_context_window_exceeded", "length"), ("refusal", "content_filter"), ("a_new_one", "stop"),
]  # fmt: skip


@pytest.mark.parametrize("reason, finish", FINISHES)
def test_finish_reasons(reason: str, finish: str) -> None:
    [chunk] = heard({"type": "message_delta", "delta": {"stop_reason": reason}})
    assert chunk.finish_reason == finish and chunk.facts == {"stop_reason": reason}


NONE = {"cached_tokens": 0}
COUNTS: list[tuple[Any, Usage | None]] = [
    ({"input_tokens": 5, "output_tokens": 2}, Usage(5, 2, 7)),
    ({"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 0}, Usage(5, 2, 7, NONE)),
    ({"input_tokens": 0, "output_tokens": 0}, Usage(0, 0, 0)),
    ({"input_tokens": 5}, Usage(5, 0, 5)), ({"output_tokens": 5}, Usage(0, 5, 5)),
    ({}, None), (None, None), ([], None),
    ({"input_tokens": -1, "output_tokens": 2}, Usage(0, 2, 2)),
    ({"input_tokens": "5", "output_tokens": 2}, Usage(0, 2, 2)),
    ({"input_tokens": True, "output_tokens": 2}, Usage(0, 2, 2)),
    ({"input_tokens": 5.0, "output_tokens": 10**18}, Usage(5, 0, 5)),
    ({"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 1.5}, Usage(5, 2, 7)),
    (
        {"input_tokens": 5, "output_tokens": 2, "output_tokens_details": [1], "cache_creation": []},
        Usage(5, 2, 7),
    ),
    (
        {"input_tokens": 5, "output_tokens": 2, "cache_creation_input_tokens": 30,
         "cache_read_input_tokens": None,
         "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20}},
        Usage(35, 2, 37, {"cache_write_tokens": 30, "cache_write_1h_tokens": 20}),
    ),
]  # fmt: skip


@pytest.mark.parametrize("counts, usage", COUNTS)
def test_usage_is_read_field_by_field(counts: Json, usage: Usage | None) -> None:
    message = json.loads((DATA / "anthropic_plain.json").read_bytes()) | {"usage": counts}
    assert folded(AnthropicWire().parse_response(json.dumps(message).encode())).usage == usage


def usages(*said: Json) -> list[Usage]:
    return [chunk.usage for chunk in heard(*said) if chunk.usage is not None]


PROMPT = {"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 1}
START = {"type": "message_start", "message": {"usage": PROMPT}}
STOP: Json = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}


def test_the_prompts_usage_is_told_before_the_first_word_and_the_placeholder_never() -> None:
    reader = AnthropicWire().stream_reader()
    [first] = reader.feed(json.dumps(START).encode())
    assert first.usage == Usage(13, 0, 13, {"cached_tokens": 4})
    assert usages(START, STOP) == [first.usage]


def test_usage_in_several_deltas_each_field_as_it_was_last_said() -> None:
    more = {"input_tokens": None, "cache_read_input_tokens": 40, "output_tokens": 70}
    thought = {"output_tokens": "x", "output_tokens_details": {"thinking_tokens": 9}}
    deltas: list[Json] = [
        STOP | {"usage": {"output_tokens": 50}},
        {"type": "message_delta", "usage": more},
        {"type": "message_delta", "delta": {}, "usage": thought},
    ]
    assert usages(START, *deltas) == [
        Usage(13, 0, 13, {"cached_tokens": 4}),
        Usage(13, 50, 63, {"cached_tokens": 4}),
        Usage(49, 70, 119, {"cached_tokens": 40}),
        Usage(49, 70, 119, {"cached_tokens": 40}, {"reasoning_tokens": 9}),
    ]


def test_an_answer_without_usage_has_an_end() -> None:
    chunks = heard(
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, {"type": "message_stop"}
    )
    assert [chunk.finish_reason for chunk in chunks] == ["stop"]


def test_a_stream_is_complete_at_its_reason_and_ended_at_its_stop() -> None:
    reader, seen = AnthropicWire().stream_reader(), []
    for event in events("anthropic_text_stream.txt"):
        reader.on_event(event)
        seen.append((reader.complete, reader.ended))
    assert seen[-3:] == [(False, False), (True, False), (True, True)]


def test_an_error_inside_a_stream_keeps_its_meaning() -> None:
    data = (DATA / "anthropic_error_stream.txt").read_bytes()
    with pytest.raises(UpstreamHTTPError) as caught:
        read([data])
    assert (caught.value.status, caught.value.message, caught.value.retries) == (
        529,
        "Overloaded",
        None,
    )
    chunks, complete = read([data.partition(b"event: error")[0]])
    assert not complete and "".join(chunk.text for chunk in chunks) == "Hel"


def test_what_does_not_exist_yet_is_passed_over() -> None:
    chunks = heard(
        {"type": "ping"},
        {"type": "hologram_start", "index": 0},
        {
            "type": "content_block_start",
            "index": 7,
            "content_block": {"type": "hologram", "text": "x"},
        },
        {
            "type": "content_block_delta",
            "index": 7,
            "delta": {"type": "hologram_delta", "light": 5},
        },
        {
            "type": "content_block_delta",
            "index": 7,
            "delta": {"type": "text_delta", "text": "inside"},
        },
        {"type": "content_block_stop", "index": 7},
        {"type": "content_block_start", "index": 9, "content_block": {"type": "text", "text": ""}},
        {
            "type": "content_block_delta",
            "index": 9,
            "delta": {"type": "text_delta", "text": "after a gap"},
        },
    )
    assert [chunk.delta for chunk in chunks] == [{"content": "after a gap"}]


BROKEN: list[Any] = [
    [], 5, "x", None,
    {"type": "error"}, {"type": "message_start"}, {"type": "message_start", "message": []}, {"type": "message_delta", "delta": 1},
    {"type": "content_block_start", "index": 0}, {"type": "content_block_start", "index": "0", "content_block": {}},
    {"type": "content_block_start", "index": True, "content_block": {}},
    {"type": "content_block_delta", "index": -1, "delta": {}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{"}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": 5}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "a", "input": {}}},
]  # fmt: skip


@pytest.mark.parametrize("event", BROKEN)
def test_events_that_make_no_sense(event: Any) -> None:
    with pytest.raises((InvalidUpstreamResponse, UpstreamHTTPError)):
        heard(event)


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_stream_never_does_worse_than_fail(name: str, seed: int) -> None:
    """Events lost, twice, in any order, and with fields of any type: an answer or a proper error."""
    dice, kept = random.Random(seed), events(name)
    values: list[Any] = [None, 0, -1, 2**70, 1.5, "x", [], [None], {}, {"type": "x"}, True]
    for _ in range(60):
        damaged = [json.loads(json.dumps(event)) for event in kept]
        for _ in range(dice.randint(1, 3)):
            at, how = dice.randrange(len(damaged)), dice.randrange(4)
            if how == 0:
                del damaged[at]
            elif how == 1:
                damaged.insert(dice.randrange(len(damaged)), damaged[at])
            elif how == 2:
                dice.shuffle(damaged)
            else:
                holder = damaged[at]
                while (
                    inner := [v for v in holder.values() if isinstance(v, dict) and v]
                ) and dice.random() < 0.6:
                    holder = dice.choice(inner)
                if holder:
                    holder[dice.choice(list(holder))] = dice.choice(values)
            if not damaged:
                break
        try:
            chunks = heard(*damaged)
        except (InvalidUpstreamResponse, UpstreamHTTPError):
            continue
        normal = StreamNormalizer()
        for chunk in chunks:
            normal.feed(chunk)
        normal.end()


ANSWERS = [
    b"", b"\xff", b"[]", b"{}", b"[" * 2000, b'{"type": "message"}', b'{"content": 5, "stop_reason": "end_turn"}',
    b'{"content": [5], "stop_reason": "end_turn"}', b'{"content": []}', b'{"content": [], "stop_reason": 5}',
]  # fmt: skip


@pytest.mark.parametrize("body", ANSWERS)
def test_answers_that_are_none(body: bytes) -> None:
    with pytest.raises(InvalidUpstreamResponse):
        AnthropicWire().parse_response(body)


# --- errors ----------------------------------------------------------------------------------------------------------

LONG = "prompt is too long: 215000 tokens > 200000 maximum"
ERRORS = [
    (400, "invalid_request_error", "max_tokens: 9000 > 4096", (400, "max_tokens", None, 0)),
    (400, "invalid_request_error", "messages.0.content.1.text: Field required", (400, "messages", None, 0)),
    (400, "invalid_request_error", "stop_sequences: each must say something", (400, "stop", None, 0)),
    (400, "invalid_request_error", LONG, (400, "messages", "context_length_exceeded", 0)),
    (400, "invalid_request_error", "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
     (400, "messages", "context_length_exceeded", 0)),
    (401, "authentication_error", "invalid x-api-key", (401, None, None, 0)),
    (403, "permission_error", "no", (403, None, None, 0)),
    (404, "not_found_error", "model: claude-none", (404, "model", "model_not_found", 0)),
    (413, "request_too_large", "Request exceeds the maximum size", (413, None, "request_too_large", 0)),
    (429, "rate_limit_error", "slow down", (429, None, "rate_limit_exceeded", None)),
    (500, "api_error", "Internal server error", (500, None, None, None)),
    (504, "timeout_error", "late", (504, None, None, None)),
    (529, "overloaded_error", "Overloaded", (529, None, None, None)),
]  # fmt: skip


@pytest.mark.parametrize("status, kind, message, meant", ERRORS)
def test_errors(status: int, kind: str, message: str, meant: tuple[Any, ...]) -> None:
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    error = AnthropicWire().parse_error(status, json.dumps(body).encode())
    assert (
        error.status,
        error.param,
        error.code,
        error.retries,
    ) == meant and error.message == message
    with pytest.raises(UpstreamHTTPError) as inside:  # the same, in a stream that had begun
        heard(body)
    assert (inside.value.status, inside.value.code) == (error.status, error.code)
    with pytest.raises(UpstreamHTTPError) as at_once:
        AnthropicWire().parse_response(json.dumps(body).encode())
    assert at_once.value.status == error.status


def test_an_errors_own_code_passes() -> None:
    error = {
        "type": "invalid_request_error",
        "message": "gone",
        "details": {"error_code": "file_expired"},
    }
    assert (
        AnthropicWire().parse_error(400, json.dumps({"error": error}).encode()).code
        == "file_expired"
    )


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
        b'{"error": {"type": [], "message": 5}}',
        b"[" * 2000,
    ],
)
def test_errors_of_no_shape(body: bytes) -> None:
    error = AnthropicWire().parse_error(503, body)
    assert (error.status, error.message) == (503, "The upstream answered with status 503.")


def test_the_key_and_the_version() -> None:
    wire = AnthropicWire()
    assert wire.headers("sk-x") == [("x-api-key", "sk-x"), ("anthropic-version", "2023-06-01")]
    assert wire.headers("") == [("anthropic-version", "2023-06-01")]
    vendor = VENDORS["anthropic"]
    assert vendor.base_url + wire.path("m", True) == "https://api.anthropic.com/v1/messages"
    assert vendor.key_env == "ANTHROPIC_API_KEY" and isinstance(vendor.wire, AnthropicWire)
