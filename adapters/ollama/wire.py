"""Ollama's own API, /api/chat.

It has what the OpenAI-compatible one lacks: num_ctx, keep_alive, think, durations.
"""

from __future__ import annotations

from chattable.adapters.decoding import read_error
from chattable.adapters.errors import InvalidUpstreamResponse, UpstreamHTTPError
from chattable.adapters.ollama.ndjson import LineDecoder
from chattable.adapters.ollama.reader import OllamaStream, error_from
from chattable.adapters.ollama.request import OllamaBody
from chattable.adapters.openai.wire import encode_body
from chattable.adapters.params import Unsupported
from chattable.adapters.wire import Framing, Wire
from chattable.agents.chat import Chat, Chunk


class OllamaWire(Wire):
    """Speaks /api/chat.

    Law: what it does not support goes by the rule `unsupported`, never in silence.
    """

    framing = Framing("application/x-ndjson", LineDecoder, whole_answers=True)

    models_path = "/api/tags"

    def __init__(self, *, unsupported: Unsupported = "drop") -> None:
        self.unsupported = unsupported

    def path(self, model: str, stream: bool) -> str:
        """The same for every model."""
        return "/api/chat"

    def headers(self, api_key: str) -> list[tuple[str, str]]:
        """A bearer token, for servers that want one."""
        return [("authorization", f"Bearer {api_key}")] if api_key else []

    def build_request(self, chat: Chat, model: str, most: int | None = None) -> bytes:
        """The body; raises `InvalidRequest` for what the API cannot do."""
        return encode_body(
            lambda: (
                OllamaBody(self.with_allowed_params(chat), model, unsupported=self.unsupported).json
            )
        )

    def parse_response(self, body: bytes) -> list[Chunk]:
        """A whole answer, read as the one line of a stream."""
        reader = OllamaStream()
        chunks = reader.feed(body)
        if not reader.complete:
            raise InvalidUpstreamResponse("sent an answer that has no end")
        return chunks

    def stream_reader(self, choices: int = 1) -> OllamaStream:
        """A reader for one stream."""
        return OllamaStream()

    def parse_error(self, status: int, body: bytes) -> UpstreamHTTPError:
        """The upstream's own error."""
        return error_from(read_error(body), status)
