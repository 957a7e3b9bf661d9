"""SIGHUP, the operator's habit and what a closed terminal sends: it ends no server."""

import os
import signal
import time

import httpx
import psutil
from process import Chattable, chattable

ECHO = 'agents: {echo: {use: "chattable.agents.echo:Echo"}}\n'
CHAT = {"model": "echo", "messages": [{"role": "user", "content": "Hi"}]}
TOLD = "SIGHUP is ignored"


def ask(server: Chattable) -> int:
    headers = {"authorization": f"Bearer {server.admin_key}"}
    url = f"{server.base_url}/v1/chat/completions"
    return httpx.post(url, json=CHAT, headers=headers, trust_env=False).status_code


def wait_for(server: Chattable, times: int) -> None:
    """Waits until the log has it so often."""
    until = time.monotonic() + 30
    while server.log().count(TOLD) < times:
        assert server.running and time.monotonic() < until, server.log()
        time.sleep(0.01)


def has_started(worker: psutil.Process) -> bool:
    """Whether it serves its agents on an address of its own as well, which comes last."""
    listening = [it for it in worker.net_connections("tcp4") if it.status == psutil.CONN_LISTEN]
    return len(listening) == 2


def test_a_server_goes_on_and_says_so_once() -> None:
    with chattable(ECHO) as server:
        os.kill(server.pid, signal.SIGHUP)
        wait_for(server, 1)
        for _ in range(3):
            os.kill(server.pid, signal.SIGHUP)
            assert ask(server) == 200
        assert server.log().count(TOLD) == 1
        assert server.stop() == 0


def test_so_do_workers() -> None:
    with chattable(ECHO, "--workers", "2") as server:
        workers = [
            process for process in server.tree()[1:] if "spawn_main" in " ".join(process.cmdline())
        ]
        assert len(workers) == 2
        until = time.monotonic() + 30
        while not all(has_started(worker) for worker in workers):
            assert time.monotonic() < until, server.log()
            time.sleep(0.05)
        for worker in workers:
            worker.send_signal(signal.SIGHUP)
        wait_for(server, 2)
        assert all(worker.is_running() for worker in workers)
        assert ask(server) == 200
        assert "another takes its place" not in server.log()
