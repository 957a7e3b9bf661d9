"""The place of the response cache in the pipeline; until it is built, every request is a miss."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from chattable.agents.chat import Chat, Chunk
from chattable.proxy.auth import Caller
from chattable.proxy.catalog import Entry


class Lookup(Protocol):
    """What the cache knows of a request. Left without an exception, what was seen may be stored."""

    replay: AsyncGenerator[Chunk] | None  # a stored answer, or one under way for somebody else
    headers: dict[str, str]

    def see(self, chunk: Chunk) -> None:
        """Notes a step of the answer."""
        ...


class Cache(Protocol):
    """Answers identical requests once."""

    def lookup(self, chat: Chat, entry: Entry, caller: Caller) -> AbstractAsyncContextManager[Lookup]:
        """A replay, or the lead of the identical requests to come."""
        ...


class NoCache:
    """Remembers nothing."""

    def lookup(self, chat: Chat, entry: Entry, caller: Caller) -> AbstractAsyncContextManager[Lookup]:
        """A miss."""
        return MISS


class _Miss:
    replay: AsyncGenerator[Chunk] | None = None
    headers: dict[str, str] = {}  # noqa: RUF012 - never written

    async def __aenter__(self) -> Lookup:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    def see(self, chunk: Chunk) -> None:
        """Forgets it."""


MISS = _Miss()
