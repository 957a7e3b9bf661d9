"""A pytest plugin for openai-python's own run: before each of its tests of conversations, the ones it asks for are there.

The suite was written for a server that invents what it is asked for. It takes the conversation
`conv_123` with the item `msg_abc` as given, and deletes both again and again.
"""

import asyncio
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from databases import transaction

from chattable.agents.chat import Message
from chattable.proxy.store.database import Database
from chattable.proxy.store.errors import NotFound
from chattable.proxy.store.sessions.port import NewItem, TurnRecord
from chattable.proxy.store.sessions.sql_store import SqlSessions
from chattable.proxy.store.tables import session_messages, sessions

CONVERSATION, ITEM = "conv_123", "msg_abc"
URL, USER = "CHATTABLE_SEED_DATABASE", "CHATTABLE_SEED_USER"


def environment(url: str, user: str) -> Mapping[str, str]:
    """What tells the plugin where the server keeps its conversations, and whose they are."""
    return {URL: url, USER: user}


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """The conversation, as if nobody had touched it."""
    if "conversations" in request.node.nodeid:
        with ThreadPoolExecutor() as thread:  # whose event loop is none of the tests'
            thread.submit(asyncio.run, _seed(os.environ[URL], os.environ[USER])).result()


async def _seed(url: str, user: str) -> None:
    database = Database(url)
    await database.start()
    store = SqlSessions(database.storage)
    with suppress(NotFound):
        await store.delete(await store.open(user, CONVERSATION, create=False))
    session = await store.open(user, CONVERSATION)
    await store.commit(session, TurnRecord(entries=(NewItem(message=Message("user", "hello")),)))
    async with transaction(database) as connection:  # an id that no message gets by itself
        own = session_messages.c.session_id == session.id
        await connection.execute(session_messages.update().where(own).values(id=ITEM))
        await connection.execute(
            sessions.update().where(sessions.c.id == session.id).values(head=ITEM)
        )
    await database.stop()
