"""The cache's law, on memory and on a real Valkey: what is kept, for whom and how long, and that one request asks for all."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from cached import AGENT, USAGE, Calls, Request, said, soon
from rated import Clock
from valkeys import Valkey, own_namespace, valkey_server

from chattable.adapters.errors import BrokenAnswer, Refused, Unreachable
from chattable.agents.chat import Chunk
from chattable.agents.chattable import Trace
from chattable.agents.errors import InvalidRequest
from chattable.proxy.cache import entries
from chattable.proxy.cache.cache import Answers
from chattable.proxy.cache.controls import Controls
from chattable.proxy.cache.memory import OVERHEAD, MemoryStore
from chattable.proxy.cache.redis import RedisStore
from chattable.proxy.cache.store import DONE, NEVER, Follow, Found, Lead, Place, Store
from chattable.proxy.config import settings
from chattable.proxy.errors import QuotaError

ONE, TWO = Place(b"1" * 32, ("user:a", "model:m")), Place(b"2" * 32, ("user:b", "model:m"))
DOWN = Unreachable("away", sent=True)


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
async def cache(store: Store) -> AsyncIterator[Answers]:
    opened = answers(store)
    await opened.start()
    yield opened
    await soon(lambda: not opened._tasks)  # what was to be stored is stored
    assert not opened._flights and not opened._leads
    await opened.stop()


def answers(store: Store, **config: Any) -> Answers:
    return Answers(store, settings.Cache(**config))


async def lead(store: Store, place: Place) -> Lead:
    how = await store.enter(place)
    assert isinstance(how, Lead), how
    return how


async def put(store: Store, place: Place, body: bytes, ttl: float = 60) -> None:
    assert await store.leave(place, await lead(store, place), body=body, ttl=ttl)


async def got(store: Store, place: Place, max_age: float | None = None) -> bytes | None:
    how = await store.enter(place, lead=False, max_age=max_age)
    return how.body if isinstance(how, Found) else None


async def until(store: Store, clock: Clock, place: Place, gone_by: float) -> None:
    """Lets time pass, on either clock, until an entry is gone."""
    async with asyncio.timeout(gone_by):
        while await got(store, place):
            clock.now += 0.01
            await asyncio.sleep(0.01)


# What is kept


async def test_what_was_stored_is_found_under_its_key_and_no_other(store: Store) -> None:
    body = bytes(range(256)) * 100
    await put(store, ONE, body)
    assert (await got(store, ONE), await got(store, TWO)) == (body, None)
    await store.leave(TWO, await lead(store, TWO))  # nothing to store
    assert await got(store, TWO) is None
    assert await store.leave(ONE, Lead(await _stamp(store, ONE)), body=b"newer", ttl=60)
    assert await got(store, ONE) == b"newer"


async def _stamp(store: Store, place: Place) -> bytes:
    how = await store.enter(place, lead=False, max_age=NEVER)
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
    assert await got(store, ONE, max_age=NEVER) is None
    async with asyncio.timeout(5):
        while await got(store, ONE, max_age=0.05):
            clock.now += 0.01
            await asyncio.sleep(0.01)
    found = await store.enter(ONE)
    assert isinstance(found, Found) and 0.05 < found.age < 5


@pytest.mark.parametrize("tag", ["user:a", "model:m", ""])
async def test_a_purge(store: Store, tag: str) -> None:
    await put(store, ONE, b"x")
    await put(store, TWO, b"y")
    under_way = Place(b"3" * 32, ("user:a", "model:other"))
    asked = await lead(store, under_way)
    assert await store.purge(tag)
    assert await got(store, ONE) is None
    assert await got(store, TWO) == (b"y" if tag == "user:a" else None)
    await store.leave(under_way, asked, body=b"late", ttl=60)
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
    store = MemoryStore(10 * (OVERHEAD + 1000))
    places = [Place(bytes([i]) * 32, ("user:a",)) for i in range(20)]
    for place in places[:10]:
        await put(store, place, b"x" * 1000)
    assert store.size == 10 * (OVERHEAD + 1000)
    assert await got(store, places[0])
    for place in places[10:15]:
        await put(store, place, b"x" * 1000)
    kept = [i for i, place in enumerate(places) if await got(store, place)]
    assert kept == [0, *range(6, 15)]
    assert not await store.leave(ONE, await lead(store, ONE), body=b"x" * 20_000, ttl=60)
    await store.purge()
    assert store.size == 0


# Who asks


async def test_one_leads_in_any_process(shared_redis: str) -> None:
    name = own_namespace()
    async with AsyncExitStack() as stack:
        stores = [RedisStore(shared_redis, namespace=name) for _ in range(4)]
        for each in stores:
            await each.start()
            stack.push_async_callback(each.stop)
        for _ in range(3):
            hows = await asyncio.gather(*[each.enter(ONE) for each in stores for _ in range(25)])
            [(first, held)] = [(i, how) for i, how in enumerate(hows) if isinstance(how, Lead)]
            assert {how.flight for how in hows if isinstance(how, Follow)} == {held.flight}
            await stores[first // 25].leave(ONE, held)
        await put(stores[0], ONE, b"x")
        assert all([isinstance(await each.enter(ONE), Found) for each in stores])


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
        while isinstance(how := await other.enter(ONE), Follow):
            assert await quick.renew([(TWO, kept)]) == [False]
            await asyncio.sleep(0.02)
    assert isinstance(how, Lead)
    assert isinstance(await other.enter(TWO), Follow)
    assert await quick.renew([(ONE, held), (TWO, kept)]) == [False, True]
    assert not await quick.share(ONE, held, b"too late")
    assert await quick.leave(ONE, held, body=b"late but good", ttl=60)
    assert await got(other, ONE) == b"late but good"
    await quick.stop()
    await other.stop()


async def test_followers_read_what_the_leader_shares(redis: RedisStore) -> None:
    held = await lead(redis, ONE)
    follow = await redis.enter(ONE)
    assert isinstance(follow, Follow) and follow.flight == held.flight
    assert await redis.peek(ONE, follow, 0) == (True, [])
    assert await redis.share(ONE, held, b"a") and await redis.share(ONE, held, b"b")
    assert await redis.peek(ONE, follow, 0) == (True, [b"a", b"b"])
    waiting = asyncio.create_task(redis.news(follow))
    await asyncio.sleep(0)
    await redis.leave(ONE, held, last=[b"c", DONE])
    await waiting
    assert await redis.peek(ONE, follow, 1) == (False, [b"b", b"c", DONE])


async def test_a_request_that_is_given_up_leads_nobody(redis: RedisStore) -> None:
    task = asyncio.create_task(redis.enter(ONE))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(await redis.enter(ONE), Lead)


# The cache on a store


async def test_a_hit_is_the_answer_again(cache: Answers) -> None:
    calls = Calls(said("a", " b", " c"))
    first = await Request(cache, calls)
    await soon(lambda: not cache._tasks)
    for stream in (True, False):
        again = await Request(cache, calls, stream=stream)
        assert (again.how, again.text, again.whole) == ("HIT", "a b c", True)
        assert (again.lookup.asked, again.lookup.saved) == (False, USAGE)
        assert again.lookup.headers["age"] == "0"
    assert (first.how, first.lookup.asked, first.lookup.saved, first.text) == (
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


async def test_a_thousand_at_once_ask_once(cache: Answers) -> None:
    calls = Calls(said("a", " b", " c"))
    requests = [Request(cache, calls, stream=bool(i % 2)) for i in range(1000)]
    await asyncio.gather(*requests)
    assert calls.begun == 1
    assert [request.how for request in requests] == ["MISS"] + ["JOIN"] * 999
    assert {request.text for request in requests} == {"a b c"}
    assert all(request.whole for request in requests)
    assert sum(request.lookup.asked for request in requests) == 1
    assert all(request.chunks[0] is requests[0].chunks[0] for request in requests)  # no copies


async def test_streams_follow_live_and_others_at_the_end(cache: Answers) -> None:
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


async def test_other_words_other_users_other_answers(cache: Answers) -> None:
    calls = Calls(said("a"), said("b"), said("c"), said("d"))
    texts = [
        (await Request(cache, calls, text, user=user)).text
        for text, user in (("x", "alice"), ("y", "alice"), ("x", "bob"))
    ]
    assert texts == ["a", "b", "c"]


async def test_whoever_leaves_harms_nobody(cache: Answers) -> None:
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


async def test_a_call_that_everybody_left_ends(cache: Answers) -> None:
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


async def test_a_failure_is_the_leaders_own(cache: Answers) -> None:
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
    assert sum(request.lookup.saved == USAGE for request in others) == 98


async def test_the_second_failure_is_everybodys(cache: Answers) -> None:
    calls = Calls([DOWN], [Unreachable("still away", sent=True)], said("a"))
    results = await outcomes([Request(cache, calls) for _ in range(100)])
    assert [type(result) for result in results] == [Unreachable] * 100
    assert [str(result) for result in results] == ["away"] + ["still away"] * 99
    assert len({id(result) for result in results}) == 100  # one each: tracebacks are not shared
    assert calls.begun == 2


@pytest.mark.parametrize(
    "error",
    [Refused(400, "too long", code="context_length_exceeded"), InvalidRequest("no", param="n")],
)
async def test_a_refusal_that_all_would_get(cache: Answers, error: Exception) -> None:
    calls = Calls([error], said("a"))
    results = await outcomes([Request(cache, calls) for _ in range(20)])
    assert [(type(result), str(result), result.param) for result in results] == [
        (type(error), str(error), error.param)
    ] * 20  # type: ignore[attr-defined]
    assert calls.begun == 1
    assert (await Request(cache, calls)).how == "MISS"


async def test_a_budget_is_the_askers_own(cache: Answers) -> None:
    calls = Calls(
        [QuotaError("yours is used up", {})],
        [QuotaError("yours too", {})],
        [QuotaError("and yours", {})],
        said("a"),
    )
    results = await outcomes([Request(cache, calls) for _ in range(10)])
    assert [isinstance(result, QuotaError) for result in results] == [True] * 3 + [False] * 7
    assert calls.begun == 4


async def test_a_stream_goes_on_where_the_leader_failed(cache: Answers) -> None:
    gate = asyncio.Event()
    script = said("one", " two", " three")
    other = [
        Chunk(0, {"role": "assistant", "content": "one t"}),
        Chunk(0, {"content": "wo three"}),
        *script[-2:],
    ]
    calls = Calls([*script[:2], gate, DOWN], other)
    leader, stream, plain = (
        Request(cache, calls),
        Request(cache, calls),
        Request(cache, calls, stream=False),
    )
    await soon(lambda: stream.text == "one two")
    gate.set()
    with pytest.raises(Unreachable):
        await leader
    assert leader.text == "one two"
    for request in (stream, plain):
        await request
        assert request.text == "one two three"
        assert request.whole


async def test_a_stream_that_cannot_go_on_ends(cache: Answers) -> None:
    gate = asyncio.Event()
    calls = Calls([*said("one", " two")[:2], gate, DOWN], said("uno", " dos"))
    leader, stream, plain = (
        Request(cache, calls),
        Request(cache, calls),
        Request(cache, calls, stream=False),
    )
    await soon(lambda: stream.text == "one two")
    gate.set()
    results = await outcomes([leader, stream, plain])
    assert [type(result) for result in results[:2]] == [Unreachable, BrokenAnswer]
    assert plain.text == "uno dos"


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
async def test_only_clean_and_complete_answers_are_kept(cache: Answers, script: Any) -> None:
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
        assert flight.attempt and len(flight.attempt.chunks) < 300
        stop = True
        async for _ in chunks:
            pass
    await soon(lambda: not cache._tasks)
    assert cache.stats().stores == 0
    await cache.stop()


def _arguments(**changes: Any) -> Any:
    from cached import ENTRY  # the parts of a request, to drive it by hand

    from chattable.agents.chat import Chat, Message
    from chattable.agents.chattable import User
    from chattable.proxy.cache.controls import PLAIN
    from chattable.proxy.identity.auth import Caller, Principal

    caller = Caller(Principal(User("user_a", "a")), "req_1", 0.0)
    return Chat("m", [Message("user", "hi")], True, {}), ENTRY, caller, PLAIN


async def test_controls_of_a_request(cache: Answers) -> None:
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


async def test_an_answer_too_old_for_one_is_asked_for_again(cache: Answers, clock: Clock) -> None:
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
            cache.lookup(
                *_arguments()[:3], Controls(ttl=ttl), Calls(said("a")), Trace()
            )._member.ttl
            for ttl in (5.0, 2_000_000.0)
        ]  # type: ignore[attr-defined]
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


async def test_purges_by_user_and_model(cache: Answers) -> None:
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
async def test_an_entry_that_makes_no_sense_is_a_miss(cache: Answers, body: bytes) -> None:
    calls = Calls(said("a"))
    request = await Request(cache, calls)
    await soon(lambda: not cache._tasks)
    [place] = [_place(cache)]
    await cache.store.leave(
        place, Lead(await _stamp(cache.store, place)), body=body or b"\0", ttl=60
    )
    request = await Request(cache, calls)
    assert (request.how, request.text, calls.begun) == ("MISS", "a", 2)
    await soon(lambda: not cache._tasks)
    assert (await Request(cache, calls)).how == "HIT"  # and it was replaced


def _place(cache: Answers) -> Place:
    chat, entry, caller, controls = _arguments()
    caller = type(caller)(
        type(caller.principal)(type(caller.principal.user)("user_alice", "alice")), "req_1", 0.0
    )
    place: Place = cache.lookup(chat, entry, caller, controls, Calls(said("a")), Trace())._place  # type: ignore[attr-defined]
    return place


# Two processes, as far as Redis can tell


@asynccontextmanager
async def two(url: str, lease: int) -> AsyncIterator[list[Answers]]:
    name = own_namespace()
    opened = [answers(RedisStore(url, namespace=name, lease=lease)) for _ in range(2)]
    for each in opened:
        await each.start()
    yield opened
    for each in opened:
        await soon(lambda each=each: not each._tasks)  # type: ignore[misc]
        assert not each._flights and not each._leads
        await each.stop()


@pytest.fixture
async def pair(shared_redis: str) -> AsyncIterator[list[Answers]]:
    """Two whose leases do not lapse within a test."""
    async with two(shared_redis, 60_000) as opened:
        yield opened


async def test_processes_ask_once_and_follow_live(pair: list[Answers]) -> None:
    gates = [asyncio.Event() for _ in range(3)]
    a, b, c, *end = said("a", " b", " c")
    calls = Calls([a, gates[0], b, gates[1], c, gates[2], *end])
    here = Request(pair[0], calls)
    await soon(lambda: here.text == "a")
    there, plain = Request(pair[1], calls), Request(pair[1], calls, stream=False)
    for gate, text in zip(gates, ("a", "a b", "a b c"), strict=True):
        await soon(lambda text=text: there.text == text)  # type: ignore[misc]
        gate.set()
    for request in (here, there, plain):
        assert (await request).text == "a b c"
        assert request.whole
    assert (there.how, plain.how, calls.begun) == ("JOIN", "JOIN", 1)
    assert (await Request(pair[1], calls)).how == "HIT"


async def test_an_answer_that_is_not_kept_reaches_followers_too(pair: list[Answers]) -> None:
    gate = asyncio.Event()
    calls = Calls([said("a")[0], gate, *said("a", " b", finish="length")[1:]])
    here = Request(pair[0], calls)
    await soon(lambda: here.text == "a")
    there = Request(pair[1], calls)
    await soon(lambda: there.text == "a")
    gate.set()
    assert (await there).text == "a b" and there.whole
    assert calls.begun == 1


async def test_a_leader_that_fails_elsewhere(pair: list[Answers]) -> None:
    for number in range(10):
        gate = asyncio.Event()
        calls = Calls([said("a")[0], gate, Chunk(0, {"content": " b"}), DOWN], said("a", " b"))
        here = Request(pair[0], calls, str(number))
        await soon(lambda here=here: here.text == "a")  # type: ignore[misc]
        there = [Request(pair[1], calls, str(number)) for _ in range(20)]
        await soon(lambda there=there: there[-1].text == "a")  # type: ignore[misc]
        gate.set()
        with pytest.raises(Unreachable):
            await here
        assert {(await request).text for request in there} == {"a b"}
        assert all(request.whole for request in there)
        assert calls.begun == 2


async def test_a_leader_that_dies_elsewhere(shared_redis: str) -> None:
    async with two(shared_redis, 1000) as pair:
        calls = Calls([said("a")[0], asyncio.Event()], said("a", " b"))
        here = Request(pair[0], calls)
        await soon(lambda: here.text == "a")
        there = [Request(pair[1], calls, stream=bool(i % 2)) for i in range(20)]
        await soon(lambda: there[1].text == "a")
        pair[0]._leads.clear()  # nothing more is heard of it
        assert {(await request).text for request in there} == {"a b"}
        assert calls.begun == 2
        here.task.cancel()
        await outcomes([here])


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
        again = await store.enter(ONE, max_age=NEVER)
        first = await lead(store, TWO)
        assert isinstance(again, Lead)
        fill(server)
        assert not await store.leave(TWO, first, body=b"y" * 1000, ttl=60)
        assert not await store.leave(ONE, again, body=b"newer" * 1000, ttl=60)
        assert server.execute("KEYS", "*") == []  # nor what was to be replaced
        assert await store.enter(TWO) == Lead(first.stamp)  # one that nobody can follow
        server.execute("CONFIG", "SET", "maxmemory", "0")
        await put(store, TWO, b"z")
        assert (await got(store, TWO), store.away) == (b"z", False)


async def test_f32_a_full_server_shares_nothing_and_leaves_no_hole(server: Valkey) -> None:
    async with stores(server) as [here, there]:
        first = await lead(here, ONE)
        follow = await there.enter(ONE)
        assert isinstance(follow, Follow)
        assert await here.share(ONE, first, b"a")
        assert await there.peek(ONE, follow, 0) == (True, [b"a"])
        fill(server)
        assert await there.peek(ONE, follow, 1) == (False, [])  # it asks by itself
        assert not await here.share(ONE, first, b"b")
        server.execute("CONFIG", "SET", "maxmemory", "0")
        assert not await here.share(ONE, first, b"c")  # behind what was not shared
        assert await there.peek(ONE, follow, 1) == (False, [])
        assert isinstance(await there.enter(ONE), Lead)


async def test_f32_the_end_of_an_answer_that_finds_no_room_is_told(server: Valkey) -> None:
    async with stores(server) as [here, there]:
        first = await lead(here, ONE)
        follow = await there.enter(ONE)
        assert isinstance(follow, Follow)
        fill(server)
        assert not await here.leave(ONE, first, body=b"x", ttl=60, last=[b"a", DONE])
        assert await there.peek(ONE, follow, 0) == (False, [])
        assert server.execute("KEYS", "*") == []


async def test_f32_a_purge_comes_through_on_a_full_server(server: Valkey) -> None:
    async with stores(server, 1) as [store]:
        for place in (ONE, TWO):
            await put(store, place, b"x")
        fill(server)
        assert await store.purge("user:a")
        assert (await got(store, ONE), await got(store, TWO)) == (None, b"x")


async def test_f32_everybody_is_answered_beside_a_full_server(server: Valkey) -> None:
    async with two(server.url, 60_000) as pair:
        gate = asyncio.Event()
        calls = Calls([said("a")[0], gate, *said("a", " b")[1:]], said("a", " b"))
        here = Request(pair[0], calls)
        await soon(lambda: here.text == "a")
        there = Request(pair[1], calls)
        await soon(lambda: there.text == "a")
        fill(server)
        gate.set()
        assert [(await request).text for request in (here, there)] == ["a b"] * 2
        assert here.whole and there.whole
        await soon(lambda: not pair[0]._tasks and not pair[1]._tasks)
        assert (await Request(pair[1], calls)).how == "MISS"


async def test_f34_a_primary_that_became_a_replica_is_left_alone(server: Valkey) -> None:
    async with stores(server, 1) as [store]:
        await put(store, ONE, b"x")
        server.execute("REPLICAOF", "127.0.0.1", "1")
        assert await store.enter(TWO) == Lead(b"")
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
