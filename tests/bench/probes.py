"""What a load alone does not show: how long a start takes, how much memory is held."""

from collections.abc import Callable
from statistics import median

import uvloop
from load import hold, measure
from measuring import load_of
from rows import STREAM, Row, chat
from setups import SETUPS, Running

Probe = Callable[[int, bool], dict[str, float]]  # from the stub's port and --quick to named figures


def start(stub_port: int, quick: bool) -> dict[str, float]:
    """Measures from spawn to the first 200 on /health."""
    seconds = []
    for _ in range(3):
        with SETUPS["chattable"](stub_port) as server:
            seconds.append(server.process.ready_after)
    return {"start to ready, median of 3 [s]": median(seconds)}


def memory(stub_port: int, quick: bool) -> dict[str, float]:
    """Measures resident memory before the first and after many requests."""
    row = Row(name="memory", setup="chattable", requests=5_000 if quick else 20_000, body=chat())
    with SETUPS["chattable"](stub_port) as server:
        idle = server.rss()
        result = uvloop.run(measure(load_of(row, server, row.requests)))
        after = server.rss()
    name = f"memory after {row.requests:,} requests"
    return {"memory idle [MB]": idle / 1e6, f"{name} [MB]": after / 1e6, f"{name}, bad answers": result.bad}


def idle_streams(stub_port: int, quick: bool) -> dict[str, float]:
    """Measures the resident memory that an open stream costs while its model is silent."""
    if quick:
        return {}
    count = 1_000
    warm = Row(name="warm", setup="chattable", requests=500, **STREAM)
    idle = Row(name="idle", setup="chattable", connections=count, requests=count, **STREAM | {"body": chat("m-idle", True)})

    async def grown(server: Running) -> float:
        await measure(load_of(warm, server, warm.requests))
        before = server.rss()
        streams = await hold(load_of(idle, server, count))
        after = server.rss()
        for stream in streams:
            stream.transport.abort()
        return (after - before) / count

    with SETUPS["chattable"](stub_port) as server:
        return {f"memory per open idle stream, at {count:,} [KB]": uvloop.run(grown(server)) / 1e3}


PROBES: dict[str, Probe] = {"start": start, "memory": memory, "idle-streams": idle_streams}
