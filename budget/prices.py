"""What known models cost, so that a budget in money works before anybody has typed a price.

As of 2026-11, from the vendors' pages and several lists of prices; the vendor's page decided where lists were older, and what
no source settled is missing. Prices change: a price in the config overrides this table.

A row has the regular price of an ordinary request. Not in it: discounts that end on a date, batches, faster tiers, what
writing to a cache costs, and what some vendors add for long prompts (from 100,000 to 272,000 tokens on). Of a price that
depends on the hour, it has the dearer one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from msgspec import Struct

from chattable.budget.ledger import Price


class Known(Struct, frozen=True):
    """What is known of one model."""

    price: Price
    context_length: int | None = None  # tokens it can read
    max_output: int | None = None  # tokens it can write in one reply


def usd(
    prompt: float, output: float, cached: float | None = None, context: int | None = None, max_output: int | None = None
) -> Known:
    """A row, in the unit that vendors publish: US dollars per million tokens."""
    price = Price(round(prompt * 1e6), round(output * 1e6), None if cached is None else round(cached * 1e6))
    return Known(price, context, max_output)


OPENAI = {  # input, output, cached input, context length, max output
    "gpt-6.2-astra": usd(8, 40, 0.4, 1_050_000, 128_000),
    "gpt-6.2-sol": usd(2, 10, None, 1_050_000, 128_000),
    "gpt-6.1-sol": usd(2, 10, 0.1, 1_050_000, 128_000),
    "gpt-6.1-terra": usd(1, 5, 0.05, 1_050_000, 128_000),
    "gpt-6-astra": usd(10, 50, 1, 1_050_000, 128_000),
    "gpt-6-sol": usd(2, 10, 0.2, 1_050_000, 128_000),
    "gpt-6-luna": usd(0.1, 0.5, 0.01, 1_050_000, 128_000),
    "gpt-5.6": usd(5, 30, 0.5, 1_050_000, 128_000),  # another name of sol
    "gpt-5.6-sol": usd(5, 30, 0.5, 1_050_000, 128_000),
    "gpt-5.6-terra": usd(2, 12, 0.2, 1_050_000, 128_000),
    "gpt-5.6-luna": usd(0.2, 1.2, 0.02, 1_050_000, 128_000),
    "gpt-5.5": usd(5, 30, 0.5, 1_050_000, 128_000),
    "gpt-5.5-pro": usd(30, 180, None, 1_050_000, 128_000),
    "gpt-5.4": usd(2.5, 15, 0.25, 1_050_000, 128_000),
    "gpt-5.4-mini": usd(0.75, 4.5, 0.075, 400_000, 128_000),
    "gpt-5.4-nano": usd(0.2, 1.25, 0.02, 400_000, 128_000),
    "gpt-5.2": usd(1.75, 14, 0.175, 400_000, 128_000),
    "gpt-5.1": usd(1.25, 10, 0.125, 400_000, 128_000),
    "gpt-5": usd(1.25, 10, 0.125, 400_000, 128_000),
    "gpt-5-mini": usd(0.25, 2, 0.025, 400_000, 128_000),
    "gpt-5-nano": usd(0.05, 0.4, 0.005, 400_000, 128_000),
    "gpt-4.1": usd(2, 8, 0.5, 1_047_576, 32_768),
    "gpt-4.1-mini": usd(0.4, 1.6, 0.1, 1_047_576, 32_768),
    "gpt-4.1-nano": usd(0.1, 0.4, 0.025, 1_047_576, 32_768),
    "gpt-4o": usd(2.5, 10, 1.25, 128_000, 16_384),
    "gpt-4o-2024-05-13": usd(5, 15, None, 128_000, 4_096),  # the one snapshot that costs more than its model
    "gpt-4o-mini": usd(0.15, 0.6, 0.075, 128_000, 16_384),
    "gpt-4-turbo": usd(10, 30, None, 128_000, 4_096),
    "gpt-4": usd(30, 60, None, 8_192),
    "gpt-3.5-turbo": usd(0.5, 1.5, None, 16_385, 4_096),
    "o1": usd(15, 60, 7.5, 200_000, 100_000),
    "o1-pro": usd(150, 600, None, 200_000, 100_000),
    "o3": usd(2, 8, 0.5, 200_000, 100_000),
    "o3-pro": usd(20, 80, None, 200_000, 100_000),
    "o3-mini": usd(1.1, 4.4, 0.55, 200_000, 100_000),
    "o4-mini": usd(1.1, 4.4, 0.275, 200_000, 100_000),
    "ft:gpt-4o": usd(3.75, 15, None, 128_000, 16_384),
    "ft:gpt-4o-mini": usd(0.3, 1.2, None, 128_000, 16_384),
    "text-embedding-3-large": usd(0.13, 0),
    "text-embedding-3-small": usd(0.02, 0),
    "text-embedding-ada-002": usd(0.1, 0),
}

CLAUDE = {  # since 4.5
    "claude-fable-5-1": usd(10, 50, 0.25, 1_000_000, 128_000),
    "claude-fable-5": usd(10, 50, 1, 1_000_000, 128_000),
    "claude-opus-5-5": usd(4, 20, 0.2, 1_000_000, 128_000),
    "claude-sonnet-5-5": usd(2, 10, 0.2, 1_000_000, 128_000),
    "claude-haiku-5-5": usd(0.1, 0.5, 0.01, 1_000_000, 128_000),
    "claude-opus-5": usd(5, 25, 0.5, 1_000_000, 128_000),
    "claude-sonnet-5": usd(2, 10, 0.2, 1_000_000, 128_000),
    "claude-opus-4-8": usd(5, 25, 0.5, 1_000_000, 128_000),
    "claude-opus-4-7": usd(5, 25, 0.5, 1_000_000, 128_000),
    "claude-opus-4-6": usd(5, 25, 0.5, 1_000_000, 128_000),
    "claude-sonnet-4-6": usd(3, 15, 0.3, 1_000_000),
    "claude-opus-4-5": usd(5, 25, 0.5, 200_000, 64_000),
    "claude-sonnet-4-5": usd(3, 15, 0.3, 200_000, 64_000),
    "claude-haiku-4-5": usd(1, 5, 0.1, 200_000, 64_000),
}

OLD_CLAUDE = {
    "claude-opus-4-1": usd(15, 75, 1.5, 200_000, 32_000),
    "claude-opus-4-0": usd(15, 75, 1.5, 200_000, 32_000),
    "claude-opus-4": usd(15, 75, 1.5, 200_000, 32_000),
    "claude-sonnet-4-0": usd(3, 15, 0.3, 200_000, 64_000),
    "claude-sonnet-4": usd(3, 15, 0.3, 200_000, 64_000),
    "claude-3-7-sonnet": usd(3, 15, 0.3, 200_000, 64_000),
    "claude-3-5-sonnet": usd(3, 15, 0.3, 200_000, 8_192),
    "claude-3-5-haiku": usd(0.8, 4, 0.08, 200_000, 8_192),
    "claude-3-haiku": usd(0.25, 1.25, 0.03, 200_000, 4_096),
}

GEMINI = {
    "gemini-3.8-flash": usd(1.5, 7.5, 0.15, 1_048_576, 65_536),
    "gemini-3.7-flash": usd(1.5, 7.5, 0.15, 1_048_576, 65_536),
    "gemini-3.6-flash": usd(1.5, 7.5, 0.15, 1_048_576, 65_536),
    "gemini-3.5-flash": usd(1.5, 9, 0.15, 1_048_576, 65_536),
    "gemini-3.5-flash-lite": usd(0.3, 2.5, 0.03, 1_048_576, 65_536),
    "gemini-3.1-pro-preview": usd(2, 12, 0.2, 1_048_576, 65_536),
    "gemini-3.1-flash-lite": usd(0.25, 1.5, 0.025, 1_048_576, 65_536),
    "gemini-3-pro-preview": usd(2, 12, 0.2, 1_048_576, 65_536),
    "gemini-3-flash-preview": usd(0.5, 3, 0.05, 1_048_576, 65_536),
    "gemini-2.5-pro": usd(1.25, 10, 0.125, 1_048_576, 65_536),
    "gemini-2.5-flash": usd(0.3, 2.5, 0.03, 1_048_576, 65_536),
    "gemini-2.5-flash-lite": usd(0.1, 0.4, 0.01, 1_048_576, 65_536),
    "gemini-2.0-flash": usd(0.1, 0.4, 0.025, 1_048_576, 8_192),
    "gemini-2.0-flash-lite": usd(0.075, 0.3, None, 1_048_576, 8_192),
    "gemini-embedding-001": usd(0.15, 0),
}

XAI = {  # no limit of output is published
    "grok-4.7": usd(2, 6, 0.5, 500_000),
    "grok-4.6": usd(2, 6, 0.5, 500_000),
    "grok-4.5": usd(2, 6, 0.5, 500_000),
    "grok-4.3": usd(1.25, 2.5, 0.2, 1_000_000),
    "grok-4.20-0309-reasoning": usd(1.25, 2.5, 0.2, 1_000_000),
    "grok-4.20-0309-non-reasoning": usd(1.25, 2.5, 0.2, 1_000_000),
}

MISTRAL = {  # no mistral-large and the like: what their -latest means has changed in price
    "mistral-large-2512": usd(0.5, 1.5, 0.05, 262_144),
    "mistral-large-2411": usd(2, 6, None, 131_072),
    "mistral-medium-3.5": usd(1.5, 7.5, None, 262_144),
    "mistral-medium-2604": usd(1.5, 7.5, None, 262_144),
    "mistral-medium-2508": usd(0.4, 2, None, 262_144),
    "mistral-small-2603": usd(0.15, 0.6, 0.015, 262_144),
    "magistral-medium": usd(2, 5, None, 128_000),
    "codestral-2508": usd(0.3, 0.9, 0.03, 256_000),
    "codestral": usd(0.3, 0.9, None, 256_000),
    "devstral-2512": usd(0.4, 2, 0.04, 262_144),
    "ministral-8b-2512": usd(0.15, 0.15, 0.015, 262_144),
    "ministral-3b-2512": usd(0.1, 0.1, 0.01, 131_072),
    "open-mistral-nemo": usd(0.15, 0.15, None, 128_000),
}

DEEPSEEK = {  # the price of working hours
    "deepseek-flash": usd(0.3, 1.2, 0.006, 1_000_000, 384_000),
    "deepseek-v4-flash": usd(0.3, 1.2, 0.006, 1_000_000, 384_000),  # an old name of it
    "deepseek-v4-pro": usd(1.32, 3.96, 0.044, 1_000_000, 384_000),
}

MOONSHOT = {
    "kimi-k3.1-pro": usd(2, 10, 0.2),
    "kimi-k3.1-pro-highspeed": usd(4, 20, 0.2),
    "kimi-k3": usd(3, 15, 0.3, 1_048_576),
    "kimi-k2.7-code": usd(0.95, 4, 0.19, 262_144),
    "kimi-k2.6": usd(0.95, 4, 0.16, 262_144),
    "kimi-k2.5": usd(0.6, 3, 0.1, 262_144),
}

GROQ = {
    "llama-3.3-70b-versatile": usd(0.59, 0.79, None, 131_072, 32_768),
    "llama-3.1-8b-instant": usd(0.05, 0.08, None, 131_072, 131_072),
    "meta-llama/llama-4-scout-17b-16e-instruct": usd(0.11, 0.34, None, 131_072, 8_192),
    "openai/gpt-oss-120b": usd(0.15, 0.6, 0.075, 131_072, 65_536),
    "openai/gpt-oss-20b": usd(0.075, 0.3, 0.0375, 131_072, 65_536),
    "qwen/qwen3-32b": usd(0.29, 0.59, None, 131_072, 40_960),
}

TOGETHER = {
    "meta-llama/Llama-3.3-70B-Instruct-Turbo": usd(0.88, 0.88, None, 131_072),
    "openai/gpt-oss-120b": usd(0.15, 0.6, None, 131_072),
    "openai/gpt-oss-20b": usd(0.05, 0.2, None, 131_072),
    "deepseek-ai/DeepSeek-V4-Pro": usd(1.74, 3.48, 0.2, 512_000),
    "moonshotai/Kimi-K2.6": usd(1.2, 4.5, 0.2, 262_144),
    "zai-org/GLM-5.2": usd(1.4, 4.4, 0.26, 262_144),
    "Qwen/Qwen3-235B-A22B-Instruct-2507-tput": usd(0.2, 0.6, None, 262_144),
}

FIREWORKS = {
    "deepseek-v4-pro": usd(1.74, 3.48, 0.145),
    "deepseek-v4-flash": usd(0.14, 0.28, 0.028),
    "deepseek-v3p2": usd(0.56, 1.68, 0.28, 163_840),
    "glm-5p2": usd(1.4, 4.4),
    "gpt-oss-120b": usd(0.15, 0.6, 0.015, 131_072),
    "gpt-oss-20b": usd(0.07, 0.3, 0.035, 131_072),
    "kimi-k2p6": usd(0.95, 4, 0.16),
    "minimax-m2p7": usd(0.3, 1.2, 0.06),
}

ON_AZURE = (  # what costs there, in a global deployment, what it costs at OpenAI
    "gpt-5.5 gpt-5.4 gpt-5.4-mini gpt-5.4-nano gpt-5.2 gpt-5.1 gpt-5 gpt-5-mini gpt-5-nano gpt-4.1 gpt-4.1-mini gpt-4.1-nano "
    "gpt-4o gpt-4o-mini o1 o3 o3-mini o4-mini text-embedding-3-large text-embedding-3-small"
)

BEDROCK = {
    "amazon.nova-premier": usd(2.5, 12.5, 0.625),
    "amazon.nova-pro": usd(0.8, 3.2, 0.2, 300_000),
    "amazon.nova-lite": usd(0.06, 0.24, 0.015, 300_000),
    "amazon.nova-micro": usd(0.035, 0.14, 0.00875, 128_000),
    "meta.llama3-3-70b-instruct": usd(0.72, 0.72, None, 128_000),
    "meta.llama4-maverick-17b-instruct": usd(0.24, 0.97, None, 1_000_000),
    "meta.llama4-scout-17b-instruct": usd(0.17, 0.66),
    "anthropic.claude-opus-4-1": OLD_CLAUDE["claude-opus-4-1"],
    "anthropic.claude-sonnet-4": OLD_CLAUDE["claude-sonnet-4"],
    "global.anthropic.claude-sonnet-4": OLD_CLAUDE["claude-sonnet-4"],
}


def _tenth_more(row: Known) -> Known:
    price = row.price
    cached = None if price.cached is None else price.cached * 11 // 10
    return Known(Price(price.input * 11 // 10, price.output * 11 // 10, cached), row.context_length, row.max_output)


def _dotted(name: str) -> str:
    """claude-opus-4-5 → claude-opus-4.5, as OpenRouter writes it."""
    return re.sub(r"(\d)-(\d)", r"\1.\2", name)


# Kind of vendor → name upstream, without what NAMING and SNAPSHOT take off → what is known.
TABLE: Mapping[str, Mapping[str, Known]] = {
    "openai": OPENAI,
    "anthropic": CLAUDE | OLD_CLAUDE,
    "gemini": GEMINI,
    "xai": XAI,
    "mistral": MISTRAL,
    "deepseek": DEEPSEEK,
    "moonshot": MOONSHOT,
    "groq": GROQ,
    "together": TOGETHER,
    "fireworks": FIREWORKS,
    "azure": {name: OPENAI[name] for name in ON_AZURE.split()},
    # Claude costs on Bedrock what it costs at Anthropic if it may run anywhere, and a tenth more within a region.
    "bedrock": BEDROCK
    | {f"global.anthropic.{name}": row for name, row in CLAUDE.items()}
    | {f"anthropic.{name}": _tenth_more(row) for name, row in CLAUDE.items()},
    # Open models have the price of whoever serves them that day; these makers' own prices are passed on.
    "openrouter": {f"openai/{name}": row for name, row in OPENAI.items() if not name.startswith("ft:")}
    | {f"anthropic/{_dotted(name)}": row for name, row in (CLAUDE | OLD_CLAUDE).items()}
    | {f"google/{name}": row for name, row in GEMINI.items()}
    | {f"x-ai/{name}": row for name, row in XAI.items()},
}

# What a kind's names have around the one in the table, as replacements that are made in this order.
NAMING: Mapping[str, tuple[tuple[str, str], ...]] = {
    "openai": ((r"^openai/", ""), (r"^(ft:[^:]+):.*", r"\1")),  # a fine-tuned model is not the model that it was made of
    "anthropic": ((r"^anthropic/", ""),),
    "gemini": ((r"^(models|google|publishers/google/models)/", ""),),
    "xai": ((r"^(xai|x-ai)/", ""),),
    "mistral": ((r"^mistralai/", ""),),
    "deepseek": ((r"^deepseek/", ""),),
    "moonshot": ((r"^moonshotai/", ""),),
    "fireworks": ((r"^accounts/fireworks/models/", ""),),  # accounts/somebody/models/… is somebody's own
    "bedrock": (
        (r"^arn:[^/]+/", ""),
        (r"-v\d+(:\d+)?$", ""),
        (r"^(us|eu|apac|jp|au|ca)\.(?=anthropic\.)", ""),
        (r"^us\.", ""),  # the other makers' models differ in price from region to region
    ),
}
SNAPSHOT = re.compile(r"-(20\d\d-[01]\d-[0-3]\d|20\d\d[01]\d[0-3]\d|00\d|latest)$", re.ASCII)


def known(kind: str, model: str) -> Known | None:
    """What is known of a vendor's model by its name upstream.

    Law. A name finds the row of its own, else the row of the model that it is a snapshot of, else nothing: never the row of
    a model whose name only begins alike.
    """
    table = TABLE.get(kind, {})
    return next((table[name] for name in _names(kind, model) if name in table), None)


def price_of(kind: str, model: str) -> Price | None:
    """What a vendor's model costs; None if that is not known, or nobody's to say where one serves it oneself."""
    row = known(kind, model)
    return row.price if row else None


def _names(kind: str, model: str) -> Iterator[str]:
    yield model
    for pattern, replacement in NAMING.get(kind, ()):
        model = re.sub(pattern, replacement, model, flags=re.ASCII | re.DOTALL)
    yield model
    yield SNAPSHOT.sub("", model)
