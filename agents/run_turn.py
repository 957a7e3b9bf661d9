"""Runs one turn of a `Chattable`: whatever it answers with becomes one normal stream of chunks."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import aclosing
from typing import Any

import msgspec

from chattable.agents.chat import Chunk, Json, Message
from chattable.agents.chattable import AgentResult, Call, Chattable, Context
from chattable.agents.errors import AgentFailed, ChatError, InvalidRequest
from chattable.agents.fold import INCOMPLETE, StreamNormalizer
from chattable.agents.params import check_own

END: Any = object()
# chunks after which an agent that never waits lets other requests run
YIELD_EVERY_CHUNKS = 64


async def run_turn(model: Chattable, ctx: Context) -> AsyncGenerator[Chunk]:
    """Yields the answer of one turn in normal form (see `StreamNormalizer`), its usage last.

    Whoever runs a leaf adds what it used to the turn that asked.
    """
    check_supported(model, ctx)
    normal = StreamNormalizer()
    if model.leaf:
        answer = model.chat(ctx.message, ctx)
        try:
            async for chunk in answer:
                # kept at once: the answer may be cut off
                if chunk.usage is not None:
                    ctx.progress.usage = chunk.usage
                for out in normal.feed(chunk):
                    yield out
        finally:
            await answer.aclose()
        unsaid = INCOMPLETE
    else:
        steps = 0
        async with aclosing(_answer(model, ctx)) as chunks:
            async for chunk in chunks:
                steps += 1
                if steps % YIELD_EVERY_CHUNKS == 0:
                    await asyncio.sleep(0)
                try:
                    said = normal.feed(chunk)
                except Exception as error:  # a message whose fields have the wrong types
                    raise AgentFailed(ctx.agent) from error
                for out in said:
                    yield out
        normal.usage, unsaid = ctx.usage, "stop"
    for out in normal.end(unsaid):
        yield out


def check_supported(model: Chattable, ctx: Context) -> None:
    """Refuses what the model would silently ignore, and its own parameters of a wrong type."""
    params = ctx.request.params
    if model.accepts:
        check_own(params, model.accepts)
    if (params.get("n") or 1) > 1 and "n" not in model.supports:
        raise InvalidRequest(
            f"`{ctx.agent}` gives one answer: n must be 1.", param="n", code="unsupported_parameter"
        )
    wanted = (params.get("response_format") or {}).get("type", "text")
    if wanted != "text" and "response_format" not in model.supports:
        raise InvalidRequest(
            f"`{ctx.agent}` answers in text only: response_format '{wanted}' is not supported.",
            param="response_format",
            code="unsupported_parameter",
        )


async def _answer(model: Chattable, ctx: Context) -> AsyncGenerator[Chunk]:
    arguments = (ctx.message, ctx) if model.takes_context else (ctx.message,)
    try:
        result: AgentResult = (
            await _in_thread(ctx, model.chat, *arguments)
            if model.blocking
            else model.chat(*arguments)
        )
        async with aclosing(_chunks(result, ctx)) as chunks:
            async for chunk in chunks:
                yield chunk
    except ChatError:
        raise
    except Exception as error:
        raise AgentFailed(ctx.agent) from error
    finally:
        await ctx.close()


async def _chunks(result: AgentResult, ctx: Context) -> AsyncGenerator[Chunk]:
    """The chunks of whatever an agent answered with."""
    if result is None:
        return
    if isinstance(result, str | dict | Message | Chunk):
        yield _chunk(result)
    elif isinstance(result, Call) or hasattr(result, "__aiter__"):
        items = result.__aiter__()
        try:
            async for item in items:
                yield _chunk(item)
        finally:
            if hasattr(items, "aclose"):
                await items.aclose()
    else:
        unwrapped = await _unwrapped(result, ctx)
        async with aclosing(unwrapped) as chunks:
            async for chunk in chunks:
                yield chunk


async def _unwrapped(result: AgentResult, ctx: Context) -> AsyncGenerator[Chunk]:
    """The chunks of an awaitable's result, or of a blocking iterator."""
    if inspect.isawaitable(result):
        return _chunks(await result, ctx)
    if isinstance(result, Iterable):
        return _stepped(iter(result), ctx)
    raise TypeError(
        f"an agent cannot answer with {type(result).__name__}: "
        "give text, a Message, or an iterator of these"
    )


async def _stepped(items: Iterator[Any], ctx: Context) -> AsyncGenerator[Chunk]:
    """A blocking iterator, each step in a thread."""
    step = ctx.threads.submit(next, items, END)
    try:
        while (item := await asyncio.wrap_future(step)) is not END:
            yield _chunk(item)
            step = ctx.threads.submit(next, items, END)
    finally:
        # not awaited: a turn whose time is up does not wait for a step that hangs
        ctx.threads.submit(_close, items, step)


def _close(items: Iterator[Any], step: Future[Any]) -> None:
    """Closes a generator once its last step is over, for it cannot be closed while it runs."""
    wait([step])
    if hasattr(items, "close"):
        items.close()


async def _in_thread(ctx: Context, function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(ctx.threads, function, *arguments)


def _chunk(item: str | Json | Message | Chunk) -> Chunk:
    if isinstance(item, Chunk):
        return item
    if isinstance(item, str):
        return Chunk(0, {"content": _clean(item)})
    if isinstance(item, Message):
        delta = msgspec.to_builtins(item) | item.extra
        delta.pop("extra", None)
        delta.pop("name", None)
    elif isinstance(item, dict):
        delta = dict(item)
    else:
        raise TypeError(
            f"an agent cannot yield {type(item).__name__}: give text, a Message, a dict or a Chunk"
        )
    for key in ("content", "reasoning_content", "refusal"):
        if isinstance(delta.get(key), str):
            delta[key] = _clean(delta[key])
    return Chunk(0, delta)


def _clean(text: str) -> str:
    """The text without lone surrogates, which no client could be sent."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
