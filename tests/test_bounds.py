"""What a body may cost to parse: what is looked at before it is what a parser would make of it."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from chattable.proxy.parsing.json_bounds import Bounds, TooComplex

TEXTS = [
    "",
    "a",
    '"',
    "\\",
    '\\"',
    "\\\\",
    "[[[{{{",
    "]]}},,::",
    '["a": {',
    "\\u005b",
    "é😀\n",
    "\x00",
]
MARKS = ['"', "\\", "[", "]", "{", "}", ",", ":", "a", '""', '\\"', "0"]
NARROW = Bounds(depth=4, values=12, parts=8)
values = st.recursive(
    st.none() | st.integers(0, 9) | st.sampled_from(TEXTS) | st.text(max_size=3),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(TEXTS), inner, max_size=4),
    ),
    max_leaves=30,
)


def inside(value: Any) -> list[Any] | None:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else None


def depth(value: Any) -> int:
    inner = inside(value)
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


def measure(value: Any) -> tuple[int, int]:
    """Commas and brackets; arrays, objects and keys."""
    inner = inside(value)
    if inner is None:
        return 0, 0
    below = [measure(one) for one in inner]
    keys = len(inner) if isinstance(value, dict) else 0
    commas = max(0, len(inner) - 1)
    return 1 + commas + sum(one for one, _ in below), 1 + keys + sum(one for _, one in below)


def refused(body: bytes, bounds: Bounds = NARROW) -> bool:
    try:
        bounds.check(body)
    except TooComplex:
        return True
    return False


@given(values, st.booleans())
def test_exactly_what_is_too_deep_or_too_much_is_refused(value: Any, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    items, parts = measure(value)
    too_much = items > NARROW.values or parts > NARROW.parts
    assert refused(body) == (too_much or depth(value) > 4)
    assert refused(body, replace(NARROW, depth=None)) == too_much


def parsed_before_the_first_mistake(body: bytes) -> int:
    """How many arrays and objects a parser has made when it stops."""
    made, text, escaped = 0, False, False
    for mark in body.decode():
        if text:
            text, escaped = escaped or mark != '"', mark == "\\" and not escaped
        elif mark == "\\":
            break
        elif mark == '"':
            text = True
        else:
            made += mark in "[{"
    return made


@given(st.lists(st.sampled_from(MARKS), max_size=60).map("".join))
@example('"' + '\\"' * 9 + "[" * 9)
@example("[" * 9 + "\\" + '"' + "]" * 9)
def test_no_nonsense_hides_what_a_parser_would_make_of_it(text: str) -> None:
    body = text.encode()
    if not refused(body):
        try:
            msgspec.json.decode(body)
        except msgspec.DecodeError:
            assert parsed_before_the_first_mistake(body) <= NARROW.values
        else:
            assert depth(json.loads(body)) <= 4


def test_a_great_many_texts_are_not_even_listed() -> None:
    with pytest.raises(TooComplex, match="more than 20 texts"):
        NARROW.check(b"[" * 9 + b'",",' * 21)
