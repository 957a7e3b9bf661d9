"""The place of session history in the pipeline; until sessions are built, a turn is exactly what the client sent."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from chattable.agents.chat import Chat, Chunk
from chattable.proxy.auth import Caller


class Turn(Protocol):
    """One exchange of a session. Left without an exception, it is saved; with one, it leaves no trace."""

    chat: Chat  # with the stored history, fitted to the window
    headers: dict[str, str]

    def see(self, chunk: Chunk) -> None:
        """Notes a step of the answer."""
        ...


class Sessions(Protocol):
    """Where conversations are kept."""

    def turn(self, chat: Chat, caller: Caller) -> AbstractAsyncContextManager[Turn]:
        """The turn that this request is."""
        ...


class NoSessions:
    """Keeps nothing."""

    def turn(self, chat: Chat, caller: Caller) -> AbstractAsyncContextManager[Turn]:
        """The request as it came."""
        return _Stateless(chat)


class _Stateless:
    headers: dict[str, str] = {}  # noqa: RUF012 - never written

    def __init__(self, chat: Chat) -> None:
        self.chat = chat

    async def __aenter__(self) -> Turn:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    def see(self, chunk: Chunk) -> None:
        """Forgets it."""
