"""The rows and figures of the benchmark, as data: a new measurement is a line here, a new configuration one in SETUPS."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from load import SERIAL, WHO
from setups import bearer, in_session, key_of


@dataclass(frozen=True, kw_only=True)
class Row:
    """One load on one setup; `calls` is how many upstream calls each request must cause."""

    name: str
    setup: str
    body: bytes
    connections: int = 32
    requests: int
    expect: bytes = b'"finish_reason":"stop"'
    first: bytes = b""
    calls: float = 1
    # the row it is a multiple of: in CPU where both have it, in median latency otherwise
    versus: str = ""
    path: str = "/v1/chat/completions"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A number that several rows give together."""

    name: str
    unit: str
    rows: tuple[str, ...]
    value: Callable[..., float]  # takes the median of each row


def chat(model: str = "m", stream: bool = False, serial: str = SERIAL.decode()) -> bytes:
    """Returns a small chat request that no other one equals, unless its serial is fixed."""
    question = f"Request {serial}: hello, how are you today? Please answer briefly."
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": question},
    ]
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    return json.dumps({"model": model, "messages": messages, "temperature": 0.5} | options).encode()


def long_chat(size: int, tools: int) -> bytes:
    """Returns a chat request with a prompt of so many bytes and so many tools."""
    request = json.loads(chat())
    request["messages"][1]["content"] += " The town is old, and its river is slow." * (size // 40)
    if tools:
        request["tools"] = [tool(n) for n in range(tools)]
    return json.dumps(request).encode()


def tool(number: int) -> dict[str, Any]:
    """Returns the definition of a tool with three parameters."""
    words = {"type": "string", "description": "A word or two, as the user wrote them."}
    schema = {"type": "object", "properties": {"place": words, "day": words, "unit": words}}
    about = "Looks up what is known of a place on a day, in the unit that was asked for."
    function = {"name": f"look_up_{number}", "description": about, "parameters": schema}
    return {"type": "function", "function": function}


PLAIN: dict[str, Any] = {"body": chat()}
STREAM: dict[str, Any] = {"body": chat(stream=True), "first": b" one", "expect": b"data: [DONE]"}
LONG = STREAM | {"body": chat("m-222", stream=True)}
SAME: dict[str, Any] = {"body": chat(serial="0"), "calls": 0}
SAME_STREAM = STREAM | {"body": chat(stream=True, serial="0"), "calls": 0}
TRANSLATED = STREAM | {"body": chat("m-claude", stream=True)}
SESSION_20 = PLAIN | {"headers": in_session(20, WHO)}
SESSION_2000 = PLAIN | {"headers": in_session(2000, WHO)}
NEW_SESSION = PLAIN | {"headers": {"x-session-id": f"new-{SERIAL.decode()}"}}
NEW_END_USER = PLAIN | {"headers": {"x-user-id": f"end-user-{SERIAL.decode()}"}}
OF_32_USERS = PLAIN | {"headers": bearer(key_of(WHO))}  # each connection is another user
ALONE: dict[str, Any] = {"connections": 1}  # latency without a queue

ROWS = [
    Row(name="direct", setup="direct", requests=10_000, **PLAIN),
    Row(name="direct-stream", setup="direct", requests=2_000, **STREAM),
    Row(name="direct-1", setup="direct", requests=2_000, **PLAIN, **ALONE),
    Row(name="direct-stream-1", setup="direct", requests=1_000, **STREAM, **ALONE),
    Row(name="nginx", setup="nginx", requests=20_000, **PLAIN),
    Row(name="nginx-stream", setup="nginx", requests=4_000, **STREAM),
    Row(name="nginx-stream-222", setup="nginx", requests=500, **LONG),
    Row(name="nginx-1", setup="nginx", requests=2_000, versus="direct-1", **PLAIN, **ALONE),
    Row(
        name="nginx-stream-1",
        setup="nginx",
        requests=1_000,
        versus="direct-stream-1",
        **STREAM,
        **ALONE,
    ),
    Row(name="plain", setup="chattable", requests=4_000, versus="nginx", **PLAIN),
    Row(name="stream", setup="chattable", requests=2_000, versus="nginx-stream", **STREAM),
    Row(name="stream-222", setup="chattable", requests=500, versus="nginx-stream-222", **LONG),
    Row(name="stream-anthropic", setup="chattable", requests=2_000, versus="stream", **TRANSLATED),
    Row(name="plain-1", setup="chattable", requests=2_000, versus="direct-1", **PLAIN, **ALONE),
    Row(
        name="stream-1",
        setup="chattable",
        requests=1_000,
        versus="direct-stream-1",
        **STREAM,
        **ALONE,
    ),
    Row(name="budget", setup="budgets", requests=4_000, versus="plain", **PLAIN),
    Row(name="budget-stream", setup="budgets", requests=2_000, versus="stream", **STREAM),
    Row(name="budget-5", setup="five-budgets", requests=2_000, versus="budget", **PLAIN),
    Row(name="budget-postgres", setup="budgets-postgres", requests=1_000, versus="plain", **PLAIN),
    Row(name="all-on", setup="all-on", requests=4_000, versus="plain", **PLAIN),
    Row(name="all-on-stream", setup="all-on", requests=2_000, versus="stream", **STREAM),
    Row(name="all-on-shared", setup="all-on-shared", requests=2_000, versus="plain", **PLAIN),
    Row(name="all-on-1", setup="all-on", requests=1_000, versus="direct-1", **PLAIN, **ALONE),
    Row(name="all-on-users", setup="users", requests=2_000, versus="all-on", **PLAIN),
    Row(name="all-on-32-users", setup="users", requests=2_000, versus="all-on", **OF_32_USERS),
    Row(name="end-user-new", setup="end-users", requests=1_000, versus="all-on", **NEW_END_USER),
    Row(
        name="all-on-30k-tools",
        setup="all-on",
        requests=2_000,
        versus="all-on",
        body=long_chat(30_000, tools=20),
    ),
    Row(
        name="all-on-200k",
        setup="all-on",
        requests=1_000,
        versus="all-on",
        body=long_chat(200_000, tools=0),
    ),
    Row(name="hit", setup="all-on", requests=4_000, versus="plain", **SAME),
    Row(name="hit-stream", setup="all-on", requests=2_000, versus="stream", **SAME_STREAM),
    Row(name="hit-shared", setup="all-on-shared", requests=2_000, versus="plain", **SAME),
    Row(name="session-20", setup="sessions", requests=2_000, versus="all-on", **SESSION_20),
    Row(name="session-2000", setup="sessions", requests=2_000, versus="session-20", **SESSION_2000),
    Row(
        name="session-20-1",
        setup="sessions",
        requests=1_000,
        versus="direct-1",
        **SESSION_20,
        **ALONE,
    ),
    Row(name="session-new", setup="sessions-new", requests=1_000, versus="all-on", **NEW_SESSION),
    Row(name="agent", setup="chattable", requests=2_000, versus="plain", body=chat("guide")),
    Row(name="agent-agent", setup="chattable", requests=2_000, versus="agent", body=chat("host")),
    Row(name="plain-2-workers", setup="plain-2-workers", requests=4_000, versus="plain", **PLAIN),
    Row(name="budget-2-workers", setup="budget-2-workers", requests=2_000, versus="plain", **PLAIN),
    Row(
        name="echo",
        setup="chattable",
        requests=4_000,
        versus="nginx",
        calls=0,
        body=chat("echo"),
        expect=b'"choices"',
    ),
]


def per_chunk(stream: Any, long: Any) -> float:
    """Returns the CPU of each of the 200 chunks that the long stream has more."""
    return (long.cpu_us - stream.cpu_us) / 200


def more_cpu(without: Any, with_it: Any) -> float:
    """Returns the CPU that a row has on top of another's."""
    return float(with_it.cpu_us - without.cpu_us)


def added(number: str) -> Callable[[Any, Any], float]:
    """Returns what a row's number has on top of the direct call's."""
    return lambda direct, row: getattr(row, number) - getattr(direct, number)


FIGURES = [
    Figure("CPU per further chunk, nginx", "µs", ("nginx-stream", "nginx-stream-222"), per_chunk),
    Figure("CPU per further chunk", "µs", ("stream", "stream-222"), per_chunk),
    Figure("CPU of the ledger per request, SQLite", "µs", ("plain", "budget"), more_cpu),
    Figure(
        "CPU of the ledger per request, PostgreSQL",
        "µs",
        ("plain", "budget-postgres"),
        more_cpu,
    ),
    Figure("CPU of rate limits per request, in-process", "µs", ("budget", "all-on"), more_cpu),
    Figure(
        "CPU of rate limits per request, Valkey",
        "µs",
        ("budget-postgres", "all-on-shared"),
        more_cpu,
    ),
    Figure("CPU of a session per request", "µs", ("all-on", "session-20"), more_cpu),
    Figure(
        "CPU of a session per request, 2,000 messages stored",
        "µs",
        ("all-on", "session-2000"),
        more_cpu,
    ),
    Figure(
        "latency added at 1 connection, p50, nginx", "ms", ("direct-1", "nginx-1"), added("p50_ms")
    ),
    Figure("latency added at 1 connection, p50", "ms", ("direct-1", "plain-1"), added("p50_ms")),
    Figure("latency added at 1 connection, p99", "ms", ("direct-1", "plain-1"), added("p99_ms")),
    Figure(
        "latency added at 1 connection, all on, p50",
        "ms",
        ("direct-1", "all-on-1"),
        added("p50_ms"),
    ),
    Figure(
        "latency added at 1 connection, session of 20, p50",
        "ms",
        ("direct-1", "session-20-1"),
        added("p50_ms"),
    ),
    Figure(
        "time to first token added, p50, nginx",
        "ms",
        ("direct-stream-1", "nginx-stream-1"),
        added("first_ms"),
    ),
    Figure(
        "time to first token added, p50", "ms", ("direct-stream-1", "stream-1"), added("first_ms")
    ),
]
