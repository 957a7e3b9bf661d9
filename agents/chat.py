"""The vocabulary of a conversation: what is asked (`Chat`) and how it is answered (`Chunk`).

Everything here has the shape of OpenAI's chat completions. Fields that this file does not name
survive: in `Message.extra`, `Chat.params`, `Chunk.delta` and `Chunk.facts`. How chunks are brought
into one form and become one answer is in fold.py.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

Json = dict[str, Any]


class Message(Struct, omit_defaults=True):
    """One message of a conversation, whoever speaks."""

    role: str  # required: a default would vanish under omit_defaults
    # always written, as null too
    content: str | list[Json] | None = msgspec.field(default_factory=lambda: None)
    name: str | None = None  # who speaks, in a team
    tool_calls: list[Json] | None = None  # calls the *client* must run, never the agent's own
    tool_call_id: str | None = None
    reasoning_content: str | None = None  # thinking and progress; chat UIs fold it away
    refusal: str | None = None
    extra: Json = {}  # every other field, as it came

    @property
    def text(self) -> str:
        """The words of the message, whether content is a string or parts."""
        if isinstance(self.content, list):
            return "".join(
                part["text"] for part in self.content if isinstance(part.get("text"), str)
            )
        return self.content or ""

    def to_json(self) -> Message | Json:
        """The message in OpenAI's form: itself, or a dict where it has extra fields."""
        if not self.extra:
            return self
        known: Json = msgspec.to_builtins(self)
        del known["extra"]
        return known | self.extra


class Usage(Struct, omit_defaults=True):
    """Tokens that an answer used, as its provider counts them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: Json | None = None
    completion_tokens_details: Json | None = None

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.total_tokens + other.total_tokens,
            _add(self.prompt_tokens_details, other.prompt_tokens_details),
            _add(self.completion_tokens_details, other.completion_tokens_details),
        )


NO_USAGE = Usage(0, 0, 0)


class Chunk(Struct):
    """One step of a reply: what choice `index` gained, why it ended, or what the reply used.

    `delta` has the form of OpenAI's streamed deltas; a whole message is simply one large delta.
    """

    index: int = 0
    delta: Json = {}
    finish_reason: str | None = None
    logprobs: Json | None = None
    usage: Usage | None = None
    # fields of the whole reply: system_fingerprint, service_tier, citations …
    facts: Json | None = None

    @property
    def text(self) -> str:
        """The words this step adds."""
        content = self.delta.get("content")
        return content if isinstance(content, str) else ""


class Chat(Struct, frozen=True):
    """One request for an answer.

    Law: `params` holds every field but model, messages and stream, exactly as it came.
    """

    model: str
    messages: list[Message]
    stream: bool = False
    params: Json = {}

    @property
    def tools(self) -> list[Json]:
        """The client's tools, in OpenAI's form."""
        return self.params.get("tools") or []

    @property
    def include_usage(self) -> bool:
        """Whether the client of a stream asked to be told the usage."""
        options = self.params.get("stream_options")
        return bool(options and options.get("include_usage"))


def _add(one: Json | None, other: Json | None) -> Json | None:
    """Details summed where both are numbers."""
    if not one or not other:
        return one or other
    return one | {
        k: one[k] + v if isinstance(v, int) and isinstance(one.get(k), int) else v
        for k, v in other.items()
    }
