"""The cache's law, on memory and on a real Valkey.

What is kept, for whom and how long, and that one request asks for all."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import product
from typing import Any

import pytest
from cached import AGENT, USAGE, Calls, Request, said, soon
from rated import Clock
from valkeys import Valkey, own_namespace, valkey_server

from chattable.adapters.connections import Connections, Slot
from chattable.adapters.errors import ConnectionReclaimed, UpstreamHTTPError, UpstreamUnreachable
from chattable.agents.chat import Chunk
from chattable.agents.chattable import Trace
from chattable.agents.errors import InvalidRequest
from chattable.budget.rates import RateLimitedError
from chattable.proxy.cache import entries
from chattable.proxy.cache.cache import ResponseCache
from chattable.proxy.cache.controls import Controls
from chattable.proxy.cache.memory import ENTRY_OVERHEAD_BYTES, MemoryStore
from chattable.proxy.cache.redis import RedisStore
from chattable.proxy.cache.store import NOT_FROM_STORE, CacheKey, Follow, Lead, Store, StoredAnswer
from chattable.proxy.cache.waiter import Waiter
from chattable.proxy.config import settings
from chattable.proxy.errors import (
    Failure,
    QuotaError,
    RateLimitExceededError,
    UnpricedModelError,
    describe,
)

ONE, TWO = CacheKey(b"1" * 32, ("user:a", "model:m")), CacheKey(b"2" * 32, ("user:b", "model:m"))
DOWN = UpstreamUnreachable("away", sent=True)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Store]:
    opened: Store
    if request.param == "memory":
        opened = MemoryStore(2**20, clock=clock)
    else:
        opened = RedisStore(request.getfixturevalue("shared_redis"), namespace=own_namespace())
    await opened.start()
    yield opened
    await opened.stop()
    assert getattr(opened, "failures", 0) == 0


@pytest.fixture
async def redis(shared_redis: str) -> AsyncIterator[RedisStore]:
    opened = RedisStore(shared_redis, namespace=own_namespace())
    await opened.start()
    yield opened
    await opened.stop()


@pytest.fixture
async def cache(store: Store) -> AsyncIterator[ResponseCache]:
    opened = answers(store)
    await opened.start()
    yield opened
    await soon(lambda: not opened._tasks)  # what was to be stored is stored
    assert not opened._flights and not opened.leads
    await opened.stop()


def answers(store: Store, **config: Any) -> ResponseCache:
    return ResponseCache(store, settings.Cache(**config))


async def lead(store: Store, key: CacheKey) -> Lead:
    how = await store.acquire(key)
    assert isinstance(how, Lead), how
    return how


async def put(store: Store, key: CacheKey, body: bytes, ttl: float = 60) -> None:
    assert await store.release(key, await lead(store, key), body=body, ttl=ttl)


async def got(store: Store, key: CacheKey, max_age: float | None = None) -> bytes | None:
    how = await store.acquire(key, lead=False, max_age=max_age)
    return how.body if isinstance(how, StoredAnswer) else None


async def until(store: Store, clock: Clock, key: CacheKey, gone_by: float) -> None:
    """Lets time pass, on either clock, until an entry is gone."""
    async with asyncio.timeout(gone_by):
        while await got(store, key):
            clock.now += 0.01
            await asyncio.sleep(0.01)


# What is kept


async def test_what_was_stored_is_found_under_its_key_and_no_other(store: Store) -> None:
    body = bytes(range(256)) * 100
    await put(store, ONE, body)
    assert (await got(store, ONE), await got(store, TWO)) == (body, None)
    await store.release(TWO, await lead(store, TWO))  # nothing to store
    assert await got(store, TWO) is None
    assert await store.release(ONE, Lead(await _stamp(store, ONE)), body=b"newer", ttl=60)
    assert await got(store, ONE) == b"newer"


async def _stamp(store: Store, key: CacheKey) -> bytes:
    how = await store.acquire(key, lead=False, max_age=NOT_FROM_STORE)
    assert isinstance(how, Lead) and how.flight is None
    return how.stamp


async def test_until_its_time_is_up(store: Store, clock: Clock) -> None:
    await put(store, ONE, b"x", ttl=0.1)
    await put(store, TWO, b"y", ttl=60)
    assert await got(store, ONE) == b"x"
    await until(store, clock, ONE, 5)
    assert await got(store, TWO) == b"y"


async def test_how_old_it_is(store: Store, clock: Clock) -> None:
    await put(store, ONE, b"x")
    assert await got(store, ONE, max_age=5) == b"x"
    assert await got(store, ONE, max_age=NOT_FROM_STORE) is None
    async with asyncio.timeout(5):
        while await got(store, ONE, max_age=0.05):
            clock.now += 0.01
            await asyncio.sleep(0.01)
    found = await store.acquire(ONE)
    assert isinstance(found, StoredAnswer) and 0.05 < found.age < 5


@pytest.mark.parametrize("tag", ["user:a", "model:m", ""])
async def test_a_purge(store: Store, tag: str) -> None:
    await put(store, ONE, b"x")
    await put(store, TWO, b"y")
    under_way = CacheKey(b"3" * 32, ("user:a", "model:other"))
    asked = await lead(store, under_way)
    assert await store.purge(tag)
    assert await got(store, ONE) is None
    assert await got(store, TWO) == (b"y" if tag == "user:a" else None)
    await store.release(under_way, asked, body=b"late", ttl=60)
    assert await got(store, under_way) == (b"late" if tag == "model:m" else None)
    await put(store, ONE, b"new")
    assert await got(store, ONE) == b"new"


async def test_a_purge_of_somebody_else(store: Store) -> None:
    await put(store, ONE, b"x")
    await store.purge("user:b")
    await store.purge("user")
    await store.purge("user:a ")
    assert await got(store, ONE) == b"x"


async def test_memory_is_bounded_and_forgets_what_nobody_asked_for() -> None:
    store = MemoryStore(10 * (ENTRY_OVERHEAD_BYTES + 1000))
    places = [CacheKey(bytes([i]) * 32, ("user:a",)) for i in range(20)]
    for key in places[:10]:
        await put(store, key, b"x" * 1000)
    assert store.size == 10 * (ENTRY_OVERHEAD_BYTES + 1000)
    assert await got(store, places[0])
    for key in places[10:15]:
        await put(store, key, b"x" * 1000)
    kept = [i for i, key in enumerate(places) if await got(store, key)]
    assert kept == [0, *range(6, 15)]
    assert not await store.release(ONE, await lead(store, ONE), body=b"x" * 20_000, ttl=60)
    await store.purge()
    assert store.size == 0


# Who asks


async def test_oneleads_in_any_process(shared_redis: str) -> None:
    name = own_namespace()
    async with AsyncExitStack() as stack:
        stores = [RedisStore(shared_redis, namespace=name) for _ in range(4)]
        for each in stores:
            await each.start()
            stack.push_async_callback(each.stop)
        for _ in range(3):
            hows = await asyncio.gather(*[each.acquire(ONE) for each in stores for _ in range(25)])
            [(first, held)] = [(i, how) for i, how in enumerate(hows) if isinstance(how, Lead)]
            assert {how.flight for how in hows if isinstance(how, Follow)} == {held.flight}
            await stores[first // 25].release(ONE, held)
        await put(stores[0], ONE, b"x")
        assert all([isinstance(await each.acquire(ONE), StoredAnswer) for each in stores])


async def test_a_lease_that_nobody_renews_lapses(shared_redis: str) -> None:
    name = own_namespace()
    quick, other = (
        RedisStore(shared_redis, namespace=name, lease=200),
        RedisStore(shared_redis, namespace=name),
    )
    await quick.start()
    await other.start()
    held, kept = await lead(quick, ONE), await lead(quick, TWO)
    async with asyncio.timeout(5):
        while isinstance(how := await other.acquire(ONE), Follow):
            assert await quick.renew([(TWO, kept)]) == [False]
            await asyncio.sleep(0.02)
    assert isinstance(how, Lead)
    assert isinstance(await other.acquire(TWO), Follow)
    assert await quick.renew([(ONE, held), (TWO, kept)]) == [False, True]
    assert not await quick.share(ONE, held, b"too late")
    assert await quick.release(ONE, held, body=b"late but good", ttl=60)
    assert await got(other, ONE) == b"late but good"
    await quick.stop()
    await other.stop()


async def test_followers_read_what_the_leader_shares(redis: RedisStore) -> None:
    held = await lead(redis, ONE)
    follow = await redis.acquire(ONE)
    assert isinstance(follow, Follow) and follow.flight == held.flight
    assert await redis.read_batches(ONE, follow, 0) == (True, [])
    assert await redis.share(ONE, held, b"a") and await redis.share(ONE, held, b"b")
    assert await redis.read_batches(ONE, follow, 0) == (True, [b"a", b"b"])
    waiting = asyncio.create_task(redis.wait(follow))
    await asyncio.sleep(0)
    await redis.release(ONE, held, last=[b"c", b"d"])
    await waiting
    assert await redis.read_batches(ONE, follow, 1) == (False, [b"b", b"c", b"d"])


async def test_a_request_that_is_given_upleads_nobody(redis: RedisStore) -> None:
    task = asyncio.create_task(redis.acquire(ONE))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(await redis.acquire(ONE), Lead)


# The cache on a store


async def test_a_hit_is_the_answer_again(cache: ResponseCache) -> None:
    calls = Calls(said("a", " b", " c"))
    first = await Request(cache, calls)
    await soon(lambda: not cache._tasks)
    for stream in (True, False):
        again = await Request(cache, calls, stream=stream)
        assert (again.how, again.text, again.whole) == ("HIT", "a b c", True)
        assert (again.lookup.made_the_call, again.lookup.saved_usage) == (False, USAGE)
        assert again.lookup.headers["age"] == "0"
    assert (first.how, first.lookup.made_the_call, first.lookup.saved_usage, first.text) == (
        "MISS",
        True,
        None,
        "a b c",
    )
    assert first.chunks == said("a", " b", " c")  # as it came
    assert calls.begun == 1
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.joins, stats.stores, stats.flights) == (2, 1, 0, 1, 0)
    assert stats.bytes > 0


async def test_a_thousand_at_once_ask_once(cache: ResponseCache) -> None:
    calls = Calls(said("a", " b", " c"))
    requests = [Request(cache, calls, stream=bool(i % 2)) for i in range(1000)]
    await asyncio.gather(*requests)
    assert calls.begun == 1
    assert [request.how for request in requests] == ["MISS"] + ["JOIN"] * 999
    assert {request.text for request in requests} == {"a b c"}
    assert all(request.whole for request in requests)
    assert sum(request.lookup.made_the_call for request in requests) == 1
    assert all(request.chunks[0] is requests[0].chunks[0] for request in requests)  # no copies


async def test_streams_follow_live_and_others_at_the_end(cache: ResponseCache) -> None:
    gate = asyncio.Event()
    script = said("a", " b", " c")
    calls = Calls([*script[:2], gate, *script[2:]])
    leader = Request(cache, calls, stream=False)
    await soon(lambda: calls.begun)
    stream, plain = Request(cache, calls), Request(cache, calls, stream=False)
    await soon(lambda: stream.text == "a b")
    late = Request(cache, calls)
    await soon(lambda: late.text == "a b")
    assert not leader.chunks and not plain.chunks
    gate.set()
    for request in (leader, stream, plain, late):
        assert (await request).text == "a b c"


async def test_other_words_other_users_other_answers(cache: ResponseCache) -> None:
    calls = Calls(said("a"), said("b"), said("c"), said("d"))
    texts = [
        (await Request(cache, calls, text, user=user)).text
        for text, user in (("x", "alice"), ("y", "alice"), ("x", "bob"))
    ]
    assert texts == ["a", "b", "c"]


async def test_whoever_leaves_harms_nobody(cache: ResponseCache) -> None:
    gate = asyncio.Event()
    calls = Calls([said("a")[0], gate, *said("a", " b")[1:]])
    leader, one, two = (
        Request(cache, calls),
        Request(cache, calls),
        Request(cache, calls, stream=False),
    )
    await soon(lambda: one.text == "a")
    for leaving in (one, leader):
        leaving.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
    gate.set()
    assert (await two).text == "a b"
    assert (calls.begun, calls.ended, calls.cut) == (1, 1, 0)
    await soon(lambda: not cache._tasks)
    assert (await Request(cache, calls)).how == "HIT"


async def test_a_call_that_everybody_left_ends(cache: ResponseCache) -> None:
    calls = Calls([*said("a")[:1], asyncio.Event()], said("b"))
    requests = [Request(cache, calls) for _ in range(3)]
    await soon(lambda: requests[2].text == "a")
    for request in requests:
        request.task.cancel()
    await asyncio.gather(*[request.task for request in requests], return_exceptions=True)
    assert (calls.begun, calls.cut) == (1, 1)  # settled by the time the last has left
    again = await Request(cache, calls)
    assert (again.how, again.text) == ("MISS", "b")


async def outcomes(requests: list[Request]) -> list[Any]:
    return await asyncio.gather(*[request.task for request in requests], return_exceptions=True)


async def test_a_failure_is_the_leaders_own(cache: ResponseCache) -> None:
    gate = asyncio.Event()
    calls = Calls([gate, DOWN], said("a", " b"))
    requests = [Request(cache, calls, stream=bool(i % 2)) for i in range(100)]
    await soon(lambda: calls.begun)
    gate.set()
    first, *others = await outcomes(requests)
    assert first is DOWN
    assert {request.text for request in others} == {"a b"}
    assert calls.begun == 2
    assert sorted(request.how for request in requests) == ["JOIN"] * 98 + ["MISS"] * 2
    assert sum(request.lookup.saved_usage == USAGE for request in others) == 98


async def test_the_second_failure_is_everybodys(cache: ResponseCache) -> None:
    calls = Calls([DOWN], [UpstreamUnreachable("still away", sent=True)], said("a"))
    results = await outcomes([Request(cache, calls) for _ in range(100)])
    assert [str(result) for result in results] == ["away"] + ["still away"] * 99
    assert {describe(result).code for result in results} == {"upstream_unreachable"}
    assert len({id(result) for result in results}) == 100  # one each: tracebacks are not shared
    assert calls.begun == 2


@pytest.mark.parametrize(
    "error",
    [
        UpstreamHTTPError(400, "too long", code="context_length_exceeded"),
        InvalidRequest("no", param="n"),
    ],
)
async def test_a_refusal_that_all_would_get(cache: ResponseCache, error: Exception) -> None:
    calls = Calls([error], said("a"))
    results = await outcomes([Request(cache, calls) for _ in range(20)])
    assert [describe(result) for result in results] == [describe(error)] * 20
    assert calls.begun == 1
    assert (await Request(cache, calls)).how == "MISS"


async def test_a_budget_is_the_askers_own(cache: ResponseCache) -> None:
    calls = Calls(
        [QuotaError("yours is used up", {})],
        [QuotaError("yours too", {})],
        [QuotaError("and yours", {})],
        said("a"),
    )
    results = await outcomes([Request(cache, calls) for _ in range(10)])
    assert [isinstance(result, QuotaError) for result in results] == [True] * 3 + [False] * 7
    assert calls.begun == 4


async def broken(cache: ResponseCache, error: Exception, *more: Any) -> list[Request]:
    """A leader and those who joined it, once its call has broken in the middle of its answer.

    The leader, a stream that has begun to read, one that has not, one that is not streamed.
    """
    gate, reading = asyncio.Event(), asyncio.Event()
    calls = Calls([*said("one", " two")[:2], gate, error], *more)
    leader, begun = Request(cache, calls), Request(cache, calls)
    await soon(lambda: begun.text == "one two")
    others = [Request(cache, calls, reading=reading), Request(cache, calls, stream=False)]
    await soon(lambda: cache.stats().joins == 3)
    gate.set()
    await outcomes([leader, begun])
    reading.set()
    await outcomes(others)
    return [leader, begun, *others]


TOLD = UpstreamHTTPError(429, "slow down", code="rate_limited", retry_after=2)
BEGUN, WHOLE = "one two", "uno dos"


@pytest.mark.parametrize("error", [DOWN, QuotaError("yours is used up", {}), ValueError("a bug")])
async def test_who_has_begun_to_read_gets_the_error_and_the_others_ask_again(
    cache: ResponseCache, error: Exception
) -> None:
    leader, begun, *others = await broken(cache, error, said("uno", " dos"))
    assert leader.task.exception() is error
    assert (leader.text, begun.text) == (BEGUN, BEGUN)
    assert described(leader) == described(begun)
    assert [(await request).text for request in others] == [WHOLE, WHOLE]
    assert all(request.whole for request in others)


async def test_e7_what_the_upstream_tells_in_the_middle_is_everybodys(cache: ResponseCache) -> None:
    requests = await broken(cache, TOLD)
    assert [request.text for request in requests] == [BEGUN, BEGUN, BEGUN, ""]
    assert [described(request) for request in requests] == [describe(TOLD)] * 4
    calls = Calls(said("a"))
    assert (await Request(cache, calls)).how == "MISS"


def described(request: Request) -> Failure:
    error = request.task.exception()
    assert error is not None
    return describe(error)


async def test_an_own_refusal_is_nobody_elses_however_often(cache: ResponseCache) -> None:
    fast = RateLimitExceededError(RateLimitedError("requests", "user alice", 1, 1000))
    unpriced = UnpricedModelError("m", "user alice")
    calls = Calls([fast], [unpriced], [QuotaError("yours is used up", {})], [DOWN], said("a"))
    *results, last = await outcomes([Request(cache, calls) for _ in range(5)])
    assert results[:2] == [fast, unpriced] and results[3] is DOWN
    assert last.text == "a"


async def test_who_joins_a_call_that_was_told_to_give_way_gets_an_answer(
    cache: ResponseCache,
) -> None:
    gate = asyncio.Event()
    calls = Calls([*said("one", " two")[:2], gate, ConnectionReclaimed()], said("uno", " dos"))
    leader = Request(cache, calls)
    await soon(lambda: leader.text == BEGUN)
    slot = Slot(Connections(1), "user_alice", leader.trace, 1.0)
    leader.trace.left = True
    assert leader.trace.abandoned
    slot.give_way()
    late = [Request(cache, calls, stream=stream) for stream in (True, False)]
    await soon(lambda: cache.stats().joins == 2)
    gate.set()
    await outcomes([leader, *late])
    assert isinstance(leader.task.exception(), ConnectionReclaimed)
    assert [(request.text, request.whole) for request in late] == [(WHOLE, True)] * 2
    assert calls.begun == 2


async def test_a_call_that_was_told_to_give_way_and_ended_all_the_same_is_an_answer(
    cache: ResponseCache,
) -> None:
    gate = asyncio.Event()
    calls = Calls([said("one")[0], gate, *said("one", " two")[1:]])
    leader = Request(cache, calls)
    await soon(lambda: leader.text)
    leader.trace.gave_way = True
    late = Request(cache, calls)
    await soon(lambda: cache.stats().joins == 1)
    gate.set()
    assert (await late).text == BEGUN and calls.begun == 1


async def test_a_request_that_still_reads_asks_before_one_that_has_left(
    cache: ResponseCache,
) -> None:
    gate = asyncio.Event()
    calls = Calls([gate, DOWN], said("a"))
    requests = [Request(cache, calls) for _ in range(3)]
    await soon(lambda: calls.begun)
    requests[1].trace.left = True
    gate.set()
    await outcomes(requests)
    assert [request.lookup.made_the_call for request in requests] == [True, False, True]


@pytest.mark.parametrize(
    "script",
    [
        said("a", finish="length"),
        said("a", finish="content_filter"),
        [*said("a")[:1], DOWN],
        said(""),
        [*said("a"), Chunk(1, {"role": "assistant", "content": "b"}), Chunk(1, {}, "length")],
        [*said("a")[:2], DOWN],
    ],
)
async def test_only_clean_and_complete_answers_are_kept(cache: ResponseCache, script: Any) -> None:
    calls = Calls(script)
    for _ in range(2):
        await outcomes([Request(cache, calls)])
        await soon(lambda: not cache._tasks)
    assert calls.begun == 2
    assert cache.stats().stores == 0


async def test_an_answer_too_large_is_not_kept_and_waits_for_its_reader(store: Store) -> None:
    cache = answers(store, max_entry_kb=4)
    await cache.start()
    stop = False

    async def endless() -> Any:
        yield Chunk(0, {"role": "assistant", "content": "x"})
        while not stop:
            yield Chunk(0, {"content": "x" * 100})
        for chunk in said("x")[1:]:
            yield chunk

    leader = cache.lookup(*_arguments(), endless, Trace())
    async with leader:
        chunks = leader.answer()
        flight = next(iter(cache._flights.values()))
        for _ in range(2000):
            await anext(chunks)
        await soon(lambda: flight.closed and not cache._flights)  # nobody can join any more
        assert flight.answer and len(flight.answer.chunks) < 300
        stop = True
        async for _ in chunks:
            pass
    await soon(lambda: not cache._tasks)
    assert cache.stats().stores == 0
    await cache.stop()


def _arguments() -> tuple[Any, Any, Any, Any]:
    from cached import ENTRY  # the parts of a request, to drive it by hand

    from chattable.agents.chat import Chat, Message
    from chattable.agents.chattable import TurnUser
    from chattable.proxy.cache.controls import PLAIN
    from chattable.proxy.identity.auth import Caller, Principal

    caller = Caller(Principal(TurnUser("user_a", "a")), "req_1", 0.0)
    return Chat("m", [Message("user", "hi")], True, {}), ENTRY, caller, PLAIN


async def test_controls_of_a_request(cache: ResponseCache) -> None:
    calls = Calls(said("1"), said("2"), said("3"), said("4"), said("5"))

    async def ask(**said: Any) -> tuple[str, str]:
        request = await Request(cache, calls, controls=Controls(**said))
        await soon(lambda: not cache._tasks)
        return request.how, request.text

    assert await ask(no_store=True) == ("MISS", "1")
    assert await ask() == ("MISS", "2")
    assert await ask(no_store=True) == ("HIT", "2")
    assert await ask(no_cache=True) == ("BYPASS", "3")  # and kept
    assert await ask() == ("HIT", "3")
    assert await ask(max_age=60) == ("HIT", "3")
    assert await ask(no_cache=True, no_store=True) == ("BYPASS", "4")
    assert await ask() == ("HIT", "3")


async def test_an_answer_too_old_for_one_is_asked_for_again(
    cache: ResponseCache, clock: Clock
) -> None:
    calls = Calls(said("1"), said("2"))
    await Request(cache, calls)
    async with asyncio.timeout(5):
        while (
            request := await Request(cache, calls, controls=Controls(max_age=0.05))
        ).how == "HIT":
            clock.now += 0.02
            await asyncio.sleep(0.02)
    assert request.text == "2"
    await soon(lambda: not cache._tasks)
    assert (await Request(cache, calls)).text == "2"


async def test_a_time_of_ones_own(store: Store, clock: Clock) -> None:
    for scope, longest in (("user", 2_000_000.0), ("shared", 60.0)):
        cache = answers(store, scope=scope)
        seen = [
            _waiter(cache, *_arguments()[:3], Controls(ttl=ttl)).ttl for ttl in (5.0, 2_000_000.0)
        ]
        assert seen == [5.0, longest]


async def test_an_agents_turn_is_its_users_own(store: Store) -> None:
    cache = answers(store, scope="shared")
    calls = Calls(said("1"), said("2"))
    assert [
        (await Request(cache, calls, user=user, entry=AGENT)).text for user in ("alice", "bob")
    ] == ["1", "2"]
    assert [(await Request(cache, calls, user=user)).text for user in ("alice", "bob")] == [
        "2",
        "2",
    ]
    assert calls.begun == 3
    await cache.stop()


async def test_purges_by_user_and_model(cache: ResponseCache) -> None:
    calls = Calls(said("a"))
    for who in ({"user": "user_alice"}, {"model": "m"}, {"model": "stub/m"}, {}):
        await Request(cache, calls)
        await soon(lambda: not cache._tasks)
        assert (await Request(cache, calls)).how == "HIT"
        await cache.purge(**who)
        begun = calls.begun
        assert (await Request(cache, calls)).how == "MISS"
        await soon(lambda: not cache._tasks)
        await cache.purge(user="user_bob", model="m2")
        assert (await Request(cache, calls)).how == "HIT"
        assert calls.begun == begun + 1
        await cache.purge()


BODIES = [
    b"",
    b"\xc1",
    b"hello",
    entries.encode(b"another key", said("a")),
    entries._encode([0, b"k", []]),
    entries._encode([2, b"k", said("a")]),
    entries._encode({"version": 1}),
    entries._encode([1, b"k", [{"index": "no"}]]),
    b"\x91" * 5000,
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:12]))
async def test_an_entry_that_makes_no_sense_is_a_miss(cache: ResponseCache, body: bytes) -> None:
    calls = Calls(said("a"))
    request = await Request(cache, calls)
    await soon(lambda: not cache._tasks)
    [key] = [_place(cache)]
    await cache.store.release(key, Lead(await _stamp(cache.store, key)), body=body or b"\0", ttl=60)
    request = await Request(cache, calls)
    assert (request.how, request.text, calls.begun) == ("MISS", "a", 2)
    await soon(lambda: not cache._tasks)
    assert (await Request(cache, calls)).how == "HIT"  # and it was replaced


def _place(cache: ResponseCache) -> CacheKey:
    chat, entry, caller, controls = _arguments()
    caller = type(caller)(
        type(caller.principal)(type(caller.principal.user)("user_alice", "alice")), "req_1", 0.0
    )
    return _waiter(cache, chat, entry, caller, controls).key


def _waiter(cache: ResponseCache, chat: Any, entry: Any, caller: Any, controls: Controls) -> Waiter:
    waiter = cache.lookup(chat, entry, caller, controls, Calls(said("a")), Trace())
    assert isinstance(waiter, Waiter)
    return waiter


# Two processes, as far as Redis can tell


@asynccontextmanager
async def two(url: str, lease: int, **config: Any) -> AsyncIterator[list[ResponseCache]]:
    name = own_namespace()
    opened = [answers(RedisStore(url, namespace=name, lease=lease), **config) for _ in range(2)]
    for each in opened:
        await each.start()
    yield opened
    for each in opened:
        await soon(lambda each=each: not each._tasks)
        assert not each._flights and not each.leads
        await each.stop()


@pytest.fixture
async def pair(shared_redis: str) -> AsyncIterator[list[ResponseCache]]:
    """Two whose leases do not lapse within a test."""
    async with two(shared_redis, 60_000) as opened:
        yield opened


async def test_processes_ask_once_and_follow_live(pair: list[ResponseCache]) -> None:
    gates = [asyncio.Event() for _ in range(3)]
    a, b, c, *end = said("a", " b", " c")
    calls = Calls([a, gates[0], b, gates[1], c, gates[2], *end])
    here = Request(pair[0], calls)
    await soon(lambda: here.text == "a")
    there, plain = Request(pair[1], calls), Request(pair[1], calls, stream=False)
    for gate, text in zip(gates, ("a", "a b", "a b c"), strict=True):
        await soon(lambda text=text: there.text == text)
        gate.set()
    for request in (here, there, plain):
        assert (await request).text == "a b c"
        assert request.whole
    assert (there.how, plain.how, calls.begun) == ("JOIN", "JOIN", 1)
    assert (await Request(pair[1], calls)).how == "HIT"


async def test_an_answer_that_is_not_kept_reaches_followers_too(pair: list[ResponseCache]) -> None:
    gate = asyncio.Event()
    calls = Calls([said("a")[0], gate, *said("a", " b", finish="length")[1:]])
    here = Request(pair[0], calls)
    await soon(lambda: here.text == "a")
    there = Request(pair[1], calls)
    await soon(lambda: there.text == "a")
    gate.set()
    assert (await there).text == "a b" and there.whole
    assert calls.begun == 1


@pytest.mark.parametrize("error", [DOWN, QuotaError("yours is used up", {})])
async def test_a_leader_that_fails_elsewhere(pair: list[ResponseCache], error: Exception) -> None:
    for number in range(10):
        gate = asyncio.Event()
        calls = Calls([*said("a", " b")[:2], gate, error], said("a", " c"))
        here = Request(pair[0], calls, str(number))
        await soon(lambda here=here: here.text == "a b")
        there = [Request(pair[1], calls, str(number), stream=bool(i % 2)) for i in range(20)]
        await soon(lambda there=there: there[-1].text == "a b")
        gate.set()
        await outcomes([here, *there])
        assert here.task.exception() is error
        assert {request.text for request in there[1::2]} == {"a b"}
        assert [described(request) for request in there[1::2]] == [describe(error)] * 10
        assert {(await request).text for request in there[0::2]} == {"a c"}
        assert calls.begun == 2


async def test_e7_what_the_upstream_tells_in_the_middle_is_told_elsewhere(
    pair: list[ResponseCache],
) -> None:
    gate = asyncio.Event()
    calls = Calls([*said("one", " two")[:2], gate, Chunk(0, {"content": " three"}), TOLD])
    here = Request(pair[0], calls)
    await soon(lambda: here.text == BEGUN)
    there = [Request(pair[1], calls, stream=stream) for stream in (True, False)]
    await soon(lambda: there[0].text == BEGUN)
    gate.set()
    await outcomes([here, *there])
    assert [request.text for request in (here, *there)] == ["one two three"] * 2 + [""]
    assert [described(request) for request in (here, *there)] == [describe(TOLD)] * 3
    assert calls.begun == 1


async def test_a_leader_that_leaves_harms_nobody_elsewhere(pair: list[ResponseCache]) -> None:
    gate = asyncio.Event()
    calls = Calls([said("a")[0], gate, *said("a", " b")[1:]])
    here = Request(pair[0], calls)
    await soon(lambda: here.text == "a")
    there = [Request(pair[1], calls, stream=stream) for stream in (True, False)]
    await soon(lambda: there[0].text == "a")
    here.task.cancel()
    await outcomes([here])
    assert here.trace.readers and not here.trace.abandoned
    gate.set()
    assert [(await request).text for request in there] == ["a b"] * 2
    assert (calls.begun, calls.cut) == (1, 0)


async def test_a_call_that_nobody_reads_any_more_in_any_process_ends(
    pair: list[ResponseCache],
) -> None:
    calls = Calls([said("a")[0], asyncio.Event()])
    here = Request(pair[0], calls)
    await soon(lambda: here.text == "a")
    there = Request(pair[1], calls)
    await soon(lambda: there.text == "a")
    for request in (here, there):
        request.task.cancel()
        await outcomes([request])
    assert calls.cut == 0  # it is not known yet
    await soon(lambda: calls.cut, 10)


async def test_who_follows_a_call_that_was_told_to_give_way_gets_an_answer(
    pair: list[ResponseCache],
) -> None:
    gate = asyncio.Event()
    calls = Calls([*said("one", " two")[:2], gate, ConnectionReclaimed()], said("uno", " dos"))
    here = Request(pair[0], calls)
    await soon(lambda: here.text == BEGUN)
    here.trace.left = here.trace.gave_way = True
    there = [Request(pair[1], calls, stream=stream) for stream in (True, False)]
    await soon(lambda: pair[1].stats().joins == 2)
    gate.set()
    await outcomes([here, *there])
    assert [(request.text, request.whole) for request in there] == [(WHOLE, True)] * 2


async def test_an_answer_too_large_to_keep_reaches_who_follows_it(shared_redis: str) -> None:
    async with two(shared_redis, 60_000, max_entry_kb=1) as pair:
        gate = asyncio.Event()
        words = [f"{number} " * 10 for number in range(500)]
        first, *rest = said(*words)
        calls = Calls([first, gate, *rest])
        here = Request(pair[0], calls)
        await soon(lambda: here.text == words[0])
        there = Request(pair[1], calls)
        await soon(lambda: there.text == words[0])
        gate.set()
        assert [(await request).text for request in (here, there)] == ["".join(words)] * 2
        assert calls.begun == 1


async def test_a_leader_that_dies_elsewhere(shared_redis: str) -> None:
    async with two(shared_redis, 1000) as pair:
        calls = Calls([said("a")[0], asyncio.Event()], said("a", " b"))
        here = Request(pair[0], calls)
        await soon(lambda: here.text == "a")
        there = [Request(pair[1], calls, stream=bool(i % 2)) for i in range(20)]
        await soon(lambda: there[-1].text == "a")
        leads = dict(pair[0].leads)
        pair[0].leads.clear()  # nothing more is heard of it
        await outcomes(there)
        assert {request.text for request in there[1::2]} == {"a"}
        assert {described(request).code for request in there[1::2]} == {"upstream_error"}
        assert {(await request).text for request in there[0::2]} == {"a b"}
        assert calls.begun == 2
        here.task.cancel()
        await outcomes([here])
        pair[0].leads |= leads
        await soon(lambda: calls.cut)  # once it knows that its lead is lost


@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves"])
@pytest.mark.parametrize("how", ["whole", "cut", "told"])
async def test_no_request_leaves_a_circle_behind(
    pair: list[ResponseCache], how: str, leaves: bool
) -> None:
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await shared_by_five(pair, how, leaves)
        await asyncio.sleep(0)  # the loop has let go of it as well
        gc.collect()
        ours = [item for item in gc.garbage if type(item).__module__.startswith("chattable.")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert [type(item).__name__ for item in ours] == []


async def shared_by_five(pair: list[ResponseCache], how: str, leaves: bool) -> None:
    """A leader and four who join it, in both processes, until nothing of them is left."""
    gate = asyncio.Event()
    ends: dict[str, list[Any]] = {
        "whole": said("a", " b")[1:],
        "cut": [UpstreamUnreachable("away", sent=True)],
        "told": [UpstreamHTTPError(429, "slow down")],
    }
    calls = Calls([said("a")[0], gate, *ends[how]], said("b"))
    requests = [Request(pair[0], calls)]
    await soon(lambda: requests[0].text == "a")
    for door, stream in product(pair, (True, False)):
        requests.append(Request(door, calls, stream=stream))
    await soon(lambda: requests[1].text == requests[3].text == "a")
    if leaves:
        requests[0].task.cancel()
        await outcomes(requests[:1])
    gate.set()
    await outcomes(requests)
    await soon(lambda: not pair[0]._tasks and not pair[1]._tasks)
    for request in requests:
        del request.task  # whose result is its request: a circle of these tests


async def test_a_store_that_is_away_for_a_moment_costs_nobody_an_answer(
    pair: list[ResponseCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, looks = asyncio.Event(), 0
    calls = Calls([said("a")[0], gate, *said("a", " b")[1:]])
    here = Request(pair[0], calls)
    await soon(lambda: here.text == "a")
    there = Request(pair[1], calls)
    await soon(lambda: there.text == "a")
    store = pair[1].store
    look = store.read_batches

    async def away(*args: Any) -> Any:
        nonlocal looks
        looks += 1
        return None if looks < 3 else await look(*args)

    monkeypatch.setattr(store, "read_batches", away)
    gate.set()
    assert (await there).text == "a b" and calls.begun == 1


async def test_promotion_is_for_one_of_all_processes(shared_redis: str) -> None:
    name = own_namespace()
    async with AsyncExitStack() as stack:
        doors = [answers(RedisStore(shared_redis, namespace=name)) for _ in range(4)]
        for door in doors:
            await door.start()
            stack.push_async_callback(door.stop)
        gate = asyncio.Event()
        calls = Calls([gate, DOWN], said("a", " b"))
        here = Request(doors[0], calls)
        await soon(lambda: calls.begun)
        there = [Request(door, calls) for door in doors for _ in range(5)]
        await soon(lambda: len([door for door in doors if door._flights]) == 4)
        gate.set()
        await outcomes([here])
        assert {(await request).text for request in there} == {"a b"}
        assert calls.begun == 2


# Valkey itself


@pytest.fixture
def server() -> Iterator[Valkey]:
    with valkey_server() as own:
        yield own


async def test_round_trips(server: Valkey) -> None:
    cache = answers(RedisStore(server.url))
    await cache.start()
    calls = Calls(said("a"))
    server.execute("CONFIG", "RESETSTAT")
    await Request(cache, calls)
    await soon(lambda: not cache._tasks)
    assert server.commands()["evalsha"] == 2  # one before, one after
    await Request(cache, calls)
    assert server.commands()["evalsha"] == 3  # a hit: one
    await asyncio.gather(*[Request(cache, calls, "other", stream=bool(i % 2)) for i in range(200)])
    await soon(lambda: not cache._tasks)
    assert server.commands()["evalsha"] == 5  # 200 at once: as one
    await cache.stop()


async def test_names_are_hashed_and_every_key_expires(server: Valkey) -> None:
    cache = answers(RedisStore(server.url))
    await cache.start()
    gate = asyncio.Event()
    waiting = Request(cache, Calls([gate, *said("a")]), "s3cret", user="s3cret \udcff\r\n")
    await Request(cache, Calls(said("b")), user="s3cret")
    await soon(lambda: server.execute("DBSIZE") == 2)
    await cache.purge(user="s3cret", model="s3cret")
    keys = server.execute("KEYS", "*")
    assert len(keys) == 4  # an entry, a lease, two generations
    assert not [key for key in keys if b"s3cret" in key]
    assert all(0 < server.execute("PTTL", key) <= 31 * 86400_000 for key in keys)
    gate.set()
    await waiting
    await cache.stop()


FOREIGN = [
    ("SET", "text"),
    ("RPUSH", "a", "b"),
    ("SADD", "a"),
    ("HSET", "body", "x"),
    ("HSET", "body", "x", "tags", "", "stamp", "", "at", "1"),
    ("HSET", "body", "x", "tags", "t", "stamp", "", "at", "no number"),
    ("HSET", "body", "x", "tags", "t", "stamp", "", "at", "1"),
    ("XADD", "*", "a", "b"),
]


@pytest.mark.parametrize("value", FOREIGN, ids=str)
async def test_f33_foreign_values(server: Valkey, value: tuple[str, ...]) -> None:
    cache = answers(RedisStore(server.url))
    await cache.start()
    calls = Calls(said("a"))
    await Request(cache, calls)
    await soon(lambda: not cache._tasks)
    [key] = server.execute("KEYS", "*entry:*")
    server.execute("DEL", key)
    server.execute(value[0], key, *value[1:])
    request = await Request(cache, calls)
    assert (request.how, request.text) == ("MISS", "a")
    await soon(lambda: not cache._tasks)
    assert (await Request(cache, calls)).how == "HIT"
    await cache.stop()


def fill(server: Valkey) -> None:
    """Has the server take nothing that needs memory, and throw nothing away."""
    server.execute("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1")


@asynccontextmanager
async def stores(server: Valkey, count: int = 2) -> AsyncIterator[list[RedisStore]]:
    opened = [RedisStore(server.url, namespace="full:") for _ in range(count)]
    for each in opened:
        await each.start()
    yield opened
    for each in opened:
        await each.stop()


async def test_f32_a_full_server_keeps_no_answer(server: Valkey) -> None:
    async with stores(server, 1) as [store]:
        await put(store, ONE, b"x" * 1000)
        again = await store.acquire(ONE, max_age=NOT_FROM_STORE)
        first = await lead(store, TWO)
        assert isinstance(again, Lead)
        fill(server)
        assert not await store.release(TWO, first, body=b"y" * 1000, ttl=60)
        assert not await store.release(ONE, again, body=b"newer" * 1000, ttl=60)
        assert server.execute("KEYS", "*") == []  # nor what was to be replaced
        assert await store.acquire(TWO) == Lead(first.stamp)  # one that nobody can follow
        server.execute("CONFIG", "SET", "maxmemory", "0")
        await put(store, TWO, b"z")
        assert (await got(store, TWO), store.away) == (b"z", False)


async def test_f32_a_full_server_shares_nothing_and_leaves_no_hole(server: Valkey) -> None:
    async with stores(server) as [here, there]:
        first = await lead(here, ONE)
        follow = await there.acquire(ONE)
        assert isinstance(follow, Follow)
        assert await here.share(ONE, first, b"a")
        assert await there.read_batches(ONE, follow, 0) == (True, [b"a"])
        fill(server)
        assert await there.read_batches(ONE, follow, 1) == (False, [])  # it asks by itself
        assert not await here.share(ONE, first, b"b")
        server.execute("CONFIG", "SET", "maxmemory", "0")
        assert not await here.share(ONE, first, b"c")  # behind what was not shared
        assert await there.read_batches(ONE, follow, 1) == (False, [])
        assert isinstance(await there.acquire(ONE), Lead)


async def test_f32_the_end_of_an_answer_that_finds_no_room_is_told(server: Valkey) -> None:
    async with stores(server) as [here, there]:
        first = await lead(here, ONE)
        follow = await there.acquire(ONE)
        assert isinstance(follow, Follow)
        fill(server)
        assert not await here.release(ONE, first, body=b"x", ttl=60, last=[b"a", b"d"])
        assert await there.read_batches(ONE, follow, 0) == (False, [])
        assert server.execute("KEYS", "*") == []


async def test_f32_a_purge_comes_through_on_a_full_server(server: Valkey) -> None:
    async with stores(server, 1) as [store]:
        for key in (ONE, TWO):
            await put(store, key, b"x")
        fill(server)
        assert await store.purge("user:a")
        assert (await got(store, ONE), await got(store, TWO)) == (None, b"x")


async def test_f32_everybody_is_answered_beside_a_full_server(server: Valkey) -> None:
    async with two(server.url, 60_000) as pair:
        gate = asyncio.Event()
        calls = Calls([said("a")[0], gate, *said("a", " b")[1:]], said("a", " b"))
        here = Request(pair[0], calls)
        await soon(lambda: here.text == "a")
        there = [Request(pair[1], calls, stream=stream) for stream in (True, False)]
        await soon(lambda: there[0].text == "a")
        fill(server)
        gate.set()
        await outcomes([here, *there])
        assert [(await request).text for request in (here, there[1])] == ["a b"] * 2
        assert here.whole and there[1].whole
        # what it missed cannot be brought to it any more
        assert there[0].text == "a" and described(there[0]).code == "upstream_error"
        await soon(lambda: not pair[0]._tasks and not pair[1]._tasks)
        assert (await Request(pair[1], calls)).how == "MISS"


async def test_what_was_shared_lasts_as_long_as_its_lease_however_long_it_is_silent(
    server: Valkey,
) -> None:
    async with stores(server) as [here, there]:
        first = await lead(here, ONE)
        assert isinstance(await there.acquire(ONE), Follow)
        assert await here.share(ONE, first, b"a")
        [key] = server.execute("KEYS", "*batches:*")
        server.execute("PEXPIRE", key, "5000")
        assert await here.renew([(ONE, first)]) == [True]
        assert server.execute("PTTL", key) > 5000


async def test_f34_a_primary_that_became_a_replica_is_left_alone(server: Valkey) -> None:
    async with stores(server, 1) as [store]:
        await put(store, ONE, b"x")
        server.execute("REPLICAOF", "127.0.0.1", "1")
        assert await store.acquire(TWO) == Lead(b"")
        assert store.away and await got(store, ONE) is None  # a purge might not have reached it
        server.execute("REPLICAOF", "NO", "ONE")
        await soon(lambda: not store.away)
        assert await got(store, ONE) == b"x"


async def test_nothing_is_left_behind(server: Valkey) -> None:
    cache = answers(RedisStore(server.url))
    tasks = len(asyncio.all_tasks())
    await cache.start()
    calls = Calls([DOWN], said("a"))
    await outcomes([Request(cache, calls) for _ in range(10)])
    await cache.stop()
    assert len(asyncio.all_tasks()) == tasks
