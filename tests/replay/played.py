"""Plays groups of requests on a real server and writes down what came back.

`requests/*.yaml` are the groups. A request has a `name` and `ask: METHOD /path`, and may have:

    as          who asks: a user (the usual one is alice), admin, nobody, or $NAME of a secret kept
    headers     by name; a list sends a header several times, null leaves out one that is usual
    body        JSON; or `text`, as it is; or `raw`, the whole request as bytes
    packed      gzip, or what its Content-Encoding shall say
    nested      levels of arrays that stand for <nested> anywhere in it
    filler      characters that stand for <filler>
    upstream    answers of the upstream to what it is asked meanwhile; without one it echoes
    meanwhile   requests that are made while the upstream holds its answer to this one
    beside      true of a request made meanwhile that waits for the one that is held
    keep        NAME: path.in.the.answer or @header, for $NAME in what comes after
    until       a piece of the answer: it is asked again until it is there (what is booked soon)
    shown       the fields that are written down of a long answer; none: only how long it is not
    unordered   a field of the rows of a list whose order is chance: they are written down by it
    about       why it is here, for readers
"""

import gzip
import http.client
import json
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from answers import Answer, Event, Gate, Plain, Raw, Request, Reset, Silent, Sse
from placeholders import PATTERNS, UNSAID, Placeholders, pretty
from process import Chattable, chattable
from upstream import ScriptedUpstream

HERE = Path(__file__).parent
PATIENCE = 20.0  # seconds until what is booked soon is booked
# Of what the upstream is sent: the others are the HTTP client's own.
TRANSPORT = {"host", "content-length", "accept", "accept-encoding", "user-agent", "connection"}

Step = dict[str, Any]
SETUPS: dict[str, Step] = yaml.safe_load((HERE / "setups.yaml").read_text())


def group(name: str) -> list[Step]:
    """The requests of a group."""
    steps: list[Step] = yaml.safe_load((HERE / "requests" / f"{name}.yaml").read_text())
    return steps


def flat(steps: list[Step]) -> Iterator[Step]:
    """All requests of a group, with those that are made meanwhile behind theirs."""
    for step in steps:
        yield step
        yield from flat(step.get("meanwhile", []))


def recording(name: str) -> Path:
    """Where the answers to a group are."""
    return HERE / "recorded" / f"{name}.txt"


@dataclass
class Told:
    """One answer as it came, and what the upstream was asked for it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    asked: list[Request] = field(default_factory=list)

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")


class Player:
    """Asks one server, as the users that a group names."""

    def __init__(self, server: Chattable, upstream: ScriptedUpstream) -> None:
        self.server, self.upstream = server, upstream
        self.keys = {"admin": server.admin_key, "nobody": ""}
        self.kept: dict[str, str] = {}

    def play(self, steps: list[Step]) -> list[tuple[Step, Told]]:
        """Makes the requests one after the other."""
        played: list[tuple[Step, Told]] = []
        for step in steps:
            if "meanwhile" in step:
                told, between = self._held(step)
                played += [(step, told), *between]
            else:
                self.upstream.script(*map(scripted, step.get("upstream", [])))
                played.append((step, self._asked(step)))
        return played

    def _held(self, step: Step) -> tuple[Told, list[tuple[Step, Told]]]:
        gate = Gate(0)
        self.upstream.script(gate)
        with ThreadPoolExecutor(4) as threads:
            asking = threads.submit(self._ask, step)
            try:
                gate.wait(PATIENCE)
                first = len(self.upstream.requests)
                between = self._between(step["meanwhile"], threads)
            finally:
                gate.release()
            told = asking.result(PATIENCE)
        told.asked = self.upstream.requests[first - 1 : first]
        self._keep(step, told)
        return told, [
            (one, said if isinstance(said, Told) else said.result())  # what has waited is answered
            for one, said in between
        ]

    def _between(
        self,
        steps: list[Step],
        threads: ThreadPoolExecutor,
    ) -> list[tuple[Step, Told | Future[Told]]]:
        """Makes requests while another is held; those that wait for it are answered with it."""
        asked: list[tuple[Step, Told | Future[Told]]] = []
        for step in steps:
            if step.get("beside"):
                asked.append((step, threads.submit(self._ask, step)))
            else:
                asked += self.play([step])
        return asked

    def _asked(self, step: Step) -> Told:
        before, late = len(self.upstream.requests), time.monotonic() + PATIENCE
        told, awaited = self._ask(step), step.get("until", "").encode()
        while awaited not in told.body and time.monotonic() < late:
            time.sleep(0.05)
            told = self._ask(step)
        told.asked = self.upstream.requests[before:]
        self._keep(step, told)
        return told

    def _keep(self, step: Step, told: Told) -> None:
        for name, path in step.get("keep", {}).items():
            try:
                self.kept[name] = str(at(told, path))
            except (KeyError, IndexError, TypeError, ValueError):
                said = told.body.decode()[:1000]
                raise LookupError(f"{step['name']}: no {path} in {said}") from None

    def _ask(self, step: Step) -> Told:
        port = int(self.server.base_url.rpartition(":")[2])
        if "raw" in step:
            return sent_raw(port, self._filled(step["raw"], step).encode("latin-1"))
        method, _, path = step["ask"].partition(" ")
        headers, body = {"accept": "*/*"}, b""
        if key := self._key(step.get("as", "alice")):
            headers["authorization"] = f"Bearer {key}"
        if "body" in step or "text" in step:
            headers["content-type"] = "application/json"
            body = self._body(step)
        headers |= self._filled(step.get("headers", {}), step)
        if packed := step.get("packed"):
            headers["content-encoding"], body = (
                packed,
                gzip.compress(body) if packed == "gzip" else body,
            )
        if body or method in ("POST", "PATCH", "PUT"):
            headers.setdefault("content-length", str(len(body)))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.putrequest(method, self._filled(path, step), skip_accept_encoding=True)
        for name, value in headers.items():
            for one in value if isinstance(value, list) else [value]:
                if one is not None:
                    connection.putheader(name, one)
        with suppress(ConnectionError):  # it may answer before it has heard everything
            connection.endheaders(body)
        return answer_of(connection)

    def _body(self, step: Step) -> bytes:
        if "body" in step:
            return json.dumps(self._filled(step["body"], step), ensure_ascii=False).encode()
        return str(self._filled(step["text"], step)).encode()

    def _key(self, who: str) -> str:
        if who.startswith("$"):
            return self.kept[who[1:]]
        if who not in self.keys:
            self.keys[who] = self.server.user_key(who)
        return self.keys[who]

    def _filled(self, value: Any, step: Step) -> Any:
        """A value with what was kept, and with what is too long to be written out."""
        if isinstance(value, dict):
            return {name: self._filled(one, step) for name, one in value.items()}
        if isinstance(value, list):
            return [self._filled(one, step) for one in value]
        if not isinstance(value, str):
            return value
        nested = step.get("nested", 0)
        value = value.replace("<filler>", "x" * step.get("filler", 0))
        value = value.replace("<nested>", "[" * nested + "]" * nested)
        return Template(value).safe_substitute(self.kept)


def at(told: Told, path: str) -> Any:
    """What stands at a path in an answer."""
    if path.startswith("@"):
        return told.header(path[1:])
    value = json.loads(told.body)
    for part in path.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


def answer_of(connection: http.client.HTTPConnection) -> Told:
    with connection.getresponse() as answer:
        headers = [(name.lower(), value) for name, value in answer.getheaders()]
        try:
            body = answer.read()
        except http.client.IncompleteRead as cut:
            body = cut.partial + b"<cut off>"
    connection.close()
    return Told(answer.status, headers, body)


def sent_raw(port: int, data: bytes) -> Told:
    """Sends bytes as they are, and reads until the server hangs up."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.connect()
    connection.sock.sendall(data)
    answer = http.client.HTTPResponse(connection.sock)
    answer.begin()
    headers = [(name.lower(), value) for name, value in answer.getheaders()]
    told = Told(answer.status, headers, answer.read())
    connection.close()
    return told


def scripted(said: Mapping[str, Any]) -> Answer:
    """An answer of the upstream, as data."""
    if "reset" in said:
        return Reset(said["reset"])
    if "silent" in said:
        return Silent()
    if "raw" in said:
        return Raw([said["raw"].encode()])
    headers = said.get("headers", {})
    if "events" in said:
        status, done, end = (
            said.get("status", 200),
            said.get("done", True),
            said.get("end", "finish"),
        )
        return Sse(
            [event_of(event) for event in said["events"]],
            done=done,
            end=end,
            status=status,
            headers=headers,
        )
    body = said.get("body", said.get("text", ""))
    return Plain(said.get("status", 200), body.encode() if isinstance(body, str) else body, headers)


def event_of(said: Step) -> Event:
    """An event of a stream: a chunk, or one with a name of its own."""
    if "event" not in said:
        return said
    return f"event: {said['event']}\ndata: {json.dumps(said['data'])}\n\n".encode()


def played(setup: str, **server_settings: Any) -> dict[str, str]:
    """What the server of a setup says to its groups now, group by group."""
    found = SETUPS[setup]
    config = {**found["config"], "server": found["config"].get("server", {}) | server_settings}
    with ScriptedUpstream(models=["m", "other"]) as upstream:
        environment: Any = {"UPSTREAM": upstream.url, "PYTHONPATH": str(HERE)}
        with chattable(yaml.safe_dump(config, sort_keys=False), **environment) as server:
            player, told = Player(server, upstream), {}
            for name in found["groups"]:
                upstream.clear()
                told[name] = player.play(group(name))
        log = logged(server.log())
    keys = {key: f"<key of {who}>" for who, key in player.keys.items() if key}
    return {name: "\n".join(written(told[name], log, Placeholders(keys))) for name in told}


def logged(text: str) -> dict[str, Step]:
    """The lines of the log by request."""
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return {line["id"]: line for line in lines if "id" in line}


def written(
    played: list[tuple[Step, Told]],
    log: Mapping[str, Step],
    names: Placeholders,
) -> Iterator[str]:
    """The lines of a recording."""
    for step, told in played:
        yield f"=== {step['name']}"
        yield f"{told.status}"
        limited = any(name.startswith("x-ratelimit-limit-") for name, _ in told.headers)
        for name, value in sorted(told.headers):
            if name == "content-length" and int(value) == len(told.body):
                yield "content-length: <that of the body>"
            elif name.startswith("retry-after") and limited:
                yield f"{name}: <wait>"
            elif name not in UNSAID:
                yield f"{name}: {names.header(name, value)}"
        yield ""
        yield from body_of(step, told, names)
        for request in told.asked:
            heads = {k: v for k, v in sorted(request.headers.items()) if k not in TRANSPORT}
            sent = request.json or request.body.decode(errors="replace")
            yield f"--- the upstream is asked {request.method} {request.path}"
            yield pretty(names.value(heads))
            yield pretty(names.value(sent))
        if line := log.get(told.header("x-request-id")):
            yield "--- log"
            kept = {k: v for k, v in line.items() if k not in ("time", "id")}
            yield json.dumps(names.value(kept), ensure_ascii=False)
        yield ""


def body_of(step: Step, told: Told, names: Placeholders) -> Iterator[str]:
    """An answer's body: JSON in few lines, a stream event by event, anything else as it is."""
    text = told.body.decode(errors="backslashreplace")
    if step.get("shown") == "none":
        return
    if told.header("content-type").startswith("text/event-stream"):
        for event in text.split("\n\n"):
            said = event.removeprefix("data: ")
            yield f"data: {compact(names, said)}" if said.startswith("{") else event
        return
    try:
        value = json.loads(text)
    except ValueError:
        yield from (compact(names, line) for line in text.splitlines())
        return
    if fields := step.get("shown"):
        value = {name: value[name] for name in fields}
    if by := step.get("unordered"):
        rows = sorted(value["data"], key=lambda row: PATTERNS.sub("", json.dumps(row[by])))
        value = value | {"data": rows, "first_id": "<some>", "last_id": "<some>"}
    yield pretty(names.value(value))


def compact(names: Placeholders, text: str) -> str:
    """A line of text; if it is JSON, with what differs by field."""
    try:
        return json.dumps(names.value(json.loads(text)), ensure_ascii=False)
    except ValueError:
        return names.text(text)
