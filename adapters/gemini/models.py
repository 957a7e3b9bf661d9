"""What each generation of Gemini takes, for the API refuses what is not for a model."""

from __future__ import annotations

import re

from msgspec import Struct

from chattable.agents.chat import Json

VERSION = re.compile(r"gemini-(\d{1,2})(?:\.(\d{1,2}))?(?!\d)")
# reasoning_effort → tokens of thinking, for models that are given a budget, and the level of those
# that are given a level
EFFORTS = {
    "none": (0, "MINIMAL"),
    "minimal": (1024, "MINIMAL"),
    "low": (1024, "LOW"),
    "medium": (8192, "MEDIUM"),
    "high": (24576, "HIGH"),
    "xhigh": (24576, "HIGH"),
    "max": (24576, "HIGH"),
}


class GeminiCapabilities(Struct, frozen=True):
    """What a model of Gemini takes."""

    thinking_budgets: bool = False  # thinks with a number of tokens
    thinking_levels: bool = False  # thinks with a level, as the generation after budgets does
    min_thinking_tokens: int = 0  # tokens of thinking that it cannot do without
    minimal_level: bool = False  # knows the level below LOW
    penalties: bool = False

    @property
    def reasoning(self) -> bool:
        """Whether it can be asked to think."""
        return self.thinking_budgets or self.thinking_levels

    @property
    def stops_thinking(self) -> bool:
        """Whether it can be asked not to think."""
        return self.thinking_budgets and not self.min_thinking_tokens

    @property
    def signatures(self) -> bool:
        """Whether it wants its calls back signed, and takes pictures in the answers to them."""
        return self.thinking_levels

    def thinking(self, effort: str) -> Json:
        """The thinkingConfig of an effort; thoughts are shown to whoever asked for any."""
        budget, level = EFFORTS[effort]
        config: Json = {}
        if self.thinking_budgets:
            config["thinkingBudget"] = max(budget, self.min_thinking_tokens)
        if self.thinking_levels:
            lowest = "MINIMAL" if self.minimal_level else "LOW"
            config["thinkingLevel"] = lowest if level == "MINIMAL" else level
        return config if effort == "none" else config | {"includeThoughts": True}


def capabilities(model: str) -> GeminiCapabilities:
    """What a model takes, by its name.

    Others than Gemini behind the same API get what all of them know.
    """
    name = model.lower()
    if "gemini" not in name:
        return GeminiCapabilities()
    numbers = VERSION.search(name)
    # as gemini-flash-latest
    version = (int(numbers[1]), int(numbers[2] or 0)) if numbers else (99, 0)
    if version >= (3, 0):
        return GeminiCapabilities(
            thinking_levels=True,
            minimal_level="flash" in name and ("lite" in name or version < (3, 7)),
        )
    if version >= (2, 5) and not re.search("image|tts", name):
        return GeminiCapabilities(
            thinking_budgets=True, min_thinking_tokens=128 if "pro" in name else 0
        )
    return GeminiCapabilities(penalties=version < (2, 5))
