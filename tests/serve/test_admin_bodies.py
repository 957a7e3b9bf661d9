"""Odd values in bodies of admin routes: refused by field or taken as what they are, never a 5xx."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from process import Chattable, chattable

CONFIG = """
agents: {echo: {use: "chattable.agents.echo:Echo"}}
budgets: {default: {tokens: 100000, per: day}}
"""
Body = dict[str, Any]
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 2**63, 2**64, -(10**30), 1e308, "", "x" * 300, "\0", "\u2028"),
    *([], [None], ["*"], ["\0"], [10**30], {}, {"a": 1}),
]
SUBJECTS: list[Body] = [
    *({"each_user": value} for value in (False, 0, 1, "", "alice", "true", None)),
    *({"each_user": []}, {"each_user": {}}),
    *({"everyone": value} for value in (False, "true", None)),
    *({"user": value} for value in (True, False, "", "\0", 5)),
    *({"each_user": True, "everyone": True}, {"model": True}, {"key": "\0"}, {"session": "none"}),
]
count = itertools.count()
BODIES: dict[tuple[str, str], Callable[[], Body]] = {
    ("POST", "/admin/users"): lambda: {"name": f"u{next(count)}", "team": "red", "admin": False},
    ("PATCH", "/admin/users/alice"): lambda: {"team": "red", "disabled": False, "admin": False},
    ("POST", "/admin/users/alice/keys"): lambda: {
        "name": "k", "models": ["m"], "expires_at": 4 * 10**9, "trusted": False,
        "key": f"imported-{next(count)}",
    },
    ("POST", "/admin/teams"): lambda: {"name": f"t{next(count)}"},
    ("PATCH", "/admin/teams/red"): lambda: {"name": "red"},
    ("POST", "/admin/budgets"): lambda: {
        "subject": {"each_user": True}, "per": "day", "tokens": 5, "cost_usd": 1.0,
        "models": ["m"], "mode": "hard",
    },
    ("PATCH", "/admin/budgets/{own}"): lambda: {"tokens": 5, "cost_usd": 1.0, "mode": "hard"},
    ("POST", "/admin/budgets/{own}/grant"): lambda: {"tokens": 5, "cost_usd": 1.0, "reason": "r"},
    ("POST", "/admin/budgets/{each}/grant"): lambda: {"tokens": 5, "reason": "r", "user": "alice"},
    ("POST", "/admin/budgets/{own}/refund"): lambda: {"tokens": 5, "cost_usd": 1.0, "reason": "r"},
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Chattable]:
    with chattable(CONFIG) as running:
        running.user_key("alice")
        yield running


@pytest.fixture(scope="module")
def admin(server: Chattable) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {server.admin_key}"}
    with httpx.Client(base_url=server.base_url, headers=headers, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def ids(admin: httpx.Client) -> dict[str, str]:
    """The budgets that are changed, by what they are for."""

    def made(**subject: Any) -> str:
        body = {"subject": subject, "per": "day", "tokens": 10**6}
        return str(admin.post("/admin/budgets", json=body).json()["id"])

    return {"own": made(user="alice"), "each": made(each_user=True)}


@pytest.mark.parametrize(("method", "path"), BODIES)
def test_b15_an_odd_value_is_refused_by_its_field_or_taken_as_it_is(
    server: Chattable, admin: httpx.Client, ids: dict[str, str], method: str, path: str
) -> None:
    good = BODIES[method, path]
    for field in good():
        for odd in [*ODD, *SUBJECTS]:
            body = good() | {field: odd}
            answer = admin.request(method, path.format(**ids), content=json.dumps(body))
            told, what = answer.json(), (field, odd, answer.text)
            if answer.status_code == 400:
                assert str(told["error"]["param"]).startswith(field), what
            elif answer.status_code < 300 and "/grant" not in path and "/refund" not in path:
                assert odd is None or told[field] == odd, what
            else:
                assert answer.status_code in (200, 201, 404, 409), what
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("subject", SUBJECTS, ids=json.dumps)
def test_b15_a_budget_for_everybody_says_true(admin: httpx.Client, subject: Body) -> None:
    before = len(admin.get("/admin/budgets").json()["data"])
    answer = admin.post("/admin/budgets", json={"subject": subject, "per": "day", "tokens": 5})
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]["param"].startswith("subject")
    assert len(admin.get("/admin/budgets").json()["data"]) == before
