"""Names with slashes, per cents and dots as parts of a path: whatever may be called so is found."""

from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

import httpx
import pytest
from conversations import talk
from openai import NotFoundError, OpenAI
from process import Chattable, chattable

NAMES = [
    "red/alice",
    "https://issuer.example/sub/7",
    "a//b",
    "/",
    "a/",
    "a%2Fb",
    "100%",
    "%2F",
    "a/keys",
    "..a",
    "what?#x",
    "müsli/🥣",
    "a\\b",
    "a;b=c",
]
CONFIG = """
agents: {"red/echo": {use: "chattable.agents.echo:Echo"}}
default_model: red/echo
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Chattable]:
    with chattable(CONFIG) as running:
        yield running


def part(name: str) -> str:
    return quote(name, safe="")


@pytest.mark.parametrize("name", NAMES)
def test_a_user_is_found_by_name(server: Chattable, name: str) -> None:
    made = server.admin("POST", "/admin/users", {"name": name, "team": f"team {name}".strip()})
    path = f"/admin/users/{part(name)}"
    assert server.admin("GET", path) == made
    assert server.admin("PATCH", path, {"disabled": True})["disabled"] is True
    key = server.admin("POST", f"{path}/keys", {})
    assert [one["id"] for one in server.admin("GET", f"{path}/keys")["data"]] == [key["id"]]
    assert server.admin("DELETE", f"{path}/keys/{key['id']}")["revoked_at"]
    assert server.admin("DELETE", path)["id"] == made["id"]
    with pytest.raises(HTTPError, match="404"):
        server.admin("GET", path)


@pytest.mark.parametrize("name", NAMES)
def test_a_team_is_found_by_name(server: Chattable, name: str) -> None:
    made = server.admin("POST", "/admin/teams", {"name": name})
    assert server.admin("GET", f"/admin/teams/{part(name)}") == made
    renamed = server.admin("PATCH", f"/admin/teams/{part(name)}", {"name": f"{name}/2"})
    assert renamed["id"] == made["id"]
    assert server.admin("DELETE", f"/admin/teams/{part(f'{name}/2')}")["id"] == made["id"]


@pytest.mark.parametrize("kind", ["users", "teams"])
@pytest.mark.parametrize("name", [".", ".."])
def test_a_name_that_no_path_can_have_is_refused(server: Chattable, kind: str, name: str) -> None:
    """Clients and proxies take such parts out of a path."""
    with pytest.raises(HTTPError, match="400"):
        server.admin("POST", f"/admin/{kind}", {"name": name})


@pytest.mark.parametrize("name", NAMES)
def test_a_conversation_is_found_by_the_name_that_its_client_gave_it(
    server: Chattable,
    name: str,
) -> None:
    sdk = OpenAI(
        base_url=f"{server.base_url}/v1",
        api_key=server.user_key("conny"),
        max_retries=0,
        timeout=20,
    )
    told = talk(sdk, "hi", conversation=name, model="red/echo")
    found: Any = sdk.conversations.retrieve(name)
    assert (found.id, found.alias) == (told.session, name)
    items: Any = sdk.conversations.items.list(name).data
    (answer, question) = items
    assert sdk.conversations.items.retrieve(question.id, conversation_id=name).id == question.id
    key = {"authorization": f"Bearer {sdk.api_key}"}
    path = f"{server.base_url}/v1/conversations/{part(name)}"
    assert httpx.get(f"{path}/export", headers=key).status_code == 200
    assert httpx.get(f"{path}/usage", headers=key).json()["message_count"] == 2
    forked = httpx.post(f"{path}/fork", headers=key, json={"at": question.id})
    assert forked.json()["message_count"] == 1
    assert sdk.conversations.items.delete(answer.id, conversation_id=name).id == told.session
    assert sdk.conversations.delete(name).deleted
    with pytest.raises(NotFoundError):
        sdk.conversations.retrieve(name)


def test_an_item_is_found_by_an_id_with_a_slash(server: Chattable) -> None:
    sdk = OpenAI(
        base_url=f"{server.base_url}/v1",
        api_key=server.user_key("conny"),
        max_retries=0,
        timeout=20,
    )
    item: Any = {"type": "reasoning", "id": "rs/1%2F", "summary": []}
    made = sdk.conversations.create(items=[item])
    assert sdk.conversations.items.retrieve("rs/1%2F", conversation_id=made.id).id == "rs/1%2F"


def test_a_model_is_found_with_and_without_its_slash_encoded(server: Chattable) -> None:
    key = {"authorization": f"Bearer {server.user_key('conny')}"}
    for path in ("red/echo", "red%2Fecho", "red%2fecho"):
        told = httpx.get(f"{server.base_url}/v1/models/{path}", headers=key)
        assert told.json()["id"] == "red/echo"


@pytest.mark.parametrize(
    "path",
    ["/admin/users/a%2Fb%2", "/admin%2Fusers", "/admin/users/%ff%2F", "/v1/conversations/%2F%2F"],
)
def test_a_path_that_leads_nowhere_is_a_404(server: Chattable, path: str) -> None:
    told = httpx.get(
        f"{server.base_url}{path}",
        headers={"authorization": f"Bearer {server.admin_key}"},
    )
    assert told.status_code == 404
    assert told.json()["error"].keys() == {"message", "type", "param", "code"}


def test_an_attempt_at_such_a_path_is_audited_as_it_was_sent(server: Chattable) -> None:
    key = {"authorization": f"Bearer {server.user_key('eve')}"}
    assert httpx.get(f"{server.base_url}/admin/users/a%2Fb", headers=key).status_code == 403
    (entry,) = server.admin("GET", "/admin/audit?action=denied")["data"]
    assert "GET /admin/users/a%2Fb" in str(entry)
