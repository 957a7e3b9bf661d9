"""What is known of OpenAI's models.

A row: dollars for a million tokens of prompt, of output, and of prompt that was cached; tokens it
can read, and write.
"""

from chattable.adapters.vendors.known import Known, rows

PRICING = "https://developers.openai.com/api/docs/pricing"
LONG = (272_000, 2, 1.5)

# Since GPT-5.6 what is written to the cache costs a quarter more.
WRITING = rows(
    PRICING,
    "2026-11",
    {
        "gpt-6.2-astra": (8, 40, 0.4, 1_050_000, 128_000),
        "gpt-6.2-sol": (2, 10, None, 1_050_000, 128_000),
        "gpt-6.1-sol": (2, 10, 0.1, 1_050_000, 128_000),
        "gpt-6.1-terra": (1, 5, 0.05, 1_050_000, 128_000),
        "gpt-6-astra": (10, 50, 1, 1_050_000, 128_000),
        "gpt-6-sol": (2, 10, 0.2, 1_050_000, 128_000),
        "gpt-6-luna": (0.1, 0.5, 0.01, 1_050_000, 128_000),
        "gpt-5.6": (5, 30, 0.5, 1_050_000, 128_000),  # another name of sol
        "gpt-5.6-sol": (5, 30, 0.5, 1_050_000, 128_000),
        "gpt-5.6-terra": (2, 12, 0.2, 1_050_000, 128_000),
        "gpt-5.6-luna": (0.2, 1.2, 0.02, 1_050_000, 128_000),
    },
    write=1.25,
    long={
        "gpt-6.1-sol gpt-6.1-terra gpt-6-astra gpt-6-sol gpt-6-luna": LONG,
        "gpt-5.6 gpt-5.6-sol gpt-5.6-terra gpt-5.6-luna": LONG,
    },
)
CHAT = rows(
    PRICING,
    "2026-11",
    {
        "gpt-5.5": (5, 30, 0.5, 1_050_000, 128_000),
        "gpt-5.5-pro": (30, 180, None, 1_050_000, 128_000),
        "gpt-5.4": (2.5, 15, 0.25, 1_050_000, 128_000),
        "gpt-5.4-mini": (0.75, 4.5, 0.075, 400_000, 128_000),
        "gpt-5.4-nano": (0.2, 1.25, 0.02, 400_000, 128_000),
        "gpt-5.2": (1.75, 14, 0.175, 400_000, 128_000),
        "gpt-5.1": (1.25, 10, 0.125, 400_000, 128_000),
        "gpt-5": (1.25, 10, 0.125, 400_000, 128_000),
        "gpt-5-mini": (0.25, 2, 0.025, 400_000, 128_000),
        "gpt-5-nano": (0.05, 0.4, 0.005, 400_000, 128_000),
        "gpt-4.1": (2, 8, 0.5, 1_047_576, 32_768),
        "gpt-4.1-mini": (0.4, 1.6, 0.1, 1_047_576, 32_768),
        "gpt-4.1-nano": (0.1, 0.4, 0.025, 1_047_576, 32_768),
        "gpt-4o": (2.5, 10, 1.25, 128_000, 16_384),
        "gpt-4o-2024-05-13": (5, 15, None, 128_000, 4_096),  # the one dearer than its model
        "gpt-4o-mini": (0.15, 0.6, 0.075, 128_000, 16_384),
        "gpt-4-turbo": (10, 30, None, 128_000, 4_096),
        "gpt-4": (30, 60, None, 8_192),
        "gpt-3.5-turbo": (0.5, 1.5, None, 16_385, 4_096),
        "o1": (15, 60, 7.5, 200_000, 100_000),
        "o1-pro": (150, 600, None, 200_000, 100_000),
        "o3": (2, 8, 0.5, 200_000, 100_000),
        "o3-pro": (20, 80, None, 200_000, 100_000),
        "o3-mini": (1.1, 4.4, 0.55, 200_000, 100_000),
        "o4-mini": (1.1, 4.4, 0.275, 200_000, 100_000),
        "text-embedding-3-large": (0.13, 0),
        "text-embedding-3-small": (0.02, 0),
        "text-embedding-ada-002": (0.1, 0),
    },
    long={"gpt-5.5 gpt-5.5-pro gpt-5.4": LONG},
)
TUNED = rows(
    PRICING,
    "2026-11",
    {
        "ft:gpt-4o": (3.75, 15, None, 128_000, 16_384),
        "ft:gpt-4o-mini": (0.3, 1.2, None, 128_000, 16_384),
    },
)
# Their output are the tokens of pictures; one of DALL·E is paid by the piece, here the dearest.
IMAGES = rows(
    PRICING,
    "2026-11",
    {
        "gpt-image-2.5-flare": (5, 30, 1.25),
        "gpt-image-2.5-sunburst": (5, 30, 1.25),
        "gpt-image-2": (5, 30, 1.25),
        "gpt-image-1.5": (5, 32, 1.25),
        "gpt-image-1": (5, 40, 1.25),
        "gpt-image-1-mini": (2, 8, 0.2),
    },
) | {
    "dall-e-3": Known(0, 0, image=0.12, source=PRICING, since="2026-11"),
    "dall-e-2": Known(0, 0, image=0.02, source=PRICING, since="2026-11"),
}

OPENAI = WRITING | CHAT | TUNED | IMAGES

AT_AZURE = (  # what costs there, in a global deployment, what it costs at OpenAI
    "gpt-5.5 gpt-5.4 gpt-5.4-mini gpt-5.4-nano gpt-5.2 gpt-5.1 gpt-5 gpt-5-mini gpt-5-nano gpt-4.1 "
    "gpt-4.1-mini gpt-4.1-nano gpt-4o gpt-4o-mini o1 o3 o3-mini o4-mini text-embedding-3-large "
    "text-embedding-3-small gpt-image-1 dall-e-3"
)
