"""Google's Gemini API.

What becomes of which field is in gemini_request.py, gemini_messages.py, gemini_reader.py.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Self
from urllib.parse import quote

from chattable.adapters.decoding import hidden_error, read_error
from chattable.adapters.errors import BrokenAnswer, Refused
from chattable.adapters.gemini.errors import reported
from chattable.adapters.gemini.reader import GeminiStream
from chattable.adapters.gemini.request import Body
from chattable.adapters.openai.wire import write
from chattable.adapters.params import Unsupported
from chattable.adapters.wire import SSE, Frames, Wire
from chattable.agents.chat import Chat, Chunk

COLLECTIONS = ("models", "tunedModels")


class GeminiWire(Wire):
    """Speaks generateContent.

    Law: what it has no place for goes by the rule `unsupported`, never in silence.
    """

    frames = Frames(SSE.media, SSE.decoder, terminated=False)

    def __init__(self, *, unsupported: Unsupported = "drop") -> None:
        self.unsupported = unsupported

    def ruled(self, unsupported: Unsupported, allow: Collection[str] = ()) -> Self:
        """As any wire; of `extra_body` it passes on Google's own words alone, by name, so that this is not withheld."""
        return super().ruled(unsupported, {*allow, "extra_body"})

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

    def request(self, chat: Chat, model: str, most: int | None = None) -> bytes:
        """The body; raises `InvalidRequest` for what the API cannot do."""
        return write(lambda: Body(self.allows(chat), model, unsupported=self.unsupported).json)

    def reply(self, body: bytes) -> list[Chunk]:
        """A whole answer, read as the one event of a stream."""
        reader = GeminiStream()
        chunks = reader.feed(body)
        if not reader.complete:
            raise BrokenAnswer("sent an answer that has no end")
        return chunks

    def stream(self, choices: int = 1) -> GeminiStream:
        """A reader for one stream."""
        return GeminiStream()

    def error(self, status: int, body: bytes) -> Refused:
        """The upstream's own error."""
        raw = read_error(body)
        return reported(hidden_error(raw) or raw, status)
