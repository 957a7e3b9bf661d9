"""Anthropic's Messages API.

What was meant by which field is in anthropic_request.py and anthropic_messages.py.
"""

from __future__ import annotations

from chattable.adapters.anthropic.betas import Headed, betas, with_betas
from chattable.adapters.anthropic.reader import AnthropicStream, reported
from chattable.adapters.anthropic.request import Body
from chattable.adapters.decoding import hidden_error, read_error, read_object
from chattable.adapters.errors import BrokenAnswer, Refused
from chattable.adapters.openai.wire import write
from chattable.adapters.params import Unsupported
from chattable.adapters.vendors.withheld import BETAS
from chattable.adapters.wire import Wire
from chattable.agents.chat import Chat, Chunk, Json

VERSION = "2023-06-01"


class AnthropicWire(Wire):
    """Speaks the Messages API.

    Law: what it has no place for goes by the rule `unsupported`, never in silence.
    """

    def __init__(self, *, max_tokens: int = 4096, unsupported: Unsupported = "drop") -> None:
        self._max_tokens = max_tokens  # where neither client nor model has a cap: the API wants one
        self.unsupported = unsupported

    def path(self, model: str, stream: bool) -> str:
        """The same for every model."""
        return "/messages"

    def headers(self, api_key: str) -> list[tuple[str, str]]:
        """The key, and the version of the API that this file speaks."""
        return [*([("x-api-key", api_key)] if api_key else []), ("anthropic-version", VERSION)]

    def request(self, chat: Chat, model: str, most: int | None = None) -> bytes:
        """The body; raises `InvalidRequest` for what the API cannot do."""
        wanted: list[str] = []

        def body() -> Json:
            made = Body(
                self.allows(chat), model, cap=most or self._max_tokens, unsupported=self.unsupported
            ).json
            wanted.extend(betas(chat.params.get(BETAS), made, anything=self.any_beta))
            return made

        return with_betas(write(body), wanted)

    def signature(self, api_key: str, host: str, target: str, body: bytes) -> list[tuple[str, str]]:
        """The features that the body makes use of."""
        return [*body.headers] if isinstance(body, Headed) else []

    def reply(self, body: bytes) -> list[Chunk]:
        """A whole message, read as the stream that it might have been."""
        raw = read_object(body)
        content = raw.get("content")
        if (raw.get("error") or not content) and (error := hidden_error(raw)) is not None:
            raise reported(error)
        if not isinstance(content, list):
            raise BrokenAnswer("sent a message without content")
        if not isinstance(raw.get("stop_reason"), str):
            raise BrokenAnswer("sent a message that has no end")
        reader = AnthropicStream()
        chunks = reader.see({"type": "message_start", "message": raw})
        for i, block in enumerate(content):
            chunks += reader.see(
                {"type": "content_block_start", "index": i, "content_block": block}
            )
            chunks += reader.see({"type": "content_block_stop", "index": i})
        end = {"type": "message_delta", "delta": raw, "usage": raw.get("usage")}
        return chunks + reader.see(end)

    def stream(self, choices: int = 1) -> AnthropicStream:
        """A reader for one stream."""
        return AnthropicStream()

    def error(self, status: int, body: bytes) -> Refused:
        """The upstream's own error, its status kept."""
        raw = read_error(body)
        return reported(hidden_error(raw) or raw, status)
