"""What the machine runs out of: file descriptors (47), and somebody who reads the log (53)."""

import os
import shutil
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from answers import Gate
from echo_model import ask
from faults.world import wait_for
from process import Chattable, chattable
from upstream import ScriptedUpstream

FILES = 128
CONFIG = """
providers: {{stub: {{kind: openai, base_url: "{url}", retries: 0}}}}
models: {{m: {{provider: stub}}}}
agents: {{failing: {{use: "faults.agents:failing"}}}}
"""
PATH = os.pathsep.join(
    [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")],
)  # where faults.agents is
PROMPTLY = 2.0  # seconds that an answer may take on a busy machine


def client_of(server: Chattable, key: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.Client(base_url=server.base_url, headers=headers, trust_env=False, timeout=20)


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="the limit is set with prlimit")
def test_fault_47_without_file_descriptors_what_runs_goes_on_and_the_rest_recovers() -> None:
    limit = ("prlimit", f"--nofile={FILES}:{FILES}", "--")
    with (
        ScriptedUpstream() as upstream,
        chattable(CONFIG.format(url=upstream.url), prefix=limit, PYTHONPATH=PATH) as server,
        ExitStack() as stack,
    ):
        client = stack.enter_context(client_of(server, server.user_key()))
        assert client.post("/v1/chat/completions", json=ask("warm")).status_code == 200
        gate = Gate(1)
        upstream.script(gate)
        with client.stream(
            "POST",
            "/v1/chat/completions",
            json=ask("one two three", stream=True),
        ) as running:
            gate.wait()
            port = int(server.base_url.rpartition(":")[2])
            idle = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(2 * FILES)]
            for line in idle:
                stack.enter_context(line)
            gate.release()
            assert running.read().endswith(b"data: [DONE]\n\n")
        for line in idle:
            line.close()

        def served() -> str:
            with (
                suppress(httpx.HTTPError),
                client_of(server, client.headers["authorization"][7:]) as other,
            ):
                got = other.post("/v1/chat/completions", json=ask("hi"))
                return "" if got.status_code == 200 else "not served"
            return "no answer"

        wait_for(served)
        assert server.running and server.admin("POST", "/admin/ledger/verify")["differences"] == 0


def test_fault_53_requests_are_answered_though_nobody_reads_the_log(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    nobody = os.open(tmp_path / "log", os.O_RDWR)  # open at both ends, and never read
    try:
        unread = ("sh", "-c", 'exec "$@" 2>"$0"', str(tmp_path / "log"))
        with (
            ScriptedUpstream() as upstream,
            chattable(CONFIG.format(url=upstream.url), prefix=unread, PYTHONPATH=PATH) as server,
        ):
            with client_of(server, server.user_key()) as client:
                for _ in range(1000):  # more lines than a pipe holds
                    assert client.get("/v1/models/" + "m" * 100).status_code == 404
                began = time.monotonic()
                for stream in (
                    False,
                    True,
                ):  # an error is logged where it happens, an answer in a thread
                    body = ask("hi", stream=stream) | {"model": "failing"}
                    assert client.post("/v1/chat/completions", json=body).status_code == 500
                    assert (
                        client.post(
                            "/v1/chat/completions",
                            json=ask("hi", stream=stream),
                        ).status_code
                        == 200
                    )
                assert time.monotonic() - began < PROMPTLY
            code = server.stop()
        assert code == 0
    finally:
        os.close(nobody)
