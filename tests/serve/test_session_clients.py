"""Chat UIs as they are: each resends the branch its user looks at.

They ask for titles, tags and more under the same header.

Their requests are those of tests/chat_uis.py.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from answers import Gate, Plain, Sse
from chat_uis import LibreChat, OpenWebUI, Window
from conversations import asked, lines
from echo_model import chat_chunks, chat_completion
from process import Chattable, chattable
from promises.house import until
from upstream import ScriptedUpstream

CONFIG = """
providers: {{stub: {{kind: openai, base_url: "{url}", api_key: x, retries: 0}}}}
models: {{m: {{provider: stub}}, titler: {{provider: stub}}}}
agents: {{tutor: {{model: m, context: You teach.}}}}
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def server(upstream: ScriptedUpstream) -> Iterator[Chattable]:
    with chattable(CONFIG.format(url=upstream.url)) as running:
        yield running


@pytest.fixture(params=[LibreChat, OpenWebUI], ids=["librechat", "openwebui"])
def window(request: pytest.FixtureRequest, server: Chattable, upstream: ScriptedUpstream) -> Window:
    upstream.clear()
    return Window(request.param(), server, f"user-{uuid4().hex[:12]}")


@pytest.fixture
def open_webui(server: Chattable, upstream: ScriptedUpstream) -> Window:
    upstream.clear()
    return Window(OpenWebUI(), server, f"user-{uuid4().hex[:12]}")


@pytest.fixture
def librechat(server: Chattable, upstream: ScriptedUpstream) -> Window:
    upstream.clear()
    return Window(LibreChat(), server, f"user-{uuid4().hex[:12]}")


def prompt(window: Window) -> list[str]:
    """What the agent asks its model for what is shown: exactly the branch, after its own words."""
    system = "\n\n".join(["You teach.", *(message["content"] for message in window.ui.system)])
    return [f"s:{system}", *lines(window.shown)]


def another(text: str) -> Sse:
    """A streamed answer with these words."""
    return Sse(
        chat_chunks(
            {
                "messages": [{"role": "user", "content": text}],
                "stream_options": {"include_usage": True},
            }
        )
    )


def test_three_turns(window: Window, upstream: ScriptedUpstream) -> None:
    for text in ("one", "two", "three"):
        told = window.say(text)
        assert (told.mode, told.injected) == ("mirrored", 0)
        assert sent_to(upstream) == prompt(window)[:-1]
    assert len(upstream.requests) == 3
    window.agrees()
    assert len(window.all()) == 6
    session = window.kept.session(window.user, window.chat)
    assert (session.alias, session.model, session.message_count) == (window.chat, "tutor", 6)


def sent_to(upstream: ScriptedUpstream) -> list[str]:
    """The last prompt, its system messages joined, however many there are."""
    said = asked(upstream)
    system = [line.partition(":")[2] for line in said if line.startswith("s:")]
    return ["s:" + "\n\n".join(system), *(line for line in said if not line.startswith("s:"))]


def test_the_title_is_asked_for_while_the_first_turn_is_under_way(
    window: Window, upstream: ScriptedUpstream
) -> None:
    held = Gate(1)
    upstream.script(held)
    with ThreadPoolExecutor(1) as pool:
        turn = pool.submit(window.say, "Where do otters sleep")
        held.wait()
        told = window.post(window.ui.title("Where do otters sleep"))
        assert window.kept.said(window.user, window.chat) == []
        held.release()
        turn.result()
    assert (told.mode, told.session) == ("side", turn.result().session)
    assert window.ui.title_in(told) == "Where do otters sleep"
    assert len(upstream.requests) == 1  # neither the agent nor its model was asked for it
    assert window.kept.title(window.user, window.chat) == "Where do otters sleep"
    window.agrees()
    assert len(window.all()) == 2


@pytest.mark.parametrize("timing", ["before", "after"])
def test_a_title_is_no_turn_whenever_it_comes(
    window: Window, upstream: ScriptedUpstream, timing: str
) -> None:
    if timing == "after":
        window.say("one")
    told = window.post(window.ui.title("one", "one" if timing == "after" else ""))
    assert told.mode == "side"
    window.say("one" if timing == "before" else "two")
    window.agrees()
    assert sent_to(upstream) == prompt(window)[:-1]


def test_the_title_that_the_ui_shows_is_the_sessions(
    server: Chattable, upstream: ScriptedUpstream, open_webui: Window, librechat: Window
) -> None:
    """Also where a model of the UI's choice writes it, and where one of the config's does."""
    config = CONFIG.format(url=upstream.url) + "sessions: {title: {model: titler}}\n"
    with chattable(config) as titled:
        for window, words in ((open_webui, '{ "title": "Otters 🦦" }'), (librechat, '"Otters 🦦"')):
            other = Window(window.ui, titled, "ute")
            upstream.clear()
            upstream.script(
                Plain(200, chat_completion({"messages": [{"role": "user", "content": words}]}))
            )
            assert other.post(other.ui.title("Where do otters sleep")).text == words
            assert upstream.requests[-1].json["model"] == "titler"
            assert other.kept.title("ute", other.chat) == "Otters 🦦"
            other.say("Where do otters sleep")
            other.agrees()
            assert other.kept.title("ute", other.chat) == "Otters 🦦"
    for window in (open_webui, librechat):
        upstream.script(
            Plain(
                200,
                chat_completion({"messages": [{"role": "user", "content": '{"title": "Rivers"}'}]}),
            )
        )
        window.post(window.ui.title("Where do rivers sleep") | {"model": "m"})
        assert window.kept.title(window.user, window.chat) == "Rivers"


def test_a_title_is_json_only_where_it_is_asked_for(librechat: Window) -> None:
    """And not because the user writes about JSON."""
    assert librechat.post(librechat.ui.title('what is {"title": 1}')).text == 'what is {"title": 1}'


def test_a_title_may_be_asked_for_by_schema(librechat: Window, upstream: ScriptedUpstream) -> None:
    """LibreChat's method `structured`."""
    wish = (
        "Analyze this conversation and provide:\n1. The detected language of the conversation\n2. "
        "A concise title\n\n"
    )
    schema = {
        "type": "object",
        "properties": {"language": {"type": "string"}, "title": {"type": "string"}},
    }
    form = {"type": "json_schema", "json_schema": {"name": "extract", "schema": schema}}
    ui = librechat.ui
    assert isinstance(ui, LibreChat)
    told = librechat.post(ui.chore(f"{wish}User: where is it\nAI: ") | {"response_format": form})
    assert json.loads(told.text)["title"] == "where is it"
    assert upstream.requests == []
    librechat.say("where is it")
    librechat.agrees()


@pytest.mark.parametrize("count", [1, 3])
def test_an_edit_of_the_first_message_begins_the_conversation_anew(
    window: Window, upstream: ScriptedUpstream, count: int
) -> None:
    for i in range(count):
        window.say(str(i))
    window.shown = [{"role": "user", "content": "edited"}]
    told = window.answer()
    assert (told.mode, told.injected) == ("branched", 0)
    assert sent_to(upstream) == prompt(window)[:-1]
    window.agrees()
    assert len(window.all()) == 2 * count + 2
    window.say("and on")
    assert sent_to(upstream) == prompt(window)[:-1]
    window.agrees()


def test_an_edit_in_the_middle_is_a_branch(window: Window) -> None:
    for text in ("one", "two", "three"):
        window.say(text)
    window.shown = [*window.shown[:2], {"role": "user", "content": "zwei"}]
    assert window.answer().mode == "branched"
    window.agrees()
    assert len(window.all()) == 8


def test_regenerate_makes_a_second_answer_to_one_question(
    window: Window, upstream: ScriptedUpstream
) -> None:
    for text in ("one", "two", "three"):
        window.say(text)
    window.shown.pop()
    upstream.script(another("another three"))
    assert window.answer().text == "another three"
    assert sent_to(upstream) == prompt(window)[:-1]
    window.agrees()
    assert len(window.all()) == 7
    window.say("four")
    window.agrees()


def test_regenerate_the_only_answer(window: Window, upstream: ScriptedUpstream) -> None:
    window.say("one")
    window.shown.pop()
    upstream.script(another("another one"))
    window.answer()
    window.agrees()
    assert len(window.all()) == 3


def test_who_goes_back_to_a_branch_goes_on_there(
    window: Window, upstream: ScriptedUpstream
) -> None:
    for text in ("one", "two"):
        window.say(text)
    first = list(window.shown)
    window.shown = [*first[:2], {"role": "user", "content": "zwei"}]
    window.answer()
    second, window.shown = list(window.shown), first
    window.say("three")
    window.agrees()
    window.shown = second
    window.say("drei")
    assert sent_to(upstream) == prompt(window)[:-1]
    window.agrees()
    assert len(window.all()) == 4 + 2 + 2 + 2


def test_an_old_message_that_the_ui_changes_is_what_the_user_sees(window: Window) -> None:
    """A file whose text was put before the question is left out of the next request."""
    window.say("Attached: otters.txt\n\nwhat is it about")
    window.shown[0] = {"role": "user", "content": "what is it about"}
    window.say("and who wrote it")
    window.agrees()


def test_pictures_and_parts_do_not_branch(window: Window) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    window.shown.append({"role": "user", "content": [{"type": "text", "text": "look "}, picture]})
    window.answer()
    window.shown[1] = {
        "role": "assistant",
        "content": [{"type": "text", "text": window.shown[1]["content"]}],
    }
    assert window.say("more").mode == "mirrored"
    assert len(window.all()) == 4


def test_an_answer_that_the_user_stopped_goes_on_from_what_they_saw(window: Window) -> None:
    window.say("one two three")
    window.shown[1] = {"role": "assistant", "content": "one two"}
    window.say("go on")
    window.agrees()


@pytest.mark.parametrize("named", [False, True], ids=["by prompt", "by X-Task"])
def test_tags_and_follow_ups_are_answered_without_a_model(
    open_webui: Window, upstream: ScriptedUpstream, named: bool
) -> None:
    window, ui = open_webui, OpenWebUI()
    said = "a title for the conversation about tags"
    window.say(said)
    wish = "Generate 1-3 broad tags categorizing the main themes of the chat history."
    tags = ui.chore(wish, '{ "tags": ["tag1"] }', said, said)
    wish = (
        "Suggest 3-5 relevant follow-up questions that the user might naturally ask next in this "
        "conversation."
    )
    follow_ups = ui.chore(wish, '{ "follow_ups": ["Question 1?"] }', said, said)
    assert json.loads(window.post(tags, "tags_generation" if named else "").text) == {"tags": []}
    assert json.loads(window.post(follow_ups, "follow_up_generation" if named else "").text) == {
        "follow_ups": []
    }
    assert len(upstream.requests) == 1
    window.say("two")
    window.agrees()


@pytest.mark.parametrize("named", [False, True], ids=["by prompt", "by X-Task"])
@pytest.mark.parametrize("first", [False, True], ids=["in the middle", "before the first turn"])
def test_a_search_is_asked_of_a_model_and_is_no_turn(
    open_webui: Window, upstream: ScriptedUpstream, named: bool, first: bool
) -> None:
    window = open_webui
    if not first:
        window.say("one")
    search = OpenWebUI().chore(
        "Analyze the chat history to determine the necessity of search queries.",
        '{ "queries": [] }',
        "two",
    )
    told = window.post(search | {"model": "m"}, "query_generation" if named else "")
    assert told.mode == "side"
    assert upstream.requests[-1].json["messages"] == search["messages"]
    assert window.say("two").mode == "mirrored" or first
    window.agrees()


def test_any_task_of_open_webui_is_no_turn_when_it_is_named(open_webui: Window) -> None:
    window = open_webui
    for task in (
        "emoji_generation",
        "function_calling",
        "moa_response_generation",
        "autocomplete_generation",
        "brand_new",
    ):
        messages = [
            {"role": "system", "content": "Available Tools: []"},
            {"role": "user", "content": f"Query: {task}"},
        ]
        assert window.post(window.ui.body(messages) | {"model": "m"}, task).mode == "side"
    assert window.kept.said(window.user, window.chat) == []
    assert window.kept.session(window.user, window.chat).title is None
    window.say("one")
    window.agrees()


def test_a_lone_prompt_beside_a_conversation_is_no_turn(window: Window) -> None:
    """A prompt for titles of the operator's own, which nothing recognises."""
    window.say("one")
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "Nenne mir einen Titel: one / one"}],
    }
    assert window.post(body).mode == "side"
    window.agrees()


def test_a_lone_prompt_beside_the_first_turn_is_no_turn(
    window: Window, upstream: ScriptedUpstream
) -> None:
    """The same while the first turn is under way, and answered after it."""
    held, slow = Gate(1), Gate()
    upstream.script(held, slow)
    body = {"model": "m", "messages": [{"role": "user", "content": "Nenne mir einen Titel: one"}]}
    with ThreadPoolExecutor(2) as pool:
        turn = pool.submit(window.say, "one")
        held.wait()
        title = pool.submit(window.post, body)
        slow.wait()
        held.release()
        turn.result()
        slow.release()
        title.result()
    window.agrees()


def test_somebody_who_asks_for_a_title_gets_a_turn(
    window: Window, upstream: ScriptedUpstream
) -> None:
    for text in (
        "Suggest a title for the conversation below",
        "### Task: name ten tags",
        "Summarize this conversation",
    ):
        window.say(text)
        assert sent_to(upstream) == prompt(window)[:-1]
    window.agrees()
    assert len(upstream.requests) == 3


@pytest.mark.parametrize("again", [False, True])
def test_a_summary_that_the_ui_makes_is_no_turn(
    librechat: Window, upstream: ScriptedUpstream, again: bool
) -> None:
    """LibreChat asks for it behind the messages that it stands for, and streams it."""
    window = librechat
    for text in ("one", "two", "three"):
        window.say(text)
    wish = (
        "Hold on, before you continue I need you to write me a checkpoint of everything so far. "
        "Your context window is full."
    )
    if again:
        wish = (
            "Hold on again, update your checkpoint. Merge the new messages into your existing "
            "checkpoint."
        )
    told = window.post(window.ui.body([*window.shown[:4], {"role": "user", "content": wish}]))
    assert told.mode == "side"
    assert asked(upstream)[-1] == f"u:{wish}"
    window.agrees()
    window.say("four")
    window.agrees()


def test_two_users_of_one_ui_share_no_chat(
    window: Window, server: Chattable, upstream: ScriptedUpstream
) -> None:
    """Who guesses the id of another's chat begins one of their own."""
    window.say("the canary sings")
    other = Window(window.ui, server, f"{window.user}-2")
    other.chat = window.chat
    told = other.say("what was said")
    assert sent_to(upstream) == prompt(other)[:-1]
    assert told.session != window.kept.session(window.user, window.chat).id
    window.agrees()
    other.agrees()


def test_a_header_that_the_ui_did_not_fill_in_is_no_session(window: Window) -> None:
    window.chat = "{{CHAT_ID}}" if isinstance(window.ui, OpenWebUI) else ""
    told = window.say("one")
    assert (told.mode, told.session) == ("off", None)


def test_a_title_is_set_once_the_first_turn_is_over(window: Window) -> None:
    """A UI that asks for none."""
    window.say("Where do otters sleep, and why?")
    assert window.kept.title(window.user, window.chat) == "Where do otters sleep, and why?"
    until(lambda: window.kept.session(window.user, window.chat).title, "there is a title")
