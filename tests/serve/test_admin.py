"""Users and keys over HTTP, as the contract has them, and what a key opens from one moment to the next."""

import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import psutil
import pytest
from echo_model import ask
from process import Chattable, chattable

from chattable.proxy.app import build
from chattable.proxy.config.settings import Config

CONFIG = """
agents:
  echo: {use: "chattable.agents.echo:Echo"}
  parrot: {use: "chattable.agents.echo:Echo"}
  script: {use: "chattable.agents.scripted:Scripted", replies: ["hi"]}
"""
ERROR = {"message", "type", "param", "code"}
USER = {"id", "object", "name", "team", "disabled", "admin", "created_at"}
KEY = {
    "id",
    "object",
    "user_id",
    "name",
    "prefix",
    "models",
    "trusted",
    "expires_at",
    "revoked_at",
    "created_at",
}


class Office:
    """Asks one server, as its admin unless told otherwise."""

    def __init__(self, server: Chattable) -> None:
        self.server = server
        self.http = httpx.Client(base_url=server.base_url, trust_env=False, timeout=30)

    def __call__(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, **more: Any
    ) -> httpx.Response:
        secret = self.server.admin_key if key is None else key
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        more |= {} if body is None else {"json": body}
        return self.http.request(method, path, headers=headers, **more)

    def user(self, **fields: Any) -> Any:
        """A new user, by a name that nobody has had."""
        answer = self("POST", "/admin/users", {"name": f"user-{uuid4().hex}"} | fields)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def key(self, user: str, **fields: Any) -> Any:
        answer = self("POST", f"/admin/users/{quote(user)}/keys", fields)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def chat(self, key: str, model: str = "echo") -> httpx.Response:
        return self("POST", "/v1/chat/completions", ask("hi") | {"model": model}, key=key)

    def models(self, key: str) -> list[str]:
        return [model["id"] for model in self("GET", "/v1/models", key=key).json()["data"]]


@pytest.fixture(scope="module")
def office() -> Iterator[Office]:
    with chattable(CONFIG) as server:
        yield Office(server)


def refused(
    answer: httpx.Response, status: int, code: str | None = None, param: str | None = None
) -> str:
    """Asserts the one form that errors have, and returns the message."""
    assert answer.status_code == status, answer.text
    assert answer.headers["x-request-id"] and answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error.keys() == ERROR and isinstance(error["message"], str)
    assert (error["code"], error["param"]) == (code, param)
    return str(error["message"])


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


# -- users -------------------------------------------------------------------------------------------------------------


def test_a_user_has_the_fields_of_the_contract(office: Office) -> None:
    answer = office("POST", "/admin/users", {"name": "alice", "team": "red"})
    alice = answer.json()
    assert answer.status_code == 201 and alice.keys() == USER
    assert alice["id"].startswith("user_") and abs(alice["created_at"] - time.time()) < 60
    assert {k: alice[k] for k in USER - {"id", "created_at"}} == {
        "object": "user", "name": "alice", "team": "red", "disabled": False, "admin": False,
    }  # fmt: skip
    for name in ("alice", alice["id"]):
        found = office("GET", f"/admin/users/{name}")
        assert (found.status_code, found.json()) == (200, alice)


@pytest.mark.parametrize(
    "name", ["Zoë Müller", "a.b@c.example", "名前", "50% off", "x y", "..x", "?q=1#f"]
)
def test_any_printable_name_is_an_address(name: str, office: Office) -> None:
    made = office.user(name=name)
    assert office("GET", f"/admin/users/{quote(name, safe='')}").json() == made
    assert office.key(name)["user_id"] == made["id"]


def test_a_user_changes(office: Office) -> None:
    user = office.user(team="red")
    assert office("PATCH", f"/admin/users/{user['name']}", {"team": "blue"}).json() == user | {
        "team": "blue"
    }
    changes = {"name": f"new-{user['name']}", "team": None, "admin": True, "disabled": True}
    assert office("PATCH", f"/admin/users/{user['id']}", changes).json() == user | changes
    assert office("GET", f"/admin/users/{user['id']}").json() == user | changes
    assert office("PATCH", f"/admin/users/{user['id']}", {}).json() == user | changes
    refused(office("GET", f"/admin/users/{user['name']}"), 404, "not_found")


def test_users_come_in_pages() -> None:
    with chattable(CONFIG) as server:
        office = Office(server)
        empty = {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}
        assert office("GET", "/admin/users").json() == empty
        ids = [office.user()["id"] for _ in range(5)]
        seen: list[str] = []
        after: dict[str, str] = {}
        for count, more in ((2, True), (2, True), (1, False)):
            page = office("GET", "/admin/users", params={"limit": 2} | after).json()
            got = [user["id"] for user in page["data"]]
            assert (len(got), page["has_more"], page["object"]) == (count, more, "list")
            assert (page["first_id"], page["last_id"]) == (got[0], got[-1])
            seen, after = seen + got, {"after": got[-1]}
        assert sorted(seen) == sorted(ids)
        assert office("GET", "/admin/users", params={"after": seen[-1]}).json() == empty
        whole = office("GET", "/admin/users").json()
        assert [user["id"] for user in whole["data"]] == seen and not whole["has_more"]


# -- keys --------------------------------------------------------------------------------------------------------------


def test_a_key_has_the_fields_of_the_contract_and_its_secret_once(office: Office) -> None:
    user = office.user()
    key = office.key(user["name"], name="laptop", models=["echo"])
    assert (
        key.keys() == KEY | {"key"}
        and key["id"].startswith("key_")
        and key["key"].startswith("sk-")
    )
    assert {k: key[k] for k in ("object", "user_id", "name", "models", "trusted", "expires_at", "revoked_at")} == {
        "object": "key", "user_id": user["id"], "name": "laptop", "models": ["echo"],
        "trusted": False, "expires_at": None, "revoked_at": None,
    }  # fmt: skip
    secret = key.pop("key")
    listed = office("GET", f"/admin/users/{user['id']}/keys")
    assert (
        listed.json()["data"] == [key]
        and listed.json()["first_id"] == listed.json()["last_id"] == key["id"]
    )
    assert secret not in listed.text and key["prefix"] != secret
    assert secret not in office.server.log()


@pytest.mark.parametrize(
    "secret", ["My API Key", "sk-from elsewhere/0123", "12345678", 'quo"ted, key; =x']
)
def test_an_existing_secret_is_imported(secret: str, office: Office) -> None:
    user = office.user()
    key = office.key(user["id"], key=secret)
    assert key["key"] == secret
    assert office.chat(secret).json()["choices"][0]["message"]["content"] == "hi"
    refused(
        office("POST", f"/admin/users/{user['id']}/keys", {"key": secret}),
        409,
        "already_exists",
        "key",
    )
    office("DELETE", f"/admin/users/{user['id']}")


@pytest.mark.parametrize(
    "secret", ["", "short", " " * 20, "a" * 513, "line\nbreaks", "clé-secrète", "nul\0nul-nul"]
)
def test_a_secret_that_no_header_can_carry_is_refused(secret: str, office: Office) -> None:
    refused(
        office("POST", f"/admin/users/{office.user()['id']}/keys", {"key": secret}),
        400,
        "invalid_value",
        "key",
    )


@pytest.mark.parametrize(
    ("models", "visible"),
    [
        (None, ["echo", "parrot", "script"]),
        (["echo"], ["echo"]),
        (["e*", "script"], ["echo", "script"]),
        (["*"], ["echo", "parrot", "script"]),
        (["elsewhere"], []),
    ],
)
def test_a_key_opens_its_models(
    models: list[str] | None, visible: list[str], office: Office
) -> None:
    secret = office.key(office.user()["id"], models=models)["key"]
    assert sorted(office.models(secret)) == visible
    for model in ("echo", "parrot", "script"):
        one, answer = office("GET", f"/v1/models/{model}", key=secret), office.chat(secret, model)
        if model in visible:
            assert (one.status_code, one.json()["id"], answer.status_code) == (200, model, 200)
        else:
            same = refused(office.chat(secret, "no-such-model"), 404, "model_not_found", "model")
            for hidden in (one, answer):  # as if it did not exist
                assert (
                    refused(hidden, 404, "model_not_found", "model").replace(model, "no-such-model")
                    == same
                )


def test_an_expired_key_opens_nothing(office: Office) -> None:
    user = office.user()
    soon = office.key(user["id"], expires_at=int(time.time()) + 2)["key"]
    assert office.chat(soon).status_code == 200
    until(lambda: office.chat(soon).status_code == 401, 5)
    assert "expired" in refused(office.chat(soon), 401, "invalid_api_key")


def test_a_revoked_key_opens_nothing_from_the_next_request_on(office: Office) -> None:
    user = office.user()
    key, other = office.key(user["id"]), office.key(user["id"])
    assert office.chat(key["key"]).status_code == 200
    revoked = office("DELETE", f"/admin/users/{user['name']}/keys/{key['id']}")
    assert revoked.status_code == 200 and revoked.json()["revoked_at"] >= key["created_at"]
    assert "revoked" in refused(office.chat(key["key"]), 401, "invalid_api_key")
    again = office("DELETE", f"/admin/users/{user['name']}/keys/{key['id']}")
    assert again.json() == revoked.json()
    assert office.chat(other["key"]).status_code == 200


def test_a_disabled_user_is_refused_until_enabled(office: Office) -> None:
    user = office.user()
    secret = office.key(user["id"])["key"]
    assert office.chat(secret).status_code == 200
    office("PATCH", f"/admin/users/{user['id']}", {"disabled": True})
    assert "disabled" in refused(office.chat(secret), 401, "invalid_api_key")
    office("PATCH", f"/admin/users/{user['id']}", {"disabled": False})
    assert office.chat(secret).status_code == 200


def test_a_deleted_user_takes_all_keys_along(office: Office) -> None:
    user = office.user()
    secret = office.key(user["id"])["key"]
    assert office.chat(secret).status_code == 200
    gone = office("DELETE", f"/admin/users/{user['name']}")
    assert (gone.status_code, gone.json()) == (
        200,
        {"id": user["id"], "object": "user.deleted", "deleted": True},
    )
    refused(office.chat(secret), 401, "invalid_api_key")
    refused(office("GET", f"/admin/users/{user['id']}"), 404, "not_found")
    refused(office("DELETE", f"/admin/users/{user['id']}"), 404, "not_found")
    assert office.user(name=user["name"])["id"] != user["id"]


# -- who may -----------------------------------------------------------------------------------------------------------

EDGE: Any = build(Config(database_url="sqlite:///:memory:"))
DOCUMENT = EDGE.app.openapi_schema.to_schema()
ROUTES = [
    (method.upper(), re.sub(r"{\w+}", "x", path))
    for path, methods in DOCUMENT["paths"].items()
    for method in methods
    if path.startswith("/admin/")
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_only_an_admin_administers(method: str, path: str, office: Office) -> None:
    refused(office(method, path, key=""), 401)
    refused(office(method, path, key="sk-" + "x" * 40), 401, "invalid_api_key")
    refused(
        office(method, path, key=office.key(office.user()["id"], trusted=True)["key"]),
        403,
        "forbidden",
    )


def test_an_admin_among_the_users_administers_until_demoted(office: Office) -> None:
    boss = office.user(admin=True)
    secret = office.key(boss["id"])["key"]
    assert office("GET", "/admin/users", key=secret).status_code == 200
    office("PATCH", f"/admin/users/{boss['id']}", {"admin": False})
    refused(office("GET", "/admin/users", key=secret), 403, "forbidden")


def test_an_unknown_key_is_not_repeated_whole(office: Office) -> None:
    secret = "sk-" + uuid4().hex
    message = refused(office.chat(secret), 401, "invalid_api_key")
    assert secret not in message and secret[-4:] in message
    assert secret not in office.server.log()


# -- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "param"),
    [
        ("POST", "/admin/users", {}, "missing_required_parameter", "name"),
        ("POST", "/admin/users", {"name": 7}, "invalid_type", "name"),
        ("POST", "/admin/users", {"name": ""}, "invalid_value", "name"),
        ("POST", "/admin/users", {"name": "user_1"}, "invalid_value", "name"),
        ("POST", "/admin/users", {"name": "x" * 1000}, "invalid_value", "name"),
        ("POST", "/admin/users", {"name": "a\0b"}, "invalid_value", "name"),
        ("POST", "/admin/users", {"name": "n", "team": ["red"]}, "invalid_type", "team"),
        ("POST", "/admin/users", {"name": "n", "admin": "yes"}, "invalid_type", "admin"),
        ("POST", "/admin/users", {"name": "n", "nickname": "x"}, "unknown_parameter", "nickname"),
        ("POST", "/admin/users", [1], None, None),
        ("PATCH", "/admin/users/bob", {"disabled": 1}, "invalid_type", "disabled"),
        ("PATCH", "/admin/users/bob", {"name": ""}, "invalid_value", "name"),
        ("POST", "/admin/users/bob/keys", {"models": []}, "invalid_value", "models"),
        ("POST", "/admin/users/bob/keys", {"models": "echo"}, "invalid_type", "models"),
        ("POST", "/admin/users/bob/keys", {"models": ["echo", 1]}, "invalid_type", "models[1]"),
        ("POST", "/admin/users/bob/keys", {"expires_at": -1}, "invalid_value", "expires_at"),
        ("POST", "/admin/users/bob/keys", {"expires_at": "tomorrow"}, "invalid_type", "expires_at"),
        ("POST", "/admin/users/bob/keys", {"expires_at": 10**15}, "invalid_value", "expires_at"),
        ("POST", "/admin/users/bob/keys", {"expires_at": 1}, "invalid_value", "expires_at"),
        ("POST", "/admin/users/bob/keys", {"name": ""}, "invalid_value", "name"),
        ("POST", "/admin/users/bob/keys", {"scopes": []}, "unknown_parameter", "scopes"),
        ("GET", "/admin/users?limit=0", None, "invalid_value", "limit"),
        ("GET", "/admin/users?limit=many", None, None, "limit"),
        ("GET", "/admin/users?after=user_nobody", None, "invalid_value", "after"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_told_where(
    method: str, path: str, body: Any, code: str | None, param: str | None, office: Office
) -> None:
    office("POST", "/admin/users", {"name": "bob"})
    refused(office(method, path, body), 400, code, param)


@pytest.mark.parametrize("content", [b"", b"{", b'{"name": "\xff"}', b"[[", b"name=alice"])
def test_a_body_that_is_no_json_is_told(content: bytes, office: Office) -> None:
    refused(office("POST", "/admin/users", content=content), 400)


def test_what_is_not_there(office: Office) -> None:
    user = office.user()
    for method, path in ROUTES:
        if path.startswith("/admin/users/x"):
            body: Any = {} if method in ("POST", "PATCH") else None
            refused(office(method, path.replace("/x", f"/{uuid4().hex}"), body), 404, "not_found")
    refused(office("DELETE", f"/admin/users/{user['id']}/keys/key_nothing"), 404, "not_found")
    refused(office("GET", "/admin/nothing"), 404, "not_found")
    refused(office("PUT", "/admin/users"), 405, "method_not_allowed")


def test_a_key_is_revoked_by_its_own_user_only(office: Office) -> None:
    owner, other = office.user(), office.user()
    key = office.key(owner["id"])
    refused(office("DELETE", f"/admin/users/{other['id']}/keys/{key['id']}"), 404, "not_found")
    assert office.chat(key["key"]).status_code == 200


def test_a_name_is_given_once(office: Office) -> None:
    user, other = office.user(), office.user()
    assert user["name"] in refused(
        office("POST", "/admin/users", {"name": user["name"]}), 409, "already_exists", "name"
    )
    refused(
        office("PATCH", f"/admin/users/{other['id']}", {"name": user["name"]}),
        409,
        "already_exists",
        "name",
    )


# -- several workers ---------------------------------------------------------------------------------------------------


def test_workers_share_keys() -> None:
    with chattable("server: {workers: 2}\n" + CONFIG) as server:
        office, crowd = Office(server), []

        def workers_met() -> bool:
            """Opens one more connection, and says whether the open ones lead to both workers."""
            crowd.append(Office(server))
            assert crowd[-1]("GET", "/health").status_code == 200
            mine = {
                c.laddr.port
                for c in psutil.Process().net_connections("tcp")
                if c.status == "ESTABLISHED"
            }
            ends = {
                p.pid: {c.raddr.port for c in p.net_connections("tcp") if c.raddr}
                for p in server.tree()
            }
            return sum(bool(ports & mine) for ports in ends.values()) == 2

        until(workers_met, 20)
        user = office.user()
        key = office.key(user["id"])
        assert [one.chat(key["key"]).status_code for one in crowd] == [200] * len(crowd)
        office("DELETE", f"/admin/users/{user['id']}/keys/{key['id']}")
        until(lambda: all(one.chat(key["key"]).status_code == 401 for one in crowd), 2)
        second = office.key(user["id"])["key"]
        assert [one.chat(second).status_code for one in crowd] == [200] * len(crowd)
        office("DELETE", f"/admin/users/{user['id']}")
        until(lambda: all(one.chat(second).status_code == 401 for one in crowd), 2)


def test_a_secret_in_a_path_is_not_in_the_log(office: Office) -> None:
    secret = office.server.user_key("careless")
    refused(office("DELETE", f"/admin/users/careless/keys/{secret}"), 404, "not_found")
    until(lambda: "/admin/users/careless/keys/sk-****" in office.server.log(), 5)
    assert secret not in office.server.log()
