"""Promises P2, P3 and P5 under SIGKILL of workers, at any and at named points, and of databases."""

import os
import random
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path

import pytest
from answers import Answer, Gate, Request, Sse, proper
from echo_model import chat_chunks
from promises.bases import Base, Postgres
from promises.clients import Client, Told, Traffic, body
from promises.house import SWEEP, WORKERS, House, always, bound, serving, until
from upstream import ScriptedUpstream

from chattable.budget.ledger import HOLD_LEASE_S

KILLS = int(os.environ.get("CHATTABLE_TEST_KILLS", "10"))  # 100 for a night
DEATHS = max(2, KILLS // 5)  # at each point
PATIENT = pytest.mark.timeout(max(300, KILLS * 10))  # on a busy machine workers start slowly
OPEN = 16  # streams that stay open while workers die


def unhurried(request: Request) -> Answer:
    """A proper answer, whose streams take their time, so that workers die in the middle of some."""
    return (
        Sse(chat_chunks(request.json), delay_s=0.002)
        if request.json.get("stream")
        else proper(request)
    )


@PATIENT
def test_p2_an_acknowledged_settle_is_never_lost(house: House, dice: random.Random) -> None:
    """Workers and PostgreSQL are killed at random under load; it recovers from its log."""
    ida, killed = house.client("ida"), Counter[str]()
    house.limit(tokens=1_000_000_000, user="ida")
    with (
        always(unhurried, house.honest),
        Traffic(ida, "p2", random.Random(dice.random())) as traffic,
    ):
        for i in range(KILLS):
            wanted = traffic.acks + dice.randint(3, 30)
            until(
                lambda wanted=wanted: house.alive() and traffic.acks >= wanted, "answers go on", 60
            )
            if isinstance(house.base, Postgres) and i % 3 == 2:
                with house.base.away():
                    pass
                killed["database"] += 1
            else:
                house.kill(dice.choice(house.workers()))
                killed["worker"] += 1
        wanted = traffic.acks + 30
        until(lambda: house.alive() and traffic.acks >= wanted, "answers go on", 60)
    house.full()
    house.recover()
    calls = house.calls("p2")
    print(
        f"killed {dict(killed)}; {traffic.acks} of {len(traffic.told)} acknowledged;"
        f" {Counter(c.state for c in calls.values())}"
    )
    assert traffic.acks > KILLS * 3
    assert house.differences() == 0
    bound(traffic.told, calls, house.log("p2"))


# What has become of the call that was under way when a worker died at each point, and whether the
# upstream was asked.
POINTS = {
    "before_hold": ("none", False),
    "after_hold": ("forfeited", False),
    "first_chunk": ("forfeited", True),
    "after_answer": ("forfeited", True),
    "after_journal": ("settled", True),  # from the dead worker's journal, to the token
    "after_settle": ("settled", True),
}


@PATIENT
def test_p3_every_hold_ends_within_lease_and_sweep(
    base: Base,
    tmp_path: Path,
    upstreams: tuple[ScriptedUpstream, ScriptedUpstream],
    dice: random.Random,
    gate: Gate,
) -> None:
    """Workers die at every point in turn, each successor again.

    Some do with streams in their middle: the eighth point.
    """
    honest = upstreams[0]
    honest.clear()
    plans = tmp_path / "plans"
    plans.mkdir()
    points = [point for point in POINTS for _ in range(DEATHS)]
    dice.shuffle(points)
    for i, point in enumerate(["in_upkeep", *points]):
        often = (
            1
            if point == "in_upkeep"
            else dice.randint(OPEN + 1, OPEN + 3)
            if i < WORKERS
            else dice.randint(1, 2)
        )
        (plans / f"{i:02}.plan").write_text(f"{point}:kill9@{often}")
    fate: dict[str, str] = {}
    told: list[Told] = []
    with serving(base, tmp_path, *upstreams, CHATTABLE_TEST_PLANS=str(plans)) as house:
        jan = house.client("jan")
        house.limit(tokens=1_000_000_000, user="jan")
        house.full()
        known: set[int] = set()
        streams = opened(house, jan, gate, "p3-early")
        asked = 0
        while sum(point in POINTS for point in fate.values()) < len(points):
            asked += 1
            one = jan.ask(body(f"p/p3-{asked}", stream=dice.random() < 0.5))
            told.append(one)
            if one.acked is None:
                fate[one.call] = until_one_died(house, plans, known, one)
            else:  # who is asked next may be just starting, and needs the processor more than we do
                time.sleep(0.03)
            assert time.monotonic() - house.server.spawned < 240, f"only these deaths: {fate}"
        fate = {name: point for name, point in fate.items() if point in POINTS}
        assert Counter(fate.values()) == Counter(points)
        until(
            lambda: len(deaths(house, plans)) == len(points) + 1, "a worker has died in its upkeep"
        )
        middle = opened(house, jan, gate, "p3-late")
        # those who are left live for ever: these die in the middle of streams
        for worker in house.busy()[:2]:
            house.kill(worker)
        gate.release()
        told += streams.result(60) + middle.result(60)
        assert any(one.acked is None for one in told if "late" in one.call)
    assert house.pending() > 0
    base.advance(HOLD_LEASE_S + SWEEP)
    with serving(base, tmp_path, *upstreams) as house:
        until(
            lambda: not house.pending() and not house.orphans(),
            "every hold has ended and every journal is booked",
        )
        assert house.differences() == 0
        calls, log = house.calls("p3"), house.log("p3")
    bound(told, calls, log)
    became = {name: (calls[name].state if name in calls else "none", name in log) for name in fate}
    assert became == {name: POINTS[point] for name, point in fate.items()}
    for name, point in fate.items():
        if POINTS[point] == ("settled", True):
            assert calls[name].used == log[name].total_tokens
    print(
        f"{len(told)} calls; died {Counter(fate.values())};"
        f" {Counter(call.state for call in calls.values())}"
    )


def opened(house: House, client: Client, gate: Gate, name: str) -> "Future[list[Told]]":
    """Streams that wait in their middle."""
    before = len(house.honest.requests)
    house.honest.script(*[gate] * OPEN)
    asked = [body(f"p/{name}-{i}", "one two three four", stream=True) for i in range(OPEN)]
    streams = client.insist(asked)
    until(lambda: len(house.honest.requests) == before + OPEN, "streams are in their middle")
    return streams


def until_one_died(house: House, plans: Path, known: set[int], broken: Told) -> str:
    """Waits for the death that broke a request, and says at which point it was."""
    found: list[str] = []

    def look() -> bool:
        for pid in deaths(house, plans) - known:
            known.add(pid)
            found.append(plan_of(plans, pid))
        return bool(found)

    until(look, f"a worker has died of {broken}")
    # which may come at any time, and break what is there
    return min(found, key=lambda point: point == "in_upkeep")


def plan_of(plans: Path, pid: int) -> str:
    """At which point a worker was to die."""
    return (plans / f"{pid}.taken").read_text().partition(":")[0]


def deaths(house: House, plans: Path) -> set[int]:
    """Workers that had a plan and are dead."""
    alive = {worker.pid for worker in house.workers()}
    return {int(path.stem) for path in plans.glob("*.taken")} - alive


def test_p5_with_crashes_the_ledger_is_at_most_the_forfeited_holds_above_the_log(
    house: House, dice: random.Random, gate: Gate
) -> None:
    """Two workers die with streams in their middle while others are answered.

    Nothing but those holds is forfeited.
    """
    kim = house.client("kim")
    house.limit(tokens=1_000_000_000, user="kim")
    house.full()
    streams = opened(house, kim, gate, "p5c")
    for worker in house.busy()[:2]:
        house.kill(worker)
    gate.release()
    told = streams.result(60)
    house.recover()
    calls, log = house.calls("p5c"), house.log("p5c")
    bound(told, calls, log)
    broken = [one.call for one in told if one.acked is None]
    assert broken
    assert {name for name, call in calls.items() if call.state == "forfeited"} == set(broken)
    entries = house.entries(user="kim")
    ledger = sum(entry["spent"]["tokens"] for entry in entries)
    forfeited = sum(entry["spent"]["tokens"] for entry in entries if entry["kind"] == "forfeit")
    spent = sum(one.total_tokens for one in log.values())
    print(f"log {spent} ≤ ledger {ledger} ≤ log + forfeited {spent + forfeited}")
    assert spent <= ledger <= spent + forfeited


@pytest.fixture(autouse=True)
def quiet(upstreams: tuple[ScriptedUpstream, ScriptedUpstream]) -> None:
    """Every test starts with an empty log."""
    for upstream in upstreams:
        upstream.clear()
