"""What each generation of Gemini takes: the API refuses what is not for a model, so that it must be known beforehand."""

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


class Generation(Struct, frozen=True):
    """What a model takes."""

    budgets: bool = False  # thinks, and is told with how many tokens
    levels: bool = False  # thinks, and is told how hard; the next generation after budgets
    least: int = 0  # tokens of thinking that it cannot do without
    minimal: bool = False  # knows the level below LOW
    penalties: bool = False

    @property
    def thinks(self) -> bool:
        """Whether it can be told to think at all."""
        return self.budgets or self.levels

    @property
    def stops_thinking(self) -> bool:
        """Whether it can be told not to."""
        return self.budgets and not self.least

    @property
    def signs(self) -> bool:
        """Whether it wants the signatures of its calls back, and takes pictures inside the answers to them."""
        return self.levels

    def thinking(self, effort: str) -> Json:
        """The thinkingConfig of an effort; thoughts are shown to whoever asked for any."""
        budget, level = EFFORTS[effort]
        config: Json = {"thinkingBudget": max(budget, self.least)} if self.budgets else {}
        if self.levels:
            config["thinkingLevel"] = "LOW" if level == "MINIMAL" and not self.minimal else level
        return config if effort == "none" else config | {"includeThoughts": True}


def generation(model: str) -> Generation:
    """The generation of a model by its name.

    Others than Gemini behind the same API get what all of them know.
    """
    name = model.lower()
    if "gemini" not in name:
        return Generation()
    numbers = VERSION.search(name)
    # as gemini-flash-latest
    version = (int(numbers[1]), int(numbers[2] or 0)) if numbers else (99, 0)
    if version >= (3, 0):
        return Generation(
            levels=True, minimal="flash" in name and ("lite" in name or version < (3, 7))
        )
    if version >= (2, 5) and not re.search("image|tts", name):
        return Generation(budgets=True, least=128 if "pro" in name else 0)
    return Generation(penalties=version < (2, 5))
