"""`chattable models`: what is known of a model, from where and since when."""

from pathlib import Path

import pytest

from chattable.adapters.services import VENDORS
from chattable.proxy.__main__ import main
from chattable.proxy.cli.known_models import UnknownModelError, describe
from chattable.proxy.config import reader

CONFIG = """
providers:
  oai: {kind: openai, api_key: x}
  claude: {kind: anthropic, api_key: x}
  own: {kind: vllm, base_url: "http://127.0.0.1:9/v1"}
models:
  fast: {provider: oai, model: gpt-4o-2024-08-06}
  smart: {provider: claude, model: claude-sonnet-4-5}
  said:
    provider: own
    price: {input: 1, output: 2, cached: 0.5, image: 0.04}
    context_length: 5000
    max_output: 500
    picture_tokens: 700
  bare: {provider: own}
  two: {targets: [{provider: oai, model: o3, context_length: 9000}, {provider: own}]}
  "oai/*": {provider: oai}
"""
PRICING = "https://developers.openai.com/api/docs/pricing, 2026-11"
VISION = "https://developers.openai.com/api/docs/guides/images-vision, 2026-09"
GPT_4O = [
    f"  price    $2.5 prompt, $10 output, $1.25 cached per million tokens  ({PRICING})",
    f"  context  128,000 tokens at most  ({PRICING})",
    f"  output   16,384 tokens at most  ({PRICING})",
    f"  picture  85 tokens and 170 for each tile of 512 px, at most 1,445  ({VISION})",
    "",
]


def shown(name: str = "") -> list[str]:
    config = reader.parse(CONFIG.encode(), "config.yaml", {}, VENDORS)
    return list(describe(config, name))


def test_what_is_known_of_a_model_and_who_says_so() -> None:
    assert shown("fast") == ["fast → oai/gpt-4o-2024-08-06", *GPT_4O]


def test_what_the_config_says_comes_first() -> None:
    assert shown("said") == [
        "said → own/said",
        "  price    $1 prompt, $2 output, $0.5 cached per million tokens; $0.04 a picture made  "
        "(the config)",
        "  context  5,000 tokens at most  (the config)",
        "  output   500 tokens at most  (the config)",
        "  picture  700 tokens  (the config)",
        "",
    ]


def test_what_nobody_knows() -> None:
    assert shown("bare")[:4] == [
        "bare → own/bare",
        "  price    not known",
        "  context  not known",
        "  output   not known",
    ]
    assert shown("bare")[4].startswith("  picture  not known: 2,880 to 16,384")


def test_what_is_written_to_a_cache_has_its_price() -> None:
    [price] = [line for line in shown("smart") if "price" in line]
    assert "$0.3 cached, $3.75 cache write, $6 cache write for 1 h per million" in price


def test_every_target_of_a_name() -> None:
    lines = shown("two")
    assert [line for line in lines if "→" in line] == ["two → oai/o3", "two → own/two"]
    assert "  context  9,000 tokens at most  (the config)" in lines


def test_names_behind_a_wildcard_and_the_wildcard() -> None:
    assert shown("oai/gpt-4o")[:2] == ["oai/gpt-4o → oai/gpt-4o", GPT_4O[0]]
    assert shown("oai/*")[0].startswith("oai/* → oai/*: as each model that it stands for; ")


def test_all_of_the_config() -> None:
    titles = [line for line in shown() if "→" in line]
    assert [title.split(" ")[0] for title in titles] == [
        "fast", "smart", "said", "bare", "two", "two", "oai/*",
    ]  # fmt: skip


def test_any_name_by_itself_or_with_its_vendor() -> None:
    assert shown("openai/gpt-4o") == ["openai/gpt-4o", *GPT_4O]
    assert [line for line in shown("gpt-4o") if "/" in line and "  " not in line] == [
        "openai/gpt-4o",
        "azure/gpt-4o",
    ]
    assert shown("anthropic/claude-sonnet-4.5")[0] == "openrouter/anthropic/claude-sonnet-4.5"


def test_a_name_of_which_nothing_is_known() -> None:
    with pytest.raises(UnknownModelError, match="nothing is known of 'gpt-99'"):
        shown("gpt-99")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)
    assert main(["models", "fast", "--config", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == ["fast → oai/gpt-4o-2024-08-06", *GPT_4O]
    assert main(["models", "gpt-99", "--config", str(file)]) == 1
    assert "chattable: nothing is known of 'gpt-99'" in capsys.readouterr().err


def test_b4_check_warns_of_models_without_a_price_under_a_budget_in_dollars(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)
    assert main(["check", "--config", str(file)]) == 0
    assert capsys.readouterr().err == ""
    file.write_text(CONFIG + "budgets: {default: {per: day, cost_usd: 5}}\n")
    assert main(["check", "--config", str(file)]) == 0
    told = capsys.readouterr().err
    assert told.startswith("warning: there are budgets in dollars")
    assert "are not bound by them: bare, two." in told and "`budgets.unpriced: refuse`" in told
