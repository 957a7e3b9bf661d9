"""Every reply in one form: what `StreamNormalizer` promises of any stream, and what `Accumulator` makes of it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chattable.agents.chat import Chunk, Usage
from chattable.agents.fold import INCOMPLETE, Accumulator, StreamNormalizer

FINISHES = ("stop", "length", "tool_calls", "content_filter", "function_call")
text = st.text(min_size=1, max_size=6)
steps = st.one_of(
    st.tuples(st.just("content"), text),
    st.tuples(st.just("reasoning_content"), text),
    st.tuples(st.just("refusal"), text),
    st.tuples(st.just("call"), st.tuples(st.sampled_from(["f", "g"]), st.lists(text, max_size=3))),
)


@st.composite
def streams(draw):
    """A well-formed stream of some choices, their steps shuffled into each other, and what each of them says in the end."""
    queues, meant = [], []
    for index in range(draw(st.integers(1, 3))):
        said: dict[str, Any] = {}
        queue: list[Any] = []
        calls: list[Any] = []
        for kind, value in draw(st.lists(steps, max_size=5)):
            if kind == "call":
                name, pieces = value
                at, call_id = len(calls), f"call_{index}_{len(calls)}"
                calls.append(
                    {
                        "id": call_id,
                        "type": "function",
                        "function": {"name": name, "arguments": "".join(pieces)},
                    }
                )
                first = {
                    "index": at,
                    "id": call_id,
                    "type": "function",
                    "function": {"name": name, "arguments": ""},
                }
                queue.append({"tool_calls": [first]})
                queue += [
                    {"tool_calls": [{"index": at, "function": {"arguments": piece}}]}
                    for piece in pieces
                ]
            else:
                said[kind] = said.get(kind, "") + value
                queue.append({kind: value})
        finish = draw(st.sampled_from(FINISHES))
        finish = "tool_calls" if finish == "stop" and calls else finish
        queues.append([*(Chunk(index, delta) for delta in queue), Chunk(index, {}, finish)])
        meant.append((said, calls, finish))
    chunks = []
    while any(queues):
        chunks.append(draw(st.sampled_from([queue for queue in queues if queue])).pop(0))
    return chunks, meant


DIRT = [{}, {"content": ""}, {"content": None}, {"role": "assistant"}, {"role": "assistant", "content": ""}, {"tool_calls": []},
        {"content": "", "reasoning_content": None, "refusal": None}]  # fmt: skip


@st.composite
def dirty(draw, clean):
    """The same stream with everything that providers add to it and that means nothing."""
    out = []
    for chunk in clean:
        for _ in range(draw(st.integers(0, 2))):
            out.append(Chunk(chunk.index, dict(draw(st.sampled_from(DIRT)))))
        if draw(st.booleans()):
            out.append(Chunk(usage=Usage(1, 1, 2)))
        delta = {
            **chunk.delta,
            **draw(
                st.sampled_from(
                    [
                        {},
                        {"role": "assistant"},
                        {"refusal": None} if "refusal" not in chunk.delta else {},
                    ]
                )
            ),
        }
        out.append(Chunk(chunk.index, delta, chunk.finish_reason))
        if chunk.finish_reason:
            out.append(Chunk(chunk.index, {}, chunk.finish_reason))  # said twice
    return [*out, Chunk(usage=Usage(7, 3, 10))]


@st.composite
def cut(draw, clean):
    """The same stream with its texts in smaller pieces."""
    out = []
    for chunk in clean:
        [(key, value)] = chunk.delta.items() or [("", "")]
        if key == "tool_calls":
            [call] = value
            whole = call["function"]["arguments"]
            at = draw(st.integers(0, len(whole)))
            for i, piece in enumerate((whole[:at], whole[at:])):
                body = {**call["function"], "arguments": piece} if i == 0 else {"arguments": piece}
                head = call if i == 0 else {"index": call["index"]}
                out.append(Chunk(chunk.index, {"tool_calls": [{**head, "function": body}]}))
        elif key:
            at = draw(st.integers(0, len(value)))
            out += [Chunk(chunk.index, {key: value[:at]}), Chunk(chunk.index, {key: value[at:]})]
        else:
            out.append(chunk)
    return out


def normal(chunks) -> list[Chunk]:
    form = StreamNormalizer()
    return [out for chunk in chunks for out in form.feed(chunk)] + form.end()


def folded(chunks) -> Accumulator:
    fold = Accumulator()
    for chunk in chunks:
        fold.add(chunk)
    return fold


def answers(chunks):
    """The choices and the usage of a stream, as plain data."""
    fold = folded(normal(chunks))
    return [(c.index, c.message, c.finish_reason) for c in fold.choices()], fold.usage


def check_law(chunks: list[Chunk]) -> None:
    """Everything that `StreamNormalizer` promises."""
    opened: list[int] = []
    finished: set[int] = set()
    calls: dict[Any, Any] = {}
    for position, chunk in enumerate(chunks):
        if chunk.usage is not None:
            assert position == len(chunks) - 1 and not chunk.delta and chunk.finish_reason is None
            continue
        assert chunk.index not in finished
        assert ("role" in chunk.delta) == (chunk.index not in opened)
        if "role" in chunk.delta:
            assert chunk.index == len(opened) and chunk.delta["role"] == "assistant"
            opened.append(chunk.index)
        else:
            assert bool(chunk.delta) != bool(chunk.finish_reason)
            assert all(value not in ("", None, []) for value in chunk.delta.values())
        if chunk.finish_reason:
            assert chunk.delta == {} and chunk.finish_reason in FINISHES
            finished.add(chunk.index)
        for call in chunk.delta.get("tool_calls", ()):
            known = calls.setdefault(chunk.index, [])
            if call["index"] == len(known):
                assert call["id"] and call["type"] == "function" and call["function"]["name"]
                assert call["id"] not in known
                known.append(call["id"])
            else:
                assert 0 <= call["index"] < len(known)
                assert call.keys() == {"index", "function"} and call["function"].keys() == {
                    "arguments"
                }
            assert isinstance(call["function"]["arguments"], str)
    assert finished == set(opened) and opened


@given(st.data())
def test_normal_keeps_its_law_and_loses_nothing(data):
    clean, meant = data.draw(streams())
    chunks = normal(data.draw(dirty(clean)))
    check_law(chunks)
    fold = folded(chunks)
    assert fold.usage == Usage(7, 3, 10)
    for choice, (said, calls, finish) in zip(fold.choices(), meant, strict=True):
        assert choice.finish_reason == finish
        assert {
            k: choice.message.get(k) or "" for k in ("content", "reasoning_content", "refusal")
        } == {k: said.get(k, "") for k in ("content", "reasoning_content", "refusal")}
        assert choice.message.get("tool_calls", []) == calls


@given(st.data())
def test_an_answer_does_not_depend_on_how_it_is_cut(data):
    clean, _ = data.draw(streams())
    assert answers(data.draw(cut(clean))) == answers(clean)


@given(st.data())
def test_normal_of_normal_is_normal(data):
    clean, _ = data.draw(streams())
    once = normal(data.draw(dirty(clean)))
    assert normal(once) == once


@given(st.data())
def test_a_stream_may_end_anywhere(data):
    clean, _ = data.draw(streams())
    check_law(normal(clean[: data.draw(st.integers(0, len(clean)))]))


@given(st.data())
def test_folding_leaves_what_it_folds_alone(data):
    clean, _ = data.draw(streams())
    chunks = normal(clean)
    before = json.dumps([[c.index, c.delta, c.finish_reason] for c in chunks])
    assert folded(chunks).choices() == folded(chunks).choices()
    assert json.dumps([[c.index, c.delta, c.finish_reason] for c in chunks]) == before


def test_a3_what_comes_after_a_finish_is_told_and_the_last_finish_counts():
    chunks = normal([
        Chunk(0, {}, "stop"), Chunk(0, {"content": "a"}, "stop"), Chunk(0, {"content": "b"}), Chunk(0, {}, "length"),
    ])  # fmt: skip
    check_law(chunks)
    assert answers(chunks)[0] == [
        (0, {"role": "assistant", "content": "ab", "refusal": None}, "length")
    ]


@pytest.mark.parametrize("reason", ["stop", "end_turn", "STOP", "eos_token"])
def test_c9_calls_are_no_plain_end(reason):
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    for delta, finish in (({"tool_calls": [call]}, "tool_calls"), ({"content": "x"}, "stop")):
        assert [c.finish_reason for c in normal([Chunk(0, delta), Chunk(0, {}, reason)])][
            -1
        ] == finish
    assert normal([Chunk(0, {"tool_calls": [call]}, "length")])[-1].finish_reason == "length"


def test_a2_a_choice_that_never_said_why_it_ended_is_incomplete():
    form = StreamNormalizer()
    for chunk in (Chunk(0, {"content": "a"}), Chunk(1, {"content": "b"}, "stop")):
        form.feed(chunk)
    assert [c.finish_reason for c in form.end(INCOMPLETE)] == [INCOMPLETE, "stop"]
    # who passes it on keeps it
    assert normal([Chunk(0, {"content": "a"}, INCOMPLETE)])[-1].finish_reason == INCOMPLETE


def test_an_empty_stream_is_an_empty_answer():
    chunks = normal([])
    assert [(c.delta, c.finish_reason) for c in chunks] == [
        ({"role": "assistant", "content": ""}, None),
        ({}, "stop"),
    ]
    check_law(chunks)


@pytest.mark.parametrize(
    "delta",
    [
        {},
        {"role": "assistant"},
        {"role": "assistant", "content": ""},
        {"content": None},
        {"tool_calls": []},
    ],
)
def test_what_is_no_output_is_held_back(delta):
    assert StreamNormalizer().feed(Chunk(0, delta)) == []


def test_a_higher_choice_that_speaks_first_opens_the_lower_ones():
    form = StreamNormalizer()
    out = form.feed(Chunk(2, {"content": "x"}))
    assert [(c.index, c.delta) for c in out] == [
        (0, {"role": "assistant", "content": ""}),
        (1, {"role": "assistant", "content": ""}),
        (2, {"role": "assistant", "content": "x"}),
    ]
    assert [c.index for c in form.end()] == [0, 1, 2]


def test_log_probabilities_stay_with_their_tokens():
    one, two = {"content": [{"token": "a"}]}, {"content": [{"token": "b"}]}
    fold = folded(
        normal([Chunk(0, {"content": "a"}, None, one), Chunk(0, {"content": "b"}, "stop", two)])
    )
    assert fold.choices()[0].logprobs == {"content": [{"token": "a"}, {"token": "b"}]}
    assert one == {"content": [{"token": "a"}]}


def test_facts_are_those_that_came_last():
    fold = folded(
        normal(
            [
                Chunk(0, {"content": "a"}, facts={"x": 1}),
                Chunk(0, {"content": "b"}, "stop", facts={"x": 2, "y": 3}),
            ]
        )
    )
    assert fold.facts == {"x": 2, "y": 3}


def test_a_call_that_gets_no_name_leaves_no_hole() -> None:
    normal, fold = StreamNormalizer(), Accumulator()
    nameless = {"index": 0, "id": "a", "function": {"name": ""}}
    named = {"index": 1, "id": "b", "function": {"name": "f", "arguments": "{}"}}
    for chunk in [
        *normal.feed(Chunk(0, {"tool_calls": [nameless, named]})),
        *normal.feed(Chunk(0, {}, "tool_calls")),
        *normal.end(),
    ]:
        fold.add(chunk)
    (call,) = fold.message().tool_calls or []
    assert (call["id"], call["function"]) == ("b", {"name": "f", "arguments": "{}"})
