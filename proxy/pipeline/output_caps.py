"""The cap on output that a budget puts into a request, with what depends on it."""

from __future__ import annotations

from chattable.agents.chat import Json

LEAST_THINKING = 1024  # tokens: what providers take for a budget of thoughts at least
NAMES = ("max_tokens", "max_completion_tokens")
THOUGHTS = (("thinking", "budget_tokens"), ("reasoning", "max_tokens"))


def asked_cap(params: Json) -> int | None:
    """The most tokens of output that the client wants, by either name; None: it does not say."""
    least: int | None = None
    for name in NAMES:
        if name in params and params[name] is not None and (least is None or params[name] < least):
            least = params[name]
    return least


def least_output(params: Json) -> int:
    """The fewest tokens of output that make sense: thoughts need room, and words after them."""
    return 1 if _thinking(params) is None else LEAST_THINKING + 1


def capped(params: Json, most: int) -> Json:
    """The parameters with output capped to `most` tokens, and thoughts to what that leaves."""
    old = params.get("max_tokens") is not None and params.get("max_completion_tokens") is None
    name = "max_tokens" if old else "max_completion_tokens"
    found = {k: v for k, v in params.items() if k not in NAMES} | {name: most}
    thinking = _thinking(params)
    if thinking is None or thinking[2] < most:
        return found
    field, key, _ = thinking
    return found | {field: params[field] | {key: max(LEAST_THINKING, most * 3 // 4)}}


def _thinking(params: Json) -> tuple[str, str, int] | None:
    """The budget for thoughts in a request: the field, the name in it, how many tokens."""
    for field, key in THOUGHTS:
        value = params[field] if field in params else None  # noqa: SIM401 - no call
        if isinstance(value, dict) and type(value.get(key)) is int and value[key] > 0:
            return field, key, value[key]
    return None
