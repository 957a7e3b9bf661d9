"""What chat UIs ask for their own ends: no agent runs for it, and it is nobody's turn."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from answers import Plain
from chat_uis import LibreChat, OpenWebUI, Window
from conversations import Body, asked, talk
from echo_model import chat_completion
from openai import OpenAI
from process import Chattable, chattable
from promises.house import until
from upstream import ScriptedUpstream

AGENTS = """
from pathlib import Path

def counted(message, ctx):
    with Path({runs!r}).open("a") as book:
        book.write("run")
    return "an answer"
"""
CONFIG = """
providers: {{stub: {{kind: openai, base_url: "{url}", api_key: x, retries: 0}}}}
models: {{m: {{provider: stub}}, titler: {{provider: stub}}, tasker: {{provider: stub}}}}
agents:
  tutor: {{model: m, context: You teach.}}
  counted: {{use: "ui_agents:counted"}}
"""
OWN = """
sessions:
  tasks:
    prompts:
      title_generation: ["nenne mir einen titel"]
      other: ["Fasse zusammen"]
"""
Clear = Callable[[], None]
SAID = ("Where do otters sleep?", "In rafts.", "And why?", "To stay together.")


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("agents")
    (made / "ui_agents.py").write_text(AGENTS.format(runs=str(made / "runs")))
    return made


def served(upstream: ScriptedUpstream, folder: Path, more: str = "") -> Any:
    """A server whose agents write their runs down."""
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return chattable(CONFIG.format(url=upstream.url) + more, PYTHONPATH=path)


@pytest.fixture(scope="module")
def server(upstream: ScriptedUpstream, folder: Path) -> Iterator[Chattable]:
    with served(upstream, folder, OWN) as running:
        yield running


@pytest.fixture
def clear(upstream: ScriptedUpstream, folder: Path) -> Callable[[], None]:
    """Forgets what was asked so far, as at the beginning."""

    def forget() -> None:
        upstream.clear()
        (folder / "runs").unlink(missing_ok=True)

    forget()
    return forget


def window(ui: Any, server: Chattable) -> Window:
    return Window(ui(), server, f"user-{uuid4().hex[:12]}")


def ran(upstream: ScriptedUpstream, folder: Path) -> bool:
    """Whether an agent was run: that of code writes it down, the other puts its words first."""
    prompts = [asked(upstream, i) for i in range(len(upstream.requests))]
    return (folder / "runs").exists() or any("s:You teach." in prompt for prompt in prompts)


def turns(window: Window, agent: str) -> None:
    """Two turns with the agent, as their user sees them."""
    for text in SAID[::2]:
        window.shown.append({"role": "user", "content": text})
        told = window.post(window.ui.body(window.shown, model=agent))
        window.shown.append({"role": "assistant", "content": told.text})


# What UIs read of an answer that no model wrote.
ANSWERS: dict[str, Any] = {
    "title_generation": {"title": SAID[0]},
    "tags_generation": {"tags": []},
    "follow_up_generation": {"follow_ups": []},
    "query_generation": {"queries": [SAID[2]]},
    "image_prompt_generation": {"prompt": SAID[2]},
    "autocomplete_generation": {"text": ""},
    "function_calling": {"tool_calls": []},
    "memory_review": {"operations": []},
    "moa_response_generation": "first answer",
    "emoji_generation": "",
    "context_compaction": "",
}
WITHOUT_MODEL = ("title_generation", "tags_generation", "follow_up_generation")


@pytest.mark.parametrize("named", [False, True], ids=["by frame", "by X-Task"])
@pytest.mark.parametrize("agent", ["tutor", "counted"])
def test_no_chore_of_open_webui_runs_an_agent_or_moves_the_head(
    server: Chattable,
    upstream: ScriptedUpstream,
    folder: Path,
    clear: Clear,
    agent: str,
    named: bool,
) -> None:
    ui = window(OpenWebUI, server)
    turns(ui, agent)
    for task, body in OpenWebUI().chores(*SAID).items():
        clear()
        told = ui.post(body | {"model": agent}, task if named else "")
        assert told.mode == "side", task
        assert not ran(upstream, folder), task
        if agent == "counted" or task in WITHOUT_MODEL:
            assert upstream.requests == []
            wanted = ANSWERS[task]
            text = json.loads(told.text) if isinstance(wanted, dict) else told.text
            assert text == wanted, task
        else:  # the model behind the agent, without the agent's words
            assert len(upstream.requests) == 1, task
    ui.agrees()


def test_a_chore_before_the_first_turn_begins_nothing(
    server: Chattable,
    upstream: ScriptedUpstream,
    folder: Path,
    clear: Clear,
) -> None:
    for task, body in OpenWebUI().chores(*SAID[:2]).items():
        ui = window(OpenWebUI, server)
        assert ui.post(body | {"model": "counted"}).mode == "side", task
        assert not ran(upstream, folder)
        assert ui.kept.said(ui.user, ui.chat) == []
    ui.say(SAID[0])
    ui.agrees()


LIBRECHAT = {
    "title": LibreChat().title(SAID[0], SAID[1]),
    "a lone system message": LibreChat().title(SAID[0], role="system"),
    "a lone developer message": LibreChat().title(SAID[0], role="developer"),
    "in other words": LibreChat().chore(
        f"Nomme ceci en trois mots\n\n{LibreChat().quoted(*SAID[:2])}",
    ),
    "in other words, by the system": LibreChat().chore(
        f"Nomme ceci\n{LibreChat().quoted(SAID[0])}",
        "system",
    ),
    "as the config says": LibreChat().chore(f"Nenne mir einen Titel: {SAID[0]}"),
    "by schema": LibreChat().structured(SAID[0]),
    "by function": LibreChat().structured(SAID[0], tool=True),
    "label": LibreChat().label(),
}


@pytest.mark.parametrize("agent", ["tutor", "counted"])
def test_no_chore_of_librechat_runs_an_agent_or_moves_the_head(
    server: Chattable,
    upstream: ScriptedUpstream,
    folder: Path,
    clear: Clear,
    agent: str,
) -> None:
    for name, body in LIBRECHAT.items():
        ui = window(LibreChat, server)
        for _ in range(2):  # at the very start, and then between turns
            clear()
            assert ui.post(body | {"model": agent}).mode == "side", name
            assert not ran(upstream, folder), name
            turns(ui, agent)
        ui.agrees()


def test_a_title_of_librechat_is_of_the_users_words_in_the_form_it_reads(
    server: Chattable,
    clear: Clear,
) -> None:
    for name, body in LIBRECHAT.items():
        ui = window(LibreChat, server)
        told = ui.post(body)
        if name == "by schema":
            assert json.loads(told.text) == {"language": "", "title": SAID[0]}
        elif name == "by function":
            (call,) = told.message["tool_calls"]
            assert call["function"]["name"] == "extract"
            assert json.loads(call["function"]["arguments"])["title"] == SAID[0]
        elif name not in ("label", "as the config says"):  # which quote nothing
            assert told.text == SAID[0], name
            assert ui.kept.title(ui.user, ui.chat) == SAID[0]


def test_a_summary_of_librechat_is_asked_of_the_model_behind_the_agent(
    server: Chattable,
    upstream: ScriptedUpstream,
    folder: Path,
    clear: Clear,
) -> None:
    ui = window(LibreChat, server)
    turns(ui, "tutor")
    upstream.clear()
    wish = "Hold on, write a checkpoint of all this: the context window is full."
    told = ui.post(ui.ui.body([*ui.shown, {"role": "user", "content": wish}]))
    assert told.mode == "side"
    assert not ran(upstream, folder)
    assert asked(upstream)[-1] == f"u:{wish}"
    ui.agrees()


@pytest.mark.parametrize("kind", [LibreChat, OpenWebUI], ids=["librechat", "openwebui"])
def test_a_chore_is_charged_to_the_user_of_the_chat_and_to_nobody_else(
    upstream: ScriptedUpstream,
    folder: Path,
    clear: Clear,
    kind: type[LibreChat | OpenWebUI],
) -> None:
    with served(upstream, folder, "sessions: {tasks: {model: tasker}}\n") as running:
        ui = window(kind, running)
        theirs = OpenWebUI().chores(*SAID)
        chores = theirs if kind is OpenWebUI else dict(list(LIBRECHAT.items())[:3])
        for body in chores.values():
            assert ui.post(body).mode == "side"
        assert {request.json["model"] for request in upstream.requests} == {"tasker"}
        assert len(upstream.requests) == len(chores)

        def charged() -> dict[str, int]:
            rows = running.admin("GET", "/admin/usage?group_by=user")["data"]
            return {row["user"]: row["requests"] for row in rows}

        until(lambda: charged().get(ui.user) == len(chores), "the user is charged for all of it")
        assert charged().keys() == {ui.user}


def test_a_title_by_a_model_is_the_sessions(
    upstream: ScriptedUpstream,
    folder: Path,
    clear: Clear,
) -> None:
    with served(upstream, folder, "sessions: {title: {model: titler}}\n") as running:
        by_schema = LibreChat().structured(SAID[0])
        for body, title in (
            (LibreChat().title(SAID[0], role="system"), "Otters"),
            (by_schema, "Otters"),
            (by_schema, "The \\alpha otter"),  # no JSON, and no reason to fail the turn
        ):
            ui = window(LibreChat, running)
            words = f'{{"language": "en", "title": "{title}"}}'
            upstream.script(
                Plain(200, chat_completion({"messages": [{"role": "user", "content": words}]})),
            )
            ui.post(body)
            assert upstream.requests[-1].json["model"] == "titler"
            assert ui.kept.title(ui.user, ui.chat) == title


@pytest.mark.parametrize("by", ["the UI", "the server"])
def test_a_model_that_answers_without_a_title_leaves_the_users_words(
    upstream: ScriptedUpstream,
    folder: Path,
    clear: Clear,
    by: str,
) -> None:
    wrong = Plain(
        200,
        chat_completion({"messages": [{"role": "user", "content": '{"name": "Otters"}'}]}),
    )
    with served(upstream, folder, "sessions: {title: {model: titler}}\n") as running:
        ui = window(OpenWebUI, running)
        upstream.script(wrong)
        if by == "the UI":
            ui.post(ui.ui.title(SAID[0]))
            upstream.script(
                Plain(200, chat_completion({"messages": [{"role": "user", "content": "{}"}]})),
            )
        ui.post(ui.ui.body([{"role": "user", "content": SAID[0]}], model="counted"))
        assert ui.kept.title(ui.user, ui.chat) == SAID[0]


# --- who is no UI, and says the same ------------------------------------------------------------

TURNS = {
    "a question about titles": "Suggest a title for the conversation below",
    "a task": "### Task: name ten tags",
    "a transcript": "What went wrong here?\nCustomer: it is broken\nAgent: have you tried it?",
    "code": 'Which is better: """one""" or """two"""',
    "JSON": 'Answer as JSON: { "text": "…" }',
    "a user's line": "User: root\nPassword: unknown\n\nHow do I log in?",
}


@pytest.mark.parametrize("kind", [LibreChat, OpenWebUI], ids=["librechat", "openwebui"])
def test_what_a_user_asks_is_a_turn(
    server: Chattable,
    clear: Clear,
    kind: type[LibreChat | OpenWebUI],
) -> None:
    for name, said in TURNS.items():
        ui = window(kind, server)
        assert ui.say(said).mode in ("mirrored", "branched"), name
        ui.agrees()


@pytest.mark.parametrize("stream", [False, True])
def test_a_program_that_asks_about_a_dialogue_gets_a_turn(
    server: Chattable,
    upstream: ScriptedUpstream,
    clear: Clear,
    stream: bool,
) -> None:
    """Whose history the server keeps: it has no UI that asks beside it."""
    sdk = OpenAI(
        base_url=f"{server.base_url}/v1",
        api_key=server.user_key("prog"),
        max_retries=0,
        timeout=20,
    )
    name = f"s-{stream}"
    for said in (
        f"Sum up:\n{LibreChat().quoted(*SAID[:2])}",
        'Return JSON { "text": "" } of\nUser: hi\nAI: hello',
    ):
        assert talk(sdk, said, name, stream=stream).mode == "appended"
    assert len(upstream.requests) == 2


# --- without a session, and chats that are not kept ---------------------------------------------


def test_a_chore_without_a_session_runs_no_agent_where_it_is_named(
    server: Chattable,
    upstream: ScriptedUpstream,
    folder: Path,
    clear: Clear,
) -> None:
    """Open WebUI asks for tools under no chat; X-Task says what it is."""
    ui = window(OpenWebUI, server)
    ui.chat = ""
    told = ui.post(
        OpenWebUI().chores(*SAID)["function_calling"] | {"model": "counted"},
        "function_calling",
    )
    assert (told.mode, json.loads(told.text)) == ("off", {"tool_calls": []})
    assert not ran(upstream, folder)
    turn = ui.ui.body([{"role": "user", "content": "hi"}], model="counted")
    assert ui.post(turn).text == "an answer"


@pytest.mark.parametrize(
    "chat",
    ["temporary:x7Yq", "local:x7Yq", "channel:0b7c2a4e-1111-2222-3333-444455556666"],
)
def test_temporary_chats_and_channels_of_open_webui_are_not_kept(
    server: Chattable,
    upstream: ScriptedUpstream,
    folder: Path,
    clear: Clear,
    chat: str,
) -> None:
    ui = window(OpenWebUI, server)
    ui.chat = chat
    told = ui.post(ui.ui.body([{"role": "user", "content": "hi"}], model="m"))
    assert (told.mode, told.session, told.text) == ("off", None, "hi")
    assert json.loads(ui.post(ui.ui.title("hi")).text) == {"title": "hi"}
    assert not ran(upstream, folder)
    assert ui.kept.sessions(ui.user) == []


def test_a_program_may_call_its_sessions_so(server: Chattable) -> None:
    sdk = OpenAI(
        base_url=f"{server.base_url}/v1",
        api_key=server.user_key("loc"),
        max_retries=0,
        timeout=20,
    )
    assert talk(sdk, "one", "local:notes", model="m").mode == "appended"
    assert talk(sdk, "two", "local:notes", model="m").injected == 2


def test_a_prompt_that_nobody_speaks_is_no_turn(
    server: Chattable,
    upstream: ScriptedUpstream,
) -> None:
    """Whatever it wants: a lone system message that nothing recognises."""
    ui = window(LibreChat, server)
    body: Body = ui.ui.chore("Say something", "system") | {"model": "m"}
    assert ui.post(body).mode == "side"
    ui.say("one")
    ui.agrees()
