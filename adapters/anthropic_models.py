"""What each generation of Claude takes: the API refuses what is not for a model, so that it must be known beforehand."""

from __future__ import annotations

import re

from msgspec import Struct


class Generation(Struct, frozen=True):
    """What a model takes."""

    thinks: bool = True
    adaptive: bool = False  # decides itself how much to think; later generations take no budget at all
    formats: bool = False  # structured outputs and strict tools
    samples: bool = True  # temperature, top_p and top_k
    both: bool = True  # temperature beside top_p
    xhigh: bool = False


def generation(model: str) -> Generation:
    """The generation of a model by its name. Others than Claude behind the same API get what all of them know."""
    name = model.lower()
    if "claude" not in name:
        return Generation()
    numbers = [int(n) for n in re.findall(r"(?<!\d)\d{1,2}(?!\d)", name)[:2]]
    version = (*numbers, 0, 0)[:2] if numbers else (99, 0)  # a name without a number is a preview of what is to come
    return Generation(
        thinks=version >= (3, 7),
        adaptive=version >= (4, 6),
        formats=version >= (4, 5),
        samples=version < (4, 7),
        both=version < (4, 1),
        xhigh=version >= (4, 7),
    )
