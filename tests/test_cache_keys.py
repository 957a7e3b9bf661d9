"""When two requests are the same to the cache: over request bodies as they are parsed, whatever is in them."""

import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chattable.agents.chat import Chat, Message
from chattable.agents.chattable import TurnUser
from chattable.agents.echo import Echo
from chattable.agents.errors import InvalidRequest
from chattable.agents.parsing import parse
from chattable.proxy.cache.controls import MAX_TTL_S, PLAIN, Controls, of_header, pop_controls
from chattable.proxy.cache.keys import digest, key_of
from chattable.proxy.catalog.catalog import Entry
from chattable.proxy.identity.auth import Caller, Principal


class Leaf(Echo):
    leaf = True


ALICE, BOB = (
    Principal(TurnUser(f"user_{name}", name), team="team_red") for name in ("alice", "bob")
)
ENTRY = Entry("m", Leaf(), "stub", 1, source=("stub", "openai", "", "m"), cache_ttl=60)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system"]), "content": texts},
    optional={"name": texts, "x-own": values, "weight": scalars},
)
NESTED = ("tools", "functions")
names = st.one_of(
    texts, st.sampled_from(["temperature", "seed", "top_p", "metadata", "logit_bias"])
).filter(
    lambda name: name not in ("model", "messages", "stream", "stream_options", "cache", *NESTED)
)
bodies = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": st.lists(messages, min_size=1, max_size=3)},
    optional={
        "temperature": st.floats(0, 2),
        "n": st.integers(1, 4),
        "tools": st.lists(
            st.fixed_dictionaries(
                {"type": st.just("function"), "function": st.dictionaries(texts, values)}
            ),
            max_size=2,
        ),
        "vendor_thing": values,
        "metadata": st.dictionaries(texts, texts, max_size=3),
    },
)


def take(chat: Chat, before: Controls | None = None) -> tuple[Chat, Controls]:
    """The chat without the field, and what its caller wants of the cache then."""
    chat, caller = pop_controls(chat, Caller(ALICE, "req_1", 0.0, cache=before))
    return chat, caller.cache or PLAIN


def key(
    body: dict[str, Any], entry: Entry = ENTRY, who: Principal = ALICE, scope: Any = "user"
) -> bytes:
    found = key_of(take(parse(json.loads(json.dumps(body))))[0], entry, who, scope)
    assert found is not None and len(found) == 32
    return found


def shuffled(value: Any, order: Any) -> Any:
    """The same JSON with the keys of every object in another order."""
    if isinstance(value, dict):
        names = order.draw(st.permutations(list(value)))
        return {name: shuffled(value[name], order) for name in names}
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in a JSON value."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *[place for name, item in inner for place in places(item, (*path, name))]]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


@settings(max_examples=150, deadline=None)
@given(bodies, st.data())
def test_the_order_of_keys_is_no_difference(body: dict[str, Any], data: Any) -> None:
    assert key(shuffled(body, data)) == key(body)


@settings(max_examples=100, deadline=None)
@given(
    bodies,
    st.booleans(),
    st.none() | st.fixed_dictionaries({}, optional={"include_usage": st.booleans()}),
)
def test_how_it_is_sent_is_no_difference(body: dict[str, Any], stream: bool, options: Any) -> None:
    assert key(body | {"stream": stream, "stream_options": options}) == key(body)
    assert key(body | {"cache": {"ttl": 5}}) == key(body)


@settings(max_examples=300, deadline=None)
@given(bodies, st.data())
def test_any_other_value_anywhere_is_another_key(body: dict[str, Any], data: Any) -> None:
    path = data.draw(st.sampled_from(places(body)[1:]))
    assume(path not in (("model",), ("messages",)))
    new = changed(body, path, data.draw(values))
    try:
        seen = parse(json.loads(json.dumps(new)))
    except InvalidRequest:
        assume(False)  # it is refused, and never gets here
    before = parse(body)
    # what the upstream would be sent: 1, 1.0 and true are equal to Python and not to JSON
    same = json.dumps(
        [m.to_json() if m.extra else _plain(m) for m in before.messages], sort_keys=True
    ) == json.dumps(
        [m.to_json() if m.extra else _plain(m) for m in seen.messages], sort_keys=True
    ) and json.dumps(before.params, sort_keys=True) == json.dumps(seen.params, sort_keys=True)
    assert (key(new) == key(body)) == same


def _plain(message: Message) -> dict[str, Any]:
    return {
        name: getattr(message, name)
        for name in ("role", "content", "name", "tool_calls", "tool_call_id", "refusal")
    }


@settings(max_examples=100, deadline=None)
@given(bodies, names, values)
def test_a_field_more_is_another_key(body: dict[str, Any], name: str, value: Any) -> None:
    assume(name not in body)
    try:
        parse(body | {name: value})
    except InvalidRequest:
        assume(False)
    assert key(body | {name: value}) != key(body)


BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_numbers_that_python_takes_for_equal() -> None:
    bodies = [
        BODY | {"vendor_thing": {"at": [value]}}
        for value in (1, 1.0, True, "1", None, [1], 0, -0.0, 0.0, False, "")
    ]
    assert len({key(body) for body in bodies}) == len(bodies)


def test_a_conversation_is_its_messages_in_their_order() -> None:
    one, two = {"role": "user", "content": "a"}, {"role": "user", "content": "b"}
    splits = [
        [one, two],
        [two, one],
        [one],
        [{"role": "user", "content": "ab"}],
        [one | {"name": "x"}, two],
        [one, one, two],
    ]
    assert len({key({"model": "m", "messages": messages}) for messages in splits}) == len(splits)


def test_what_really_answers_counts_and_not_its_alias() -> None:
    def entry(*source: str, name: str = "m") -> Entry:
        return Entry(name, Leaf(), "stub", 1, source=source, cache_ttl=60)

    assert key(BODY, entry("stub", "openai", "", "m", name="alias")) == key(
        BODY, entry("stub", "openai", "", "m")
    )
    others = [("stub", "openai", "", "m2"), ("stub2", "openai", "", "m"), ("stub", "openai", "http://x/v1", "m"),
              ("stub", "vllm", "", "m"),
              ("stub", "openai", "", "m", ""), ("stubopenai", "", "m")]  # fmt: skip
    assert (
        len({key(BODY, entry(*source)) for source in [*others, ("stub", "openai", "", "m")]})
        == len(others) + 1
    )


def test_scopes() -> None:
    carol = Principal(TurnUser("user_carol", "carol"), team="team_blue")
    nobody = Principal(TurnUser("team_red", "odd name"))  # whose id is a team's

    def keys(scope: str, entry: Entry = ENTRY) -> list[bytes]:
        return [key(BODY, entry, who, scope) for who in (ALICE, BOB, carol, nobody)]

    assert len(set(keys("user"))) == 4
    assert len(set(keys("team"))) == 3 and keys("team")[0] == keys("team")[1]
    assert len(set(keys("shared"))) == 1
    # someone without a team is alone in both
    assert len({*keys("user"), *keys("team"), *keys("shared")}) == 4 + 2 + 1
    agent = Entry("a", Echo(), "chattable", 1, source=("agent", "a", "v1"), cache_ttl=60)
    assert len(set(keys("shared", agent))) == 4  # an agent knows who asks


@given(st.lists(st.binary(max_size=6), max_size=5), st.lists(st.binary(max_size=6), max_size=5))
def test_fields_do_not_run_into_each_other(one: list[bytes], two: list[bytes]) -> None:
    assert (digest(one) == digest(two)) == (one == two)


def test_what_is_no_json_has_no_key() -> None:
    for odd in (object(), {1, 2}.__iter__(), "\ud800", lambda: 0):
        assert (
            key_of(Chat("m", [Message("user", "hi")], False, {"x": odd}), ENTRY, ALICE, "user")
            is None
        )
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert (
        key_of(Chat("m", [Message("user", "hi")], False, {"x": deep}), ENTRY, ALICE, "user") is None
    )


@pytest.mark.parametrize(
    "ttl",
    [
        0,
        -1,
        -0.5,
        "60",
        "1h",
        True,
        False,
        [],
        {},
        MAX_TTL_S + 1,
        1e300,
        float("inf"),
        float("nan"),
    ],
)
def test_silly_times(ttl: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"cache\.ttl") as refused:
        take(Chat("m", [], False, {"cache": {"ttl": ttl}}))
    assert refused.value.param == "cache.ttl"


@pytest.mark.parametrize(
    ("said", "param"),
    [(7, "cache"), ("no", "cache"), ([], "cache"), ({"no_cache": 1}, "cache.no_cache"), ({"no_store": "yes"}, "cache.no_store"),
     ({"tll": 5}, "cache.tll")],
)  # fmt: skip
def test_silly_controls(said: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        take(Chat("m", [], False, {"cache": said}))
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ({}, PLAIN),
        (None, PLAIN),
        ({"ttl": 60}, Controls(ttl=60)),
        ({"ttl": 0.5, "no_cache": None}, Controls(ttl=0.5)),
        (
            {"ttl": MAX_TTL_S, "no_cache": True, "no_store": False},
            Controls(ttl=MAX_TTL_S, no_cache=True),
        ),
        ({"no-store": True}, Controls(no_store=True)),
    ],
)
def test_controls_of_the_body(said: Any, means: Controls) -> None:
    chat, controls = take(Chat("m", [], False, {"seed": 1, "cache": said}))
    assert (chat.params, controls) == ({"seed": 1}, means)


def test_the_body_adds_to_the_header() -> None:
    _, controls = take(
        Chat("m", [], False, {"cache": {"ttl": 9}}), of_header("no-cache, max-age=5")
    )
    assert controls == Controls(no_cache=True, max_age=5, ttl=9)


@pytest.mark.parametrize(
    ("value", "means"),
    [
        ("", PLAIN),
        ("no-cache", Controls(no_cache=True)),
        ("No-Store", Controls(no_store=True)),
        (" no-cache ,no-store", Controls(no_cache=True, no_store=True)),
        ("max-age=0", Controls(max_age=0)),
        ("max-age=60, private, x=y", Controls(max_age=60)),
        *[
            (odd, PLAIN)
            for odd in (
                "max-age=-1",
                "max-age=",
                "max-age=1e9",
                "max-age=١",
                "max-age=99999999999",
                "only-if-cached",
                ",,",
                "no",
            )
        ],
    ],
)
def test_the_header(value: str, means: Controls) -> None:
    assert of_header(value) == means
