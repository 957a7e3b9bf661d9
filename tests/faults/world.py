"""One real server with short deadlines in front of upstreams that misbehave, and what must hold after every misdeed."""

import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psutil
from answers import Gate, Plain, Request, Sse, proper
from echo_model import ask
from process import Chattable
from upstream import ScriptedUpstream

SLOTS = 4  # connections that each provider may have open
CONNECT, FIRST, BETWEEN, TOTAL = 0.5, 1.0, 0.5, 2.0
SLACK = 1.5  # seconds that a busy machine may take beyond a deadline
KEY = "sk-canary-of-the-upstream"
COOKIE, HEADER, PROMPT = "canary-cookie", "canary-header", "canary-prompt"
LEAKY = {
    "set-cookie": f"sid={COOKIE}",
    "x-internal": HEADER,
    "server": HEADER,
    "x-request-id": HEADER,
    "keep-alive": HEADER,
}

CONFIG = """
providers:
  stub: &stub
    kind: openai
    base_url: "{stub}"
    api_key: {key}
    max_connections: {slots}
    timeouts: {{connect: {connect}, first_token: {first}, between_tokens: {between}, total: {total}}}
  closed: {{<<: *stub, base_url: "http://127.0.0.1:{closed}/v1"}}
  hole: {{<<: *stub, base_url: "http://127.0.0.1:{hole}/v1"}}
  trusted: {{<<: *stub, base_url: "{trusted}"}}
  mismatched: {{<<: *stub, base_url: "{mismatched}"}}
  untrusted: {{<<: *stub, base_url: "{untrusted}"}}
models:
  m: {{provider: stub}}
  once: {{provider: stub, retries: 0}}
  closed: {{provider: closed}}
  hole: {{provider: hole}}
  trusted: {{provider: trusted}}
  mismatched: {{provider: mismatched}}
  untrusted: {{provider: untrusted}}
  "any/*": {{provider: stub}}
"""


@dataclass
class Told:
    """What the client was told, and when."""

    status: int
    headers: httpx.Headers
    body: str
    seconds: float

    @property
    def error(self) -> dict[str, Any]:
        """The error object of a plain answer, in OpenAI's shape and nothing else."""
        return four_keys(json.loads(self.body))

    @property
    def completion(self) -> dict[str, Any]:
        return json.loads(self.body)

    @cached_property
    def events(self) -> list[Any]:
        """The data of a stream's events, in order."""
        assert self.headers["content-type"] == "text/event-stream; charset=utf-8"
        data = [e[6:] for e in self.body.split("\n\n") if e and not e.startswith(":")]
        return [d if d == "[DONE]" else json.loads(d) for d in data]

    @property
    def said(self) -> str:
        """The words of choice 0, streamed or not."""
        if not self.body.startswith(("data:", ":")):
            return self.completion["choices"][0]["message"]["content"]
        choices = [e["choices"][0] for e in self.events if e != "[DONE]" and e.get("choices")]
        return "".join(c["delta"].get("content") or "" for c in choices if c["index"] == 0)

    @property
    def cut(self) -> dict[str, Any]:
        """The error that ended a stream: the last event, the only error, and no `[DONE]` anywhere."""
        events = self.events
        assert "[DONE]" not in events
        assert [e for e in events if "error" in e] == events[-1:]
        return four_keys(events[-1])


def four_keys(body: dict[str, Any]) -> dict[str, Any]:
    assert body.keys() == {"error"} and body["error"].keys() == {
        "message",
        "type",
        "param",
        "code",
    }, body
    assert body["error"]["message"]
    return body["error"]


def leaky(request: Request) -> Any:
    """A proper answer with headers that are nobody's business."""
    answer = proper(request)
    if isinstance(answer, Plain | Sse):
        answer.headers = LEAKY | answer.headers
    return answer


@dataclass
class House:
    """The server, its upstream, and a client."""

    server: Chattable
    upstream: ScriptedUpstream
    client: httpx.Client
    ports: set[int]  # of everything upstream
    others: int = 10**6  # file descriptors beside sockets and files
    threads: int = 10**6
    canaries: list[str] = field(default_factory=list)
    logged: int = 0

    def ask(
        self, text: str = "one two three", *, model: str = "m", stream: bool = False, **fields: Any
    ) -> Told:
        """Asks one chat; whatever comes back is searched for secrets."""
        began = time.monotonic()
        body = (
            ask(f"{PROMPT} {text}", **fields)
            | {"model": model}
            | ({"stream": True} if stream else {})
        )
        answer = self.client.post("/v1/chat/completions", json=body)
        told = Told(answer.status_code, answer.headers, answer.text, time.monotonic() - began)
        self.search(f"{dict(answer.headers)} {answer.text if told.status != 200 else ''}")
        assert (
            answer.headers["x-request-id"].startswith("req_")
            and len(answer.headers.get_list("x-request-id")) == 1
        )
        return told

    def search(self, text: str) -> None:
        """No secret and no address of an upstream is in the text."""
        for canary in self.canaries:
            assert canary not in text, f"{canary} is in {text[:2000]}"

    def settle(self) -> None:
        """Nothing of what a test did is left: every slot is free, no connection hangs, 20 normal calls succeed."""
        self.upstream.clear()
        self.upstream.reply = leaky
        gates = [Gate() for _ in range(SLOTS)]
        self.upstream.script(*gates)
        with ThreadPoolExecutor(SLOTS) as pool:
            asked = [pool.submit(self.ask, stream=i % 2 == 0) for i in range(SLOTS)]
            for gate in gates:
                # as many at once as there are slots: a slot that leaked would be missed here
                gate.wait()
            for gate in gates:
                gate.release()
            assert [a.result().status for a in asked] == [200] * SLOTS
        for i in range(20 - SLOTS):
            told = self.ask(f"normal {i}", stream=i % 2 == 0)
            assert (told.status, told.said) == (200, f"{PROMPT} normal {i}")
        wait_for(self.quiet)
        self.search(self.server.log()[self.logged :])
        self.logged = len(self.server.log())

    def quiet(self) -> str:
        """What is more than there was before any fault, or nothing."""
        process = psutil.Process(self.server.pid)
        sockets = [s for s in process.net_connections("tcp") if s.raddr]
        out = [s for s in sockets if s.raddr.port in self.ports]
        if (
            any(s.status != psutil.CONN_ESTABLISHED for s in sockets)
            or len(out) > SLOTS + 3
            or len(sockets) - len(out) > SLOTS + 1
        ):
            return f"connections: {[(s.raddr.port, s.status) for s in sockets]}"
        others, threads = self.others_now(), process.num_threads()
        if others > self.others:
            return f"{others} file descriptors beside sockets and files, {self.others} before"
        return f"{threads} threads, {self.threads} before" if threads > self.threads else ""

    def others_now(self) -> int:
        """File descriptors that are neither sockets nor files: the database opens as many of these as it needs."""
        process = psutil.Process(self.server.pid)
        return process.num_fds() - len(process.net_connections("tcp")) - len(process.open_files())


def wait_for(complaint: Callable[[], str], timeout: float = 10) -> None:
    """Returns once there is no complaint; raises the last one when there still is."""
    until = time.monotonic() + timeout
    while said := complaint():
        assert time.monotonic() < until, said
        time.sleep(0.02)


@contextmanager
def never_accepting() -> Iterator[int]:
    """A port that is listened on and whose queue is full: connecting to it takes for ever."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            knock = stack.enter_context(socket.socket())
            knock.setblocking(False)
            knock.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def certificate(directory: Path, name: str, subject: str) -> tuple[ssl.SSLContext, bytes]:
    """A server's TLS context with a certificate signed by itself, and the certificate."""
    key, pem = directory / f"{name}.key", directory / f"{name}.pem"
    made = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-keyout",
        str(key),
        "-out",
        str(pem),
    ]
    named = ["-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName={subject}"]
    subprocess.run(["openssl", "req", "-x509", *made, *named], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    return context, pem.read_bytes()


@contextmanager
def tls_upstreams(directory: Path) -> Iterator[tuple[dict[str, str], str]]:
    """The URLs of three TLS upstreams, and the file of certificates that the server trusts; without openssl, dead ends."""
    wanted = {
        "trusted": "IP:127.0.0.1",
        "mismatched": "DNS:elsewhere.test",
        "untrusted": "IP:127.0.0.1",
    }
    if shutil.which("openssl") is None:
        yield dict.fromkeys(wanted, "https://127.0.0.1:1/v1"), ""
        return
    made = {name: certificate(directory, name, subject) for name, subject in wanted.items()}
    trust = directory / "trust.pem"
    trust.write_bytes(made["trusted"][1] + made["mismatched"][1])
    with ExitStack() as stack:
        ups = {
            name: stack.enter_context(ScriptedUpstream(ssl=context))
            for name, (context, _) in made.items()
        }
        yield {name: up.url for name, up in ups.items()}, str(trust)
