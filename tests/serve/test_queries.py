"""Query parameters: on routes of ours the unknown are refused by name, on OpenAI's they mean nothing."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from process import Chattable, chattable

CONFIG = 'agents: {echo: {use: "chattable.agents.echo:Echo"}}\n'
OURS = ("/admin/", "/v1/me/")


@pytest.fixture(scope="module")
def server() -> Iterator[Chattable]:
    with chattable(CONFIG) as running:
        yield running


@pytest.fixture(scope="module")
def admin(server: Chattable) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {server.admin_key}"}
    with httpx.Client(base_url=server.base_url, headers=headers, trust_env=False) as client:
        yield client


def routes(client: httpx.Client) -> Iterator[tuple[str, str, list[str]]]:
    """Every route with what it declares of its query."""
    for path, methods in client.get("/schema/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            declared = [
                given["name"] for given in operation.get("parameters", []) if given["in"] == "query"
            ]
            yield method.upper(), path, declared


def refusal(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    return error if error["code"] == "unknown_parameter" else {}


def test_every_route_of_ours_refuses_what_it_does_not_know(admin: httpx.Client) -> None:
    ours = [route for route in routes(admin) if route[1].startswith(OURS)]
    assert len(ours) > 30
    for method, path, declared in ours:
        address = path.replace("{", "").replace("}", "")
        answer = admin.request(
            method, address, params=dict.fromkeys(declared, "x") | {"limitt": "1"}
        )
        assert answer.status_code == 400, (method, path, answer.text)
        error = refusal(answer)
        assert error["param"] == "limitt", (method, path)
        assert error["message"].startswith("Unknown parameter: 'limitt'. There ")
        told = re.split(
            r", | and ", error["message"].rstrip(".").removeprefix("Unknown parameter: 'limitt'. ")
        )
        assert told == ([f"There are {declared[0]}", *declared[1:]] if declared[1:] else told)
        assert declared or told == ["There are none here"]


def test_what_a_route_declares_is_known(admin: httpx.Client) -> None:
    declared = [(method, path, name) for method, path, names in routes(admin) for name in names]
    assert len(declared) > 30
    for method, path, name in declared:
        answer = admin.request(method, path, params={name: "x"})
        assert answer.status_code < 400 or not refusal(answer), (method, path, name)


def test_an_unknown_name_is_shown_cut(admin: httpx.Client) -> None:
    error = refusal(admin.get("/admin/users", params={"x" * 5000: "1"}))
    assert 0 < len(error["param"]) <= 201
    assert len(error["message"]) < 300


def test_who_may_not_ask_hears_only_that(server: Chattable, admin: httpx.Client) -> None:
    for path in ("/admin/users?limitt=1", "/v1/me/usage?limitt=1"):
        assert httpx.get(server.base_url + path, trust_env=False).status_code == 401
    key = {"authorization": f"Bearer {server.user_key()}"}
    assert admin.get("/admin/users?limitt=1", headers=key).status_code == 403


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/echo", "/v1/conversations", "/health"])
def test_routes_in_the_shape_of_openai_go_on(path: str, admin: httpx.Client) -> None:
    assert admin.get(f"{path}?limitt=1").status_code == 200


def test_a_chat_goes_on(admin: httpx.Client) -> None:
    chat = {"model": "echo", "messages": [{"role": "user", "content": "Hi"}]}
    assert admin.post("/v1/chat/completions?api-version=2024-10-21", json=chat).status_code == 200
