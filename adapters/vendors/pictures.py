"""How many tokens a picture is to a model that reads it: the vendors' rules, by models' names.

A rule answers what a picture may cost at most; where it costs less, vendors do not say.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Protocol

from msgspec import Struct

LOW = 512  # pixels of each side to which OpenAI scales a picture of low detail


class Rule(Protocol):
    """What a picture costs."""

    @property
    def says(self) -> str:
        """The rule in words."""
        ...

    def tokens(self, width: int, height: int, detail: str) -> int:
        """Of a picture of that size, in pixels; `detail` is low, high, original, or auto."""
        ...

    def most(self, detail: str) -> int:
        """Of a picture whose size is not known."""
        ...


class Tiles(Struct, frozen=True):
    """OpenAI: a base, and tiles of 512 px once it fits 2,048 px, and 768 px on its short side."""

    base: int
    tile: int

    @property
    def says(self) -> str:
        tiles = f"{self.base:,} tokens and {self.tile:,} for each tile of 512 px"
        return f"{tiles}, at most {self.most('high'):,}"

    def tokens(self, width: int, height: int, detail: str) -> int:
        if detail == "low":
            return self.base
        scale = min(1.0, 2048 / max(width, height), 768 / min(width, height))
        across, down = (math.ceil(round(side * scale) / 512) for side in (width, height))
        return self.base + self.tile * max(1, across) * max(1, down)

    def most(self, detail: str) -> int:
        return self.tokens(2048, 768, detail)


class Patches(Struct, frozen=True):
    """OpenAI: patches of 32 pixels, so many at most at each detail, times a factor."""

    factor: float
    budget: int = 1_536
    edge: int = 2_048  # longest side, in pixels
    original: tuple[int, int] | None = None  # the same two for the detail `original`
    auto: str = "high"  # what the detail is where nobody says

    @property
    def says(self) -> str:
        return f"{self.factor} tokens for each patch of 32 px, at most {self.most('auto'):,}"

    def tokens(self, width: int, height: int, detail: str) -> int:
        budget, edge = self._limits(detail)
        return math.ceil(_patches(width, height, budget, edge) * self.factor)

    def most(self, detail: str) -> int:
        return math.ceil(self._limits(detail)[0] * self.factor)

    def _limits(self, detail: str) -> tuple[int, int]:
        if detail == "low":
            return (LOW // 32) ** 2, LOW
        named = detail if detail in ("high", "original") else self.auto
        return self.original if named == "original" and self.original else (self.budget, self.edge)


class Areas(Struct, frozen=True):
    """Anthropic, Amazon: a token for so many pixels, or for each patch of 28 px if that is more."""

    pixels: int
    limit: int  # tokens
    edge: int  # longest side, in pixels

    @property
    def says(self) -> str:
        return f"a token for {self.pixels} pixels, at most {self.limit:,}"

    def tokens(self, width: int, height: int, detail: str) -> int:
        scale = min(1.0, self.edge / max(width, height))
        wide, high = max(1.0, width * scale), max(1.0, height * scale)
        patches = math.ceil(wide / 28) * math.ceil(high / 28)
        return min(self.limit, max(patches, math.ceil(wide * high / self.pixels)))

    def most(self, detail: str) -> int:
        return self.limit


class Crops(Struct, frozen=True):
    """Gemini 2: small pictures are one crop; of others each square of two thirds of the short side.

    Such a square has 256 to 768 pixels on a side.
    """

    each: int = 258
    limit: int = 16

    @property
    def says(self) -> str:
        return f"{self.each} tokens for each crop, at most {self.most('auto'):,}"

    def tokens(self, width: int, height: int, detail: str) -> int:
        if max(width, height) <= 384:
            return self.each
        side = min(768, max(256, int(min(width, height) / 1.5)))
        return self.each * min(self.limit, math.ceil(width / side) * math.ceil(height / side))

    def most(self, detail: str) -> int:
        return self.each * self.limit


class Grid(Struct, frozen=True):
    """Tiles of one size up to a number, and the whole picture once more."""

    side: int
    each: int
    limit: int

    @property
    def says(self) -> str:
        tiles = f"{self.each} tokens for each tile of {self.side} px and one more"
        return f"{tiles}, at most {self.most('auto'):,}"

    def tokens(self, width: int, height: int, detail: str) -> int:
        tiles = math.ceil(width / self.side) * math.ceil(height / self.side)
        return self.each * (1 + min(self.limit, tiles))

    def most(self, detail: str) -> int:
        return self.each * (1 + self.limit)


class Flat(Struct, frozen=True):
    """The same for every picture."""

    each: int

    @property
    def says(self) -> str:
        return f"{self.each:,} tokens"

    def tokens(self, width: int, height: int, detail: str) -> int:
        return self.each

    def most(self, detail: str) -> int:
        return self.each


class Rows(Struct, frozen=True):
    """Pixtral: patches within a longest side, with a token more at the end of each row."""

    patch: int
    edge: int

    @property
    def says(self) -> str:
        return f"a token for each patch of {self.patch} px, at most {self.most('auto'):,}"

    def tokens(self, width: int, height: int, detail: str) -> int:
        scale = min(1.0, self.edge / max(width, height))
        across, down = (max(1, math.ceil(side * scale / self.patch)) for side in (width, height))
        return (across + 1) * down

    def most(self, detail: str) -> int:
        return self.tokens(self.edge, self.edge, detail)


class General(Struct, frozen=True):
    """Where none is known: patches of 28 px, as Qwen has them; some models know one size only."""

    least: int = 2_880  # LLaVA-NeXT, whatever the size: what a picture of unknown size is taken for
    limit: int = 16_384  # Qwen-VL

    @property
    def says(self) -> str:
        return f"not known: {self.least:,} to {self.limit:,} tokens by size"

    def tokens(self, width: int, height: int, detail: str) -> int:
        return min(self.limit, max(self.least, math.ceil(width / 28) * math.ceil(height / 28)))

    def most(self, detail: str) -> int:
        return self.least


class Reading(Struct, frozen=True):
    """The rule of some models, and where it was read when."""

    models: str  # a pattern that is in their names
    rule: Rule
    source: str
    since: str = "2026-09"


OPENAI = "https://developers.openai.com/api/docs/guides/images-vision"
ANTHROPIC = "https://platform.claude.com/docs/en/build-with-claude/vision"
GEMINI_2 = "https://ai.google.dev/gemini-api/docs/image-understanding"
GEMINI_3 = "https://ai.google.dev/gemini-api/docs/media-resolution"
XAI = "https://docs.x.ai/docs/guides/image-understanding"
MISTRAL = "https://docs.mistral.ai/capabilities/vision"
LLAMA = "https://huggingface.co/meta-llama"
AMAZON = "https://docs.aws.amazon.com/nova/latest/userguide"

OLD_CLAUDE = r"claude-(3|(opus|sonnet|haiku)-4(?![.-]?[7-9]))"
FREELY = (30_000, 65_535)  # patches and pixels from which on OpenAI refuses a picture of GPT-5.6 on

GENERAL = Reading("", General(), "", "")
READINGS = (  # the first that matches counts
    Reading(r"gpt-4o-mini", Tiles(2_833, 5_667), OPENAI),
    Reading(r"gpt-4\.1-nano|gpt-5(\.4)?-nano", Patches(2.46), OPENAI),
    Reading(r"gpt-4\.1-mini|gpt-5(\.4)?-mini|codex-mini", Patches(1.62), OPENAI),
    Reading(r"o4-mini", Patches(1.72), OPENAI),
    Reading(r"gpt-5\.[23]", Patches(1.2), OPENAI),
    Reading(r"gpt-5\.4", Patches(1.2, 2_500, 2_048, (10_000, 6_000)), OPENAI),
    Reading(r"gpt-5\.5", Patches(1.2, 2_500, 2_048, (10_000, 6_000), "original"), OPENAI),
    Reading(r"gpt-(5\.[6-9]|[6-9])", Patches(1.2, 2_500, 65_535, FREELY, "original"), OPENAI),
    Reading(r"gpt-5", Tiles(70, 140), OPENAI),
    Reading(r"gpt-4(o|\.1|\.5|-turbo|-vision)", Tiles(85, 170), OPENAI),
    Reading(r"o[13](?![a-z0-9])", Tiles(75, 150), OPENAI),
    Reading(r"computer-use-preview", Tiles(65, 129), OPENAI),
    Reading(OLD_CLAUDE, Areas(750, 1_600, 1_568), ANTHROPIC),
    Reading(r"claude", Areas(750, 4_784, 2_576), ANTHROPIC),
    Reading(r"gemini-(1|2)", Crops(), GEMINI_2),
    Reading(r"gemini", Flat(1_120), GEMINI_3),
    Reading(r"grok", Grid(448, 256, 6), XAI, "2026-03"),
    Reading(r"pixtral|(mi|magi|mini)stral", Rows(16, 1_024), MISTRAL, "2026-03"),
    Reading(r"llama-?4", Grid(336, 145, 16), LLAMA, "2026-03"),
    Reading(r"nova-", Areas(500, 16_384, 8_000), AMAZON, "2026-03"),
)


@lru_cache(maxsize=1024)
def reading(model: str) -> Reading:
    """The rule for a model, by any name that vendors give it; `GENERAL` where none is known."""
    found = (row for row in READINGS if re.search(rf"(?<![a-z0-9])({row.models})", model.lower()))
    return next(found, GENERAL)


def _patches(width: float, height: float, budget: int, edge: int) -> int:
    """How many patches cover a picture, scaled down by OpenAI's formula to fit a budget."""
    scale = min(1.0, edge / max(width, height))
    width, height = max(1.0, width * scale), max(1.0, height * scale)
    patches = math.ceil(width / 32) * math.ceil(height / 32)
    if patches > budget:
        shrink = math.sqrt(32 * 32 * budget / (width * height))
        across, down = width * shrink / 32, height * shrink / 32
        shrink *= min(math.floor(across) / across, math.floor(down) / down)
        patches = math.ceil(int(width * shrink) / 32) * math.ceil(int(height * shrink) / 32)
    return min(budget, max(1, patches))
