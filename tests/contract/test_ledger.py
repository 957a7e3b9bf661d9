"""The law of `Ledger`, on a SQLite file, its twin in memory, and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from databases import migrated_sqlite
from ledgers import CLOCK, START, Clock

from chattable.budget.errors import BudgetExceededError, UnknownLimitError, UnpricedError
from chattable.budget.ledger import HOLD_LEASE_S, Amount, Charge, HoldRequest, Ledger, Price
from chattable.budget.limits import MAX_AMOUNT, Limit, Payer
from chattable.budget.sql_ledger import SqlLedger
from chattable.proxy.store.database import Database

ALICE = Payer(user="alice", key="k1", team="red")
BOB = Payer(user="bob", key="k2", team="red")


@pytest.fixture(params=["sqlite", "memory", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("migrated_postgres_url"))
    if request.param == "sqlite":
        return migrated_sqlite(tmp_path / "chattable.db")
    return "sqlite:///:memory:"


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = Database(url, now=CLOCK)
    await database.start()
    if url == "sqlite:///:memory:":
        await database.migrate()
    yield database
    await database.stop()


@pytest.fixture
async def clock(database: Database) -> Clock:
    clock = Clock(database)
    await clock.make()
    return clock


@pytest.fixture
async def ledger(database: Database, clock: Clock) -> AsyncIterator[Ledger]:
    opened = SqlLedger(database.storage)
    yield opened
    assert await opened.verify() == []
    await opened.stop()


def limit(
    name: str = "lim",
    kind: Any = "user",
    subject: str = "alice",
    per: str = "day",
    **fields: Any,
) -> Limit:
    return Limit(id=name, kind=kind, subject=subject, per=per, **{"tokens": 100, **fields})


def wish(
    name: str, asker: Payer = ALICE, prompt: int = 10, most: int = 20, **fields: object
) -> HoldRequest:
    return HoldRequest(id=name, payer=asker, model="m", prompt=prompt, max_output=most, **fields)  # type: ignore[arg-type]


async def balance(ledger: Ledger, asker: Payer = ALICE) -> dict[str, tuple[int, int]]:
    return {
        room.limit.id: (room.spent.tokens, room.held.tokens)
        for room in await ledger.balances(asker, "m")
    }


async def test_a_hold_is_settled_with_what_was_used(ledger: Ledger) -> None:
    await ledger.put_limit(limit())
    hold = await ledger.hold(wish("h"))
    assert (hold.output, hold.held) == (20, Amount(30))
    assert await balance(ledger) == {"lim": (0, 30)}
    assert await ledger.settle("h", Charge(completion=17)) == "settled"
    assert await balance(ledger) == {"lim": (17, 0)}


async def test_nobody_is_bound_without_a_limit(ledger: Ledger) -> None:
    hold = await ledger.hold(wish("h", most=MAX_AMOUNT))
    assert (hold.output, hold.bound, hold.hard) == (MAX_AMOUNT, False, False)
    await ledger.record([(wish("h"), Charge(prompt=3, completion=5))])
    await ledger.record([(wish("h"), Charge(prompt=3, completion=5))])
    assert await ledger.entries() == []
    (row,) = await ledger.usage([], since=0, until=MAX_AMOUNT, only={})
    assert (row.requests, row.prompt_tokens, row.completion_tokens) == (1, 3, 5)


async def test_g10_calls_and_answers_from_a_cache_are_counted_apart(ledger: Ledger) -> None:
    await ledger.put_limit(limit(kind="everyone", subject="", tokens=10_000, per="total"))
    await ledger.hold(wish("asked", ALICE))
    await ledger.settle("asked", Charge(prompt=3, completion=5))
    hits = [(wish(f"hit {i}", ALICE, most=0), Charge(saved=8)) for i in range(4)]
    await ledger.record([*hits, (wish("bob's hit", BOB, most=0), Charge(saved=8))])
    rows = await ledger.usage(["user"], since=0, until=MAX_AMOUNT, only={})
    found = {row.group[0]: (row.requests, row.cached_requests, row.tokens_saved) for row in rows}
    assert found == {ALICE.user: (1, 4, 32), BOB.user: (0, 1, 8)}
    assert (await balance(ledger))["lim"] == (8, 0)


async def test_a_soft_limit_binds_and_does_not_cap(ledger: Ledger) -> None:
    await ledger.put_limit(limit(mode="soft"))
    hold = await ledger.hold(wish("h", most=5000))
    assert (hold.output, hold.bound, hold.hard) == (5000, True, False)


async def test_usage_is_grouped_and_equals_what_was_spent(ledger: Ledger, clock: Clock) -> None:
    await ledger.put_limit(limit(kind="everyone", subject="", tokens=10_000, per="total"))
    used = Charge(prompt=7, completion=3, cached=2, cost=11)
    for name, asker in (
        ("a1", ALICE),
        ("a2", ALICE),
        ("b1", BOB),
        ("void", BOB),
        ("open", BOB),
        ("lost", BOB),
    ):
        await ledger.hold(wish(name, asker))
    for name in ("a1", "a2", "b1"):
        await ledger.settle(name, used)
    await ledger.void("void")
    by_user = {
        row.group: row for row in await ledger.usage(["user"], since=0, until=MAX_AMOUNT, only={})
    }
    alice = by_user[(ALICE.user,)]
    assert (
        alice.requests,
        alice.prompt_tokens,
        alice.completion_tokens,
        alice.cached_tokens,
        alice.cost,
    ) == (2, 14, 6, 4, 22)
    assert by_user[(BOB.user,)].requests == 1
    await clock.advance(86_400)
    await ledger.renew(["open"])
    await ledger.sweep()
    await ledger.hold(wish("tomorrow", ALICE))
    await ledger.settle("tomorrow", used)
    days = await ledger.usage(
        ["day", "model"], since=0, until=MAX_AMOUNT, only={"user": ALICE.user}
    )
    assert [(row.group[0] % 86_400, row.group[1], row.requests) for row in days] == [
        (0, "m", 2),
        (0, "m", 1),
    ]
    assert [
        row.requests
        for row in await ledger.usage([], since=int(clock.now) - 5, until=MAX_AMOUNT, only={})
    ] == [1]
    (total,) = await ledger.usage([], since=0, until=MAX_AMOUNT, only={})
    spent = (await balance(ledger))["lim"][0]
    assert total.prompt_tokens + total.completion_tokens == spent == 4 * 10 + 30
    with pytest.raises(ValueError, match="grouped by"):
        await ledger.usage(["planet"], since=0, until=1, only={})


async def test_output_is_cut_to_what_remains(ledger: Ledger) -> None:
    await ledger.put_limit(limit())
    assert (await ledger.hold(wish("h", prompt=95, most=1000))).output == 5


async def test_a_full_limit_refuses_and_says_which_and_until_when(ledger: Ledger) -> None:
    await ledger.put_limit(limit())
    await ledger.hold(wish("h", prompt=80))
    with pytest.raises(BudgetExceededError) as refused:
        await ledger.hold(wish("h2", prompt=1))
    error = refused.value
    said = error.limit_id, error.subject, error.per, error.unit, error.amount, error.remaining
    assert said == (
        "lim", "user alice", "day", "tokens", 100, 0,
    )  # fmt: skip
    assert error.resets_at == datetime(2026, 11, 19, tzinfo=UTC).timestamp()
    assert await balance(ledger) == {"lim": (0, 100)}


async def test_of_several_limits_all_bind_or_none(ledger: Ledger) -> None:
    await ledger.put_limit(limit("a", tokens=1000))
    await ledger.put_limit(limit("b", "team", "red", tokens=25))
    await ledger.put_limit(limit("c", "everyone", "", "month", tokens=500))
    assert (await ledger.hold(wish("h"))).output == 15
    assert await balance(ledger) == {"a": (0, 25), "b": (0, 25), "c": (0, 25)}
    with pytest.raises(BudgetExceededError, match="team red"):
        await ledger.hold(wish("h2", BOB))
    assert await balance(ledger, BOB) == {"b": (0, 25), "c": (0, 25)}


async def test_each_user_has_an_account_of_their_own(ledger: Ledger) -> None:
    await ledger.put_limit(limit("each", "each_user", ""))
    await ledger.hold(wish("a", ALICE, prompt=100, most=20, min_output=0))
    with pytest.raises(BudgetExceededError, match="user alice"):
        await ledger.hold(wish("a2", ALICE))
    assert (await ledger.hold(wish("b", BOB))).output == 20


async def test_a_limit_on_some_models_binds_only_those(ledger: Ledger) -> None:
    await ledger.put_limit(limit(models=("gpt-*",), tokens=0))
    assert (await ledger.hold(wish("h"))).output == 20
    with pytest.raises(BudgetExceededError):
        await ledger.hold(HoldRequest(id="h2", payer=ALICE, model="gpt-5", prompt=1, max_output=1))


async def test_soft_limits_warn_and_shadow_limits_only_count(ledger: Ledger) -> None:
    await ledger.put_limit(limit("soft", mode="soft", tokens=5))
    await ledger.put_limit(limit("shadow", mode="shadow", tokens=5))
    hold = await ledger.hold(wish("h"))
    assert (hold.output, hold.warnings) == (20, ("soft",))
    assert await balance(ledger) == {"shadow": (0, 30), "soft": (0, 30)}


async def test_cost_is_held_in_micro_dollars_and_cuts_output(ledger: Ledger) -> None:
    price = Price(input=150_000, output=600_000)  # 0.15 and 0.60 USD per million tokens
    await ledger.put_limit(limit(tokens=None, cost=10))
    hold = await ledger.hold(wish("h", prompt=20, most=1000, price=price))
    assert hold.output == (10 * 1_000_000 - 20 * 150_000) // 600_000 == 11
    assert hold.held == Amount(31, 10)
    await ledger.settle("h", Charge(prompt=20, completion=5, cost=price.of(20, 5)))
    with pytest.raises(BudgetExceededError) as refused:
        await ledger.hold(wish("h2", prompt=1000, price=price))
    assert (refused.value.unit, refused.value.remaining) == ("micro-USD", 4)


async def test_what_is_free_is_never_refused_for_money(ledger: Ledger) -> None:
    price = Price(input=1_000_000)
    await ledger.put_limit(limit(tokens=None, cost=10))
    await ledger.hold(wish("h", price=price))
    await ledger.settle("h", Charge(prompt=11, cost=11))  # a micro-dollar too much
    assert (await ledger.hold(wish("free", prompt=10**6))).output == 20
    dear: list[dict[str, Any]] = [
        {"price": price},
        {"price": Price(output=1)},
        {"price": Price(image=1)},
        {"fixed": 1},
    ]
    for fields in dear:
        with pytest.raises(BudgetExceededError):
            await ledger.hold(wish("dear", **fields))
    await ledger.put_limit(limit("few", tokens=5))
    with pytest.raises(BudgetExceededError, match="of 5 tokens"):
        await ledger.hold(wish("free of money, not of tokens"))


async def test_a_hard_limit_of_money_refuses_what_has_no_price(ledger: Ledger) -> None:
    await ledger.put_limit(limit())
    assert (await ledger.hold(wish("tokens", priced=False))).output == 20
    await ledger.put_limit(limit("money", tokens=None, cost=10**9, mode="soft"))
    assert (await ledger.hold(wish("soft", priced=False))).output == 20
    await ledger.put_limit(limit("money", tokens=None, cost=10**9))
    with pytest.raises(UnpricedError) as refused:
        await ledger.hold(wish("hard", priced=False))
    assert (refused.value.model, refused.value.limit_id) == ("m", "money")
    assert (refused.value.subject, refused.value.busy) == ("user alice", False)
    assert (await ledger.hold(wish("free", priced=True))).output == 20


async def test_the_same_id_is_the_same_hold(ledger: Ledger) -> None:
    await ledger.put_limit(limit())
    first, *others = await asyncio.gather(*(ledger.hold(wish("h")) for _ in range(8)))
    assert all((other.output, other.held) == (first.output, first.held) for other in others)
    assert await balance(ledger) == {"lim": (0, 30)}


async def test_ending_a_hold_twice_changes_nothing(ledger: Ledger) -> None:
    await ledger.put_limit(limit())
    await ledger.hold(wish("h"))
    states = await asyncio.gather(
        *(ledger.settle("h", Charge(completion=5)) for _ in range(4)),
        *(ledger.void("h") for _ in range(4)),
        ledger.settle("h", Charge(completion=5)),
    )
    assert len(set(states)) == 1
    spent, held = (await balance(ledger))["lim"]
    assert (spent, held) == (5 if states[0] == "settled" else 0, 0)
    assert len(await ledger.entries(hold_id="h")) == 2


async def test_what_exceeds_the_hold_is_overdraft_and_still_booked(ledger: Ledger) -> None:
    await ledger.put_limit(limit())
    await ledger.hold(wish("h"))
    assert await ledger.settle("h", Charge(completion=130)) == "settled"
    assert await balance(ledger) == {"lim": (130, 0)}
    assert [entry.overdraft.tokens for entry in await ledger.entries(hold_id="h")] == [0, 100]


@pytest.mark.parametrize("used", [Charge(completion=-5), Charge(completion=10**30, cost=-1)])
async def test_an_impossible_usage_is_clamped(ledger: Ledger, used: Charge) -> None:
    await ledger.put_limit(limit())
    await ledger.hold(wish("h"))
    assert await ledger.settle("h", used) == "settled"
    assert (await balance(ledger))["lim"][0] in (0, MAX_AMOUNT)


async def test_a_hold_without_an_owner_is_forfeited_and_a_late_settle_corrects_it(
    ledger: Ledger, clock: Clock
) -> None:
    await ledger.put_limit(limit())
    await ledger.hold(wish("lost"))
    await ledger.hold(wish("kept"))
    await clock.advance(HOLD_LEASE_S - 1)
    await ledger.renew(["kept"])
    assert await ledger.sweep() == []
    await clock.advance(2)
    assert await ledger.sweep() == ["lost"]
    assert await ledger.sweep() == []
    assert await balance(ledger) == {"lim": (30, 30)}
    assert await ledger.settle("lost", Charge(completion=12)) == "settled"
    assert await balance(ledger) == {"lim": (12, 30)}
    assert [entry.kind for entry in await ledger.entries(hold_id="lost")] == [
        "hold",
        "forfeit",
        "correct",
    ]


async def test_a_hold_settles_in_the_window_it_was_made_in(ledger: Ledger, clock: Clock) -> None:
    midnight = datetime(2026, 11, 19, tzinfo=UTC).timestamp()
    await ledger.put_limit(limit())
    await clock.set(midnight - 2)
    await asyncio.gather(*(ledger.hold(wish(f"old{i}", prompt=4, most=1)) for i in range(20)))
    with pytest.raises(BudgetExceededError):
        await ledger.hold(wish("no room"))
    await clock.set(midnight + 1)
    await asyncio.gather(
        *(ledger.settle(f"old{i}", Charge(completion=5)) for i in range(20)),
        ledger.hold(wish("new", prompt=80)),
    )
    assert await balance(ledger) == {"lim": (0, 100)}
    by_period = {entry.period for entry in await ledger.entries() if entry.kind == "settle"}
    assert by_period == {int(midnight) - 86_400}


async def test_grants_and_refunds_are_entries(ledger: Ledger) -> None:
    await ledger.put_limit(limit())
    await ledger.hold(wish("h", prompt=90, most=10))
    await ledger.settle("h", Charge(completion=100))
    await ledger.grant("lim", Amount(50), "demo")
    assert (await ledger.hold(wish("h2", most=1000))).output == 40
    await ledger.void("h2")
    await ledger.refund("lim", Amount(1000), "outage")
    assert await balance(ledger) == {"lim": (0, 0)}
    assert [(entry.kind, entry.reason) for entry in await ledger.entries(limit_id="lim")][-1] == (
        "refund",
        "outage",
    )
    with pytest.raises(UnknownLimitError):
        await ledger.grant("other", Amount(1), "x")


async def test_a_changed_limit_keeps_what_was_spent_and_a_dropped_one_binds_no_more(
    ledger: Ledger,
) -> None:
    await ledger.put_limit(limit())
    await ledger.hold(wish("h"))
    await ledger.put_limit(limit(tokens=40))
    assert (await ledger.hold(wish("h2", prompt=1))).output == 9
    await ledger.drop_limit("lim")
    assert await ledger.limits() == []
    assert (await ledger.hold(wish("h3", most=5000))).output == 5000
    assert await ledger.settle("h", Charge(completion=3)) == "settled"


async def test_a_burst_at_a_tight_limit_admits_exactly_what_fits(ledger: Ledger) -> None:
    await ledger.put_limit(limit(tokens=70))

    async def one(i: int) -> bool:
        try:
            await ledger.hold(wish(f"h{i}", prompt=5, most=2, min_output=2))
        except BudgetExceededError:
            return False
        return True

    admitted = await asyncio.gather(*(one(i) for i in range(200)))
    assert sum(admitted) == 10
    assert await balance(ledger) == {"lim": (0, 70)}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tokens": -1}, "between 0"),
        ({"tokens": MAX_AMOUNT + 1}, "between 0"),
        ({"tokens": None}, "needs tokens or cost"),
        ({"per": "fortnight"}, "per must be"),
        ({"per": "0h"}, "per must be"),
        ({"kind": "everyone"}, "names no subject"),
        ({"subject": ""}, "needs a subject"),
    ],
)
async def test_a_limit_that_makes_no_sense_is_refused(
    ledger: Ledger, fields: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        await ledger.put_limit(limit(**fields))  # type: ignore[arg-type]
    assert await ledger.limits() == []


async def test_windows_follow_the_calendar_of_the_zone(database: Database, clock: Clock) -> None:
    zone = ZoneInfo("Europe/Berlin")
    ledger = SqlLedger(database.storage, zone=zone)
    for per in ("hour", "day", "week", "month", "6h", "30d", "total"):
        await ledger.put_limit(limit(per, per=per))
    ends = {room.limit.id: room.resets_at for room in await ledger.balances(ALICE, "m")}
    local = {
        name: end and datetime.fromtimestamp(end, zone).strftime("%d.%m. %H:%M")
        for name, end in ends.items()
    }
    assert local == {
        "hour": "18.11. 13:00", "day": "19.11. 00:00",
        "week": "23.11. 00:00", "month": "01.12. 00:00",
        "6h": "18.11. 13:00", "30d": local["30d"], "total": None,
    }  # fmt: skip
    end = ends["30d"]
    assert end is not None
    assert end % (30 * 86_400) == 0
    assert 0 < end - START <= 30 * 86_400
