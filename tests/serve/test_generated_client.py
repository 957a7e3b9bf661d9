"""A client made from our OpenAPI document by openapi-python-client calls every route."""

import importlib
import inspect
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from process import Chattable, chattable

CONFIG = """
agents: {echo: {use: "chattable.agents.echo:Echo"}}
cache: {scope: user}
"""
PACKAGE = "generated_client"
FORWARDED = (
    *("embeddings", "completions", "moderations", "rerank"),
    *("images_generations", "audio_speech"),
)


class Client:
    """The generated package, bound to a server; notes which operations were called."""

    def __init__(self, server: Chattable, document: dict[str, Any]) -> None:
        self.tags = {
            operation["operationId"]: operation["tags"][0].lower().replace(" ", "_")
            for methods in document["paths"].values()
            for operation in methods.values()
        }
        self.called: set[str] = set()
        package = importlib.import_module(PACKAGE)
        self.types = importlib.import_module(f"{PACKAGE}.types")
        self.models = importlib.import_module(f"{PACKAGE}.models")
        self._clients = {
            key: package.AuthenticatedClient(base_url=server.base_url, token=key)
            for key in (server.admin_key, server.user_key("alice"))
        }
        self.admin, self.alice = self._clients

    def __call__(
        self, name: str, key: str, status: int = 200, body: Any = None, /, **given: Any
    ) -> Any:
        """Calls an operation, and returns its answer; no field of it is unknown to its type."""
        module = importlib.import_module(f"{PACKAGE}.api.{self.tags[name]}.{name}")
        call = module.sync_detailed
        if (told := given.pop("body", body)) is not None:
            given["body"] = self._typed(call, told)
        answer = call(client=self._clients[key], **given)
        assert answer.status_code == status, (name, answer.content)
        assert answer.parsed is not None, name
        self.called.add(name)
        if isinstance(answer.parsed, self.types.File):
            return answer.content
        sent = json.loads(answer.content)
        assert answer.parsed.to_dict() == sent, name
        free = getattr(answer.parsed, "additional_properties", {})
        assert not free or name in ("get_item", "chat_completions"), (name, free)
        return sent

    def _typed(self, call: Any, body: Any) -> Any:
        if isinstance(body, bytes):
            return self.types.File(payload=io.BytesIO(body))
        hint = inspect.signature(call).parameters["body"].annotation
        kinds = [kind for kind in get_args(hint) or (hint,) if hasattr(kind, "from_dict")]
        return kinds[0].from_dict(body)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("generated")
    with chattable(CONFIG) as server:
        text = httpx.get(f"{server.base_url}/schema/openapi.json", trust_env=False).text
        source = folder / "openapi.json"
        source.write_text(text)
        made = subprocess.run(
            [
                *(sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"),
                *("--path", str(source), "--output-path", str(folder / PACKAGE)),
                "--fail-on-warning",
            ],
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        sys.path.insert(0, str(folder))
        try:
            yield Client(server, json.loads(text))
        finally:
            sys.path.remove(str(folder))


def test_every_route_is_called(client: Client) -> None:
    """One life of a server's things, by the generated client alone."""
    admin, alice = client.admin, client.alice
    for name in ("get_root", "get_health", "get_readiness"):
        client(name, alice)

    client("create_team", admin, 201, {"name": "red"})
    client("rename_team", admin, team="red", body={"name": "blue"})
    client("get_team", admin, team="blue")
    client("list_teams", admin, limit=1)
    client("create_user", admin, 201, {"name": "bob", "team": "blue"})
    client("update_user", admin, user="bob", body={"team": None, "disabled": False})
    client("get_user", admin, user="bob")
    client("list_users", admin)
    key = client("create_key", admin, 201, {"models": ["echo"]}, user="bob")
    client("list_keys", admin, user="bob")
    client("revoke_key", admin, user="bob", key_id=key["id"])

    made = {"subject": {"user": "alice"}, "per": "day", "tokens": 1000, "cost_usd": 1.5}
    budget = client("create_budget", admin, 201, made)["id"]
    client("change_budget", admin, limit_id=budget, body={"cost_usd": None, "mode": "soft"})
    client("grant_budget", admin, limit_id=budget, body={"reason": "more", "tokens": 5})
    client("refund_budget", admin, limit_id=budget, body={"reason": "less", "tokens": 5})
    client("list_budgets", admin, user="alice")
    client("list_ledger", admin, after=0, limit=10)
    client("verify_ledger", admin)

    hello = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
    client("chat_completions", alice, body=hello)
    for name in FORWARDED:
        client(f"forward_{name}", alice, 404, {"model": "nothing", "input": "x", "prompt": "x"})
    client("list_models", alice)
    client("get_model", alice, name="echo")
    client("list_targets", admin)
    client("list_my_budgets", alice)
    client("get_my_usage", alice, group_by="model,day")
    client("get_usage", admin, group_by="user")
    client("list_events", admin)
    client("get_cache", admin)
    client("purge_cache", admin, user="alice")

    said = {"type": "message", "role": "user", "content": "hello"}
    new = {"metadata": {"topic": "greeting"}, "items": [said]}
    talk = client("create_conversation", alice, body=new)["id"]
    client("update_conversation", alice, conversation_id=talk, body={"title": "Greeting"})
    client("title_conversation", alice, conversation_id=talk, body={"title": "Hello"})
    client("get_conversation", alice, conversation_id=talk)
    client("list_conversations", alice, limit=5)
    client("get_conversation_usage", alice, conversation_id=talk)
    item = client("add_items", alice, conversation_id=talk, body={"items": [said]})["first_id"]
    client("list_items", alice, conversation_id=talk, order=client.models.ListItemsOrder.ASC)
    client("get_item", alice, conversation_id=talk, item_id=item)
    client("fork_conversation", alice, conversation_id=talk, body={"at": item})
    file = client("export_conversation", alice, conversation_id=talk)
    report = client("import_conversations", alice, body=file)
    assert report["imported"] == 1, report
    client("delete_item", alice, conversation_id=talk, item_id=item)
    session = client("list_sessions", admin, user="alice", limit=1)["data"][0]["id"]
    client("get_session", admin, session_id=session)
    client("delete_session", admin, session_id=session)
    client("delete_conversation", alice, conversation_id=talk)

    client("delete_budget", admin, limit_id=budget)
    client("delete_user", admin, user="bob")
    client("delete_team", admin, team="blue")
    client("list_audit", admin, limit=5)
    assert client.called == set(client.tags)


def test_an_error_is_a_value(client: Client) -> None:
    refused = client("list_users", client.alice, 403)
    assert refused["error"]["code"] == "forbidden"
    wrong = client("create_budget", client.admin, 400, {"subject": {}, "per": "day"})
    assert wrong["error"]["param"] == "subject"
