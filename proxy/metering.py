"""Joins chats and budgets: what a request may use and what it did use.

Until the ledger is built nothing is held and nothing refused; what an upstream does not report is already counted here.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from chattable.agents.chat import Chat, Chunk, Usage
from chattable.budget.tokens import count_async
from chattable.proxy.auth import Caller
from chattable.proxy.catalog import Entry


class Hold(Protocol):
    """What one request may use. Left in any way, it is settled."""

    chat: Chat  # with the output capped to what is held
    reported: Usage | None  # what the answer says it used

    def see(self, chunk: Chunk) -> None:
        """Notes a step of the answer."""
        ...

    async def usage(self) -> Usage:
        """What the answer used: as reported, else counted."""
        ...


class Metering(Protocol):
    """Admits requests and books what they use."""

    def hold(self, chat: Chat, entry: Entry, caller: Caller) -> AbstractAsyncContextManager[Hold]:
        """The right to ask `entry` this, or an error that says when there will be one."""
        ...


class Unlimited:
    """Admits everything, books nothing."""

    def hold(self, chat: Chat, entry: Entry, caller: Caller) -> AbstractAsyncContextManager[Hold]:
        """A hold without bounds."""
        return _Counter(chat, entry)


class _Counter:
    def __init__(self, chat: Chat, entry: Entry) -> None:
        self.chat = chat
        self._entry = entry
        self.reported: Usage | None = None
        self._said: list[str] = []

    async def __aenter__(self) -> Hold:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    def see(self, chunk: Chunk) -> None:
        """Keeps the usage, and the words in case none comes."""
        if chunk.usage is not None:
            self.reported = chunk.usage
        elif text := chunk.delta.get("content"):
            self._said.append(text)

    async def usage(self) -> Usage:
        """The reported usage, else an estimate: the words of both sides, counted."""
        if self.reported is None:
            name = self._entry.name
            asked = await count_async("\n".join(m.text for m in self.chat.messages), name)
            said = await count_async("".join(self._said), name)
            self.reported = Usage(asked, said, asked + said)
        return self.reported
