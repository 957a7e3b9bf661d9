"""Words for tests of the cache: calls that are scripted and counted, and requests that share them."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from chattable.agents.chat import Chat, Chunk, Message, Usage
from chattable.agents.chattable import Trace, TurnUser
from chattable.agents.echo import Echo
from chattable.proxy.cache.cache import Lookup, ResponseCache
from chattable.proxy.cache.controls import PLAIN, Controls
from chattable.proxy.catalog.catalog import Entry
from chattable.proxy.identity.auth import Caller, Principal

USAGE = Usage(3, 4, 7)


class Leaf(Echo):
    """A model, as far as the cache is concerned."""

    leaf = True


ENTRY = Entry("m", Leaf(), "stub", 1, source=("stub", "openai", "", "m"), cache_ttl=60.0)
AGENT = Entry("a", Echo(), "chattable", 1, source=("agent", "a", "1"), cache_ttl=60.0)


def said(*words: str, finish: str = "stop") -> list[Chunk]:
    """An answer in normal form, a chunk for every word."""
    first = Chunk(0, {"role": "assistant", "content": words[0]})
    return [
        first,
        *(Chunk(0, {"content": word}) for word in words[1:]),
        Chunk(0, {}, finish),
        Chunk(usage=USAGE),
    ]


class Calls:
    """An upstream's calls: each plays the next script, the last one again and again; events are waited for, errors raised."""

    def __init__(self, *scripts: Sequence[Chunk | asyncio.Event | Exception]) -> None:
        self.scripts = list(scripts)
        self.begun = self.ended = self.cut = 0

    async def __call__(self) -> AsyncGenerator[Chunk]:
        self.begun += 1
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        try:
            for step in script:
                await asyncio.sleep(0)
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Exception):
                    try:
                        raise step
                    finally:
                        del step, script  # its traceback holds this frame
                else:
                    yield step
            self.ended += 1
        except (asyncio.CancelledError, GeneratorExit):
            self.cut += 1
            raise


class Request:
    """One request on its way through the cache."""

    def __init__(
        self,
        cache: ResponseCache,
        ask: Callable[[], AsyncGenerator[Chunk]],
        text: str = "hi",
        *,
        user: str = "alice",
        team: str | None = None,
        stream: bool = True,
        controls: Controls = PLAIN,
        entry: Entry = ENTRY,
        reading: asyncio.Event | None = None,
    ) -> None:
        principal = Principal(TurnUser(f"user_{user}", user), team=team)
        caller = Caller(principal, "req_1", 0.0)
        chat = Chat(entry.name, [Message("user", text)], stream, {})
        self.trace = Trace()
        self.lookup: Lookup = cache.lookup(chat, entry, caller, controls, ask, self.trace)
        self.chunks: list[Chunk] = []
        self.reading = reading  # before that it joins, and reads nothing
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> "Request":
        async with self.lookup:
            if self.reading is not None:
                await self.reading.wait()
            async with aclosing(self.lookup.answer()) as chunks:
                async for chunk in chunks:
                    self.chunks.append(chunk)
        return self

    def __await__(self):  # type: ignore[no-untyped-def]
        return self.task.__await__()

    @property
    def how(self) -> str:
        return self.lookup.headers["x-cache"]

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def whole(self) -> bool:
        """Whether it has exactly one role, one end and one usage, in their places."""
        roles = [chunk for chunk in self.chunks if "role" in chunk.delta]
        ends = [chunk for chunk in self.chunks if chunk.finish_reason]
        return (
            len(roles) == len(ends) == 1
            and self.chunks[0] is roles[0]
            and self.chunks[-1].usage == USAGE
        )


async def soon(condition: Callable[..., object], seconds: float = 5) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)
