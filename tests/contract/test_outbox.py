"""The outbox on both databases: one claimant at a time, until an event is delivered or dead."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from ledgers import Clock, open_ledger

from chattable.budget.ledger import Charge, HoldRequest
from chattable.budget.limits import Limit, Payer
from chattable.budget.outbox import Outbox
from chattable.budget.sql_ledger import SqlLedger
from chattable.proxy.store.database import Database


@pytest.fixture
async def clock(database: Database) -> Clock:
    clock = Clock(database)
    await clock.make()
    return clock


@pytest.fixture
async def ledger(url: str, clock: Clock) -> AsyncIterator[SqlLedger]:
    async with open_ledger(url) as opened:
        yield opened


async def use(ledger: SqlLedger, name: str, tokens: int, limit: int = 100) -> None:
    await ledger.put_limit(Limit(id="lim", kind="user", subject="u", per="day", tokens=limit))
    await ledger.hold(
        HoldRequest(id=name, payer=Payer(user="u"), model="m", prompt=0, max_output=1)
    )
    await ledger.settle(name, Charge(completion=tokens))


async def test_each_threshold_is_told_once_and_a_jump_tells_the_highest(ledger: SqlLedger) -> None:
    outbox = Outbox(ledger.storage)
    for i, tokens in enumerate((1, 48, 1, 1, 1)):  # 1 49 50 51 52 of 100
        await use(ledger, f"h{i}", tokens)
    told = [
        notice for notice in reversed(await outbox.newest(10)) if notice.kind == "budget.threshold"
    ]
    assert [
        (notice.data["percent"], notice.data["spent"], notice.data["amount"]) for notice in told
    ] == [(50, 50, 100)]
    await use(ledger, "rest", 48)
    told = [notice for notice in await outbox.newest(10) if notice.kind == "budget.threshold"]
    assert [notice.data["percent"] for notice in told if notice.data["percent"] > 50] == [100]
    assert told[0].data["subject"] == "user u"


async def test_what_no_hold_covered_is_told(ledger: SqlLedger) -> None:
    await use(ledger, "h", 40)
    (notice,) = await Outbox(ledger.storage).newest(10)
    assert (notice.kind, notice.data["hold"], notice.data["tokens"]) == (
        "budget.overdraft",
        "h",
        39,
    )


async def test_no_two_claim_the_same_while_it_is_leased(ledger: SqlLedger, clock: Clock) -> None:
    outbox = Outbox(ledger.storage)
    for i in range(30):
        await ledger.notify("test", {"i": i})
    batches = await asyncio.gather(*(outbox.claim(10, 60.0) for _ in range(6)))
    claimed = [notice.data["i"] for batch in batches for notice in batch]
    assert sorted(claimed) == list(range(30))
    assert await outbox.claim(10, 60.0) == []
    await clock.advance(61)
    again = await outbox.claim(10, 60.0)
    assert len(again) == 10
    assert {notice.attempts for notice in again} == {2}


async def test_done_and_dead_are_not_handed_out_again_and_failed_is_later(
    ledger: SqlLedger, clock: Clock
) -> None:
    outbox = Outbox(ledger.storage)
    for name in ("done", "dead", "failed"):
        await ledger.notify("test", {"name": name})
    ids = {notice.data["name"]: notice.id for notice in await outbox.claim(10, 1.0)}
    await outbox.done([ids["done"]])
    await outbox.dead(ids["dead"])
    await outbox.failed(ids["failed"], 100.0)
    await clock.advance(99)
    assert await outbox.claim(10, 1.0) == []
    await clock.advance(2)
    assert [notice.data["name"] for notice in await outbox.claim(10, 1.0)] == ["failed"]
    assert {notice.data["name"]: notice.state for notice in await outbox.newest(10)} == {
        "done": "done", "dead": "dead", "failed": "waiting",
    }  # fmt: skip


async def test_the_newest_come_in_pages(ledger: SqlLedger, clock: Clock) -> None:
    outbox = Outbox(ledger.storage)
    for i in range(5):
        await ledger.notify("test", {"i": i})
        await clock.advance(1)
    first = await outbox.newest(2)
    rest = await outbox.newest(10, first[-1].id)
    assert [notice.data["i"] for notice in first + rest] == [4, 3, 2, 1, 0]
