"""Ollama's own API, /api/chat: what its OpenAI-compatible one has no words for (num_ctx, keep_alive, think, durations)."""

from __future__ import annotations

from chattable.adapters.decoding import read_error
from chattable.adapters.errors import BrokenAnswer, Refused
from chattable.adapters.ollama.ndjson import LineDecoder
from chattable.adapters.ollama.reader import OllamaStream, reported
from chattable.adapters.ollama.request import Body
from chattable.adapters.openai.wire import write
from chattable.adapters.params import Unsupported
from chattable.adapters.wire import Frames, Wire
from chattable.agents.chat import Chat, Chunk


class OllamaWire(Wire):
    """Speaks /api/chat.

    Law: what it has no place for goes by the rule `unsupported`, never in silence.
    """

    frames = Frames("application/x-ndjson", LineDecoder, bare=True)

    listing = "/api/tags"

    def __init__(self, *, unsupported: Unsupported = "drop") -> None:
        self.unsupported = unsupported

    def path(self, model: str, stream: bool) -> str:
        """The same for every model."""
        return "/api/chat"

    def headers(self, api_key: str) -> list[tuple[str, str]]:
        """A bearer token, for servers that want one."""
        return [("authorization", f"Bearer {api_key}")] if api_key else []

    def request(self, chat: Chat, model: str, most: int | None = None) -> bytes:
        """The body; raises `InvalidRequest` for what the API cannot do."""
        return write(lambda: Body(self.allows(chat), model, unsupported=self.unsupported).json)

    def reply(self, body: bytes) -> list[Chunk]:
        """A whole answer, read as the one line of a stream."""
        reader = OllamaStream()
        chunks = reader.feed(body)
        if not reader.complete:
            raise BrokenAnswer("sent an answer that has no end")
        return chunks

    def stream(self, choices: int = 1) -> OllamaStream:
        """A reader for one stream."""
        return OllamaStream()

    def error(self, status: int, body: bytes) -> Refused:
        """The upstream's own error."""
        return reported(read_error(body), status)
