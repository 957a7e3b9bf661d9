"""Rate limits on a real Valkey: shared by processes, in one round trip.

Calls pass through its faults (30 to 34 of the list)."""

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import psutil
import pytest
from process import free_port
from rated import Clock, bound, burst, enter, refused
from valkeys import Valkey, own_namespace, valkey_server

from chattable.budget.rates import Rates
from chattable.budget.rates_redis import RedisRates
from chattable.budget.storage.redis import TIMEOUT

SLACK = 0.4  # seconds that a busy machine may add
FULL = bound(requests=10, tokens=1000, parallel=10)


@pytest.fixture
def server() -> Iterator[Valkey]:
    with valkey_server() as own:
        yield own


@asynccontextmanager
async def opened(
    url: str, clock: Clock | None = None, namespace: str = ""
) -> AsyncIterator[RedisRates]:
    rates = RedisRates(url, namespace=namespace or own_namespace(), clock=clock)
    await rates.start()
    try:
        yield rates
    finally:
        await rates.stop()


@pytest.fixture
async def rates(server: Valkey) -> AsyncIterator[RedisRates]:
    """Rates on a server of their own, at a time that stands still; they leave nothing behind."""
    tasks, files = len(asyncio.all_tasks()), psutil.Process().num_fds()
    async with opened(server.url, Clock()) as own:
        yield own
    assert len(asyncio.all_tasks()) == tasks
    # Fewer is no leak: what earlier tests left to the garbage collector may close meanwhile.
    assert psutil.Process().num_fds() <= files


async def back(rates: RedisRates) -> None:
    """Waits until rates are counted again."""
    async with asyncio.timeout(10):
        while rates.away:
            await asyncio.sleep(0.02)


async def passes_soon(rates: Rates) -> None:
    """A call that is let in uncounted, without waiting for long."""
    failures, began = rates.failures, time.monotonic()
    permit = await enter(rates, bound(requests=1))
    assert time.monotonic() - began < TIMEOUT + SLACK
    assert rates.failures == failures + 1
    assert permit.requests is None


async def test_doors_share_what_they_count(shared_redis: str) -> None:
    name, clock = own_namespace(), Clock()
    async with AsyncExitStack() as stack:
        doors = [
            await stack.enter_async_context(opened(shared_redis, clock, name)) for _ in range(4)
        ]
        assert len(await burst(doors, 200, bound(requests=20), bound("team:x", parallel=30))) == 20
        assert [door.failures for door in doors] == [0] * 4


PROCESS = """
import asyncio, sys
from chattable.budget.storage import redis
from chattable.budget.rates import RateLimit, Allowance, RateLimitedError
from chattable.budget.rates_redis import RedisRates

redis.TIMEOUT = 10.0  # four processes may be too many for a machine

async def main(url, namespace, number):
    rates = RedisRates(url, namespace=namespace, clock=lambda: 1000.0)
    await rates.start()
    print("ready", flush=True)
    sys.stdin.readline()
    limits = [
        RateLimit("user:a", Allowance(requests_per_minute=100, tokens_per_minute=10_000)),
        RateLimit("team:b", Allowance(parallel=90)),
    ]
    calls = [rates.enter(limits, f"call_{number}_{i}", 100) for i in range(100)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    print([sum(not isinstance(outcome, RateLimitedError) for outcome in outcomes), rates.failures])

asyncio.run(main(*sys.argv[1:]))
"""


async def test_processes_share_what_they_count(shared_redis: str) -> None:
    name, pipe = own_namespace(), asyncio.subprocess.PIPE
    command = [sys.executable, "-c", PROCESS, shared_redis, name]
    workers = [
        await asyncio.create_subprocess_exec(*command, str(i), stdin=pipe, stdout=pipe)
        for i in range(4)
    ]
    for worker in workers:
        assert worker.stdout and await worker.stdout.readline() == b"ready\n"
    said = await asyncio.gather(*[worker.communicate(b"\n") for worker in workers])
    results = [json.loads(out) for out, _ in said]
    assert sum(let_in for let_in, _ in results) == 90
    assert [failures for _, failures in results] == [0] * 4


async def test_the_servers_clock_counts(shared_redis: str) -> None:
    async with opened(shared_redis) as rates:
        await enter(rates, bound(tokens=600), tokens=600)
        error = await refused(rates, bound(tokens=600), tokens=2)
        assert 0 < error.retry_after <= 0.2
        due = time.monotonic() + error.retry_after
        while time.monotonic() < due:
            await asyncio.sleep(0.005)
        await enter(rates, bound(tokens=600), tokens=2)
        assert rates.failures == 0


async def test_a_clock_that_is_set_back_locks_nobody_out(shared_redis: str) -> None:
    clock = Clock(100_000.0)
    async with opened(shared_redis, clock) as rates:
        await enter(rates, bound(requests=1))
        clock.now = 5_000.0
        assert (await refused(rates, bound(requests=1))).retry_after == 60
        clock.now += 60
        await enter(rates, bound(requests=1))


async def test_a_step_is_one_round_trip(server: Valkey, rates: RedisRates) -> None:
    server.execute("CONFIG", "RESETSTAT")
    permit = await enter(rates, FULL, bound("team:b", requests=5), bound("model:m", tokens=50))
    await rates.renew([permit])
    await rates.leave(permit, 7)
    seen = server.commands()
    scripts_own = {
        "get",
        "set",
        "time",
        "zcount",
        "zremrangebyscore",
        "zadd",
        "zscore",
        "zrem",
        "pexpire",
    }
    assert seen.pop("evalsha") == 3
    # and this test's
    assert set(seen) <= scripts_own | {"config|resetstat", "info", "client|setinfo"}


async def test_a_burst_shares_round_trips(server: Valkey, rates: RedisRates) -> None:
    before = server.execute("INFO", "stats")["total_reads_processed"]
    await burst([rates], 500, FULL)
    assert server.execute("INFO", "stats")["total_reads_processed"] - before < 50
    assert server.commands()["evalsha"] == 500


async def test_names_are_hashed_and_every_key_expires(server: Valkey, rates: RedisRates) -> None:
    permit = await enter(
        rates, bound("user:s3cret \udcff\r\nname", requests=2, tokens=10, parallel=1)
    )
    await rates.leave(permit, 100)
    await enter(rates, bound("team:x", parallel=1))
    keys = server.execute("KEYS", "*")
    assert len(keys) == 3  # of the one who left, the counter only
    assert not [key for key in keys if b"s3cret" in key or b"team" in key]
    assert all(0 < server.execute("PTTL", key) <= 660_000 for key in keys)


async def test_a_caller_that_gives_up_holds_no_slot(server: Valkey, rates: RedisRates) -> None:
    task = asyncio.create_task(enter(rates, bound(parallel=1)))
    await asyncio.sleep(0)  # it has asked
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await enter(rates, bound(parallel=1))  # on the same line, after the other's end
    assert rates.failures == 0


async def test_a_busy_loop_is_no_slow_server(server: Valkey, rates: RedisRates) -> None:
    server.pause(0.05)  # the answer comes while the loop is busy
    task = asyncio.create_task(enter(rates, bound(requests=1)))
    for _ in range(20):
        await asyncio.sleep(0)
    time.sleep(0.3)
    assert (await task).requests is not None
    assert (rates.failures, rates.away) == (0, False)


async def test_f30_killed_and_restarted(server: Valkey, rates: RedisRates) -> None:
    for _ in range(3):
        inside = await burst([rates], 30, FULL)
        assert len(inside) == 10
        server.kill()
        await passes_soon(rates)
        assert rates.away
        await asyncio.gather(*[rates.leave(permit, 1) for permit in inside])
        server.start()
        await back(rates)
    await refused_again(rates)


async def test_f30_away_from_the_start() -> None:
    port = free_port()
    async with opened(f"redis://127.0.0.1:{port}") as rates:
        assert rates.away
        await passes_soon(rates)


async def test_f31_frozen_for_two_seconds(server: Valkey, rates: RedisRates) -> None:
    held = await enter(rates, FULL)
    server.pause(2)
    began = time.monotonic()
    assert len(await burst([rates], 300, FULL)) == 300
    # all of them waited for one and the same timeout
    assert time.monotonic() - began < TIMEOUT + SLACK
    assert rates.failures == 300
    began = time.monotonic()
    for _ in range(50):
        await enter(rates, FULL)
    await rates.leave(held, 1000)
    assert time.monotonic() - began < 0.1  # nobody waits any more
    await back(rates)
    assert server.execute("INFO", "clients")["connected_clients"] <= 2  # the line and this question


async def test_f31_calls_that_ended_meanwhile_hold_no_slot(
    server: Valkey, rates: RedisRates
) -> None:
    inside = await burst([rates], 10, FULL, tokens=100)
    server.pause(1.5)
    await passes_soon(rates)
    for permit in inside:
        await rates.leave(permit, 10)
    await back(rates)
    wide = bound(tokens=1000, parallel=10)
    assert len(await burst([rates], 30, wide, tokens=90)) == 10
    assert rates.failures == 1


async def test_f32_out_of_memory(server: Valkey, rates: RedisRates) -> None:
    server.execute("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1")
    for _ in range(3):
        await passes_soon(rates)
    server.execute("CONFIG", "SET", "maxmemory", "0")
    await refused_again(rates)


async def test_f33_a_foreign_value_under_our_key(server: Valkey, rates: RedisRates) -> None:
    await enter(rates, bound(requests=1))
    key = next(key for key in server.execute("KEYS", "*") if key.endswith(b":counter"))
    server.execute("SET", key, "not a counter")
    await enter(rates, bound(requests=1))  # as if there were none
    server.execute("DEL", key)
    server.execute("LPUSH", key, "not even a text")
    await passes_soon(rates)


INTEGERS = [
    b"*0\r\n",
    b"*1\r\n:1\r\n",
    b"*4\r\n" + b":0\r\n" * 4,
    b"*4\r\n:1\r\n" + b"+a\r\n" * 3,
]  # too few, no reason, no integers
OTHERS = [
    b"",
    b"+OK\r\n",
    b":1\r\n",
    b"$5\r\nhello\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\xff\0\r\n",
]
ERRORS = [
    b"ERR what",
    b"NOSCRIPT never",
    b"BUSY a script",
    b"LOADING the dataset",
    b"READONLY replica",
    b"MASTERDOWN link",
    b"NOAUTH",
]


@pytest.mark.parametrize(
    "garbage", [*INTEGERS, *OTHERS, *[b"-%s\r\n" % error for error in ERRORS]], ids=repr
)
async def test_f33_and_f34_answers_that_make_no_sense(garbage: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (asked := await reader.read(65536)) and garbage:
            writer.write(garbage * len(re.findall(rb"(?:^|\r\n)\*\d+\r\n", asked)))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as liar:
        port = liar.sockets[0].getsockname()[1]
        async with opened(f"redis://127.0.0.1:{port}") as rates:
            for _ in range(3):
                await passes_soon(rates)


async def test_f34_no_longer_the_primary(server: Valkey, rates: RedisRates) -> None:
    server.execute("REPLICAOF", "127.0.0.1", free_port())
    await passes_soon(rates)
    assert rates.away  # another connection may find the new one
    await passes_soon(rates)
    server.execute("REPLICAOF", "NO", "ONE")
    await back(rates)
    await refused_again(rates)


async def test_f34_scripts_forgotten(server: Valkey, rates: RedisRates) -> None:
    inside = await burst([rates], 5, FULL)
    for _ in range(3):
        server.execute("SCRIPT", "FLUSH")
        inside += await burst([rates], 1, FULL)
    server.execute("SCRIPT", "FLUSH")
    await asyncio.gather(*[rates.leave(permit, 1) for permit in inside])
    assert len(await burst([rates], 30, FULL)) == 2
    assert (rates.failures, rates.away) == (0, False)


async def refused_again(rates: RedisRates) -> None:
    """Nothing is left of the fault: limits hold, and nothing more is let in uncounted."""
    failures = rates.failures
    assert len(await burst([rates], 50, bound("user:after", requests=5))) == 5
    assert rates.failures == failures
