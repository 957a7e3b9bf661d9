"""What a conversation's params may ask (F1): at every door, no more than the key itself may ask.

The real server with an upstream that keeps a log of what it was asked; the key may ask one model
and the agents above it.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from answers import Request
from conversations import Kept
from hypothesis import given, settings
from hypothesis import strategies as st
from process import Chattable, chattable
from promises.house import until
from upstream import ScriptedUpstream

AGENTS = '''
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from msgspec import Meta

from chattable.agents.chat import Message
from chattable.agents.chattable import Chattable, Context


class Rounds(Chattable):
    """Asks so many times."""

    accepts = {"rounds": Annotated[int, Meta(ge=1, le=3)], "mood": Literal["calm", "gruff"]}

    async def chat(self, message: Message, ctx: Context) -> AsyncIterator[str]:
        assert ctx.session is None or ctx.session.params.keys() <= ctx.params.keys()
        for _ in range(ctx.params.get("rounds") or 1):
            yield (await ctx.chat("cheap")).text
'''
CONFIG = """
providers: {{stub: {{kind: openai, base_url: "{url}", api_key: x, retries: 0}}}}
models:
  cheap: {{provider: stub, model: upstream-cheap, price: {{input: 1, output: 2}}}}
  dear: {{provider: stub, model: upstream-dear, price: {{input: 100, output: 200}}}}
agents:
  own: {{use: "params_agents:Rounds"}}
  persona: {{model: cheap, context: "You are terse.", params: {{top_p: 0.5}}}}
"""
MODELS = ["cheap", "own", "persona"]
Body = dict[str, Any]


class Client:
    """A user whose key may ask `MODELS`, and who knows what the upstream was asked meanwhile."""

    def __init__(self, server: Chattable, upstream: ScriptedUpstream, name: str) -> None:
        self.server, self.upstream, self.name, self.kept = server, upstream, name, Kept(server)
        self.http = httpx.Client(base_url=server.base_url, trust_env=False, timeout=30)
        self.http.headers["authorization"] = f"Bearer {server.user_key(name, models=MODELS)}"

    def __call__(self, path: str, body: Any, method: str = "POST", **more: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.http.request(method, f"/v1{path}", content=content, headers=more)

    def create(self, model: str, params: Body) -> httpx.Response:
        return self("/conversations", {"alias": uuid4().hex, "model": model, "params": params})

    def change(self, name: str, **fields: Any) -> httpx.Response:
        return self(f"/conversations/{name}", fields)

    def shown(self, name: str) -> Body:
        return dict(self(f"/conversations/{name}", b"", "GET").json())

    def ask(self, name: str, model: str, **fields: Any) -> tuple[httpx.Response, list[Request]]:
        """A chat in a conversation, and what the upstream was asked for it."""
        before = len(self.upstream.requests)
        body = {"model": model, "messages": [{"role": "user", "content": "one two"}], **fields}
        headers = {"x-session-id": name, "x-session-mode": "append"}
        answer = self("/chat/completions", body, **headers)
        return answer, self.upstream.requests[before:]


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the server, and a command beside it, finds the agents."""
    folder: Path = tmp_path_factory.mktemp("agents")
    (folder / "params_agents.py").write_text(AGENTS)
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


@pytest.fixture(scope="module")
def server(upstream: ScriptedUpstream, path: str) -> Iterator[Chattable]:
    with chattable(CONFIG.format(url=upstream.url), PYTHONPATH=path) as running:
        yield running


@pytest.fixture(scope="module")
def alice(server: Chattable, upstream: ScriptedUpstream) -> Client:
    return Client(server, upstream, "alice")


def refused(answer: httpx.Response, param: str) -> str:
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param, error
    return str(error["message"])


# --- every door, every field --------------------------------------------------------------------

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
# What may be given for a field: what a conversation takes, and what it does not.
FIELDS: dict[str, tuple[list[Any], list[Any]]] = {
    "temperature": ([0, 0.5, None], ["hot", -1, True]),
    "n": ([1, 2], ["50", 0, 129, 10**30, 1.5, [2]]),
    "max_tokens": ([7], [-1, "7", 2**63]),
    "max_completion_tokens": ([9, None], [-1, {}]),
    "seed": ([-5], ["x", 2**64]),
    "stop": (["END", ["a", "b"]], [5, [5]]),
    "logit_bias": ([{"5": 1}], [[], {"5": "x"}]),
    "response_format": ([{"type": "text"}], ["text", {}, []]),
    "reasoning_effort": (["low"], [5]),
    "verbosity": (["low"], [{"x": 1}]),
    "top_k": ([40, -1], ["40"]),
    "model": ([], ["dear", "cheap", None, 5]),
    "messages": ([], [[{"role": "user", "content": "something else"}], [], None]),
    "stream": ([], [True, False, None]),
    "stream_options": ([], [{"include_usage": True}]),
    "tools": ([], [[TOOL], [], None]),
    "tool_choice": ([], ["required"]),
    "functions": ([], [[{"name": "f"}]]),
    "user": ([], ["bob"]),
    "cache": ([], [{"no_store": True}]),
    "service_tier": ([], ["priority"]),
    "unknown": ([], [1, None, {"a": [1]}]),
}
OWN: dict[str, tuple[list[Any], list[Any]]] = {
    "rounds": ([1, 2, 3, None], [0, 4, "2", 1.5]),
    "mood": (["calm"], ["sad", 1]),
}
DOORS = ["create", "update", "import", "restored", "fork"]


@st.composite
def given_params(draw: st.DrawFn) -> tuple[Body, Body]:
    """Some params, and those of them that may go with a request to the agent `own`."""
    names = draw(st.lists(st.sampled_from([*FIELDS, *OWN]), min_size=1, max_size=4, unique=True))
    params: Body = {}
    good: Body = {}
    for name in names:
        right, wrong = FIELDS[name] if name in FIELDS else OWN[name]
        choices = [(value, True) for value in right] + [(value, False) for value in wrong]
        value, fits = draw(st.sampled_from(choices))
        params[name] = value
        good |= {name: value} if fits else {}
    return params, good


def enter(alice: Client, door: str, model: str, params: Body, good: Body) -> str:
    """Brings params in through a door, and returns the conversation.

    What may not be there is refused, or not copied.
    """
    if door == "create":
        answer = alice.create(model, params)
        done, error = answer.json(), answer.json().get("error")
    elif door == "import":
        head = {"object": "chattable.session", "version": 1, "model": model, "params": params}
        file = json.dumps(head) + '\n{"object": "chattable.end", "messages": 0}'
        [done] = alice("/conversations/import", file.encode()).json()["data"]
        error = done["error"]
    else:
        name = str(alice.create(model, {}).json()["id"])
        if door == "update":
            answer = alice.change(name, params=params)
            done, error = answer.json(), answer.json().get("error")
        else:
            alice.kept.update(alice.name, name, params=params)  # as an older version did
            if door == "restored":
                return name
            done, error = alice(f"/conversations/{name}/fork", {}).json(), None
            assert done["params"] == good
            return str(done["id"])
    if params == good:
        assert not error
        return str(done["id"])
    found = re.match(r"params\.(\w+)", error["param"])
    assert found and found[1] in params.keys() - good.keys(), error
    assert done.get("id") is None
    return str(alice.create(model, {}).json()["id"])


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(DOORS), st.sampled_from(MODELS), given_params(), st.booleans())
def test_f1_no_request_leaves_with_what_its_key_may_not_ask(
    alice: Client, door: str, model: str, both: tuple[Body, Body], stream: bool
) -> None:
    params, good = both
    if model != "own":
        good = {name: value for name, value in good.items() if name not in OWN}
    name = enter(alice, door, model, params, good)
    stands = good if params == good or door in ("restored", "fork") else {}
    answer, asked = alice.ask(name, model, stream=stream)
    if model == "own" and (stands.get("n") or 1) > 1:
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
        assert asked == []
        return
    assert answer.status_code == 200, answer.text
    assert len(asked) == (stands.get("rounds") or 1 if model == "own" else 1)
    said = [{"role": "user", "content": "one two"}]
    if model == "persona":
        said = [{"role": "system", "content": "You are terse."}, *said]
        stands = {"top_p": 0.5} | stands
    for request in asked:
        body = dict(request.json)
        assert (body.pop("model"), body.pop("messages")) == ("upstream-cheap", said)
        assert body.pop("stream", False) == stream
        body.pop("stream_options", None)
        assert body == ({} if model == "own" else stands)


def test_f1_the_ledger_is_the_upstreams_log(alice: Client, upstream: ScriptedUpstream) -> None:
    """After everything above: what was charged is what was asked, at the price of the one model."""
    alice.ask("last", "cheap")

    def booked() -> dict[str, tuple[int, float]]:
        rows = alice.server.admin("GET", f"/admin/usage?group_by=model&user={alice.name}")["data"]
        return {row["model"]: (row["total_tokens"], row["cost_usd"]) for row in rows}

    spent = [one for one in upstream.usage_log if one.model == "upstream-cheap"]
    assert len(spent) == len(upstream.usage_log)
    cost = sum(one.prompt_tokens + 2 * one.completion_tokens for one in spent) / 1_000_000
    wanted: Any = {"cheap": (sum(one.total_tokens for one in spent), pytest.approx(cost))}
    until(lambda: booked() == wanted, f"the ledger says {wanted}, as the upstream does", 10)


# --- the doors, one by one ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"model": "dear"}, "params.model"),
        ({"messages": []}, "params.messages"),
        ({"stream": True}, "params.stream"),
        ({"tools": [TOOL]}, "params.tools"),
        ({"n": "50"}, "params.n"),
        ({"n": 129}, "params.n"),
        ({"max_tokens": -1}, "params.max_tokens"),
        ({"response_format": {}}, "params.response_format.type"),
        ({"rounds": 9}, "params.rounds"),
        ({"stop": "\ud83d"}, "params.stop"),
        ({"x\n": 1}, "params.x\ufffd"),
    ],
)
def test_f1_wrong_params_are_refused_by_their_path(alice: Client, params: Body, param: str) -> None:
    refused(alice.create("own", params), param)
    name = alice.create("own", {"rounds": 2}).json()["id"]
    refused(alice.change(name, params=params), param)
    assert alice.shown(name)["params"] == {"rounds": 2}
    told = refused(alice.create("own", {"tools": []}), "params.tools")
    assert "is for each request to say" in told


def test_f1_an_agents_own_params_are_for_its_conversations_only(alice: Client) -> None:
    refused(alice("/conversations", {"params": {"rounds": 2}}), "params.rounds")
    refused(alice.create("cheap", {"rounds": 2}), "params.rounds")
    name = alice.create("own", {"rounds": 2}).json()["id"]
    refused(alice.change(name, model="cheap"), "params.rounds")
    refused(alice.change(name, model=None), "params.rounds")
    assert alice.change(name, model="cheap", params={"n": 2}).status_code == 200
    refused(alice.change(name, params={"mood": "calm"}), "params.mood")
    changed = alice.change(name, model="own", params={"mood": "calm"})
    assert changed.json()["params"] == {"mood": "calm"}


def test_f1_an_agents_own_params_are_typed_in_a_request_too(alice: Client) -> None:
    name = alice.create("own", {"rounds": 3}).json()["id"]
    for fields, param in (({"rounds": 4}, "rounds"), ({"mood": "sad"}, "mood")):
        answer, asked = alice.ask(name, "own", **fields)
        refused(answer, param)
        assert asked == []
    _, asked = alice.ask(name, "own", rounds=2)
    assert len(asked) == 2


def test_f1_a_title_is_changed_whatever_an_older_version_let_in(alice: Client) -> None:
    name = alice.create("cheap", {}).json()["id"]
    alice.kept.update(alice.name, name, params={"model": "dear", "temperature": 1})
    assert alice.change(name, title="Trip").json()["title"] == "Trip"
    refused(alice.change(name, model="persona"), "params.model")
    assert alice.change(name, model="persona", params={}).status_code == 200


def test_f1_what_is_left_out_of_a_conversation_is_logged_once(
    alice: Client,
    server: Chattable,
) -> None:
    name = alice.create("cheap", {}).json()["id"]
    alice.kept.update(alice.name, name, params={"model": "dear", "n": "50", "seed": 1, "od\nd": 2})
    for _ in range(3):
        answer, [request] = alice.ask(name, "cheap")
        assert answer.status_code == 200
        assert request.json["model"] == "upstream-cheap"
        assert request.json["seed"] == 1
    told = [line for line in server.log().splitlines() if name in line]
    assert len(told) == 1
    assert told[0].endswith("that are not for cheap are left out: model, n, od\ufffdd")


def test_f1_an_import_reports_wrong_params_for_each_conversation(
    alice: Client, server: Chattable, path: str, tmp_path: Path
) -> None:
    lines = []
    for params, model in (
        ({"model": "dear"}, "cheap"),
        ({"temperature": 0.5}, None),
        ({"n": "2"}, "cheap"),
        ({"rounds": 3}, "own"),
        ({"rounds": 3}, "cheap"),
    ):
        head = {"object": "chattable.session", "version": 1, "model": model, "params": params}
        lines += [json.dumps(head), '{"object": "chattable.end", "messages": 0}']
    file = tmp_path / "conversations.jsonl"
    file.write_text("\n".join(lines))
    wanted = ["params.model", None, "params.n", None, "params.rounds"]
    report = alice("/conversations/import", file.read_bytes()).json()
    assert (report["imported"], report["failed"]) == (2, 3)
    assert [row["error"] and row["error"]["param"] for row in report["data"]] == wanted
    alice.server.user_key("by-command")
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-m", "chattable.proxy", "import", str(file), "--user", "by-command"],
        capture_output=True, text=True, timeout=60, cwd=server.directory, env=environment,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1].startswith("2 conversations imported, 3 failed")
    assert [name for name in filter(None, wanted) if f"'{name}'" not in done.stdout] == []
    kept = [session.params for session in alice.kept.sessions("by-command")]
    assert sorted(kept, key=str) == [{"rounds": 3}, {"temperature": 0.5}]
