"""What a load alone does not show: how long a start takes, how much memory is held."""

import tempfile
from collections.abc import Callable
from statistics import median
from typing import Any

import uvloop
from load import hold, measure
from measuring import load_of
from process import chattable
from rows import STREAM, Row, chat
from setups import CONFIG, HERE, SERVER_CORE, SETUPS, START, Program, Running, on_core

# From the stub's port, --quick and a program to named figures.
Probe = Callable[[int, bool, Program], dict[str, float]]


def start(stub_port: int, quick: bool, program: Program = HERE) -> dict[str, float]:
    """Measures from spawn to the first 200 on /health, and the resident memory then.

    The first start of a directory also migrates its database: what counts is the second.
    """
    first, *later = starts(stub_port, 1 if quick else 3, program)
    return {
        "start to ready, median [s]": median(seconds for seconds, _ in later),
        "memory idle [MB]": median(size for _, size in later) / 1e6,
        "memory idle after a first start [MB]": first[1] / 1e6,
    }


def starts(stub_port: int, count: int, program: Program) -> list[tuple[float, int]]:
    """Returns the seconds and the bytes of a first start and of so many later ones."""
    seen, text = [], CONFIG.replace("STUB", str(stub_port))
    with tempfile.TemporaryDirectory(prefix="bench-start-") as home:
        where: dict[str, Any] = {
            "prefix": on_core(SERVER_CORE),
            "program": program,
            "timeout": START,
        }
        for _ in range(1 + count):
            with chattable(text, directory=home, **where) as server:
                seen.append((server.ready_after, Running(0, process=server).rss()))
    return seen


def memory(stub_port: int, quick: bool, program: Program = HERE) -> dict[str, float]:
    """Measures resident memory after many requests."""
    row = Row(name="memory", setup="chattable", requests=5_000 if quick else 20_000, body=chat())
    with SETUPS["chattable"](stub_port, program) as server:
        result = uvloop.run(measure(load_of(row, server, row.requests)))
        after = server.rss()
    if result.bad:
        raise RuntimeError(f"{result.bad} of {row.requests} requests failed: {result.sample}")
    return {f"memory after {row.requests:,} requests [MB]": after / 1e6}


def idle_streams(stub_port: int, quick: bool, program: Program = HERE) -> dict[str, float]:
    """Measures the resident memory that an open stream costs while its model is silent."""
    count = 300 if quick else 1_000
    warm = Row(name="warm", setup="chattable", requests=500, **STREAM)
    silent = STREAM | {"body": chat("m-idle", True)}
    idle = Row(name="idle", setup="chattable", connections=count, requests=count, **silent)

    async def grown(server: Running) -> float:
        await measure(load_of(warm, server, warm.requests))
        before = server.rss()
        streams = await hold(load_of(idle, server, count))
        after = server.rss()
        for stream in streams:
            stream.transport.abort()
        return (after - before) / count

    with SETUPS["chattable"](stub_port, program) as server:
        return {f"memory per open idle stream, at {count:,} [KB]": uvloop.run(grown(server)) / 1e3}


PROBES: dict[str, Probe] = {"start": start, "memory": memory, "idle-streams": idle_streams}
