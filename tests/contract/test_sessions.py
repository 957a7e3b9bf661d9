"""The law of `SessionStore`, on every implementation.

What it costs in SQL is in test_sessions_sql.py.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from databases import migrated_sqlite
from msgspec.structs import replace
from session_stores import Stores, in_memory, in_sql, own

from chattable.agents.chat import Message, Usage
from chattable.proxy.store.errors import Conflict, HeadMoved, Invalid, NotFound
from chattable.proxy.store.sessions import values
from chattable.proxy.store.sessions.chain import content_digest, next_id, paired
from chattable.proxy.store.sessions.port import (
    Item,
    NewItem,
    Retention,
    SessionRecord,
    SessionStore,
    Summary,
    TurnRecord,
)

ALICE, BOB = "user_alice", "user_bob"
HOSTILE = ["", "\x00", "a\x00b", "\ud800", "a\r\nb", "\x85", "a\u2028b", "n" * 513, "n" * 10_240]
UNUSUAL = [
    "é",
    "e\u0301",
    "👩\u200d💻",
    "'; DROP TABLE sessions;--",
    "%",
    " a",
    "conv_",
    "conv_" + "0" * 32,
    "Ω" * 512,
    "A",
    "a",
]
NASTY = "NUL \x00, halves \ud800 \udfff, 👩‍💻, e\u0301, \u2028, \\u0000, \x1b, 2**53+1"


@pytest.fixture(params=["memory", "sqlite", "postgresql", *own()])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AbstractAsyncContextManager[Stores]:
    """One implementation, yet to be opened."""
    if request.param == "memory":
        return in_memory()
    if request.param == "sqlite":
        return in_sql(migrated_sqlite(tmp_path / "chat.db"))
    if request.param == "postgresql":
        return in_sql(request.getfixturevalue("migrated_postgres_url"))
    return own()[request.param]()


@pytest.fixture
async def stores(opened: AbstractAsyncContextManager[Stores]) -> AsyncIterator[Stores]:
    """Two stores on one set of sessions."""
    async with opened as both:
        yield both


@pytest.fixture
def store(stores: Stores) -> SessionStore:
    return stores.one


def user(text: str) -> NewItem:
    return NewItem(message=Message("user", text))


def reply(text: str, **facts: Any) -> NewItem:
    return NewItem(message=Message("assistant", text), speaker="echo", **facts)


def tool(call: str) -> NewItem:
    return NewItem(message=Message("tool", "42", tool_call_id=call))


def calling(*calls: str, text: str | None = None) -> NewItem:
    made = [
        {"id": call, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        for call in calls
    ]
    return NewItem(message=Message("assistant", text, tool_calls=made))


async def say(
    store: SessionStore, session: SessionRecord, *entries: NewItem, **turn: Any
) -> SessionRecord:
    """Appends a turn to the head as it is."""
    head = (await store.open(session.user_id, session.id, create=False)).head
    return (
        await store.commit(session, TurnRecord(entries=entries, parent=head, head=head, **turn))
    ).session


async def talk(
    store: SessionStore, session: SessionRecord, turns: int, first: int = 0
) -> SessionRecord:
    """Appends many turns: q0, a0, q1, a1 …"""
    entries = [
        entry for i in range(first, first + turns) for entry in (user(f"q{i}"), reply(f"a{i}"))
    ]
    return await say(store, session, *entries)


async def path(store: SessionStore, session: SessionRecord) -> list[Item]:
    """All of the conversation, page by page."""
    found: list[Item] = []
    while True:
        page = await store.items(session, 7, found[-1].id if found else None, descending=False)
        found += page.data
        if not page.has_more:
            return found


def texts(items: Any) -> list[str]:
    return [item.message.text for item in items]


async def words(store: SessionStore, session: SessionRecord) -> list[str]:
    return texts(await path(store, session))


# --- names and owners -----------------------------------------------------------------------------


async def test_a_session_is_found_by_its_id_and_by_its_alias(store: SessionStore) -> None:
    made = await store.open(ALICE, "chat 1", model="echo")
    assert re.fullmatch(r"conv_[0-9a-f]{12}[\w-]{20}", made.id)
    assert (made.user_id, made.alias, made.model, made.head, made.message_count) == (
        ALICE,
        "chat 1",
        "echo",
        None,
        0,
    )
    assert (
        await store.open(ALICE, "chat 1", model="other")
        == await store.open(ALICE, made.id, create=False)
        == made
    )


async def test_without_a_name_each_session_is_new(store: SessionStore) -> None:
    made = [await store.open(ALICE, None) for _ in range(3)]
    assert len({session.id for session in made}) == 3
    assert {session.alias for session in made} == {None}


async def test_an_unknown_name_is_not_found_or_made(store: SessionStore) -> None:
    for name in ("chat", "conv_" + "0" * 32):
        with pytest.raises(NotFound):
            await store.open(ALICE, name, create=False)
        made = await store.open(ALICE, name)
        assert made.id != name
        assert await store.open(ALICE, name, create=False) == made


async def test_an_unusable_alias_is_refused_by_field(store: SessionStore) -> None:
    for name in HOSTILE:
        for create in (True, False):
            with pytest.raises(Invalid) as refused:
                await store.open(ALICE, name, create=create)
            assert refused.value.field == "conversation", ascii(name)
            str(refused.value).encode()
    assert (await store.list(ALICE)).data == ()


async def test_unusual_aliases_are_kept_to_the_code_point_and_apart(store: SessionStore) -> None:
    made = [await store.open(ALICE, name) for name in UNUSUAL]
    assert [session.alias for session in made] == UNUSUAL
    assert [await store.open(ALICE, name, create=False) for name in UNUSUAL] == made
    assert len({session.id for session in made}) == len(UNUSUAL)


async def test_a_session_is_found_whoevers_it_is_by_its_id_alone(store: SessionStore) -> None:
    hers, his = await store.open(ALICE, "chat"), await talk(store, await store.open(BOB, "chat"), 1)
    assert (await store.find(hers.id), await store.find(his.id)) == (hers, his)
    for unknown in ("chat", "conv_" + "0" * 32, "", "\x00", "\ud800"):
        with pytest.raises(NotFound):
            await store.find(unknown)


async def test_the_same_alias_of_another_user_is_another_session(store: SessionStore) -> None:
    hers, his = await store.open(ALICE, "chat"), await store.open(BOB, "chat")
    assert hers.id != his.id
    await talk(store, hers, 2)
    assert (await store.open(BOB, "chat")).message_count == 0


async def test_another_users_session_is_like_one_that_nobody_has(store: SessionStore) -> None:
    hers = await talk(store, await store.open(ALICE, "chat"), 2)
    item = (await path(store, hers))[0].id
    foreign, nobodys = replace(hers, user_id=BOB), replace(hers, id="conv_" + "0" * 32, user_id=BOB)
    outcomes = []
    for session in (foreign, nobodys):
        content_digest: list[str] = []
        for call in (
            store.open(BOB, session.id, create=False),
            store.lock(session, "x", 10),
            store.commit(session, TurnRecord(entries=(user("mine now"),))),
            store.window(session),
            store.items(session),
            store.item(session, item),
            store.match(session, [Message("user", "q0")]),
            store.update(session, title="mine now"),
            store.delete_item(session, item),
            store.fork(session),
            store.delete(session),
            store.unlock(session, "x"),
        ):
            try:
                content_digest.append(str(await call))
            except NotFound as refused:
                content_digest.append(str(refused).replace(session.id, "ID").replace(item, "ITEM"))
        outcomes.append(content_digest)
        assert [batch async for batch in store.export(session)] == []
    assert outcomes[0] == outcomes[1]
    assert "a0" not in str(outcomes)
    assert await store.open(ALICE, "chat") == hers
    assert (await store.list(BOB)).data == ()
    with pytest.raises(Invalid):
        await store.list(BOB, after=hers.id)
    # and opened, it is a session of his own, which he finds again
    his = await store.open(BOB, hers.id)
    assert (his.user_id, his.message_count, await store.open(BOB, hers.id)) == (BOB, 0, his)
    assert await store.open(ALICE, hers.id) == hers


async def test_of_calls_with_one_unknown_alias_one_makes_the_session(stores: Stores) -> None:
    opened = await asyncio.gather(
        *((stores.one, stores.two)[i % 2].open(ALICE, "chat") for i in range(20))
    )
    assert len({session.id for session in opened}) == 1
    assert len((await stores.one.list(ALICE)).data) == 1


# --- turns ----------------------------------------------------------------------------------------


async def test_what_was_said_is_read_back_in_order(store: SessionStore) -> None:
    session = await store.open(ALICE, None)
    usage = Usage(10, 5, 15, completion_tokens_details={"reasoning_tokens": 3})
    turn = TurnRecord(
        entries=(user("hi"), reply("hello", usage=usage, tokens=7, incomplete=True)),
        request_id="req_1",
        key="k1",
    )
    done = await store.commit(session, turn)
    first, second = (await store.window(done.session)).items
    assert (first.id, second.id) == done.ids
    assert (first.parent, second.parent, first.position, second.position) == (None, first.id, 1, 2)
    assert (second.speaker, second.usage, second.tokens, second.request_id) == (
        "echo",
        usage,
        7,
        "req_1",
    )
    assert (first.incomplete, second.incomplete, second.side) == (False, True, False)
    assert (done.session.head, done.session.message_count, done.session.usage) == (
        second.id,
        2,
        usage,
    )
    assert await store.item(session, first.id) == first
    later = await say(store, session, user("again"), reply("yes", usage=Usage(1, 1, 2)))
    assert later.usage == usage + Usage(1, 1, 2)
    assert await words(store, later) == ["hi", "hello", "again", "yes"]


async def test_a_message_is_kept_as_it_came(store: SessionStore) -> None:
    messages = [
        Message(
            "user",
            NASTY,
            name=NASTY,
            extra={"vendor": {"深": [1, 2.5, None, True, 2**70, NASTY]}, "extra": "yes", "x": ""},
        ),
        Message(
            "user",
            [
                {"type": "text", "text": NASTY, "cache_control": {"type": "ephemeral"}},
                {"type": "new", "x": {}},
            ],
        ),
        Message(
            "assistant",
            None,
            reasoning_content=NASTY,
            refusal="no",
            tool_calls=[{"id": "c", "odd": NASTY}],
        ),
        Message("tool", "", tool_call_id="c"),
        Message("developer", "Be brief."),
        Message("assistant", "\x00" * 1000 + "\ud800"),
        Message("odd role \x00", "x"),
    ]
    session = await store.open(ALICE, None)
    session = await say(
        store, session, *(NewItem(message=message, speaker=f"s{NASTY}") for message in messages)
    )
    assert [item.message for item in await path(store, session)] == messages
    assert [
        (await store.item(session, item.id)).message for item in await path(store, session)
    ] == messages
    messages[0].content = "changed by the caller afterwards"
    assert await words(store, session) == [
        NASTY,
        NASTY,
        "",
        "",
        "Be brief.",
        "\x00" * 1000 + "\ud800",
        "x",
    ]


async def test_ten_megabytes_are_kept_and_too_much_is_refused_by_field(store: SessionStore) -> None:
    session = await store.open(ALICE, None)
    picture = {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + "QUJD" * 2_500_000},
    }
    session = await say(
        store, session, NewItem(message=Message("user", [picture])), user("é" * 100_000)
    )
    assert [item.message.content for item in (await store.window(session)).items] == [
        [picture],
        "é" * 100_000,
    ]
    for message in (
        Message("user", "x" * (values.MAX_MESSAGE_LENGTH + 1)),
        Message("user", [nested(1000)]),
        Message("user", [nested(201)]),
    ):
        with pytest.raises(Invalid) as refused:
            await say(store, session, user("before"), NewItem(message=message))
        assert refused.value.field == "messages"
    assert (await store.open(ALICE, session.id)) == session


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"x": value}
    return value


async def test_a_turn_on_a_head_that_moved_changes_nothing(store: SessionStore) -> None:
    session = await talk(store, await store.open(ALICE, None), 1)
    stale = session.head
    session = await talk(store, session, 1, first=1)
    for head in (stale, None):
        with pytest.raises(HeadMoved) as refused:
            await store.commit(
                session, TurnRecord(entries=(user("late"),), parent=stale, head=head)
            )
        assert refused.value.code == "conversation_locked"
    assert await words(store, session) == ["q0", "a0", "q1", "a1"]
    assert await store.open(ALICE, session.id) == session


async def test_a_turn_on_a_parent_that_is_unknown_changes_nothing(store: SessionStore) -> None:
    session = await talk(store, await store.open(ALICE, None), 1)
    other = await say(store, await store.open(ALICE, None), user("elsewhere"))
    for parent in (other.head, "msg_unknown", "", "\x00", "\ud800"):
        with pytest.raises(NotFound):
            await store.commit(session, TurnRecord(entries=(user("late"),), parent=parent))
    assert await store.open(ALICE, session.id) == session


async def test_the_same_key_again_changes_nothing(store: SessionStore) -> None:
    session = await store.open(ALICE, None)
    turn = TurnRecord(
        entries=(user("hi"), reply("hello", usage=Usage(1, 1, 2))), head=None, key="k\ud800" * 100
    )
    first = await store.commit(session, turn)
    later = await talk(store, session, 3)
    again = await store.commit(session, turn)
    assert (first.repeated, again.repeated, again.ids, again.session) == (
        False,
        True,
        first.ids,
        later,
    )
    with pytest.raises(HeadMoved):  # without a key it is a new turn
        await store.commit(session, replace(turn, key=""))


async def test_a_turn_brings_the_state_and_the_model_with_it(store: SessionStore) -> None:
    session = await store.open(ALICE, None, model="echo")
    session = await say(store, session, user("hi"), state={"step": 1, NASTY: NASTY}, model="other")
    assert (session.state, session.model) == ({"step": 1, NASTY: NASTY}, "other")
    assert await store.open(ALICE, session.id) == session
    with pytest.raises(HeadMoved):
        await store.commit(
            session, TurnRecord(entries=(user("x"),), head="msg_x", state={"step": 2})
        )
    assert (await say(store, session, user("on"))).state == session.state


async def test_a_turn_without_entries_moves_the_head(store: SessionStore) -> None:
    session = await talk(store, await store.open(ALICE, None), 3)
    second = (await path(store, session))[1]
    back = (await store.commit(session, TurnRecord(parent=second.id))).session
    assert (back.head, back.message_count, await words(store, back)) == (second.id, 2, ["q0", "a0"])
    on = await talk(store, back, 1, first=1)
    assert await words(store, on) == ["q0", "a0", "q1", "a1"]
    assert on.message_count == 4
    empty = (await store.commit(session, TurnRecord(parent=None))).session
    assert (empty.head, empty.message_count, await words(store, empty)) == (None, 0, [])
    with pytest.raises(Invalid):
        await store.commit(session, TurnRecord(side=True))


# --- the client's own history ---------------------------------------------------------------------


async def mirror(
    store: SessionStore, session: SessionRecord, messages: list[Message], answer: str, **turn: Any
) -> SessionRecord:
    """A turn of a client that sends all of its history."""
    found = await store.match(session, messages)
    entries = (*(NewItem(message=message) for message in found.rest), reply(answer))
    return (
        await store.commit(session, TurnRecord(entries=entries, parent=found.id, **turn))
    ).session


def history(*words: str) -> list[Message]:
    return [Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(words)]


async def nodes(store: SessionStore, session: SessionRecord) -> list[str]:
    return sorted([item.message.text async for batch in store.export(session, 3) for item in batch])


async def test_what_is_sent_again_is_stored_once(store: SessionStore) -> None:
    session = await store.open(ALICE, "ui")
    session = await mirror(store, session, [Message("system", "v1"), *history("q0")], "a0")
    session = await mirror(
        store, session, [Message("system", "v2"), *history("q0", "a0", "q1")], "a1"
    )
    found = await store.match(
        session, [Message("developer", "v3"), *history("q0", "a0", "q1", "a1", "q2")]
    )
    assert (found.id, found.matched, [m.text for m in found.rest]) == (session.head, 4, ["q2"])
    assert await words(store, session) == ["q0", "a0", "q1", "a1"]
    assert await nodes(store, session) == ["a0", "a1", "q0", "q1"]
    assert session.message_count == 4


async def test_an_edit_in_the_middle_is_a_branch_and_the_other_one_stays(
    store: SessionStore,
) -> None:
    session = await talk(store, await store.open(ALICE, "ui"), 4)
    old = session
    edited = history("q0", "a0", "q1 edited")
    found = await store.match(session, edited)
    assert (found.matched, [m.text for m in found.rest]) == (2, ["q1 edited"])
    session = await mirror(store, session, edited, "b1")
    assert await words(store, session) == ["q0", "a0", "q1 edited", "b1"]
    assert session.message_count == 4
    assert texts((await store.window(session, at=old.head)).items) == [
        "q0",
        "a0",
        "q1",
        "a1",
        "q2",
        "a2",
        "q3",
        "a3",
    ]
    # both go on, and the client decides which one is the conversation
    session = await mirror(
        store, session, history("q0", "a0", "q1", "a1", "q2", "a2", "q3", "a3", "q4"), "a4"
    )
    assert (session.message_count, len(await words(store, session))) == (10, 10)
    session = await mirror(store, session, history("q0", "a0", "q1 edited", "b1", "r2"), "b2")
    assert await words(store, session) == ["q0", "a0", "q1 edited", "b1", "r2", "b2"]
    session = await mirror(store, session, history("another beginning"), "c0")
    assert await words(store, session) == ["another beginning", "c0"]
    assert len(await nodes(store, session)) == 16


async def test_a_regenerated_answer_is_a_sibling(store: SessionStore) -> None:
    session = await store.open(ALICE, "ui")
    for answer in ("first", "second", "third", "second"):
        session = await mirror(store, session, history("q0"), answer)
    first, second = await path(store, session)
    assert texts([first, second]) == ["q0", "second"]
    assert await nodes(store, session) == ["first", "q0", "second", "third"]
    session = await mirror(store, session, history("q0", "third", "q1"), "a1")
    assert await words(store, session) == ["q0", "third", "q1", "a1"]
    assert (await path(store, session))[1].parent == first.id


async def test_branches_of_branches_are_read_to_the_root(store: SessionStore) -> None:
    session = await store.open(ALICE, "ui")
    content_digest: list[str] = []
    for i in range(12):  # every answer is regenerated, and the second one kept
        content_digest.append(f"q{i}")
        await mirror(store, session, history(*content_digest), f"not a{i}")
        session = await mirror(store, session, history(*content_digest), f"a{i}")
        content_digest.append(f"a{i}")
    assert await words(store, session) == content_digest
    assert session.message_count == 24
    for most in (1, 2, 5, 23, 24, 30):
        assert texts((await store.window(session, messages=most)).items) == content_digest[-most:]
    page = await store.items(session, 5)
    assert texts(page.data) == content_digest[:-6:-1]
    assert (
        texts((await store.items(session, 5, page.data[-1].id)).data) == content_digest[-6:-11:-1]
    )


async def test_a_side_call_leaves_the_conversation_alone(store: SessionStore) -> None:
    session = await talk(store, await store.open(ALICE, "ui"), 1)
    entries = (user("Give this a title"), reply("A title", usage=Usage(3, 2, 5)))
    after = (await store.commit(session, TurnRecord(entries=entries, side=True))).session
    assert (after.head, after.message_count, after.usage) == (session.head, 2, Usage(3, 2, 5))
    assert await words(store, after) == ["q0", "a0"]
    items = [item async for batch in store.export(after) for item in batch]
    assert [(item.message.text, item.side) for item in items[2:]] == [
        ("Give this a title", True),
        ("A title", True),
    ]
    # until the user says just that
    after = await mirror(store, after, history("Give this a title", "A title", "thanks"), "welcome")
    assert await words(store, after) == ["Give this a title", "A title", "thanks", "welcome"]
    after = (await store.commit(session, TurnRecord(entries=(user("q0"),), side=True))).session
    assert [
        item.side for item in [await store.item(after, (await path(store, session))[0].id)]
    ] == [False]


async def test_a_turn_beside_another_one_is_stored_once(stores: Stores) -> None:
    session = await stores.one.open(ALICE, "ui")

    async def turn(i: int) -> None:
        store = (stores.one, stores.two)[i % 2]
        await mirror(
            store, session, [Message("system", str(i)), *history("q0", "a0", "q1")], f"a{i % 4}"
        )

    await asyncio.gather(*(turn(i) for i in range(20)))
    assert await nodes(stores.one, session) == ["a0", "a0", "a1", "a2", "a3", "q0", "q1"]
    now = await stores.one.open(ALICE, "ui")
    assert (await words(stores.one, now))[:3] == ["q0", "a0", "q1"]
    assert now.message_count == 4


async def test_an_incomplete_answer_gives_way_to_the_same_one_complete(store: SessionStore) -> None:
    session = await store.open(ALICE, None)
    for incomplete, tokens in ((False, 1), (True, 2)):
        turn = TurnRecord(
            entries=(user("q"), reply("half", incomplete=not incomplete, tokens=tokens))
        )
        session = (await store.commit(session, turn)).session
        items = await path(store, session)
        assert [(item.message.text, item.incomplete, item.tokens) for item in items[1:]] == [
            ("half", not incomplete, tokens)
        ]
    await store.commit(session, TurnRecord(entries=(user("q"), reply("half", incomplete=True))))
    assert [item.incomplete for item in await path(store, session)] == [False, False]


SAME = [
    (Message("user", "hi"),
     Message("user", [{"type": "text", "text": " h"}, {"type": "text", "text": "i\n"}])),
    (Message("user", "hi"),
     Message("user", "hi", name="alice", extra={"id": "m1", "cache_control": {}})),
    (Message("assistant", "yes", reasoning_content="hm"), Message("assistant", " yes ")),
    (Message("assistant", None,
             tool_calls=[{"id": "c", "function": {"name": "f", "arguments": '{"a": 1}'}}]),
     Message("assistant", "",
             tool_calls=[{"id": "c", "type": "function",
                          "function": {"name": "f", "arguments": '{"a":1}'}}])),
    (Message("user", [{"type": "image_url", "image_url": {"url": "data:a", "detail": "low"}}]),
     Message("user", [{"type": "image_url", "image_url": {"url": "data:a"}}])),
    (Message("user", "\ud83d\ude00"), Message("user", "😀")),
]  # fmt: skip
OTHER = [
    (Message("user", "hi"), Message("assistant", "hi")),
    (Message("user", "hi"), Message("user", "Hi")),
    (Message("user", "a b"), Message("user", "ab")),
    (Message("user", [{"type": "image_url", "image_url": {"url": "data:a"}}]),
     Message("user", [{"type": "image_url", "image_url": {"url": "data:b"}}])),
    (Message("user", [{"type": "file", "file": {"file_id": "a"}}]),
     Message("user", [{"type": "file", "file": {"file_id": "b"}}])),
    (Message("assistant", None, tool_calls=[{"id": "c", "function": {"name": "f"}}]),
     Message("assistant", None, tool_calls=[{"id": "c", "function": {"name": "g"}}])),
    (Message("assistant", None, tool_calls=[{"id": "c", "function": {"name": "f"}}]),
     Message("assistant", None, tool_calls=[{"id": "d", "function": {"name": "f"}}])),
    (Message("tool", "1", tool_call_id="c"), Message("tool", "1", tool_call_id="d")),
    (Message("assistant", None, extra={"function_call": {"name": "f"}}),
     Message("assistant", None, extra={"function_call": {"name": "g"}})),
    (Message("user", "\x00"), Message("user", "\ud800")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "same"), [(*pair, True) for pair in SAME] + [(*pair, False) for pair in OTHER]
)
def test_what_makes_two_messages_the_same(one: Message, other: Message, same: bool) -> None:
    assert (content_digest(one) == content_digest(other)) is same


def test_an_id_says_what_came_before() -> None:
    hi = content_digest(Message("user", "hi"))
    chain = [next_id(None, hi)]
    for _ in range(3):
        chain.append(next_id(chain[-1], hi))
    assert len(set(chain)) == 4
    assert all(re.fullmatch(r"msg_[\w-]{43}", one) for one in chain)


async def test_a_history_matches_however_it_is_written(store: SessionStore) -> None:
    session = await store.open(ALICE, "ui")
    kept = [one for one, _ in SAME]
    session = await say(store, session, *(NewItem(message=message) for message in kept))
    found = await store.match(session, [other for _, other in SAME] + history("new"))
    assert (found.id, found.matched, [m.text for m in found.rest]) == (
        session.head,
        len(SAME),
        ["new"],
    )
    for i in range(len(SAME)):
        cut = [other for _, other in SAME[:i]]
        found = await store.match(session, [*cut, Message("user", "an edit"), *kept[i + 1 :]])
        assert (found.matched, len(found.rest)) == (i, len(SAME) - i)
    assert await store.match(session, []) == await store.match(session, [Message("system", "x")])
    assert (await store.match(session, [])).id is None


async def test_system_messages_of_a_conversation_are_stored_and_no_part_of_the_clients_history(
    store: SessionStore,
) -> None:
    session = await store.open(ALICE, None)
    brief = NewItem(message=Message("developer", "Be brief."))
    aside = NewItem(message=Message("item", [{"type": "item", "item": {"type": "reasoning"}}]))
    session = await say(
        store,
        session,
        brief,
        user("q0"),
        aside,
        reply("a0"),
        NewItem(message=Message("system", "Be long.")),
    )
    assert await words(store, session) == ["Be brief.", "q0", "", "a0", "Be long."]
    session = await say(store, session, user("q1"), reply("a1"))
    found = await store.match(session, history("q0", "a0", "q1", "a1", "q2"))
    assert (found.id, found.matched, [m.text for m in found.rest]) == (session.head, 4, ["q2"])


# --- windows --------------------------------------------------------------------------------------


async def test_a_window_is_the_end_of_the_conversation(store: SessionStore) -> None:
    session = await store.open(ALICE, None)
    assert (await store.window(session)).items == ()
    session = await talk(store, session, 10)
    all_of_it = [text for i in range(10) for text in (f"q{i}", f"a{i}")]
    for most in (1, 2, 3, 19, 20, 21, 1000):
        assert texts((await store.window(session, messages=most)).items) == all_of_it[-most:]
    for most in (0, -1, 1001):
        with pytest.raises(Invalid):
            await store.window(session, messages=most)


async def test_a_window_is_of_the_head_that_was_read(store: SessionStore) -> None:
    session = await talk(store, await store.open(ALICE, None), 2)
    await talk(store, session, 1, first=2)
    assert texts((await store.window(session)).items) == ["q0", "a0", "q1", "a1"]
    middle = (await path(store, session))[1].id
    assert texts((await store.window(session, at=middle)).items) == ["q0", "a0"]
    for unknown in ("msg_unknown", "\x00", ""):
        with pytest.raises(NotFound):
            await store.window(session, at=unknown)


async def test_a_window_holds_so_many_tokens(store: SessionStore) -> None:
    session = await store.open(ALICE, None)
    session = await say(
        store,
        session,
        *(NewItem(message=Message("user", str(n)), tokens=n) for n in (100, 1, 20, 3, 0, 5)),
    )
    for tokens, expected in (
        (0, 0),
        (4, 0),
        (5, 2),
        (7, 2),
        (8, 3),
        (27, 3),
        (28, 4),
        (29, 5),
        (128, 5),
        (129, 6),
        (2**40, 6),
    ):
        assert len((await store.window(session, tokens=tokens)).items) == expected, tokens
    assert len((await store.window(session, tokens=29, messages=2)).items) == 2
    estimated = (await say(store, session, user("x" * 400))).head
    assert 100 <= (await store.item(session, estimated or "")).tokens <= 110


async def test_a_summary_stands_for_the_beginning(store: SessionStore) -> None:
    session = await talk(store, await store.open(ALICE, "ui"), 5)
    items = await path(store, session)
    summary = Summary(f"They talked. {NASTY}", items[5].id)
    session = await store.update(session, summary=summary)
    assert session.summary == (await store.open(ALICE, "ui")).summary == summary
    window = await store.window(session)
    assert (window.summary, texts(window.items)) == (summary, ["q3", "a3", "q4", "a4"])
    window = await store.window(session, messages=1)
    assert (window.summary, texts(window.items)) == (summary, ["a4"])
    window = await store.window(session, tokens=0)
    assert (window.summary, window.items) == (summary, ())
    # what it stands for stays stored
    assert len(await words(store, session)) == 10
    # on a branch that it does not lie on it stands for nothing
    other = await mirror(store, session, history("q0", "a0", "q1 edited"), "b1")
    window = await store.window(other)
    assert (window.summary, texts(window.items)) == (None, ["q0", "a0", "q1 edited", "b1"])
    # and on one that begins behind it, it does
    other = await mirror(
        store, session, history("q0", "a0", "q1", "a1", "q2", "a2", "q3 edited"), "b3"
    )
    window = await store.window(other)
    assert (window.summary, texts(window.items)) == (summary, ["q3 edited", "b3"])
    last = await store.update(session, summary=Summary("All of it.", other.head or ""))
    window = await store.window(last)
    assert (window.summary, window.items) == (Summary("All of it.", other.head or ""), ())
    gone = await store.update(session, summary=None)
    assert (gone.summary, len((await store.window(gone)).items)) == (None, 8)
    with pytest.raises(NotFound):
        await store.update(session, summary=Summary("x", "msg_unknown"))


async def test_a_window_has_no_half_of_a_tool_call(store: SessionStore) -> None:
    session = await store.open(ALICE, None)
    session = await say(
        store,
        session,
        user("q"),
        calling("1", "2"),
        tool("1"),
        tool("2"),
        reply("done"),
        user("more"),
    )
    for most, roles in ((6, "uattau"), (5, "attau"), (4, "au"), (3, "au"), (2, "au"), (1, "u")):
        items = (await store.window(session, messages=most)).items
        assert "".join(item.message.role[0] for item in items) == roles, most
    waiting = await say(store, session, calling("3", "4"), tool("3"))
    assert (
        "".join(item.message.role[0] for item in (await store.window(waiting)).items) == "uattauat"
    )
    given_up = await say(store, waiting, user("never mind"))
    assert (
        "".join(item.message.role[0] for item in (await store.window(given_up)).items) == "uattauu"
    )
    first_answer = (await path(store, given_up))[2]
    await store.delete_item(given_up, first_answer.id)
    assert texts((await store.window(given_up)).items) == ["q", "done", "more", "never mind"]


def test_pairs_of_calls_and_answers() -> None:
    def kept(*entries: NewItem) -> str:
        keep = paired([entry.message for entry in entries])
        return "".join("x" if yes else "." for yes in keep)

    assert kept(tool("1"), user("q"), calling("1"), tool("1")) == ".xxx"
    assert kept(calling("1"), user("q"), tool("1")) == ".x."
    assert kept(calling("1"), tool("1"), tool("1"), reply("a")) == "xx.x"
    assert kept(calling("1", "2"), tool("2"), calling("1"), tool("1"), user("q")) == "..xxx"
    assert kept(calling("1", "2"), tool("1")) == "xx"
    assert kept(calling("1", "2"), tool("1"), reply("a")) == "..x"
    # an answer in pieces
    aside = NewItem(message=Message("item", [{"type": "item", "item": {"type": "reasoning"}}]))
    assert kept(calling("1"), aside, calling("2"), tool("2"), tool("1"), reply("a")) == "xxxxxx"
    assert kept(calling("1"), calling("2"), tool("2"), reply("a")) == "...x"
    assert kept(calling("1"), aside, tool("1"), aside) == "xxxx"
    assert kept(calling("1"), tool("1"), calling("2"), user("q")) == "xx.x"
    assert kept(calling("1"), reply("a"), calling("2"), tool("2")) == ".xxx"
    assert kept() == ""


# --- items ----------------------------------------------------------------------------------------


async def test_items_come_in_pages_from_either_end(store: SessionStore) -> None:
    session = await talk(store, await store.open(ALICE, None), 5)
    expected = [text for i in range(5) for text in (f"q{i}", f"a{i}")]
    for descending in (True, False):
        order = expected[::-1] if descending else expected
        for limit in (1, 3, 10, 100):
            found: list[Item] = []
            more = True
            while more:
                page = await store.items(
                    session, limit, found[-1].id if found else None, descending=descending
                )
                assert page.data
                found += page.data
                more = page.has_more
            assert texts(found) == order
    assert (await store.items(await store.open(ALICE, None))).data == ()
    for unknown in ("msg_unknown", "after", "\x00", "\ud800"):
        assert (await store.items(session, after=unknown)).data == ()
    with pytest.raises(NotFound):
        await store.item(session, "msg_unknown")
    with pytest.raises(Invalid):
        await store.items(session, 0)


async def test_a_deleted_message_is_gone_and_the_others_stay(store: SessionStore) -> None:
    session = await talk(store, await store.open(ALICE, None), 4)
    items = await path(store, session)
    session = await store.delete_item(session, items[3].id)
    assert await words(store, session) == ["q0", "a0", "q1", "q2", "a2", "q3", "a3"]
    assert session.message_count == 7
    for call in (store.item(session, items[3].id), store.delete_item(session, items[3].id)):
        with pytest.raises(NotFound):
            await call
    kept = [item for item in items if item.id != items[3].id]
    assert [item.id for item in await path(store, session)] == [item.id for item in kept]
    assert texts((await store.window(session, messages=5)).items) == ["q1", "q2", "a2", "q3", "a3"]
    # it still serves as a cursor, in both directions
    assert texts((await store.items(session, 2, items[3].id, descending=False)).data) == [
        "q2",
        "a2",
    ]
    assert texts((await store.items(session, 2, items[3].id)).data) == ["q1", "a0"]
    session = await talk(store, session, 1, first=4)
    assert (session.message_count, len(await words(store, session))) == (9, 9)
    back = (await store.commit(session, TurnRecord(parent=items[5].id))).session
    assert (back.message_count, await words(store, back)) == (5, ["q0", "a0", "q1", "q2", "a2"])


async def test_deleting_one_by_one_while_paging_clears_everything(store: SessionStore) -> None:
    session = await talk(store, await store.open(ALICE, None), 5)
    after = None
    while (page := await store.items(session, 3, after)).data:
        for item in page.data:
            session = await store.delete_item(session, item.id)
        after = page.data[-1].id
    assert (session.message_count, await words(store, session)) == (0, [])
    assert (await store.window(session)).items == ()
    session = await talk(store, session, 1, first=7)
    assert (session.message_count, await words(store, session)) == (2, ["q7", "a7"])
    found = await store.match(session, history("q7", "a7", "q8"))
    # what was deleted is no part of the client's history
    assert (found.id, found.matched) == (session.head, 2)


async def test_what_is_said_again_after_it_was_deleted_is_there_again(store: SessionStore) -> None:
    session = await talk(store, await store.open(ALICE, "ui"), 2)
    items = await path(store, session)
    for item in items[2:]:
        session = await store.delete_item(session, item.id)
    found = await store.match(session, history("q0", "a0", "q1", "a1", "q2"))
    assert (found.id, [m.text for m in found.rest]) == (items[1].id, ["q1", "a1", "q2"])
    session = await mirror(store, session, history("q0", "a0", "q1", "a1", "q2"), "a2")
    assert await words(store, session) == ["q0", "a0", "q1", "a1", "q2", "a2"]
    assert session.message_count == 6
    found = await store.match(session, history("q0", "a0", "q1", "a1", "q2", "a2"))
    assert found.matched == 6


async def test_a_message_of_another_branch_is_deleted_alone(store: SessionStore) -> None:
    session = await talk(store, await store.open(ALICE, "ui"), 2)
    first = (await path(store, session))[-1]
    session = await mirror(store, session, history("q0", "a0", "q1"), "b1")
    after = await store.delete_item(session, first.id)
    assert (after.message_count, await words(store, after)) == (4, ["q0", "a0", "q1", "b1"])


async def test_no_deleted_word_is_exported(store: SessionStore) -> None:
    session = await talk(store, await store.open(ALICE, None), 2)
    items = await path(store, session)
    session = await store.delete_item(session, items[1].id)
    exported = [item async for batch in store.export(session, 1) for item in batch]
    assert texts(exported) == ["q0", "q1", "a1"]
    assert [item.parent for item in exported] == [None, items[0].id, items[2].id]


# --- sessions -------------------------------------------------------------------------------------


async def test_sessions_come_in_pages_newest_first(stores: Stores) -> None:
    store, made = stores.one, []
    for i in range(6):
        made.append(await store.open(ALICE, f"s{i}"))
        if i % 2:
            await stores.advance(1)  # two in the same moment
    await store.open(BOB, "his")
    await stores.advance(1)
    made[1] = await talk(store, made[1], 1)
    order = [made[i] for i in (1, 5, 4, 3, 2, 0)]
    found: list[SessionRecord] = []
    more = True
    while more:
        page = await store.list(ALICE, 2, found[-1].id if found else None)
        found, more = [*found, *page.data], page.has_more
    assert sorted(found, key=lambda one: one.id) == sorted(order, key=lambda one: one.id)
    assert [one.updated_at for one in found] == sorted(
        (one.updated_at for one in found), reverse=True
    )
    assert (found[0], found[-1].alias in ("s0", "s1")) == (made[1], True)
    assert len((await store.list(None, 100)).data) == 7
    for unknown in ("nothing", "\x00", "\ud800"):
        with pytest.raises(Invalid) as refused:
            await store.list(ALICE, after=unknown)
        assert refused.value.field == "after"


async def test_a_session_is_changed_field_by_field(store: SessionStore) -> None:
    session = await store.open(ALICE, "chat")
    changed = await store.update(
        session,
        title=f"  A \x00title\n {NASTY[:3]}\ud800 ",
        params={"temperature": 2**70, NASTY: [NASTY]},
        metadata={"k": NASTY},
        model="m",
    )
    assert (changed.title, changed.params, changed.metadata) == (
        "A title NUL",
        {"temperature": 2**70, NASTY: [NASTY]},
        {"k": NASTY},
    )
    assert (changed.updated_at, changed.model) == (session.updated_at, "m")
    again = await store.update(session, state={"a": 1})
    assert (again.title, again.state) == ("A title NUL", {"a": 1})
    assert await store.update(session) == await store.open(ALICE, "chat") == again
    cleared = await store.update(session, title=None, model=None)
    assert (cleared.title, cleared.model, cleared.params) == (None, None, changed.params)
    assert len((await store.update(session, title="long " * 1000)).title or "") <= 200


TOO_MUCH: list[tuple[str, Any]] = [
    ("metadata", {str(i): "x" for i in range(17)}),
    ("metadata", {"k" * 65: "x"}),
    ("metadata", {"k": "x" * 513}),
    ("metadata", {"k": 1}),
    ("params", {"x": "y" * 1_100_000}),
    ("state", {"x": nested(300)}),
    ("state", {"x": object()}),
]


async def test_too_much_is_refused_by_field(store: SessionStore) -> None:
    session = await store.open(ALICE, "chat")
    for field, value in TOO_MUCH:
        with pytest.raises(Invalid) as refused:
            await store.update(session, title="not this either", **{field: value})
        assert refused.value.field == field
        assert await store.open(ALICE, "chat") == session


async def test_a_deleted_session_is_gone_with_its_messages(store: SessionStore) -> None:
    session = await talk(store, await store.open(ALICE, "chat"), 2)
    other = await talk(store, await store.open(ALICE, "other"), 2)
    await store.delete(session)
    item = (await path(store, other))[0].id  # the same text, thus the same id
    for call in (
        store.delete(session),
        store.open(ALICE, "chat", create=False),
        store.commit(session, TurnRecord(entries=(user("late"),))),
        store.item(session, item),
        store.lock(session, "x", 1),
        store.update(session, title="x"),
    ):
        with pytest.raises(NotFound):
            await call
    await store.unlock(session, "x")
    assert (await store.open(ALICE, "chat")).message_count == 0
    assert len(await words(store, other)) == 4


async def test_a_user_is_forgotten_a_few_sessions_at_a_time(store: SessionStore) -> None:
    for i in range(5):
        await talk(store, await store.open(ALICE, f"s{i}"), 1)
    his = await store.open(BOB, "his")
    assert [await store.forget(ALICE, 2) for _ in range(4)] == [2, 2, 1, 0]
    assert (await store.list(None)).data == (his,)


async def test_a_fork_shares_the_past_and_nothing_else(store: SessionStore) -> None:
    session = await talk(store, await store.open(ALICE, "chat"), 3)
    await mirror(store, session, history("q0", "a0", "q1 edited"), "b1")
    session = (await store.commit(session, TurnRecord(parent=session.head))).session
    items = await path(store, session)
    session = await store.update(
        session, title="T", params={"p": 1}, metadata={"m": "1"}, summary=Summary("S", items[1].id)
    )
    session = await store.delete_item(session, items[2].id)
    fork = await store.fork(session, items[3].id, alias="fork")
    assert fork.id != session.id
    assert (fork.alias, fork.title, fork.params, fork.metadata, fork.user_id) == (
        "fork",
        "T",
        {"p": 1},
        {"m": "1"},
        ALICE,
    )
    assert (fork.head, fork.message_count, await words(store, fork)) == (
        items[3].id,
        3,
        ["q0", "a0", "a1"],
    )
    assert texts((await store.window(fork)).items) == ["a1"]
    assert fork.summary == Summary("S", items[1].id)
    on = await talk(store, fork, 2, first=7)
    assert await words(store, on) == ["q0", "a0", "a1", "q7", "a7", "q8", "a8"]
    await store.delete_item(on, items[0].id)
    assert await words(store, session) == ["q0", "a0", "a1", "q2", "a2"]
    await store.delete(session)
    assert await words(store, on) == ["a0", "a1", "q7", "a7", "q8", "a8"]
    early = await store.fork(on, items[1].id)
    assert (early.summary, await words(store, early)) == (Summary("S", items[1].id), ["a0"])
    with pytest.raises(Conflict):
        await store.fork(on, alias="fork")
    with pytest.raises(NotFound):
        await store.fork(on, items[0].id)
    assert (await store.fork(await store.open(ALICE, None))).message_count == 0


async def test_a_fork_of_a_branch_before_the_summary_has_none(store: SessionStore) -> None:
    session = await talk(store, await store.open(ALICE, "chat"), 3)
    items = await path(store, session)
    session = await store.update(session, summary=Summary("S", items[3].id))
    fork = await store.fork(session, items[1].id)
    assert (fork.summary, texts((await store.window(fork)).items)) == (None, ["q0", "a0"])


# --- locks and writers at once --------------------------------------------------------------------


async def test_a_lock_has_one_holder_until_its_time_is_over(stores: Stores) -> None:
    session = await stores.one.open(ALICE, "chat")
    assert await stores.one.lock(session, "a", 10) == session
    assert await stores.two.lock(session, "b", 10) is None
    await stores.advance(5)
    assert await stores.one.lock(session, "a", 10) == session
    await stores.advance(9)
    assert await stores.two.lock(session, "b", 10) is None
    await stores.advance(1)
    assert await stores.two.lock(session, "b", 10) == session
    await stores.one.unlock(session, "a")  # no longer theirs
    assert await stores.one.lock(session, "a", 10) is None
    await stores.two.unlock(session, "b")
    assert await stores.one.lock(session, "a", 10) == session


async def test_a_lock_is_handed_over_by_its_holder_alone(stores: Stores) -> None:
    session = await stores.one.open(ALICE, "chat")
    assert await stores.one.holder(session) == ""
    assert not await stores.one.hand_over(session, "a", "b")
    await stores.one.lock(session, "a", 10)
    assert await stores.two.holder(session) == "a"
    await stores.advance(5)
    assert not await stores.two.hand_over(session, "b", "c")
    assert await stores.two.hand_over(session, "a", "b")
    assert await stores.one.holder(session) == "b"
    assert await stores.one.lock(session, "a", 10) is None
    await stores.advance(5)  # its time has gone on
    assert await stores.one.holder(session) == ""
    assert await stores.one.lock(session, "a", 10) == session
    theirs = replace(session, user_id=BOB)
    assert await stores.one.holder(theirs) == ""
    assert not await stores.one.hand_over(theirs, "a", "b")


async def test_a_commit_ends_its_own_lock_only(stores: Stores) -> None:
    session = await stores.one.open(ALICE, "chat")
    await stores.one.lock(session, "a", 10)
    moved = await mirror(stores.two, session, history("q0"), "a0", holder="b")
    assert await stores.two.lock(session, "b", 10) is None
    with pytest.raises(HeadMoved):  # and leaves the lock, for whoever holds it to end
        await stores.one.commit(session, TurnRecord(entries=(user("x"),), head=None, holder="a"))
    assert await stores.two.lock(session, "b", 10) is None
    await say(stores.one, session, user("x"), holder="a")
    locked = await stores.two.lock(session, "b", 10)
    assert locked is not None
    assert locked.message_count == moved.message_count + 1


async def grab(store: SessionStore, session: SessionRecord, holder: str) -> SessionRecord:
    """Waits for the lock, as a caller does, and not for ever."""
    async with asyncio.timeout(60):
        while True:
            locked = await store.lock(session, holder, 600)
            if locked is not None:
                return locked
            await asyncio.sleep(0.002)


def seen(items: Any) -> str:
    return str(hash(tuple(item.id for item in items)))


async def one_turn(
    store: SessionStore, session: SessionRecord, name: str, *, fails: bool = False
) -> str:
    """A turn whose answer says what it saw; returns what it said."""
    locked = await grab(store, session, name)
    window = await store.window(locked)
    if fails:
        await store.unlock(locked, name)
        return ""
    await asyncio.sleep(0)
    entries = (user(name), reply(f"{name} saw {seen(window.items)}"))
    await store.commit(
        locked,
        TurnRecord(entries=entries, parent=locked.head, head=locked.head, key=name, holder=name),
    )
    return name


def check(items: list[Item], names: set[str]) -> None:
    """Every turn once, whole, and each saw exactly what was before it."""
    assert [item.position for item in items] == list(range(1, len(items) + 1))
    assert [item.parent for item in items] == [None, *(item.id for item in items[:-1])]
    questions, answers = texts(items[::2]), texts(items[1::2])
    assert sorted(questions) == sorted(names)
    for i, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        assert answer == f"{question} saw {seen(items[: 2 * i])}"


async def test_turns_at_once_follow_each_other(stores: Stores) -> None:
    session = await stores.one.open(ALICE, "chat")
    turns = [
        one_turn((stores.one, stores.two)[i % 2], session, f"t{i}", fails=i % 5 == 4)
        for i in range(20)
    ]
    names = {name for name in await asyncio.gather(*turns) if name}
    assert len(names) == 16
    after = await stores.one.open(ALICE, "chat")
    check(await path(stores.one, after), names)
    assert after.message_count == 32


async def test_without_locks_a_turn_is_refused_or_stored_but_never_mixed(stores: Stores) -> None:
    session = await stores.one.open(ALICE, "chat")

    async def insist(i: int) -> str:
        store, refusals = (stores.one, stores.two)[i % 2], 0
        while refusals < 100:
            now = await store.open(ALICE, "chat")
            window = await store.window(now)
            entries = (user(f"t{i}"), reply(f"t{i} saw {seen(window.items)}"))
            try:
                await store.commit(
                    session, TurnRecord(entries=entries, parent=now.head, head=now.head)
                )
            except HeadMoved:
                refusals += 1
            else:
                return f"t{i}"
        raise AssertionError("never its turn")

    names = set(await asyncio.gather(*(insist(i) for i in range(12))))
    check(await path(stores.one, await stores.one.open(ALICE, "chat")), names)


async def test_a_turn_that_is_committed_twice_at_once_is_there_once(stores: Stores) -> None:
    session = await stores.one.open(ALICE, "chat")
    turn = TurnRecord(entries=(user("q"), reply("a", usage=Usage(1, 1, 2))), head=None, key="once")
    done = await asyncio.gather(
        *((stores.one, stores.two)[i % 2].commit(session, turn) for i in range(8))
    )
    assert sorted(one.repeated for one in done) == [False] + [True] * 7
    after = await stores.one.open(ALICE, "chat")
    assert (after.message_count, after.usage) == (2, Usage(1, 1, 2))


# --- housekeeping ---------------------------------------------------------------------------------


async def test_what_is_old_is_swept_a_little_at_a_time(stores: Stores) -> None:
    store = stores.one
    for i in range(6):
        await talk(store, await store.open(ALICE, f"s{i}"), 1)
        await stores.advance(10)
    locked = await store.lock(await store.open(ALICE, "s0"), "x", 100)
    assert locked is not None
    keep = Retention(seconds=35)
    # s1, s2; somebody talks in s0
    assert [await store.sweep(keep, limit=1) for _ in range(3)] == [1, 1, 0]
    assert sorted(one.alias or "" for one in (await store.list(ALICE)).data) == [
        "s0",
        "s3",
        "s4",
        "s5",
    ]
    await store.unlock(locked, "x")
    await stores.advance(100)
    assert await store.sweep(keep, BOB) == 0
    assert await store.sweep(keep, ALICE) == 4


async def test_the_newest_sessions_of_each_user_stay(stores: Stores) -> None:
    store = stores.one
    for i in range(5):
        for name in (ALICE, BOB):
            await store.open(name, f"s{i}")
        await stores.advance(1)
    assert await store.sweep(Retention(newest=3), ALICE) == 2
    assert [one.alias for one in (await store.list(ALICE)).data] == ["s4", "s3", "s2"]
    assert len((await store.list(BOB)).data) == 5
    assert await store.sweep(Retention(newest=1), limit=100) == 6
    assert [one.alias for one in (await store.list(None)).data] == ["s4", "s4"]
    assert await store.sweep(Retention(newest=1)) == await store.sweep(Retention()) == 0


async def test_the_newest_messages_of_a_session_stay(store: SessionStore) -> None:
    session = await talk(store, await store.open(ALICE, "long"), 20)
    short = await talk(store, await store.open(ALICE, "short"), 2)
    items = await path(store, session)
    session = await store.delete_item(session, items[30].id)
    session = await store.update(session, summary=Summary("S", items[9].id))
    assert [await store.sweep(Retention(messages=10)) for _ in range(2)] == [1, 0]
    session = await store.open(ALICE, "long")
    left = [item for item in items[29:] if item.id != items[30].id]
    assert [item.id for item in await path(store, session)] == [item.id for item in left]
    assert (session.message_count, len(await words(store, short))) == (10, 4)
    assert texts((await store.window(session, messages=500)).items) == texts(left)
    with pytest.raises(NotFound):
        await store.item(session, items[0].id)
    # the client, which has all of it, goes on
    deleted = [item.message for item in items]
    session = await mirror(store, session, [*deleted, Message("user", "q20")], "a20")
    assert texts((await store.window(session, messages=3)).items) == ["a19", "q20", "a20"]
    assert session.message_count == 12
    fork = await store.fork(session)
    assert (fork.message_count, await words(store, fork)) == (12, await words(store, session))
    exported = [item async for batch in store.export(session) for item in batch]
    assert texts(exported)[-2:] == ["q20", "a20"]
    again = await store.restore(BOB, session, exported)
    assert (await words(store, again), again.message_count) == (await words(store, session), 12)


async def test_a_session_is_exported_and_made_again(stores: Stores) -> None:
    store = stores.one
    session = await store.open(ALICE, "chat", model="echo")
    usage = Usage(1, 2, 3)
    session = await say(
        store,
        session,
        user(NASTY),
        reply("a0", usage=usage, tokens=9, incomplete=True),
        request_id="r",
    )
    session = await talk(store, session, 3, first=1)
    await store.commit(session, TurnRecord(entries=(user("title?"), reply("T")), side=True))
    for branch in range(3):
        session = await mirror(
            store, session, [Message("user", NASTY), *history("x", "a0", "q1")[1:2]], f"b{branch}"
        )
        session = await mirror(
            store,
            session,
            [Message("user", NASTY), Message("assistant", "a0"), Message("user", f"e{branch}")],
            "same",
        )
    session = await store.update(
        session,
        title="T",
        params={"p": 1},
        state={"s": 1},
        summary=Summary("S", session.head or ""),
    )
    await stores.advance(100)
    batches = [batch async for batch in store.export(session, 4)]
    assert all(len(batch) <= 4 for batch in batches)
    items = [item for batch in batches for item in batch]
    made = await stores.two.restore(BOB, session, items, alias="imported")
    assert (made.user_id, made.alias, made.title, made.model) == (BOB, "imported", "T", "echo")
    assert (made.params, made.state, made.usage, made.summary) == (
        session.params,
        session.state,
        session.usage,
        session.summary,
    )
    assert (made.head, made.message_count) == (session.head, session.message_count)
    copies = [item async for batch in store.export(made, 1000) for item in batch]
    assert sorted(copies, key=lambda item: item.id) == sorted(items, key=lambda item: item.id)
    assert await store.open(BOB, "imported") == made
    assert await words(store, made) == await words(store, session)
    on = await mirror(store, made, [item.message for item in await path(store, made)], "on")
    assert on.message_count == made.message_count + 1
    with pytest.raises(Conflict):
        await store.restore(BOB, session, items, alias="imported")
    assert (
        await store.restore(BOB, replace(session, head=None, summary=None), [])
    ).message_count == 0


async def test_other_peoples_ids_are_mapped_and_wrong_ones_refused(store: SessionStore) -> None:
    def item(id: str, parent: str | None, text: str) -> Item:
        message = Message("user", text)
        return Item(id=id, parent=parent, position=0, message=message, speaker="", tokens=1,
                    usage=None, request_id="", incomplete=False, side=False,
                    created_at=7)  # fmt: skip

    like = SessionRecord(id="x", user_id="y", head="4", title="T", summary=Summary("S", "1"))
    items = [
        item("1", None, "a"),
        item("2", "1", "b"),
        item("3", "1", "b"),
        item("4", "3", "c"),
        item("5", "2", "d"),
    ]
    made = await store.restore(ALICE, like, iter(items))
    assert (await words(store, made), made.message_count) == (["a", "b", "c"], 3)
    assert await nodes(store, made) == ["a", "b", "c", "d"]
    assert made.summary is not None
    assert made.summary.upto == (await path(store, made))[0].id
    before = len((await store.list(ALICE)).data)
    for wrong in ([item("1", "2", "a"), item("2", None, "b")], [item("1", None, "a")]):
        with pytest.raises(Invalid) as refused:
            await store.restore(ALICE, like, wrong)
        assert refused.value.field == "messages"
    assert len((await store.list(ALICE)).data) == before
