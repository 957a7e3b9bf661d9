"""OpenAI's Agents SDK keeps its sessions here: its `OpenAIConversationsSession`, unmodified, against the real server."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI, NotFoundError
from process import Chattable, chattable
from upstream import ScriptedUpstream

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIConversationsSession,
    Runner,
    function_tool,
    set_tracing_disabled,
)

CONFIG = """
providers: {{stub: {{kind: openai, base_url: "{url}", api_key: x}}}}
models: {{m: {{provider: stub}}}}
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def server(upstream: ScriptedUpstream) -> Iterator[Chattable]:
    set_tracing_disabled(True)  # the SDK would tell its maker what was said
    with chattable(CONFIG.format(url=upstream.url)) as running:
        yield running


@pytest.fixture
async def client(server: Chattable) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"{server.base_url}/v1", api_key=server.user_key("alice"), max_retries=0
    ) as ready:
        yield ready


@function_tool
def weather() -> str:
    """Tells the weather."""
    return "snow in Oslo"


@function_tool
def alarm() -> str:
    """Sets an alarm."""
    return "set to seven"


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def words(items: Any) -> list[str]:
    return [
        item["content"][0]["text"]
        if item["type"] == "message"
        else f"{item['type']} {item['call_id']}"
        for item in items
    ]


async def test_a_session_is_a_conversation(client: AsyncOpenAI) -> None:
    session = OpenAIConversationsSession(openai_client=client)
    assert await session.get_items() == []
    items = [user(f"message {i}") for i in range(45)]  # more than one request takes
    await session.add_items(items)
    assert words(await session.get_items()) == [item["content"] for item in items]
    assert words(await session.get_items(limit=3)) == ["message 42", "message 43", "message 44"]
    last = await session.pop_item()
    assert words([last]) == ["message 44"]
    assert words(await session.get_items(limit=1)) == ["message 43"]
    again = OpenAIConversationsSession(openai_client=client, conversation_id=session.session_id)
    assert len(await again.get_items()) == 44
    old = session.session_id
    await session.clear_session()
    with pytest.raises(NotFoundError):
        await client.conversations.retrieve(old)
    assert await session.get_items() == []
    assert session.session_id != old
    assert await session.pop_item() is None


async def test_what_a_session_gives_back_it_takes_again(client: AsyncOpenAI) -> None:
    one, other = (OpenAIConversationsSession(openai_client=client) for _ in range(2))
    items: list[Any] = [
        {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "data:x", "detail": "auto"}]},
        {"type": "reasoning", "id": "rs_theirs", "summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": "e"},
        {"type": "function_call", "id": "fc_theirs", "call_id": "c", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "snow"},
        {"type": "message", "id": "msg_theirs", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "Snow.", "annotations": [], "logprobs": []}]},
    ]  # fmt: skip
    await one.add_items(items)
    found: Any = await one.get_items()
    await other.add_items(found)

    def bare(items: Any) -> list[Any]:
        return [{name: value for name, value in item.items() if name != "id"} for item in items]

    assert bare(await other.get_items()) == bare(found)
    assert found[1]["id"] == "rs_theirs"
    for item, given in zip(bare(found), bare(items), strict=True):
        assert {name: item[name] for name in given} == given


async def test_an_agents_run_with_tools_is_kept_and_goes_on_from_either_side(
    client: AsyncOpenAI, upstream: ScriptedUpstream
) -> None:
    model = OpenAIChatCompletionsModel(model="m", openai_client=client)
    agent = Agent(name="helper", instructions="Be terse.", model=model, tools=[weather, alarm])
    session = OpenAIConversationsSession(openai_client=client)
    first = await Runner.run(agent, "please call weather and alarm", session=session)
    items: Any = await session.get_items()
    calls = [item["call_id"] for item in items if item["type"] == "function_call"]
    assert words(items) == [
        "please call weather and alarm",
        *(f"function_call {call}" for call in calls),
        *(f"function_call_output {call}" for call in calls),
        first.final_output,
    ]
    assert len(set(calls)) == 2
    # the SDK goes on with what it kept here
    upstream.clear()
    second = await Runner.run(agent, [*items, user("and thanks")])
    assert second.final_output == "and thanks"
    asked = upstream.requests[-1].json["messages"]
    assert [message["role"] for message in asked] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
        "user",
    ]
    assert [call["id"] for call in asked[2]["tool_calls"]] == calls
    # and so does the server
    upstream.clear()
    ask: Any = user("and from elsewhere")
    await client.chat.completions.create(
        model="m", messages=[ask], extra_body={"conversation": session.session_id}
    )
    asked = upstream.requests[-1].json["messages"]
    assert [call["id"] for message in asked for call in message.get("tool_calls") or ()] == calls
    assert [message["tool_call_id"] for message in asked if message["role"] == "tool"] == calls
    assert [message["content"] for message in asked if message["role"] == "user"] == [
        items[0]["content"][0]["text"],
        ask["content"],
    ]
    assert words(await session.get_items(limit=2)) == ["and from elsewhere"] * 2
