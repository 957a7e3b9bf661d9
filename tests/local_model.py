"""The small real model for tests that want one: pulled once per machine, by the shipped code, into the user's cache."""

import os
from functools import cache
from pathlib import Path

from chattable.adapters.local.server import pull


@cache
def local_model() -> Path:
    """Return the weights, pulling them at first need; later runs find them in the cache and only check their hash."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return pull(lambda done, total, what: None, base / "chattable-tests")
