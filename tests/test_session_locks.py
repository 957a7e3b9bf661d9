"""Who waits for a turn that nobody reads, and who ends it, by a clock that the test sets."""

import asyncio

import pytest
from session_model import MemorySessions

from chattable.agents.chat import Chat, Message
from chattable.proxy.errors import LockedError
from chattable.proxy.reply_stream import ReplyStream
from chattable.proxy.sessions.locks import Claim, Held, Locks, new_holder
from chattable.proxy.store.sessions.port import SessionRecord

WAIT = 20.0


class World:
    """Two processes on one store, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.store = MemorySessions(lambda: self.now, lambda: self.now)
        self.one, self.two = (Locks(self.store, WAIT, lambda: self.now, poll=0) for _ in range(2))

    async def session(self) -> SessionRecord:
        return await self.store.open("user_a", "s")


class Asked:
    """A turn that holds the session until it is told to end."""

    def __init__(self, locks: Locks, session: SessionRecord, text: str) -> None:
        self.reply, self.end, self.held = ReplyStream(), asyncio.Event(), asyncio.Event()
        self.stopped = False
        self._claim = Claim(new_holder(), Chat("m", [Message("user", text)]), self.reply)
        self.reply.task = self.task = asyncio.create_task(self._run(locks, session))
        self.got: Held | None = None

    async def _run(self, locks: Locks, session: SessionRecord) -> None:
        async with locks.hold(session, self._claim) as self.got:
            self.held.set()
            try:
                await self.end.wait()
            except asyncio.CancelledError:
                self.stopped = True


@pytest.fixture
def world() -> World:
    return World()


async def moments() -> None:
    """Lets all others go on until they wait for something that does not come by itself."""
    for _ in range(100):
        await asyncio.sleep(0)


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_who_asks_the_same_waits_for_as_long_as_it_takes(
    world: World,
    elsewhere: bool,
) -> None:
    session = await world.session()
    first = Asked(world.one, session, "one")
    await first.held.wait()
    first.reply.leave()
    await moments()
    again = Asked(world.two if elsewhere else world.one, session, "one")
    for _ in range(5):
        world.now += 10  # less than the lease, and in the end more than a turn waits for another
        assert first.got is not None
        await world.one._renew(first.got.claim.holder, first.got)
        await moments()
    assert not first.task.done() and not again.task.done()
    first.end.set()
    await again.held.wait()
    assert again.got is not None and again.got.repeated
    assert not first.stopped
    again.end.set()
    await again.task


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_who_asks_anything_else_ends_it(world: World, elsewhere: bool) -> None:
    session = await world.session()
    first = Asked(world.one, session, "one")
    await first.held.wait()
    other = Asked(world.two if elsewhere else world.one, session, "two")
    await moments()
    assert not first.task.done()  # somebody reads it
    first.reply.leave()
    await asyncio.wait_for(other.held.wait(), 5)
    assert first.stopped
    assert other.got is not None and not other.got.repeated
    other.end.set()
    await other.task
    assert await world.store.holder(session) == ""


async def test_a_turn_that_is_read_is_not_waited_for_for_ever(world: World) -> None:
    session = await world.session()
    first = Asked(world.one, session, "one")
    await first.held.wait()
    again = Asked(world.one, session, "one")
    await moments()
    world.now += WAIT + 1
    with pytest.raises(LockedError):
        await again.task
    first.end.set()
    await first.task
    async with world.one.hold(session, Claim("by hand")) as held:  # the queue is free
        assert held.session.id == session.id


async def test_who_gives_up_waiting_leaves_the_queue_to_the_next(world: World) -> None:
    session = await world.session()
    first = Asked(world.one, session, "one")
    await first.held.wait()
    second, third = (Asked(world.one, session, text) for text in ("two", "three"))
    await moments()
    second.task.cancel()
    first.end.set()
    await asyncio.wait_for(third.held.wait(), 5)
    third.end.set()
    await third.task


async def test_a_turn_ends_when_its_session_is_deleted(world: World) -> None:
    """On whichever process: each finds out when it renews the lock."""
    session = await world.session()
    turn = Asked(world.one, session, "one")
    await turn.held.wait()
    assert turn.got is not None
    await world.store.delete(session)
    await world.one._renew(turn.got.claim.holder, turn.got)
    await turn.task
    assert turn.stopped and turn.reply.dropped
