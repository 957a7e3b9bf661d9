"""The transport is a seam: anything that speaks httpx's interface takes the network's place, respx's router here."""

import json

import httpx
import pytest
import respx
from httpx_transport import HttpxTransport
from wired import Alone

from chattable.adapters.errors import UpstreamHTTPError
from chattable.adapters.openai.wire import OpenAIWire
from chattable.adapters.upstream import Upstream, UpstreamProvider
from chattable.agents.chat import Chat, Message
from chattable.agents.chattable import Context, TurnUser
from chattable.agents.fold import Accumulator
from chattable.agents.run_turn import run_turn

URL = "https://api.vendor.test/v1"
ANSWER = {
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}


async def ask(router: respx.MockRouter) -> Accumulator:
    transport = HttpxTransport(httpx.MockTransport(router.async_handler))
    provider = UpstreamProvider("vendor", OpenAIWire(), URL, transport, api_key="sk-secret-key")
    chat = Chat("m", [Message("user", "Hi")], False, {"temperature": 0.5, "unknown": [1]})
    ctx = Context(Alone(), chat, TurnUser("u", "u"), "m")
    fold = Accumulator()
    async for chunk in run_turn(Upstream(provider, "vendor-model"), ctx):
        fold.add(chunk)
    return fold


async def test_a_request_goes_through_it_whole() -> None:
    router = respx.MockRouter()
    route = router.post(f"{URL}/chat/completions").respond(json=ANSWER)
    fold = await ask(router)
    assert fold.message().text == "Hello"
    sent = route.calls.last.request
    assert sent.headers["authorization"] == "Bearer sk-secret-key"
    assert json.loads(sent.content) == {
        "model": "vendor-model", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5, "unknown": [1],
    }  # fmt: skip


async def test_it_is_asked_once() -> None:
    """Who is asked after a failure, and when, is the router's to say."""
    router = respx.MockRouter()
    route = router.post(f"{URL}/chat/completions").respond(503, json={"error": {"message": "busy"}})
    with pytest.raises(UpstreamHTTPError):
        await ask(router)
    assert route.call_count == 1


async def test_a_refusal_keeps_its_meaning_and_loses_our_key() -> None:
    router = respx.MockRouter()
    error = {"message": "bad key sk-secret-key at api.vendor.test", "code": "odd", "param": "model"}
    router.post(f"{URL}/chat/completions").respond(400, json={"error": error})
    with pytest.raises(UpstreamHTTPError) as refused:
        await ask(router)
    assert (refused.value.message, refused.value.param) == ("bad key … at …", "model")
