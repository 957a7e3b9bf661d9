"""Encodes chunks for OpenAI's clients: server-sent events for streams, one object for the rest."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from chattable.agents.chat import NO_USAGE, Chunk, Json
from chattable.agents.fold import INCOMPLETE, Accumulator
from chattable.proxy.errors import Failure
from chattable.proxy.reply_stream import ReplyStream

DONE = b"data: [DONE]\n\n"
KEEPALIVE = b": keep-alive\n\n"  # a comment is the only form of silence that no client trips over

encode = msgspec.json.Encoder().encode


class Frames:
    """Writes one answer, as frames or as one object.

    Law: the same id, created and model everywhere; usage of a stream only when asked for, on a
    frame of its own.
    """

    def __init__(self, reply: ReplyStream, model: str, *, include_usage: bool = False) -> None:
        self.id = reply.id
        self.created = reply.created
        self.model = model
        self.begun = False
        self._head = (
            b'data: {"id":"%b","object":"chat.completion.chunk","created":%d,"model":%b,'
            % (
                self.id.encode(),
                self.created,
                encode(model),
            )
        )
        self._prefix = self._head + b'"choices":[{"index":'
        self._suffix = b'}],"usage":null}\n\n' if include_usage else b"}]}\n\n"
        self._include_usage = include_usage
        self._facts: Json | None = None

    def encode(self, chunks: Iterable[Chunk]) -> bytes:
        """The frames of these chunks, as one block of bytes."""
        self.begun = True
        return b"".join([self._frame(chunk) for chunk in chunks])

    def completion(self, fold: Accumulator) -> bytes:
        """The whole answer as one chat completion object."""
        choices = fold.choices()
        for choice in choices:
            if choice.finish_reason == INCOMPLETE:
                choice.finish_reason = None
        return encode(
            {
                "id": self.id,
                "object": "chat.completion",
                "created": self.created,
                "model": self.model,
                "choices": choices,
                "usage": fold.usage or NO_USAGE,
                **fold.facts,
            }
        )

    def _frame(self, chunk: Chunk) -> bytes:
        if chunk.facts is not self._facts:
            self._facts = chunk.facts
            facts = encode(chunk.facts)[1:-1] + b"," if chunk.facts else b""
            self._prefix = self._head + facts + b'"choices":[{"index":'
        if chunk.usage is not None:
            if not self._include_usage:
                return b""
            return self._prefix.removesuffix(b'[{"index":') + b'[],"usage":%b}\n\n' % encode(
                chunk.usage
            )
        if chunk.finish_reason == INCOMPLETE:
            return b""
        return b'%b%d,"delta":%b,"logprobs":%b,"finish_reason":%b%b' % (
            self._prefix,
            chunk.index,
            encode(chunk.delta),
            encode(chunk.logprobs) if chunk.logprobs else b"null",
            encode(chunk.finish_reason) if chunk.finish_reason else b"null",
            self._suffix,
        )


def error_frame(failure: Failure) -> bytes:
    """The last frame of a stream that failed; no `[DONE]` follows it."""
    return b"data: " + failure.body() + b"\n\n"
