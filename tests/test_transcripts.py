"""Conversations of other programs and our own; samples of them are in tests/transcripts."""

import asyncio
import io
import json
import re
import tracemalloc
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from databases import migrated_postgres, migrated_sqlite
from hypothesis import given, settings
from hypothesis import strategies as st
from session_model import MemorySessions
from session_stores import Stores, in_memory, in_sql

from chattable.agents.chat import Message, Usage
from chattable.agents.errors import InvalidRequest
from chattable.agents.parsing import parse
from chattable.budget.storage.errors import StorageUnavailable
from chattable.proxy.importers.transcripts import decoding, splitting
from chattable.proxy.importers.transcripts.decoding import decode, decode_deep
from chattable.proxy.importers.transcripts.fields import moment
from chattable.proxy.importers.transcripts.formats import (
    FORMATS,
    READABLE,
    WRITABLE,
    FoundConversation,
    chosen,
    conversations,
    exported,
)
from chattable.proxy.importers.transcripts.markdown import closed, fenced
from chattable.proxy.importers.transcripts.report import ImportResult, imported
from chattable.proxy.importers.transcripts.transcript import (
    MAX_NOTES,
    ImportNotes,
    Node,
    Unreadable,
)
from chattable.proxy.importers.transcripts.tree import MAX_MESSAGES, grown, ordered
from chattable.proxy.importers.transcripts.values import values_in
from chattable.proxy.parsing.json_bounds import Bounds
from chattable.proxy.store.sessions.chain import paired
from chattable.proxy.store.sessions.port import (
    Item,
    NewItem,
    SessionRecord,
    SessionStore,
    Summary,
    TurnRecord,
)

SAMPLES = Path(__file__).parent / "transcripts"
ALICE, BOB = "user_alice", "user_bob"
Q = '{"conversations":[{"from":"human","value":"q"}]}'
NASTY = "NUL \x00, halves \ud800 \udfff, 👩‍💻, e\u0301, \u2028, \\u0000, \x1b"

text = st.text(st.characters(codec=None, exclude_categories=[]), max_size=12)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SessionStore]:
    async def within(opened: AbstractAsyncContextManager[Stores]) -> AsyncIterator[SessionStore]:
        async with opened as stores:
            yield stores.one

    if request.param == "memory":
        opened = within(in_memory())
    elif request.param == "sqlite":
        opened = within(in_sql(migrated_sqlite(tmp_path / "chat.db")))
    else:
        async with migrated_postgres() as url:
            async for one in within(in_sql(url)):
                yield one
        return
    async for one in opened:
        yield one


class Dribble(io.BytesIO):
    """A stream that gives a few bytes at a time, whatever it is asked for."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(7 if size is None or size > 7 else size)


def found(data: bytes | str, name: str = "") -> list[FoundConversation]:
    raw = data.encode() if isinstance(data, str) else data
    return list(conversations(io.BytesIO(raw), name))


def sample(name: str) -> list[FoundConversation]:
    with (SAMPLES / name).open("rb") as stream:
        return list(conversations(stream))


def items(one: FoundConversation) -> dict[str, Item]:
    assert one.transcript is not None, one.error
    return {item.id: item for item in one.transcript.items}


def shape(one: FoundConversation) -> list[tuple[str, str | None, str]]:
    return [(item.id, item.parent, item.message.role) for item in items(one).values()]


def notes(one: FoundConversation) -> list[tuple[int | None, str | None, str]]:
    return [(note.index, note.id, note.message) for note in one.notes.all()]


def head(one: FoundConversation) -> str | None:
    assert one.transcript is not None
    return one.transcript.session.head


async def take(
    store: SessionStore, data: bytes, name: str = "", user: str = ALICE
) -> list[ImportResult]:
    return [outcome async for outcome in imported(store, user, io.BytesIO(data), name)]


async def give(store: SessionStore, session: SessionRecord, name: str = "native") -> bytes:
    return b"".join([block async for block in exported(store, session, WRITABLE[name])])


async def every(store: SessionStore, session: SessionRecord) -> list[Item]:
    return [item async for batch in store.export(session) for item in batch]


async def talk(
    store: SessionStore, *messages: Message, user: str = ALICE, alias: str | None = None
) -> SessionRecord:
    session = await store.open(user, alias)
    return (
        await store.commit(
            session, TurnRecord(entries=tuple(NewItem(message=one) for one in messages))
        )
    ).session


# -- ChatGPT ---------------------------------------------------------------------------------------


def test_chatgpt_keeps_branches_thoughts_calls_and_custom_instructions() -> None:
    tides, broken, voice = sample("chatgpt.json")
    assert (tides.format, tides.source_id) == ("chatgpt", "6f3c1d2e-0000-4000-8000-0000000000a1")
    assert shape(tides) == [
        ("ctx", None, "system"),
        ("q1", "ctx", "user"),
        ("a1-old", "q1", "assistant"),
        ("a1", "q1", "assistant"),
        ("q2", "a1", "user"),
        ("call", "q2", "assistant"),
        ("result", "call", "tool"),
        ("a2", "result", "assistant"),
    ]
    assert head(tides) == "a2"
    own = items(tides)
    assert own["ctx"].message.content == "Sails a dinghy.\nBe brief."
    assert (
        own["a1"].message.reasoning_content
        == "Which port?\n\nNone was named.\n\nThought for 4 seconds"
    )
    assert (own["a1"].speaker, own["a1-old"].speaker, own["result"].speaker) == (
        "o4-mini",
        "gpt-4o",
        "python",
    )
    assert (
        own["q2"].message.content
        == "[image: file-service://file-7Kd]\nThis one.\n\n[attachment: chart.pdf]"
    )
    assert own["call"].message.tool_calls == [
        {
            "id": "call_9",
            "type": "function",
            "function": {"name": "python", "arguments": '{"input": "tide(\'Brest\')"}'},
        }
    ]
    assert own["result"].message.tool_call_id == "call_9"
    assert own["a2"].incomplete
    assert own["q1"].created_at == 1746000001
    assert tides.transcript is not None
    session = tides.transcript.session
    assert (session.title, session.model, session.created_at, session.updated_at) == (
        "Tide tables",
        "o4-mini",
        1746000000,
        1746000900,
    )
    told = notes(tides)
    assert [(index, id) for index, id, _ in told] == [
        (2, "ctx"),
        (8, "q2"),
        (8, "q2"),
        (None, None),
    ]
    assert "file-service://file-7Kd" in told[1][2]
    assert "chart.pdf" in told[2][2]
    assert told[3][2].endswith(": metadata.citations, is_archived")
    assert broken.error is not None
    assert (broken.error.param, broken.line > 100) == ("mapping", True)
    assert "an array" in broken.error.message
    assert shape(voice) == [("u", None, "user"), ("b", "u", "assistant"), ("end", "b", "assistant")]
    assert items(voice)["u"].message.content == "Bonjour\n[audio: sediment://file_1]"
    assert items(voice)["end"].message.reasoning_content == "Stopped here."
    assert (2, "x", "left out: the author's role is 'critic'") in notes(voice)


def test_chatgpt_calls_and_answers_pair_up_for_a_model() -> None:
    messages = [
        item.message for item in items(sample("chatgpt.json")[0]).values() if item.id != "a1-old"
    ]
    assert paired(messages) == [True] * len(messages)


@pytest.mark.parametrize(
    "content, shown",
    [
        ({"content_type": "text", "parts": ["a", "b"]}, "a\nb"),
        ({"content_type": "text", "parts": ["a", 3, None]}, "a"),
        ({"content_type": "text", "text": "plain"}, "plain"),
        ({"content_type": "code", "language": "python", "text": "x = 1"}, "x = 1"),
        (
            {"content_type": "tether_quote", "url": "https://e.com", "title": "T", "text": "q"},
            "T\nhttps://e.com\nq",
        ),
        ({"content_type": "tether_browsing_display", "result": "R", "summary": None}, "R"),
        ({"content_type": "system_error", "name": "Oops", "text": "no"}, "Oops\nno"),
        ({"content_type": "of tomorrow", "text": "words"}, "words"),
        ({"content_type": "of tomorrow", "x": [1]}, '{"content_type": "of tomorrow", "x": [1]}'),
        (
            {
                "content_type": "multimodal_text",
                "parts": [{"content_type": "video_asset_pointer", "asset_pointer": "v"}],
            },
            "[video: v]",
        ),
    ],
)
def test_chatgpt_content_of_every_type_is_kept_as_words(content: Any, shown: str) -> None:
    node = {
        "id": "a",
        "parent": None,
        "message": {"author": {"role": "assistant"}, "content": content},
    }
    (one,) = found(json.dumps([{"mapping": {"a": node}, "current_node": "a"}]))
    assert items(one)["a"].message.content == shown


def chatgpt_tree(*rows: tuple[str, str | None, str, Any, str]) -> FoundConversation:
    mapping = {
        id: {
            "parent": parent,
            "message": {"author": {"role": role}, "content": content, "recipient": recipient},
        }
        for id, parent, role, content, recipient in rows
    }
    (one,) = found(json.dumps([{"mapping": mapping, "current_node": rows[-1][0]}]))
    return one


def test_chatgpt_thoughts_that_no_answer_follows_everywhere_are_a_message() -> None:
    thoughts = {"content_type": "thoughts", "thoughts": [{"content": "Hm."}]}
    one = chatgpt_tree(
        ("q", None, "user", {"parts": ["q"]}, "all"),
        ("t", "q", "assistant", thoughts, "all"),
        ("stop", "t", "user", {"parts": ["stop"]}, "all"),
        ("a", "t", "assistant", {"parts": ["a"]}, "all"),
    )
    assert shape(one) == [
        ("q", None, "user"),
        ("t", "q", "assistant"),
        ("stop", "t", "user"),
        ("a", "t", "assistant"),
    ]
    assert (
        items(one)["t"].message.reasoning_content,
        items(one)["a"].message.reasoning_content,
    ) == ("Hm.", None)


def test_chatgpt_answers_of_tools_that_nobody_asked_are_told_of() -> None:
    one = chatgpt_tree(
        ("q", None, "user", {"parts": ["q"]}, "all"),
        ("c", "q", "assistant", {"content_type": "code", "text": '{"q": 1}'}, "web.run"),
        ("r1", "c", "tool", {"parts": ["r1"]}, "all"),
        ("r2", "r1", "tool", {"parts": ["r2"]}, "all"),
        ("a", "r2", "assistant", {"parts": ["a"]}, "all"),
        ("r3", "a", "tool", {"parts": ["r3"]}, "all"),
    )
    own = items(one)
    assert [own[id].message.tool_call_id for id in ("r1", "r2", "r3")] == ["call_1", "call_1", None]
    assert own["c"].message.tool_calls == [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "web_run", "arguments": '{"q": 1}'},
        }
    ]
    assert [id for _, id, _ in notes(one)] == ["r3"]


@pytest.mark.parametrize(
    "given_time, seconds",
    [
        (1746000000, 1746000000),
        (1746000000.9, 1746000000),
        (1746000000123, 1746000000),
        (1746000000123456789, 1746000000),
        ("2025-04-30T08:00:00Z", 1746000000),
        ("2025-04-30T10:00:00.5+02:00", 1746000000),
        ("2025-04-30", 1745971200),
        (0, 0),
        (-5, 0),
        (True, 0),
        ("yesterday", 0),
        (None, 0),
        ([], 0),
        (float("inf"), 0),
        (10**400, 0),
        (1e300, 0),
    ],
)
def test_a_time_is_read_in_whatever_it_is_given(given_time: Any, seconds: int) -> None:
    assert moment(given_time) == seconds


# -- LibreChat -------------------------------------------------------------------------------------


def test_librechat_as_a_list_keeps_branches_and_what_agents_did() -> None:
    (bread,) = sample("librechat-list.json")
    assert shape(bread) == [
        ("system", None, "system"),
        ("m1", "system", "user"),
        ("m2", "m1", "assistant"),
        ("m3", "m1", "assistant"),
        ("m4", "system", "user"),
        ("m5/1", "m4", "assistant"),
        ("m5/2", "m5/1", "tool"),
        ("m5", "m5/2", "assistant"),
        ("m6", "m5", "user"),
        ("m7", "m6", "assistant"),
    ]
    assert head(bread) == "m3"  # the newest
    own = items(bread)
    assert own["m1"].message.content == "How long?\n\n[image: crumb.jpg]"
    assert (own["m1"].tokens, own["m1"].created_at, own["m3"].incomplete) == (5, 1741064761, True)
    assert own["m5/1"].message.reasoning_content == "Look it up."
    assert own["m5/1"].message.tool_calls == [
        {
            "id": "call_z",
            "type": "function",
            "function": {"name": "lookup", "arguments": '{"q":"proof"}'},
        }
    ]
    assert (own["m5/2"].message.content, own["m5/2"].message.tool_call_id) == ("26 °C", "call_z")
    assert own["m5"].message.content == "26 °C.\n\n[image_file: plot.png]"
    assert {(index, id) for index, id, _ in notes(bread)} == {
        (0, "m1"),
        (4, "m5"),
        (6, "m7"),
        (None, None),
    }
    assert notes(bread)[-1][2].endswith(": options.temperature")


def test_librechat_nested_is_the_same_tree() -> None:
    (knots,) = sample("librechat-tree.json")
    assert [row[:2] for row in shape(knots)] == [
        ("k1", None),
        ("k2", "k1"),
        ("k3", "k2"),
        ("k4", "k3"),
        ("k5", "k1"),
    ]
    assert head(knots) == "k5"
    assert items(knots)["k5"].speaker == "claude-opus"
    assert notes(knots) == [(5, "k6", "left out: it says nothing")]


def test_librechat_nested_twenty_thousand_deep_is_read() -> None:
    deep = 20_000
    opening = "".join(
        f'{{"messageId":"{i}","isCreatedByUser":true,"text":"t{i}","children":['
        for i in range(deep)
    )
    (one,) = found('{"messagesTree":[' + opening + "]}" * deep + "]}")
    assert (len(items(one)), head(one)) == (deep, str(deep - 1))


def test_librechat_words_after_a_call_are_a_message_of_their_own() -> None:
    call_part = {"type": "tool_call", "tool_call": {"id": "c", "name": "f", "args": {"x": 1}}}
    parts = [
        {"type": "text", "text": "one"},
        call_part,
        {"type": "text", "text": "two"},
        {"type": "error", "error": "broke"},
    ]
    message = {
        "messageId": "a",
        "isCreatedByUser": False,
        "content": parts,
        "parentMessageId": None,
    }
    (one,) = found(json.dumps({"conversationId": "c", "messages": [message]}))
    assert [(item.id, item.message.content) for item in items(one).values()] == [
        ("a/1", "one"),
        ("a", "two\n\n[error: broke]"),
    ]
    assert (items(one)["a/1"].message.tool_calls or [])[0]["function"]["arguments"] == '{"x": 1}'


# -- Open WebUI ------------------------------------------------------------------------------------


def test_openwebui_keeps_branches_reasoning_calls_and_pictures() -> None:
    sums, old = sample("openwebui.json")
    assert shape(sums) == [
        ("system", None, "system"),
        ("u1", "system", "user"),
        ("a1", "u1", "assistant"),
        ("u2", "a1", "user"),
        ("a2/1", "u2", "assistant"),
        ("a2/2", "a2/1", "tool"),
        ("a2", "a2/2", "assistant"),
        ("a2b/1", "u2", "assistant"),
        ("a2b/2", "a2b/1", "tool"),
        ("a2b", "a2b/2", "assistant"),
    ]
    assert head(sums) == "a2b"
    own = items(sums)
    assert own["u1"].message.content == [
        {"type": "text", "text": "15 × 17?\n\n[attachment: sums.xlsx]"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    assert (own["a1"].message.content, own["a1"].message.reasoning_content) == (
        "It is 255.",
        "15 × 17\n= 255",
    )
    assert own["a1"].usage == Usage(11, 22, 33)
    weather = {
        "id": "call_w",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Brest"}'},
    }
    assert (own["a2/1"].message.content, own["a2/1"].message.tool_calls) == ("I ask.", [weather])
    assert (own["a2/2"].message.content, own["a2"].message.content) == ("rain", "It rains.")
    assert (own["a2b/1"].message.reasoning_content, own["a2b"].incomplete) == ("Call it.", True)
    assert sums.transcript is not None
    session = sums.transcript.session
    assert (session.title, session.model, session.created_at) == ("Sums", "deepseek-r1", 1730000000)
    assert notes(sums)[-1][2].endswith(": sources, followUps, pinned, meta, params.temperature")
    assert [item.message.content for item in items(old).values()] == ["a", "b"]


@pytest.mark.parametrize(
    "words",
    [
        '<details type="reasoning"',
        '<details type="reasoning">never closed',
        'a <details type="code_interpreter"><summary>s</summary>x</details> b',
        '<details type="tool_calls">no name</details>',
        "plain",
    ],
)
def test_openwebui_details_of_no_known_kind_stay_in_the_words(words: str) -> None:
    chat = {
        "chat": {
            "history": {
                "messages": {"a": {"role": "assistant", "content": words}},
                "currentId": "a",
            }
        }
    }
    (one,) = found(json.dumps([chat]))
    assert items(one)["a"].message.content == words


# -- ShareGPT and OpenAI ---------------------------------------------------------------------------


def test_sharegpt_and_its_variants() -> None:
    stamp, variant, bare = sample("sharegpt.json")
    own = [item.message for item in items(stamp).values()]
    assert [message.role for message in own] == ["system", "user", "assistant", "tool", "assistant"]
    assert own[1].content == "[image: form.png]Stamp it."
    assert own[2].tool_calls == [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "stamp", "arguments": '{"ink": "red"}'},
        }
    ]
    assert (own[3].tool_call_id, paired(own)) == ("call_1", [True] * 5)
    assert notes(stamp)[-1][2].endswith(": tools")
    assert [item.message.content for item in items(variant).values()] == ["Hi", "Hello"]
    assert notes(variant)[-1][2].endswith(": weight")
    assert [item.message.content for item in items(bare).values()] == [
        "Bare",
        "turns",
        "stamp!",
        "lost",
    ]
    assert items(bare)["1"].speaker == "bing"
    assert [index for index, _, _ in notes(bare)] == [2, 3, 4]


def test_sharegpt_pictures_are_named_one_by_one() -> None:
    turns = [
        {"from": "human", "value": "a<image>b<image>"},
        {"from": "human", "value": "<image><image>c"},
    ]
    (one,) = found(json.dumps([{"conversations": turns, "images": ["1.png", None, "3.png"]}]))
    assert [item.message.content for item in items(one).values()] == [
        "a[image: 1.png]b[image]",
        "[image: 3.png]<image>c",
    ]


def test_openai_lines_keep_unknown_fields_and_parts() -> None:
    cat, rain = sample("openai.jsonl")
    assert [item.message.to_json() for item in items(cat).values()][1:] == [
        Message(
            "user",
            [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            ],
        ),
        {"role": "assistant", "content": "A cat.", "weight": 1},
    ]
    assert [item.message.role for item in items(rain).values()] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]


def test_a_broken_line_or_message_says_which_and_the_rest_is_kept() -> None:
    good = '{"messages": [{"role": "user", "content": "q"}]}'
    bad = '{"role": "wizard", "content": "x"}, 7, {"role": "user", "content": 3}, {}'
    wrong = '{"messages": [{"role": "user", "content": "q"}, ' + bad + "]}"
    ones = found("\n".join([good, '{"messages": [', "", wrong, '{"messages": 3}', good]))
    assert [one.line for one in ones] == [1, 2, 4, 5, 6]
    assert [one.error.code if one.error else None for one in ones] == [
        None,
        "invalid_json",
        None,
        "invalid_value",
        None,
    ]
    assert [index for index, _, _ in notes(ones[2])] == [1, 2, 3, 4]
    assert "'wizard' is none of" in notes(ones[2])[0][2]
    assert len(items(ones[2])) == 1


# -- files -----------------------------------------------------------------------------------------


@given(
    st.lists(st.dictionaries(text, anything, min_size=1, max_size=3), min_size=1, max_size=6),
    st.integers(0, 4),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_every_way_to_write_values_down_is_read(values: list[Any], way: int, halves: bool) -> None:
    ascii_only = halves or any("\\ud" in json.dumps(value).lower() for value in values)
    whole = [json.dumps(value, ensure_ascii=ascii_only) for value in values]
    pretty = [json.dumps(value, ensure_ascii=ascii_only, indent=2) for value in values]
    written = [
        "\n\n".join(whole),
        "\n".join(whole) + "\n\n \n",
        f"[{','.join(whole)}]",
        " [\n" + " ,\r\n".join(pretty) + "\n]\n",
        "\n".join(pretty),
    ][way]
    got = list(values_in(Dribble(b"\xef\xbb\xbf" + written.encode())))
    assert [(one.value, one.why) for one in got] == [(value, "") for value in values]
    assert [one.line for one in got][:1] == [2 if way == 3 else 1]


@given(anything, st.integers(0, 2))
@settings(max_examples=150, deadline=None)
def test_the_deep_decoder_reads_what_the_other_reads(value: Any, indent: int) -> None:
    written = json.dumps(value, indent=indent or None)
    assert decode_deep(written) == json.loads(written) == decode(written.encode())


@given(st.text('[]{},:"\\1ae. \n', max_size=12))
@settings(max_examples=500, deadline=None)
def test_the_deep_decoder_refuses_what_the_other_refuses(written: str) -> None:
    try:
        wanted = json.loads(
            written, parse_constant=lambda _: pytest.fail("no constant can be spelt")
        )
    except ValueError:
        with pytest.raises(Unreadable):
            decode_deep(written)
    else:
        assert decode_deep(written) == wanted


@pytest.mark.parametrize(
    "data, good, why",
    [
        (f'[{Q}, 12, {{"conversations":[}}, {Q}]', [0, 3], ["`12`", "JSON"]),
        (f'[{Q},\n {{"conversations":[{{"from":"hu', [0], ["ends in the middle"]),
        (f"[{Q},", [0], ["before its array does"]),
        (f"[{Q}] tail", [0], ["the array has ended"]),
        (
            f'{Q}\nnull\n{{"a":NaN}}\n{{"a":1e999}}\n{{"x":1}}',
            [0],
            ["null", "NaN", "1e999", "no conversation"],
        ),
    ],
)
def test_what_is_no_conversation_is_told_of_and_costs_no_other(
    data: str, good: list[int], why: list[str]
) -> None:
    ones = found(data)
    assert [one.index for one in ones if one.error is None] == good
    errors = [one.error.message for one in ones if one.error]
    assert len(errors) == len(why)
    assert all(words in error for words, error in zip(why, errors, strict=True)), errors


@pytest.mark.parametrize(
    "data, why",
    [
        (b"", "empty"),
        (b" \n\t ", "empty"),
        (b"PK\x03\x04", "zip"),
        (b"\x1f\x8b\x08", "gzip"),
        ("[]".encode("utf-16"), "UTF-16"),
        (b"--boundary\r\n", "data-binary"),
        (b"# A heading\n", "line 1"),
        (b'{"a": 1}', "none of the formats"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"[" * 2000 + b"]" * 2000, "none of the formats"),  # deeper than json reads
        (b"{}\n" * 1000, "none of the formats"),
    ],
)
def test_a_file_without_a_conversation_says_why(data: bytes, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        found(data)


def test_what_would_cost_too_much_to_read_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "MAX_OPEN_BRACKETS", 50)
    with pytest.raises(Unreadable, match="more than 50 levels deep"):
        found(b"[" * 52)
    monkeypatch.setattr(decoding, "FILE", Bounds(depth=None, values=40, parts=40))
    (good, bad) = found(f'[{Q}, {{"x": [{",".join(["[]"] * 40)}]}}]'.encode())
    assert good.error is None and bad.error and "too many values" in bad.error.message


def test_a_large_file_takes_little_memory() -> None:
    one = json.dumps(
        {
            "mapping": {
                "a": {
                    "parent": None,
                    "message": {"author": {"role": "user"}, "content": {"parts": ["x" * 20_000]}},
                }
            }
        }
    )
    size = 1000

    class Endless(io.RawIOBase):
        """An array of many conversations, made as it is read."""

        def __init__(self) -> None:
            self._blocks = (f"{',' if i else '['}{one}" for i in range(size))
            self._ended = False

        def read(self, _: int = -1) -> bytes:
            block = next(self._blocks, "" if self._ended else "]")
            self._ended = self._ended or block == "]"
            return block.encode()

    endless: Any = Endless()
    tracemalloc.start()
    count = sum(len(found.transcript.items) for found in conversations(endless) if found.transcript)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == size
    assert peak < len(one) * size / 10


# -- trees -----------------------------------------------------------------------------------------


def node(id: str, parent: str | None, words: str | None = None, index: int = 0) -> Node:
    return Node(
        id=id,
        parent=parent,
        index=index,
        message=None if words == "" else Message("user", words or id),
    )


def test_circles_orphans_duplicates_and_empty_nodes() -> None:
    told = ImportNotes()
    nodes = [
        node("a", "c"),
        node("b", "a"),
        node("c", "b"),
        node("self", "self"),
        node("orphan", "nobody"),
        node("gap", "b", ""),
        node("after", "gap"),
        node("b", None, "second b"),
        node("same", "b", "after"),
    ]
    grown_items, kept = grown(nodes, told)
    parents = {item.id: item.parent for item in grown_items}
    assert parents == {
        "a": None,
        "b": "a",
        "c": "b",
        "self": None,
        "orphan": None,
        "after": "b",
        "b/again/7": None,
    }
    assert (kept["gap"], kept["same"]) == ("b", "after")
    words = [note.message for note in told.all()]
    assert len(words) == 5
    assert [
        sum(part in word for word in words)
        for part in ("follows itself", "not there", "both are kept", "kept once")
    ] == [
        2,
        1,
        1,
        1,
    ]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 9), st.none() | st.integers(0, 9), st.sampled_from(["", "x", "y"])
        ),
        max_size=25,
    )
)
@settings(max_examples=200, deadline=None)
def test_whatever_the_links_are_nothing_is_lost_without_a_word(
    rows: list[tuple[int, int | None, str]],
) -> None:
    told = ImportNotes()
    nodes = [
        node(str(id), None if parent is None else str(parent), words) for id, parent, words in rows
    ]
    grown_items, _ = grown(nodes, told)
    said = sum(words != "" for _, _, words in rows)
    merged = sum("kept once" in note.message for note in told.all())
    assert len(grown_items) + merged == said
    before: set[str | None] = {None}
    for item in grown_items:
        assert item.parent in before
        before.add(item.id)


def test_a_long_circle_and_a_long_chain_are_no_problem() -> None:
    count = 50_000
    circle = [node(str(i), str((i + 1) % count)) for i in range(count)]
    assert [one.id for one in ordered(circle, ImportNotes())][:2] == ["0", str(count - 1)]
    with pytest.raises(Unreadable, match="100,000"):
        grown((node(str(i), None) for i in range(MAX_MESSAGES + 2)), ImportNotes())


def test_notes_are_bounded() -> None:
    lines = ",".join(["7"] * 5000)
    (one,) = found(f'{{"messages": [{lines}, {{"role": "user", "content": "q"}}]}}')
    assert len(one.notes.all()) == MAX_NOTES + 1
    assert one.notes.all()[-1].message == f"{5000 - MAX_NOTES} more notes are left out"


def mutated(value: Any, data: st.DataObject) -> Any:
    """The value with one part, anywhere in it, that is something else or gone."""
    if not isinstance(value, dict | list) or not value or data.draw(st.integers(0, 5)) == 0:
        return data.draw(anything)
    if isinstance(value, list):
        at = data.draw(st.integers(0, len(value) - 1))
        return [mutated(one, data) if i == at else one for i, one in enumerate(value)]
    key = data.draw(st.sampled_from(sorted(value)))
    if data.draw(st.integers(0, 6)) == 0:
        return {name: one for name, one in value.items() if name != key}
    return value | {key: mutated(value[key], data)}


@pytest.mark.parametrize("name", sorted(path.name for path in SAMPLES.iterdir()))
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_is_wrong_in_a_file_is_reported(name: str, data: st.DataObject) -> None:
    raw = (SAMPLES / name).read_text()
    whole = (
        [json.loads(line) for line in raw.splitlines()] if name.endswith("l") else json.loads(raw)
    )
    parts = whole if isinstance(whole, list) else [whole]
    at = data.draw(st.integers(0, len(parts) - 1))
    changed = [mutated(part, data) if i == at else part for i, part in enumerate(parts)]
    form = next(one.format for one in sample(name))
    outcomes = asyncio.run(take(MemorySessions(), json.dumps(changed).encode(), form))
    assert len(outcomes) == len(changed) or not isinstance(changed[at], dict | list)
    for outcome in outcomes:
        assert (outcome.id is None) == (outcome.error is not None)
        json.dumps(outcome.shown(), default=str).encode()


# -- export ----------------------------------------------------------------------------------------

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
TALK = (
    Message("system", "Be brief."),
    Message(
        "user",
        [
            {"type": "text", "text": "What?"},
            {"type": "image_url", "image_url": {"url": "https://e.com/a.png"}},
        ],
    ),
    Message("assistant", tool_calls=[CALL], reasoning_content="Hm.\nWell."),
    Message("tool", "```\nout\n```", tool_call_id="call_1"),
    Message("assistant", "So:\n\n```python\nprint(1)", extra={"weight": 1, "secret": "no"}),
    Message("user", "Go on", name="Ann_a"),
)


async def test_openai_export_is_one_line_of_the_head_path(store: SessionStore) -> None:
    session = await talk(store, *TALK)
    side = TurnRecord(entries=(NewItem(message=Message("user", "title?")),), side=True)
    session = (await store.commit(session, side)).session
    exported_line = await give(store, session, "openai")
    assert exported_line.endswith(b"}\n")
    assert exported_line.count(b"\n") == 1
    line = json.loads(exported_line)
    assert [message["role"] for message in line["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
    ]
    assert line["messages"][4] == {
        "role": "assistant",
        "content": "So:\n\n```python\nprint(1)",
        "weight": 1,
    }
    assert "reasoning_content" not in line["messages"][2]
    parse({"model": "m", **line})
    (back,) = await take(store, exported_line, user=BOB)
    assert (back.format, back.messages, back.error) == ("openai", 6, None)


async def test_sharegpt_export_has_turns(store: SessionStore) -> None:
    session = await talk(store, *TALK)
    line = json.loads(await give(store, session, "sharegpt"))
    assert line["id"] == session.id
    assert [turn["from"] for turn in line["conversations"]] == [
        "system",
        "human",
        "function_call",
        "observation",
        "gpt",
        "human",
    ]
    assert line["conversations"][1]["value"] == "What?\n[image: https://e.com/a.png]"
    assert json.loads(line["conversations"][2]["value"]) == {"name": "f", "arguments": {"x": 1}}
    (back,) = await take(store, json.dumps(line).encode(), user=BOB)
    assert (back.format, back.messages, back.warnings) == ("sharegpt", 6, [])


async def test_markdown_export_is_readable_and_no_block_of_code_swallows_the_next_message(
    store: SessionStore,
) -> None:
    session = await store.update(await talk(store, *TALK), title="A *title*")
    shown = (await give(store, session, "markdown")).decode()
    assert shown.startswith("# A \\*title\\*\n")
    outside = re.sub(r"^(`{3,}).*?^\1$", "", shown, flags=re.M | re.S)
    headings = [line.split(" · ")[0] for line in outside.splitlines() if line.startswith("## ")]
    assert headings == [
        "## System",
        "## User",
        "## Assistant",
        "## Tool",
        "## Assistant",
        "## User (Ann\\_a)",
    ]
    assert "> Hm.\n> Well.\n" in shown
    assert "````\n```\nout\n```\n````" in shown
    assert '```json\n{"x": 1}\n```' in shown


@pytest.mark.parametrize(
    "words, end",
    [
        ("a", ""),
        ("```\na", "\n```"),
        ("```\na\n```", ""),
        ("~~~~ x\n~~~\na", "\n~~~~"),
        ("```` `x` \n", ""),
        ("```\n~~~\n```\nb", ""),
        ("```js\n```js\n", "\n```"),
        ("   ````md\n```\nx\n```\n", "\n````"),
        ("in `line` ```", ""),
    ],
)
def test_an_open_block_of_code_is_closed(words: str, end: str) -> None:
    assert closed(words) == words + end


@given(st.text("`a\n", max_size=20))
def test_a_fence_is_longer_than_any_in_the_text(words: str) -> None:
    first, *inside, last = fenced(words, "").split("\n")
    assert first == last
    assert "\n".join(inside) == words
    assert all(run not in words for run in [first])


async def test_an_empty_conversation_is_exported_in_every_format(store: SessionStore) -> None:
    session = await store.open(ALICE, None)
    assert json.loads(await give(store, session, "openai")) == {"messages": []}
    assert json.loads(await give(store, session, "sharegpt"))["conversations"] == []
    assert (await give(store, session, "markdown")).startswith(b"# Conversation\n")
    (back,) = await take(store, await give(store, session))
    assert (back.error, back.messages, back.warnings) == (None, 0, [])


async def test_a_long_conversation_is_exported_in_batches(store: SessionStore) -> None:
    session = await talk(store, *(Message("user", f"m{i}") for i in range(1203)))
    for name in ("openai", "sharegpt"):
        line = json.loads(await give(store, session, name))
        assert [next(iter(turn.values())) for turn in line.popitem()[1]] == [
            "user" if name == "openai" else "human"
        ] * 1203


# -- our own format --------------------------------------------------------------------------------


async def grow(store: SessionStore, steps: list[Any]) -> SessionRecord:
    """A session with branches, deleted messages and a summary, as the steps say."""
    session = await store.open(ALICE, None, model="m")
    ids: list[str | None] = [None]
    for at, words, extra, flags in steps:
        message = Message(
            "user" if flags & 1 else "assistant",
            words,
            extra=extra,
            reasoning_content=words if flags & 2 else None,
        )
        entry = NewItem(
            message=message,
            tokens=flags,
            speaker="s",
            usage=Usage(1, 2, 3, {"cached_tokens": 1}),
            incomplete=bool(flags & 4),
        )
        turn = TurnRecord(
            entries=(entry,), parent=ids[at % len(ids)], side=bool(flags & 8), request_id="req_1"
        )
        done = await store.commit(session, turn)
        session = done.session
        ids += done.ids
    if session.head:
        session = await store.update(session, summary=Summary(steps[0][1], session.head))
    return await store.update(
        session, title="T", params={"temperature": 0.5}, state={"x": steps[:1]}, metadata={"k": "v"}
    )


steps = st.lists(
    st.tuples(
        st.integers(0, 20),
        text,
        st.dictionaries(
            text.filter(lambda key: key not in Message.__struct_fields__), anything, max_size=2
        ),
        st.integers(0, 15),
    ),
    min_size=1,
    max_size=12,
)


@given(steps)
@settings(max_examples=100, deadline=None)
def test_what_is_exported_comes_back_the_same(given_steps: list[Any]) -> None:
    asyncio.run(round_trip(MemorySessions(), given_steps))


async def test_what_is_exported_comes_back_the_same_from_every_store(store: SessionStore) -> None:
    extra = {"unknown": [NASTY, {"n": 2**80, "\x00\udc00": None}], "extra": {"extra": 1}}
    await round_trip(
        store,
        [
            (0, NASTY, extra, 3),
            (1, NASTY, {}, 4),
            (1, "b", {}, 0),
            (3, NASTY, extra, 1),
            (0, "s", {}, 8),
        ],
    )


@pytest.mark.parametrize(("deleted", "upto"), [([1], 0), ([0, 1], None), ([3], 1), ([2, 3], 1)])
async def test_an_export_names_no_deleted_message(
    store: SessionStore, deleted: list[int], upto: int | None
) -> None:
    """A summary ends with what is left of what it stands for; if nothing is, it is left out."""
    session = await talk(store, *(Message("user", f"m{i}") for i in range(4)))
    items = await every(store, session)
    session = await store.update(session, summary=Summary("so far", items[1].id))
    for place in deleted:
        session = await store.delete_item(session, items[place].id)
    (outcome,) = await take(store, await give(store, session), user=BOB)
    made = await store.open(BOB, outcome.id, create=False)
    left = await every(store, made)
    assert [one.message.text for one in left] == [f"m{i}" for i in range(4) if i not in deleted]
    assert made.head == left[-1].id
    if upto is None:
        assert made.summary is None
        assert "the summary goes up to" in outcome.warnings[0].message
    else:
        place = [one.message.text for one in left].index(f"m{upto}")
        assert (made.summary, outcome.warnings) == (Summary("so far", left[place].id), [])


async def test_another_branchs_summary_never_comes_to_stand_for_this_one(
    store: SessionStore,
) -> None:
    session = await talk(store, Message("user", "a"), Message("user", "b"))
    first, second = await every(store, session)
    session = await store.update(session, summary=Summary("of b", second.id))
    turn = TurnRecord(entries=(NewItem(message=Message("user", "c")),), parent=first.id)
    session = (await store.commit(session, turn)).session
    session = await store.delete_item(session, second.id)
    (outcome,) = await take(store, await give(store, session), user=BOB)
    made = await store.open(BOB, outcome.id, create=False)
    assert (made.summary, outcome.error) == (None, None)


async def round_trip(store: SessionStore, given_steps: list[Any]) -> None:
    session = await grow(store, given_steps)
    data = await give(store, session)
    (outcome,) = [outcome async for outcome in imported(store, BOB, Dribble(data))]
    assert (outcome.error, outcome.warnings, outcome.source_id) == (None, [], session.id)
    made = await store.open(BOB, outcome.id, create=False)
    theirs, ours = await every(store, session), await every(store, made)
    assert sorted(ours, key=lambda item: item.id) == sorted(theirs, key=lambda item: item.id)
    for name in (
        "title",
        "model",
        "params",
        "state",
        "metadata",
        "head",
        "message_count",
        "summary",
        "usage",
    ):
        assert getattr(made, name) == getattr(session, name), name
    again = await give(store, made)
    assert again.split(b"\n")[1:-2] == data.split(b"\n")[1:-2]


async def test_several_conversations_in_one_file(store: SessionStore) -> None:
    one = await talk(store, Message("user", "one"), alias="first")
    two = await talk(store, Message("user", "two"), Message("assistant", "2"), alias="second")
    data = await give(store, one) + await give(store, two)
    outcomes = await take(store, data, user=BOB)
    assert [(outcome.messages, outcome.warnings, outcome.error) for outcome in outcomes] == [
        (1, [], None),
        (2, [], None),
    ]
    assert (await store.open(BOB, "second", create=False)).message_count == 2
    repeated = await take(store, data, user=BOB)
    assert [len(outcome.warnings) for outcome in repeated] == [1, 1]
    assert "'first' already" in repeated[0].warnings[0].message
    assert repeated[0].id != outcomes[0].id
    assert len((await store.list(ALICE)).data) == 2


async def test_a_native_file_that_is_damaged_says_where(store: SessionStore) -> None:
    session = await talk(
        store, Message("user", "one"), Message("assistant", "two"), Message("user", "three")
    )
    rows = (await give(store, session)).splitlines(keepends=True)
    assert [json.loads(row)["object"] for row in rows] == [
        "chattable.session", *["chattable.message"] * 3, "chattable.end",
    ]  # fmt: skip
    (cut,) = await take(store, b"".join(rows[:3]))
    assert cut.error is not None
    assert (cut.error["param"], cut.error["line"]) == ("head", 1)
    assert "cut off" in cut.warnings[-1].message
    (holed,) = await take(
        store, b"".join([rows[0], rows[1], rows[2][:20] + b"\n", rows[3], rows[4]])
    )
    assert (holed.messages, holed.error) == (2, None)
    assert "line 3 is left out" in holed.warnings[0].message
    assert "begins a branch" in holed.warnings[-1].message
    (later,) = await take(
        store, rows[0].replace(b'"version":1', b'"version":2') + b"".join(rows[1:])
    )
    assert later.error is not None
    assert later.error["param"] == "version"
    (lost,) = await take(store, rows[1])
    assert lost.error is not None
    assert "its session is missing" in lost.error["message"]
    (typed,) = await take(
        store, rows[0].replace(b'"params":{}', b'"params":[]') + b"".join(rows[1:])
    )
    assert typed.error is not None
    assert typed.error["param"] == "params"


async def test_what_cannot_be_stored_does_not_keep_the_rest_out(store: SessionStore) -> None:
    deep: Any = []
    for _ in range(300):
        deep = [deep]
    messages = [
        {"role": "user", "content": "q"},
        {"role": "user", "content": "x", "odd": deep},
        {"role": "assistant", "content": "a"},
    ]
    title = "t" * 300
    data = (
        json.dumps({"messages": messages, "title": title}).encode()
        + b"\n"
        + json.dumps({"messages": []}).encode()
    )
    kept, empty = await take(store, data)
    assert (kept.messages, kept.title) == (2, "t" * 200)
    assert ["deep" in note.message or "title" in note.message for note in kept.warnings] == [
        True,
        True,
    ]
    assert kept.id is not None
    page = await store.items(await store.open(ALICE, kept.id), descending=False)
    assert [item.message.content for item in page.data] == ["q", "a"]
    assert empty.error is not None
    assert "no message" in empty.error["message"]


@pytest.mark.parametrize(
    "name",
    [
        "chatgpt.json",
        "librechat-list.json",
        "librechat-tree.json",
        "openwebui.json",
        "sharegpt.json",
        "openai.jsonl",
    ],
)
async def test_the_samples_are_stored(store: SessionStore, name: str) -> None:
    wanted = [one for one in sample(name) if one.transcript]
    outcomes = await take(store, (SAMPLES / name).read_bytes())
    made = [await store.open(ALICE, outcome.id, create=False) for outcome in outcomes if outcome.id]
    assert len(made) == len(wanted)
    for session, one in zip(made, wanted, strict=True):
        stored = await every(store, session)
        assert len(stored) == len(items(one))
        assert sorted(str(item.message.to_json()) for item in stored) == sorted(
            str(item.message.to_json()) for item in items(one).values()
        )
        last = (await store.items(session, 1)).data[0]
        assert last.message == items(one)[head(one) or ""].message


class Failing(MemorySessions):
    """A store whose database goes away with the second conversation."""

    async def restore(
        self, user: str, session: SessionRecord, items: Iterable[Item], *, alias: str | None = None
    ) -> SessionRecord:
        if session.title == "two":
            raise StorageUnavailable("gone")
        return await super().restore(user, session, items, alias=alias)


async def test_an_import_ends_when_the_database_goes_away() -> None:
    store = Failing()
    lines = [
        json.dumps({"messages": [{"role": "user", "content": "q"}], "title": title})
        for title in ("one", "two", "three")
    ]
    one, two = await take(store, "\n".join(lines).encode())
    assert (one.error, two.id) == (None, None)
    assert two.error is not None
    assert two.error["code"] == "database_unavailable"
    assert len((await store.list(ALICE)).data) == 1


def test_a_format_is_chosen_by_name() -> None:
    assert {form.name for form in FORMATS} == {*READABLE, *WRITABLE}
    with pytest.raises(InvalidRequest, match="did you mean `sharegpt`") as refused:
        chosen("shargpt", READABLE)
    assert refused.value.param == "format"
    with pytest.raises(InvalidRequest, match="none of native"):
        chosen("chatgpt", WRITABLE)
    (one,) = found('{"messages": [{"from": "human", "value": "q"}]}', "sharegpt")
    assert len(items(one)) == 1
    (wrong,) = found('{"messages": [{"role": "user", "content": "q"}]}', "chatgpt")
    assert wrong.error is not None
    assert "no conversation of the format chatgpt" in wrong.error.message
