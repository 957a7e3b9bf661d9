"""What is known of models, so that a budget in money works offline, before anybody types a price.

Every row says where it was read and when; the vendor's page decided where lists were older, and
what no source settled is missing. Prices change: what the config says of a model comes first.

A row has the regular price of an ordinary request, and that of a long one where a vendor asks
more (from 100,000 to 272,000 tokens on). Not in it: discounts that end on a date, batches, faster
tiers. Of a price that depends on the hour, it has the dearer one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from chattable.adapters.vendors.anthropic import CLAUDE, OLD_CLAUDE
from chattable.adapters.vendors.known import Known
from chattable.adapters.vendors.openai import AT_AZURE, CHAT, OPENAI, WRITING
from chattable.adapters.vendors.others import (
    AMAZON,
    DEEPSEEK,
    FIREWORKS,
    GEMINI,
    GROQ,
    MISTRAL,
    MOONSHOT,
    TOGETHER,
    XAI,
)


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
    # No source settled what these cost; at Hugging Face's router it depends on who serves a model.
    "cerebras": {},
    "cohere": {},
    "huggingface": {},
    "azure": {name: OPENAI[name] for name in AT_AZURE.split()},
    # Claude costs on Bedrock what it costs at Anthropic if it may run anywhere, and a tenth more
    # within a region.
    "bedrock": AMAZON
    | {f"global.anthropic.{name}": row for name, row in CLAUDE.items()}
    | {f"anthropic.{name}": row.dearer(1.1) for name, row in CLAUDE.items()}
    | {
        "anthropic.claude-opus-4-1": OLD_CLAUDE["claude-opus-4-1"],
        "anthropic.claude-sonnet-4": OLD_CLAUDE["claude-sonnet-4"],
        "global.anthropic.claude-sonnet-4": OLD_CLAUDE["claude-sonnet-4"],
    },
    # Open models have the price of whoever serves them that day; these makers' is passed on.
    "openrouter": {f"openai/{name}": row for name, row in (WRITING | CHAT).items()}
    | {f"anthropic/{_dotted(name)}": row for name, row in (CLAUDE | OLD_CLAUDE).items()}
    | {f"google/{name}": row for name, row in GEMINI.items()}
    | {f"x-ai/{name}": row for name, row in XAI.items()},
}

# What a kind's names have around the one in the table, as replacements that are made in this order.
NAMING: Mapping[str, tuple[tuple[str, str], ...]] = {
    # a fine-tuned model is not the model that it was made of
    "openai": ((r"^openai/", ""), (r"^(ft:[^:]+):.*", r"\1")),
    "anthropic": ((r"^anthropic/", ""),),
    "gemini": ((r"^(models|google|publishers/google/models)/", ""),),
    "xai": ((r"^(xai|x-ai)/", ""),),
    "mistral": ((r"^mistralai/", ""),),
    "deepseek": ((r"^deepseek/", ""),),
    "moonshot": ((r"^moonshotai/", ""),),
    # accounts/somebody/models/… is somebody's own
    "fireworks": ((r"^accounts/fireworks/models/", ""),),
    "bedrock": (
        (r"^arn:[^/]+/", ""),
        (r"-v\d+(:\d+)?$", ""),
        (r"^(us|eu|apac|jp|au|ca)\.(?=anthropic\.)", ""),
        (r"^us\.", ""),  # the other makers' models differ in price from region to region
    ),
}
SNAPSHOT = re.compile(r"-(20\d\d-[01]\d-[0-3]\d|20\d\d[01]\d[0-3]\d|00\d|latest)$", re.ASCII)


@lru_cache(maxsize=4096)
def known(kind: str, model: str) -> Known | None:
    """What is known of a vendor's model by its name upstream.

    Law. A name finds the row of its own, else the row of the model that it is a snapshot of, else
    nothing: never the row of a model whose name only begins alike.
    """
    table = TABLE.get(kind, {})
    return next((table[name] for name in _names(kind, model) if name in table), None)


def _names(kind: str, model: str) -> Iterator[str]:
    yield model
    for pattern, replacement in NAMING.get(kind, ()):
        model = re.sub(pattern, replacement, model, flags=re.ASCII | re.DOTALL)
    yield model
    yield SNAPSHOT.sub("", model)
