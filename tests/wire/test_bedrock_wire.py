"""What Bedrock sends, in frames of the documented events, and what it means.

AWS's own parser reads the same.
"""

import base64
import json
from typing import Any

import botocore.session
import pytest
from botocore.parsers import create_parser
from frames import event, framed
from hypothesis import given
from hypothesis import strategies as st
from wired import DATA, folded, only, read, same_for_every_cut, streamed

from chattable.adapters.bedrock.wire import BedrockWire
from chattable.adapters.errors import InvalidUpstreamResponse, UpstreamHTTPError
from chattable.agents.chat import Chat, Message, Usage
from chattable.agents.fold import as_message

WIRE = BedrockWire()
STREAMS = sorted(path.name for path in DATA.glob("bedrock_*_stream.jsonl"))
WHOLE = sorted(path.name for path in DATA.glob("bedrock_*.json"))
GOOD = [name for name in STREAMS if "error" not in name]
SONNET = "anthropic.claude-sonnet-4-5-20250929-v1:0"
SERVICE = botocore.session.Session().get_service_model("bedrock-runtime")
STOPS = SERVICE.operation_model("Converse").output_shape.members["stopReason"].enum


def bytes_of(name: str) -> bytes:
    return framed((DATA / name).read_bytes())


def stream(name: str):
    return streamed(WIRE, bytes_of(name))


def plain(name: str):
    return folded(WIRE.parse_response((DATA / name).read_bytes()))


def answer(*blocks: Any, reason: Any = "end_turn", **fields: Any) -> bytes:
    return json.dumps(
        {
            "output": {"message": {"role": "assistant", "content": blocks}},
            "stopReason": reason,
            **fields,
        }
    ).encode()


def events(*said: tuple[str, Any]) -> bytes:
    return b"".join(event(kind, body) for kind, body in said)


class Raw:
    """A response body as AWS's SDK reads it."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def stream(self, *_: Any, **__: Any) -> Any:
        yield self.data

    def close(self) -> None: ...


# --- the data ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOOD)
def test_awss_own_sdk_reads_every_event(name: str) -> None:
    """Every event is one of the service's, and none of its fields is unknown to it, but for the padding."""
    shape = SERVICE.operation_model("ConverseStream").output_shape
    response = {
        "headers": {},
        "status_code": 200,
        "body": Raw(bytes_of(name)),
        "context": {"operation_name": "ConverseStream"},
    }
    theirs = list(create_parser("rest-json").parse(response, shape)["stream"])
    ours = [json.loads(line) for line in (DATA / name).open()]
    assert [next(iter(seen)) for seen in theirs] == [next(iter(said)) for said in ours]
    for seen, said in zip(theirs, ours, strict=True):
        assert _plain(seen) == {
            kind: {k: v for k, v in body.items() if k != "p"} for kind, body in said.items()
        }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


@pytest.mark.parametrize("name", GOOD)
def test_every_cut_of_every_stream_means_the_same(name: str) -> None:
    same_for_every_cut(WIRE, bytes_of(name))


@pytest.mark.parametrize("name", GOOD)
def test_only_the_usage_comes_after_the_end(name: str) -> None:
    reader, seen = WIRE.stream_reader(), []
    for line in (DATA / name).read_bytes().splitlines():
        reader.feed(line)
        seen.append((reader.complete, reader.ended))
    assert seen == [(False, False)] * (len(seen) - 2) + [(True, False), (True, True)]


# --- what it means ----------------------------------------------------------------------------------------------------


def test_text_usage_and_facts() -> None:
    fold = stream("bedrock_text_stream.jsonl")
    assert (only(fold).message["content"], only(fold).finish_reason) == ("Grüß dich 👋", "stop")
    assert fold.usage == Usage(113, 5, 118, {"cached_tokens": 100, "cache_write_tokens": 4})
    assert fold.facts == {"stop_reason": "end_turn", "service_tier": "default"}


def test_parallel_calls() -> None:
    choice = only(stream("bedrock_tools_stream.jsonl"))
    assert (choice.message["content"], choice.finish_reason) == ("I look both up.", "tool_calls")
    assert [
        (c["id"], c["function"]["name"], json.loads(c["function"]["arguments"]))
        for c in choice.message["tool_calls"]
    ] == [
        ("tooluse_kZJMlvQmRJ6eAyJE5GIl7Q", "get_weather", {"city": "Orléans 🌦"}),
        ("tooluse_2", "get_time", {}),
    ]
    choice = only(plain("bedrock_tools.json"))
    assert (choice.message["content"], choice.finish_reason) == ("Both.", "tool_calls")
    assert [
        (c["id"], c["function"]["name"], json.loads(c["function"]["arguments"]))
        for c in choice.message["tool_calls"]
    ] == [
        ("tooluse_a", "get_weather", {"city": "Paris", "at": 12345678901234}),
        ("tooluse_b", "get_time", {}),
    ]


def test_thoughts_come_back_with_the_next_turn() -> None:
    """What it thought, streamed to a client and sent back by it, is what Bedrock said."""
    message = only(stream("bedrock_thinking_stream.jsonl")).message
    assert (
        message["reasoning_content"] == "Tenths first: 9.8 has more."
        and message["content"] == "9.8 is larger."
    )
    kept = as_message(json.loads(json.dumps(message)))
    [_, turn] = json.loads(WIRE.build_request(Chat("m", [Message("user", "hi"), kept]), SONNET))[
        "messages"
    ]
    assert turn["content"] == [
        {
            "reasoningContent": {
                "reasoningText": {
                    "text": "Tenths first: 9.8 has more.",
                    "signature": "EqoBCkgIARABGAIiQL2U",
                }
            }
        },
        {"reasoningContent": {"redactedContent": "EmwKAhgBEgy3"}},
        {"text": "9.8 is larger."},
        {"toolUse": {"toolUseId": "tooluse_3", "name": "note", "input": {"larger": 9.8}}},
    ]


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_answer_goes_back_as_it_came(name: str) -> None:
    message = as_message(only(plain(name)).message)
    [_, turn] = json.loads(WIRE.build_request(Chat("m", [Message("user", "hi"), message]), SONNET))[
        "messages"
    ]
    assert turn == json.loads((DATA / name).read_bytes())["output"]["message"]


def test_a_whole_answer_with_thoughts() -> None:
    fold = plain("bedrock_plain.json")
    message = only(fold).message
    assert (message["reasoning_content"], message["content"]) == ("They greet.", "Grüß dich 👋")
    assert only(fold).finish_reason == "stop" and fold.usage == Usage(30, 12, 42)
    assert fold.facts == {
        "stop_reason": "stop_sequence",
        "additional_model_response_fields": {"stop_sequence": "END"},
    }


def test_a_guardrail_is_a_filter_and_its_words_stay() -> None:
    fold = stream("bedrock_guardrail_stream.jsonl")
    assert only(fold).finish_reason == "content_filter" and only(fold).message[
        "content"
    ].startswith("Sorry")
    assert fold.facts["trace"]["guardrail"]["inputAssessment"]


def test_citations_pictures_and_its_own_tools() -> None:
    fold = stream("bedrock_cited_stream.jsonl")
    message = only(fold).message
    assert message["content"] == "It is 51." and message["citations"][0]["title"] == "sums"
    assert message["images"] == [
        {"index": 0, "type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}
    ]
    assert "tool_calls" not in message and only(fold).finish_reason == "length"
    assert fold.facts["additional_model_response_fields"] == {"stop_sequence": None}
    image = {"image": {"format": "png", "source": {"bytes": "aGVsbG8="}}}
    cited = {
        "citationsContent": {
            "content": [{"text": "It is "}, {"text": "51."}],
            "citations": [{"title": "sums"}],
        }
    }
    whole = only(folded(WIRE.parse_response(answer(cited, image)))).message
    assert (whole["content"], whole["citations"], whole["images"]) == (
        "It is 51.",
        [{"title": "sums"}],
        message["images"],
    )


def test_what_belongs_to_the_end_is_told_once() -> None:
    cited = {"contentBlockIndex": 0, "delta": {"citation": {"title": "sums"}}}
    end = ("messageStop", {"stopReason": "end_turn"})
    data = events(
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "51."}}),
        ("contentBlockDelta", cited),
        end,
        end,
    )
    assert only(folded(read(WIRE, [data])[0])).message["citations"] == [{"title": "sums"}]


def test_the_call_that_is_the_answer_itself() -> None:
    body = json.loads(
        WIRE.build_request(
            Chat("m", [as_message({"role": "user", "content": "x"})], False,
                 {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}}),
            "amazon.nova-pro-v1:0",
        )
    )  # fmt: skip
    name = body["toolConfig"]["toolChoice"]["tool"]["name"]
    call = {"toolUse": {"toolUseId": "t", "name": name, "input": {"city": "Paris"}}}
    choice = only(folded(WIRE.parse_response(answer(call, reason="tool_use"))))
    assert (
        json.loads(choice.message["content"]) == {"city": "Paris"}
        and choice.finish_reason == "stop"
    )
    assert "tool_calls" not in choice.message


ENDS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
} | {
    "tool_use": "stop",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "of_tomorrow": "stop",
}


@pytest.mark.parametrize("reason", [*STOPS, "of_tomorrow"])
def test_every_end_that_aws_knows(reason: str) -> None:
    if reason.startswith("malformed"):
        with pytest.raises(InvalidUpstreamResponse):
            WIRE.parse_response(answer({"text": "x"}, reason=reason))
    else:
        assert (
            only(folded(WIRE.parse_response(answer({"text": "x"}, reason=reason)))).finish_reason
            == ENDS[reason]
        )


def usage(**counts: Any) -> Any:
    return {"inputTokens": 5, "outputTokens": 3, "totalTokens": 8} | counts


HOUR = {"ttl": "1h", "inputTokens": 6}
USAGE: list[Any] = [
    (usage(), Usage(5, 3, 8)),
    (
        usage(cacheReadInputTokens=7, cacheWriteInputTokens=2),
        Usage(14, 3, 17, {"cached_tokens": 7, "cache_write_tokens": 2}),
    ),
    (
        usage(cacheWriteInputTokens=9, cacheDetails=[HOUR, {"ttl": "5m", "inputTokens": 3}, 5]),
        Usage(14, 3, 17, {"cache_write_tokens": 9, "cache_write_1h_tokens": 6}),
    ),
    (usage(cacheReadInputTokens=None), Usage(5, 3, 8)), (usage(cacheDetails=5), Usage(5, 3, 8)),
    (usage(inputTokens="5"), Usage(5, 3, 8)),  # the total says it
    (usage(inputTokens="5", totalTokens=None), Usage(0, 3, 3)),
    (usage(outputTokens=-1), Usage(5, 3, 8)),
    (usage(inputTokens=10**18), Usage(5, 3, 8)), ({}, None), (None, None), (5, None),
    (usage(cacheReadInputTokens="x"), Usage(5, 3, 8)),
]  # fmt: skip


@pytest.mark.parametrize("raw, meant", USAGE)
def test_usage_is_read_field_by_field(raw: Any, meant: Any) -> None:
    fold = folded(WIRE.parse_response(answer({"text": "x"}, usage=raw)))
    assert fold.usage == meant and only(fold).message["content"] == "x"


def test_events_and_blocks_of_tomorrow_say_nothing() -> None:
    start = ("contentBlockStart", {"contentBlockIndex": 0, "start": {"hologram": {}}})
    delta = ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"hologram": {}}})
    data = events(
        ("initial-response", {}),
        start,
        delta,
        ("newsFlash", {"a": 1}),
        ("messageStop", {"stopReason": "end_turn"}),
    )
    chunks, complete, ended = read(WIRE, [data])
    assert complete and not ended and only(folded(chunks)).message["content"] == ""
    assert (
        only(folded(WIRE.parse_response(answer({"hologram": {}}, {"text": "x"})))).message[
            "content"
        ]
        == "x"
    )


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_an_exception_inside_a_stream_has_the_status_of_its_kind() -> None:
    with pytest.raises(UpstreamHTTPError) as caught:
        read(WIRE, [bytes_of("bedrock_error_stream.jsonl")])
    assert (caught.value.status, caught.value.retries) == (429, None)
    chunks, complete, _ = read(
        WIRE,
        [framed(b"\n".join((DATA / "bedrock_error_stream.jsonl").read_bytes().splitlines()[:2]))],
    )
    assert not complete and "".join(chunk.text for chunk in chunks) == "Hel"


EXCEPTIONS = [
    ("throttlingException", {"message": "Too many requests"}, (429, None, None)),
    (
        "validationException",
        {"message": "Input is too long for requested model."},
        (400, "messages", "context_length_exceeded"),
    ),
    (
        "validationException",
        {"message": "The toolConfig field must be defined"},
        (400, "tools", None),
    ),
    (
        "modelStreamErrorException",
        {"message": "x", "originalStatusCode": 424, "originalMessage": "y"},
        (502, None, None),
    ),
    ("internalServerException", {"message": "x"}, (500, None, None)),
    ("serviceUnavailableException", {"message": "x"}, (503, None, None)),
    ("modelTimeoutException", {"message": "x"}, (408, None, None)),
    ("exceptionOfTomorrowException", {}, (502, None, None)),
]


@pytest.mark.parametrize("kind, body, meant", EXCEPTIONS)
def test_exceptions(kind: str, body: Any, meant: Any) -> None:
    with pytest.raises(UpstreamHTTPError) as caught:
        WIRE.stream_reader().feed(json.dumps({kind: body}).encode())
    assert (caught.value.status, caught.value.param, caught.value.code) == meant


def test_every_exception_of_the_service_has_a_status() -> None:
    streams = SERVICE.operation_model("ConverseStream").output_shape.members["stream"].members
    shapes = [shape for name, shape in streams.items() if name.endswith("Exception")]
    for shape in [*shapes, *SERVICE.operation_model("ConverseStream").error_shapes]:
        name = shape.name[0].lower() + shape.name[1:]
        with pytest.raises(UpstreamHTTPError) as caught:
            WIRE.stream_reader().feed(json.dumps({name: {"message": "m"}}).encode())
        http = shape.metadata.get("error", {}).get("httpStatusCode", 500)
        same = {424: 502} | ({400: 429} if "Quota" in name else {})
        assert caught.value.status == same.get(http, http)


def test_errors_of_the_stream_itself() -> None:
    with pytest.raises(UpstreamHTTPError) as caught:
        WIRE.stream_reader().feed(b'{"error": {"code": "ThrottlingException", "message": "slow"}}')
    assert (caught.value.status, caught.value.message) == (429, "slow")
    with pytest.raises(UpstreamHTTPError) as caught:
        WIRE.stream_reader().feed(b'{"error": {"code": "", "message": ""}}')
    assert (caught.value.status, caught.value.message) == (
        502,
        "The upstream answered with status 502.",
    )


ERRORS = [
    (400, "Input is too long for requested model.", (400, "messages", "context_length_exceeded")),
    (400, "The model returned the following errors: prompt is too long: 213462 tokens > 200000 maximum",
     (400, "messages", "context_length_exceeded")),
    (400, "Too many input tokens. Max input tokens: 300000, request input token count: 300100",
     (400, "messages", "context_length_exceeded")),
    (400, "The model returned the following errors: input length and `max_tokens` exceed context limit: 1 + 2 > 2",
     (400, "messages", "context_length_exceeded")),
    (400, "The provided model identifier is invalid.", (404, "model", "model_not_found")),
    (404, "Could not resolve the foundation model from the provided model identifier.", (404, "model", "model_not_found")),
    (400, "The toolConfig field must be defined when using toolUse and toolResult content blocks.", (400, "tools", None)),
    (400, "The maximum tokens you requested exceeds the model limit of 4096. maxTokens", (400, "max_tokens", None)),
    (400, "A conversation must start with a user message.", (400, "messages", None)),
    (400, "temperature and top_p cannot both be specified for this model.", (400, "temperature", None)),
    (429, "Too many requests, please wait before trying again.", (429, None, None)),
    (424, "The model failed.", (424, None, None)),
    (503, "Bedrock is unable to process your request.", (503, None, None)),
]  # fmt: skip


@pytest.mark.parametrize("status, message, meant", ERRORS)
def test_errors_of_aws(status: int, message: str, meant: Any) -> None:
    for field in ("message", "Message"):
        error = WIRE.parse_error(status, json.dumps({field: message}).encode())
        assert (error.status, error.param, error.code) == meant and error.message == message


SECRET = [
    "User: arn:aws:sts::123456789012:assumed-role/prod-role/i-0abc is not authorized to perform: "
    "bedrock:InvokeModel "
    "on resource: arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude",
    "Account 123456789012 with key AKIAIOSFODNN7EXAMPLE is suspended",
    "bad token bedrock-api-key-YmVkcm9jay5hbWF6b25hd3M and ABSKQmVkcm9ja0FQSUtleQ==",
    "The signature does not match. The Canonical String for this request should have "
    "been\n'POST\n/model/x\n"
    "x-amz-security-token:FwoGZXIvYXdzEJr'",
]


@pytest.mark.parametrize("text", SECRET)
def test_accounts_and_keys_are_nobodys_business(text: str) -> None:
    for refused in (
        WIRE.parse_error(403, json.dumps({"message": text}).encode()),
        _thrown({"message": text}),
    ):
        for secret in ("123456789012", "prod-role", "AKIA", "YmVk", "QmVk", "FwoG"):
            assert secret not in refused.message
        assert refused.message.isprintable() and "…" in refused.message


def _thrown(body: Any) -> UpstreamHTTPError:
    with pytest.raises(UpstreamHTTPError) as caught:
        WIRE.stream_reader().feed(json.dumps({"accessDeniedException": body}).encode())
    return caught.value


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"\xff", b"[]", b"5", b'"x"', b'{"message": []}', b"[" * 2000]
)
def test_errors_of_no_shape(body: bytes) -> None:
    assert WIRE.parse_error(503, body).message == "The upstream answered with status 503."


CALL = {"toolUse": {"toolUseId": "t", "name": "f", "input": {}}}
NONSENSE = [b"{}", b"[]", b"", b"\xff", b"5", b"null", b'{"output": {}}', b'{"output": {"message": {"content": {}}}}', answer(5),
            answer({"text": 5}), answer({"toolUse": []}), answer({"toolUse": {}}), answer({"toolUse": {"name": 5}}),
            answer({"reasoningContent": 5}), answer({"reasoningContent": {"reasoningText": {"text": 5}}}),
            answer({"text": "x"}, reason=None), answer(CALL, reason=7), answer({"citationsContent": 5}),
            answer({"citationsContent": {"content": 5}}), answer({"citationsContent": {"content": [5]}}),
            answer({"image": 5}), answer({"text": "x"})[:-3], b'{"x":' * 2000]  # fmt: skip


@pytest.mark.parametrize("body", NONSENSE, ids=range(len(NONSENSE)))
def test_answers_that_are_none(body: bytes) -> None:
    with pytest.raises(InvalidUpstreamResponse):
        WIRE.parse_response(body)


BROKEN: list[Any] = [
    [("contentBlockDelta", {"contentBlockIndex": -1, "delta": {"text": "x"}})],
    [("contentBlockDelta", {"delta": {"text": "x"}})],
    [("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"toolUse": {"input": "{}"}}})],
    [("contentBlockStart", {"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "t"}}})],
    [("contentBlockStart", {"contentBlockIndex": True, "start": {}})],
    [("messageStop", {})],
    [("contentBlockStart", 5)],
]


@pytest.mark.parametrize("said", BROKEN)
def test_events_that_are_none(said: Any) -> None:
    with pytest.raises(InvalidUpstreamResponse):
        read(WIRE, [events(*said)])


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)
TOOL = ODD | st.fixed_dictionaries(
    {"name": st.text(max_size=3) | ODD}, optional={"toolUseId": ODD | st.text(), "type": ODD}
)
PIECE = st.fixed_dictionaries(
    {},
    optional={
        "text": st.text() | ODD,
        "toolUse": ODD | st.fixed_dictionaries({"input": st.text() | ODD}),
        "reasoningContent": ODD
        | st.fixed_dictionaries({}, optional=dict.fromkeys(("text", "signature"), st.text() | ODD)),
        "image": ODD
        | st.fixed_dictionaries(
            {"source": ODD | st.fixed_dictionaries({"bytes": ODD | st.text()})}
        ),
        "citation": ODD,
    },
)
INDEX = {"contentBlockIndex": st.integers(0, 2) | ODD}
START = ODD | st.fixed_dictionaries({"toolUse": TOOL})
ERROR = ODD | st.fixed_dictionaries({"message": ODD, "code": ODD})
EVENT = st.one_of(
    st.tuples(st.just("contentBlockStart"), st.fixed_dictionaries({**INDEX, "start": START})),
    st.tuples(st.just("contentBlockDelta"), st.fixed_dictionaries({**INDEX, "delta": ODD | PIECE})),
    st.tuples(st.just("contentBlockStop"), st.fixed_dictionaries(INDEX)),
    st.tuples(
        st.just("messageStop"),
        st.fixed_dictionaries({"stopReason": ODD | st.sampled_from(["end_turn", *STOPS])}),
    ),
    st.tuples(
        st.just("metadata"),
        st.fixed_dictionaries({}, optional={"usage": ODD, "trace": ODD, "serviceTier": ODD}),
    ),
    st.tuples(st.sampled_from(["throttlingException", "error", "x"]), ERROR),
)


@given(st.lists(EVENT, max_size=6))
def test_hostile_streams_break_in_the_known_ways_only(said: Any) -> None:
    try:
        chunks, _, _ = read(WIRE, [events(*said)])
    except (InvalidUpstreamResponse, UpstreamHTTPError) as broken:
        assert isinstance(broken.message, str) and broken.message.isprintable()
        return
    json.dumps([choice.message for choice in folded(chunks).choices()])


@given(
    st.lists(
        PIECE | st.fixed_dictionaries({"toolUse": TOOL, "citationsContent": ODD}) | ODD, max_size=3
    ),
    ODD,
)
def test_hostile_answers_break_in_the_known_ways_only(blocks: Any, counts: Any) -> None:
    try:
        chunks = WIRE.parse_response(answer(*blocks, usage=counts))
    except (InvalidUpstreamResponse, UpstreamHTTPError) as broken:
        assert broken.message.isprintable()
        return
    json.dumps([choice.message for choice in folded(chunks).choices()])


@given(st.integers(400, 599), ODD | st.fixed_dictionaries({"message": ODD | st.text()}))
def test_hostile_errors_are_errors(status: int, body: Any) -> None:
    refused = WIRE.parse_error(status, json.dumps(body).encode())
    assert 400 <= refused.status < 600 and refused.message.isprintable()
