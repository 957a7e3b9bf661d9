"""The house under test, and what must hold after every fault."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import psutil
import pytest
from answers import Plain
from faults.world import (
    BETWEEN,
    CONFIG,
    CONNECT,
    COOKIE,
    FIRST,
    HEADER,
    KEY,
    PROMPT,
    SLOTS,
    TOTAL,
    House,
    leaky,
    never_accepting,
    tls_upstreams,
)
from process import chattable, free_port
from upstream import ScriptedUpstream


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The server and everything it talks to, warm."""
    with ExitStack() as stack:
        stub = stack.enter_context(ScriptedUpstream(models=("m",)))
        hole = stack.enter_context(never_accepting())
        urls, trust = stack.enter_context(tls_upstreams(tmp_path_factory.mktemp("tls")))
        closed = free_port()
        text = CONFIG.format(
            stub=stub.url, key=KEY, slots=SLOTS, connect=CONNECT, first=FIRST, between=BETWEEN, total=TOTAL,
            closed=closed, hole=hole, **urls,
        )  # fmt: skip
        env: dict[str, Any] = {"SSL_CERT_FILE": trust} if trust else {}
        server = stack.enter_context(chattable(text, **env))
        headers = {"authorization": f"Bearer {server.user_key()}"}
        client = stack.enter_context(
            httpx.Client(base_url=server.base_url, headers=headers, timeout=30, trust_env=False)
        )
        ports = {
            stub.port,
            closed,
            hole,
            *(int(re.findall(r":(\d+)/", url)[0]) for url in urls.values()),
        }
        house = House(server, stub, client, ports)
        house.canaries = [KEY, COOKIE, HEADER, PROMPT, "https://", *(f":{port}" for port in ports)]
        stub.reply = leaky
        for _ in range(2):
            stub.script(Plain(200, {"choices": [{"message": {"content": "uncounted"}}]}))
            house.ask()
        house.settle()
        # pools fill up as work comes, within their bounds
        house.threads = psutil.Process(server.pid).num_threads() + 8
        house.others = house.others_now()
        yield house


@pytest.fixture
def house(world: House) -> Iterator[House]:
    """The server, with the proof afterwards that the test left no trace."""
    world.upstream.clear()
    yield world
    world.settle()
