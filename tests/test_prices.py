"""What models cost: the config's word, else what is known at the vendor's own address, else nobody's."""

from typing import Any

import pytest

from chattable.adapters.services import VENDORS, vendor_at
from chattable.agents.chat import Chat, Message
from chattable.budget.ledger import FREE, Price
from chattable.budget.limits import Limit
from chattable.proxy.catalog import prices
from chattable.proxy.catalog.catalog import Entry, build
from chattable.proxy.catalog.prices import (
    held_price,
    known_of,
    price_of,
    unpriced,
    unpriced_under,
    warning,
)
from chattable.proxy.config import reader
from chattable.proxy.config.settings import Config, LongPrice, ModelEntry, ModelPrice, Target
from chattable.proxy.pipeline.forwarded_kinds import Images

OWN = [
    ("openai", "https://api.openai.com/v1", "openai"),
    ("openai", "https://API.OpenAI.com/v1/", "openai"),
    ("openai", "https://api.openai.com:443/v1//", "openai"),
    ("anthropic", "https://api.anthropic.com/v1", "anthropic"),
    ("azure", "https://acme.openai.azure.com", "azure"),
    ("azure", "https://ACME-1.openai.azure.com/openai/v1/", "azure"),
    ("azure", "https://acme.services.ai.azure.com/openai/v1", "azure"),
    ("bedrock", "https://bedrock-runtime.eu-central-1.amazonaws.com", "bedrock"),
    ("bedrock", "https://bedrock-runtime-fips.us-east-1.amazonaws.com/", "bedrock"),
    ("gemini", "https://generativelanguage.googleapis.com/v1beta", "gemini"),
    ("openai", "https://generativelanguage.googleapis.com/v1beta/openai/", "gemini"),
    ("openai", "https://api.deepseek.com", "deepseek"),
    ("openai", "https://acme.openai.azure.com/openai/v1", "azure"),
    ("openai", "https://api.groq.com/openai/v1", "groq"),
]
OTHERS = [
    "https://api.openai.com",
    "https://eu.api.openai.com/v1",
    "https://api.openai.com.example.net/v1",
    "https://api.openai.com:8443/v1",
    "http://api.openai.com/v1",
    "http://127.0.0.1:8000/v1",
    "https://proxy.example.com/v1",
    "https://openai.azure.com",
    "https://bedrock-runtime.amazonaws.com.example.net",
]


@pytest.mark.parametrize(("kind", "url", "vendor"), OWN)
def test_b4_a_vendors_address_written_out_is_the_vendors(kind: str, url: str, vendor: str) -> None:
    assert vendor_at(kind, url) == vendor


@pytest.mark.parametrize("url", OTHERS)
def test_b4_another_address_is_nobodys(url: str) -> None:
    assert vendor_at("openai", url) == ""


@pytest.mark.parametrize("kind", VENDORS)
def test_b4_where_no_address_is_said_it_is_the_kinds_own(kind: str) -> None:
    assert vendor_at(kind, None) == kind
    if VENDORS[kind].base_url.startswith("https://") and "{" not in VENDORS[kind].base_url:
        assert vendor_at(kind, VENDORS[kind].base_url) == kind


CONFIG = """
providers:
  openai: {{kind: openai, api_key: x}}
  written: {{kind: openai, api_key: x, base_url: "https://api.openai.com/v1/"}}
  azure: {{kind: azure, api_key: x, base_url: "https://acme.openai.azure.com"}}
  own: {{kind: vllm, base_url: "http://127.0.0.1:9/v1"}}
models:
  known: {{provider: openai, model: gpt-4o}}
  written: {{provider: written, model: gpt-4o-2024-08-06}}
  azure: {{provider: azure, model: gpt-4o}}
  deployment: {{provider: azure, model: prod}}
  own: {{provider: own}}
  free: {{provider: own, price: {{input: 0}}}}
  said:
    provider: own
    price: {{input: 3, output: 15, cached: 0.3, cache_write: 3.75, cache_write_1h: 6, image: 0.04}}
    picture_tokens: 900
  mixed: {{targets: [{{provider: openai, model: gpt-4o}}, {{provider: own}}]}}
  "openai/*": {{provider: openai}}
  "own/*": {{provider: own}}
  "cheap/*": {{provider: own, price: {{input: 1}}}}
agents:
  echo: {{use: "chattable.agents.echo:Echo"}}
budgets: {{{budgets}}}
"""


def config(budgets: str = "") -> Config:
    return reader.parse(CONFIG.format(budgets=budgets).encode(), "config.yaml", {}, VENDORS)


def entries(budgets: str = "") -> dict[str, Entry]:
    made = config(budgets)
    catalog = build(made, None)  # type: ignore[arg-type]
    return {name: catalog._entries[name] for name in catalog._entries}


GPT_4O = Price(2_500_000, 10_000_000, 1_250_000)


def test_b4_prices_by_kind_and_model_and_unknown_is_not_zero() -> None:
    found = entries()
    assert [found[name].price for name in ("known", "written", "azure")] == [GPT_4O] * 3
    assert [found[name].price for name in ("deployment", "own", "echo")] == [None] * 3
    assert found["free"].price == FREE
    assert found["said"].price == Price(
        3_000_000, 15_000_000, 300_000, 3_750_000, 6_000_000, 40_000
    )
    assert (found["said"].picture_tokens, found["known"].picture_tokens) == (900, None)


def test_b5_what_claude_writes_to_a_cache_has_its_price() -> None:
    made = config()
    claude = known_of(replaced(made, "anthropic"), "claude-sonnet-4-5-20250929")
    price = price_of(Target(provider="p"), made.models["own"], claude)
    assert price == Price(3_000_000, 15_000_000, 300_000, 3_750_000, 6_000_000)


def replaced(made: Config, kind: str) -> Any:
    from msgspec.structs import replace

    return replace(made.providers["openai"], kind=kind)


def test_what_the_config_says_of_long_prompts() -> None:
    told = ModelPrice(input=1, output=2, long=LongPrice(above=1000, input=3, output=4, cached=0.5))
    price = price_of(Target(provider="p", price=told), ModelEntry(), None)
    assert price == Price(10**6, 2 * 10**6, above=1000, long=Price(3 * 10**6, 4 * 10**6, 500_000))


def test_what_the_config_leaves_out_of_long_prompts_is_the_usual() -> None:
    told = ModelPrice(input=1, output=2, long=LongPrice(above=1000, input=3))
    price = price_of(Target(provider="p", price=told), ModelEntry(), None)
    assert price is not None and price.long == Price(3 * 10**6, 2 * 10**6)


def test_a_hold_covers_what_a_long_prompt_writes() -> None:
    price = Price(1, 1, above=10, long=Price(2, 1, cache_write=5))
    held = held_price(price, Chat("m", [Message("user", "hi")]))
    assert held.at(11).input == 5 and held.at(10).input == 1
    assert (
        held_price(Price(1, 1, cache_write=9, above=10, long=Price(2, 1)), MARKED[0]).at(11).input
        == 9
    )


def test_who_refuses_what_has_no_price() -> None:
    allowed, refused = entries(), entries("unpriced: refuse")
    assert all(entry.priced for entry in allowed.values())
    assert not any(refused[name].priced for name in ("deployment", "own"))
    assert all(refused[name].priced for name in ("known", "azure", "free", "said", "echo"))
    assert [target.priced for target in refused["mixed"].targets] == [True, False]


def test_which_models_have_no_price() -> None:
    names = ["deployment", "own", "mixed", "own/*"]
    made = config("unpriced: refuse")
    assert unpriced(made) == names
    assert "deployment, own" in warning(made, names) and "are refused" in warning(made, names)
    assert "`budgets.unpriced: refuse`" in warning(config(), names)


IMAGES = [  # model, its price, what a small and a large picture cost besides their tokens
    ("dall-e-3", Price(image=120_000), 40_000, 80_000),  # as the table has it
    ("dall-e-3", Price(image=50_000), 50_000, 50_000),  # as the config has it
    ("dall-e-3", FREE, 0, 0),
    ("gpt-image-1", Price(5_000_000, 40_000_000), 0, 0),  # by tokens
    ("flux", FREE, 0, 0),
    ("flux", Price(image=30_000), 30_000, 30_000),
    ("flux", None, 250_000, 250_000),  # nobody knows
]


@pytest.mark.parametrize(("model", "price", "small", "large"), IMAGES)
def test_b9_a_picture_costs_its_piece_or_its_tokens(
    model: str, price: Price | None, small: int, large: int
) -> None:
    sizes = ("1024x1024", small), ("1792x1024", large)
    for size, micro in sizes:
        asked = Images("a cat", n=3, size=size, quality="standard")
        assert asked.estimate("openai", model, price).fixed == 3 * micro


def limit(kind: Any = "everyone", subject: str = "", models: Any = None, cost: Any = 5) -> Limit:
    return Limit(id="l", kind=kind, subject=subject, per="day", cost=cost, models=models)


@pytest.mark.parametrize(
    ("binding", "names"),
    [
        (limit(), ["own", "other", "own/*"]),
        (limit(cost=None), []),
        (limit("model", "own"), ["own"]),
        (limit("model", "own/small"), ["own/*"]),
        (limit("user", "alice", models=("own",)), ["own"]),
        (limit(models=("own*",)), ["own", "own/*"]),
        (limit(models=("own/small",)), ["own/*"]),
        (limit(models=("gpt-4o",)), []),
        (limit(models=("*",)), ["own", "other", "own/*"]),
    ],
)
def test_which_of_them_a_budget_in_dollars_would_bind(binding: Limit, names: list[str]) -> None:
    assert unpriced_under(binding, ["own", "other", "own/*"]) == names


def test_budgets_that_bind_the_same_models_are_compared_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[Limit] = []

    def under(binding: Limit, names: list[str]) -> list[str]:
        compared.append(binding)
        return unpriced_under(binding, names)

    monkeypatch.setattr(prices, "unpriced_under", under)
    monkeypatch.setattr(prices, "unpriced", lambda _: ["own", "other"])
    lacking = prices.Unpriced(Config())
    many = [limit("user", f"u{n}", models=("own",)) for n in range(100)]
    assert lacking.under_any([*many, limit("model", "other"), limit(cost=None)]) == ["other", "own"]
    assert [len(lacking.under(one)) for one in many] == [1] * 100
    assert len(compared) == 2


CLAUDE = Price(3, 15, 1, 4, 6)
MARK = {"cache_control": {"type": "ephemeral"}}
TEXT = {"type": "text", "text": "x"}
MARKED = [
    Chat("m", [Message("user", "x")], params=MARK),
    Chat("m", [Message("user", "x", extra=MARK)]),
    Chat("m", [Message("user", [TEXT, TEXT | MARK])]),
    Chat("m", [Message("user", "x")], params={"tools": [{"type": "function"} | MARK]}),
]


@pytest.mark.parametrize("chat", MARKED)
def test_a_hold_covers_what_may_be_written_to_a_cache(chat: Chat) -> None:
    assert held_price(CLAUDE, chat).input == 6


def test_a_hold_is_no_larger_where_nothing_is_written() -> None:
    plain = Chat("m", [Message("user", [TEXT]), Message("assistant", None)])
    assert held_price(CLAUDE, plain) is CLAUDE
    assert held_price(Price(3, 15, 1), MARKED[0]) == Price(3, 15, 1)
    assert held_price(Price(3, 15, 1, 4), plain).input == 4  # a vendor that writes by itself
