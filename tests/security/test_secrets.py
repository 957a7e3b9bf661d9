"""Secrets in every slot: whatever fails, none is in log, answer or database (promise G4)."""

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from answers import Answer, Plain, Raw, Redirect, Request, Reset, Silent, Sse, error, head
from echo_model import ask, chat_chunks
from faults.world import never_accepting, wait_for
from process import Chattable, chattable, free_port
from upstream import ScriptedUpstream

CONFIG = """
admin_keys: ["{admin}"]
providers:
  stub: &stub
    kind: openai
    base_url: "{url}"
    api_key: "{one}"
    retries: 0
    timeouts: {{connect: 300ms, first_token: 300ms, between_tokens: 300ms, total: 600ms}}
  rotating: {{<<: *stub, api_key: null, api_keys: ["{two}", "{three}"]}}
  gemini: {{<<: *stub, kind: gemini, api_key: "{four}"}}
  anthropic: {{<<: *stub, kind: anthropic, api_key: "{five}"}}
  azure: {{<<: *stub, kind: azure, api_key: "{six}"}}
  bedrock: {{<<: *stub, kind: bedrock, region: eu-central-1, api_key: "{seven}"}}
  closed: {{<<: *stub, base_url: "http://127.0.0.1:{closed}/v1"}}
  hole: {{<<: *stub, base_url: "http://127.0.0.1:{hole}/v1"}}
models:
  stub: {{provider: stub, model: m}}
  rotating: {{provider: rotating, model: m}}
  gemini: {{provider: gemini, model: m}}
  anthropic: {{provider: anthropic, model: m}}
  azure: {{provider: azure, model: m}}
  bedrock: {{provider: bedrock, model: m}}
  closed: {{provider: closed, model: m}}
  hole: {{provider: hole, model: m}}
agents:
  leaky: {{use: "leaky:agent"}}
budgets:
  default: {{tokens: 1000000, per: day}}
  webhook: {{url: "http://127.0.0.1:{closed}/x", secret: "{webhook}"}}
"""
AGENT = """
import os

def agent(message):
    raise RuntimeError("failed with " + os.environ["SOME_SERVICE_TOKEN"] + " beside SECRETS")
"""
KINDS = ["stub", "rotating", "gemini", "anthropic", "azure", "bedrock"]


@dataclass
class Canaries:
    """A server, its upstream, and every secret that somebody gave it."""

    server: Chattable
    upstream: ScriptedUpstream
    client: httpx.Client
    key: str
    secrets: dict[str, str]
    told: list[str] = field(default_factory=list)

    def ask(
        self,
        method: str = "POST",
        path: str = "/v1/chat/completions",
        body: Any = None,
        key: str = "",
    ) -> httpx.Response:
        """Asks; what comes back is kept to be searched."""
        got = self.client.request(
            method,
            path,
            json=body,
            headers={"authorization": f"Bearer {key or self.key}"},
        )
        self.told.append(f"{method} {path} {got.headers} {got.text}")
        return got

    def found(self, *places: str | bytes) -> list[str]:
        """Which secrets are in one of the places, but for their ends, which masks may show."""
        texts = [place if isinstance(place, bytes) else place.encode() for place in places]
        inner = {name: secret[4:-5].encode() for name, secret in self.secrets.items()}
        return [name for name, word in inner.items() if any(word in text for text in texts)]


def canary(prefix: str = "sk-") -> str:
    """A secret that is nowhere by accident."""
    return prefix + secrets.token_urlsafe(30)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canaries]:
    folder = tmp_path_factory.mktemp("canaries")
    made = {name: canary() for name in ("one", "two", "three", "four", "five", "six", "seven")}
    made |= {
        "admin": canary(""),
        "webhook": f"whsec_{secrets.token_hex(32)}",
        "of the environment": canary(""),
    }
    (folder / "leaky.py").write_text(AGENT.replace("SECRETS", " ".join(made.values())))
    paths = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    with ExitStack() as stack:
        upstream = stack.enter_context(ScriptedUpstream())
        hole = stack.enter_context(never_accepting())
        text = CONFIG.format(url=upstream.url, closed=free_port(), hole=hole, **made)
        server = stack.enter_context(
            chattable(text, PYTHONPATH=paths, SOME_SERVICE_TOKEN=made["of the environment"]),
        )
        server.admin_key = made["admin"]
        client = stack.enter_context(
            httpx.Client(base_url=server.base_url, trust_env=False, timeout=30),
        )
        key = server.user_key()
        own = {
            "user's": key,
            "imported": canary("my own "),
            "revoked": canary(),
            "unknown": canary(),
        }
        server.user_key(key=own["imported"])
        server.user_key("bob", key=own["revoked"])
        [row] = server.admin("GET", "/admin/users/bob/keys")["data"]
        server.admin("DELETE", f"/admin/users/bob/keys/{row['id']}")
        yield Canaries(server, upstream, client, key, made | own)


def failures() -> list[Callable[[Request], Answer]]:
    """What an upstream may do; each repeats the credentials that it was sent, as some do."""

    def sent(request: Request) -> str:
        return f"{request.path} {request.headers}"

    def spoken(status: int) -> Callable[[Request], Answer]:
        return lambda request: error(status, sent(request), "x")

    torn = chat_chunks(ask("a b"))[:2]
    return [
        *map(spoken, (400, 401, 402, 403, 404, 408, 422, 429, 500, 503, 529)),
        lambda _: Reset(),
        lambda _: Silent(),
        lambda request: Plain(200, sent(request), {"content-type": "text/html"}),
        lambda request: Raw([head(200, {}) + sent(request).encode()]),
        lambda request: Plain(200, sent(request).encode(), {"content-type": "application/json"}),
        lambda request: Redirect(f"http://127.0.0.1:1/?key={request.headers.get('authorization')}"),
        lambda _: Sse(torn, done=False, end="reset"),
        lambda request: Sse([*torn, {"error": {"message": sent(request)}}]),
        lambda request: Sse([{"error": {"message": sent(request), "code": sent(request)}}]),
    ]


def test_g4_no_failure_shows_a_secret_to_anybody(house: Canaries) -> None:
    for failure in failures():
        house.upstream.reply = failure
        for model in KINDS:
            for stream in (False, True):
                house.ask(body=ask("hi", stream=stream) | {"model": model})
    for model in ("closed", "hole", "leaky", "nobody"):
        for stream in (False, True):
            house.ask(body=ask("hi", stream=stream) | {"model": model})
    for name in ("revoked", "unknown"):
        for path in (
            "/v1/chat/completions",
            "/admin/users",
            f"/v1/conversations/{house.secrets[name]}",
        ):
            house.ask("GET", path, key=house.secrets[name])
            house.ask("POST", path, {}, key=house.secrets[name])
    house.ask(
        "POST",
        f"/admin/users/{house.secrets['unknown']}/keys",
        {},
        key=house.server.admin_key,
    )
    written = list(house.secrets.values())  # by the asker, into the path: that comes back as it was
    asked = re.compile("|".join(map(re.escape, written)))
    answers = [text for text in house.told if not asked.search(text.split(" ", 2)[1])]
    assert len(answers) > 200
    assert not [(house.found(text), text) for text in answers if house.found(text)]
    assert not [text for text in house.told if "Traceback" in text]


def test_g4_no_list_and_no_report_holds_a_secret(house: Canaries) -> None:
    paths = [
        "users", "users/alice", "users/alice/keys", "users/bob/keys", "teams", "budgets",
        "usage", "ledger", "events",
        "sessions", "models", "cache", "audit",
    ]  # fmt: skip
    shown = [house.ask("GET", f"/admin/{path}", key=house.server.admin_key) for path in paths]
    own = ["/v1/models", "/v1/models/stub", "/v1/me/usage", "/v1/me/budgets"]
    everybodys = ["/", "/health", "/health/ready", "/schema/openapi.json"]
    shown += [house.ask("GET", path) for path in own + everybodys]
    assert {answer.status_code for answer in shown} == {200}
    assert not house.found(*(answer.text for answer in shown))


def test_g4_no_secret_is_in_the_log_or_on_the_disk(house: Canaries) -> None:
    house.ask(body=ask("hi") | {"model": "leaky"})
    raised = "RuntimeError: failed with"
    wait_for(lambda: "" if raised in house.server.log() else "it is not logged")
    assert not house.found(house.server.log())
    files = [path for path in house.server.directory.rglob("*") if path.is_file()]
    written = {path: path.read_bytes() for path in files}
    kept = {path: text for path, text in written.items() if path.name != "config.yaml"}
    assert [path for path in kept if path.suffix == ".db"] and not house.found(*kept.values())


def test_g4_check_shows_no_secret_right_or_wrong(house: Canaries, tmp_path: Path) -> None:
    right = (house.server.directory / "config.yaml").read_text()
    wrong = right.replace("kind: openai", "kind: nobodys").replace("api_keys: [", "api_keyz: [")
    for text in (right, wrong, right.replace("admin_keys: [", "admin_keys: [[")):
        (tmp_path / "config.yaml").write_text(text)
        command = [
            sys.executable,
            "-m",
            "chattable.proxy",
            "check",
            "--config",
            str(tmp_path / "config.yaml"),
        ]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
        assert not house.found(said.stdout, said.stderr), said
