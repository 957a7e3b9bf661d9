"""Promises P1, P5, P6 and P7.

Limits are kept, three witnesses agree, the books balance, and leaving changes nothing.
"""

import asyncio
import random
import re
import subprocess
import sys
from threading import Event
from typing import Any, Self

from answers import Answer, Gate, Plain, Request, Sse
from echo_model import chat_chunks, chat_completion
from promises.clients import Body, Client, Told, all_of, body, connections, in_background, mixed
from promises.house import House, agree, always, statuses, until

BURST = 200
WORDY = 40  # words that the liar says, whatever it is asked
DROPPED = 500


class Watch:
    """Looks at the budgets all the while, as an admin sees them."""

    def __init__(self, house: House) -> None:
        self._house, self._stop = house, Event()
        self.beyond: list[dict[str, Any]] = []  # rows that were seen beyond their limit
        self.held: list[int] = []  # tokens held, at each look

    def __enter__(self) -> Self:
        self._looking = in_background(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._looking.result(30)
        print(f"{len(self.held)} looks, at most {max(self.held)} tokens held")

    def _look(self) -> None:
        while not self._stop.is_set():
            rows = [
                row
                for row in self._house.server.admin("GET", "/admin/budgets")["data"]
                if "spent" in row
            ]
            self.beyond += [row for row in rows if row["spent"] + row["held"] > row["tokens"]]
            self.held.append(sum(row["held"] for row in rows))


def highest(house: House, budget: str) -> int:
    """The most that was ever spent and held, entry by entry, so that nothing is missed."""
    total, most = 0, 0
    for entry in house.entries(budget=budget):
        total += entry["spent"]["tokens"] + entry["held"]["tokens"]
        most = max(most, total)
    return most


def test_p1_spent_and_held_never_exceed_a_limit(
    house: House, dice: random.Random, gate: Gate
) -> None:
    """Bursts from three users whom limits of their own, their team and the model bind at once."""
    ann, bob, cid = house.client("ann", "red"), house.client("bob", "red"), house.client("cid")
    of_ann, red, tight = (
        house.limit(tokens=900, user="ann"),
        house.limit(tokens=1100, team="red"),
        house.limit(tokens=1500, model="tight"),
    )  # fmt: skip
    asked: list[tuple[Client, Body]] = []
    for _ in range(BURST):
        one = mixed(dice, "tight")
        if dice.random() < 0.3:
            del one["max_tokens"]  # then all that remains is held
        asked.append((dice.choice((ann, bob, cid)), one))
    with Watch(house) as watch:
        with always(lambda _: gate, house.honest):
            first = in_background(lambda: asyncio.run(all_of(asked)))
            until(lambda: watch.held and watch.held[-1] > 0, "holds are seen")
            gate.release()
            told = first.result(60)
        # what is left is less now, and smaller holds use more of it
        told += asyncio.run(all_of(asked, parallel=8))
    house.settled()
    assert watch.beyond == []
    assert highest(house, of_ann) <= 900
    assert highest(house, red) <= 1100
    assert highest(house, tight) <= 1500
    assert statuses(told) == {200, 429}
    acks = dict.fromkeys((ann, bob, cid), 0)
    for (client, _), answer in zip(asked * 2, told, strict=True):
        acks[client] += answer.acked or 0
    spent = {name: house.row(name)["spent"] for name in (of_ann, red, tight)}
    print(
        f"{sum(one.status == 200 for one in told)} of {len(told)} admitted;"
        f" spent {list(spent.values())}"
    )
    assert spent == {of_ann: acks[ann], red: acks[ann] + acks[bob], tight: sum(acks.values())}
    assert spent[of_ann] <= 900
    assert spent[red] <= 1100
    assert spent[tight] == house.honest.tokens <= 1500


def lie(request: Request) -> Answer:
    """Says many words, whatever the cap, and bills them."""
    wordy = {"messages": [{"role": "user", "content": " one" * WORDY}], "model": "liar"}
    prompt = chat_completion(request.json)["usage"]["prompt_tokens"]
    usage = {"prompt_tokens": prompt, "completion_tokens": WORDY, "total_tokens": prompt + WORDY}
    if request.json.get("stream"):
        return Sse([*chat_chunks(wordy), {"choices": [], "usage": usage}], delay_s=0.001)
    return Plain(200, chat_completion(wordy) | {"usage": usage})


def test_p1_a_lying_upstream_overspends_by_one_chunk_for_each_open_stream(
    house: House, dice: random.Random
) -> None:
    dan, eve = house.client("dan"), house.client("eve")
    streams, plain = house.limit(tokens=1500, user="dan"), house.limit(tokens=1500, user="eve")
    asked = [
        (
            client,
            body("liar", "one two", stream=client is dan, max_tokens=dice.choice((1, 2, 5, 10))),
        )
        for client in dice.sample([dan, eve] * (BURST // 2), BURST)
    ]
    with always(lie, house.liar):
        told = asyncio.run(all_of(asked))
        house.settled()
    opened = [one for one in told if one.asked.get("stream") and one.status == 200]
    whole = [one for one in told if not one.asked.get("stream") and one.status == 200]
    assert len(opened) > 5
    assert len(whole) > 5
    for one in opened:
        assert len(one.text.split()) <= one.asked["max_tokens"] + 1
    assert (
        house.row(streams)["spent"] == sum(one.acked or 0 for one in opened) <= 1500 + len(opened)
    )
    # An answer that comes at once cannot be cut: all that was delivered beyond the cap that we sent
    # may be too much.
    sent = [r.json["max_tokens"] for r in house.liar.requests if not r.json.get("stream")]
    beyond = sum(WORDY - cap for cap in sent)
    assert house.row(plain)["spent"] == (2 + WORDY) * len(whole) <= 1500 + beyond
    booked = [entry for entry in house.entries(user="eve") if entry["kind"] == "settle"]
    assert all(
        e["overdraft"]["tokens"] == max(0, e["spent"]["tokens"] + e["held"]["tokens"])
        for e in booked
    )


def test_p5_client_ledger_and_upstream_agree_to_the_token(
    house: House, dice: random.Random
) -> None:
    fay = house.client("fay")
    asked = [mixed(dice, f"p/p5-{i}") for i in range(300)]
    told = fay.ask_all(asked, parallel=60)
    house.settled()
    assert statuses(told) == {200}
    total = agree(told, house.calls("p5"), house.log("p5"))
    assert total == sum(entry["spent"]["tokens"] for entry in house.entries(user="fay"))


def test_p6_verify_finds_what_is_wrong_and_nothing_else(house: House) -> None:
    """Every test of this folder ends with `verify`: it would see a lost token."""
    gus = house.client("gus")
    budget = house.limit(tokens=10_000, user="gus")
    assert gus.ask(body("m")).status == 200
    house.settled()
    assert house.differences() == 0
    for column in ("spent_tokens", "held_tokens", "granted_cost"):
        house.base.change(
            f"UPDATE accounts SET {column} = {column} + 1 WHERE limit_id = '{budget}'"
        )
        assert house.differences() == 1
        if column == "held_tokens":
            verify = [sys.executable, "-m", "chattable.proxy", "ledger", "verify"]
            told = subprocess.run(
                verify, cwd=house.server.directory, capture_output=True, text=True, timeout=30
            )
            assert told.returncode == 1
            assert re.match(r"\d+ accounts, 1 differences\n", told.stdout)
        house.base.change(
            f"UPDATE accounts SET {column} = {column} - 1 WHERE limit_id = '{budget}'"
        )
    assert house.differences() == 0


def test_p7_the_charge_does_not_depend_on_when_the_client_leaves(
    house: House, dice: random.Random
) -> None:
    hal = house.client("hal")
    asked = [
        body(f"p/p7-{i}", "one two three four " * 6, stream=True, max_tokens=100)
        for i in range(DROPPED)
    ]
    moments = [dice.randint(0, 28) for _ in asked]  # 24 words, and what is before and after them

    async def leave(session: Any, gate: asyncio.Semaphore, what: Body, after: int) -> Told | None:
        async with gate:
            if after:
                return await hal.told(
                    session, what, leave=lambda read: read.count(b"\n\n") >= after
                )
            asking = asyncio.create_task(hal.told(session, what))
            # it leaves before it knows whether anything comes
            await asyncio.sleep(dice.random() / 50)
            asking.cancel()
            await asyncio.wait([asking])
            return None

    async def leave_all() -> list[Told | None]:
        gate = asyncio.Semaphore(50)
        async with connections() as session:
            return await asyncio.gather(
                *(leave(session, gate, *pair) for pair in zip(asked, moments, strict=True))
            )

    with always(lambda request: Sse(chat_chunks(request.json), delay_s=0.001), house.honest):
        told = asyncio.run(leave_all())
        until(
            lambda: house.honest.completed + house.honest.aborted == len(house.honest.requests),
            "the upstream is done",
        )
        house.settled()
    left = sum(one is None or one.acked is None for one in told)
    print(f"{left} of {DROPPED} left early, {len(house.honest.requests)} had been asked upstream")
    assert left > DROPPED / 2
    calls, log = house.calls("p7"), house.log("p7")
    assert len(log) > DROPPED / 2
    assert {name: call.charged for name, call in calls.items() if call.charged} == {
        n: s.total_tokens for n, s in log.items()
    }
    # The house stayed until all was said, though perhaps not for a [DONE] that came too late.
    assert {spent.total_tokens for spent in log.values()} == {48}
