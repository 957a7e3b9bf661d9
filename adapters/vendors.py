"""Vendors as data: where they are, whose key, how they speak. Most speak OpenAI's chat completions, with a difference."""

from __future__ import annotations

from msgspec import Struct, structs

from chattable.adapters.anthropic import AnthropicWire
from chattable.adapters.gemini import GeminiWire
from chattable.adapters.openai import OpenAIWire, Quirks
from chattable.adapters.wire import Wire

# Parameters that only OpenAI itself understands.
OPENAI_ONLY = frozenset(
    {"prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "safety_identifier", "store", "metadata"}
)
QUIRKS = Quirks(developer=False, max_tokens="max_tokens", drops=OPENAI_ONLY)
PLAIN = OpenAIWire(QUIRKS)


class Vendor(Struct, frozen=True):
    """One vendor."""

    base_url: str
    key_env: str = ""  # the environment variable that usually holds its key; empty: needs none
    wire: Wire = PLAIN


VENDORS = {
    "openai": Vendor("https://api.openai.com/v1", "OPENAI_API_KEY", OpenAIWire()),
    "anthropic": Vendor("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", AnthropicWire()),
    "deepseek": Vendor("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "fireworks": Vendor("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
    "gemini": Vendor("https://generativelanguage.googleapis.com/v1beta", "GEMINI_API_KEY", GeminiWire()),
    "groq": Vendor("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "local": Vendor("http://127.0.0.1/v1"),  # our own child process, see local.py, which says where it is once it runs
    "lmstudio": Vendor("http://127.0.0.1:1234/v1"),
    "mistral": Vendor(
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
        OpenAIWire(structs.replace(QUIRKS, stream_usage=False, drops=OPENAI_ONLY | {"logit_bias", "user"})),
    ),
    "moonshot": Vendor("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    "ollama": Vendor("http://127.0.0.1:11434/v1"),
    "openrouter": Vendor("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "together": Vendor("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    "vllm": Vendor("http://127.0.0.1:8000/v1"),
    "xai": Vendor("https://api.x.ai/v1", "XAI_API_KEY"),
}
