"""Vendors as data: where they are, whose key, how they speak.

Most speak OpenAI's chat completions, with a difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from msgspec import Struct, structs

from chattable.adapters.anthropic.wire import AnthropicWire
from chattable.adapters.azure.wire import AzureWire
from chattable.adapters.bedrock.wire import BedrockWire
from chattable.adapters.gemini.wire import GeminiWire
from chattable.adapters.ollama.wire import OllamaWire
from chattable.adapters.openai.wire import OPENAI_ONLY, OpenAIWire, Quirks
from chattable.adapters.wire import Wire

QUIRKS = Quirks(developer=False, max_tokens="max_tokens", drops=OPENAI_ONLY)
PLAIN = OpenAIWire(QUIRKS)


class Vendor(Struct, frozen=True):
    """One vendor."""

    # an option's value goes where its name is in braces; empty: every account has its own address
    base_url: str
    # the environment variable that usually holds its key; empty: needs none, or more than a key
    key_env: str = ""
    wire: Wire = PLAIN
    options: tuple[str, ...] = ()  # settings that are for this vendor only
    # ends of an address that the wire adds itself, also where they are given
    adds: tuple[str, ...] = ()
    # patterns of addresses that are this vendor's too, without https://
    places: tuple[str, ...] = ()

    def address(self, base_url: str | None, options: Mapping[str, str]) -> str:
        """Where it is."""
        url = (base_url or self.base_url.format_map(options)).rstrip("/")
        return next((url.removesuffix(end) for end in self.adds if url.endswith(end)), url)

    def mistakes(
        self, base_url: str | None, options: Mapping[str, str]
    ) -> Iterator[tuple[str, str]]:
        """The settings of a provider that are missing or unknown, and what is wrong with them."""
        known = f"; it has {', '.join(self.options)}" if self.options else ""
        for name in options:
            if name not in self.options:
                yield name, f"is not a setting of this kind{known}"
        if base_url is None and not self.base_url:
            yield "base_url", "is needed: every account of this kind has an address of its own"
        elif base_url is None:
            yield from (
                (name, "is needed")
                for name in self.options
                if f"{{{name}}}" in self.base_url and not options.get(name)
            )

    def serves(self, place: str) -> bool:
        """Whether an address is this vendor's own: a host in small letters, and a path."""
        own = _place(self.base_url) if "{" not in self.base_url else ""
        return place == own or any(re.fullmatch(pattern, place) for pattern in self.places)


AZURE = r"[\w-]+\.(openai|services\.ai|cognitiveservices)\.azure\.com(/openai(/v1)?)?"
BEDROCK = r"bedrock-runtime(-fips)?\.[a-z0-9-]+\.(amazonaws\.com|api\.aws)"

VENDORS = {
    "openai": Vendor("https://api.openai.com/v1", "OPENAI_API_KEY", OpenAIWire()),
    "anthropic": Vendor("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", AnthropicWire()),
    "azure": Vendor(
        "",
        wire=AzureWire(),
        options=("api_version",),
        adds=("/openai/v1", "/openai"),
        places=(AZURE,),
    ),
    "bedrock": Vendor(
        "https://bedrock-runtime.{region}.amazonaws.com",
        wire=BedrockWire(),
        options=("region",),
        places=(BEDROCK,),
    ),
    "cerebras": Vendor("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "cohere": Vendor(
        "https://api.cohere.ai/compatibility/v1",
        "COHERE_API_KEY",
        places=(r"api\.cohere\.com/compatibility/v1",),
    ),
    "deepseek": Vendor(
        "https://api.deepseek.com/v1",
        "DEEPSEEK_API_KEY",
        places=(r"api\.deepseek\.com(/beta)?",),
    ),
    "fireworks": Vendor("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
    "gemini": Vendor(
        "https://generativelanguage.googleapis.com/v1beta",
        "GEMINI_API_KEY",
        GeminiWire(),
        places=(r"generativelanguage\.googleapis\.com/v1(beta)?(/openai)?",),
    ),
    "groq": Vendor("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "huggingface": Vendor("https://router.huggingface.co/v1", "HF_TOKEN"),
    # our own child process, see local.py, which says where it is once it runs
    "local": Vendor("http://127.0.0.1/v1"),
    "lmstudio": Vendor("http://127.0.0.1:1234/v1"),
    "mistral": Vendor(
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
        OpenAIWire(
            structs.replace(QUIRKS, stream_usage=False, drops=OPENAI_ONLY | {"logit_bias", "user"})
        ),
    ),
    "moonshot": Vendor("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    "ollama": Vendor("http://127.0.0.1:11434/v1"),
    "ollama-native": Vendor("http://127.0.0.1:11434", wire=OllamaWire(), adds=("/v1", "/api")),
    "openrouter": Vendor("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "together": Vendor(
        "https://api.together.xyz/v1",
        "TOGETHER_API_KEY",
        places=(r"api\.together\.ai/v1",),
    ),
    "vllm": Vendor("http://127.0.0.1:8000/v1"),
    "xai": Vendor("https://api.x.ai/v1", "XAI_API_KEY"),
}


def wire_of(kind: str, base_url: str | None, options: Mapping[str, str]) -> Wire:
    """How a provider is spoken to; a server compatible with OpenAI is known by its address."""
    wire = VENDORS[kind].wire.with_options(options)
    if not isinstance(wire, OpenAIWire):
        return wire
    return wire.of(vendor_at(kind, base_url) or (kind if kind != "openai" else ""))


def vendor_at(kind: str, base_url: str | None) -> str:
    """The vendor whose own service a provider is, by its kind and address; empty: somebody else's.

    An official address counts as if it had been left out; of other kinds too, as where
    `kind: openai` asks DeepSeek.
    """
    if base_url is None:
        return kind
    place = _place(base_url)
    if not place:
        return ""
    return next((name for name in (kind, *VENDORS) if VENDORS[name].serves(place)), "")


def _place(url: str) -> str:
    """An address without https:// and what makes no difference; empty for one that is no https."""
    split = urlsplit(url)
    if split.scheme != "https" or split.port not in (None, 443):
        return ""
    return f"{split.hostname or ''}{split.path.rstrip('/')}"
