"""Vendors' reports are read field by field, from every place that is known; nothing is made up."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chattable.adapters.openai.wire import OpenAIWire
from chattable.adapters.vendors import usage as table
from chattable.adapters.vendors.usage import MAX_TOKENS, read_usage
from chattable.agents.chat import Usage


def report(prompt: Any = 10, said: Any = 5, total: Any = None, **fields: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": total, **fields}


def cached(tokens: int) -> dict[str, int]:
    return {"cached_tokens": tokens}


REASONED = {"completion_tokens_details": {"reasoning_tokens": 100}}
APART = Usage(10, 105, 115, None, {"reasoning_tokens": 100})
SHAPES: dict[str, tuple[Any, Usage | None]] = {
    "openai": (report(10, 5, 15), Usage(10, 5, 15)),
    "openai with details": (
        report(
            prompt_tokens_details={"cached_tokens": 7, "audio_tokens": 0, "cache_write_tokens": 3},
            completion_tokens_details={"reasoning_tokens": 2, "audio_tokens": None},
        ),
        Usage(
            10,
            5,
            15,
            {"cached_tokens": 7, "audio_tokens": 0, "cache_write_tokens": 3},
            {"reasoning_tokens": 2},
        ),
    ),
    "reasoning in the total alone: xAI, Google": (report(10, 5, 115, **REASONED), APART),
    "reasoning beside the output, no total": (report(10, 5, None, **REASONED), APART),
    "a total in place of the output": (report(10, None, 15), Usage(10, 5, 15)),
    "a total in place of the prompt": (report(None, 5, 15), Usage(10, 5, 15)),
    "a total alone": (report(None, None, 15), Usage(0, 0, 15)),
    "a total that counts less": (report(10, 5, 3), Usage(10, 5, 15)),
    "floats": (report(10.0, 5.0, 15.0), Usage(10, 5, 15)),
    "half a token": (report(10.5, 5), Usage(0, 5, 5)),
    "strings": (report("10", 5), Usage(0, 5, 5)),
    "a boolean": (report(True, 5), Usage(0, 5, 5)),
    "negative": (report(10, -5), Usage(10, 0, 10)),
    "absurd": (report(10, 2**53), Usage(10, 0, 10)),
    "absurd in all": (report(2**53 - 1, 2**53 - 1), None),
    "lists for details": (
        report(prompt_tokens_details=[], completion_tokens_details=[]),
        Usage(10, 5, 15),
    ),
    "a string in details": (
        report(prompt_tokens_details={"cached_tokens": "7"}),
        Usage(10, 5, 15),
    ),
    "zeros": (report(0, 0, 0), Usage(0, 0, 0)),
    "deepseek": (report(prompt_cache_hit_tokens=7), Usage(10, 5, 15, cached(7))),
    "moonshot": (report(cached_tokens=7), Usage(10, 5, 15, cached(7))),
    "moonshot, and 0 in the usual place": (
        report(cached_tokens=7, prompt_tokens_details=cached(0)),
        Usage(10, 5, 15, cached(7)),
    ),
    "openai's other names": (
        {
            "input_tokens": 10,
            "output_tokens": 5,
            "input_tokens_details": cached(7),
            "output_tokens_details": {"reasoning_tokens": 2},
        },
        Usage(10, 5, 15, cached(7), {"reasoning_tokens": 2}),
    ),
    "litellm, of anthropic's": (
        report(
            40,
            cache_read_input_tokens=7,
            cache_creation_input_tokens=20,
            cache_creation={"ephemeral_1h_input_tokens": 15},
        ),
        Usage(40, 5, 45, cached(7) | {"cache_write_tokens": 20, "cache_write_1h_tokens": 15}),
    ),
    "nothing": ({}, None),
    "null": (None, None),
    "a list": ([], None),
    "a number": (5, None),
    "details alone": ({"prompt_tokens_details": {"audio_tokens": 0}}, None),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_usage(shape: str) -> None:
    raw, usage = SHAPES[shape]
    assert read_usage(raw) == usage


LLAMA = {"cache_n": 35, "prompt_n": 1, "predicted_n": 11}
ELSEWHERE: dict[str, tuple[dict[str, Any], Usage | None]] = {
    "groq": ({"x_groq": {"id": "r", "usage": report(10, 5, 15)}}, Usage(10, 5, 15)),
    "groq, before the end": ({"x_groq": {"id": "r"}}, None),
    "llama.cpp": ({"timings": LLAMA}, Usage(36, 11, 47, cached(35))),
    "llama.cpp with both": (
        {"timings": LLAMA, "usage": report(36, 12, 48)},
        Usage(36, 12, 48, cached(35)),
    ),
    "null": ({"usage": None}, None),
}
STOP = {"index": 0, "delta": {}, "finish_reason": "stop"}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_usage_in_another_known_place(where: str) -> None:
    fields, usage = ELSEWHERE[where]
    message = {"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}
    whole = OpenAIWire().parse_response(json.dumps({"choices": [message]} | fields).encode())
    stream = OpenAIWire().stream_reader().feed(json.dumps({"choices": [STOP]} | fields).encode())
    for chunks in (whole, stream):
        found = [chunk.usage for chunk in chunks if chunk.usage is not None]
        assert found == ([usage] if usage else [])


def test_usage_in_a_choice_as_moonshot_streams_it() -> None:
    choice = STOP | {"usage": report(cached_tokens=7)}
    chunks = OpenAIWire().stream_reader().feed(json.dumps({"choices": [choice]}).encode())
    assert [chunk.usage for chunk in chunks] == [None, Usage(10, 5, 15, cached(7))]


def say(index: int, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": "x"}, **fields}]}


END = {"finish_reason": "stop"}


def used(**fields: Any) -> dict[str, Any]:
    return {"choices": [], "usage": fields}


def test_a_first_report_is_not_the_end_while_a_choice_is_open() -> None:
    """llama.cpp with n = 2 reports for each choice, the first before the other's last word."""
    reader, seen = OpenAIWire().stream_reader(2), []
    half = used(prompt_tokens=9, completion_tokens=8)
    for raw in (say(0, **END), half, say(1), say(1, **END), half):
        reader.on_event(raw)
        seen.append((reader.complete, reader.ended))
    assert seen == [(True, False), (True, False), (False, False), (True, False), (True, True)]


def test_a_choice_that_begins_after_the_report_opens_the_answer_again() -> None:
    reader = OpenAIWire().stream_reader()
    reader.on_event(say(0, **END))
    reader.on_event({"choices": [], "usage": report()})
    assert reader.complete and reader.ended
    reader.on_event(say(1))
    assert not reader.complete and not reader.ended


def test_of_several_reports_each_figure_as_it_was_last_said() -> None:
    reader = OpenAIWire().stream_reader()
    said = [
        used(prompt_tokens=9, completion_tokens=1, prompt_tokens_details=cached(4)),
        used(prompt_tokens=None, completion_tokens=2, total_tokens="x", prompt_tokens_details=[]),
        {"choices": [], "usage": None},
        used(completion_tokens=3),
    ]
    usages = [chunk.usage for raw in said for chunk in reader.on_event(raw)]
    assert usages == [Usage(9, out, 9 + out, cached(4)) for out in (1, 2, 3)]


NUMBERS = st.booleans() | st.integers(-(2**70), 2**70) | st.floats()
ODD: st.SearchStrategy[Any] = st.none() | NUMBERS | st.text(max_size=2) | st.just([]) | st.just({})
TABLES = [table.COMPATIBLE, table.ANTHROPIC, table.BEDROCK, table.GEMINI, table.OLLAMA]


@given(st.data())
def test_any_report_is_read_and_says_nothing_impossible(data: st.DataObject) -> None:
    places = data.draw(st.sampled_from(TABLES))
    fields = sorted({place.field for place in places})
    below = st.dictionaries(st.sampled_from(sorted({place.below for place in places})), ODD)
    raw = data.draw(st.dictionaries(st.sampled_from(fields), ODD | below) | ODD)
    found = read_usage(raw, {}, places)
    if found is not None:
        parts = (found.prompt_tokens, found.completion_tokens)
        assert all(type(figure) is int and figure >= 0 for figure in parts)
        assert found.total_tokens < MAX_TOKENS
        assert found.total_tokens == sum(parts) or parts == (0, 0)
        json.dumps([found.prompt_tokens_details, found.completion_tokens_details])
