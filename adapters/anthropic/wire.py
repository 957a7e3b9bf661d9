"""Anthropic's Messages API.

How fields are translated is in request.py and messages.py.
"""

from __future__ import annotations

from chattable.adapters.anthropic.betas import Headed, betas, with_betas
from chattable.adapters.anthropic.reader import AnthropicStream, error_from
from chattable.adapters.anthropic.request import AnthropicBody
from chattable.adapters.decoding import hidden_error, read_error, read_object
from chattable.adapters.errors import InvalidUpstreamResponse, UpstreamHTTPError
from chattable.adapters.openai.wire import encode_body
from chattable.adapters.params import Unsupported
from chattable.adapters.vendors.withheld import BETAS
from chattable.adapters.wire import Wire
from chattable.agents.chat import Chat, Chunk, Json

VERSION = "2023-06-01"


class AnthropicWire(Wire):
    """Speaks the Messages API.

    Law: what it does not support goes by the rule `unsupported`, never in silence.
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

    def build_request(self, chat: Chat, model: str, most: int | None = None) -> bytes:
        """The body; raises `InvalidRequest` for what the API cannot do."""
        wanted: list[str] = []

        def body() -> Json:
            made = AnthropicBody(
                self.with_allowed_params(chat),
                model,
                cap=most or self._max_tokens,
                unsupported=self.unsupported,
            ).json
            wanted.extend(betas(chat.params.get(BETAS), made, anything=self.any_beta))
            return made

        return with_betas(encode_body(body), wanted)

    def signature(self, api_key: str, host: str, target: str, body: bytes) -> list[tuple[str, str]]:
        """The features that the body makes use of."""
        return [*body.headers] if isinstance(body, Headed) else []

    def parse_response(self, body: bytes) -> list[Chunk]:
        """A whole message, read as the stream that it might have been."""
        raw = read_object(body)
        content = raw.get("content")
        if (raw.get("error") or not content) and (error := hidden_error(raw)) is not None:
            raise error_from(error)
        if not isinstance(content, list):
            raise InvalidUpstreamResponse("sent a message without content")
        if not isinstance(raw.get("stop_reason"), str):
            raise InvalidUpstreamResponse("sent a message that has no end")
        reader = AnthropicStream()
        chunks = reader.on_event({"type": "message_start", "message": raw})
        for i, block in enumerate(content):
            chunks += reader.on_event(
                {"type": "content_block_start", "index": i, "content_block": block}
            )
            chunks += reader.on_event({"type": "content_block_stop", "index": i})
        end = {"type": "message_delta", "delta": raw, "usage": raw.get("usage")}
        return chunks + reader.on_event(end)

    def stream_reader(self, choices: int = 1) -> AnthropicStream:
        """A reader for one stream."""
        return AnthropicStream()

    def parse_error(self, status: int, body: bytes) -> UpstreamHTTPError:
        """The upstream's own error, its status kept."""
        raw = read_error(body)
        return error_from(hidden_error(raw) or raw, status)
