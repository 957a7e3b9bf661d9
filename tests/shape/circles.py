"""Serves a few chats and says which of our objects each kind of them left in circles of references.

    python tests/shape/circles.py

What is in a circle stays until the garbage collector runs, and each run stops every request for as
long as it takes. Of what a chat leaves, nothing is to wait for it.
"""

import gc
import json
import os
import time
import urllib.error
from collections import Counter
from types import CodeType, FunctionType
from typing import Any

from walked import BEHIND, PRODUCT, asked, served, user_key

WARM_UP, MEASURED = 3, 5  # chats
CHATS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "plain": ({}, {}),
    "stream": ({"stream": True}, {}),
    "session": ({}, {"x-session-id": "circles"}),
    "idempotent": ({}, {"idempotency-key": "key-{number}"}),
    "cache hit": ({"messages": [{"role": "user", "content": "the same"}]}, {}),
    "refused": ({"temperature": "hot"}, {}),
    "unknown model": ({"model": "other"}, {}),
    "away": ({"model": "away"}, {}),
    "away, streamed": ({"model": "away", "stream": True}, {}),
    "away, in a session": ({"model": "away"}, {"x-session-id": "circles"}),
    "another body under a key": ({}, {"idempotency-key": "key-{number}"}),
    "no budget left": ({"max_tokens": 50}, {}),
    "too fast": ({}, {}),
    "away, idempotent": ({"model": "away"}, {"idempotency-key": "away-{number}"}),
}


def ours(thing: object) -> str:
    """What a thing is called if it is one of ours, else nothing."""
    if type(thing).__module__.startswith("chattable."):
        return type(thing).__qualname__
    code = getattr(thing, "__code__", None) if isinstance(thing, FunctionType) else None
    code = code or next(
        (getattr(thing, at, None) for at in ("cr_code", "ag_code", "gi_code")), None
    )
    if isinstance(code, CodeType) and code.co_filename.startswith(PRODUCT):
        return code.co_qualname
    return ""


def chat(kind: str, number: int, port: int, key: str) -> None:
    fields, headers = CHATS[kind]
    body = {"model": "m", "messages": [{"role": "user", "content": f"{kind} {number}"}]} | fields
    sent = {name: value.format(number=number) for name, value in headers.items()}
    try:
        asked(port, "/v1/chat/completions", body, sent | {"authorization": f"Bearer {key}"})
    except urllib.error.HTTPError as error:
        error.close()


def left(kind: str, port: int, key: str) -> Counter[str]:
    """What some chats of a kind left behind, by name."""
    for number in range(WARM_UP):
        chat(kind, number, port, key)
    time.sleep(BEHIND)
    gc.collect()
    gc.disable()
    for number in range(WARM_UP, WARM_UP + MEASURED):
        chat(kind, number, port, key)
    time.sleep(BEHIND)
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    found = Counter(filter(None, map(ours, gc.garbage)))
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()
    return found


def circles() -> dict[str, Counter[str]]:
    """What each kind of chat left behind."""
    found: dict[str, Counter[str]] = {}

    def measure(port: int) -> None:
        key, poor = user_key(port), user_key(port, "poor")
        admin = {"authorization": f"Bearer {os.environ['CHATTABLE_ADMIN_KEY']}"}
        nothing = {"subject": {"user": "poor"}, "per": "total", "tokens": 0}
        asked(port, "/admin/budgets", nothing, admin)
        keys = {"no budget left": poor, "too fast": user_key(port, "hasty")}
        found.update({kind: left(kind, port, keys.get(kind, key)) for kind in CHATS})

    served(measure)
    return found


if __name__ == "__main__":
    print(json.dumps(circles()))
