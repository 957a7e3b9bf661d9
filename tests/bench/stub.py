"""The cheapest upstream that is still a real one: fixed answers at once, so that what is measured is the proxy alone.

    python tests/bench/stub.py PORT [--by-step]

The model's name says what comes: `m` a completion, or with `"stream":true` 22 chunks (20 words,
finish, usage) and [DONE]; `m-222` a stream of 222 chunks; `m-idle` one word and then silence until
the client leaves. A POST to /v1/messages gets the same words as 22 chunks, as Anthropic streams
them. A GET answers with the number of POSTs so far. With --by-step a stream goes on, by one chunk,
only with a GET to /next: then nothing depends on how quickly it is read.
"""

import asyncio
import json
import re
import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import uvloop

MODEL = re.compile(rb'"model"\s*:\s*"([^"]*)"')
STREAM = re.compile(rb'"stream"\s*:\s*true')
USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
WORDS = (" one", " two", " and", " more")  # a token each, as models cut them
SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


def whole(body: dict[str, Any]) -> bytes:
    data = json.dumps(body, separators=(",", ":")).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        len(data),
        data,
    )


def completion() -> dict[str, Any]:
    message = {
        "role": "assistant",
        "content": "Hello there, how can I help you today?",
        "refusal": None,
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": USAGE,
    }


def event(body: dict[str, Any] | str) -> bytes:
    data = (
        b"data: %s\n\n"
        % (body if isinstance(body, str) else json.dumps(body, separators=(",", ":"))).encode()
    )
    return b"%x\r\n%s\r\n" % (len(data), data)


def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }


@cache
def stream(chunks: int) -> list[bytes]:
    """Returns the writes of a stream: `chunks` events and then [DONE]; the first word carries the role."""
    said = [{"content": WORDS[n % len(WORDS)]} for n in range(chunks - 2)]
    events = [chunk({"role": "assistant"} | said[0]), *map(chunk, said[1:]), chunk({}, "stop")]
    usage = USAGE | {
        "completion_tokens": len(said),
        "total_tokens": USAGE["prompt_tokens"] + len(said),
    }
    events.append(chunk({}) | {"choices": [], "usage": usage})
    return [*map(event, events), event("[DONE]") + b"0\r\n\r\n"]


@cache
def messages(chunks: int) -> list[bytes]:
    """Returns the writes of a stream with as many words in Anthropic's form, whose events say their type twice."""
    usage = {"input_tokens": 10, "output_tokens": 1}
    message: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
    }
    said = [
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": WORDS[n % len(WORDS)]},
        }
        for n in range(chunks - 2)
    ]
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message | {"usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *said,
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": chunks - 2},
        },
        {"type": "message_stop"},
    ]
    return [*map(named, events), b"0\r\n\r\n"]


def named(body: dict[str, Any]) -> bytes:
    data = b"event: %s\ndata: %s\n\n" % (
        body["type"].encode(),
        json.dumps(body, separators=(",", ":")).encode(),
    )
    return b"%x\r\n%s\r\n" % (len(data), data)


PLAIN = whole(completion())


class Stub(asyncio.Protocol):
    posts = 0
    by_step = False
    waiting: Callable[[], None] | None = None  # what sends the next chunk, with --by-step

    def connection_made(self, transport: Any) -> None:
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + size:
                return
            body, self.buffer = self.buffer[end + 4 : end + 4 + size], self.buffer[end + 4 + size :]
            self.answer(head, body)

    def answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"get "):
            if head.startswith(b"get /next") and Stub.waiting:
                Stub.waiting()
            self.transport.write(whole({"posts": Stub.posts}))
            return
        Stub.posts += 1
        if not STREAM.search(body):
            self.transport.write(PLAIN)
            return
        if head.startswith(b"post /v1/messages"):
            self.transport.write(SSE_HEAD)
            self.step(messages(22), 0)
            return
        name = MODEL.search(body)
        kind = name[1].rpartition(b"-")[2] if name else b""
        self.transport.write(SSE_HEAD)
        self.step(
            [stream(22)[0]] if kind == b"idle" else stream(int(kind) if kind.isdigit() else 22), 0
        )

    def step(self, chunks: list[bytes], index: int) -> None:
        # One write per turn of the loop: a stream arrives in pieces, as it does from a model.
        Stub.waiting = None
        if index == len(chunks) or self.transport.is_closing():
            return
        self.transport.write(chunks[index])
        if Stub.by_step:
            Stub.waiting = partial(self.step, chunks, index + 1)
        else:
            asyncio.get_running_loop().call_soon(self.step, chunks, index + 1)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    Stub.by_step = "--by-step" in sys.argv
    uvloop.run(main(int(sys.argv[1])))
