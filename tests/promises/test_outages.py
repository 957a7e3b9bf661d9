"""Midnight with requests in flight, a worker that was thought dead, and a database that is away."""

import random
import signal

from answers import Gate
from promises.bases import Postgres
from promises.clients import body
from promises.house import House, agree, always, until

from chattable.budget.ledger import HOLD_LEASE_S
from chattable.budget.limits import period
from chattable.budget.storage.sqlite import BUSY

IN_FLIGHT = 200
DAY = 86_400


def test_midnight_with_200_requests_in_flight(house: House) -> None:
    """What was held before midnight is booked on the day before, to the token.

    The new day begins with all of its limit.
    """
    midnight = period("day", house.base.now)[1]
    assert midnight is not None
    house.base.set_clock(midnight - 2)
    ned, before, after = house.client("ned"), Gate(), Gate()
    budget = house.limit("day", tokens=500_000, user="ned")
    plain = [body(f"p/mid-a{i}", "one " * (1 + i % 7), stream=i % 2 == 0) for i in range(IN_FLIGHT)]
    with always(lambda _: before, house.honest):
        old = ned.insist(plain)
        until(lambda: len(house.honest.requests) == IN_FLIGHT, "200 are in flight")
    held = house.row(budget)["held"]
    house.server.admin("PATCH", f"/admin/budgets/{budget}", {"tokens": held})  # exactly full
    assert ned.ask(body("p/mid-x")).code == "budget_busy"  # held, not spent
    house.base.set_clock(midnight + 3)
    assert house.row(budget)["held"] == house.row(budget)["spent"] == 0
    with always(lambda _: after, house.honest):
        late = [body(f"p/mid-b{i}", "one two", stream=i % 2 == 0) for i in range(IN_FLIGHT // 2)]
        new = ned.insist(late)
        until(
            lambda: len(house.honest.requests) == IN_FLIGHT * 3 // 2,
            "100 more are in flight, of the new day",
        )
    assert house.row(budget)["held"] > 0
    before.release()
    told = old.result(60)
    after.release()
    told += new.result(60)
    house.settled()
    agree(told, house.calls("mid"), house.log("mid"))
    rows = house.base.rows(
        "SELECT period, spent_tokens, held_tokens FROM accounts"
        f" WHERE limit_id = '{budget}' ORDER BY period"
    )
    sums = [
        sum(s.total_tokens for name, s in house.log("mid").items() if name.startswith(f"mid-{day}"))
        for day in "ab"
    ]
    print(rows)
    assert rows == [(midnight - DAY, sums[0], 0), (midnight, sums[1], 0)]


def test_a_worker_that_was_thought_dead_corrects_what_was_forfeited(
    house: House, gate: Gate
) -> None:
    """SIGSTOP past the lease, a sweep by another replica, SIGCONT.

    Each call ends charged for what it used, once.
    """
    house.full()
    oda = house.client("oda")
    budget = house.limit(tokens=1_000_000, user="oda")
    house.honest.script(*[gate] * 16)
    streams = oda.insist([body(f"p/zombie-{i}", "one two three", stream=True) for i in range(16)])
    until(lambda: len(house.honest.requests) == 16, "streams are in their middle")
    zombie = house.busy()[0]
    supervisor = zombie.parent()
    assert supervisor is not None
    supervisor.send_signal(signal.SIGSTOP)  # or it would end the worker after five seconds
    zombie.send_signal(signal.SIGSTOP)
    try:
        house.base.advance(HOLD_LEASE_S + 30)
        forfeited = house.sweep()
        assert len(forfeited) == 16
        assert house.row(budget)["held"] == 0
        spent = house.row(budget)["spent"]
    finally:
        zombie.send_signal(signal.SIGCONT)
        supervisor.send_signal(signal.SIGCONT)
    gate.release()
    told = streams.result(60)
    log, calls = house.log("zombie"), house.calls("zombie")
    agree(told, calls, log)
    assert len(log) == 16
    assert house.row(budget)["spent"] == sum(one.total_tokens for one in log.values()) < spent
    kinds = [entry["kind"] for entry in house.entries(user="oda")]
    assert {kind: kinds.count(kind) for kind in kinds} == {"hold": 16, "forfeit": 16, "correct": 16}
    assert zombie.is_running()


def test_a_database_that_is_away_is_a_quick_503_and_loses_nothing(
    house: House, gate: Gate, dice: random.Random
) -> None:
    """Streams that are under way end well and are booked when it is back; nothing is restarted."""
    house.full()
    pam, workers = house.client("pam"), {worker.pid for worker in house.workers()}
    budget = house.limit(tokens=1_000_000, user="pam")
    house.honest.script(*[gate] * 24)
    long = [body(f"p/away-{i}", "one two three", stream=i % 2 == 0) for i in range(24)]
    streams = pam.insist(long)
    until(lambda: len(house.honest.requests) == 24, "they are in flight")
    # A locked SQLite file is waited for, as the next commit may free it; a PostgreSQL that is gone
    # says so at once.
    patience = 1.0 if isinstance(house.base, Postgres) else 2 * BUSY + 2
    with house.base.away():
        asked = pam.begin([body(f"p/refused-{i}", stream=dice.random() < 0.5) for i in range(20)])
        gate.release()
        refused, told = asked.result(60), streams.result(60)
    print(
        f"503 after {max(one.seconds for one in refused) * 1000:.0f} ms;"
        f" streams after {max(t.seconds for t in told):.1f} s"
    )
    assert {(one.status, one.code) for one in refused} == {(503, "database_unavailable")}
    assert {one.headers["retry-after"] for one in refused} == {"1"}
    assert max(one.seconds for one in refused) < patience
    assert all(one.acked for one in told)
    assert len(house.log("refused")) == 0
    until(lambda: pam.ask(body("m")).status == 200, "it works again", 10)
    house.settled()
    agree(told, house.calls("away"), house.log("away"))
    assert house.row(budget)["spent"] == house.honest.tokens
    assert {worker.pid for worker in house.workers()} == workers
