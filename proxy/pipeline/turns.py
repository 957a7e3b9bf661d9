"""Turns of HTTP requests: what follows an answer happens, whoever still listens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

from chattable.agents.chat import Chat
from chattable.agents.errors import TurnTimeout
from chattable.agents.fold import Accumulator
from chattable.proxy.errors import ShuttingDownError, known
from chattable.proxy.identity.auth import Caller, Principal
from chattable.proxy.pipeline.pipeline import Pipeline
from chattable.proxy.reply_stream import ReplyStream

log = logging.getLogger("chattable")

CANCEL_WAIT_S = 5  # seconds that turns may take to end once they were told to


class Turns:
    """The turns under way in this process."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.stopping = False
        self._pipeline = pipeline
        self._running: dict[asyncio.Task[Any], ReplyStream] = {}

    def reply(self, caller: Caller) -> ReplyStream:
        """A reply to come; once the server is stopping, only within turns that are under way."""
        if self.stopping and caller.parent is None:
            raise ShuttingDownError
        reply = ReplyStream()
        reply.principal = caller.principal
        return reply

    def start(self, chat: Chat, caller: Caller, reply: ReplyStream) -> None:
        """Begins a turn in a task of its own, of which the reply can be read step by step."""
        reply.task = asyncio.create_task(self._run(chat, caller, reply))
        self._running[reply.task] = reply
        reply.task.add_done_callback(self._ended)

    async def whole(self, chat: Chat, caller: Caller, reply: ReplyStream) -> Accumulator:
        """A turn's whole answer, or its error: it runs in the task of the request itself."""
        fold = Accumulator()
        task = reply.task = asyncio.current_task()
        assert task is not None
        self._running[task] = reply
        try:
            await self._run(chat, caller, reply, fold)
        except asyncio.CancelledError:
            while task.cancelling():  # the request itself goes on: its answer says why
                task.uncancel()
        finally:
            reply.task = None
            self._ended(task)
        reply.check()
        return fold

    async def _run(
        self, chat: Chat, caller: Caller, reply: ReplyStream, fold: Accumulator | None = None
    ) -> None:
        """Moves the answer from the pipeline to the reply, or into `fold`."""
        pipeline = self._pipeline
        try:
            entry = pipeline.find(chat.model, caller, caller.parent)
            limit = nullcontext() if entry.model.leaf else asyncio.timeout(entry.limits.seconds)
            steps = pipeline.once if caller.idempotency_key else pipeline.in_session
            async with limit:
                chunks = steps(chat, entry, caller, reply)
                try:
                    async for chunk in chunks:
                        if fold is None:
                            await reply.put(chunk)
                        else:
                            fold.add(chunk)
                finally:
                    await chunks.aclose()
            reply.end()
        except TimeoutError:
            seconds = f"{entry.limits.seconds:g} seconds"
            reply.end(TurnTimeout(f"The agent `{chat.model}` did not answer within {seconds}."))
        except Exception as error:
            if not known(error) or error.__cause__ is not None:
                log.exception("request %s failed", caller.request_id)
            reply.end(error)
        finally:
            if pipeline.gateway.run_keys:
                pipeline.gateway.forget(reply.trace)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        reply = self._running.pop(task)
        if not reply.ended:  # it was cancelled
            reply.end(ShuttingDownError())

    def principals(self) -> Iterator[Principal]:
        """Who has turns under way."""
        return (reply.principal for reply in self._running.values() if reply.principal)

    def drop(
        self, whose: Callable[[Principal], bool], error: BaseException
    ) -> list[asyncio.Task[Any]]:
        """Ends turns of which nothing is to be kept, and returns those that are yet to end."""
        dropped = []
        for task, reply in self._running.items():
            if reply.principal and whose(reply.principal):
                reply.drop(error)
                dropped.append(task)
        return dropped

    async def stop(self, grace: float) -> None:
        """Lets running turns end, for `grace` seconds; then ends them with an error."""
        self.stopping = True
        if self._running:
            await asyncio.wait(self._running, timeout=grace)
        for task in list(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=CANCEL_WAIT_S)
