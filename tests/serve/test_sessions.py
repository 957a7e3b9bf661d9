"""Sessions with the unmodified SDK: who keeps the history, how they are named, what is sent."""

import json
import os
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from answers import Plain, Sse
from conversations import Kept, asked, lines, talk
from echo_model import chat_completion
from openai import BadRequestError, NotFoundError, OpenAI
from process import Chattable, chattable
from upstream import ScriptedUpstream

AGENTS = """
def counts(message, ctx):
    ctx.session.state["turns"] = ctx.session.state.get("turns", 0) + 1
    return f"turn {ctx.session.state['turns']} of {ctx.session.id}"

def fails(message, ctx):
    ctx.session.state["turns"] = 99
    raise ValueError("no")

async def passes(message, ctx):
    return (await ctx.chat("m")).text + ("" if ctx.session is None else " kept")
"""

CONFIG = """
providers: {{stub: {{kind: openai, base_url: "{url}", api_key: x, retries: 0}}}}
models:
  m: {{provider: stub}}
  other: {{provider: stub}}
  small: {{provider: stub, context_length: 100, max_output: 20}}
agents:
  counts: {{use: "session_agents:counts"}}
  fails: {{use: "session_agents:fails"}}
  passes: {{use: "session_agents:passes"}}
sessions: {{window: {{messages: 6}}}}
"""

WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def server(
    upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chattable]:
    folder = tmp_path_factory.mktemp("agents")
    (folder / "session_agents.py").write_text(AGENTS)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    with chattable(CONFIG.format(url=upstream.url), PYTHONPATH=path) as running:
        yield running


@pytest.fixture(scope="module")
def kept(server: Chattable) -> Kept:
    return Kept(server)


@pytest.fixture
def name(request: pytest.FixtureRequest, upstream: ScriptedUpstream) -> str:
    """A user, and a session, of this test's own."""
    upstream.clear()
    name = request.node.originalname.removeprefix("test_")[:40]
    return f"{name}-{zlib.crc32(request.node.name.encode()):08x}"


@pytest.fixture
def sdk(server: Chattable, name: str) -> OpenAI:
    return OpenAI(
        base_url=f"{server.base_url}/v1", api_key=server.user_key(name), max_retries=0, timeout=20
    )


# --- who keeps the history ------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_turn_2_knows_turn_1_with_only_the_new_message_sent(
    sdk: OpenAI, upstream: ScriptedUpstream, kept: Kept, name: str, stream: bool
) -> None:
    one, two, three = (
        talk(sdk, text, "s", stream=stream) for text in ("my name is Ada", "what is it", "thanks")
    )
    assert asked(upstream) == [
        "u:my name is Ada",
        "a:my name is Ada",
        "u:what is it",
        "a:what is it",
        "u:thanks",
    ]
    assert asked(upstream) == [*kept.said(name, "s")[:-2], "u:thanks"]
    assert kept.said(name, "s")[-1] == "a:thanks"
    assert {told.session for told in (one, two, three)} == {kept.session(name, "s").id}
    assert [(told.mode, told.injected) for told in (one, two, three)] == [
        ("appended", 0),
        ("appended", 2),
        ("appended", 4),
    ]
    assert "conversation" not in upstream.requests[-1].json
    assert not [header for header in upstream.requests[-1].headers if "session" in header]


def test_append_takes_every_message_as_new(
    sdk: OpenAI, upstream: ScriptedUpstream, kept: Kept, name: str
) -> None:
    talk(sdk, "one", "s", mode="append")
    history = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "two"},
    ]
    assert talk(sdk, history, "s", mode="append").injected == 2
    assert asked(upstream) == ["u:one", "a:one", "u:one", "a:one", "u:two"]
    assert len(kept.said(name, "s")) == 6


def test_append_takes_a_prompt_for_a_title_as_what_it_is(
    sdk: OpenAI, upstream: ScriptedUpstream, kept: Kept, name: str
) -> None:
    told = talk(sdk, "Suggest a title for this conversation:\nUser: hi", "s", mode="append")
    assert told.mode == "appended"
    assert len(upstream.requests) == 1
    assert len(kept.said(name, "s")) == 2


def test_mirror_sends_the_body_and_nothing_else(
    sdk: OpenAI, upstream: ScriptedUpstream, kept: Kept, name: str
) -> None:
    talk(sdk, "one", "s", mode="mirror")
    history = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "two"},
    ]
    told = talk(sdk, history, "s", mode="mirror")
    assert (told.mode, told.injected) == ("mirrored", 0)
    assert upstream.requests[-1].json["messages"] == history
    assert kept.said(name, "s") == ["u:one", "a:one", "u:two", "a:two"]
    assert len(kept.all(name, "s")) == 4


def test_auto_sees_who_keeps_the_history(
    sdk: OpenAI, upstream: ScriptedUpstream, kept: Kept, name: str
) -> None:
    talk(sdk, "one", "s")
    history = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "two"},
    ]
    assert talk(sdk, history, "s").mode == "mirrored"
    assert asked(upstream) == ["u:one", "a:one", "u:two"]
    assert talk(sdk, "three", "s").mode == "appended"
    assert asked(upstream) == ["u:one", "a:one", "u:two", "a:two", "u:three"]
    edited = [
        {"role": "user", "content": "uno"},
        {"role": "assistant", "content": "uno"},
        {"role": "user", "content": "dos"},
    ]
    assert talk(sdk, edited, "s").mode == "branched"
    assert asked(upstream) == ["u:uno", "a:uno", "u:dos"]
    assert kept.said(name, "s") == ["u:uno", "a:uno", "u:dos", "a:dos"]


def test_a_client_that_resends_its_own_messages_without_the_answers_is_understood(
    sdk: OpenAI, upstream: ScriptedUpstream, kept: Kept, name: str
) -> None:
    mine = [{"role": "system", "content": "be brief"}]
    for i in range(1, 6):
        mine.append({"role": "user", "content": str(i)})
        told = talk(sdk, mine, "s", stream=i % 2 == 0)
        assert told.mode == "appended"
        before = [f"{who}:{k}" for k in range(1, i) for who in "ua"]
        assert asked(upstream) == ["s:be brief", *before[-6:], f"u:{i}"]  # six fit into the window
    talks = [f"{who}:{k}" for k in range(1, 6) for who in "ua"]
    assert kept.said(name, "s") == ["s:be brief", *talks]
    assert len(kept.all(name, "s")) == 11
    talk(sdk, "6", "s")  # one that sends only what is new goes on in the same conversation
    assert kept.said(name, "s")[-2:] == ["u:6", "a:6"]


def test_a_client_that_resends_its_own_messages_and_nothing_new_gets_another_answer(
    sdk: OpenAI, upstream: ScriptedUpstream, kept: Kept, name: str
) -> None:
    mine = [{"role": "user", "content": text} for text in ("one", "two")]
    for text in ("one", "two"):
        talk(sdk, text, "s")
    other = chat_completion({"messages": [{"role": "user", "content": "zwei"}]})
    upstream.script(Plain(200, other))
    assert talk(sdk, mine, "s").text == "zwei"
    assert asked(upstream) == ["u:one", "a:one", "u:two"]
    assert kept.said(name, "s") == ["u:one", "a:one", "u:two", "a:zwei"]
    again = talk(sdk, mine, "s", headers={"x-stainless-retry-count": "1"})  # it did not hear that
    assert (again.text, len(upstream.requests)) == ("zwei", 3)


@pytest.mark.parametrize("said", [("one", "other"), ("two", "one"), ("one", "two", "three")])
def test_new_messages_that_only_resemble_the_old_ones_are_new(
    sdk: OpenAI, upstream: ScriptedUpstream, kept: Kept, name: str, said: tuple[str, ...]
) -> None:
    for text in ("one", "two", "four"):
        talk(sdk, text, "s")
    told = talk(sdk, [{"role": "user", "content": text} for text in said], "s")
    assert told.injected == 6
    assert kept.said(name, "s")[6:] == [*(f"u:{text}" for text in said), f"a:{said[-1]}"]


def test_off_keeps_and_knows_nothing(
    sdk: OpenAI, upstream: ScriptedUpstream, kept: Kept, name: str
) -> None:
    talk(sdk, "one", "s")
    told = talk(sdk, "two", "s", mode="off")
    assert (told.mode, told.session) == ("off", None)
    assert asked(upstream) == ["u:two"]
    assert kept.said(name, "s") == ["u:one", "a:one"]
    assert talk(sdk, "three").mode == "off"
    assert len(kept.sessions(name)) == 1


def test_a_mode_that_is_none_is_refused(sdk: OpenAI, upstream: ScriptedUpstream) -> None:
    with pytest.raises(BadRequestError) as refused:
        talk(sdk, "one", "s", mode="prepend")
    assert (refused.value.param, refused.value.code) == ("X-Session-Mode", "invalid_value")
    assert "append, mirror, auto, off" in str(refused.value)
    assert upstream.requests == []


# --- how a session is named -----------------------------------------------------------------------


def test_the_body_names_it_too_and_the_header_comes_first(
    sdk: OpenAI, upstream: ScriptedUpstream, kept: Kept, name: str
) -> None:
    talk(sdk, "one", conversation="s")
    talk(sdk, "two", conversation={"id": "s"})
    assert asked(upstream) == ["u:one", "a:one", "u:two"]
    assert (
        upstream.requests[-1].json.keys() == {"model", "messages", "stream"}
        or "conversation" not in upstream.requests[-1].json
    )
    talk(sdk, "three", "other", conversation="s")
    assert asked(upstream) == ["u:three"]
    assert kept.said(name, "other") == ["u:three", "a:three"]
    assert talk(sdk, "four", conversation=None).mode == "off"
    assert talk(sdk, "five", conversation="s", mode="off").mode == "off"
    assert talk(sdk, "six", conversation="s", mode="append").mode == "appended"


@pytest.mark.parametrize("conversation", [7, ["s"], {"name": "s"}, {"id": None}, {"id": 7}, True])
def test_a_conversation_that_is_no_name_is_refused(
    sdk: OpenAI, upstream: ScriptedUpstream, conversation: Any
) -> None:
    with pytest.raises(BadRequestError) as refused:
        talk(sdk, "one", conversation=conversation)
    assert refused.value.param == "conversation"
    assert upstream.requests == []


def test_headers_are_read_in_the_order_of_the_config(sdk: OpenAI, kept: Kept, name: str) -> None:
    talk(sdk, "one", headers={"X-OpenWebUI-Chat-Id": "b", "X-Session-Id": "a"})
    talk(sdk, "two", headers={"X-OpenWebUI-Chat-Id": "b", "X-Conversation-Id": "c"})
    assert {session.alias for session in kept.sessions(name)} == {"a", "c"}


def test_new_asks_for_a_fresh_session_each_time(
    sdk: OpenAI, upstream: ScriptedUpstream, kept: Kept, name: str
) -> None:
    one, two = talk(sdk, "one", "new"), talk(sdk, "two", conversation="new")
    assert one.session != two.session
    talk(sdk, "three", one.session)
    assert asked(upstream) == ["u:one", "a:one", "u:three"]
    assert [session.alias for session in kept.sessions(name)] == [None, None]


def test_an_alias_and_the_id_are_the_same_session(
    sdk: OpenAI, upstream: ScriptedUpstream, kept: Kept, name: str
) -> None:
    told = talk(sdk, "one", conversation="müsli 🥣")
    talk(sdk, "two", told.session)
    talk(sdk, "three", conversation="müsli 🥣")
    assert asked(upstream) == ["u:one", "a:one", "u:two", "a:two", "u:three"]
    assert [session.alias for session in kept.sessions(name)] == ["müsli 🥣"]


def test_another_users_session_is_simply_another(
    server: Chattable, sdk: OpenAI, upstream: ScriptedUpstream, kept: Kept, name: str
) -> None:
    theirs = talk(sdk, "the canary sings", "shared")
    eve = OpenAI(
        base_url=f"{server.base_url}/v1", api_key=server.user_key("eve"), max_retries=0, timeout=20
    )
    for guess in ("shared", theirs.session, "conv_nobody-has-this"):
        told = talk(eve, "what was said", guess)
        assert asked(upstream) == ["u:what was said"]
        assert (told.mode, told.injected) == ("appended", 0)
        assert told.session != theirs.session
        assert "canary" not in json.dumps([told.text, told.headers])
    assert kept.said(name, "shared") == ["u:the canary sings", "a:the canary sings"]


def test_one_key_that_asks_for_two_users_has_two_sessions(
    server: Chattable, upstream: ScriptedUpstream, name: str
) -> None:
    ui = OpenAI(
        base_url=f"{server.base_url}/v1",
        api_key=server.user_key(name, trusted=True),
        max_retries=0,
        timeout=20,
    )
    for user in ("uma", "umberto"):
        talk(ui, f"I am {user}", "s", headers={"X-User-Id": user})
        assert asked(upstream) == [f"u:I am {user}"]
    talk(ui, "who", "s", headers={"X-User-Id": "uma"})
    assert asked(upstream) == ["u:I am uma", "a:I am uma", "u:who"]


def test_unknown_sessions_may_be_refused(upstream: ScriptedUpstream) -> None:
    config = CONFIG.format(url=upstream.url).partition("agents:")[0] + "sessions: {unknown: reject}"
    with chattable(config) as server:
        sdk = OpenAI(
            base_url=f"{server.base_url}/v1",
            api_key=server.user_key("rita"),
            max_retries=0,
            timeout=20,
        )
        upstream.clear()
        with pytest.raises(NotFoundError) as refused:
            talk(sdk, "one", "typo")
        assert refused.value.code == "not_found"
        assert "typo" in str(refused.value)
        assert upstream.requests == []
        made = talk(sdk, "one", "new")
        talk(sdk, "two", made.session)
        assert asked(upstream) == ["u:one", "a:one", "u:two"]
        assert [session.alias for session in Kept(server).sessions("rita")] == [None]


# --- what is sent ---------------------------------------------------------------------------------


def test_a_system_message_of_the_request_stands_in_the_place_of_the_stored_one(
    sdk: OpenAI, upstream: ScriptedUpstream
) -> None:
    talk(sdk, [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one"}], "s")
    talk(sdk, "two", "s")
    assert asked(upstream) == ["s:be brief", "u:one", "a:one", "u:two"]
    talk(
        sdk, [{"role": "developer", "content": "rhyme"}, {"role": "user", "content": "three"}], "s"
    )
    assert asked(upstream)[0] == "d:rhyme"
    assert not any("brief" in line for line in asked(upstream))
    talk(sdk, "four", "s")
    assert asked(upstream)[0] == "s:be brief"
    assert len(asked(upstream)) == 1 + 6 + 1


def test_the_window_is_the_newest_messages_and_the_system_message(
    sdk: OpenAI, upstream: ScriptedUpstream
) -> None:
    talk(sdk, [{"role": "system", "content": "be brief"}, {"role": "user", "content": "0"}], "s")
    for i in range(1, 8):
        told = talk(sdk, str(i), "s")
    assert asked(upstream) == ["s:be brief", "u:4", "a:4", "u:5", "a:5", "u:6", "a:6", "u:7"]
    assert told.injected == 7


def test_the_window_leaves_room_for_the_answer(sdk: OpenAI, upstream: ScriptedUpstream) -> None:
    """Of 100 tokens 20 are the answer's and 4 a margin.

    Each question is estimated at 19, each answer was counted as 10.
    """
    for i in range(4):
        talk(sdk, f"{i} " + "x" * 58, "s", max_tokens=20)
    assert talk(sdk, "y" * 60, "s", model="small", max_tokens=20).injected == 2
    # the answer to 2 would fit, without its question
    assert [line[2] for line in asked(upstream)] == ["3", "3", "y"]
    assert talk(sdk, "z" * 60, "s", model="small", max_tokens=60).injected == 0


def test_the_window_leaves_room_for_the_stored_system_message(
    sdk: OpenAI, upstream: ScriptedUpstream
) -> None:
    """It is estimated at 34 tokens, so of the 57 that are left no two questions fit beside it."""
    talk(
        sdk,
        [{"role": "system", "content": "w" * 120}, {"role": "user", "content": "0 " + "x" * 26}],
        "s",
        max_tokens=20,
    )
    for i in range(1, 4):
        talk(sdk, f"{i} " + "x" * 26, "s", max_tokens=20)
    talk(sdk, "y" * 60, "s", model="small", max_tokens=20)
    assert [line[:3] for line in asked(upstream)] == ["s:w", "u:3", "a:3", "u:y"]


def test_tool_calls_go_on_in_the_next_turn(
    sdk: OpenAI, upstream: ScriptedUpstream, kept: Kept, name: str
) -> None:
    said = talk(sdk, "call weather", "s", tools=[WEATHER]).message
    (call,) = said["tool_calls"]
    answer = {"role": "tool", "tool_call_id": call["id"], "content": "it rains"}
    told = talk(sdk, [answer], "s", tools=[WEATHER], stream=True)
    sent = upstream.requests[-1].json["messages"]
    assert lines(sent) == ["u:call weather", "a:", "t:it rains"]
    assert sent[1]["tool_calls"] == said["tool_calls"]
    assert told.mode == "appended"
    talk(sdk, "and now", "s")
    assert asked(upstream)[:4] == ["u:call weather", "a:", "t:it rains", "a:it rains"]
    assert [item.message.role for item in kept.path(name, "s")] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
        "assistant",
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_to_a_call_that_nobody_made_is_refused(
    sdk: OpenAI, upstream: ScriptedUpstream, kept: Kept, name: str, stream: bool
) -> None:
    talk(sdk, "one", "s")
    with pytest.raises(BadRequestError) as refused:
        talk(sdk, [{"role": "tool", "tool_call_id": "call_x", "content": "?"}], "s", stream=stream)
    assert refused.value.param == "messages"
    assert "tool_calls" in str(refused.value)
    assert len(upstream.requests) == 1
    assert kept.said(name, "s") == ["u:one", "a:one"]


def test_a_window_never_parts_a_call_from_its_answer(
    sdk: OpenAI, upstream: ScriptedUpstream
) -> None:
    for i in range(6):
        (call,) = talk(sdk, "call weather", "s", tools=[WEATHER]).message["tool_calls"]
        talk(
            sdk,
            [{"role": "tool", "tool_call_id": call["id"], "content": f"rain {i}"}],
            "s",
            tools=[WEATHER],
        )
        sent = upstream.requests[-1].json["messages"]
        open_calls: set[str] = set()
        for message in sent:
            if message["role"] == "tool":
                assert message["tool_call_id"] in open_calls, lines(sent)
            open_calls |= {call["id"] for call in message.get("tool_calls") or ()}
        assert sent[-1]["tool_call_id"] == call["id"]


def test_a_call_that_nobody_answers_is_left_out_when_the_talk_goes_on(
    sdk: OpenAI, upstream: ScriptedUpstream
) -> None:
    talk(sdk, "call weather", "s", tools=[WEATHER])
    talk(sdk, "never mind", "s", tools=[WEATHER])
    assert asked(upstream) == ["u:call weather", "u:never mind"]


@pytest.mark.parametrize(
    "text", ["nul \x00 here", "half \ud83d of it", "\U0001f9d1\u200d\U0001f680 👩🏽", "x" * 200_000]
)
def test_any_text_is_kept_as_it_is(
    server: Chattable, upstream: ScriptedUpstream, kept: Kept, name: str, text: str
) -> None:
    import httpx

    key = server.user_key(name)
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    for said in (body, {"model": "m", "messages": [{"role": "user", "content": "go on"}]}):
        told = httpx.post(
            f"{server.base_url}/v1/chat/completions",
            content=json.dumps(said).encode(),
            headers={
                "authorization": f"Bearer {key}",
                "x-session-id": "s",
                "content-type": "application/json",
            },
            timeout=20,
        )
        # no JSON text has one: the body is refused as it is
        if "\ud83d" in text and said is body and told.status_code == 400:
            assert told.json()["error"]["param"] is None
            assert upstream.requests == []
            return
        assert told.status_code == 200, told.text
    assert upstream.requests[-1].json["messages"][0]["content"] == text
    assert kept.path(name, "s")[0].message.text == text


def test_parts_and_unknown_fields_of_messages_come_back_as_they_were(
    sdk: OpenAI, upstream: ScriptedUpstream
) -> None:
    picture = {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"},
    }
    first = {
        "role": "user",
        "content": [{"type": "text", "text": "look"}, picture],
        "name": "ada",
        "x_mark": {"deep": [1]},
    }
    talk(sdk, [first], "s")
    talk(sdk, "two", "s")
    assert upstream.requests[-1].json["messages"][0] == first


def test_reasoning_is_kept_and_extra_choices_are_not(
    sdk: OpenAI, upstream: ScriptedUpstream, kept: Kept, name: str
) -> None:
    thought = chat_completion({"messages": [{"role": "user", "content": "42"}]})
    thought["choices"][0]["message"]["reasoning_content"] = "six times seven"
    upstream.script(Plain(200, thought))
    talk(sdk, "what is it", "s")
    assert kept.path(name, "s")[-1].message.reasoning_content == "six times seven"
    talk(sdk, "two", "s", n=3)
    assert kept.said(name, "s") == ["u:what is it", "a:42", "u:two", "a:two"]


def test_params_of_the_session_stand_until_the_request_says_otherwise(
    sdk: OpenAI, upstream: ScriptedUpstream, kept: Kept, name: str
) -> None:
    talk(sdk, "one", "s")
    kept.update(name, "s", params={"temperature": 0.25, "top_p": 0.5})
    talk(sdk, "two", "s", top_p=0.75)
    assert {
        k: v for k, v in upstream.requests[-1].json.items() if k in ("temperature", "top_p")
    } == {
        "temperature": 0.25,
        "top_p": 0.75,
    }


# --- who speaks -----------------------------------------------------------------------------------


def test_models_and_agents_take_turns_in_one_session(
    sdk: OpenAI, upstream: ScriptedUpstream, kept: Kept, name: str
) -> None:
    talk(sdk, "one", "s", model="m")
    talk(sdk, "two", "s", model="other")
    assert talk(sdk, "three", "s", model="passes").text == "three kept"
    # the agent is given the history like any model
    assert asked(upstream) == ["u:one", "a:one", "u:two", "a:two", "u:three"]
    talk(sdk, "four", "s", model="m")
    assert asked(upstream)[-2:] == ["a:three kept", "u:four"]
    assert [item.speaker for item in kept.path(name, "s")] == [
        "",
        "m",
        "",
        "other",
        "",
        "passes",
        "",
        "m",
    ]
    session = kept.session(name, "s")
    assert session.model == "m"
    assert session.usage.total_tokens == upstream.tokens  # the agent used what it asked for, once
    assert [item.usage and item.usage.total_tokens for item in kept.path(name, "s")[1::2]] == [
        spent.total_tokens for spent in upstream.usage_log
    ]


def test_what_an_agent_remembers_is_kept_with_the_turn(sdk: OpenAI, kept: Kept, name: str) -> None:
    one, two = (
        talk(sdk, "one", "s", model="counts"),
        talk(sdk, "two", "s", model="counts", stream=True),
    )
    assert [told.text for told in (one, two)] == [f"turn {i} of {one.session}" for i in (1, 2)]
    with pytest.raises(Exception, match="500"):
        talk(sdk, "three", "s", model="fails")
    assert kept.session(name, "s").state == {"turns": 2}
    assert talk(sdk, "four", "t", model="counts").text.startswith("turn 1 of ")
    assert talk(sdk, "five", model="passes").text == "five"  # without a session there is none


def test_a_nested_call_of_an_agent_is_no_turn(
    sdk: OpenAI, upstream: ScriptedUpstream, kept: Kept, name: str
) -> None:
    upstream.script(Sse())
    talk(sdk, "one", "s", model="passes")
    assert kept.said(name, "s") == ["u:one", "a:one kept"]
    assert len(kept.all(name, "s")) == 2
