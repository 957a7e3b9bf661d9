"""What a server says of itself: what keeps it from starting or serving; no secret in its log."""

import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from echo_model import ask
from faults.world import wait_for
from process import Chattable, chattable, free_port
from valkeys import Valkey, valkey_server

from chattable.proxy.cli.serve import Losses
from chattable.proxy.config.reader import parse
from chattable.proxy.telemetry.redaction import HIDDEN, RedactingFormatter, redactor

KEY, OWN, WEBHOOK = (
    "upstream-key-0123456789",
    "sk-an-agent-s-own-key",
    "whsec-of-our-own-0123456789",
)
ECHO = 'agents: {echo: {use: "chattable.agents.echo:Echo"}}\n'
REDIS = """
redis_url: {url}
cache: {{scope: user}}
rate_limits: {{default: {{requests_per_minute: 1000}}}}
"""


def ready(server: Chattable) -> tuple[int, dict[str, Any]]:
    answer = httpx.get(f"{server.base_url}/health/ready", trust_env=False, timeout=10)
    return answer.status_code, answer.json()


def say(server: Chattable, text: str, model: str = "echo") -> httpx.Response:
    headers = {"authorization": f"Bearer {server.admin_key}"}
    url = f"{server.base_url}/v1/chat/completions"
    return httpx.post(
        url,
        json=ask(text, model=model),
        headers=headers,
        trust_env=False,
        timeout=20,
    )


# The journal and the database


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_journal_that_cannot_be_written_is_found_at_the_start(
    workers: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "config.yaml").write_text(ECHO + "budgets: {journal: file/below}\n")
    command = [
        sys.executable,
        "-m",
        "chattable.proxy",
        "serve",
        "--port",
        str(free_port()),
        "--workers",
        workers,
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    told = run.stderr.splitlines()[-1]
    assert told.startswith(
        "chattable: the journal of what is used and not yet booked cannot be written: file/below",
    )
    assert told.endswith("Not a directory. Set `budgets.journal` to a folder that can be.")
    assert "admin key" not in run.stdout  # no key is made that nobody would see


def test_what_keeps_a_server_from_writing_is_said_by_its_readiness() -> None:
    with chattable(ECHO) as server:
        assert ready(server) == (200, {"status": "ok"})
        journal = server.directory / "chattable.db.settling"
        shutil.rmtree(journal)
        status, body = ready(server)
        assert (status, body["problems"]) == (
            503,
            {"journal": "cannot be written: No such file or directory"},
        )
        journal.touch()
        assert ready(server)[1]["problems"] == {"journal": "cannot be written: Not a directory"}
        backup = sqlite3.connect(server.directory / "chattable.db", isolation_level=None)
        backup.execute("BEGIN IMMEDIATE")
        assert ready(server)[1]["problems"]["database"].startswith("is locked")
        backup.execute("ROLLBACK")
        backup.close()
        wait_for(lambda: str(ready(server)[1]["problems"].get("database", "")))


def test_damaged_lines_of_a_journal_are_said_by_readiness_and_log(tmp_path: Path) -> None:
    with chattable(ECHO, directory=tmp_path):
        pass
    (folder,) = (tmp_path / "chattable.db.settling").iterdir()
    (folder / "1-0.jsonl").write_text("nonsense\n")
    with chattable(ECHO, directory=tmp_path) as server:
        status, body = ready(server)
        assert (status, body["status"]) == (200, "ok")
        assert body["degraded"]["journal"].startswith("1 lines could not be read")
        assert "1-0.jsonl.damaged: 1 lines cannot be read and are not booked: 1" in server.log()


# Redis


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with valkey_server() as server:
        yield server


FULL = ("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1")
TROUBLES: dict[str, tuple[list[tuple[str, ...]], str]] = {
    "full": ([FULL], "is full: it answered OOM"),
    "read-only": (
        [("REPLICAOF", "127.0.0.1", "1")],
        "is read-only: it answered READONLY, as a replica does",
    ),
    "locked": (
        [("ACL", "SETUSER", "default", "-@scripting")],
        "does not permit our user what is asked",
    ),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_readiness_says_what_is_wrong_with_a_redis_that_answers(name: str, valkey: Valkey) -> None:
    commands, words = TROUBLES[name]
    with chattable(ECHO + REDIS.format(url=valkey.url)) as server:
        assert say(server, "hi").status_code == 200
        assert ready(server) == (200, {"status": "ok"})
        for command in commands:
            valkey.execute(*command)
        assert [say(server, "hi").status_code for _ in range(3)] == [200] * 3
        status, body = ready(server)
        assert (status, body["status"]) == (200, "ok")
        assert body["degraded"]["rate_limits"].endswith(
            f"calls were let in uncounted: Redis {words}",
        )


def test_readiness_says_that_a_redis_does_not_answer(valkey: Valkey) -> None:
    with chattable(ECHO + REDIS.format(url=valkey.url)) as server:
        valkey.kill()
        assert say(server, "hi").status_code == 200
        degraded = ready(server)[1]["degraded"]
        assert degraded["redis"] == "Redis did not answer: nothing is kept or counted there"


# The log


CONFIG = f"""
database_url: postgresql://me:database-password@h/d
admin_keys: [aT4-Wq9zK2vM-8rYd]
providers:
  one: {{{{kind: openai, base_url: "{{url}}", api_key: {KEY}, retries: 0}}}}
  two: {{{{kind: openai, api_keys: [second-key-0123456789]}}}}
models: {{{{m: {{{{provider: one}}}}}}}}
budgets: {{{{webhook: {{{{url: "https://example.com/x", secret: {WEBHOOK}}}}}}}}}
"""


@pytest.mark.parametrize(
    "secret",
    [
        KEY, OWN, WEBHOOK, "database-password", "aT4-Wq9zK2vM-8rYd", "second-key-0123456789",
        "of-the-environment", "Bearer abcdefgh12345", "https://me:hunter22@elsewhere/",
    ],
)  # fmt: skip
def test_no_secret_is_in_a_line_of_the_log(secret: str) -> None:
    config = parse(CONFIG.format(url="http://h/v1").encode(), "config.yaml", {})
    formatter = RedactingFormatter(
        "%(message)s",
        redactor(config, {"MY_API_KEY": "of-the-environment\n", "HOME": "/root"}),
    )
    try:
        raise ValueError(f"cannot log in with {secret}!")
    except ValueError:
        record = logging.LogRecord(
            "x",
            logging.ERROR,
            "x",
            1,
            "failed: %s",
            (secret,),
            sys.exc_info(),
        )
    text = formatter.format(record)
    assert secret not in text and "hunter22" not in text and text.count(HIDDEN) == 2
    assert "Traceback" in text and "ValueError: cannot log in with " in text


def test_words_that_are_no_secret_stay() -> None:
    hide = redactor(
        parse(b"providers: {p: {kind: openai, api_key: short}}", "config.yaml", {}),
        {"A_KEY": "a", "HOME": "/root"},
    )
    text = "a short word in /root of http://h:80/v1, basic as ever: task-force, sk-1"
    assert hide(text) == text


AGENT = """
def agent(message):
    raise RuntimeError(f"{message.text} refused the key KEY and OWN")
""".replace("KEY", KEY, 1).replace("OWN", OWN)


def test_an_agent_s_exception_is_logged_without_the_secrets_in_its_text(tmp_path: Path) -> None:
    (tmp_path / "leaky.py").write_text(AGENT)
    paths = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    config = f"providers: {{p: {{kind: openai, api_key: {KEY}}}}}\n"
    config += "agents: {leaky: {use: 'leaky:agent'}}\n"
    with chattable(config, PYTHONPATH=paths) as server:
        answer = say(server, "somebody", model="leaky")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "agent_error")
        raised = "RuntimeError: somebody refused the key"
        wait_for(lambda: "" if raised in server.log() else "it is not logged")
        assert KEY not in server.log() and OWN not in server.log()
        assert f"the key {HIDDEN} and {HIDDEN}" in server.log()


# Workers


def test_workers_that_end_are_said_once_a_cause(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    losses = Losses(lambda: now)
    for pid in range(100, 200):
        losses.note(pid, -9)
        now += 0.5
    losses.note(200, 1)
    assert caplog.messages == [
        "worker 100 was ended by SIGKILL; another takes its place",
        "worker 200 ended with exit code 1; another takes its place",
    ]
    now += Losses.AGAIN
    losses.note(201, -9)
    (said,) = caplog.messages[2:]
    assert said.startswith("worker 201 was ended by SIGKILL (100 workers did since this was last")


def test_a_worker_that_is_killed_is_said_and_replaced() -> None:
    with chattable(ECHO, "--workers", "2", timeout=60) as server:
        workers = [one for one in server.tree()[1:] if "spawn_main" in " ".join(one.cmdline())]
        victim = workers[0]
        victim.send_signal(signal.SIGKILL)
        said = f"worker {victim.pid} was ended by SIGKILL; another takes its place"
        wait_for(lambda: "" if said in server.log() else "it is not said", timeout=30)
