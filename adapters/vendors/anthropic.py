"""What is known of Anthropic's models.

A row: dollars for a million tokens of prompt, of output, and of prompt that was cached; tokens it
can read, and write. What is written to a cache costs a quarter more than other prompt, and twice
as much where it is kept for an hour.
"""

from msgspec.structs import replace

from chattable.adapters.vendors.known import rows

PRICING = "https://platform.claude.com/docs/en/about-claude/pricing"

CLAUDE = rows(  # since 4.5
    PRICING,
    "2026-11",
    {
        "claude-fable-5-1": (10, 50, 0.25, 1_000_000, 128_000),
        "claude-fable-5": (10, 50, 1, 1_000_000, 128_000),
        "claude-opus-5-5": (4, 20, 0.2, 1_000_000, 128_000),
        "claude-sonnet-5-5": (2, 10, 0.2, 1_000_000, 128_000),
        "claude-haiku-5-5": (0.1, 0.5, 0.01, 1_000_000, 128_000),
        "claude-opus-5": (5, 25, 0.5, 1_000_000, 128_000),
        "claude-sonnet-5": (2, 10, 0.2, 1_000_000, 128_000),
        "claude-opus-4-8": (5, 25, 0.5, 1_000_000, 128_000),
        "claude-opus-4-7": (5, 25, 0.5, 1_000_000, 128_000),
        "claude-opus-4-6": (5, 25, 0.5, 1_000_000, 128_000),
        "claude-sonnet-4-6": (3, 15, 0.3, 1_000_000),
        "claude-opus-4-5": (5, 25, 0.5, 200_000, 64_000),
        "claude-sonnet-4-5": (3, 15, 0.3, 200_000, 64_000),
        "claude-haiku-4-5": (1, 5, 0.1, 200_000, 64_000),
    },
    write=1.25,
    write_1h=2,
    long={"claude-haiku-5-5": (100_000, 5, 5)},
)
OLD_CLAUDE = rows(
    PRICING,
    "2026-11",
    {
        "claude-opus-4-1": (15, 75, 1.5, 200_000, 32_000),
        "claude-opus-4-0": (15, 75, 1.5, 200_000, 32_000),
        "claude-opus-4": (15, 75, 1.5, 200_000, 32_000),
        "claude-sonnet-4-0": (3, 15, 0.3, 200_000, 64_000),
        "claude-sonnet-4": (3, 15, 0.3, 200_000, 64_000),
        "claude-3-7-sonnet": (3, 15, 0.3, 200_000, 64_000),
        "claude-3-5-sonnet": (3, 15, 0.3, 200_000, 8_192),
        "claude-3-5-haiku": (0.8, 4, 0.08, 200_000, 8_192),
        "claude-3-haiku": (0.25, 1.25, 0.03, 200_000, 4_096),
    },
    write=1.25,
    write_1h=2,
)
# Not quite a quarter more.
OLD_CLAUDE["claude-3-haiku"] = replace(OLD_CLAUDE["claude-3-haiku"], cache_write=0.3)
