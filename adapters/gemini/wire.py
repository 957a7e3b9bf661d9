"""Google's Gemini API.

How fields are translated is in request.py, messages.py and reader.py.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Self
from urllib.parse import quote

from chattable.adapters.decoding import hidden_error, read_error
from chattable.adapters.errors import InvalidUpstreamResponse, UpstreamHTTPError
from chattable.adapters.gemini.errors import error_from
from chattable.adapters.gemini.reader import GeminiStream
from chattable.adapters.gemini.request import GeminiBody
from chattable.adapters.openai.wire import encode_body
from chattable.adapters.params import Unsupported
from chattable.adapters.wire import SSE, Framing, Wire
from chattable.agents.chat import Chat, Chunk

COLLECTIONS = ("models", "tunedModels")


class GeminiWire(Wire):
    """Speaks generateContent.

    Law: what it does not support goes by the rule `unsupported`, never in silence.
    """

    framing = Framing(SSE.media, SSE.decoder, terminated=False)

    def __init__(self, *, unsupported: Unsupported = "drop") -> None:
        self.unsupported = unsupported

    def with_unsupported(self, unsupported: Unsupported, allow: Collection[str] = ()) -> Self:
        """As any wire, but `extra_body` is allowed: only Google's own words in it are passed on."""
        return super().with_unsupported(unsupported, {*allow, "extra_body"})

    def path(self, model: str, stream: bool) -> str:
        """The model and the verb; a key never stands there."""
        collection, slash, name = model.partition("/")
        if not slash or collection not in COLLECTIONS:
            collection, name = COLLECTIONS[0], model
        verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return f"/{collection}/{quote(name, safe='')}:{verb}"

    def headers(self, api_key: str) -> list[tuple[str, str]]:
        """The key."""
        return [("x-goog-api-key", api_key)] if api_key else []

    def build_request(self, chat: Chat, model: str, most: int | None = None) -> bytes:
        """The body; raises `InvalidRequest` for what the API cannot do."""
        return encode_body(
            lambda: (
                GeminiBody(self.with_allowed_params(chat), model, unsupported=self.unsupported).json
            )
        )

    def parse_response(self, body: bytes) -> list[Chunk]:
        """A whole answer, read as the one event of a stream."""
        reader = GeminiStream()
        chunks = reader.feed(body)
        if not reader.complete:
            raise InvalidUpstreamResponse("sent an answer that has no end")
        return chunks

    def stream_reader(self, choices: int = 1) -> GeminiStream:
        """A reader for one stream."""
        return GeminiStream()

    def parse_error(self, status: int, body: bytes) -> UpstreamHTTPError:
        """The upstream's own error."""
        raw = read_error(body)
        return error_from(hidden_error(raw) or raw, status)
