"""The whole way to providers whose streams are framed in other ways and whose requests are signed: real bytes on real sockets."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from answers import Answer, Plain, Raw, Request, bytewise, head
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from frames import event, framed
from upstream import ScriptedUpstream
from wired import DATA, Alone

from chattable.adapters.errors import InvalidUpstreamResponse, UpstreamError, UpstreamHTTPError
from chattable.adapters.http_client import HttpClient
from chattable.adapters.services import VENDORS
from chattable.adapters.upstream import Upstream, UpstreamProvider
from chattable.agents.chat import Chat, Message
from chattable.agents.chattable import Context, TurnUser
from chattable.agents.fold import Accumulator
from chattable.agents.run_turn import run_turn

ID, SECRET, TOKEN = (
    "AKIAIOSFODNN7EXAMPLE",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "FwoGZXIvYXdzEJrEXAMPLETOKEN==",
)
AZURE_KEY = "0123456789abcdef-of-azure"
KEYS = {
    "azure": AZURE_KEY,
    "ollama-native": "ollama-key-of-the-server",
    "bedrock": f"{ID}:{SECRET}:{TOKEN}",
}
OPTIONS = {"azure": {"api_version": "2024-10-21"}, "bedrock": {"region": "eu-central-1"}}
MODELS = {
    "azure": "my-deployment",
    "ollama-native": "qwen3:8b",
    "bedrock": "anthropic.claude-sonnet-4-5-20250929-v1:0",
}
PATHS = {
    "azure": ["/openai/deployments/my-deployment/chat/completions?api-version=2024-10-21"] * 2,
    "ollama-native": ["/api/chat"] * 2,
    "bedrock": [
        f"/model/anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse{end}"
        for end in ("", "-stream")
    ],
}
STREAMS = {
    "azure": (b"text/event-stream", (DATA / "azure_text_stream.txt").read_bytes()),
    "ollama-native": (b"application/x-ndjson", (DATA / "ollama_text_stream.jsonl").read_bytes()),
    "bedrock": (
        b"application/vnd.amazon.eventstream",
        framed((DATA / "bedrock_text_stream.jsonl").read_bytes()),
    ),
}
WHOLE = {
    "azure": "azure_plain.json",
    "ollama-native": "ollama_plain.json",
    "bedrock": "bedrock_plain.json",
}
WORDS = "Grüß dich 👋"

Ask = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture
async def ask(server: ScriptedUpstream) -> AsyncIterator[Ask]:
    transport = HttpClient()

    async def ask(
        kind: str, *, stream: bool = False, key: str | None = None, max_output: int | None = None
    ) -> Accumulator:
        vendor, options = VENDORS[kind], OPTIONS.get(kind, {})
        url = vendor.address(f"http://127.0.0.1:{server.port}", options)
        key = KEYS.get(kind, "") if key is None else key
        provider = UpstreamProvider(
            kind, vendor.wire.with_options(options), url, transport, api_key=key
        )
        upstream = Upstream(provider, MODELS.get(kind, "m"), max_output=max_output)
        ctx = Context(
            Alone(), Chat("m", [Message("user", "Hi 👋")], stream, {}), TurnUser("u", "u"), "m"
        )
        fold = Accumulator()
        async for chunk in run_turn(upstream, ctx):
            fold.add(chunk)
        return fold

    yield ask
    await transport.aclose()


def whole(kind: str) -> Plain:
    return Plain(200, (DATA / WHOLE[kind]).read_bytes(), {"content-type": "application/json"})


def streaming(media: bytes, *pieces: bytes) -> Raw:
    return Raw([head(200, {"content-type": media.decode(), "connection": "close"}), *pieces])


@pytest.mark.parametrize("kind", KEYS)
async def test_a_whole_answer(kind: str, server: ScriptedUpstream, ask: Ask) -> None:
    server.script(whole(kind))
    fold = await ask(kind)
    assert fold.message().text in (WORDS, '{"city": "Paris"}') and fold.usage
    [request] = server.requests
    assert (request.method, request.path) == ("POST", PATHS[kind][0])
    assert not request.json.get("stream")


@pytest.mark.parametrize("kind", KEYS)
async def test_a_stream_byte_by_byte(kind: str, server: ScriptedUpstream, ask: Ask) -> None:
    media, data = STREAMS[kind]
    server.script(streaming(media, *bytewise(data)))
    fold = await ask(kind, stream=True)
    assert fold.message().text == WORDS and fold.choices()[0].finish_reason == "stop" and fold.usage
    [request] = server.requests
    assert request.path == PATHS[kind][1] and media.decode() in request.headers["accept"]


@pytest.mark.parametrize("kind", KEYS)
async def test_a_stream_that_ends_in_the_middle(
    kind: str, server: ScriptedUpstream, ask: Ask
) -> None:
    media, data = STREAMS[kind]
    server.script(streaming(media, data[: len(data) // 3]))
    with pytest.raises(InvalidUpstreamResponse):
        await ask(kind, stream=True)


@pytest.mark.parametrize("kind", KEYS)
async def test_a_stream_of_something_else(kind: str, server: ScriptedUpstream, ask: Ask) -> None:
    server.script(streaming(STREAMS[kind][0], b"data: <html>\n\n" * 9))
    with pytest.raises(InvalidUpstreamResponse):
        await ask(kind, stream=True)


async def test_what_comes_after_an_exception_is_not_read(
    server: ScriptedUpstream, ask: Ask
) -> None:
    said = event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Hel"}})
    server.script(
        streaming(
            STREAMS["bedrock"][0],
            said + event("throttlingException", {"message": f"{SECRET} is slow"}) + said,
        )
    )
    with pytest.raises(UpstreamHTTPError) as caught:
        await ask("bedrock", stream=True)
    assert (caught.value.status, caught.value.message) == (429, "… is slow")


LEAKS = {"azure": "error.message", "ollama-native": "error", "bedrock": "message"}


@pytest.mark.parametrize("kind", KEYS)
async def test_an_error_loses_its_secrets(kind: str, server: ScriptedUpstream, ask: Ask) -> None:
    text = f"no {KEYS[kind]} or {SECRET} or {TOKEN} or {ID} at http://127.0.0.1:{server.port}/x"
    body: Any = text
    for name in reversed(LEAKS[kind].split(".")):
        body = {name: body}
    server.script(Plain(400, body))
    with pytest.raises(UpstreamError) as caught:
        await ask(kind)
    for secret in [*KEYS[kind].split(":"), f"127.0.0.1:{server.port}"]:
        assert secret not in caught.value.message
    assert caught.value.message.startswith("no …")


async def test_aws_finds_the_signature_of_every_attempt_right(
    server: ScriptedUpstream, ask: Ask
) -> None:
    """A server that has the secret computes the same from the bytes that it received."""
    server.script(Plain(503, {"message": "busy"}), whole("bedrock"))
    with pytest.raises(UpstreamError):
        await ask("bedrock")
    await ask("bedrock")
    assert len(server.requests) == 2
    for request in server.requests:
        assert _signed(request) == request.headers["authorization"]
        assert (
            SECRET not in json.dumps(request.headers)
            and request.headers["x-amz-security-token"] == TOKEN
        )


def _signed(request: Request) -> str:
    stamp = request.headers["x-amz-date"]
    own = AWSRequest("POST", f"http://{request.headers['host']}{request.path}", {}, request.body)
    own.headers["Content-Type"] = request.headers["content-type"]
    own.headers["X-Amz-Date"] = stamp
    own.headers["X-Amz-Security-Token"] = TOKEN
    signer = SigV4Auth(Credentials(ID, SECRET, TOKEN), "bedrock", "eu-central-1")
    own.context["timestamp"] = stamp
    text = signer.string_to_sign(own, signer.canonical_request(own))
    signer._inject_signature_to_request(own, signer.signature(text, own))
    return str(own.headers["Authorization"])


async def test_a_bedrock_key_is_sent_and_none_is_none(server: ScriptedUpstream, ask: Ask) -> None:
    server.script(whole("bedrock"), whole("bedrock"))
    await ask("bedrock", key="ABSKQmVkcm9jaw==")
    await ask("bedrock", key="")
    first, second = server.requests
    assert (
        first.headers["authorization"] == "Bearer ABSKQmVkcm9jaw=="
        and "x-amz-date" not in first.headers
    )
    assert "authorization" not in second.headers


async def test_a_models_cap_is_the_answers_where_there_must_be_one(
    server: ScriptedUpstream, ask: Ask
) -> None:
    def reply(request: Request) -> Answer:
        body = {"content": [{"type": "text", "text": "x"}], "stop_reason": "end_turn"}
        return Plain(200, body)

    server.reply = reply
    for most in (None, 64_000):
        await ask("anthropic", max_output=most)
    assert [request.json["max_tokens"] for request in server.requests] == [4096, 64_000]
