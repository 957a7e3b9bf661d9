"""Clients of the server, with a connection for each request so that every worker gets some."""

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp

Body = dict[str, Any]


@dataclass
class Told:
    """What one client was told; `acked` is the usage of an answer that came whole."""

    asked: Body
    status: int = 0  # 0: the connection broke before there was one
    acked: int | None = None
    code: str = ""
    text: str = ""
    seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes = b""

    @property
    def call(self) -> str:
        """The name under which the upstream knows this call."""
        return str(self.asked["model"]).removeprefix("p/")

    @property
    def too_slow(self) -> bool:
        """Whether a slow database refused it, which is charged nothing."""
        return (self.status, self.code) == (503, "database_unavailable")


def body(model: str, text: str = "one two three", **fields: Any) -> Body:
    """A chat request; a stream asks for its usage unless the test says something else."""
    if fields.get("stream"):
        fields = {"stream_options": {"include_usage": True}} | fields
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 20,
        **fields,
    }


def mixed(dice: random.Random, model: str) -> Body:
    """Some request: a stream or not, long or short, with a cap or another one."""
    words = " ".join(
        dice.choice(("one", "two", "three", "four")) for _ in range(dice.randint(1, 12))
    )
    return body(model, words, stream=dice.random() < 0.5, max_tokens=dice.choice((3, 8, 20)))


class Client:
    """One user's key at one server."""

    def __init__(self, base_url: str, key: str) -> None:
        self.url, self.headers = (
            f"{base_url}/v1/chat/completions",
            {"authorization": f"Bearer {key}"},
        )

    def ask(self, asked: Body) -> Told:
        """One request."""
        return self.ask_all([asked])[0]

    def ask_all(self, asked: Sequence[Body], parallel: int = 1000) -> list[Told]:
        """Many requests, `parallel` of them at a time."""
        return asyncio.run(all_of([(self, one) for one in asked], parallel))

    def begin(self, asked: Sequence[Body]) -> "Future[list[Told]]":
        """Many requests at once, in the background."""
        return in_background(lambda: self.ask_all(asked))

    def insist(self, asked: Sequence[Body]) -> "Future[list[Told]]":
        """The same; what a slow database refuses is asked again, as nothing of it is booked."""

        async def one(session: aiohttp.ClientSession, what: Body) -> Told:
            while (told := await self.told(session, what)).too_slow:
                await asyncio.sleep(0.1)
            return told

        async def all_of_them() -> list[Told]:
            async with connections() as session:
                return await asyncio.gather(*(one(session, what) for what in asked))

        return in_background(lambda: asyncio.run(all_of_them()))

    async def told(
        self,
        session: aiohttp.ClientSession,
        asked: Body,
        leave: Callable[[bytes], bool] = lambda _: False,
    ) -> Told:
        """One request; the client hangs up once `leave` says so of what it has read."""
        told, began = Told(asked), time.monotonic()
        try:
            async with session.post(self.url, json=asked, headers=self.headers) as response:
                told.status, told.headers = (
                    response.status,
                    {k.lower(): v for k, v in response.headers.items()},
                )
                async for block in response.content.iter_any():
                    told.raw += block
                    if leave(told.raw):
                        response.close()
                        return told
        except (aiohttp.ClientError, ConnectionError):
            return told
        finally:
            told.seconds = time.monotonic() - began
        _read(told)
        return told


async def all_of(asked: Sequence[tuple[Client, Body]], parallel: int = 1000) -> list[Told]:
    """The answers, in the order of the questions."""
    gate = asyncio.Semaphore(parallel)

    async def one(session: aiohttp.ClientSession, client: Client, what: Body) -> Told:
        async with gate:
            return await client.told(session, what)

    async with connections() as session:
        return await asyncio.gather(*(one(session, client, what) for client, what in asked))


def connections() -> aiohttp.ClientSession:
    """A session that never uses a connection twice."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=60),
        trust_env=False,
    )


def in_background(run: Callable[[], Any]) -> "Future[Any]":
    """What a function returns, from a thread of its own."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(run())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


class Traffic:
    """Clients that ask one thing after the other until they are stopped, by calls' own names."""

    def __init__(self, client: Client, name: str, dice: random.Random, parallel: int = 6) -> None:
        self._client, self._name, self._dice, self._parallel = client, name, dice, parallel
        self._stop = False
        self.told: list[Told] = []

    @property
    def acks(self) -> int:
        """How many answers came whole."""
        return sum(1 for told in self.told if told.acked is not None)

    def __enter__(self) -> Self:
        self._running = in_background(lambda: asyncio.run(self._run()))
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._running.result(60)

    async def _run(self) -> None:
        async with connections() as session:
            await asyncio.gather(*(self._one(session) for _ in range(self._parallel)))

    async def _one(self, session: aiohttp.ClientSession) -> None:
        while not self._stop:
            asked = mixed(self._dice, f"p/{self._name}-{self._dice.getrandbits(40):010x}")
            told = await self._client.told(session, asked)
            self.told.append(told)
            if told.acked is None:
                await asyncio.sleep(0.02)  # a real client waits a moment, too


def _read(told: Told) -> None:
    """Takes the usage out of an answer that is whole, or the code out of an error."""
    if told.headers.get("content-type", "").startswith("text/event-stream"):
        events = [
            event[6:] for event in told.raw.decode().split("\n\n") if event.startswith("data: ")
        ]
        chunks = [json.loads(event) for event in events if event != "[DONE]"]
        told.text = "".join(
            c["delta"].get("content") or "" for chunk in chunks for c in chunk.get("choices", ())
        )
        usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
        told.code = next((str(chunk["error"]["code"]) for chunk in chunks if "error" in chunk), "")
        if events and events[-1] == "[DONE]" and usages:
            told.acked = usages[-1]["total_tokens"]
        return
    answer = json.loads(told.raw)
    if told.status == 200:
        told.acked = answer["usage"]["total_tokens"]
        told.text = answer["choices"][0]["message"].get("content") or ""
    else:
        told.code = answer["error"]["code"] or ""
