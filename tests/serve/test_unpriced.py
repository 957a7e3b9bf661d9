"""A model whose price nobody knows under a budget in dollars: said everywhere, and refused where that is set."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI, PermissionDeniedError
from process import Chattable, chattable
from upstream import ScriptedUpstream

CONFIG = """
providers:
  stub: {{kind: openai, base_url: "{url}", api_key: x, retries: 0}}
models:
  m: {{provider: stub, price: {{input: 1, output: 2}}}}
  bare: {{provider: stub}}
  free: {{provider: stub, price: {{input: 0}}}}
  "any/*": {{provider: stub}}
budgets:
  unpriced: refuse
  default: {{per: day, cost_usd: 5}}
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def server(upstream: ScriptedUpstream) -> Iterator[Chattable]:
    with chattable(CONFIG.format(url=upstream.url)) as running:
        yield running


def ask(server: Chattable, model: str, user: str = "alice") -> None:
    client = OpenAI(base_url=f"{server.base_url}/v1", api_key=server.user_key(user))
    messages: Any = [{"role": "user", "content": "hi"}]
    client.chat.completions.create(model=model, messages=messages, max_tokens=5)


@pytest.mark.parametrize("model", ["bare", "any/thing"])
def test_b4_a_model_without_a_price_is_refused_where_that_is_set(
    server: Chattable, upstream: ScriptedUpstream, model: str
) -> None:
    upstream.clear()
    with pytest.raises(PermissionDeniedError) as refused:
        ask(server, model)
    assert (refused.value.status_code, refused.value.code) == (403, "unpriced_model")
    assert refused.value.param == "model"
    told = refused.value.body["message"]  # type: ignore[index]
    assert f"`{model}`" in told and "user alice" in told
    assert "`models.*.price`" in told and "`budgets.unpriced: allow`" in told
    assert refused.value.response.request.headers["x-stainless-retry-count"] == "0"
    assert upstream.requests == []


def test_b4_a_price_of_nothing_is_a_price(server: Chattable, upstream: ScriptedUpstream) -> None:
    upstream.clear()
    ask(server, "free")
    ask(server, "m")
    assert len(upstream.requests) == 2


def test_b6_what_is_free_is_answered_under_a_budget_that_is_overspent(server: Chattable) -> None:
    server.user_key("bob")
    budget = {"subject": {"user": "bob"}, "per": "day", "cost_usd": 0}
    server.admin("POST", "/admin/budgets", budget)
    ask(server, "free", "bob")
    with pytest.raises(Exception, match="used up"):
        ask(server, "m", "bob")


def test_b4_the_log_of_a_start_names_them(server: Chattable) -> None:
    log = server.log()
    assert "models without a price are refused under hard ones: any/*, bare." in log


def test_b4_budgets_in_dollars_name_them(server: Chattable) -> None:
    server.user_key("carol")
    body = {"subject": {"user": "carol"}, "per": "day", "cost_usd": 1}
    assert server.admin("POST", "/admin/budgets", body)["unpriced_models"] == ["bare", "any/*"]
    body |= {"cost_usd": 1, "models": ["bare", "m"]}
    assert server.admin("POST", "/admin/budgets", body)["unpriced_models"] == ["bare"]
    body = {"subject": {"user": "carol"}, "per": "day", "tokens": 1000}
    assert server.admin("POST", "/admin/budgets", body)["unpriced_models"] == []
    listed = server.admin("GET", "/admin/budgets?user=carol")["data"]
    assert {"lim_default": ["bare", "any/*"]}.items() <= {
        row["id"]: row["unpriced_models"] for row in listed
    }.items()


def test_b4_an_unknown_price_is_null(server: Chattable) -> None:
    rows = {row["id"]: row["price"] for row in server.admin("GET", "/admin/models")["data"]}
    assert rows["bare"] is None
    assert rows["free"]["input"] == 0
    assert json.dumps(rows["m"]) == json.dumps(
        {
            "input": 1.0,
            "output": 2.0,
            "cached": None,
            "cache_write": None,
            "cache_write_1h": None,
            "image": 0.0,
        }
    )
