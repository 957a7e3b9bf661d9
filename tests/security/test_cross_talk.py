"""Shared connections: whoever gives up or comes late, nobody reads another's answer (attack 23)."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from valkeys import Valkey, valkey_server

from chattable.budget.storage import redis as lines
from chattable.budget.storage.redis import Job, RedisScripts

ECHO = "return {ARGV[1]}"


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with valkey_server() as own:
        yield own


async def test_23_no_answer_of_redis_goes_to_another_who_asked(
    valkey: Valkey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        lines,
        "PAUSE",
        0.02,
    )  # seconds until it looks again for a server that was away
    dice, name = random.Random(23), valkey.execute("SCRIPT", "LOAD", ECHO).decode()
    line = RedisScripts(valkey.url)
    await line.start([ECHO])
    heard = {"own": 0, "none": 0, "given up": 0}

    async def one(number: int) -> None:
        word = f"canary {number}"
        asked: Any = line.ask(
            Job(name, ECHO, (0, word), sensible=lambda reply: isinstance(reply, list)),
        )
        if dice.random() < 0.3:
            asked = asyncio.wait_for(asked, dice.choice([0, 0.0001, 0.001]))
        with suppress(TimeoutError):
            answer = await asked
            assert answer in (None, [word.encode()])
            heard["own" if answer else "none"] += 1
            return
        heard["given up"] += 1

    try:
        for i in range(60):
            if i % 20 == 10:
                valkey.pause(2 * lines.TIMEOUT)  # answers come after nobody waits for them any more
            await asyncio.gather(*[one(100 * i + n) for n in range(50)])
            async with asyncio.timeout(10):
                while line.away:
                    await asyncio.sleep(0.01)
    finally:
        await line.stop()
    assert heard["own"] > 1000 and heard["none"] > 0 and heard["given up"] > 100, heard
