"""The server answers as it did when the recording was made, but for ids, times and chance."""

import difflib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from placeholders import Placeholders
from played import HERE, SETUPS, flat, group, played, recording

FEW = 5  # requests whose differences are shown
LEAST = 300  # requests


def steps(text: str) -> dict[str, list[str]]:
    """A recording's lines, request by request."""
    return {part.partition("\n")[0]: part.splitlines() for part in text.split("=== ")[1:]}


def differences(name: str, before: str, now: str) -> Iterator[str]:
    """What each request was answered that it was not before."""
    old, new = steps(before), steps(now)
    for step in {**old, **new}:
        lines = old.get(step, []), new.get(step, [])
        if lines[0] != lines[1]:
            shown = difflib.unified_diff(*lines, "recorded", "now", n=2, lineterm="")
            yield "\n".join([f"{name}: {step}", *list(shown)[2:]])


@pytest.mark.parametrize("setup", SETUPS)
def test_every_answer_is_as_recorded(setup: str) -> None:
    check(played(setup))


def test_the_application_answers_as_the_shorter_way_does() -> None:
    """With `cors_origins` chats take the way through the application, without them past it."""
    check(played("plain", cors_origins=["https://chat.example"]))


def check(told: dict[str, str]) -> None:
    """Compares what was answered with the recording."""
    found: list[str] = []
    for name, now in told.items():
        found += differences(name, recording(name).read_text(), now)
    if found:
        shown = "\n\n".join(found[:FEW])
        pytest.fail(f"{len(found)} answers differ from the recording:\n\n{shown}", pytrace=False)


def test_every_group_belongs_to_one_setup_and_names_each_request_once() -> None:
    groups = [name for setup in SETUPS.values() for name in setup["groups"]]
    assert sorted(groups) == sorted(path.stem for path in (HERE / "requests").glob("*.yaml"))
    names = {name: [step["name"] for step in flat(group(name))] for name in groups}
    assert not [name for name, given in names.items() if len(given) != len(set(given))]
    assert sum(map(len, names.values())) >= LEAST


def test_an_id_has_the_same_name_wherever_it_stands() -> None:
    first, second = ("msg_" + "0" * 12 + letter * 20 for letter in "ab")
    names = Placeholders({"sk-secret-of-alice": "<key of alice>"})
    said = {"id": first, "text": f"after {second}, not {first}", "created_at": 1_800_000_000}
    assert names.value(said) == {
        "id": "<msg 1>",
        "text": "after <msg 2>, not <msg 1>",
        "created_at": "<time>",
    }
    assert names.value(first.replace("msg_", "fc_")) == "<fc_msg 1>"
    assert names.text("Bearer sk-secret-of-alice") == "Bearer <key of alice>"


def test_a_difference_is_shown_by_request() -> None:
    before = "=== one\n200\n\n{}\n=== two\n200\n\n{}\n"
    (found,) = differences("chat", before, before.replace("two\n200", "two\n404"))
    assert found.splitlines()[0] == "chat: two"
    assert "-200" in found and "+404" in found and "one" not in found
