"""How an answer hears that its client leaves: the connection notes it in the request's scope."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ON_LEAVE, LEFT = "chattable_on_leave", "chattable_left"  # in `state`, which copies of a scope share

Left = Callable[[bool], None]


def on_leave(scope: Any, left: Left) -> None:
    """Calls `left` when the client leaves before its answer is complete, at once if it has left.

    With True when it is gone, with False when it has closed its own direction, as who leaves does.
    """
    if "state" not in scope:
        scope["state"] = {}
    state = scope["state"]
    state[ON_LEAVE] = left
    if LEFT in state:
        left(state[LEFT])


def has_left(scope: Any, *, gone: bool) -> None:
    """Notes that a client leaves."""
    state = scope["state"]
    state[LEFT] = gone
    if left := state.get(ON_LEAVE):
        left(gone)
