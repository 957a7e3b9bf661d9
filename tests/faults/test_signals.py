"""A server that is told to stop: streams within the grace period end properly, later ones say why they do not."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from answers import Gate
from echo_model import ask
from process import Chattable, chattable
from upstream import ScriptedUpstream

# where faults.agents is
PATH = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
STREAMS = 20
CONFIG = """
server: {{grace: {grace}}}
providers: {{stub: {{kind: openai, base_url: "{url}"}}}}
models: {{m: {{provider: stub}}}}
agents:
  tutor: {{model: m}}
  blocking: {{use: "faults.agents:Blocking", seconds: 600}}
"""


@contextmanager
def running(grace: str) -> Iterator[tuple[Chattable, ScriptedUpstream]]:
    with (
        ScriptedUpstream() as upstream,
        chattable(CONFIG.format(grace=grace, url=upstream.url), PYTHONPATH=PATH) as server,
    ):
        yield server, upstream


def ended(server: Chattable, within: float) -> int:
    """The exit code of a server that has ended by itself."""
    return server.popen.wait(within)


class Payer:
    """Clients in threads of their own."""

    def __init__(self, server: Chattable) -> None:
        self.pool = ThreadPoolExecutor(STREAMS)
        self.url = f"{server.base_url}/v1/chat/completions"
        self.headers = {"authorization": f"Bearer {server.admin_key}"}

    def ask(self, model="m", stream=True):
        body = ask("one two three", stream=stream) | {"model": model}
        return self.pool.submit(
            lambda: httpx.post(
                self.url, json=body, headers=self.headers, timeout=20, trust_env=False
            )
        )


@pytest.mark.parametrize("model", ["m", "tutor"])
def test_fault_42_streams_within_the_grace_period_end_properly(model):
    with running("20s") as (server, upstream):
        gates, asker = [Gate(2) for _ in range(STREAMS)], Payer(server)
        upstream.script(*gates)
        asked = [asker.ask(model, stream=i % 4 != 0) for i in range(STREAMS)]
        for gate in gates:
            gate.wait()
        server.popen.send_signal(signal.SIGTERM)
        until_refused(server)
        for gate in gates:
            gate.release()
        for i, one in enumerate(asked):
            answer = one.result()
            assert answer.status_code == 200
            if i % 4:
                assert answer.text.endswith("data: [DONE]\n\n") and " three" in answer.text
            else:
                assert answer.json()["choices"][0]["message"]["content"] == "one two three"
        assert ended(server, 3) == 0
        assert upstream.aborted == 0
        assert "Traceback" not in server.log()


def until_refused(server: Chattable) -> None:
    """Waits until nobody new is let in."""
    until = time.monotonic() + 5
    host, port = server.base_url.removeprefix("http://").split(":")
    while time.monotonic() < until:
        try:
            socket.create_connection((host, int(port)), 1).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.02)
    raise AssertionError("the server still lets clients in")


def test_fault_42_streams_past_the_grace_period_say_so():
    with running("1s") as (server, upstream):
        gates, asker = [Gate(2) for _ in range(STREAMS)], Payer(server)
        upstream.script(*gates)
        asked = [asker.ask("tutor" if i % 3 else "m", stream=i % 4 != 0) for i in range(STREAMS)]
        for gate in gates:
            gate.wait()
        began = time.monotonic()
        server.popen.send_signal(signal.SIGTERM)
        for i, one in enumerate(asked):
            answer = one.result()
            if i % 4:
                assert answer.status_code == 200 and "[DONE]" not in answer.text
                error = json.loads(answer.text.rstrip().rpartition("data: ")[2])["error"]
            else:
                assert answer.status_code == 503
                error = answer.json()["error"]
            assert (error["type"], error["param"], error["code"]) == (
                "server_error",
                None,
                "shutting_down",
            )
        assert ended(server, 5) == 0
        assert 1 <= time.monotonic() - began < 4
        upstream.wait(lambda: upstream.open_connections == 0)
        assert "Traceback" not in server.log()


def test_fault_42_a_server_with_nothing_to_do_ends_at_once():
    with (
        running("20s") as (server, _),
        httpx.Client(base_url=server.base_url, trust_env=False) as client,
    ):
        assert client.get("/health").status_code == 200  # and the connection stays open
        server.popen.send_signal(signal.SIGTERM)
        assert ended(server, 3) == 0
        assert "Traceback" not in server.log()


def test_fault_42_a_request_that_comes_while_stopping_is_told_to_come_back():
    with (
        running("20s") as (server, upstream),
        socket.create_connection(
            ("127.0.0.1", int(server.base_url.rpartition(":")[2])), 10
        ) as late,
    ):
        gate, asker = Gate(2), Payer(server)
        upstream.script(gate)
        first = asker.ask()
        gate.wait()
        body = json.dumps(ask("late")).encode()
        start = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
            f"{server.admin_key}\r\n"
        )
        late.sendall(f"{start}content-length: {len(body)}\r\n\r\n".encode() + body[:5])
        ready = httpx.get(f"{server.base_url}/health/ready", trust_env=False)
        assert ready.status_code == 200
        server.popen.send_signal(signal.SIGTERM)
        until_refused(server)
        late.sendall(body[5:])
        answer = b""
        while b"}}" not in answer:
            answer += late.recv(65536)
        assert answer.startswith(b"HTTP/1.1 503") and b'"shutting_down"' in answer
        gate.release()
        assert first.result().text.endswith("data: [DONE]\n\n")
        assert ended(server, 3) == 0


def test_fault_42_code_that_hangs_in_a_thread_keeps_no_server_alive():
    with running("1s") as (server, _), httpx.Client(trust_env=False, timeout=20) as client:
        asker = Payer(server)
        body = ask("x", stream=True) | {"model": "blocking"}
        with client.stream("POST", asker.url, json=body, headers=asker.headers) as answer:
            lines = answer.iter_lines()
            assert "wait" in next(lines)
            server.popen.send_signal(signal.SIGTERM)
            assert any("shutting_down" in line for line in lines)
        assert ended(server, 4) == 0


def test_fault_43_the_second_signal_ends_it_at_once():
    with running("20s") as (server, upstream):
        gate, asker = Gate(2), Payer(server)
        upstream.script(gate)
        asked = asker.ask()
        gate.wait()
        server.popen.send_signal(signal.SIGTERM)
        until_refused(server)
        server.popen.send_signal(signal.SIGTERM)
        try:
            code = ended(server, 2)
        finally:
            gate.release()
        assert code in (143, -signal.SIGTERM)
        assert asked.exception() or "[DONE]" not in asked.result().text
