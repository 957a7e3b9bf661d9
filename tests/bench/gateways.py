"""The gateways that stand beside Chattable: where each comes from, how it is told of the stub.

A further one is an entry of PEERS. Nothing of theirs is part of this repository: each is installed
from PyPI or npm into a folder of its own.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from process import Process, free_port
from rows import chat
from setups import (
    CACHE,
    CONFIG,
    RATES,
    SERVER_CORE,
    SETUPS,
    Running,
    bearer,
    chattable_with,
    direct,
    nginx,
    on_core,
)

INSTALL = 900.0  # seconds an installation may take
FIRST_ANSWER = 300.0  # seconds from spawn: some import for a minute when the machine is busy
BUDGET = 1_000  # tokens, where a budget is tried
USD = 1e-6  # the price of a token, for gateways whose budgets are in dollars
BUDGET_USD = f"{BUDGET * USD:g}"

# From the stub's port to a gateway before it.
Start = Callable[..., AbstractContextManager[Running]]


class PeerError(Exception):
    """A gateway that cannot be installed, or does not answer."""


@dataclass(frozen=True)
class Gateway:
    """Something to measure: how it is started, and what a chat with it looks like."""

    name: str
    start: Start
    with_budget: Start | None = None  # with a budget of `BUDGET` tokens; None: it has none
    version: str = ""
    model: str = "m"
    path: str = "/v1/chat/completions"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another gateway; in all texts STUB and PORT stand for the ports of the stub and of itself."""

    name: str
    package: str
    version: str
    extra: str = ""
    npm: bool = False
    overrides: Mapping[str, str] = field(default_factory=dict)  # versions of npm packages it uses
    command: tuple[str, ...]  # its first word, and what begins with ./, in the installed folder
    files: Mapping[str, str] = field(default_factory=dict)  # in the folder where it runs
    budget: Mapping[str, str] | None = None  # the files instead of those, with a budget
    env: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str]
    model: str = "m"
    path: str = "/v1/chat/completions"
    picks_port: bool = False  # it takes a free port, which it says on its output

    def gateway(self, cache: Path) -> Gateway:
        """Installs it, unless the cache has it, and returns what is measured."""
        home = cache / f"{self.name}-{self.version}"
        if not (home / "installed").exists():
            (npm_install if self.npm else pip_install)(self, home)
            (home / "installed").touch()

        def with_files(files: Mapping[str, str]) -> Start:
            return lambda stub_port: self.running(home, files, stub_port)

        budget = None if self.budget is None else with_files(self.budget)
        return Gateway(
            self.name, with_files(self.files), budget, self.version, self.model, self.path
        )

    @contextmanager
    def running(self, home: Path, files: Mapping[str, str], stub_port: int) -> Iterator[Running]:
        """Runs it in a folder of its own until the block ends."""
        port = free_port()

        def filled(text: str) -> str:
            return text.replace("STUB", str(stub_port)).replace("PORT", str(port))

        first, *rest = self.command
        program = [first if shutil.which(first) else str(home / first)]
        program += [str(home / word) if word.startswith("./") else filled(word) for word in rest]
        with tempfile.TemporaryDirectory(prefix=f"bench-{self.name}-") as scratch:
            folder = Path(scratch, "some", "where")  # LiteLLM imports what lies two folders above
            folder.mkdir(parents=True)
            for name, text in files.items():
                Path(folder, name).write_text(filled(text))
            env = quiet() | {name: filled(value) for name, value in self.env.items()}
            process = Process([*on_core(SERVER_CORE), *program], env, cwd=folder)
            try:
                if self.picks_port:
                    port = said_port(process)
                headers = {name: filled(value) for name, value in self.headers.items()}
                yield Running(port, headers, process)
            finally:
                process.stop()


def quiet() -> dict[str, str]:
    """Returns the environment without keys of real providers and without a way around loopback."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    return kept | {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}


def said_port(process: Process) -> int:
    """Returns the port of the first address on loopback that a process names."""
    while process.running and time.monotonic() - process.spawned < FIRST_ANSWER:
        if said := re.search(r"http://127\.0\.0\.1:(\d+)", process.log()):
            return int(said[1])
        time.sleep(0.01)
    raise PeerError(f"named no address: {last_words(process.log())}")


def pip_install(peer: Peer, home: Path) -> None:
    extra = f"[{peer.extra}]" if peer.extra else ""
    run(sys.executable, "-m", "venv", "--clear", str(home))
    pip = (str(home / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check")
    run(*pip, f"{peer.package}{extra}=={peer.version}")


def npm_install(peer: Peer, home: Path) -> None:
    if not shutil.which("npm"):
        raise PeerError("npm is not on PATH")
    home.mkdir(parents=True, exist_ok=True)
    Path(home, "package.json").write_text(json.dumps({"overrides": dict(peer.overrides)}))
    options = ("--prefix", str(home), "--no-audit", "--no-fund")
    run("npm", "install", *options, f"{peer.package}@{peer.version}")


def run(*command: str) -> None:
    """Runs a step of an installation; a failure raises with its last words."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"cannot be installed: {error}") from None
    if done.returncode:
        raise PeerError(f"cannot be installed: {last_words(done.stderr or done.stdout)}")


def last_words(text: str) -> str:
    """Returns the last line of an output that says something, errors first."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["nothing was said"])[-1][:300]


def first_answer(gateway: Gateway, running: Running) -> float:
    """Returns the seconds from spawn to the first chat that was answered."""
    process, problem = running.process, ""
    began = process.spawned if process else time.monotonic()
    while time.monotonic() - began < FIRST_ANSWER and (process is None or process.running):
        try:
            with ask(gateway, running, json.loads(chat(gateway.model))) as answer:
                answer.read()
            return time.monotonic() - began
        except urllib.error.HTTPError as refused:
            problem = f"{refused.code} {refused.read(300).decode(errors='replace')}"
        except OSError as error:
            problem = str(error)
        time.sleep(0.01)
    if process and not process.running:
        problem = last_words(process.log())
    raise PeerError(f"does not answer: {problem}")


def ask(gateway: Gateway, running: Running, body: dict[str, Any], timeout_s: float = 30) -> Any:
    """Sends one request and returns the open answer; a status of failure raises HTTPError."""
    url, headers = f"http://127.0.0.1:{running.port}{gateway.path}", running.headers
    sent = headers | {"content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), sent)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(request, timeout=timeout_s)


SMALL = f"budgets: {{default: {{tokens: {BUDGET}, per: day}}}}\n"
DIRECT = Gateway("direct", direct)
NGINX = Gateway("nginx", nginx)
CHATTABLE = Gateway("chattable", SETUPS["chattable"], chattable_with(CONFIG + SMALL))
ALL_ON = Gateway(
    "chattable-all-on", SETUPS["all-on"], chattable_with(CONFIG + SMALL + RATES + CACHE)
)


FERROGW = """\
strategy: {mode: single}
targets: [{virtual_key: openai}]
"""
FERROGW_BUDGET = f"""\
plugins:
  - name: budget
    type: guardrail
    stage: before_request
    enabled: true
    config: &budget
      spend_limit_usd: {BUDGET_USD}
      input_per_m_tokens: {USD * 1e6:g}
      output_per_m_tokens: {USD * 1e6:g}
  - {{name: budget, type: guardrail, stage: after_request, enabled: true, config: *budget}}
"""
TENSORZERO = """\
[gateway.observability]
enabled = false
[models.m]
routing = ["stub"]
[models.m.providers.stub]
type = "openai"
model_name = "m"
api_base = "http://127.0.0.1:STUB/v1/"
api_key_location = "none"
"""
TENSORZERO_SERVER = """\
# What the client's `patch_openai_client` does, without OpenAI's client.
import signal
from tensorzero.tensorzero import _start_http_gateway

files = {"config_file": "tensorzero.toml", "clickhouse_url": None}
gateway = _start_http_gateway(**files, postgres_url=None, valkey_url=None, async_setup=False)
print(gateway.base_url, flush=True)
signal.pause()
"""
LITELLM = """\
model_list:
  - model_name: m
    litellm_params: {model: openai/m, api_base: "http://127.0.0.1:STUB/v1", api_key: x}
litellm_settings: {num_retries: 0, telemetry: false}
router_settings: {num_retries: 0}
general_settings: {master_key: sk-bench}
"""
PRICE = f"input_cost_per_token: {USD:.6f}, output_cost_per_token: {USD:.6f}"
# A budget of the model, which it counts in memory: its keys want a database.
LITELLM_BUDGET = LITELLM.replace(
    "api_key: x}", f"api_key: x, {PRICE}, max_budget: {BUDGET_USD}, budget_duration: 1d}}"
)
PEERS = (
    Peer(
        name="ferrogw",
        package="ferrogw",
        version="1.5.10",
        command=("bin/ferrogw", "serve"),
        files={"config.yaml": FERROGW},
        budget={"config.yaml": FERROGW + FERROGW_BUDGET},
        env={
            "PORT": "PORT",
            "GATEWAY_CONFIG": "config.yaml",
            "OPENAI_API_KEY": "x",
            "OPENAI_BASE_URL": "http://127.0.0.1:STUB/v1",
            "MASTER_KEY": "fgw_bench-bench-bench-bench-bench",
            "RATE_LIMIT_RPS": "0",  # by default 429 beyond a rate that is soon reached here
            "LOG_LEVEL": "error",
        },
        headers=bearer("fgw_bench-bench-bench-bench-bench"),
        model="gpt-4o-mini",  # it serves no name that is not in its catalogue
    ),
    Peer(
        name="tensorzero",
        package="tensorzero",
        version="2026.6.0",
        command=("bin/python", "serve.py"),
        files={"tensorzero.toml": TENSORZERO, "serve.py": TENSORZERO_SERVER},
        headers={},  # embedded, it asks for no key
        model="tensorzero::model_name::m",
        path="/openai/v1/chat/completions",
        picks_port=True,
    ),
    Peer(
        name="litellm",
        package="litellm",
        version="1.108.6",
        extra="proxy",
        command=(
            "bin/litellm",
            "--config",
            "config.yaml",
            "--host",
            "127.0.0.1",
            "--port",
            "PORT",
        ),
        files={"config.yaml": LITELLM},
        budget={"config.yaml": LITELLM_BUDGET},
        # Without the first it fetches its prices at the start.
        env={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
        headers=bearer("sk-bench"),
    ),
    Peer(
        name="portkey",
        package="@portkey-ai/gateway",
        version="1.15.2",
        npm=True,
        # With the newest one it answers 500 to every stream (its issue 1389).
        overrides={"@hono/node-server": "1.13.8"},
        command=(
            "node",
            "./node_modules/@portkey-ai/gateway/build/start-server.js",
            "--port=PORT",
            "--headless",
        ),
        headers=bearer("x")
        | {
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": "http://127.0.0.1:STUB/v1",
        },
    ),
)
