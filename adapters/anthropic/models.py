"""What each generation of Claude takes, for the API refuses what is not for a model."""

from __future__ import annotations

import re
from collections.abc import Callable

from msgspec import Struct

from chattable.adapters.params import invalid
from chattable.agents.chat import Json

MIN_THINKING_TOKENS = 1024  # tokens of thinking, by the API's rule
NO_SAMPLING = "this model does not have it"
# reasoning_effort → the share of max_tokens that may be thought, and the effort of models that
# manage it themselves
EFFORTS = {
    "minimal": (0.1, "low"),
    "low": (0.2, "low"),
    "medium": (0.5, "medium"),
    "high": (0.8, "high"),
    "xhigh": (0.9, "xhigh"),
    "max": (0.9, "max"),
}
# Of the models that think by default, those that cannot be told not to, and since 5.5 those that
# can. https://platform.claude.com/docs/en/build-with-claude/thinking, read 2026-11
ALWAYS = re.compile("fable|mythos")
SOMETIMES = re.compile("haiku|sonnet")


class ClaudeCapabilities(Struct, frozen=True):
    """What a model of Claude takes."""

    reasoning: bool = True
    # decides itself how much to think; newer generations take no budget at all
    adaptive_reasoning: bool = False
    structured_output: bool = False  # structured outputs and strict tools
    sampling: bool = True  # temperature, top_p and top_k
    temperature_and_top_p: bool = True
    xhigh_effort: bool = False
    reasons_by_default: bool = False  # unless it is told not to
    no_reasoning: str = "disabled"  # the `thinking.type` that ends it; empty: it always reasons
    forced_tools: bool = True  # can be made to call a tool
    prefill: bool = True  # goes on with the assistant's own last words

    @property
    def always_reasons(self) -> bool:
        """Whether nothing ends its reasoning."""
        return self.reasons_by_default and not self.no_reasoning

    def obstacle(self, *, forced: bool, cap: int, prefilled: bool, thoughtless: bool) -> str | None:
        """Why it cannot reason in this request; None where it can.

        `forced`: it must call a tool; `cap`: max_tokens; `prefilled`: the last message is its own;
        `thoughtless`: its last tool calls have lost the thought that led to them.
        """
        if not self.reasoning:
            return "this model does not reason"
        if forced:
            return "this model does not reason where it must call a tool"
        if self.adaptive_reasoning:
            return None
        if cap <= MIN_THINKING_TOKENS:
            return f"this model reasons with a max_tokens above {MIN_THINKING_TOKENS} only"
        if prefilled:
            return "this model does not reason while it goes on with given words"
        if thoughtless:
            return (
                "this model goes on reasoning after tool calls only with the `thinking_blocks` "
                "of the message that made them"
            )
        return None

    def thinking(self, effort: str, cap: int) -> tuple[Json, str | None]:
        """The `thinking` of a request, and its effort where the model decides how much to think."""
        share, level = EFFORTS[effort]
        if not self.adaptive_reasoning:
            budget = max(MIN_THINKING_TOKENS, int(share * cap))
            return {"type": "enabled", "budget_tokens": budget}, None
        level = "high" if level == "xhigh" and not self.xhigh_effort else level
        # newer models show their thoughts only where they are asked to
        return {"type": "adaptive", "display": "summarized"}, level

    def no_thinking(self) -> Json:
        """The `thinking` of a request without reasoning; empty where it need or can not be said."""
        return {"type": self.no_reasoning} if self.reasoning and self.no_reasoning else {}

    def sampling_params(
        self, params: Json, *, thinks: bool, unsupported: Callable[..., None]
    ) -> Json:
        """What it takes of temperature, top_p and top_k; calls `unsupported` for the rest."""
        out: Json = {}
        temperature, top_p = params.get("temperature", 1), params.get("top_p", 1)
        if temperature != 1:
            if self.sampling and temperature > 1:
                raise invalid("temperature", "this model takes values from 0 to 1")
            if why := self._no_temperature(thinks):
                unsupported("temperature", why)
            else:
                out["temperature"] = temperature
        if top_p != 1:
            if why := self._no_top_p(top_p, thinks, "temperature" in out):
                unsupported("top_p", why)
            else:
                out["top_p"] = top_p
        if "top_k" in params:
            if self.sampling and not thinks:
                out["top_k"] = params["top_k"]
            else:
                unsupported("top_k", NO_SAMPLING)
        return out

    def _no_temperature(self, thinks: bool) -> str:
        """Why it takes no temperature; empty where it does."""
        if not self.sampling:
            return NO_SAMPLING
        return "this model reasons at temperature 1 only" if thinks else ""

    def _no_top_p(self, top_p: float, thinks: bool, has_temperature: bool) -> str:
        """Why it takes no such top_p; empty where it does."""
        if not self.sampling:
            return NO_SAMPLING
        if thinks and top_p < 0.95:
            return "this model reasons with a top_p of 0.95 or more"
        if has_temperature and not self.temperature_and_top_p:
            return "this model takes temperature or top_p, not both"
        return ""


def capabilities(model: str) -> ClaudeCapabilities:
    """What a model takes, by its name.

    Others than Claude behind the same API get what all of them know.
    """
    name = model.lower()
    if "claude" not in name:
        return ClaudeCapabilities()
    numbers = [int(n) for n in re.findall(r"(?<!\d)\d{1,2}(?!\d)", name)[:2]]
    # a name without a number is a preview of what is to come
    version = (*numbers, 0, 0)[:2] if numbers else (99, 0)
    no_reasoning = _no_reasoning(name, version)
    return ClaudeCapabilities(
        reasoning=version >= (3, 7),
        adaptive_reasoning=version >= (4, 6),
        structured_output=version >= (4, 5),
        sampling=version < (4, 7),
        temperature_and_top_p=version < (4, 1),
        xhigh_effort=version >= (4, 7),
        reasons_by_default=version >= (5, 0),
        no_reasoning=no_reasoning,
        forced_tools=bool(no_reasoning) and (version < (5, 5) or "haiku" in name),
        prefill=version < (4, 6),
    )


def _no_reasoning(name: str, version: tuple[int, ...]) -> str:
    """The `thinking.type` that ends a model's reasoning; empty where nothing does."""
    if ALWAYS.search(name) or (version >= (5, 5) and not SOMETIMES.search(name)):
        return ""
    return "between_tools" if version >= (5, 5) and "sonnet" in name else "disabled"
