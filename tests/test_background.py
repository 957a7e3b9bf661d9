"""Work in the background: nothing but its stop ends it, and a start that fails half way leaves nothing behind."""

import ast
import asyncio
import logging
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest
from session_model import MemorySessions

from chattable.budget import rates
from chattable.budget.periodic import Periodic
from chattable.budget.rates import Permit
from chattable.budget.rates_memory import MemoryRates
from chattable.budget.sql_ledger import SqlLedger
from chattable.proxy.app import build
from chattable.proxy.cache.cache import ResponseCache
from chattable.proxy.catalog.catalog import Catalog
from chattable.proxy.config.settings import Cache, Config
from chattable.proxy.pipeline.idempotency import Idempotency
from chattable.proxy.pipeline.metering import Metering
from chattable.proxy.pipeline.revocation import Revocation
from chattable.proxy.sessions import locks
from chattable.proxy.sessions.locks import Claim, Locks, new_holder
from chattable.proxy.sessions.sessions import Sessions
from chattable.proxy.store.database import Database
from chattable.proxy.store.sessions.port import SessionRecord

ROOT = Path(__file__).parents[1]


class Pauses:
    """Stands in for sleep: a pause ends when the test says so."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._end = asyncio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await self._end.acquire()

    async def end(self, pauses: int = 1) -> None:
        """Ends pauses, one after another, and lets the work be done."""
        for _ in range(pauses):
            self._end.release()
            for _ in range(20):
                await asyncio.sleep(0)


@pytest.fixture
async def pauses() -> Pauses:
    return Pauses()


# -- one form for all loops --------------------------------------------------------------------------------------------

# Loops with pauses that are no periodic work: waits for one thing, which end when it is there.
WAITS = {
    "budget/storage/redis.py": "_recover", "budget/sql_ledger.py": "_write",
    "proxy/sessions/locks.py": "_locked _end_when_asked", "proxy/sessions/sessions.py": "_stored",
}  # fmt: skip


def test_no_loop_sleeps_on_its_own() -> None:
    found: dict[str, set[str]] = {}
    for path in [*(ROOT / "budget").rglob("*.py"), *(ROOT / "proxy").rglob("*.py")]:
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.AsyncFunctionDef) and sleeps_in_a_loop(function):
                found.setdefault(str(path.relative_to(ROOT)), set()).add(function.name)
    assert found == {name: set(functions.split()) for name, functions in WAITS.items()}


def sleeps_in_a_loop(function: ast.AsyncFunctionDef) -> bool:
    calls = [
        node
        for loop in ast.walk(function)
        if isinstance(loop, ast.While | ast.For)
        for node in ast.walk(loop)
    ]
    slept = [
        node.args[0]
        for node in calls
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "asyncio.sleep"
    ]
    return any(not (isinstance(pause, ast.Constant) and pause.value == 0) for pause in slept)


# -- Periodic ----------------------------------------------------------------------------------------------------------


class Work:
    """Raises what it is told to, and counts."""

    def __init__(self, *errors: BaseException | None) -> None:
        self.errors, self.done = list(errors), 0

    async def __call__(self) -> None:
        self.done += 1
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error


async def test_whatever_is_raised_it_goes_on(
    pauses: Pauses, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(
        ZeroDivisionError("a"), OSError("b"), None, KeyError("c"), asyncio.CancelledError("d")
    )
    periodic = Periodic("counting", work, 3.0, expected=(OSError,), sleep=pauses.sleep)
    periodic.start()
    await pauses.end(6)
    assert (work.done, pauses.seconds) == (6, [3.0] * 7)
    told = [
        (record.levelname, bool(record.exc_info), record.getMessage()) for record in caplog.records
    ]
    assert told == [
        ("ERROR", True, "counting: failed, it is tried again"),
        ("WARNING", False, "counting: not now, it is tried again: b"),
        ("ERROR", True, "counting: failed, it is tried again"),
        ("ERROR", True, "counting: something that it waited for was cancelled, it is tried again"),
    ]
    await periodic.stop()
    await pauses.end(3)
    assert work.done == 6


async def test_work_may_come_before_the_first_pause(pauses: Pauses) -> None:
    work = Work(ZeroDivisionError())
    periodic = Periodic(
        "counting", work, lambda: float(work.done), at_once=True, sleep=pauses.sleep
    )
    periodic.start()
    await pauses.end(2)
    assert (work.done, pauses.seconds) == (3, [1.0, 2.0, 3.0])
    await periodic.stop()


async def test_stopping_ends_work_that_is_under_way(pauses: Pauses) -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    periodic = Periodic("hanging", work, 1.0, sleep=pauses.sleep)
    await periodic.stop()  # before it began
    periodic.start()
    await pauses.end()
    await periodic.stop()
    assert ended.is_set()


# -- those who use it --------------------------------------------------------------------------------------------------


async def test_leases_of_sessions_outlive_a_store_that_breaks_once(
    pauses: Pauses, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "Periodic", partial(Periodic, sleep=pauses.sleep))
    renewed: list[str] = []

    class Broken(MemorySessions):
        async def lock(
            self, session: SessionRecord, holder: str, seconds: float
        ) -> SessionRecord | None:
            renewed.append(session.id)
            if len(renewed) == 3:
                raise ZeroDivisionError
            return await super().lock(session, holder, seconds)

    held = Locks(store := Broken(), wait=1.0)
    one, two = await store.open("user_a", "one"), await store.open("user_a", "two")
    await held.start()
    async with held.hold(one, Claim(new_holder())), held.hold(two, Claim(new_holder())):
        await pauses.end(2)
        assert renewed == [one.id, two.id] * 3
    await held.stop()
    assert "is not renewed" in caplog.text


async def test_slots_outlive_a_renewal_that_fails(
    pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "Periodic", partial(Periodic, sleep=pauses.sleep))
    renewals: list[int] = []

    class Broken(MemoryRates):
        async def renew(self, permits: Iterable[Permit]) -> None:
            renewals.append(len(list(permits)))
            raise ZeroDivisionError

    broken = Broken()
    await broken.start()
    await pauses.end(3)
    await broken.stop()
    assert renewals == [0, 0, 0]


# -- a start that fails half way ---------------------------------------------------------------------------------------

STARTED = [
    Database,
    SqlLedger,
    Metering,
    Idempotency,
    MemoryRates,
    Sessions,
    Catalog,
    Revocation,
    ResponseCache,
]


@pytest.mark.parametrize("failing", STARTED[1:])
async def test_a_start_that_fails_stops_what_had_started(
    failing: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    database = Database(f"sqlite:///{tmp_path}/x.db")
    await database.start()
    await database.migrate()
    await database.stop()
    stopped: list[type] = []
    for kind in STARTED:
        monkeypatch.setattr(kind, "stop", noting_its_stop(kind, stopped))

    async def fails(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(failing, "start", fails)
    app = build(Config(database_url=f"sqlite:///{tmp_path}/x.db", cache=Cache(ttl=60.0))).app
    before = asyncio.all_tasks()
    with pytest.raises(ExceptionGroup) as told:
        async with app.lifespan():  # type: ignore[attr-defined]
            raise AssertionError("it has started")
    assert told.group_contains(ZeroDivisionError)
    assert stopped == STARTED[: STARTED.index(failing)][::-1]
    assert asyncio.all_tasks() == before


def noting_its_stop(kind: type, stopped: list[type]):  # type: ignore[no-untyped-def]
    stop = kind.stop  # type: ignore[attr-defined]

    async def noting(self: object) -> None:
        stopped.append(kind)
        await stop(self)

    return noting
