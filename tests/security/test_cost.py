"""What a request may cost: a hundred times its size (promise G5, attacks 57 and 59)."""

import json
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest
from process import Chattable, chattable
from upstream import ScriptedUpstream

from chattable.proxy.parsing.json_bounds import MAX_DEPTH
from chattable.proxy.telemetry.redaction import LOOKS

SIZE = 2**20  # bytes of each body
MEMORY = 100  # bytes that a byte of a request may cost
CPU = 6.0  # seconds on a busy machine: an import of a MiB stores 35,000 messages
CONFIG = """
providers: {{stub: {{kind: openai, base_url: "{url}"}}}}
models: {{m: {{provider: stub}}}}
agents: {{echo: {{use: "chattable.agents.echo:Echo"}}}}
"""


def filled(form: str, one: bytes, between: bytes = b",") -> bytes:
    """A body of about the size, with as many of one value as fit into the form."""
    head, tail = form.encode().split(b"...")
    often = (SIZE - len(head) - len(tail)) // (len(one) + len(between))
    return head + between.join([one] * often) + tail


def beside_a_chat(field: str, one: bytes) -> bytes:
    """The same, in a field beside those of a chat."""
    return filled(
        '{"model": "echo", "messages": [{"role": "user", "content": "hi"}], ' + field + "}",
        one,
    )


ONE_TEXT = '{"model": "echo", "messages": [{"role": "user", "content": "..."}]}'
BODIES = {
    "one text": filled(ONE_TEXT, b"words", b" "),
    "one escaped text": filled(ONE_TEXT, rb"\u0041", b""),
    "one unbroken word": filled(ONE_TEXT, b"a", b""),
    "messages": filled('{"model": "echo", "messages": [...]}', b'{"role":"user","content":"x"}'),
    "tools": beside_a_chat('"tools": [...]', b'{"type":"function","function":{"name":"f"}}'),
    "lists": beside_a_chat('"x": [...]', b"[]"),
    "objects": beside_a_chat('"x": [...]', b'{"a":1}'),
    "numbers": beside_a_chat('"x": [...]', b"1"),
    "long numbers": beside_a_chat('"x": [...]', b"9" * 400),
    "texts": beside_a_chat('"x": [...]', b'""'),
    "keys": b"{%b}" % b",".join(b'"k%d":0' % i for i in range(90_000)),
    "depth": beside_a_chat('"x": [...]', b"[" * (MAX_DEPTH - 3) + b"]" * (MAX_DEPTH - 3)),
    "items": filled('{"items": [...]}', b'{"type":"message","role":"user","content":"x"}'),
    "input": filled('{"model": "m", "input": [...]}', b'"x"'),
    "no JSON": b"{" * SIZE,
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Chattable]:
    with ScriptedUpstream() as upstream, chattable(CONFIG.format(url=upstream.url)) as running:
        yield running


def seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def cost(process: psutil.Process, do: Callable[..., int]) -> tuple[float, float, int]:
    """By how many bytes the process was larger at its peak, its seconds, and the status."""
    folder = Path("/proc") / str(process.pid)
    (folder / "clear_refs").write_text("5")  # the mark of the highest begins anew
    before, spent = process.memory_info().rss, seconds(process)
    status = do()
    [mark] = re.findall(r"VmHWM:\s+(\d+) kB", (folder / "status").read_text())
    return int(mark) * 1024 - before, seconds(process) - spent, status


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(),
    reason="the peak of a process is read from /proc",
)
def test_g5_no_request_costs_more_than_a_hundred_times_its_size(server: Chattable) -> None:
    process = psutil.Process(server.pid)
    with httpx.Client(base_url=server.base_url, trust_env=False, timeout=60) as client:
        client.headers["authorization"] = f"Bearer {server.user_key('boss')}"
        server.admin("PATCH", "/admin/users/boss", {"admin": True})
        schema = client.get("/schema/openapi.json").json()
        paths = [path for path, item in schema["paths"].items() if "post" in item]
        assert len(paths) > 10
        costs = []
        for path in paths:
            target = re.sub(r"{\w+}", "nobody", path)
            for name, body in BODIES.items():
                send = partial(client.post, target, content=body)
                memory, cpu, status = cost(process, lambda send=send: send().status_code)
                assert status < 500, (path, name, status)
                costs.append((memory / len(body), cpu, path, name))
    most, longest = max(costs), max(costs, key=lambda one: one[1])
    print(
        f"{len(costs)} bodies of 1 MiB: at most {most[0]:.0f} times the size {most[2:]},",
        f"{longest[1]:.2f} s CPU {longest[2:]}",
    )
    assert most[0] <= MEMORY and longest[1] <= CPU


@pytest.mark.parametrize(
    "text",
    ["sk-", "Bearer ", "Basic ", "://", "://a:", "a://b:c", "sk-a ", ":@", "sk-" + "a" * 7 + " "],
)
def test_57_what_hides_secrets_takes_time_by_the_length_only(text: str) -> None:
    pattern = re.compile(LOOKS)

    def taken(size: int) -> float:
        long = text * (size // len(text))
        began = time.perf_counter()
        pattern.sub("", long)
        return time.perf_counter() - began

    small, large = (min(taken(size) for _ in range(3)) for size in (20_000, 160_000))
    assert large < 40 * small + 0.05, json.dumps(
        [small, large],
    )  # eight times as long; the square would be 64 times
