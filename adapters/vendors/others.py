"""What is known of the models of Google, xAI, Mistral, DeepSeek and Moonshot, and of hosted ones.

A row: dollars for a million tokens of prompt, of output, and of prompt that was cached; tokens it
can read, and write.
"""

from chattable.adapters.vendors.known import rows

GEMINI = rows(
    "https://ai.google.dev/gemini-api/docs/pricing",
    "2026-11",
    {
        "gemini-3.8-flash": (1.5, 7.5, 0.15, 1_048_576, 65_536),
        "gemini-3.7-flash": (1.5, 7.5, 0.15, 1_048_576, 65_536),
        "gemini-3.6-flash": (1.5, 7.5, 0.15, 1_048_576, 65_536),
        "gemini-3.5-flash": (1.5, 9, 0.15, 1_048_576, 65_536),
        "gemini-3.5-flash-lite": (0.3, 2.5, 0.03, 1_048_576, 65_536),
        "gemini-3.1-pro-preview": (2, 12, 0.2, 1_048_576, 65_536),
        "gemini-3.1-flash-lite": (0.25, 1.5, 0.025, 1_048_576, 65_536),
        "gemini-3-pro-preview": (2, 12, 0.2, 1_048_576, 65_536),
        "gemini-3-flash-preview": (0.5, 3, 0.05, 1_048_576, 65_536),
        "gemini-2.5-pro": (1.25, 10, 0.125, 1_048_576, 65_536),
        "gemini-2.5-flash": (0.3, 2.5, 0.03, 1_048_576, 65_536),
        "gemini-2.5-flash-lite": (0.1, 0.4, 0.01, 1_048_576, 65_536),
        "gemini-2.0-flash": (0.1, 0.4, 0.025, 1_048_576, 8_192),
        "gemini-2.0-flash-lite": (0.075, 0.3, None, 1_048_576, 8_192),
        "gemini-embedding-001": (0.15, 0),
    },
    long={"gemini-3.1-pro-preview gemini-3-pro-preview gemini-2.5-pro": (200_000, 2, 1.5)},
)

XAI = rows(  # no limit of output is published
    "https://docs.x.ai/docs/models",
    "2026-11",
    {
        "grok-4.7": (2, 6, 0.5, 500_000),
        "grok-4.6": (2, 6, 0.5, 500_000),
        "grok-4.5": (2, 6, 0.5, 500_000),
        "grok-4.3": (1.25, 2.5, 0.2, 1_000_000),
        "grok-4.20-0309-reasoning": (1.25, 2.5, 0.2, 1_000_000),
        "grok-4.20-0309-non-reasoning": (1.25, 2.5, 0.2, 1_000_000),
    },
    long={
        "grok-4.7 grok-4.6 grok-4.5 grok-4.3": (200_000, 2, 2),
        "grok-4.20-0309-reasoning grok-4.20-0309-non-reasoning": (200_000, 2, 2),
    },
)

MISTRAL = rows(  # no mistral-large and the like: what their -latest means has changed in price
    "https://mistral.ai/pricing",
    "2026-11",
    {
        "mistral-large-2512": (0.5, 1.5, 0.05, 262_144),
        "mistral-large-2411": (2, 6, None, 131_072),
        "mistral-medium-3.5": (1.5, 7.5, None, 262_144),
        "mistral-medium-2604": (1.5, 7.5, None, 262_144),
        "mistral-medium-2508": (0.4, 2, None, 262_144),
        "mistral-small-2603": (0.15, 0.6, 0.015, 262_144),
        "magistral-medium": (2, 5, None, 128_000),
        "codestral-2508": (0.3, 0.9, 0.03, 256_000),
        "codestral": (0.3, 0.9, None, 256_000),
        "devstral-2512": (0.4, 2, 0.04, 262_144),
        "ministral-8b-2512": (0.15, 0.15, 0.015, 262_144),
        "ministral-3b-2512": (0.1, 0.1, 0.01, 131_072),
        "open-mistral-nemo": (0.15, 0.15, None, 128_000),
    },
)

DEEPSEEK = rows(  # the price of working hours
    "https://api-docs.deepseek.com/quick_start/pricing",
    "2026-11",
    {
        "deepseek-flash": (0.3, 1.2, 0.006, 1_000_000, 384_000),
        "deepseek-v4-flash": (0.3, 1.2, 0.006, 1_000_000, 384_000),  # an old name of it
        "deepseek-v4-pro": (1.32, 3.96, 0.044, 1_000_000, 384_000),
    },
)

MOONSHOT = rows(
    "https://platform.moonshot.ai/docs/pricing",
    "2026-11",
    {
        "kimi-k3.1-pro": (2, 10, 0.2),
        "kimi-k3.1-pro-highspeed": (4, 20, 0.2),
        "kimi-k3": (3, 15, 0.3, 1_048_576),
        "kimi-k2.7-code": (0.95, 4, 0.19, 262_144),
        "kimi-k2.6": (0.95, 4, 0.16, 262_144),
        "kimi-k2.5": (0.6, 3, 0.1, 262_144),
    },
)

GROQ = rows(
    "https://groq.com/pricing",
    "2026-11",
    {
        "llama-3.3-70b-versatile": (0.59, 0.79, None, 131_072, 32_768),
        "llama-3.1-8b-instant": (0.05, 0.08, None, 131_072, 131_072),
        "meta-llama/llama-4-scout-17b-16e-instruct": (0.11, 0.34, None, 131_072, 8_192),
        "openai/gpt-oss-120b": (0.15, 0.6, 0.075, 131_072, 65_536),
        "openai/gpt-oss-20b": (0.075, 0.3, 0.0375, 131_072, 65_536),
        "qwen/qwen3-32b": (0.29, 0.59, None, 131_072, 40_960),
    },
)

TOGETHER = rows(
    "https://www.together.ai/pricing",
    "2026-11",
    {
        "meta-llama/Llama-3.3-70B-Instruct-Turbo": (0.88, 0.88, None, 131_072),
        "openai/gpt-oss-120b": (0.15, 0.6, None, 131_072),
        "openai/gpt-oss-20b": (0.05, 0.2, None, 131_072),
        "deepseek-ai/DeepSeek-V4-Pro": (1.74, 3.48, 0.2, 512_000),
        "moonshotai/Kimi-K2.6": (1.2, 4.5, 0.2, 262_144),
        "zai-org/GLM-5.2": (1.4, 4.4, 0.26, 262_144),
        "Qwen/Qwen3-235B-A22B-Instruct-2507-tput": (0.2, 0.6, None, 262_144),
    },
)

FIREWORKS = rows(
    "https://fireworks.ai/pricing",
    "2026-11",
    {
        "deepseek-v4-pro": (1.74, 3.48, 0.145),
        "deepseek-v4-flash": (0.14, 0.28, 0.028),
        "deepseek-v3p2": (0.56, 1.68, 0.28, 163_840),
        "glm-5p2": (1.4, 4.4),
        "gpt-oss-120b": (0.15, 0.6, 0.015, 131_072),
        "gpt-oss-20b": (0.07, 0.3, 0.035, 131_072),
        "kimi-k2p6": (0.95, 4, 0.16),
        "minimax-m2p7": (0.3, 1.2, 0.06),
    },
)

AMAZON = rows(
    "https://aws.amazon.com/bedrock/pricing/",
    "2026-11",
    {
        "amazon.nova-premier": (2.5, 12.5, 0.625),
        "amazon.nova-pro": (0.8, 3.2, 0.2, 300_000),
        "amazon.nova-lite": (0.06, 0.24, 0.015, 300_000),
        "amazon.nova-micro": (0.035, 0.14, 0.00875, 128_000),
        "meta.llama3-3-70b-instruct": (0.72, 0.72, None, 128_000),
        "meta.llama4-maverick-17b-instruct": (0.24, 0.97, None, 1_000_000),
        "meta.llama4-scout-17b-instruct": (0.17, 0.66),
    },
)
