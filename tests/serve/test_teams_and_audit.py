"""Teams and the audit trail over HTTP, on both databases: what a team keeps when it changes, and what an entry never holds."""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from databases import held, migrated_postgres, transaction
from process import Chattable, chattable
from sqlalchemy import text
from upstream import ScriptedUpstream

from chattable.proxy.store.database import Database

CONFIG = """
providers: {{stub: {{kind: openai, base_url: "{url}", api_key: x}}}}
models:
  gpt-small: {{provider: stub}}
  "wild/*": {{provider: stub}}
agents: {{parrot: {{use: "chattable.agents.echo:Echo"}}}}
default_model: gpt-small
"""
TEAM = {"id", "object", "name", "created_at"}
ENTRY = {
    "id", "object", "created_at", "actor", "actor_name", "action", "target", "target_name", "request_id", "details", "outcome",
}  # fmt: skip
HOSTILE = ["", " x", "x" * 10_240, "nul\0", "line\nbreak", "\x85", "\u2028"]


class Office:
    """Asks one server, as its admin unless told otherwise."""

    def __init__(self, server: Chattable, url: str) -> None:
        self.server, self.url = server, url
        self.http = httpx.Client(base_url=server.base_url, trust_env=False, timeout=30)

    def __call__(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, **query: Any
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.server.admin_key if key is None else key}"}
        content = None if body is None else json.dumps(body)
        return self.http.request(
            method, path, headers=headers, content=content, params=query or None
        )

    def made(self, path: str, **body: Any) -> Any:
        answer = self("POST", path, body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def audit(self, **query: Any) -> list[Any]:
        answer = self("GET", "/admin/audit", **({"limit": 1000} | query))
        assert answer.status_code == 200, answer.text
        return list(answer.json()["data"])

    def newest(self, answer: httpx.Response) -> Any:
        """The one entry of a request."""
        [entry] = [
            entry
            for entry in self.audit(limit=50)
            if entry["request_id"] == answer.headers["x-request-id"]
        ]
        return entry

    def sql(self, statement: str) -> list[Any]:
        """Runs a statement beside the server."""

        async def run() -> list[Any]:
            database = Database(self.url)
            await database.start()
            async with transaction(database) as connection:
                result = await connection.execute(text(statement))
                rows = list(result.all()) if result.returns_rows else []
            await database.stop()
            return rows

        return asyncio.run(run())


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def office(
    request: pytest.FixtureRequest, upstream: ScriptedUpstream, tmp_path_factory: Any
) -> Iterator[Office]:
    config = CONFIG.format(url=upstream.url)
    if request.param == "sqlite":
        folder = tmp_path_factory.mktemp("serve")
        with chattable(config, directory=folder) as server:
            yield Office(server, f"sqlite:///{folder}/chattable.db")
        return
    with (
        held(migrated_postgres()) as url,
        chattable(f"database_url: {json.dumps(url)}\n{config}") as server,
    ):
        yield Office(server, url)


def refused(answer: httpx.Response, status: int, code: str | None, param: str | None = None) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param), error
    return str(error["message"])


def name() -> str:
    return f"n{uuid4().hex}"


# -- teams -------------------------------------------------------------------------------------------------------------


def test_a_team_has_the_fields_of_the_contract(office: Office) -> None:
    red = office.made("/admin/teams", name=(called := name()))
    assert red.keys() == TEAM and red["id"].startswith("team_")
    assert (red["object"], red["name"]) == ("team", called) and abs(
        red["created_at"] - time.time()
    ) < 60
    for word in (called, red["id"]):
        assert office("GET", f"/admin/teams/{word}").json() == red
    refused(office("POST", "/admin/teams", {"name": called}), 409, "already_exists", "name")
    gone = office("DELETE", f"/admin/teams/{called}")
    assert (gone.status_code, gone.json()) == (
        200,
        {"id": red["id"], "object": "team.deleted", "deleted": True},
    )
    for method, body in (("GET", None), ("PATCH", {"name": "x"}), ("DELETE", None)):
        refused(office(method, f"/admin/teams/{red['id']}", body), 404, "not_found")


@pytest.mark.parametrize(
    "called", ["Zoë Müller", "名前", "50% off", "team_red", "?q=1#f", "👩\u200d💻"]
)
def test_any_printable_name_is_an_address(called: str, office: Office) -> None:
    team = office.made("/admin/teams", name=called)
    assert office("GET", f"/admin/teams/{quote(called, safe='')}").json() == team


def test_teams_come_in_pages(office: Office) -> None:
    made = [office.made("/admin/teams", name=name())["id"] for _ in range(5)]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = office("GET", "/admin/teams", **query).json()
        assert (page["object"], page["first_id"], page["last_id"]) == (
            "list",
            page["data"][0]["id"],
            page["data"][-1]["id"],
        )
        seen += [team["id"] for team in page["data"]]
        if not page["has_more"]:
            break
        query["after"] = page["last_id"]
    assert len(seen) == len(set(seen)) and [team for team in seen if team in made] == sorted(made)


def test_a_user_brings_its_team_along_and_shows_its_name(office: Office) -> None:
    called = name()
    alice = office.made("/admin/users", name=name(), team=called)
    team = office("GET", f"/admin/teams/{called}").json()
    assert alice["team"] == called and "team_id" not in alice
    renamed = office("PATCH", f"/admin/teams/{called}", {"name": f"new-{called}"}).json()
    assert renamed == team | {"name": f"new-{called}"}
    assert office("GET", f"/admin/users/{alice['id']}").json()["team"] == f"new-{called}"
    told = refused(office("DELETE", f"/admin/teams/{team['id']}"), 409, "in_use", "team")
    assert f"has 1 user: {alice['name']}." in told
    office("PATCH", f"/admin/users/{alice['id']}", {"team": None})
    assert office("DELETE", f"/admin/teams/{team['id']}").status_code == 200


def test_one_team_made_many_times_at_once_is_one(office: Office) -> None:
    called = name()

    def make(i: int) -> int:
        path, body = (
            ("/admin/teams", {"name": called})
            if i % 2
            else ("/admin/users", {"name": name(), "team": called})
        )
        return office("POST", path, body).status_code

    with ThreadPoolExecutor(8) as pool:
        codes = Counter(pool.map(make, range(16)))
    # all of the users, and the team unless a user came first
    assert codes[201] in (8, 9) and codes[201] + codes[409] == 16
    assert office.sql(f"SELECT count(*) FROM teams WHERE name = '{called}'") == [(1,)]


@pytest.mark.parametrize("bad", HOSTILE)
def test_a_name_that_is_none_is_told(bad: str, office: Office) -> None:
    user, team = office.made("/admin/users", name=name()), office.made("/admin/teams", name=name())
    for method, path, body, param in (
        ("POST", "/admin/teams", {"name": bad}, "name"),
        ("PATCH", f"/admin/teams/{team['id']}", {"name": bad}, "name"),
        ("POST", "/admin/users", {"name": name(), "team": bad}, "team"),
        ("PATCH", f"/admin/users/{user['id']}", {"team": bad}, "team"),
    ):
        answer = office(method, path, body)
        refused(answer, 400, "invalid_value", param)
        assert office.newest(answer)["outcome"].startswith("refused: ")


def test_a_lone_surrogate_is_no_json(office: Office) -> None:
    for path in ("/admin/teams", "/admin/users"):
        assert office("POST", path, {"name": "\ud800"}).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "param"),
    [
        ("POST", "/admin/teams", {}, "missing_required_parameter", "name"),
        ("POST", "/admin/teams", {"name": 7}, "invalid_type", "name"),
        ("POST", "/admin/teams", {"name": "n", "colour": "red"}, "unknown_parameter", "colour"),
        ("POST", "/admin/teams", {"name": f"team_{'0' * 12}{'x' * 20}"}, "invalid_value", "name"),
        ("POST", "/admin/teams", [], None, None),
        ("GET", "/admin/teams?limit=0", None, "invalid_value", "limit"),
        ("GET", "/admin/teams?after=nobody", None, "invalid_value", "after"),
        ("GET", "/admin/audit?limit=1001", None, "invalid_value", "limit"),
        ("GET", "/admin/audit?limit=many", None, None, "limit"),
        ("GET", "/admin/audit?after=x", None, "invalid_value", "after"),
        ("GET", "/admin/audit?actor=%00", None, "invalid_value", "actor"),
        ("GET", "/admin/audit?action=a%0ab", None, "invalid_value", "action"),
        ("GET", "/admin/audit?target=%C2%85", None, "invalid_value", "target"),
        ("GET", "/admin/audit?from=yesterday", None, "invalid_value", "from"),
        ("GET", "/admin/audit?to=2026-13-01", None, "invalid_value", "to"),
        ("GET", "/admin/audit?from=", None, "invalid_value", "from"),
        ("GET", "/admin/audit?to=999999999999999999", None, "invalid_value", "to"),
    ],
)
def test_a_wrong_request_is_told_where(
    method: str, path: str, body: Any, code: str | None, param: str | None, office: Office
) -> None:
    refused(office(method, path, body), 400, code, param)


# -- budgets and their subjects ----------------------------------------------------------------------------------------


def test_a_renamed_team_keeps_its_budget(office: Office, upstream: ScriptedUpstream) -> None:
    called = name()
    users = [office.made("/admin/users", name=name(), team=called) for _ in range(2)]
    keys = [office.made(f"/admin/users/{user['id']}/keys")["key"] for user in users]
    budget = office.made("/admin/budgets", subject={"team": called}, per="total", tokens=60)
    assert budget["subject"] == {"team": called}

    def ask(key: str) -> int:
        body = {
            "model": "gpt-small",
            "max_tokens": 3,
            "messages": [{"role": "user", "content": "hello"}],
        }
        return office("POST", "/v1/chat/completions", body, key=key).status_code

    def row() -> Any:
        return next(
            row
            for row in office("GET", "/admin/budgets").json()["data"]
            if row["id"] == budget["id"]
        )

    assert ask(keys[0]) == 200
    spent = row()["spent"]
    assert spent > 0
    office("PATCH", f"/admin/teams/{called}", {"name": f"new-{called}"})
    assert (row()["subject"], row()["spent"]) == ({"team": f"new-{called}"}, spent)
    assert ask(keys[1]) == 200 and row()["spent"] > spent
    codes = [ask(keys[i % 2]) for i in range(30)]
    assert codes[-1] == 429 and row()["spent"] <= 60


def test_a_subject_is_named_as_its_admin_knows_it(office: Office) -> None:
    user, team = office.made("/admin/users", name=name()), office.made("/admin/teams", name=name())
    key = office.made(f"/admin/users/{user['id']}/keys")
    for given, shown in (
        ({"user": user["id"]}, {"user": user["name"]}),
        ({"user": user["name"]}, {"user": user["name"]}),
        ({"team": team["id"]}, {"team": team["name"]}),
        ({"key": key["id"]}, {"key": key["id"]}),
        ({"model": "default"}, {"model": "gpt-small"}),  # what is really counted
        ({"model": "wild/one"}, {"model": "wild/one"}),
        ({"agent": "parrot"}, {"agent": "parrot"}),
        ({"everyone": True}, {"everyone": True}),
    ):
        budget = office.made("/admin/budgets", subject=given, per="day", tokens=10**12)
        assert budget["subject"] == shown
        assert office("DELETE", f"/admin/budgets/{budget['id']}").status_code == 200


@pytest.mark.parametrize(
    ("subject", "status", "param", "told"),
    [
        ({"user": "nobody"}, 404, "subject.user", "No user has the id or name 'nobody'."),
        ({"team": "nobody"}, 404, "subject.team", "No team has the id or name 'nobody'."),
        ({"key": "key_nothing"}, 404, "subject.key", "No key has the id or name 'key_nothing'."),
        (
            {"model": "gpt-smal"},
            400,
            "subject.model",
            "there is no model 'gpt-smal' (did you mean `gpt-small`?)",
        ),
        ({"model": "gpt-*"}, 400, "subject.model", "list the beginning in 'models'"),
        ({"model": "parrot"}, 400, "subject.model", "'parrot' is an agent: give {\"agent\": …}"),
        (
            {"agent": "parot"},
            400,
            "subject.agent",
            "there is no agent 'parot' (did you mean `parrot`?)",
        ),
        (
            {"agent": "gpt-small"},
            400,
            "subject.agent",
            "'gpt-small' is a model: give {\"model\": …}",
        ),
        ({"team": "x" * 10_240}, 400, "subject.team", "10240"),
        ({"user": "\n"}, 400, "subject.user", "unusable"),
        ({"key": ""}, 400, "subject.key", "expected a name"),
        ({"key": True}, 400, "subject.key", "expected a name"),
    ],
)
def test_a_budget_for_what_is_not_there(
    subject: Any, status: int, param: str, told: str, office: Office
) -> None:
    answer = office("POST", "/admin/budgets", {"subject": subject, "per": "day", "tokens": 1})
    assert told in refused(answer, status, "not_found" if status == 404 else "invalid_value", param)


def test_an_amount_that_makes_no_sense_names_its_field(office: Office) -> None:
    budget = office.made("/admin/budgets", subject={"everyone": True}, per="day", tokens=10**12)
    path = f"/admin/budgets/{budget['id']}"
    refused(office("PATCH", path, {"cost_usd": -1}), 400, "invalid_value", "cost_usd")
    refused(office("PATCH", path, {"tokens": -1}), 400, "invalid_value", "tokens")
    refused(office("PATCH", path, {"tokens": None}), 400, "invalid_value", "tokens")
    assert office("PATCH", path, {"tokens": None, "cost_usd": 1e6}).json()["cost_usd"] == 1e6
    office("DELETE", path)


# -- the audit trail ---------------------------------------------------------------------------------------------------


def test_an_entry_has_the_fields_of_the_contract(office: Office) -> None:
    called = name()
    answer = office("POST", "/admin/users", {"name": called, "team": "red", "admin": True})
    entry = office.newest(answer)
    assert (
        entry.keys() == ENTRY
        and entry["id"].startswith("aud_")
        and abs(entry["created_at"] - time.time()) < 60
    )
    assert (entry["object"], entry["action"], entry["outcome"]) == (
        "audit.entry",
        "user.create",
        "done",
    )
    assert (entry["target"], entry["target_name"]) == (answer.json()["id"], called)
    assert entry["details"] == {"name": called, "team": "red", "admin": True}
    assert (
        entry["actor"] == "admin key"
        and entry["actor_name"].startswith("sk-adm")
        and "…" in entry["actor_name"]
    )

    secret = office.made(f"/admin/users/{called}/keys")["key"]
    entry = office.newest(
        office("PATCH", f"/admin/users/{called}", {"disabled": False}, key=secret)
    )
    assert (entry["actor"], entry["actor_name"]) == (answer.json()["id"], called)
    assert (entry["action"], entry["details"]) == ("user.update", {"disabled": False})


def bodies(office: Office) -> dict[tuple[str, str], tuple[str, Any]]:
    """A working request for every admin route that changes something, in an order in which all succeed."""
    user, team, other = name(), office.made("/admin/teams", name=name())["id"], name()
    office.made("/admin/users", name=user)
    key = office.made(f"/admin/users/{user}/keys")["id"]
    budget = office.made("/admin/budgets", subject={"user": user}, per="day", tokens=5)["id"]
    session = office("POST", "/v1/conversations", {}).json()["id"]
    at, of = f"/admin/users/{user}", f"/admin/budgets/{budget}"
    change = {"tokens": 5, "reason": "demo"}
    return {
        ("post", "/admin/users"): ("/admin/users", {"name": other}),
        ("patch", "/admin/users/{user}"): (at, {"disabled": True}),
        ("post", "/admin/users/{user}/keys"): (f"{at}/keys", {"name": "k"}),
        ("delete", "/admin/users/{user}/keys/{key_id}"): (f"{at}/keys/{key}", None),
        ("post", "/admin/teams"): ("/admin/teams", {"name": name()}),
        ("patch", "/admin/teams/{team}"): (f"/admin/teams/{team}", {"name": name()}),
        ("delete", "/admin/teams/{team}"): (f"/admin/teams/{team}", None),
        ("post", "/admin/budgets"): (
            "/admin/budgets",
            {"subject": {"user": user}, "per": "day", "tokens": 5},
        ),
        ("patch", "/admin/budgets/{limit_id}"): (of, {"tokens": 7}),
        ("post", "/admin/budgets/{limit_id}/grant"): (f"{of}/grant", change),
        ("post", "/admin/budgets/{limit_id}/refund"): (f"{of}/refund", change),
        ("delete", "/admin/budgets/{limit_id}"): (of, None),
        ("delete", "/admin/users/{user}"): (at, None),
        ("delete", "/admin/sessions/{session_id}"): (f"/admin/sessions/{session}", None),
        ("delete", "/admin/cache"): ("/admin/cache", None),
    }


UNCHANGING = {("post", "/admin/ledger/verify")}  # reads, whatever its method


def test_every_change_has_one_entry_and_no_read_has_any(office: Office) -> None:
    paths = office("GET", "/schema/openapi.json").json()["paths"]
    routes = {
        (method, path)
        for path, methods in paths.items()
        if path.startswith("/admin/")
        for method in methods
    }
    requests = bodies(office)
    changing = {route for route in routes if route[0] != "get"} - UNCHANGING
    assert requests.keys() == changing, "give the new route a request here, and an entry of its own"
    for (method, path), (address, body) in requests.items():
        answer = office(method.upper(), address, body)
        assert answer.status_code in (200, 201), (method, path, answer.text)
        entry = office.newest(answer)
        assert (entry["outcome"], bool(entry["target"])) == ("done", True), (method, path)
    before = len(office.audit())
    for method, path in routes - changing:
        office(method.upper(), path.replace("{", "").replace("}", ""))
    assert len(office.audit()) == before


def test_an_effect_that_fails_has_its_entry_too(office: Office) -> None:
    user = office.made("/admin/users", name=name())
    for method, path, body, action in (
        ("POST", "/admin/users", {"name": user["name"]}, "user.create"),
        ("DELETE", "/admin/users/nobody", None, "user.delete"),
        ("POST", "/admin/users/nobody/keys", {}, "key.create"),
        ("DELETE", "/admin/teams/nobody", None, "team.delete"),
        (
            "POST",
            "/admin/budgets",
            {"subject": {"user": "nobody"}, "per": "day", "tokens": 1},
            "budget.create",
        ),
        ("POST", "/admin/budgets/lim_nothing/grant", {"tokens": 1, "reason": "x"}, "budget.grant"),
        ("DELETE", "/admin/budgets/no%00ne", None, "budget.delete"),
    ):
        answer = office(method, path, body)
        assert answer.status_code in (404, 409)
        entry = office.newest(answer)
        assert (entry["action"], entry["target"]) == (action, None)
        assert entry["outcome"].startswith("refused: ")
        assert (
            answer.json()["error"]["message"]
            .replace("\0", "\ufffd")
            .startswith(entry["outcome"][9:40])
        )


def test_without_an_entry_there_is_no_change(office: Office) -> None:
    user = office.made("/admin/users", name=name())
    key = office.made(f"/admin/users/{user['id']}/keys")
    counts = (
        "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM keys), (SELECT count(*) FROM "
        "teams)"
    )
    before = office.sql(counts)
    office.sql("ALTER TABLE audit RENAME TO hidden")
    try:
        for method, path, body in (
            ("POST", "/admin/users", {"name": name(), "team": name()}),
            ("PATCH", f"/admin/users/{user['id']}", {"disabled": True}),
            ("DELETE", f"/admin/users/{user['id']}", None),
            ("DELETE", f"/admin/users/{user['id']}/keys/{key['id']}", None),
            ("POST", "/admin/budgets", {"subject": {"everyone": True}, "per": "day", "tokens": 0}),
        ):
            refused(office(method, path, body), 503, "database_unavailable")
        assert office("GET", f"/admin/users/{user['id']}").json() == user
        refused(office("DELETE", "/admin/users/x", key=key["key"]), 403, "forbidden")
    finally:
        office.sql("ALTER TABLE hidden RENAME TO audit")
    assert office.sql(counts) == before
    assert [
        row for row in office("GET", "/admin/budgets").json()["data"] if row["tokens"] == 0
    ] == []
    assert office("DELETE", f"/admin/users/{user['id']}").status_code == 200


def test_no_secret_is_anywhere_in_the_trail(office: Office) -> None:
    user = office.made("/admin/users", name=name())["name"]
    imported = [f"canary-{uuid4().hex}", f"my own pass phrase {uuid4().hex}", f"sk-{uuid4().hex}"]
    made = [office.made(f"/admin/users/{user}/keys", name=f"k{i}")["key"] for i in range(2)]
    refusals = [
        f"canary-\u00e9-{uuid4().hex}",
        f"canary-{uuid4().hex}\nbroken",
        f"canary-{uuid4().hex}" * 20,
    ]
    for secret in imported:
        office.made(f"/admin/users/{user}/keys", key=secret, models=["a"])
        refused(
            office("POST", f"/admin/users/{user}/keys", {"key": secret}),
            409,
            "already_exists",
            "key",
        )
        refused(office("POST", "/admin/users/nobody/keys", {"key": secret}), 404, "not_found")
    for secret in refusals:
        refused(
            office("POST", f"/admin/users/{user}/keys", {"key": secret}),
            400,
            "invalid_value",
            "key",
        )
    office("DELETE", f"/admin/users/{user}/keys/{made[0]}")  # a secret where its id belongs
    office("GET", f"/admin/users/{user}", key=imported[0])
    trail = office("GET", "/admin/audit", limit=1000).text
    rows = repr(office.sql("SELECT * FROM audit"))
    for secret in (*imported, *made, *refusals, office.server.admin_key):
        for place in (trail, rows):
            assert secret not in place and secret[7:-4] not in place
    details = [
        entry["details"]
        for entry in office.audit(action="key.create")
        if entry["details"]["user"] == user
    ]
    assert Counter(detail["imported"] for detail in details) == {True: 8, False: 2}
    assert {"models": ["a"], "imported": True, "trusted": False}.items() <= next(
        d for d in details if d["models"]
    ).items()


def test_who_is_not_an_admin_is_noted_now_and_then(office: Office) -> None:
    mallory = office.made("/admin/users", name=name())
    key = office.made(f"/admin/users/{mallory['id']}/keys")
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda i: office("DELETE", f"/admin/users/{i}", key=key["key"]), range(40))
        )
    for answer in answers:
        refused(answer, 403, "forbidden")
    [entry] = office.audit(action="denied", actor=mallory["name"])
    assert (entry["actor"], entry["details"], entry["target"]) == (
        mallory["id"],
        {"key": key["id"]},
        None,
    )
    assert (
        entry["target_name"].startswith("DELETE /admin/users/")
        and entry["outcome"] == "refused: not an admin"
    )
    before = len(office.audit())
    for unknown in ("-", "sk-" + "x" * 40, "nonsense"):
        assert office("DELETE", "/admin/users/x", key=unknown).status_code == 401
    assert len(office.audit()) == before


def test_entries_are_found_and_come_in_pages_newest_first(office: Office) -> None:
    boss = office.made("/admin/users", name=name(), admin=True)
    secret = office.made(f"/admin/users/{boss['id']}/keys")["key"]
    made = [office("POST", "/admin/teams", {"name": name()}, key=secret).json() for _ in range(5)]
    office("DELETE", f"/admin/teams/{made[0]['id']}", key=secret)
    assert [
        entry["target"] for entry in office.audit(actor=boss["name"], action="team.create")
    ] == [team["id"] for team in reversed(made)]
    actions = [entry["action"] for entry in office.audit(target=made[0]["name"])]
    assert (
        actions
        == [entry["action"] for entry in office.audit(target=made[0]["id"])]
        == ["team.delete", "team.create"]
    )
    seen: list[str] = []
    query: dict[str, Any] = {"actor": boss["id"], "limit": 4}
    for count, more in ((4, True), (2, False)):
        page = office("GET", "/admin/audit", **query).json()
        assert (len(page["data"]), page["has_more"], page["object"]) == (count, more, "list")
        seen, query["after"] = seen + [entry["id"] for entry in page["data"]], page["last_id"]
    assert seen == sorted(seen, reverse=True)
    now = int(time.time())
    for since, until, found in (
        (now - 3600, now + 3600, 6),
        ("2026-01-01", "2100-01-01T00:00:00Z", 6),
        (now + 3600, "", 0),
        ("", "2026-01-01T12:00:00+02:00", 0),
    ):
        window = {key: value for key, value in (("from", since), ("to", until)) if value}
        assert len(office.audit(actor=boss["id"], **window)) == found


def test_the_command_line_leaves_entries(office: Office) -> None:
    user = name()

    def shell(*arguments: str, code: int = 0) -> str:
        command = [
            sys.executable,
            "-m",
            "chattable.proxy",
            *arguments,
            "--config",
            str(office.server.directory / "config.yaml"),
        ]
        done = subprocess.run(
            command, cwd=office.server.directory, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    shell("user", "create", user, "--team", "red")
    secret = shell("key", "create", user, "--name", "laptop").strip()
    key_id = shell("key", "list", user).split()[0]
    shell("key", "revoke", key_id)
    shell("user", "disable", user)
    shell("user", "create", user, code=1)
    shell("user", "list")
    entries = office.audit(actor="command line", limit=5)
    assert [(entry["action"], entry["outcome"][:7]) for entry in entries] == [
        ("user.create", "refused"), ("user.update", "done"), ("key.revoke", "done"),
        ("key.create", "done"), ("user.create", "done"),
    ]  # fmt: skip
    assert [entry["target"] for entry in entries[2:4]] == [key_id, key_id]
    assert entries[3]["details"] == {
        "user": user,
        "name": "laptop",
        "models": None,
        "expires_at": None,
        "trusted": False,
    }
    assert {entry["request_id"] for entry in entries} == {None}
    assert secret[7:-4] not in repr(office.audit())
