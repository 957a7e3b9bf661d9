"""Whatever the bytes of a stream look like on their way, its chunks are those of the clean one; and silence has a measure."""

import json
from collections.abc import Iterable
from typing import Any

import httpx
import pytest
from answers import bytewise, splits
from frames import framed
from httpx_transport import HttpxTransport
from wired import DATA, Alone

from chattable.adapters import stream_reading, upstream
from chattable.adapters.errors import (
    InvalidUpstreamResponse,
    UpstreamError,
    UpstreamHTTPError,
    UpstreamTimedOut,
)
from chattable.adapters.services import VENDORS
from chattable.adapters.stream_reading import UpstreamTimeouts
from chattable.adapters.upstream import Upstream, UpstreamProvider
from chattable.agents.chat import Chat, Chunk, Message
from chattable.agents.chattable import Context, TurnUser
from chattable.agents.run_turn import run_turn

SSE = "text/event-stream"
# kind → the type of its streams, and one with words, calls or thoughts in it
STREAMS = {
    "openai": (SSE, "openai_usage_stream.txt"),
    "openai calls": (SSE, "openai_parallel_tools_stream.txt"),
    "azure": (SSE, "azure_text_stream.txt"),
    "anthropic": (SSE, "anthropic_text_stream.txt"),
    "anthropic thoughts": (SSE, "anthropic_thinking_stream.txt"),
    "gemini": (SSE, "gemini_text_stream.txt"),
    "ollama-native": ("application/x-ndjson", "ollama_text_stream.jsonl"),
    "bedrock": ("application/vnd.amazon.eventstream", "bedrock_text_stream.jsonl"),
}
WIRES = [name for name in STREAMS if " " not in name]
EVENTS = [name for name, (media, _) in STREAMS.items() if media == SSE]


class Blocks(httpx.AsyncByteStream):
    """A body in these blocks."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)

    def __aiter__(self) -> "Blocks":
        return self

    async def __anext__(self) -> bytes:
        for block in self._blocks:
            return block
        raise StopAsyncIteration


class Answering(httpx.AsyncBaseTransport):
    """Answers with one body."""

    def __init__(self, media: str | None, blocks: Iterable[bytes]) -> None:
        self._headers = {} if media is None else {"content-type": media}
        self._blocks = blocks

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=self._headers, stream=Blocks(self._blocks))


def clean(name: str) -> bytes:
    data = (DATA / STREAMS[name][1]).read_bytes()
    return framed(data) if name == "bedrock" else data


async def chunks(
    name: str,
    blocks: Iterable[bytes],
    media: str | None = "",
    *,
    stream: bool = True,
    timeouts: UpstreamTimeouts | None = None,
) -> list[Chunk]:
    """What is made of a body."""
    kind = name.split()[0]
    vendor = VENDORS[kind]
    options = {"region": "eu-central-1", "api_version": "2024-10-21"}
    media = STREAMS[name][0] if media == "" else media
    provider = UpstreamProvider(
        kind,
        vendor.wire.with_options(options),
        "http://x.test",
        HttpxTransport(Answering(media, blocks)),
        api_key="key-of-x",
    )
    upstream = Upstream(provider, "m", retries=0, timeouts=timeouts)
    ctx = Context(Alone(), Chat("m", [Message("user", "Hi")], stream, {}), TurnUser("u", "u"), "m")
    return [chunk async for chunk in run_turn(upstream, ctx)]


def mangled(name: str) -> dict[str, bytes]:
    """The same stream in other bytes."""
    data = clean(name)
    if name == "bedrock":
        return {"clean": data}
    end = b"\n\n" if name in EVENTS else b"\n"
    ways = {
        "clean": data,
        "CRLF": data.replace(b"\n", b"\r\n"),
        "no last end": data.rstrip(b"\n"),
        "blank lines": data.replace(end, end + b"\n\r\n"),
    }
    if name in EVENTS:
        beats = data.replace(
            end, end + b": still here\n\ndata:\n\ndata: ping\n\nid: 1\nretry: 5\n\n"
        )
        ways |= {
            "CR": data.replace(b"\n", b"\r"),
            "heartbeats": b"\n: hello\n\n" + beats,
            "a mark": b"\xef\xbb\xbf" + data,
            "no space": data.replace(b"data: ", b"data:"),
            "everything": b"\xef\xbb\xbf\r\r" + beats.replace(b"\n", b"\r").rstrip(b"\r"),
        }
    return ways


@pytest.mark.parametrize("name", STREAMS)
async def test_d_a_stream_is_the_same_in_any_bytes(name: str) -> None:
    meant = await chunks(name, [clean(name)])
    assert [chunk.finish_reason for chunk in meant if chunk.usage is None][-1] in (
        "stop",
        "tool_calls",
    )
    for way, data in mangled(name).items():
        for blocks in ([data], bytewise(data)):
            assert await chunks(name, blocks) == meant, way


@pytest.mark.parametrize("name", STREAMS)
async def test_d_a_stream_is_the_same_under_any_type(name: str) -> None:
    meant = await chunks(name, [clean(name)])
    for media in (
        None,
        "application/json",
        "text/plain; charset=utf-8",
        "application/octet-stream",
        SSE,
    ):
        for data in mangled(name).values():
            assert (
                await chunks(name, [data[at : at + 50] for at in range(0, len(data), 50)], media)
                == meant
            ), media


@pytest.mark.parametrize("name", WIRES)
async def test_d_a_stream_is_the_same_split_at_every_byte(name: str) -> None:
    data = list(mangled(name).values())[-1]
    meant = await chunks(name, [clean(name)])
    for blocks in splits(data):
        assert await chunks(name, blocks) == meant


def pieces(name: str) -> list[bytes]:
    """The events of a stream."""
    if name == "bedrock":
        return [
            framed(line)
            for line in (DATA / STREAMS[name][1]).read_bytes().splitlines(keepends=True)
        ]
    end = b"\n\n" if name in EVENTS else b"\n"
    return [event + end for event in clean(name).split(end) if event.strip()]


def last(name: str, events: list[bytes]) -> int:
    """The event that says that the answer is over."""
    words = {
        "gemini": b'"finishReason"',
        "anthropic": b'"stop_reason": "',
        "ollama": b'"done":true',
        "bedrock": b"messageStop",
    }
    word = next(
        (word for kind, word in words.items() if name.startswith(kind)), b'"finish_reason":"'
    )
    return next(
        at
        for at, event in enumerate(events)
        if word in event.replace(b'_reason": "', b'_reason":"') or word in event
    )


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_that_is_cut_is_an_error(name: str) -> None:
    events = pieces(name)
    for at in range(last(name, events) + 1):
        for half in (b"", events[at][:-7]):
            with pytest.raises(InvalidUpstreamResponse):
                await chunks(name, [*events[:at], half] if half else events[:at])


ERRORS = [
    b'{"error": {"code": 429, "message": "slow"}}',
    b'{"code": 429, "message": "slow"}',
    b'{"errors": [{"status": 429}]}',
]
ERRORS += [b'{"detail": "Too Many Requests"}', b'{"error": "Too Many Requests"}']


@pytest.mark.parametrize("name", WIRES)
async def test_a1_an_error_is_one_on_every_wire(name: str) -> None:
    for error in ERRORS:
        for stream in (False, True):
            for media in ("application/json", ""):
                if name == "bedrock" and media == "":
                    continue
                with pytest.raises(UpstreamError) as caught:
                    await chunks(name, [error], media, stream=stream)
                assert name == "bedrock" or (
                    isinstance(caught.value, UpstreamHTTPError) and caught.value.status == 429
                )
        if name != "bedrock":
            for event in (b"data: %b\n\n" if name in EVENTS else b"%b\n",):
                with pytest.raises(UpstreamHTTPError) as refused:
                    await chunks(name, [*pieces(name)[:2], event % error])
                assert refused.value.status == 429


# --- silence ----------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that is moved by the bytes that come."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def late(self, *blocks: tuple[float, bytes]) -> Iterable[bytes]:
        """Each block so many seconds after the one before."""
        for seconds, block in blocks:
            self.now += seconds
            yield block


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (upstream, stream_reading):
        monkeypatch.setattr(module, "time", clock)
    return clock


def sse(**choice: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, **choice}]}).encode() + b"\n\n"


ROLE, WORD = sse(delta={"role": "assistant", "content": ""}), sse(delta={"content": "a"})
END = sse(delta={}, finish_reason="stop") + b"data: [DONE]\n\n"


async def test_d_a_model_may_think_for_minutes_in_silence(clock: Clock) -> None:
    for before in ([], [(1.0, ROLE)]):  # a role is no token
        said = await chunks("openai", clock.late(*before, (290.0, WORD), (1.0, END)))
        assert "".join(chunk.text for chunk in said) == "a"
        with pytest.raises(UpstreamTimedOut, match=r"no token within 300 seconds"):
            await chunks("openai", clock.late(*before, (299.0, b"da"), (2.0, b"ta"), (1.0, WORD)))


@pytest.mark.parametrize(
    "beat", [b": thinking\n\n", b"\n", b"event: ping\ndata: {}\n\n", b"data: ping\n\n", b"\r"]
)
async def test_d_heartbeats_are_life_until_the_time_for_all_is_up(
    clock: Clock, beat: bytes
) -> None:
    limits = UpstreamTimeouts(first_token=10, between_tokens=5, total=100)
    said = await chunks(
        "openai", clock.late(*[(9.0, beat)] * 9, (9.0, WORD), (1.0, END)), timeouts=limits
    )
    assert "".join(chunk.text for chunk in said) == "a"
    with pytest.raises(UpstreamTimedOut, match="did not finish its answer within 100 seconds"):
        await chunks("openai", clock.late(*[(9.0, beat)] * 20), timeouts=limits)
    with pytest.raises(UpstreamTimedOut, match="stopped sending within 5 seconds"):
        await chunks(
            "openai",
            clock.late((9.0, WORD), *[(4.0, beat)] * 3, (4.0, b"d"), (2.0, b"a"), (1.0, WORD)),
            timeouts=limits,
        )


async def test_a3_gemini_goes_on_after_a_finish_until_its_stream_ends(clock: Clock) -> None:
    def event(*parts: Any, finish: str | None = "STOP") -> bytes:
        candidate = {"content": {"parts": list(parts)}} | (
            {"finishReason": finish} if finish else {}
        )
        usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
        return (
            b"data: "
            + json.dumps({"candidates": [candidate], "usageMetadata": usage}).encode()
            + b"\r\n\r\n"
        )

    code, output = {"executableCode": {"code": "1+1"}}, {"codeExecutionResult": {"output": "2"}}
    rounds = [
        event(),
        event({"text": "Let me see. "}),
        event(code, finish=None),
        event(output),
        event({"text": "2."}, finish="MAX_TOKENS"),
    ]
    said = await chunks("gemini", clock.late(*[(20.0, block) for block in rounds]))
    assert "".join(chunk.text for chunk in said) == "Let me see. 2."
    assert [chunk.finish_reason for chunk in said if chunk.finish_reason] == ["length"]
    with pytest.raises(InvalidUpstreamResponse, match="middle"):  # it went on, and said no more
        await chunks("gemini", rounds[:3])


async def test_a3_the_compatible_endpoint_of_google_as_well(clock: Clock) -> None:
    usage = b'"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2},"choices"'
    first = sse(delta={"content": "a"}, finish_reason="stop").replace(b'"choices"', usage)
    said = await chunks("openai", clock.late((1.0, first), (3.0, WORD), (1.0, END)))
    assert "".join(chunk.text for chunk in said) == "aa"


async def test_c9_calls_are_no_plain_end_on_any_wire() -> None:
    calls: dict[str, bytes] = {
        "anthropic": b'{"content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}], "stop_reason": "end_turn"}',
        "gemini": b'{"candidates": [{"content": {"parts": [{"functionCall": {"name": "f"}}]}, "finishReason": "STOP"}]}',
        "ollama-native": b'{"message": {"tool_calls": [{"function": {"name": "f"}}]}, "done": true, "done_reason": "stop"}',
        "bedrock": b'{"output": {"message": {"content": [{"toolUse": {"toolUseId": "t", "name": "f", "input": {}}}]}},'
        b' "stopReason": "end_turn"}',
    }
    for name, body in calls.items():
        said = await chunks(name, [body], "application/json", stream=False)
        assert [chunk.finish_reason for chunk in said if chunk.finish_reason] == ["tool_calls"], (
            name
        )
