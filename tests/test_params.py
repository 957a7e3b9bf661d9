"""A conversation's params (F1): each field of any JSON is taken, or refused by its path."""

from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from chattable.agents.errors import InvalidRequest
from chattable.agents.params import SAMPLING_FIELDS, check_params, fitting
from chattable.agents.parsing import parse

ACCEPTS: dict[str, Any] = {
    "rounds": Annotated[int, Meta(ge=1, le=3)],
    "mood": Literal["calm", "gruff"],
    "tree": dict[str, list[int]],
}
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.just("\ud83d")  # half of a character
)
keys = st.text(max_size=3)
values = st.recursive(leaves, lambda v: st.lists(v) | st.dictionaries(keys, v), max_leaves=8)
known = st.sampled_from(sorted({*SAMPLING_FIELDS, *ACCEPTS, "model", "tools", "stream"}))
names = known | st.text(max_size=5)
objects = st.dictionaries(names, values, max_size=5)


@settings(max_examples=100, deadline=None)
@given(objects)
def test_f1_any_params_are_taken_or_refused_by_their_path(params: dict[str, Any]) -> None:
    before = dict(params)
    kept = fitting(params, ACCEPTS)
    check_params(kept, ACCEPTS)
    assert kept.items() <= params.items()
    assert params == before
    assert kept.keys() <= SAMPLING_FIELDS | ACCEPTS.keys()
    if kept == params:
        assert kept is params
        return
    with pytest.raises(InvalidRequest) as refused:
        check_params(params, ACCEPTS)
    assert str(refused.value.param).startswith("params.")


@settings(max_examples=200, deadline=None)
@given(names.filter(lambda name: name in SAMPLING_FIELDS), leaves | values)
def test_f1_they_are_typed_as_in_a_request(name: str, value: Any) -> None:
    """Halves of characters are the one difference: no request can hold them."""

    def refused(check: Any, given: Any) -> str | None:
        try:
            check(given)
        except InvalidRequest as error:
            return str(error.param)
        return None

    kept = refused(lambda given: check_params(given, {}), {name: value})
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError:
        assert kept is not None
        return
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], name: value}
    asked = refused(parse, body)
    assert kept == (asked and f"params.{asked}")


def test_f1_what_is_nested_too_deeply_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidRequest, match="nested too deep"):
        check_params({"response_format": deep}, ACCEPTS)
    assert fitting({"response_format": deep, "seed": 1}, ACCEPTS) == {"seed": 1}
