"""What Gemini sends, in bytes of the documented shapes, and what it means.

Google's own SDK says whether the shapes are right.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st

from chattable.adapters.errors import InvalidUpstreamResponse, UpstreamHTTPError
from chattable.adapters.gemini.wire import GeminiWire
from chattable.adapters.sse import SseDecoder
from chattable.agents.chat import Chat, Message, Usage
from chattable.agents.fold import FINISHES, Accumulator, StreamNormalizer, as_message

DATA = Path(__file__).parent / "data"
NATIVE = [
    path
    for path in sorted(DATA.glob("gemini_*"))
    if b"chat.completion.chunk" not in path.read_bytes()
]
STREAMS = [path.name for path in NATIVE if path.suffix == ".txt"]
WHOLE = [path.name for path in NATIVE if path.suffix == ".json"]


def read(blocks):
    """The chunks of a stream that comes in these blocks, and whether it came to its end."""
    decoder, reader = SseDecoder(), GeminiWire().stream_reader()
    chunks = [
        chunk for block in blocks for event in decoder.feed(block) for chunk in reader.feed(event)
    ]
    return chunks, reader.complete, reader.ended


def folded(chunks) -> Accumulator:
    """The answer of these chunks; on the way, the law of the normal form is checked."""
    normal, fold, roles, ended = StreamNormalizer(), Accumulator(), set(), set()
    calls: dict[Any, Any] = {}
    outs = [out for chunk in chunks for out in normal.feed(chunk)] + normal.end()
    for out in outs:
        fold.add(out)
        if out.usage:
            assert out is outs[-1] and not out.delta
            continue
        assert out.index not in ended and ("role" in out.delta) == (out.index not in roles)
        roles.add(out.index)
        assert sorted(roles) == list(range(len(roles)))
        for call in out.delta.get("tool_calls", ()):
            known = calls.setdefault(out.index, set())
            assert (
                call["index"] == len(known)
                and call["id"]
                and call["type"] == "function"
                and call["id"] not in known
            )
            known.add(call["id"])
        if out.finish_reason:
            assert out.delta == {} and out.finish_reason in FINISHES
            ended.add(out.index)
    assert ended == roles
    return fold


def stream(name: str) -> Accumulator:
    chunks, complete, ended = read([(DATA / name).read_bytes()])
    assert complete and not ended  # only the end of the stream says that no more is to come
    return folded(chunks)


def plain(name: str) -> Accumulator:
    return folded(GeminiWire().parse_response((DATA / name).read_bytes()))


def only(fold: Accumulator):
    [choice] = fold.choices()
    return choice


def answer(*parts, finish="STOP", **fields):
    return json.dumps(
        {"candidates": [{"content": {"parts": parts}, "finishReason": finish}], **fields}
    ).encode()


# --- the data ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [path.name for path in NATIVE if "error" not in path.name])
def test_googles_own_sdk_takes_what_is_read_here(name):
    data = (DATA / name).read_bytes()
    for event in SseDecoder().feed(data) if name.endswith(".txt") else [data]:
        # forbids what it does not know
        known = types.GenerateContentResponse.model_validate_json(event)
        assert known.candidates or known.prompt_feedback


@pytest.mark.parametrize("name", [name for name in STREAMS if "error" not in name])
def test_every_cut_of_every_stream_means_the_same(name):
    data = (DATA / name).read_bytes()
    whole = read([data])
    assert read([data[i : i + 1] for i in range(len(data))]) == whole
    for at in range(1, len(data)):
        assert read([data[:at], data[at:]]) == whole


@pytest.mark.parametrize("name", [name for name in STREAMS if "error" not in name])
def test_a_stream_is_complete_with_its_last_event_only(name):
    reader, seen = GeminiWire().stream_reader(), []
    for event in SseDecoder().feed((DATA / name).read_bytes()):
        reader.feed(event)
        seen.append(reader.complete)
    assert seen == [False] * (len(seen) - 1) + [True]


# --- what it means ----------------------------------------------------------------------------------------------------


def test_text_usage_and_facts():
    fold = stream("gemini_text_stream.txt")
    assert (only(fold).message["content"], only(fold).finish_reason) == ("Grüß dich 👋", "stop")
    assert fold.usage == Usage(9, 5, 14, {"cached_tokens": 4})
    assert fold.facts == {"model_version": "gemini-3.8-flash", "response_id": "Kx1Qaa7sB5-Yz"}
    assert only(fold).message["extra_content"]["google"]["thought_signature"]


def test_thoughts_are_reasoning_and_count_as_completion():
    fold = stream("gemini_thinking_stream.txt")
    message = only(fold).message
    assert (
        message["reasoning_content"] == "**Compare**\n\nTenths first: 9.8 has more.\n"
        and message["content"] == "9.8 is larger."
    )
    assert only(fold).finish_reason == "length"
    assert fold.usage == Usage(21, 36, 57, None, {"reasoning_tokens": 30})


def test_parallel_calls_without_ids():
    choice = only(stream("gemini_tools_stream.txt"))
    calls = choice.message["tool_calls"]
    assert choice.finish_reason == "tool_calls" and choice.message["content"] == "Let me look.\n"
    assert [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls] == [
        ("get_weather", {"city": "Zürich", "days": 3}),
        ("get_weather", {"city": "Paris"}),
        ("get_time", {}),
    ]
    assert [("extra_content" in call) for call in calls] == [True, False, False]
    assert calls == only(stream("gemini_tools_stream.txt")).message["tool_calls"], (
        "the ids are the same for the same bytes"
    )
    other = (DATA / "gemini_tools_stream.txt").read_bytes().replace(b"Tools-1", b"Tools-9")
    assert not {c["id"] for c in calls} & {
        c["id"] for c in only(folded(read([other])[0])).message["tool_calls"]
    }


def test_ids_that_are_given_are_kept():
    fold = plain("gemini_tools.json")
    message = only(fold).message
    assert [call["id"] for call in message["tool_calls"]] == ["a1b2c3d4", "e5f6a7b8"] and message[
        "content"
    ] is None
    assert json.loads(message["tool_calls"][1]["function"]["arguments"]) == {
        "tz": "CET",
        "at": 12345678901234,
    }
    assert (
        message["reasoning_content"] == "The user wants two things."
        and only(fold).finish_reason == "tool_calls"
    )
    assert fold.usage == Usage(80, 81, 161, None, {"reasoning_tokens": 50})


def test_calls_without_any_id_still_get_different_ones():
    calls = only(
        folded(
            GeminiWire().parse_response(
                answer({"functionCall": {"name": "f"}}, {"functionCall": {"name": "f"}})
            )
        )
    ).message
    assert len({call["id"] for call in calls["tool_calls"]} - {None, ""}) == 2
    same = [{"functionCall": {"name": "f", "id": "x"}}, {"functionCall": {"name": "g", "id": "x"}}]
    calls = only(folded(GeminiWire().parse_response(answer(*same)))).message
    assert len({call["id"] for call in calls["tool_calls"]}) == 2


def test_what_belongs_to_the_end_is_told_once():
    part = {"text": "a", "thoughtSignature": "SIGA"}
    events = [answer(part), answer(part), answer(finish="SAFETY"), answer(finish="SAFETY")]
    reader = GeminiWire().stream_reader()
    message = only(folded([chunk for event in events for chunk in reader.feed(event)])).message
    assert message["content"] == "aa" and message["refusal"] == "The answer was stopped: SAFETY."
    assert message["extra_content"]["google"]["thought_signature"] == "SIGA"


def test_several_candidates_with_probabilities():
    fold = plain("gemini_plain.json")
    assert [(c.index, c.message["content"], c.finish_reason) for c in fold.choices()] == [
        (0, "Ja!", "stop"),
        (1, "Nein.", "length"),
    ]
    logprobs = fold.choices()[0].logprobs
    assert logprobs
    first, second = logprobs["content"]
    assert (first["token"], first["logprob"], first["bytes"]) == ("Ja", -0.5, [74, 97])
    assert [top["token"] for top in first["top_logprobs"]] == ["Ja", "Jé"] and first[
        "top_logprobs"
    ][1]["bytes"][1:] == [195, 169]
    assert (second["token"], second["logprob"]) == ("!", 0.0)
    assert fold.choices()[1].logprobs is None and fold.usage == Usage(7, 5, 12)


def test_its_own_tools_and_pictures():
    fold = plain("gemini_search.json")
    message = only(fold).message
    assert (
        "print(17 * 3)" in message["reasoning_content"] and "51\n" in message["reasoning_content"]
    )
    assert message["content"] == "It is 51." and "tool_calls" not in message
    assert message["images"] == [
        {"index": 0, "type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}
    ]
    assert fold.facts["grounding_metadata"]["groundingChunks"][0]["web"]["title"] == "51"
    assert fold.usage == Usage(45, 9, 54)


def test_a_filtered_answer_keeps_what_was_said():
    choice = only(stream("gemini_safety_stream.txt"))
    assert (choice.message["content"], choice.finish_reason) == ("One does ", "content_filter")
    assert "SAFETY" in choice.message["refusal"]


def test_a_blocked_prompt_is_a_filtered_answer():
    fold = plain("gemini_blocked.json")
    assert (
        only(fold).message["content"] is None
        and "PROHIBITED_CONTENT" in only(fold).message["refusal"]
    )
    assert only(fold).finish_reason == "content_filter" and fold.usage == Usage(8, 0, 8)


FILTERS = {
    "SAFETY",
    "RECITATION",
    "LANGUAGE",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "ESCALATION",
    "MODEL_ARMOR",
} | {
    "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION",
}
BROKEN = {
    "MALFORMED_FUNCTION_CALL",
    "UNEXPECTED_TOOL_CALL",
    "TOO_MANY_TOOL_CALLS",
    "MALFORMED_RESPONSE",
}


@pytest.mark.parametrize(
    "reason", [reason.value for reason in types.FinishReason] + ["OF_TOMORROW"]
)
def test_every_end_that_google_knows(reason):
    ask = lambda *parts: GeminiWire().parse_response(answer(*parts, finish=reason))  # noqa: E731
    if reason in BROKEN:
        with pytest.raises(InvalidUpstreamResponse):
            ask({"text": "x"})
    elif reason in ("MISSING_THOUGHT_SIGNATURE", "PUP_LIMITED_DISABLED"):
        with pytest.raises(UpstreamHTTPError):
            ask({"text": "x"})
    elif reason in FILTERS:
        assert only(folded(ask())).finish_reason == "content_filter"
    elif reason in ("MAX_TOKENS", "CONTINUATION"):
        assert only(folded(ask({"text": "x"}))).finish_reason == "length"
    elif reason == "STOP":
        assert only(folded(ask())).finish_reason == "stop"
    else:  # a plain end, where anything was said
        assert only(folded(ask({"text": "x"}))).finish_reason == "stop"
        with pytest.raises(InvalidUpstreamResponse):
            ask()


USAGE = [
    ({"promptTokenCount": 5, "candidatesTokenCount": 3, "totalTokenCount": 8}, Usage(5, 3, 8)),
    ({"promptTokenCount": 5, "candidatesTokenCount": 3, "thoughtsTokenCount": 2, "totalTokenCount": 10},
     Usage(5, 5, 10, None, {"reasoning_tokens": 2})),
    ({"promptTokenCount": 5, "candidatesTokenCount": 3, "thoughtsTokenCount": 2, "totalTokenCount": 8},
     Usage(5, 3, 8, None, {"reasoning_tokens": 2})),
    ({"promptTokenCount": 5}, Usage(5, 0, 5)),
    ({"promptTokenCount": 5, "toolUsePromptTokenCount": 7, "candidatesTokenCount": 1}, Usage(12, 1, 13)),
    (
        {"promptTokenCount": 5, "thoughtsTokenCount": 2},
        Usage(5, 2, 7, None, {"reasoning_tokens": 2}),
    ),
    (
        {"promptTokenCount": 5, "candidatesTokenCount": 3, "thoughtsTokenCount": 2},
        Usage(5, 5, 10, None, {"reasoning_tokens": 2}),
    ),
    ({"promptTokenCount": "5", "candidatesTokenCount": 3, "totalTokenCount": 8}, Usage(5, 3, 8)),
    ({}, None), (None, None), (5, None), ({"promptTokenCount": "5"}, None), ({"promptTokenCount": -5}, None),
    ({"promptTokenCount": 5, "candidatesTokenCount": -1}, Usage(5, 0, 5)),
    ({"promptTokenCount": 10**18}, None),
]  # fmt: skip


@pytest.mark.parametrize("raw, meant", USAGE)
def test_usage_is_read_field_by_field(raw, meant):
    fold = folded(GeminiWire().parse_response(answer({"text": "x"}, usageMetadata=raw)))
    assert fold.usage == meant and only(fold).message["content"] == "x"


def test_signatures_come_back_with_the_next_turn():
    message = as_message(only(plain("gemini_tools.json")).message)
    chat = Chat("m", [Message("user", "hi"), message])
    [_, turn] = json.loads(GeminiWire().build_request(chat, "gemini-3.8-flash"))["contents"]
    sent = json.loads((DATA / "gemini_tools.json").read_bytes())["candidates"][0]["content"]
    assert turn == {
        "role": "model",
        "parts": [part for part in sent["parts"] if "functionCall" in part],
    }
    message = as_message(only(stream("gemini_text_stream.txt")).message)
    chat = Chat("m", [Message("user", "hi"), message])
    [_, turn] = json.loads(GeminiWire().build_request(chat, "gemini-3.8-flash"))["contents"]
    [part] = turn["parts"]
    assert (
        part["text"] == "Grüß dich 👋"
        and part["thoughtSignature"].encode() in (DATA / "gemini_text_stream.txt").read_bytes()
    )


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_an_error_inside_a_stream_has_its_own_status():
    data = (DATA / "gemini_error_stream.txt").read_bytes()
    with pytest.raises(UpstreamHTTPError) as caught:
        read([data])
    assert (caught.value.status, caught.value.retries) == (503, None)
    chunks, complete, _ = read([data.partition(b'data: {"error"')[0]])
    assert not complete and "".join(chunk.text for chunk in chunks) == "Hel"


def error(code, message, status, *details):
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


INFO = {
    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
    "reason": "API_KEY_INVALID",
    "domain": "googleapis.com",
}
RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "38.25s"}
KEY = "AIza" + "SyD-0123456789_abcdefghijklmnopqrs"
ERRORS = [
    (400, error(400, "API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT", INFO), 401, None, None, None),
    (400, error(400, "API key expired. Please renew the API key.", "INVALID_ARGUMENT"), 401, None, None, None),
    (400, error(400, "User location is not supported for the API use.", "FAILED_PRECONDITION"), 401, None, None, None),
    (403, error(403, f"Permission denied: Consumer 'api_key:{KEY}' has been suspended.", "PERMISSION_DENIED"),
     403, None, None, None),
    (429, error(429, "You exceeded your current quota.\n* Quota exceeded\nPlease retry in 38.25s.", "RESOURCE_EXHAUSTED", RETRY),
     429, None, None, 38.25),
    (429, error(429, "Resource has been exhausted (e.g. check quota).", "RESOURCE_EXHAUSTED"), 429, None, None, None),
    (400, error(400, "The input token count (1200293) exceeds the maximum number of tokens allowed (1048576).", ""),
     400, "messages", "context_length_exceeded", None),
    (404, error(404, "models/gemini-9 is not found for API version v1beta", "NOT_FOUND"), 404, "model", "model_not_found", None),
    (404, error(404, "Requested entity was not found.", "NOT_FOUND"), 404, None, None, None),
    (400, error(400, "Multiple candidates is not enabled for this model", "INVALID_ARGUMENT"), 400, "n", None, None),
    (400, error(400, "Logprobs is not enabled for models/gemini-2.5-pro", "INVALID_ARGUMENT"), 400, "logprobs", None, None),
    (400, error(400, "Function calling with a response mime type: 'application/json' is unsupported", "INVALID_ARGUMENT"),
     400, "response_format", None, None),
    (400, error(400, "Function call is missing a thought_signature in functionCall parts.", "INVALID_ARGUMENT"),
     400, "messages", None, None),
    (400, error(400, "Thinking level is not supported for this model.", "INVALID_ARGUMENT"), 400, "reasoning_effort", None, None),
    (503, [error(503, "The model is overloaded. Please try again later.", "UNAVAILABLE")], 503, None, None, None),
    (504, error(504, "Deadline expired before operation could complete.", "DEADLINE_EXCEEDED"), 504, None, None, None),
]  # fmt: skip


@pytest.mark.parametrize("status, body, meant, param, code, wait", ERRORS)
def test_errors_of_google(status, body, meant, param, code, wait):
    refused = GeminiWire().parse_error(status, json.dumps(body).encode())
    assert (refused.status, refused.param, refused.code, refused.retry_after) == (
        meant,
        param,
        code,
        wait,
    )
    assert refused.message and refused.message.isprintable() and KEY not in refused.message


def test_an_overflow_is_told_in_the_words_that_clients_look_for():
    refused = GeminiWire().parse_error(400, json.dumps(ERRORS[6][1]).encode())
    assert (
        refused.message.startswith("This model's maximum context length is 1048576 tokens. ")
        and "1200293" in refused.message
    )


def test_numbers_of_projects_are_nobodys_business():
    text = "Quota exceeded for consumer 'project_number:123456789' in projects/my-secret/locations"
    message = (
        GeminiWire()
        .parse_error(429, json.dumps(error(429, text, "RESOURCE_EXHAUSTED")).encode())
        .message
    )
    assert "123456789" not in message and "my-secret" not in message and "Quota exceeded" in message


DELAYS = ["", "5", "-5s", "1e9s", "9" * 400 + "s", "NaNs", 5, None, {}, "٣s"]


@pytest.mark.parametrize("delay", DELAYS)
def test_a_wait_that_makes_no_sense_is_none(delay):
    body = error(429, "m", "RESOURCE_EXHAUSTED", {"retryDelay": delay}, {}, 5)
    waited = GeminiWire().parse_error(429, json.dumps(body).encode()).retry_after
    assert waited is None or 0 <= waited < 1e9


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"\xff", b"[]", b"[[]]", b"5", b'"x"', b'{"error": []}', b"[" * 2000]
)
def test_errors_of_no_shape(body):
    assert GeminiWire().parse_error(503, body).message == "The upstream answered with status 503."


NONSENSE = [b"{}", b"[]", b"", b"\xff", b"5", b"null", b'{"candidates": []}', b'{"candidates": [5]}', b'{"candidates": [{}]}',
            b'{"candidates": {}}', answer({"text": 5}), answer("x"), answer({"functionCall": {}}),
            answer({"functionCall": {"name": ""}}), answer({"functionCall": []}),
            answer({"functionCall": {"name": "f", "args": "{}"}}), answer({"inlineData": 7}), answer(finish=""), answer(finish=7),
            answer({"text": "x"})[:-3], b'{"candidates":[{"index":-1,"finishReason":"STOP"}]}',
            b'{"candidates":[{"index":99999,"finishReason":"STOP"}]}', b'{"promptFeedback": {}}', b'{"x":' * 2000]  # fmt: skip


@pytest.mark.parametrize("body", NONSENSE, ids=range(len(NONSENSE)))
def test_answers_that_are_none(body):
    with pytest.raises(InvalidUpstreamResponse):
        GeminiWire().parse_response(body)


LEAF = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
ODD = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)
REASON = st.sampled_from(
    ["STOP", "STOP", *[reason.value for reason in types.FinishReason], "OF_TOMORROW"]
)


def events(odd):
    """Events whose fields may be anything that Gemini might send, or `odd`."""
    text, count = odd | st.text(max_size=4), odd | st.integers(-1, 99)
    call = st.fixed_dictionaries(
        {"name": text},
        optional={"args": odd | st.dictionaries(st.text(max_size=3), ODD), "id": text},
    )
    blob = st.fixed_dictionaries(
        {},
        optional={
            "mimeType": text | st.just("image/png"),
            "data": text,
            "code": text,
            "output": text,
        },
    )
    kinds = {
        "text": text,
        "thought": odd | st.booleans(),
        "thoughtSignature": text,
        "functionCall": odd | call,
    }
    kinds |= dict.fromkeys(("inlineData", "executableCode", "codeExecutionResult"), odd | blob)
    token = st.fixed_dictionaries(
        {}, optional={"token": text, "logProbability": odd | st.floats(-9, 0)}
    )
    tokens = odd | st.lists(token, max_size=2)
    tops = odd | st.lists(st.fixed_dictionaries({"candidates": tokens}), max_size=3)
    candidate = st.fixed_dictionaries(
        {"index": odd | st.integers(0, 3)},
        optional={
            "content": odd
            | st.fixed_dictionaries(
                {"parts": st.lists(odd | st.fixed_dictionaries({}, optional=kinds), max_size=3)}
            ),
            "finishReason": odd | REASON,
            "finishMessage": text,
            "logprobsResult": ODD
            | st.fixed_dictionaries({"chosenCandidates": tokens, "topCandidates": tops}),
            "groundingMetadata": ODD,
        },
    )
    usage = st.fixed_dictionaries(
        {},
        optional={"promptTokenCount": count, "thoughtsTokenCount": count, "totalTokenCount": count},
    )
    fields = {
        "candidates": odd | st.lists(candidate, max_size=3),
        "usageMetadata": ODD | usage,
        "promptFeedback": odd | st.fixed_dictionaries({"blockReason": text}),
        "responseId": text,
        "modelVersion": text,
    }
    return st.lists(st.fixed_dictionaries({}, optional=fields), max_size=4)


ERROR = st.fixed_dictionaries(
    {},
    optional={"message": ODD, "code": ODD | st.integers(399, 601), "details": ODD, "status": ODD},
)
HOSTILE = (
    events(st.nothing())
    | events(ODD)
    | st.lists(ODD | st.fixed_dictionaries({"error": ERROR | ODD}), max_size=2)
)


@given(HOSTILE, st.booleans())
def test_hostile_streams_break_in_the_known_ways_only(hostile, cut):
    data = b"".join(b"data: " + json.dumps(event).encode() + b"\r\n\r\n" for event in hostile)
    blocks = [data[i : i + 7] for i in range(0, len(data), 7)] if cut else [data]
    try:
        chunks, _, _ = read(blocks)
    except (InvalidUpstreamResponse, UpstreamHTTPError) as broken:
        assert isinstance(broken.message, str) and broken.message.isprintable()
        return
    json.dumps([choice.message for choice in folded(chunks).choices()])


@given(st.binary(max_size=60), st.integers(0, 2000))
def test_bytes_in_the_middle_of_a_stream_break_it_in_the_known_ways_only(noise, at):
    data = (DATA / "gemini_tools_stream.txt").read_bytes()
    try:
        chunks, _, _ = read([data[:at] + noise + data[at:]])
    except (InvalidUpstreamResponse, UpstreamHTTPError):
        return
    folded(chunks)


@given(st.integers(400, 599), ODD | st.fixed_dictionaries({"error": ODD | ERROR}))
def test_hostile_errors_are_errors(status, body):
    refused = GeminiWire().parse_error(status, json.dumps(body).encode())
    assert 400 <= refused.status < 600 and refused.message.isprintable()
