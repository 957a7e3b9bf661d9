"""The ledger in a simulated world.

Workers crash at any statement, answers are lost, clients retry, the clock jumps.

Every seed is one world, run in virtual time on a real SQLite in memory through the very law that
serves both databases.
"""

import json
import random
import sqlite3
from collections.abc import Callable
from datetime import UTC
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from chattable.budget import operations as law
from chattable.budget import postings as books
from chattable.budget import verification
from chattable.budget.errors import BudgetExceededError
from chattable.budget.holds import Settlement, Step, run_steps
from chattable.budget.ledger import HOLD_LEASE_S, Charge, Difference, HoldRequest
from chattable.budget.limits import Limit, Payer
from chattable.budget.postings import LedgerDialect
from chattable.budget.storage.sqlite import drive
from chattable.budget.storage.statements import Steps
from chattable.budget.tables import tables

SEEDS = 2_000
SWEEP = 10.0  # seconds between two sweeps


def created() -> list[str]:
    """The statements that make the ledger's tables."""
    metadata = sa.MetaData()
    tables(metadata)
    commands = [sa.schema.CreateTable(table) for table in metadata.sorted_tables]
    return [str(command.compile(dialect=sqlite.dialect())) for command in commands]


TABLES = created()


class Crashed(Exception):
    """The worker died: its transaction is gone."""


def one(dialect: LedgerDialect, ask: Step) -> Steps[Any]:
    """A batch of one, whose refusal is raised."""
    (answer,) = yield from run_steps(dialect, [ask])
    if isinstance(answer, Exception):
        raise answer
    return answer


class World:
    """Workers, an upstream with a log of its own, and one database."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 1_795_000_000.0
        self.database = sqlite3.connect(":memory:", isolation_level=None)
        for table in TABLES:
            self.database.execute(table)
        self.database.create_function("test_now", 0, lambda: self.now)
        self.dialect = LedgerDialect("test_now()", locks=False, zone=UTC)
        self.limits = [
            Limit(
                id="day", kind="key", subject="k1", per="day", tokens=self.random.randint(50, 400)
            ),
            Limit(
                id="team",
                kind="team",
                subject="red",
                per="hour",
                tokens=self.random.randint(50, 400),
            ),
            Limit(
                id="each",
                kind="each_user",
                subject="",
                per="total",
                tokens=self.random.randint(50, 800),
            ),
        ]
        for limit in self.limits:
            self.run(lambda limit=limit: law.put_limit(self.dialect, limit))
        self.upstream: dict[str, int] = {}  # what each call really used: the upstream's own log
        self.acks: dict[str, int] = {}  # settles that were acknowledged
        self.holds: dict[str, float] = {}  # id → when its lease began
        self.settled_at_least_once: set[str] = set()

    def run(self, operation: Callable[..., Any], *, crash: float = 0.0) -> Any:
        """One transaction; `crash` is the chance that the worker dies at a statement."""
        steps = operation()
        if crash:
            steps = self._crashing(steps, crash)
        self.database.execute("BEGIN")
        try:
            result = drive(self.database, steps)
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")
        return result

    def _crashing(self, steps: Any, chance: float) -> Any:
        statement = next(steps)
        try:
            while True:
                if self.random.random() < chance:
                    raise Crashed
                statement = steps.send((yield statement))
        except StopIteration as done:
            return done.value

    def request(self, name: str) -> None:
        """One request, with everything that can go wrong on its way."""
        chance = self.random.choice([0.0, 0.0, 0.05])
        asker = Payer(
            user=self.random.choice(["alice", "bob"]),
            key=self.random.choice(["k1", "k2"]),
            team="red",
        )
        wish = HoldRequest(
            id=name,
            payer=asker,
            model="m",
            prompt=self.random.randint(1, 20),
            max_output=self.random.randint(1, 40),
        )
        try:
            hold = self.run(lambda: one(self.dialect, wish), crash=chance)
        except (BudgetExceededError, Crashed):
            return
        self.holds[name] = self.now
        fate = self.random.random()
        if fate < 0.15:
            return  # died before the upstream was asked: the lease ends it
        if fate < 0.25:
            self.finish(lambda: one(self.dialect, Settlement(name, "voided")), name, chance)
            return
        used = wish.prompt + self.random.randint(0, hold.output)
        self.upstream[name] = used
        if self.random.random() < 0.2:
            self.now += self.random.choice([1.0, HOLD_LEASE_S + 1, 3_600.0])
            self.sweep()
        if self.random.random() < 0.15:
            return  # died after the answer: forfeited
        for _ in range(self.random.randint(1, 3)):  # journal replays and retries
            self.finish(
                lambda: one(self.dialect, Settlement(name, "settled", Charge(completion=used))),
                name,
                chance,
            )

    def burst(self, names: list[str]) -> None:
        """Requests that come at once: their holds in one batch, what became of them in another."""
        chance = self.random.choice([0.0, 0.0, 0.02])
        asker = Payer(user=self.random.choice(["alice", "bob"]), key="k1", team="red")
        wishes = [
            HoldRequest(
                id=name, payer=asker, model="m", prompt=self.random.randint(1, 9), max_output=9
            )
            for name in names
        ]
        try:
            holds = self.run(lambda: run_steps(self.dialect, wishes), crash=chance)
        except Crashed:
            return
        ends = []
        for wish, hold in zip(wishes, holds, strict=True):
            if isinstance(hold, Exception):
                continue
            self.holds[wish.id] = self.now
            fate = self.random.random()
            if fate < 0.6:
                self.upstream[wish.id] = wish.prompt + self.random.randint(0, hold.output)
                ends.append(
                    Settlement(wish.id, "settled", Charge(completion=self.upstream[wish.id]))
                )
            elif fate < 0.8:
                ends.append(Settlement(wish.id, "voided"))
        self.random.shuffle(ends)
        try:
            self.run(lambda: run_steps(self.dialect, ends + ends[:2]), crash=chance)
        except Crashed:
            return
        self.acks |= {end.id: self.upstream.get(end.id, 0) for end in ends}

    def finish(self, operation: Callable[[], Any], name: str, chance: float) -> None:
        try:
            self.run(operation, crash=chance)
        except Crashed:
            return
        self.acks[name] = self.upstream.get(name, 0)

    def sweep(self) -> None:
        for hold_id in self.run(lambda: law.expired(self.dialect)):
            self.run(lambda hold_id=hold_id: one(self.dialect, Settlement(hold_id, "forfeited")))

    def wrong(self, most: int = verification.SLICE_ROWS) -> list[Difference]:
        """What `verify` finds, in slices of so many rows."""
        found: list[Difference] = []
        for look in (verification.sums, verification.accounts_without_entries):
            place: verification.Place | None = verification.Place()
            while place is not None:
                seen = self.run(lambda look=look, place=place: look(place, most))
                found, place = found + seen.differences, seen.next
        return found

    def check_always(self) -> None:
        """P1 and P6: no account beyond its limit, every balance the sum of its entries."""
        assert self.wrong() == []
        by_id = {limit.id: limit.tokens or 0 for limit in self.limits}
        for limit_id, spent, held in self.database.execute(
            "SELECT limit_id, spent_tokens, held_tokens FROM accounts"
        ):
            assert held >= 0
            assert spent + held <= by_id[limit_id], limit_id

    def check_at_the_end(self) -> None:
        """P2, P3, P4 and P5, once every lease is over and every sweep has run."""
        self.now += HOLD_LEASE_S + SWEEP
        self.sweep()
        self.check_always()
        assert self.wrong(7) == []  # where accounts are in several slices
        states = dict(self.database.execute("SELECT id, state FROM calls").fetchall())
        assert "pending" not in states.values()
        booked = dict(
            self.database.execute(
                "SELECT hold_id, SUM(spent_tokens) FROM entries"
                " WHERE limit_id = 'each' GROUP BY hold_id"
            ).fetchall()
        )
        held = dict(self.database.execute("SELECT id, tokens FROM calls").fetchall())
        for name, used in self.acks.items():
            assert booked.get(name, 0) == used, "an acknowledged settle was lost or booked twice"
        for name, used in self.upstream.items():
            if states[name] == "forfeited":
                assert used <= booked[name] == held[name]
            else:
                assert booked[name] == used
        for name in states.keys() - self.upstream.keys():
            assert booked.get(name, 0) in (0, held[name])


def live(seed: int) -> None:
    """One world from its beginning to its end."""
    world = World(seed)
    try:
        for i in range(world.random.randint(5, 25)):
            if world.random.random() < 0.3:
                world.burst([f"r{i}_{n}" for n in range(world.random.randint(2, 8))])
            else:
                world.request(f"r{i}")
            world.now += world.random.choice([0.0, 0.5, 20.0, 4_000.0])
            if world.random.random() < 0.3:
                world.sweep()
            world.check_always()
        world.check_at_the_end()
    finally:
        world.database.close()


@pytest.mark.parametrize("block", range(10))
def test_every_world_keeps_its_books(block: int) -> None:
    for seed in range(block * SEEDS // 10, (block + 1) * SEEDS // 10):
        try:
            live(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error


def spoiled(parameters: dict[str, str], change: Callable[[list[Any]], list[Any]]) -> dict[str, str]:
    return {"rows": json.dumps([change(row) for row in json.loads(parameters["rows"])])}


def planted(fault: str, steps: Any) -> Any:
    """An operation with a mistake in it."""
    statement = next(steps)
    try:
        while True:
            sql, parameters = statement
            if fault == "forgets an entry" and sql.startswith("INSERT INTO entries"):
                parameters = spoiled(
                    parameters, lambda row: [*row[:6], 0, *row[7:]] if row[1] == "settle" else row
                )
            elif fault == "believes every call pending" and sql.startswith(
                "UPDATE calls SET state"
            ):
                parameters = spoiled(parameters, lambda row: [row[0], "pending", *row[2:]])
            statement = steps.send((yield sql, parameters))
    except StopIteration as done:
        return done.value


@pytest.mark.parametrize(
    "fault",
    ["believes every call pending", "forgets an entry", "counts output only", "keeps the forfeit"],
)
def test_a_planted_mistake_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "counts output only":
        monkeypatch.setattr(
            books.Account,
            "fits",
            lambda self, wish, most, held=None: min(most, self.balance().remaining.tokens),
        )
    elif fault == "keeps the forfeit":
        real = books.Books.book
        monkeypatch.setattr(
            books.Books,
            "book",
            lambda self, key, kind, *a, **k: (
                None if kind == "correct" else real(self, key, kind, *a, **k)
            ),
        )
    else:
        whole = World.run
        monkeypatch.setattr(
            World,
            "run",
            lambda self, operation, **k: whole(self, lambda: planted(fault, operation()), **k),
        )
    with pytest.raises(AssertionError):
        for seed in range(300):
            live(seed)
