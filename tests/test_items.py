"""Items of a conversation and messages of a chat, there and back.

Nothing is lost, and OpenAI's own types take what comes out.
"""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.conversations import ConversationItem
from pydantic import TypeAdapter

from chattable.agents.chat import Message
from chattable.agents.errors import InvalidRequest
from chattable.proxy.conversations.items import (
    ITEM_FIELDS,
    items_of,
    keys_of,
    message_id,
    message_of,
    model_messages,
)
from chattable.proxy.parsing import surrogates
from chattable.proxy.store.sessions.chain import content_digest, next_id, paired

STRICT: TypeAdapter[Any] = TypeAdapter(ConversationItem)
ID = next_id(None, b"x")
PICTURE = "data:image/png;base64,QUJD"


def there(item: dict[str, Any]) -> Message:
    return message_of(item, "items[0]")


def back(item: dict[str, Any]) -> dict[str, Any]:
    """An item as it comes back from a conversation, without its new id."""
    [shown] = items_of(ID, there(item))
    assert message_id(keys_of(ID, [shown])[0]) == ID
    return {name: value for name, value in shown.items() if name != "id"}


def call(id: str, name: str = "f", arguments: str = "{}", **more: Any) -> dict[str, Any]:
    return {
        "id": id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
        **more,
    }


def words(text: str) -> list[dict[str, Any]]:
    return [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]


def message(role: str, *content: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": list(content)}


# --- messages as items ----------------------------------------------------------------------------


def test_an_answer_with_words_and_two_calls_is_three_items() -> None:
    stem = ID.removeprefix("msg_")
    items = items_of(
        ID,
        Message(
            "assistant",
            "On it.",
            tool_calls=[call("c1", "weather", '{"city": "Oslo"}'), call("c2")],
        ),
    )
    assert items == [
        {
            "id": ID,
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": words("On it."),
        },
        {
            "id": f"fc_{stem}.1",
            "type": "function_call",
            "call_id": "c1",
            "name": "weather",
            "arguments": '{"city": "Oslo"}',
            "status": "completed",
        },
        {
            "id": f"fc_{stem}.2",
            "type": "function_call",
            "call_id": "c2",
            "name": "f",
            "arguments": "{}",
            "status": "completed",
        },
    ]
    assert {message_id(item["id"]) for item in items} == {ID}
    assert keys_of(ID, items) == [item["id"] for item in items]


SHOWN: list[tuple[Message, list[str], str]] = [
    (Message("user", "hi"), ["message"], '"input_text", "text": "hi"'),
    (Message("system", ""), ["message"], '"role": "system"'),
    (
        Message("developer", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
        ["message"],
        '"text": "b"',
    ),
    (
        Message("user", [{"type": "image_url", "image_url": {"url": PICTURE}}]),
        ["message"],
        f'"image_url": "{PICTURE}", "detail": "auto"',
    ),
    (
        Message("user", [{"type": "file", "file": {"file_id": "f", "filename": "a.pdf"}}]),
        ["message"],
        '"filename": "a.pdf"',
    ),
    (Message("assistant", None, refusal="I will not."), ["message"], '"refusal": "I will not."'),
    (Message("assistant", None), ["message"], '"content": []'),
    (
        Message("assistant", "42", reasoning_content="hm"),
        ["reasoning", "message"],
        '"reasoning_text", "text": "hm"',
    ),
    (Message("assistant", "", tool_calls=[call("c")]), ["function_call"], '"call_id": "c"'),
    (
        Message("assistant", None, reasoning_content="hm", tool_calls=[call("c")]),
        ["reasoning", "function_call"],
        '"summary": []',
    ),
    (Message("tool", "42", tool_call_id="c"), ["function_call_output"], '"output": "42"'),
    (
        Message("tool", [{"type": "text", "text": "42"}], tool_call_id="c"),
        ["function_call_output"],
        '"input_text", "text": "42"',
    ),
    (
        Message(
            "assistant",
            tool_calls=[{"id": "c", "type": "custom", "custom": {"name": "sh", "input": "ls"}}],
        ),
        ["custom_tool_call"],
        '"input": "ls"',
    ),
]


@pytest.mark.parametrize(("stored", "kinds", "part"), SHOWN)
def test_a_stored_message_is_shown_as_openais_types_have_it(
    stored: Message, kinds: list[str], part: str
) -> None:
    items = items_of(ID, stored)
    assert [item["type"] for item in items] == kinds
    assert part in json.dumps(items)
    for item in items:
        STRICT.validate_python(item, strict=True)
    assert len({item["id"] for item in items}) == len(items)


@pytest.mark.parametrize(
    ("stored", "part"),
    [
        (
            Message("user", "hi", name="alice", extra={"vendor": [1]}),
            '"name": "alice", "vendor": [1]',
        ),
        (
            Message("user", [{"type": "text", "text": "a", "cache_control": {"type": "x"}}]),
            '"cache_control": {"type": "x"}',
        ),
        (Message("user", [{"type": "new", "x": 1}]), '{"type": "new", "x": 1}'),
        (
            Message("assistant", None, tool_calls=[call("c", extra_content={"signature": "s"})]),
            '"signature": "s"',
        ),
        (
            Message("assistant", None, tool_calls=[{"id": "c", "type": "new", "new": {"x": 1}}]),
            '"x": 1',
        ),
        (
            Message("assistant", None, tool_calls=[{"odd": 1}, {"id": "c", "function": "odd"}]),
            '"odd"',
        ),
        (
            Message("assistant", None, extra={"function_call": {"name": "f", "arguments": "{}"}}),
            '"function_call": {"name": "f"',
        ),
        (Message("item", "no item at all"), "no item at all"),
        (Message("item", []), '"role": "item"'),
        (Message("item", [{"type": "item", "item": "odd"}]), '"odd"'),
        (Message("user", "hi", extra={ITEM_FIELDS: "odd"}), '"hi"'),
        (Message("user", "hi", extra={ITEM_FIELDS: {"type": ["odd"]}}), '"odd"'),
    ],
)
def test_what_a_chat_has_besides_is_shown_too(stored: Message, part: str) -> None:
    assert part in json.dumps(items_of(ID, stored))


def test_what_was_cut_off_is_incomplete() -> None:
    stored = Message("assistant", "half", tool_calls=[call("c")])
    assert [item["status"] for item in items_of(ID, stored, incomplete=True)] == ["incomplete"] * 2


# --- items as messages ----------------------------------------------------------------------------

READ: list[tuple[dict[str, Any], Message]] = [
    ({"role": "user", "content": "hi"}, Message("user", "hi")),
    (message("user", {"type": "input_text", "text": "hi"}), Message("user", "hi")),
    (message("assistant", *words("yes")), Message("assistant", "yes")),
    (
        message("assistant", {"type": "refusal", "refusal": "no"}),
        Message("assistant", [{"type": "refusal", "refusal": "no"}]),
    ),
    (
        message(
            "user",
            {"type": "input_text", "text": "what is"},
            {"type": "input_image", "image_url": PICTURE, "detail": "low"},
        ),
        Message(
            "user",
            [
                {"type": "text", "text": "what is"},
                {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
            ],
        ),
    ),
    (
        message("user", {"type": "input_file", "file_data": "QQ==", "filename": "a.pdf"}),
        Message("user", [{"type": "file", "file": {"file_data": "QQ==", "filename": "a.pdf"}}]),
    ),
    (
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        Message("assistant", tool_calls=[call("c")]),
    ),
    (
        {"type": "function_call_output", "call_id": "c", "output": "42"},
        Message("tool", "42", tool_call_id="c"),
    ),
    (
        {"type": "custom_tool_call", "call_id": "c", "name": "sh", "input": "ls"},
        Message(
            "assistant",
            tool_calls=[{"id": "c", "type": "custom", "custom": {"name": "sh", "input": "ls"}}],
        ),
    ),
]


@pytest.mark.parametrize(("item", "wanted"), READ)
def test_an_item_that_a_chat_has_a_word_for_is_that_message_and_no_more(
    item: dict[str, Any], wanted: Message
) -> None:
    assert there({"id": "msg_theirs", "status": "completed"} | item) == wanted


UNUSUAL: list[dict[str, Any]] = [
    {"type": "message", "role": "user", "content": [], "phase": "commentary"},
    {
        "type": "message",
        "role": "assistant",
        "status": "in_progress",
        "content": [
            {
                "type": "output_text",
                "text": "x",
                "annotations": [
                    {
                        "type": "url_citation",
                        "url": "http://a.example",
                        "title": "A",
                        "start_index": 0,
                        "end_index": 1,
                    }
                ],
            }
        ],
    },
    {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_image", "file_id": "file_1", "detail": "high"}],
    },
    {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_file", "file_url": "http://a.example/a.pdf"}],
    },
    {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}}],
    },
    {
        "type": "message",
        "role": "user",
        "content": [{"type": "hologram", "x": [1, 2.5, None, True, 2**70]}],
    },
    {"type": "message", "role": "user", "content": [{"type": "text", "text": "t"}]},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "t", "odd": 1}]},
    {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "NUL \x00, halves \ud800, 👩\u200d💻"}],
    },
    {
        "type": "function_call",
        "call_id": "c",
        "name": "f",
        "arguments": "{",
        "status": "incomplete",
        "namespace": "n",
    },
    {
        "type": "function_call_output",
        "call_id": "c",
        "output": [{"type": "input_text", "text": "only"}],
        "status": "incomplete",
    },
    {
        "type": "function_call_output",
        "call_id": "c",
        "output": [{"type": "input_image", "image_url": PICTURE, "detail": "auto"}],
    },
    {"type": "custom_tool_call_output", "call_id": "c", "output": "42"},
    {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "s"}],
        "encrypted_content": "e",
    },
    {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}},
    {
        "type": "computer_call_output",
        "call_id": "c",
        "output": {"type": "computer_screenshot", "image_url": PICTURE},
    },
    {"type": "item_reference"},
    {"type": "not invented yet", "deep": [{"x": [{}]}], "text": "t", "role": "user", "content": 7},
]


@pytest.mark.parametrize("item", UNUSUAL, ids=lambda item: item["type"])
def test_what_a_chat_has_no_word_for_comes_back_as_it_was(item: dict[str, Any]) -> None:
    shown = back({"id": "their_id", **item})
    assert {name: shown[name] for name in item} == item
    assert shown.keys() - item.keys() <= {"status"}


def test_an_item_that_its_provider_knows_by_an_id_keeps_it() -> None:
    item: dict[str, Any]
    for item in (
        {"type": "reasoning", "id": "rs_theirs", "summary": []},
        {"type": "web_search_call", "id": "ws_theirs"},
    ):
        stored = there(item)
        assert items_of(ID, stored) == [item]
        assert stored == there(dict(item))  # which is still as it was
    for item in (
        {"role": "user", "content": "x", "id": "msg_theirs"},
        {"type": "x", "id": 7},
        {"type": "x", "id": ""},
    ):
        [shown] = items_of(ID, there(item))
        assert keys_of(ID, [shown]) == [shown["id"]]


def test_other_items_that_follow_the_same_message_are_other_messages() -> None:
    one, other = (
        there({"type": "reasoning", "summary": [], "encrypted_content": text}) for text in "ab"
    )
    assert content_digest(one) != content_digest(other)


Value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
PARTS = st.sampled_from(
    [
        {"type": "input_text", "text": "in"},
        {"type": "output_text", "text": "out"},
        {"type": "text", "text": ""},
        {"type": "input_image", "image_url": PICTURE},
        {"type": "input_file", "file_id": "f"},
        {"type": "refusal", "refusal": "no"},
    ]
)
CONTENT = st.text(max_size=5) | st.lists(
    st.builds(lambda part, more: more | part, PARTS, st.dictionaries(st.text(max_size=5), Value))
)
ITEMS = st.builds(
    lambda base, more: more | base,
    st.fixed_dictionaries(
        {
            "type": st.just("message"),
            "role": st.sampled_from(["user", "assistant"]),
            "content": CONTENT,
        }
    )
    | st.fixed_dictionaries(
        {"type": st.just("function_call_output"), "call_id": st.text(max_size=3), "output": CONTENT}
    )
    | st.fixed_dictionaries({"type": st.sampled_from(["reasoning", "x"])}),
    st.dictionaries(
        st.sampled_from(
            ["status", "phase", "name", "role", "content", "index", "annotations", "item", "x"]
        ),
        Value,
    ),
)


def within(given: Any, shown: Any) -> bool:
    """Whether all that was given is shown, to the type; text alone may have become a part."""
    if isinstance(given, str) and isinstance(shown, list):
        return len(shown) == 1 and shown[0]["text"] == given
    if isinstance(given, dict):
        return isinstance(shown, dict) and all(
            name in shown and within(value, shown[name]) for name, value in given.items()
        )
    if isinstance(given, list):
        return (
            isinstance(shown, list) and len(given) == len(shown) and all(map(within, given, shown))
        )
    return type(given) is type(shown) and bool(given == shown)


@settings(max_examples=300, deadline=None)
@given(ITEMS)
def test_whatever_is_in_an_item_comes_back(item: dict[str, Any]) -> None:
    assert within(item, back(item)), back(item)


@pytest.mark.parametrize(
    ("item", "param", "code"),
    [
        ({}, "items[0].type", "missing_required_parameter"),
        ({"type": 7}, "items[0].type", "invalid_type"),
        ({"role": "wizard", "content": "x"}, "items[0].role", "invalid_value"),
        ({"role": ["user"], "content": "x"}, "items[0].role", "invalid_type"),
        ({"type": "message", "content": "x"}, "items[0].role", "missing_required_parameter"),
        ({"role": "user"}, "items[0].content", "missing_required_parameter"),
        ({"role": "user", "content": {"type": "input_text"}}, "items[0].content", "invalid_type"),
        (message("user", "words"), "items[0].content[0]", "invalid_type"),
        (message("user", {"text": "x"}), "items[0].content[0].type", "missing_required_parameter"),
        (
            message("user", {"type": "new"}, {"type": "input_text"}),
            "items[0].content[1].text",
            "missing_required_parameter",
        ),
        (
            message("user", {"type": "input_text", "text": 7}),
            "items[0].content[0].text",
            "invalid_type",
        ),
        (
            {"type": "function_call", "name": "f", "arguments": "{}"},
            "items[0].call_id",
            "missing_required_parameter",
        ),
        (
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": {}},
            "items[0].arguments",
            "invalid_type",
        ),
        (
            {"type": "function_call_output", "call_id": "c"},
            "items[0].output",
            "missing_required_parameter",
        ),
    ],
)
def test_a_wrong_item_is_refused_by_the_field(item: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        there(item)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert param in refused.value.message


# --- what a model is asked ------------------------------------------------------------------------


def test_a_model_is_asked_a_chat_and_nothing_else() -> None:
    items: list[dict[str, Any]] = [
        {"role": "user", "content": "q", "phase": "commentary"},
        {"type": "reasoning", "summary": []},
        message("assistant", *words("On it.")),
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "web_search_call"},
        {"type": "function_call", "call_id": "2", "name": "f", "arguments": "{}", "namespace": "n"},
        {"type": "function_call_output", "call_id": "2", "output": "b"},
        {"type": "function_call_output", "call_id": "1", "output": "a"},
        {"type": "function_call", "call_id": "3", "name": "f", "arguments": "{}"},
    ]
    stored = [there(item) for item in items]
    assert all(paired(stored))
    assert model_messages(stored) == [
        Message("user", "q"),
        Message("assistant", "On it.", tool_calls=[call("1"), call("2")]),
        Message("tool", "b", tool_call_id="2"),
        Message("tool", "a", tool_call_id="1"),
        Message("assistant", tool_calls=[call("3")]),
    ]
    assert stored == [there(item) for item in items]  # which are still as they were
    usual = [
        Message("user", "q", extra={"vendor": 1}),
        Message("assistant", "a"),
        Message("assistant", "b"),
    ]
    assert model_messages(usual) == usual


def test_a_model_is_asked_whole_characters() -> None:
    stored = [
        Message("user", "a\ud800b 😀", extra={"x": "\udfff"}),
        Message("user", [{"type": "text", "text": "\ud83d"}]),
    ]
    assert [one.content for one in model_messages(stored)] == [
        "a\ufffdb 😀",
        [{"type": "text", "text": "\ufffd"}],
    ]
    assert model_messages(stored)[0].extra == {"x": "\ufffd"}


# --- halves of characters -------------------------------------------------------------------------


def test_halves_of_characters_are_written_and_read() -> None:
    for value in ({"a": ["\ud800", "\x00", 2**70, None]}, {"\udfff": "é"}, {"whole": "😀"}):
        assert json.loads(surrogates.encode(value)) == value
    assert surrogates.encode({"whole": "😀"}) == '{"whole":"😀"}'.encode()
    assert surrogates.decode(b'{"a": "\\ud800", "b": "\\u0000"}') == {"a": "\ud800", "b": "\x00"}
    deep = b"[" * 1100 + b'"\\ud800"'
    for body in (b'{"a": 1}', b'{"a": "\\ud800"', b'["\\ud800", NaN]', b'"\\uD800' + b"\xff", deep):
        with pytest.raises(ValueError):
            surrogates.decode(body)


def test_what_an_agent_does_to_its_messages_stays_with_it() -> None:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "hi"}]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    stored = [
        Message("user", "hi"),
        Message("user", parts),
        Message("assistant", None, tool_calls=[call]),
    ]
    before = copy.deepcopy(stored)
    for one in model_messages(stored):
        one.content = "changed"
        if one.tool_calls:
            one.tool_calls[0]["id"] = "changed"
    model_messages(stored)[1].content[0]["text"] = "changed"  # type: ignore[index]
    assert stored == before
