"""What each generation of Claude takes: the API refuses what is not for a model, so that it must be known beforehand."""

from __future__ import annotations

import re
from collections.abc import Callable

from msgspec import Struct

from chattable.adapters.params import invalid
from chattable.agents.chat import Json

MIN_BUDGET = 1024  # tokens of thinking, by the API's rule
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


class Generation(Struct, frozen=True):
    """What a model takes."""

    thinks: bool = True
    # decides itself how much to think; later generations take no budget at all
    adaptive: bool = False
    formats: bool = False  # structured outputs and strict tools
    samples: bool = True  # temperature, top_p and top_k
    both: bool = True  # temperature beside top_p
    xhigh: bool = False
    default: bool = False  # thinks unless it is told not to
    off: str = "disabled"  # the kind of thinking that is none; empty: it always thinks
    forces: bool = True  # can be made to call a tool
    prefills: bool = True  # goes on with the assistant's own last words

    def obstacle(self, *, forced: bool, cap: int, prefilled: bool, thoughtless: bool) -> str | None:
        """Why it cannot think now: a call is forced, too little may be said, words are given, a call has lost its thought."""
        if not self.thinks:
            return "this model does not reason"
        if forced:
            return "this model does not reason where it must call a tool"
        if self.adaptive:
            return None
        if cap <= MIN_BUDGET:
            return f"this model reasons with a max_tokens above {MIN_BUDGET} only"
        if prefilled:
            return "this model does not reason while it goes on with given words"
        if thoughtless:
            return "this model goes on reasoning after tool calls only with the `thinking_blocks` of the message that made them"
        return None

    def thinking(self, effort: str, cap: int) -> tuple[Json, str | None]:
        """How it is told to think, and with which effort if it manages that itself."""
        share, level = EFFORTS[effort]
        if not self.adaptive:
            return {"type": "enabled", "budget_tokens": max(MIN_BUDGET, int(share * cap))}, None
        level = "high" if level == "xhigh" and not self.xhigh else level
        # else newer models keep it to themselves
        return {"type": "adaptive", "display": "summarized"}, level

    def without(self) -> Json:
        """How it is told not to think, if it has to be told and can be."""
        return {"type": self.off} if self.thinks and self.off else {}

    def sampling(self, params: Json, *, thinks: bool, lacks: Callable[..., None]) -> Json:
        """What it takes of temperature, top_p and top_k; `lacks` is told of the rest."""
        out: Json = {}
        temperature, top_p = params.get("temperature", 1), params.get("top_p", 1)
        if temperature != 1:
            if not self.samples:
                lacks("temperature")
            elif temperature > 1:
                raise invalid("temperature", "this model takes values from 0 to 1")
            elif thinks:
                lacks("temperature", "this model reasons at temperature 1 only")
            else:
                out["temperature"] = temperature
        if top_p != 1:
            if not self.samples:
                lacks("top_p")
            elif thinks and top_p < 0.95:
                lacks("top_p", "this model reasons with a top_p of 0.95 or more")
            elif "temperature" in out and not self.both:
                lacks("top_p", "this model takes temperature or top_p, not both")
            else:
                out["top_p"] = top_p
        if "top_k" in params:
            if self.samples and not thinks:
                out["top_k"] = params["top_k"]
            else:
                lacks("top_k")
        return out


def generation(model: str) -> Generation:
    """The generation of a model by its name.

    Others than Claude behind the same API get what all of them know.
    """
    name = model.lower()
    if "claude" not in name:
        return Generation()
    numbers = [int(n) for n in re.findall(r"(?<!\d)\d{1,2}(?!\d)", name)[:2]]
    # a name without a number is a preview of what is to come
    version = (*numbers, 0, 0)[:2] if numbers else (99, 0)
    always = bool(ALWAYS.search(name)) or (version >= (5, 5) and not SOMETIMES.search(name))
    return Generation(
        thinks=version >= (3, 7),
        adaptive=version >= (4, 6),
        formats=version >= (4, 5),
        samples=version < (4, 7),
        both=version < (4, 1),
        xhigh=version >= (4, 7),
        default=version >= (5, 0),
        off=""
        if always
        else "between_tools"
        if version >= (5, 5) and "sonnet" in name
        else "disabled",
        forces=not always and (version < (5, 5) or "haiku" in name),
        prefills=version < (4, 6),
    )
