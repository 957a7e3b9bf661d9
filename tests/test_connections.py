"""A provider's connections: fair to who waits, and never lost."""

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chattable.adapters.connections import Connections, Slot
from chattable.adapters.errors import ConnectionLimitReached
from chattable.agents.chattable import Trace


class User:
    """Somebody who holds connections until told otherwise."""

    def __init__(self, connections: Connections, name: str) -> None:
        self.connections, self.name = connections, name

    def ask(self, patience: float = 5.0) -> "Call":
        return Call(Slot(self.connections, self.name, Trace(), patience))


class Call:
    """One call, which ends when it is told to."""

    def __init__(self, slot: Slot) -> None:
        self.slot, self.over, self.served = slot, asyncio.Event(), asyncio.Event()
        self.slot.stop = None
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self.slot:
            self.served.set()
            self.slot.stop = self.over.set
            await self.over.wait()

    async def end(self) -> None:
        self.over.set()
        await self.task


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_who_has_fewest_goes_first() -> None:
    connections = Connections(2)
    greedy, modest = User(connections, "greedy"), User(connections, "modest")
    held = [greedy.ask() for _ in range(4)]
    await turns()
    late = modest.ask()
    await turns()
    assert [call.served.is_set() for call in (*held, late)] == [True, True, False, False, False]
    await held[0].end()
    await turns()
    assert late.served.is_set() and not held[2].served.is_set()
    await late.end()
    await turns()
    assert held[2].served.is_set()
    for call in held[1:]:
        await call.end()
    assert not connections.open and not connections.waiting


async def test_what_nobody_reads_gives_way_to_who_reads() -> None:
    connections = Connections(3)
    absent, present = User(connections, "absent"), User(connections, "present")
    reading = present.ask()
    left = [absent.ask() for _ in range(3)]
    await turns()
    for call in left:
        call.slot.trace.left = True
    others = [present.ask(), absent.ask()]
    await turns(30)
    assert [call.served.is_set() for call in others] == [True, True]
    assert [call.slot.yielding for call in left] == [True, True, False]
    # who still reads comes before who has left
    assert not reading.slot.yielding and not left[2].served.is_set()
    await others[0].end()
    await turns()
    assert left[2].served.is_set()
    for call in (reading, *left, *others):
        await call.end()
    assert not connections.open and not connections.waiting


async def test_who_waits_too_long_is_told() -> None:
    connections = Connections(1)
    holder, other = User(connections, "a").ask(), User(connections, "b").ask(patience=0.01)
    with pytest.raises(ConnectionLimitReached):
        await other.task
    await holder.end()
    assert not connections.open and not connections.waiting


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["ask", "end", "leave", "cancel"])),
        max_size=40,
    )
)
def test_none_is_ever_lost(steps: list[tuple[str, str]]) -> None:
    async def run() -> None:
        connections = Connections(3)
        calls: list[Call] = []
        for name, step in steps:
            mine = [call for call in calls if call.slot.user == name and not call.task.done()]
            if step == "ask":
                calls.append(User(connections, name).ask())
            elif mine and step == "end":
                mine[0].over.set()
            elif mine and step == "leave":
                mine[0].slot.trace.left = True
            elif mine:
                mine[-1].task.cancel()
            await turns(2)
            assert len(connections.open) <= 3
            assert not connections.waiting or len(connections.open) == 3
        for call in calls:
            call.over.set()
        for call in calls:
            with suppress(asyncio.CancelledError):
                await call.task
        assert not connections.open and not connections.waiting

    asyncio.run(run())
