"""Who may reach what: every route of our table with every credential, whose objects (G2).

A route that a feature adds is met here by itself: a user's, an admin's, or everybody's by name.
"""

import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import pytest
from faults.world import wait_for
from litestar import Litestar
from process import Chattable, chattable
from security.victim import Victim

from chattable.proxy.app import build
from chattable.proxy.config.settings import Config

CONFIG = """
agents:
  echo: {use: "chattable.agents.echo:Echo"}
  other: {use: "chattable.agents.echo:Echo"}
cache: {scope: user}
budgets: {default: {tokens: 1000000, per: day}}
"""
EVERYBODYS = re.compile(r"^/($|health$|health/ready$|schema($|/))")
HELLO = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}


@dataclass
class Town:
    """A server with an admin, two users who own something, and keys that are good for nothing."""

    server: Chattable
    client: httpx.Client
    good: dict[str, str]  # keys by whose they are
    bad: dict[str, str]
    owned: dict[str, dict[str, str]]  # by user: what stands for each parameter of a path

    def ask(
        self,
        method: str,
        path: str,
        key: str = "",
        body: Any = None,
        **headers: str,
    ) -> httpx.Response:
        sent = {"authorization": f"Bearer {key}"} if key else {}
        return self.client.request(method, path, headers=sent | headers, json=body)

    def everything(self) -> list[Any]:
        """What admins see of everybody, but not the trail of those who were refused."""
        lists = ["users", "teams", "budgets", "sessions", "users/alice/keys", "users/bob/keys"]
        seen = [self.ask("GET", f"/admin/{path}", self.good["admin key"]).json() for path in lists]
        for user, own in self.owned.items():
            seen.append(
                self.ask(
                    "GET",
                    f"/v1/conversations/{own['conversation_id']}/items",
                    self.good[user],
                ).json()
            )
        return seen


def talk(town: Town, user: str) -> dict[str, str]:
    """A conversation and a budget of a user, as the parameters of paths."""
    chat = town.ask(
        "POST",
        "/v1/chat/completions",
        town.good[user],
        HELLO,
        **{"x-session-id": "shared name"},
    )
    conversation = chat.headers["x-session-id"]
    path = f"/v1/conversations/{conversation}/items"
    items = town.ask("GET", path, town.good[user]).json()["data"]
    limit = town.server.admin(
        "POST",
        "/admin/budgets",
        {"subject": {"user": user}, "per": "day", "tokens": 10**6},
    )
    keys = town.server.admin("GET", f"/admin/users/{user}/keys")["data"]
    return {
        "user": user, "key_id": keys[0]["id"], "team": "red", "limit_id": limit["id"],
        "name": "echo", "path": "openapi.json",
        "session_id": conversation, "conversation_id": conversation, "item_id": items[0]["id"],
    }  # fmt: skip


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with (
        chattable(CONFIG) as server,
        httpx.Client(base_url=server.base_url, trust_env=False, timeout=30) as client,
    ):
        for name in ("alice", "bob"):
            server.admin("POST", "/admin/users", {"name": name, "team": "red"})
        server.admin("POST", "/admin/users", {"name": "boss", "admin": True})
        good = {name: server.user_key(name) for name in ("alice", "bob", "boss")}
        good |= {"trusted": server.user_key("ui", trusted=True), "admin key": server.admin_key}
        bad = {"none": "", "unknown": "sk-" + "u" * 40, "odd": "Basic YTpi"}
        bad["revoked"] = server.admin("POST", "/admin/users/alice/keys", {"name": "old"})["key"]
        keys = server.admin("GET", "/admin/users/alice/keys")["data"]
        [old] = [key for key in keys if key["name"] == "old"]
        server.admin("DELETE", f"/admin/users/alice/keys/{old['id']}")
        bad["expired"] = server.user_key("alice", expires_at=int(time.time()) + 1)
        bad["disabled"] = server.user_key("carol")
        server.admin("PATCH", "/admin/users/carol", {"disabled": True})
        town = Town(server, client, good, bad, {})
        town.owned = {user: talk(town, user) for user in ("alice", "bob")}
        known = partial(town.ask, "GET", "/v1/models", bad["expired"])
        wait_for(lambda: "" if known().status_code == 401 else "not expired yet")
        yield town


def table() -> list[tuple[str, str]]:
    """Every method and path that the application has, each parameter as `{name}`."""
    app = build(Config(database_url="sqlite:///:memory:")).app
    assert isinstance(app, Litestar)
    routes = [(re.sub(r"{(\w+):\w+}", r"{\1}", route.path), route) for route in app.routes]
    pairs = {(method, path) for path, route in routes for method in getattr(route, "methods", ())}
    return sorted((method, path) for method, path in pairs if method != "OPTIONS")


ROUTES = table()
GUARDED = [(method, path) for method, path in ROUTES if not EVERYBODYS.match(path)]


def test_every_route_is_a_users_or_an_admins_or_everybodys() -> None:
    assert len(GUARDED) > 40
    assert not [path for _, path in GUARDED if not path.startswith(("/v1/", "/admin/"))]


CARRIERS: dict[str, Callable[[str], dict[str, str]]] = {
    "bearer": lambda key: {"authorization": f"Bearer {key}"},
    "scheme in other case": lambda key: {"authorization": f"bEARER {key}"},
    "alone": lambda key: {"authorization": key},
    "x-api-key": lambda key: {"x-api-key": key},
}
NO_CARRIERS: dict[str, Callable[[str], Any]] = {
    "query": lambda key: {"params": {"key": key, "api_key": key, "access_token": key}},
    "cookie": lambda key: {"headers": {"cookie": f"key={key}; token={key}; session={key}"}},
    "proxy": lambda key: {"headers": {"proxy-authorization": f"Bearer {key}"}},
    "user and password": lambda key: {"auth": ("admin", key)},
}


@pytest.mark.parametrize("carrier", CARRIERS)
def test_g2_every_route_asks_for_a_good_key_however_it_is_carried(town: Town, carrier: str) -> None:
    before = town.everything()
    for method, path in GUARDED:
        for owner in town.owned.values():
            for which, key in town.bad.items():
                got = town.client.request(
                    method,
                    path.format(**owner),
                    headers=CARRIERS[carrier](key) if key else {},
                    json={},
                )
                assert got.status_code == 401, (method, path, which, got.text)
                assert got.json()["error"]["type"] == "invalid_request_error"
    assert town.everything() == before


@pytest.mark.parametrize("carrier", NO_CARRIERS)
def test_g2_a_key_anywhere_else_opens_nothing(town: Town, carrier: str) -> None:
    for method, path in GUARDED:
        for key in (town.good["admin key"], town.good["alice"]):
            got = town.client.request(
                method,
                path.format(**town.owned["alice"]),
                **NO_CARRIERS[carrier](key),
            )
            assert got.status_code == 401, (method, path, got.text)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_g2_no_user_reaches_an_admins_route_not_even_for_themselves(
    town: Town,
    carrier: str,
) -> None:
    before = town.everything()
    for method, path in GUARDED:
        for owner in town.owned.values() if path.startswith("/admin/") else ():
            for who in ("alice", "trusted"):
                headers = CARRIERS[carrier](town.good[who])
                for body in (
                    None,
                    {"admin": True, "models": None, "tokens": 10**9, "name": "x", "trusted": True},
                ):
                    got = town.client.request(
                        method,
                        path.format(**owner),
                        headers=headers,
                        json=body,
                    )
                    assert (got.status_code, got.json()["error"]["code"]) == (403, "forbidden"), (
                        method,
                        path,
                        who,
                        got.text,
                    )
    assert town.everything() == before


def test_g2_both_kinds_of_admin_reach_every_route(town: Town) -> None:
    nobodys = dict.fromkeys(town.owned["alice"], "nobody") | {"path": "openapi.json"}
    for method, path in ROUTES:
        for who in ("boss", "admin key"):
            got = town.ask(
                method,
                path.format(**nobodys),
                town.good[who],
                {} if method in ("POST", "PATCH") else None,
            )
            assert got.status_code not in (401, 403) and got.status_code < 500, (
                method,
                path,
                who,
                got.text,
            )


FITTING = {  # what a route takes, by the end of its path: so that a body is no reason to refuse
    "{conversation_id}": {"metadata": {}},
    "items": {"items": [{"type": "message", "role": "user", "content": "x"}]},
    "title": {"title": "mine"},
}


@pytest.mark.parametrize("key", ["alice", "trusted"])
def test_15_what_is_anothers_answers_like_what_is_not_there(town: Town, key: str) -> None:
    before = town.everything()
    for method, path in GUARDED:
        if not re.search(r"{(conversation_id|item_id)}", path):
            continue
        bobs = town.owned["bob"]
        nobodys = {name: re.sub(r"(?<=_).*", "0" * 32, own) for name, own in bobs.items()}
        body = FITTING.get(path.rpartition("/")[2], {}) if method == "POST" else None
        targets = [path.format(**whose) for whose in (bobs, nobodys)]
        told = [town.ask(method, target, town.good[key], body) for target in targets]
        assert [answer.status_code for answer in told] == [404, 404], (
            method,
            path,
            [answer.text for answer in told],
        )
        ids = re.compile(
            "|".join(re.escape(own) for own in {*bobs.values(), *nobodys.values()} if "_" in own),
        )
        texts = [answer.text for answer in told]
        assert len({ids.sub("…", text) for text in texts}) == 1, texts
    assert town.everything() == before


def test_1_a_name_of_a_session_leads_to_ones_own_only(town: Town) -> None:
    conversations = {own["conversation_id"] for own in town.owned.values()}
    assert len(conversations) == 2
    for user, own in town.owned.items():
        got = town.ask(
            "POST",
            "/v1/chat/completions",
            town.good[user],
            HELLO,
            **{"x-session-id": "shared name"},
        )
        assert got.headers["x-session-id"] == own["conversation_id"]
    got = town.ask(
        "POST",
        "/v1/chat/completions",
        town.good["alice"],
        HELLO,
        **{"x-session-id": town.owned["bob"]["session_id"]},
    )
    assert got.headers.get("x-session-id") not in (town.owned["bob"]["session_id"], None)
    assert int(got.headers["x-session-injected"]) == 0


SPELLINGS = [
    "{0}/", "/{0}", "{0}//", "/v1{0}", "/v1/v1{0}", "{0};x", "{0};/v1/models", "{0}?x=/v1/models",
    "{0}#/v1/models", "/v1/..{0}", "/v1/models/..{0}", "/health/..{0}", "/./{0}", "{0}/.", "{0}%20",
    "{0}%00", "{0}.json", "http://127.0.0.1{0}",
]  # fmt: skip
POINTERS = {
    "host": "127.0.0.1", "x-forwarded-host": "127.0.0.1", "x-forwarded-for": "127.0.0.1",
    "x-real-ip": "127.0.0.1", "forwarded": "for=127.0.0.1;host=localhost",
    "x-forwarded-user": "admin", "x-forwarded-email": "admin@localhost",
    "x-forwarded-prefix": "/v1",
    "x-forwarded-uri": "/health", "x-original-url": "/health", "x-rewrite-url": "/health",
    "x-http-method-override": "GET", "x-user-id": "boss", "x-openwebui-user-role": "admin",
    "x-remote-user": "admin",
}  # fmt: skip


def test_4_and_10_an_admins_route_is_one_however_the_path_is_written(town: Town) -> None:
    victim = Victim(town.server)
    changes: list[Callable[[str], str]] = [
        str.upper,
        str.title,
        lambda path: path.replace("a", "%61", 1),
        lambda path: path.replace("/", "%2f"),
    ]
    for path in ("/admin/users", "/admin/users/bob", "/admin/budgets"):
        for target in [
            *(form.format(path) for form in SPELLINGS),
            *(change(path) for change in changes),
        ]:
            for auth in (b"", victim.auth):
                got = victim.send(
                    b"GET %b HTTP/1.1\r\nhost: x\r\n%b\r\n" % (target.encode(), auth),
                    method="GET",
                )
                assert got is None or got.status in (400, 401, 403, 404, 405), (target, got)
                assert got is None or got.error["message"], (target, got)


@pytest.mark.parametrize("header", POINTERS)
def test_10_and_11_no_header_beside_the_key_says_who_asks_or_for_what(
    town: Town,
    header: str,
) -> None:
    pointed = {header: POINTERS[header]}
    for method, path in GUARDED:
        target = path.format(**town.owned["bob"])
        assert town.ask(method, target, "", {}, **pointed).status_code == 401
        if path.startswith("/admin/"):
            assert town.ask(method, target, town.good["alice"], {}, **pointed).status_code == 403
    shown = town.ask("GET", "/v1/conversations", town.good["alice"], **pointed)
    assert town.owned["bob"]["conversation_id"] not in [one["id"] for one in shown.json()["data"]]


def test_7_a_user_writes_no_field_of_their_own_row(town: Town) -> None:
    before = town.everything()
    row = {
        "name": "alice",
        "admin": True,
        "team": "blue",
        "budget": {"tokens": 10**9},
        "tokens": 10**9,
        "role": "admin",
    }
    for path in (
        "/v1/me",
        "/v1/me/usage",
        "/v1/me/budgets",
        "/v1/users/alice",
        "/admin/users/alice",
    ):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert town.ask(method, path, town.good["alice"], row).status_code in (403, 404, 405)
    assert town.everything() == before


def test_8_a_key_is_no_wider_than_it_was_made_and_makes_no_other(town: Town) -> None:
    key = town.server.user_key("alice", models=["echo"])
    assert town.ask("POST", "/v1/chat/completions", key, HELLO).status_code == 200
    for body in (
        HELLO | {"model": "other"},
        HELLO | {"model": "other", "models": ["other"]},
        HELLO | {"model": "Echo"},
    ):
        assert town.ask("POST", "/v1/chat/completions", key, body).status_code in (403, 404)
    listed = town.ask("GET", "/v1/models", key).json()["data"]
    assert [model["id"] for model in listed] == ["echo"] and town.ask(
        "GET",
        "/v1/models/other",
        key,
    ).status_code == 404
    assert town.ask("POST", "/admin/users/alice/keys", key, {"name": "wide"}).status_code == 403


def test_22_no_answer_is_kept_by_what_stands_between(town: Town) -> None:
    """Shared caches keep nothing, browsers guess no types, of errors as well."""
    victim = Victim(town.server)
    routes = [(method, path.format(**town.owned["alice"])) for method, path in ROUTES]
    heads = [dict(town.ask(method, path).headers) for method, path in routes]
    for body in (HELLO, HELLO, HELLO | {"stream": True}, {}, HELLO | {"model": "nobody"}):
        heads.append(
            dict(town.ask("POST", "/v1/chat/completions", town.good["alice"], body).headers),
        )
    for data in (b"nonsense\r\n\r\n", b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n"):
        got = victim.send(data)
        assert got is not None
        heads.append(got.headers)
    assert len(heads) > 50
    assert {head["cache-control"] for head in heads} == {"private, no-store"}
    assert {head["x-content-type-options"] for head in heads} == {"nosniff"}


# --- random days of two tenants ----------------------------------------------------------------


def test_g2_two_tenants_never_hear_a_word_of_each_other(town: Town) -> None:
    """Both do the same things under the same names, with canaries, which are searched for."""
    dice = random.Random(20261130)
    users = ("alice", "bob")
    canary = {user: f"canary-{user}-{dice.getrandbits(64):x}" for user in users}
    ids: dict[str, list[str]] = {user: [] for user in users}

    def step(user: str) -> httpx.Response:
        words = f"{canary[user]} {dice.randrange(3)}"
        body = {
            "model": "echo",
            "messages": [{"role": "user", "content": words}],
            "stream": dice.random() < 0.4,
        }
        session = {"x-session-id": dice.choice(["work", "home", *ids["alice"], *ids["bob"]])}
        conversation = dice.choice([*ids["alice"], *ids["bob"], "work"])
        choices: list[tuple[str, str, Any, dict[str, str]]] = [
            ("POST", "/v1/chat/completions", body, {}),
            ("POST", "/v1/chat/completions", body, session),
            ("POST", "/v1/chat/completions", body | {"model": "nobody"}, session),
            ("POST", "/v1/chat/completions", HELLO, session | {"cache-control": "max-age=60"}),
            ("POST", "/v1/chat/completions", body, {"idempotency-key": f"key {dice.randrange(3)}"}),
            ("POST", "/v1/conversations", {"metadata": {"word": canary[user]}}, {}),
            ("GET", "/v1/conversations?limit=100", None, {}),
            ("GET", f"/v1/conversations/{conversation}", None, {}),
            ("GET", f"/v1/conversations/{conversation}/items", None, {}),
            ("GET", f"/v1/conversations/{conversation}/export", None, {}),
            ("POST", f"/v1/conversations/{conversation}/fork", {}, {}),
            ("POST", f"/v1/conversations/{conversation}/title", {"title": canary[user]}, {}),
            ("GET", "/v1/me/usage?group_by=session,model", None, {}),
            ("GET", "/v1/me/budgets", None, {}),
        ]
        method, path, sent, headers = dice.choice(choices)
        return town.ask(method, path, town.good[user], sent, **headers)

    for _ in range(400):
        user, other = dice.sample(users, 2)
        got = step(user)
        assert got.status_code < 500, got.text
        told = f"{got.headers} {got.text}"
        assert canary[other] not in told, told
        if got.headers.get("x-session-id"):
            ids[user] = [*ids[user], got.headers["x-session-id"]][-5:]
    for user, other in (users, users[::-1]):
        everything = town.ask("GET", "/v1/conversations?limit=100", town.good[user]).text
        assert canary[user] in everything and canary[other] not in everything
    assert not [word for word in canary.values() if word in town.server.log()]
