"""The price table is sound, and a name finds its own row or none: never that of a model whose name only begins alike."""

import ast
import inspect
import re
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chattable.adapters.services import VENDORS
from chattable.adapters.vendors import anthropic, models, openai, others
from chattable.adapters.vendors.models import TABLE, known

ROWS = [(kind, name) for kind, table in TABLE.items() for name in table]
row = st.sampled_from(ROWS)


@pytest.mark.parametrize(("kind", "name"), ROWS)
def test_every_row_is_sound(kind: str, name: str) -> None:
    found = TABLE[kind][name]
    if name.startswith("dall-e"):
        assert (found.input, found.output) == (0, 0) and 0 < found.image < 1
    else:
        assert 0 < found.input < 1_000  # dollars per million: a slip of three digits shows
        assert 0 <= found.output < 1_000 and found.image == 0
        assert found.output >= found.input or "embedding" in name
    assert found.cached is None or 0 < found.cached < found.input
    assert found.cache_write is None or found.input < found.cache_write <= 2 * found.input
    assert found.cache_write_1h is None or (found.cache_write or 0) < found.cache_write_1h
    assert found.context_length is None or found.context_length >= 4096
    assert found.max_output is None or 0 < found.max_output <= (found.context_length or 0)
    if found.long is not None:
        assert 100_000 <= found.long.above < (found.context_length or 0)
        assert found.input < found.long.input and found.output < found.long.output
        assert (found.cached is None) == (found.long.cached is None)
        assert (found.cache_write is None) == (found.long.cache_write is None)
    assert found.source.startswith("https://") and re.fullmatch(r"20\d\d-[01]\d", found.since)


@pytest.mark.parametrize(("kind", "name"), ROWS)
def test_every_row_is_found_under_its_name(kind: str, name: str) -> None:
    assert known(kind, name) is TABLE[kind][name]


@pytest.mark.parametrize("module", [anthropic, models, openai, others])
def test_no_name_is_written_twice(module: object) -> None:
    for node in ast.walk(ast.parse(inspect.getsource(module))):  # type: ignore[arg-type]
        if isinstance(node, ast.Dict):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            assert len(keys) == len(set(keys))


def test_every_vendor_that_charges_has_a_table_and_no_other() -> None:
    own = {kind for kind, vendor in VENDORS.items() if "127.0.0.1" in vendor.base_url}
    assert set(VENDORS) - own <= set(TABLE)
    assert not own & set(TABLE)
    assert all(known(kind, "gpt-4o") is None for kind in own)


@pytest.mark.parametrize("kind", ["anthropic", "bedrock", "openrouter"])
def test_what_claude_writes_to_a_cache_is_dearer(kind: str) -> None:
    for name, found in TABLE[kind].items():
        if "claude" in name and "claude-3-haiku" not in name:
            assert found.cache_write == pytest.approx(found.input * 1.25)
            assert found.cache_write_1h == pytest.approx(found.input * 2)
    haiku = TABLE["anthropic"]["claude-3-haiku"]
    assert (haiku.cache_write, haiku.cache_write_1h) == (0.3, 0.5)


def test_openai_charges_for_writing_since_one_model() -> None:
    assert TABLE["openai"]["gpt-5.6-sol"].cache_write == 6.25
    assert TABLE["openai"]["gpt-5.5"].cache_write is None


@pytest.mark.parametrize(
    ("kind", "name", "long"),
    [
        ("openai", "gpt-5.5", (272_000, 10, 45, 1)),
        ("azure", "gpt-5.4", (272_000, 5, 22.5, 0.5)),
        ("openrouter", "openai/gpt-5.6-sol", (272_000, 10, 45, 1)),
        ("anthropic", "claude-haiku-5-5", (100_000, 0.5, 2.5, 0.05)),
        ("bedrock", "anthropic.claude-haiku-5-5", (100_000, 0.55, 2.75, 0.055)),
        ("gemini", "gemini-2.5-pro", (200_000, 2.5, 15, 0.25)),
        ("xai", "grok-4.3", (200_000, 2.5, 5, 0.4)),
        ("openai", "gpt-5.4-mini", None),
        ("anthropic", "claude-sonnet-5-5", None),
    ],
)
def test_what_a_long_prompt_costs(kind: str, name: str, long: tuple[float, ...] | None) -> None:
    found = TABLE[kind][name].long
    assert (found and (found.above, found.input, found.output, found.cached)) == long


Cost = tuple[float, float, float | None]


def usd(prompt: float, output: float, cached: float | None = None) -> Cost:
    return prompt, output, cached


@pytest.mark.parametrize(
    ("kind", "name", "price"),
    [
        ("openai", "gpt-4o", usd(2.5, 10, 1.25)),
        ("openai", "gpt-4o-2024-08-06", usd(2.5, 10, 1.25)),
        ("openai", "gpt-4o-2024-05-13", usd(5, 15)),  # a snapshot with a price of its own
        ("openai", "gpt-4o-mini", usd(0.15, 0.6, 0.075)),
        ("openai", "gpt-4o-mini-2024-07-18", usd(0.15, 0.6, 0.075)),
        ("openai", "openai/gpt-4o-mini", usd(0.15, 0.6, 0.075)),
        ("openai", "o1-2024-12-17", usd(15, 60, 7.5)),
        ("openai", "o1-pro-2025-03-19", usd(150, 600)),
        ("openai", "ft:gpt-4o-mini-2024-07-18:acme::abc123", usd(0.3, 1.2)),
        ("openai", "ft:gpt-4o:acme:helpdesk:abc123", usd(3.75, 15)),
        ("anthropic", "claude-3-5-sonnet-20241022", usd(3, 15, 0.3)),
        ("anthropic", "claude-3-5-sonnet-latest", usd(3, 15, 0.3)),
        ("anthropic", "claude-opus-4-20250514", usd(15, 75, 1.5)),
        ("anthropic", "claude-opus-4-5-20251101", usd(5, 25, 0.5)),
        ("gemini", "models/gemini-2.5-flash", usd(0.3, 2.5, 0.03)),
        ("gemini", "gemini-2.0-flash-001", usd(0.1, 0.4, 0.025)),
        ("xai", "grok-4.3-latest", usd(1.25, 2.5, 0.2)),
        ("mistral", "codestral-latest", usd(0.3, 0.9)),
        ("deepseek", "deepseek-v4-pro", usd(1.32, 3.96, 0.044)),
        ("moonshot", "kimi-k2.6", usd(0.95, 4, 0.16)),
        ("groq", "openai/gpt-oss-20b", usd(0.075, 0.3, 0.0375)),
        ("together", "openai/gpt-oss-20b", usd(0.05, 0.2)),
        ("fireworks", "accounts/fireworks/models/gpt-oss-20b", usd(0.07, 0.3, 0.035)),
        ("azure", "gpt-4.1-mini", usd(0.4, 1.6, 0.1)),
        ("bedrock", "amazon.nova-pro-v1:0", usd(0.8, 3.2, 0.2)),
        ("bedrock", "us.amazon.nova-pro-v1:0", usd(0.8, 3.2, 0.2)),
        ("bedrock", "anthropic.claude-sonnet-4-20250514-v1:0", usd(3, 15, 0.3)),
        ("bedrock", "global.anthropic.claude-sonnet-4-20250514-v1:0", usd(3, 15, 0.3)),
        ("bedrock", "global.anthropic.claude-sonnet-4-5-20250929-v1:0", usd(3, 15, 0.3)),
        ("bedrock", "anthropic.claude-sonnet-4-5-20250929-v1:0", usd(3.3, 16.5, 0.33)),
        ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", usd(3.3, 16.5, 0.33)),
        ("bedrock", "eu.anthropic.claude-opus-4-6-v1", usd(5.5, 27.5, 0.55)),
        (
            "bedrock",
            "arn:aws:bedrock:eu-west-1:1:inference-profile/eu.anthropic.claude-opus-4-6-v1",
            usd(5.5, 27.5, 0.55),
        ),
        ("openrouter", "openai/gpt-4o", usd(2.5, 10, 1.25)),
        ("openrouter", "anthropic/claude-sonnet-4.5", usd(3, 15, 0.3)),
        ("openrouter", "anthropic/claude-3.5-sonnet-20241022", usd(3, 15, 0.3)),
        ("openrouter", "google/gemini-2.5-pro", usd(1.25, 10, 0.125)),
        ("openrouter", "x-ai/grok-4.3", usd(1.25, 2.5, 0.2)),
    ],
)
def test_names_that_are_known(kind: str, name: str, price: Cost) -> None:
    found = known(kind, name)
    assert found is not None and (found.input, found.output, found.cached) == price


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("openai", ""),
        ("openai", "gpt-4o-audio-preview"),
        ("openai", "gpt-4o-minimal"),
        ("openai", "o1-preview"),
        ("openai", "gpt-4-32k"),
        ("openai", "GPT-4o"),
        ("openai", "gpt-4o\n"),
        ("openai", "gpt-4o-20241399"),  # no date
        ("openai", "gpt-4-0314"),  # four digits are a version of its own, not a snapshot
        ("openai", "ft:gpt-5:acme::abc123"),
        ("openai", "claude-opus-4-5"),
        ("openai", "somebody/gpt-4o"),
        ("mistral", "mistral-large-latest"),
        ("groq", "gpt-oss-20b"),
        ("fireworks", "accounts/acme/models/gpt-oss-20b"),  # somebody's own
        ("azure", "gpt-4o-mini-2024-07-18.ft-abc123"),
        ("bedrock", "us-gov.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("bedrock", "eu.amazon.nova-pro-v1:0"),  # dearer than in the United States
        ("bedrock", "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc123"),
        ("openrouter", "gpt-4o"),
        ("openrouter", "openai/gpt-4o:extended"),
        ("openrouter", "meta-llama/llama-3.3-70b-instruct"),
        ("ollama", "gpt-4o"),
        ("vllm", "openai/gpt-oss-20b"),
        ("nobody", "gpt-4o"),
    ],
)
def test_names_that_are_not(kind: str, name: str) -> None:
    assert known(kind, name) is None


def test_columns_come_with_the_price() -> None:
    found = known("openai", "gpt-4o-mini-2024-07-18")
    assert found is not None
    assert (found.context_length, found.max_output) == (128_000, 16_384)


@given(
    row,
    st.dates(date(2020, 1, 1), date(2039, 12, 31)),
    st.sampled_from(["-%Y-%m-%d", "-%Y%m%d", "-latest", "-001"]),
)
def test_a_snapshot_costs_what_its_model_does(
    named: tuple[str, str], day: date, suffix: str
) -> None:
    kind, name = named
    snapshot = name + day.strftime(suffix)
    assert known(kind, snapshot) is TABLE[kind].get(snapshot, TABLE[kind][name])


# Ends of names that vendors do use, and others; the dates of snapshots are no part of them.
ends = st.sampled_from(
    [
        "-mini",
        "-nano",
        "-pro",
        "-preview",
        "-fast",
        "-32k",
        "-0613",
        "-lite",
        "-v2",
        ".5",
        "-5",
        "mini",
        ":free",
        "/x",
    ]
)


@given(
    row,
    ends
    | st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=12),
)
def test_a_longer_name_is_another_model(named: tuple[str, str], end: str) -> None:
    kind, name = named
    if re.search(r"-(20[\d-]+|00\d|latest|v[\d:]+)$", end) or name.startswith("ft:"):
        return  # what may follow a name without changing what it is
    assert known(kind, name + end) is TABLE[kind].get(name + end)


@given(row, st.data())
def test_a_shorter_name_is_another_model(named: tuple[str, str], data: st.DataObject) -> None:
    kind, name = named
    start = name[: data.draw(st.integers(0, len(name) - 1))]
    assert known(kind, start) is TABLE[kind].get(start)


@given(st.sampled_from(sorted({*VENDORS, *TABLE})), st.text(max_size=40))
def test_any_text_may_be_asked_for(kind: str, name: str) -> None:
    assert known(kind, name) is None or name in TABLE[kind]
