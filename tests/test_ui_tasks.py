"""Titles in what models answer, and prompts that are looked at without a server."""

import time

import pytest

from chattable.agents.chat import Chat, Message
from chattable.proxy.config.ui_tasks import FOLLOW_UPS, TITLE
from chattable.proxy.sessions.titles import title_in
from chattable.proxy.sessions.ui_tasks import recognise

NO_TITLE = [
    '{"name": "Otters"}',
    '{"title": null}',
    '{"title": ["Otters"]}',
    '{"title": {"text": "Otters"}}',
    '["Otters"]',
    '```json\n{"name": "Otters"}\n```',
    "{",
    '{"title": "Ott',
    "<think>They ask for a title",
    "   ",
]
TITLES = [
    "Otters",
    '"Otters"',
    "<think>a title</think>\n\nOtters",
    "```\nOtters\n```",
    'Here: {"title": "Otters"}',
    '```json\n{"title": "Otters"}\n```',
    '{"title": "Otters", "broken',
    "**Otters**",
    "Otters\nand why",
]


@pytest.mark.parametrize("answer", NO_TITLE)
def test_an_answer_without_a_title_has_none(answer: str) -> None:
    assert title_in(answer) == ""


@pytest.mark.parametrize("answer", TITLES)
def test_a_title_is_found_in_what_surrounds_it(answer: str) -> None:
    assert title_in(answer) == "Otters"


def test_a_backslash_that_escapes_nothing_stands_in_the_title() -> None:
    assert title_in('{"title": "The \\alpha problem"}') == "The \\alpha problem"
    assert title_in('```json\n{"title": "The \\alpha problem"}\n```') == "The \\alpha problem"


@pytest.mark.parametrize(
    "piece", [" ", "`", "```", "{ ", '"title"', '{"title": "', "\\", "</think>", "</think> "]
)
def test_a_long_answer_is_looked_at_in_little_time(piece: str) -> None:
    began = time.process_time()
    title_in("```json\n" + piece * (1_000_000 // len(piece)) + "x")
    assert time.process_time() - began < 2


def of(prompt: str, *, ui: bool = True, stream: bool = False) -> str | None:
    """The kind of a lone prompt."""
    found = recognise(Chat("m", [Message("user", prompt)], stream), ui=ui)
    return found.kind if found else None


@pytest.mark.parametrize("mark", ["chat_history", "conversation", "messages", "chat-transcript"])
@pytest.mark.parametrize("ui", [False, True])
def test_the_marks_of_a_quote_and_the_key_of_the_answer_are_enough(mark: str, ui: bool) -> None:
    """In whatever language the rest is."""
    prompt = f'Cinco cosas. JSON: {{ "follow_ups": ["a"] }}\n<{mark}>\nhola\n</{mark}>'
    assert of(prompt, ui=ui) == FOLLOW_UPS
    assert of(prompt.replace(f"</{mark}>", ""), ui=ui) is None


@pytest.mark.parametrize(
    ("quote", "kind"),
    [("User: hi\nAI: hello", TITLE), ("USER: hi\nASSISTANT: hello", TITLE), ("User: hi", None)],
)
def test_any_wording_before_a_dialogue_as_uis_set_it_out(quote: str, kind: str | None) -> None:
    assert of(f"Überschrift bitte\n\n{quote}") == kind
    assert of(f"Überschrift bitte\n\n{quote}", stream=True) is None
    assert of(f"Überschrift bitte\n\n{quote}", ui=False) is None


@pytest.mark.parametrize(
    "piece",
    ["\n", "#", "<chat", "<chatchat", "user", "User: a\n", '"title" ', '"""', "{ ", "a-"],
)
def test_a_long_prompt_is_looked_at_in_little_time(piece: str) -> None:
    began = time.process_time()
    of(piece * (2_000_000 // len(piece)))
    assert time.process_time() - began < 2
