"""Remembers turns that failed a short while ago.

A retry by an SDK may have the words of the answered turn before: if a turn with these words failed
since, the retry asks for an answer of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from chattable.agents.chat import Message
from chattable.proxy.store.sessions.chain import content_digest, conversation_messages

MAX_FAILURES = 1000


class RecentFailures:
    """Remembers failures until a turn with the same messages is answered.

    The newest ones of this process: most retries come back to it.
    """

    def __init__(self) -> None:
        self._seen: dict[bytes, None] = {}  # in the order in which they came

    def add(self, session: str, messages: Sequence[Message]) -> None:
        """Notes that a turn with these messages failed."""
        self._seen[_digest(session, messages)] = None
        if len(self._seen) > MAX_FAILURES:
            del self._seen[next(iter(self._seen))]

    def has(self, session: str, messages: Sequence[Message]) -> bool:
        """Whether such a turn failed and none was answered since."""
        return bool(self._seen) and _digest(session, messages) in self._seen

    def discard(self, session: str, messages: Sequence[Message]) -> None:
        """Notes that such a turn was answered."""
        if self._seen:
            self._seen.pop(_digest(session, messages), None)


def _digest(session: str, messages: Sequence[Message]) -> bytes:
    return sha256(
        session.encode()
        + b"".join(content_digest(message) for message in conversation_messages(messages))
    ).digest()
