"""What can go wrong in a conversation.

    ChatError
    ├── InvalidRequest      the caller's mistake; `param` names the field
    │   └── MissingParameter
    ├── ModelNotFound       no such name, or not for this caller
    ├── LimitReached        a turn used up its calls or its depth
    ├── TurnTimeout         a turn used up its seconds
    └── AgentFailed         an agent's code raised; its text stays in the log

A `ChatError`'s message is written for the caller and may be shown to them.
"""

from __future__ import annotations

from typing import Any


class ChatError(Exception):
    """A conversation that cannot go on; the message says what the caller can do about it."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class InvalidRequest(ChatError):
    """The request itself is wrong; `param` is the path of the field."""


class MissingParameter(InvalidRequest):
    """A required field is absent."""

    def __init__(self, param: str) -> None:
        super().__init__(
            f"Missing required parameter: '{param}'.",
            param=param,
            code="missing_required_parameter",
        )


class ModelNotFound(ChatError):
    """The name is unknown, or known and not for this caller: the two look alike."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The model `{clip(model)}` does not exist or you do not have access to it.",
            param="model",
            code="model_not_found",
        )


class LimitReached(ChatError):
    """A turn asked for more model calls, or nested deeper, than it may."""


class TurnTimeout(ChatError):
    """A turn took longer than its agent's `limits.seconds`."""


class AgentFailed(ChatError):
    """An agent's own code raised something that is not a `ChatError`."""

    def __init__(self, agent: str) -> None:
        super().__init__(f"The agent `{agent}` failed to answer.", code="agent_error")


def clip(text: Any, limit: int = 200) -> str:
    """A value as an error message may quote it: printable, one line, bounded."""
    shown = "".join(c if c.isprintable() else "�" for c in str(text)[: limit + 1])
    return shown if len(shown) <= limit else shown[:limit] + "…"
