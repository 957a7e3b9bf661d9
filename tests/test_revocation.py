"""When turns of a key that may ask no more end: each look is the test's own, no time passes."""

import asyncio
from collections.abc import Callable, Collection
from typing import Any

import pytest

from chattable.agents.chattable import TurnUser
from chattable.budget.storage.errors import StorageUnavailable
from chattable.proxy.identity.auth import ADMIN, Principal
from chattable.proxy.pipeline.revocation import TICK, Revocation
from chattable.proxy.reply_stream import ReplyStream

ADA = Principal(TurnUser("user_a", "ada"), "key_a")
EVA = Principal(TurnUser("user_e", "eva"), "key_ui", acting=True)


class World:
    """Turns under way, and who is active."""

    def __init__(self) -> None:
        self.active_ids = {"user_a", "key_a", "user_e", "key_ui"}
        self.asked: list[set[str]] = []
        self.away = False
        self.turns: list[tuple[Principal, ReplyStream]] = []
        any_self: Any = self
        self.revocation = Revocation(any_self, any_self)

    async def active(self, ids: Collection[str]) -> set[str]:
        self.asked.append(set(ids))
        if self.away:
            raise StorageUnavailable("gone")
        return self.active_ids & set(ids)

    def principals(self) -> list[Principal]:
        return [who for who, _ in self.turns]

    def drop(self, whose: Callable[[Principal], bool], error: BaseException) -> None:
        for who, reply in self.turns:
            if whose(who):
                reply.drop(error)

    def turn(self, who: Principal) -> ReplyStream:
        reply = ReplyStream()
        self.turns.append((who, reply))
        return reply


@pytest.mark.parametrize(
    ("who", "gone"), [(ADA, "key_a"), (ADA, "user_a"), (EVA, "key_ui"), (EVA, "user_e")]
)
async def test_the_second_look_ends_turns_of_who_may_ask_no_more(who: Principal, gone: str) -> None:
    world = World()
    reply, other = world.turn(who), world.turn(EVA if who is ADA else ADA)
    world.active_ids.remove(gone)
    await world.revocation.look()
    assert not reply.dropped
    assert world.asked == []
    await world.revocation.look()
    assert reply.dropped and not other.dropped
    assert world.asked == [{"user_a", "key_a", "user_e", "key_ui"}]
    assert 2 * TICK <= 1.0  # what is promised


async def test_short_turns_and_those_of_no_key_are_not_looked_up() -> None:
    world = World()
    world.turn(ADMIN)
    for _ in range(3):
        world.turn(ADA)
        await world.revocation.look()
        world.turns.pop()
        await world.revocation.look()
    assert world.asked == []


async def test_a_database_that_is_away_ends_nothing_and_is_asked_again() -> None:
    world = World()
    reply = world.turn(ADA)
    world.away = True
    await world.revocation.look()
    with pytest.raises(StorageUnavailable):
        await world.revocation.look()
    assert not reply.dropped
    world.away = False
    world.active_ids.clear()
    await world.revocation.look()
    assert reply.dropped


async def test_a_whole_answer_that_is_being_kept_is_not_ended_any_more() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    reply = ReplyStream()
    reply.task = asyncio.create_task(forever())
    reply.seal()
    reply.drop(RuntimeError("too late"))
    reply.leave(cancel=True)
    assert not reply.dropped
    assert not reply.task.cancelling()
    reply.task.cancel()
