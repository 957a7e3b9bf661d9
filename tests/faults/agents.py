"""Agents that behave badly."""

import time


class Hot:
    """Never waits for anything, and never ends."""

    def __init__(self, says: str = "x "):
        self.says = says

    async def chat(self, message):
        while True:
            yield self.says


class Blocking:
    """A plain generator that says one word and then sits in a thread."""

    closed = 0

    def __init__(self, seconds: float):
        self.seconds = seconds

    def chat(self, message):
        try:
            yield "wait "
            time.sleep(self.seconds)
            yield "done"
        finally:
            Blocking.closed += 1


async def careless(message, ctx):
    """Leaves the answer that it asked for half read."""
    async for chunk in ctx.chat("m"):
        if chunk.text:
            yield chunk.text
            break


async def failing(message):
    """Says nothing."""
    raise RuntimeError("failing " + "at length " * 1000)
