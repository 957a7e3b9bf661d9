"""When two requests are the same: the key under which an answer is kept."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Literal

import msgspec

from chattable.agents.chat import Chat
from chattable.proxy.catalog.catalog import Entry
from chattable.proxy.identity.auth import Principal

Scope = Literal["user", "team", "shared"]

# a new one where what may be kept, or for whom, has changed: nothing kept before counts any more
KEY_VERSION = b"1"
NOT_IN_KEY = frozenset({"stream", "stream_options"})  # how an answer is sent, not what it says

_json = msgspec.json.Encoder(order="sorted").encode


def key_of(chat: Chat, entry: Entry, who: Principal, scope: Scope) -> bytes | None:
    """The key of a request, or None for one that cannot be written down.

    Law: as the upstream would see different JSON, keys differ, wherever the difference is; the
    order of an object's keys, and whether the answer is streamed, is none. Each field goes in with
    its length before it, so that no two requests run into one.
    """
    params = {name: value for name, value in chat.params.items() if name not in NOT_IN_KEY}
    # llama.cpp repeats words to go on with, but in no stream
    if chat.messages and chat.messages[-1].role == "assistant":
        params["stream"] = chat.stream
    try:
        messages, rest = _json([message.to_json() for message in chat.messages]), _json(params)
    except (
        TypeError,
        ValueError,
        RecursionError,
        OverflowError,
    ):  # what an agent made of it is no JSON
        return None
    names = [
        part.encode(errors="surrogatepass") for part in (*tenant(entry, who, scope), *entry.source)
    ]
    return digest([KEY_VERSION, b"%d" % len(names), *names, messages, rest])


def tenant(entry: Entry, who: Principal, scope: Scope) -> tuple[str, str]:
    """Whom an answer is for.

    An agent knows its user, so its turns are the user's own, whatever the scope.
    """
    if scope == "shared" and entry.model.leaf:
        return "shared", ""
    if scope == "team" and who.team and entry.model.leaf:
        return "team", who.team
    return "user", who.user.id


def digest(fields: Iterable[bytes]) -> bytes:
    """SHA-256 over fields, each with its length before it."""
    whole = sha256()
    for field in fields:
        whole.update(len(field).to_bytes(8, "big"))
        whole.update(field)
    return whole.digest()
