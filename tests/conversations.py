"""Conversations with the real server: what a client sends, is answered, and what is stored."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from echo_model import text_of
from openai import OpenAI
from process import Chattable
from promises.house import until
from upstream import ScriptedUpstream

from chattable.proxy.store.database import Database
from chattable.proxy.store.errors import NotFound
from chattable.proxy.store.sessions.port import Item, SessionRecord
from chattable.proxy.store.sessions.sql_store import SqlSessions

Body = dict[str, Any]
T = TypeVar("T")


@dataclass
class Told:
    """One answer: its words, and what its headers say of the session."""

    text: str
    headers: dict[str, str] = field(default_factory=dict)
    message: Body = field(default_factory=dict)

    @property
    def session(self) -> str | None:
        return self.headers.get("x-session-id")

    @property
    def mode(self) -> str | None:
        return self.headers.get("x-session-mode")

    @property
    def injected(self) -> int:
        return int(self.headers["x-session-injected"])


def talk(
    sdk: OpenAI,
    said: str | Sequence[Body],
    session: str | None = None,
    *,
    stream: bool = False,
    **fields: Any,
) -> Told:
    """One request of an unmodified SDK.

    `mode`, `task` and `headers` are sent as headers, all else as fields of the body.
    """
    headers = {
        "X-Session-Id": session,
        "X-Session-Mode": fields.pop("mode", None),
        "X-Task": fields.pop("task", None),
    }
    headers |= fields.pop("headers", {})
    messages: Any = [{"role": "user", "content": said}] if isinstance(said, str) else said
    create = sdk.chat.completions.with_raw_response.create
    raw = create(
        model=fields.pop("model", "m"),
        messages=messages,
        stream=stream,
        extra_headers={name: value for name, value in headers.items() if value is not None},
        extra_body=fields,
    )
    shown = dict(raw.headers)
    if not stream:
        whole: Any = raw.parse()
        message = whole.choices[0].message
        return Told(message.content or "", shown, message.model_dump(exclude_none=True))
    chunks: Any = raw.parse()
    return Told(
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), shown
    )


def lines(messages: Sequence[Body]) -> list[str]:
    """Messages in short: one letter for the role and the words."""
    return [f"{message['role'][0]}:{text_of(message)}" for message in messages]


def asked(upstream: ScriptedUpstream, index: int = -1) -> list[str]:
    """The messages of a prompt that the upstream received, in short."""
    return lines(upstream.requests[index].json["messages"])


class Kept:
    """What a database has of its users' sessions, read beside the server."""

    def __init__(self, server: Chattable, url: str = "") -> None:
        self._server = server
        self._url = url or f"sqlite:///{Path(server.directory) / 'chattable.db'}"
        self._users: dict[str, str] = {}

    def session(self, user: str, name: str) -> SessionRecord:
        """The user's session of this id or alias, which is there."""
        session = self.find(user, name)
        assert session is not None, name
        return session

    def find(self, user: str, name: str) -> SessionRecord | None:
        """The user's session of this id or alias."""

        async def read(store: SqlSessions) -> SessionRecord | None:
            try:
                return await store.open(self._id(user), name, create=False)
            except NotFound:
                return None

        return self._read(read)

    def path(self, user: str, name: str) -> list[Item]:
        """The messages from the root to the head."""
        session = self.find(user, name)
        if session is None:
            return []

        async def read(store: SqlSessions) -> list[Item]:
            items: list[Item] = []
            while True:
                page = await store.items(
                    session, 1000, items[-1].id if items else None, descending=False
                )
                items += page.data
                if not page.has_more:
                    return items

        return self._read(read)

    def said(self, user: str, name: str) -> list[str]:
        """The conversation in short."""
        return [f"{item.message.role[0]}:{item.message.text}" for item in self.path(user, name)]

    def all(self, user: str, name: str) -> list[Item]:
        """The messages of every branch."""
        session = self.session(user, name)

        async def read(store: SqlSessions) -> list[Item]:
            return [item async for batch in store.export(session) for item in batch]

        return self._read(read)

    def sessions(self, user: str) -> list[SessionRecord]:
        """The user's sessions, the newest first."""

        async def read(store: SqlSessions) -> list[SessionRecord]:
            return list((await store.list(self._id(user), 1000)).data)

        return self._read(read)

    def update(self, user: str, name: str, **fields: Any) -> None:
        """Changes a session."""

        async def write(store: SqlSessions) -> None:
            await store.update(await store.open(self._id(user), name), **fields)

        self._read(write)

    def title(self, user: str, name: str) -> str:
        """The title, which comes a little after the answer."""
        until(
            lambda: (found := self.find(user, name)) and found.title,
            "the session has a title",
            10,
        )
        session = self.session(user, name)
        assert session is not None
        assert session.title is not None
        return session.title

    def _id(self, user: str) -> str:
        if user not in self._users:
            self._users[user] = str(self._server.admin("GET", f"/admin/users/{user}")["id"])
        return self._users[user]

    def _read(self, read: Callable[[SqlSessions], Awaitable[T]]) -> T:
        async def work() -> T:
            database = Database(self._url)
            await database.start()
            try:
                return await read(SqlSessions(database.storage))
            finally:
                await database.stop()

        return asyncio.run(work())
