"""Promise P4: an upstream call is charged exactly once, however often it is repeated."""

import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from answers import Sse, error
from echo_model import chat_chunks
from openai import APIError, OpenAI
from promises.bases import Base
from promises.clients import mixed
from promises.house import TESTS, House, agree, importable, statuses, until

ASKER = TESTS / "promises" / "asker.py"


def test_p4_a_journal_that_is_replayed_twice_charges_nothing_more(
    house: House, dice: random.Random
) -> None:
    """Copies of living workers' journals look like those of dead ones, and are booked again."""
    lea = house.client("lea")
    budget = house.limit(tokens=1_000_000, user="lea")
    told = lea.ask_all([mixed(dice, f"p/p4j-{i}") for i in range(100)], parallel=20)
    house.settled()
    entries, spent = house.entries(user="lea"), house.row(budget)["spent"]
    lines = b"".join(path.read_bytes() for path in house.journal.glob("*/*.jsonl"))
    assert statuses(told) == {200}
    assert lines.count(b'"hold_') >= sum(one.status == 200 for one in told)
    folder = next(house.journal.glob("*/"))
    for _ in range(2):
        copies = [folder / f"0-copy{i}.jsonl" for i in range(2)]
        for copy in copies:
            copy.write_bytes(lines)
        house.kill(house.workers()[0])  # its successor books them
        until(
            lambda copies=copies: not any(copy.exists() for copy in copies),
            "the copies are booked",
            60,
        )
    house.full()
    assert house.entries(user="lea") == entries
    assert house.row(budget)["spent"] == spent == agree(told, house.calls("p4j"), house.log("p4j"))


def test_p4_the_same_end_from_several_processes_counts_once(house: House) -> None:
    """Four processes settle and void the same holds over and over; the first one counts."""
    base, holds = house.base, [f"hold_p4e_{i}" for i in range(20)]
    first = ask(base, "hold", holds)
    assert first == ["pending"] * 20
    with ThreadPoolExecutor(4) as pool:
        words = list(pool.map(lambda i: ask(base, str(i), holds), range(4)))
    rows: dict[str, str] = dict(base.rows("SELECT id, state FROM calls WHERE id LIKE 'hold_p4e_%'"))
    assert all(heard == [rows[hold] for hold in holds] for heard in words)
    assert set(rows.values()) <= {"settled", "voided"}
    ends = base.rows(
        "SELECT hold_id, COUNT(*), SUM(spent_tokens) FROM entries"
        " WHERE hold_id LIKE 'hold_p4e_%' AND kind <> 'hold' GROUP BY hold_id"
    )
    assert {count for _, count, _ in ends} == {1}
    assert len(ends) == len(holds)
    used: dict[str, int] = dict(
        base.rows(
            "SELECT id, prompt_tokens + completion_tokens FROM calls WHERE id LIKE 'hold_p4e_%'"
        )
    )
    assert {hold: total for hold, _, total in ends} == used
    print({state: list(rows.values()).count(state) for state in rows.values()})


def ask(base: Base, what: str, holds: list[str]) -> list[str]:
    """What a process of its own is told of these holds."""
    told = subprocess.run(
        [sys.executable, str(ASKER), base.url, what, *holds],
        env=os.environ | {"PYTHONPATH": importable(TESTS)},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return told.stdout.split()


@pytest.mark.parametrize("stream", [False, True])
def test_p4_an_sdk_that_retries_is_charged_for_what_the_upstream_answered(
    house: House, stream: bool
) -> None:
    """Two upstream calls fail after they have spent, one before.

    Three answered, three charges, the last to the token.
    """
    name = f"max-{stream}"
    house.client(name)
    # two retries, as it comes
    client = OpenAI(base_url=f"{house.server.base_url}/v1", api_key=house.server.user_key(name))
    said: Any = {"messages": [{"role": "user", "content": "one two three four"}], "model": "m"}
    half = Sse(chat_chunks(said)[:3], done=False, end="reset")  # the role and two words
    if stream:  # a stream that has begun is never retried: each try is another call of the client's
        house.honest.script(half, half, error(503, "later"))
        for _ in range(2):
            with pytest.raises(APIError):
                list(client.chat.completions.create(**said, stream=True))
        list(
            client.chat.completions.create(
                **said, stream=True, stream_options={"include_usage": True}
            )
        )
    else:
        house.honest.script(half, half)
        assert client.chat.completions.create(**said).usage.total_tokens == 8
        house.honest.script(error(503, "later"))
        assert client.chat.completions.create(**said).usage.total_tokens == 8
    house.settled()
    charges = [entry for entry in house.entries(user=name) if entry["kind"] == "settle"]
    answered = house.honest.usage_log
    print(
        [entry["spent"]["tokens"] for entry in charges], [spent.total_tokens for spent in answered]
    )
    assert len(charges) == len(answered) == (3 if stream else 4)
    assert sorted(entry["spent"]["tokens"] for entry in charges) == sorted(
        spent.total_tokens for spent in answered
    )
    assert [entry["kind"] for entry in house.entries(user=name)].count("void") == 1
