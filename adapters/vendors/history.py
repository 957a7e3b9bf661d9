"""What a vendor takes of a conversation: message fields, thoughts, ids of calls, order.

A row a vendor, then rows by the family of the model. Each says where it was read and when.
"""

from __future__ import annotations

import re
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace

# Fields that some vendor adds to OpenAI's messages: to all others they are unknown.
FOREIGN = frozenset(
    {"annotations", "audio", "cache_control", "citations", "extra_content", "images", "is_error"}
    | {"partial", "prefix", "reasoning", "reasoning_details", "thinking_blocks"}
)
MARKS = frozenset({"cache_control"})  # Anthropic's, on messages, parts and tools
SIGNATURES = frozenset({"extra_content"})  # Google's, on messages and calls


class CallIds(Struct, frozen=True):
    """The shape that the ids of calls must have."""

    strange: str = ""  # a pattern of characters that they may not have
    most: int = 0  # characters; 0: as many as there are
    least: int = 0


class Takes(Struct, frozen=True):
    """What a vendor takes of the messages of a conversation."""

    source: str
    since: str  # the month when it was read there
    fields: frozenset[str] = frozenset()  # of FOREIGN
    thoughts: tuple[str, ...] = ()  # where thoughts go back: fields, or `parts` of the content
    wants_thoughts: bool = False  # a call that nobody thought about needs an empty thought
    others: bool = False  # fields that are in no list pass
    refusals: bool = False  # `refusal`, beside or among the content
    names: bool = True  # `name` of who speaks
    parts: bool = True  # content in parts; else text is one string
    ids: CallIds = CallIds()
    bridge: bool = False  # words of the assistant stand between a tool's answer and the user
    prefix: str = ""  # the field that marks a last message that is to be gone on with

    @property
    def strict(self) -> bool:
        """Whether Anthropic's marks of what is to be cached are unknown to it."""
        return self is not ANYTHING and not MARKS & self.fields


ANYTHING = Takes("nobody's known address: as it came", "2026-11")

_OPENAI = Takes(
    "https://developers.openai.com/api/reference/resources/chat",
    "2026-11",
    fields=frozenset({"audio"}),
    refusals=True,
    ids=CallIds(most=40),
)
_DEEPSEEK = Takes(
    "https://api-docs.deepseek.com/guides/thinking_mode",
    "2026-11",
    thoughts=("reasoning_content",),
    wants_thoughts=True,
    parts=False,
)
_OPEN = Takes(  # servers of open models read what their templates name
    "https://docs.vllm.ai/en/latest/features/reasoning_outputs.html",
    "2026-11",
    thoughts=("reasoning_content", "reasoning"),
    others=True,
)

ROWS = {
    "openai": _OPENAI,
    "azure": _OPENAI,
    "cerebras": Takes(
        "https://inference-docs.cerebras.ai/capabilities/reasoning",
        "2026-11",
        thoughts=("reasoning",),
    ),
    "cohere": Takes("https://docs.cohere.com/docs/compatibility-api", "2026-11", names=False),
    "deepseek": _DEEPSEEK,
    "fireworks": Takes("https://docs.fireworks.ai/api-reference/post-chatcompletions", "2026-11"),
    "gemini": Takes(
        "https://ai.google.dev/gemini-api/docs/thought-signatures",
        "2026-11",
        fields=SIGNATURES,
    ),
    "groq": Takes("https://console.groq.com/docs/api-reference", "2026-11"),
    "huggingface": Takes("https://huggingface.co/docs/inference-providers", "2026-11"),
    "lmstudio": _OPEN,
    "local": _OPEN,
    "mistral": Takes(
        "https://docs.mistral.ai/api/endpoint/chat",
        "2026-11",
        names=False,
        prefix="prefix",
    ),
    "moonshot": Takes(
        "https://platform.moonshot.ai/docs/guide/use-kimi-k2-thinking-model",
        "2026-11",
        thoughts=("reasoning_content",),
        prefix="partial",
    ),
    "ollama": _OPEN,
    "openrouter": Takes(
        "https://openrouter.ai/docs/use-cases/reasoning-tokens",
        "2026-11",
        fields=MARKS,
        thoughts=("reasoning", "reasoning_details"),
    ),
    "together": Takes("https://docs.together.ai/reference/chat-completions-1", "2026-11"),
    "vllm": _OPEN,
    "xai": Takes("https://docs.x.ai/docs/api-reference", "2026-11"),
}

MISTRALS = re.compile(
    r"(^|/)(open-)?(mi[sx]tral|ministral|magistral|codestral|devstral|pixtral|voxtral)"
)
NINE = CallIds("[^a-zA-Z0-9]", most=9, least=9)
# https://platform.claude.com/docs/en/api/messages, 2026-11
ANTHROPIC_IDS = CallIds("[^a-zA-Z0-9_-]")
BEDROCK_IDS = CallIds("[^a-zA-Z0-9_.:-]", most=64)  # Converse's ToolUseBlock, 2026-11


def _of_mistral(takes: Takes) -> Takes:
    """The row of whoever serves Mistral's models, whose tokenizer checks ids and order.

    https://docs.mistral.ai, 2026-11.
    """
    return replace(takes, ids=NINE, bridge=True)


# Vendor, or any → the models → what is different for them.
FAMILIES = (
    ("", MISTRALS, _of_mistral),
    (
        "mistral",  # https://docs.mistral.ai/capabilities/reasoning, 2026-11
        re.compile("magistral|mistral-(small|medium|large)-(latest|26|3.5|3-5|4)"),
        lambda takes: replace(takes, thoughts=("parts",)),
    ),
    (
        "groq",  # https://console.groq.com/docs/reasoning, 2026-11
        re.compile("gpt-oss|qwen"),
        lambda takes: replace(takes, thoughts=("reasoning",)),
    ),
    (
        "moonshot",  # moonshot-v1 does not think
        re.compile("kimi"),
        lambda takes: replace(takes, wants_thoughts=True),
    ),
)


@lru_cache(maxsize=4096)
def takes(vendor: str, model: str) -> Takes:
    """What a model takes at a vendor; at somebody else's address everything."""
    found, name = ROWS.get(vendor, ANYTHING), model.lower()
    for whose, models, different in FAMILIES:
        if whose in ("", vendor) and models.search(name):
            found = different(found)
    return found
