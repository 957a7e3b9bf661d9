"""Plans of turns: what is replayed, replaced or asked, and how much history fits."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from databases import migrated_sqlite
from session_stores import Stores, in_sql

from chattable.agents.chat import Chat, Message
from chattable.proxy.sessions.plans import RETRY_WINDOW_S, SUMMARY, Plan, appended
from chattable.proxy.store.sessions.port import (
    NewItem,
    SessionRecord,
    SessionStore,
    Summary,
    TurnRecord,
)
from chattable.proxy.store.sessions.values import tokens_of

QUESTION, ANSWER = Message("user", "one?"), Message("assistant", "one.")
NEXT, NEXT_ANSWER = Message("user", "two?"), Message("assistant", "two.")


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    async with in_sql(migrated_sqlite(tmp_path / "chat.db")) as stores:
        yield stores


@pytest.fixture
def store(stores: Stores) -> SessionStore:
    return stores.one


async def said(
    store: SessionStore, *messages: Message, incomplete: Message | None = None
) -> SessionRecord:
    session = await store.open("user_a", "s")
    for message in messages:
        entry = NewItem(message=message, incomplete=message is incomplete)
        turn = TurnRecord(entries=(entry,), parent=session.head)
        session = (await store.commit(session, turn)).session
    return session


async def planned(
    store: SessionStore,
    session: SessionRecord,
    *messages: Message,
    tokens: int | None = None,
    retried: float | None = None,
    failed: bool = False,
    anew: bool = False,
) -> Plan:
    return await appended(
        store,
        session,
        Chat("m", list(messages)),
        most=10,
        tokens=tokens,
        retried=retried,
        failed=failed,
        anew=anew,
    )


async def answered_at(store: SessionStore, session: SessionRecord) -> float:
    return (await store.items(session, 1)).data[0].created_at


def texts(plan: Plan) -> list[str]:
    return [message.text for message in plan.messages]


# --- a retry of what was just answered ------------------------------------------------------------


@pytest.mark.parametrize(
    ("later", "replayed"),
    [
        (0, True),
        (RETRY_WINDOW_S, True),
        (RETRY_WINDOW_S + 1, False),
        (-RETRY_WINDOW_S, True),
        (-RETRY_WINDOW_S - 1, False),
    ],
)
async def test_a_retry_is_answered_again_within_a_minute_and_no_longer(
    store: SessionStore, later: float, replayed: bool
) -> None:
    session = await said(store, QUESTION, ANSWER)
    now = await answered_at(store, session) + later
    plan = await planned(store, session, QUESTION, retried=now)
    assert (plan.replay is not None) == replayed
    assert plan.parent == (None if replayed else session.head)


async def test_a_retry_of_a_turn_that_failed_since_is_asked(store: SessionStore) -> None:
    session = await said(store, QUESTION, ANSWER)
    now = await answered_at(store, session)
    plan = await planned(store, session, QUESTION, retried=now, failed=True)
    assert (plan.replay, plan.parent) == (None, session.head)
    assert texts(plan) == ["one?", "one.", "one?"]


@pytest.mark.parametrize("failed", [False, True])
async def test_a_retry_of_an_incomplete_answer_replaces_it_and_keeps_what_followed(
    store: SessionStore, failed: bool
) -> None:
    session = await said(store, QUESTION, ANSWER, NEXT, NEXT_ANSWER, incomplete=ANSWER)
    now = await answered_at(store, session)
    plan = await planned(store, session, QUESTION, retried=now, failed=failed)
    assert (plan.replay, plan.parent, texts(plan)) == (None, None, ["one?"])
    assert [entry.message for entry in plan.following] == [NEXT, NEXT_ANSWER]


async def test_a_replay_moves_nothing_that_follows(store: SessionStore) -> None:
    session = await said(store, QUESTION, ANSWER, NEXT, NEXT_ANSWER)
    now = await answered_at(store, session)
    plan = await planned(store, session, QUESTION, retried=now)
    assert plan.replay is not None
    assert plan.following == ()


# --- the last question once more ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("incomplete", "anew", "replaced"),
    [(False, False, False), (False, True, True), (True, False, True), (True, True, True)],
)
async def test_the_last_question_is_answered_beside_its_answer_only_if_asked_or_incomplete(
    store: SessionStore, incomplete: bool, anew: bool, replaced: bool
) -> None:
    session = await said(store, QUESTION, ANSWER, incomplete=ANSWER if incomplete else None)
    plan = await planned(store, session, QUESTION, anew=anew)
    assert plan.replay is None
    assert plan.following == ()
    assert plan.parent == (None if replaced else session.head)
    assert texts(plan) == (["one?"] if replaced else ["one?", "one.", "one?"])


@pytest.mark.parametrize("anew", [False, True])
async def test_an_earlier_question_is_a_new_one(store: SessionStore, anew: bool) -> None:
    session = await said(store, QUESTION, ANSWER, NEXT, NEXT_ANSWER, incomplete=NEXT_ANSWER)
    plan = await planned(store, session, QUESTION, anew=anew)
    assert (plan.parent, len(plan.messages)) == (session.head, 5)


# --- what fits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spare", "history", "cut"),
    [
        (0, ["one?", "one.", "two?", "two."], False),
        # the answer without its question does not go either
        (-1, ["two?", "two."], True),
        (-10, ["two?", "two."], True),  # the first two have five tokens each
        (-1_000, [], True),
    ],
)
async def test_the_history_is_cut_only_where_it_does_not_fit(
    store: SessionStore, spare: int, history: list[str], cut: bool
) -> None:
    """A summary, for which the client waits, is written only then."""
    messages = (QUESTION, ANSWER, NEXT, NEXT_ANSWER)
    session = await said(store, *messages)
    new = Message("user", "three?")
    room = sum(tokens_of(NewItem(message=message)) for message in (*messages, new))
    plan = await planned(store, session, new, tokens=room + spare)
    assert (texts(plan), plan.cut) == ([*history, "three?"], cut)
    assert plan.length == len(history)


async def test_without_a_limit_nothing_is_cut(store: SessionStore) -> None:
    session = await said(store, QUESTION, ANSWER)
    plan = await planned(store, session, NEXT)
    assert (texts(plan), plan.cut) == (["one?", "one.", "two?"], False)


async def test_what_a_summary_stands_for_is_not_cut(store: SessionStore) -> None:
    session = await said(store, QUESTION, ANSWER, NEXT, NEXT_ANSWER)
    answer = (await store.items(session, 2, descending=False)).data[1]
    session = await store.update(session, summary=Summary("notes", answer.id))
    plan = await planned(store, session, Message("user", "three?"))
    assert texts(plan) == [f"{SUMMARY}notes", "two?", "two.", "three?"]
    assert (plan.cut, plan.length) == (False, 2)
