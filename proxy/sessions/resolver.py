"""Finds the session that a request names: by our header, a chat UI's, or `conversation`.

A placeholder such as `null` or an unfilled template names none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from chattable.agents.chat import Chat
from chattable.agents.errors import InvalidRequest, clip
from chattable.proxy.config import settings
from chattable.proxy.store.errors import Invalid
from chattable.proxy.store.sessions.values import NEW, checked_alias
from chattable.proxy.store.text import is_placeholder

# its mode is the general one; clients that send other headers resend their history
OUR_HEADER = "X-Session-Id"
MODES = ("append", "mirror", "auto", "off")
# What Open WebUI does not store itself: temporary chats, by their new and old names, and channels.
UNSAVED = ("temporary:", "local:", "channel:")


class SessionRef(Struct, frozen=True):
    """The session that a request names, and how it uses it; `name` None: a new one."""

    name: str | None
    mode: str  # one of MODES
    task: str = ""  # what a chat UI says that this request is for: title_generation …
    retried: bool = False  # the client's SDK sends the same request again
    ui: bool = False  # the client keeps the history, as chat UIs do

    @property
    def named(self) -> bool:
        """Whether the request has a session; a new one counts."""
        return self.name != "" and self.mode != "off"


class SessionResolver:
    """Reads from requests which session they name, as the config says."""

    def __init__(self, config: settings.SessionSettings) -> None:
        self._mode = config.mode
        named = [
            one if isinstance(one, settings.SessionHeader) else settings.SessionHeader(name=one)
            for one in config.headers
        ]
        self._modes = {
            one.name.lower().encode(): one.mode or self._usual(one.name) for one in named
        }
        self._headers = {one.name.lower().encode(): one.name for one in named}
        self._read = {*self._modes, b"x-session-mode", b"x-task", b"x-stainless-retry-count"}

    def _usual(self, name: str) -> str:
        return self._mode if name.lower() == OUR_HEADER.lower() else "mirror"

    def of_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> SessionRef | None:
        """The session that the headers name; None where they say nothing of sessions.

        If they name none, the rest of what they say is for a session that the body may name.
        """
        found: dict[bytes, str] = {}
        for key, value in headers:
            if key in self._read:
                text = _text(value)
                if found.setdefault(key, text) != text:
                    raise _twice(self._headers.get(key, key.decode()))
        return self._ref(found) if found else None

    def _ref(self, found: Mapping[bytes, str]) -> SessionRef:
        mode = found.get(b"x-session-mode", "")
        if mode:
            mode = _checked_mode(mode)
        task = found.get(b"x-task", "")
        retried = found.get(b"x-stainless-retry-count", "0") != "0"
        for key, usual in self._modes.items():
            if name := found.get(key):
                mode = mode or usual
                ui = mode == "mirror"
                if ui and name.startswith(UNSAVED):
                    mode = "off"
                return SessionRef(_named(name, self._headers[key]), mode, task, retried, ui)
        return SessionRef("", mode or self._mode, task, retried)

    def of_body(self, chat: Chat, ref: SessionRef | None) -> tuple[Chat, SessionRef | None]:
        """The request without its field `conversation`, and the session that it names.

        A header comes before the field.
        """
        if "conversation" in chat.params:
            params = dict(chat.params)
            name = _in_body(params.pop("conversation"))
            chat = replace(chat, params=params)
            if name:
                ref = ref or SessionRef("", self._mode)
                if ref.name == "":
                    named, ui = _named(name, "conversation"), ref.mode == "mirror"
                    ref = replace(ref, name=named, ui=ui)
        return chat, ref


def _text(value: bytes) -> str:
    """A header's value; "" for a placeholder."""
    try:
        text = value.decode().strip()
    except UnicodeDecodeError:
        text = value.decode("latin-1").strip()
    return "" if is_placeholder(text) else text


def _twice(header: str) -> InvalidRequest:
    message = f"The header {header} was sent twice, with different values: send one."
    return InvalidRequest(message, param=header, code="invalid_value")


def _named(name: str, where: str) -> str | None:
    if name == NEW:
        return None
    try:
        return checked_alias(name)
    except Invalid as error:
        raise InvalidRequest(
            f"Invalid {where}: {error}", param=where, code="invalid_value"
        ) from None


def _checked_mode(text: str) -> str:
    mode = text.lower()
    if mode not in MODES:
        message = (
            f"The header X-Session-Mode must be one of {', '.join(MODES)}, not '{clip(text)}'."
        )
        raise InvalidRequest(message, param="X-Session-Mode", code="invalid_value")
    return mode


def _in_body(given: Any) -> str:
    """The name in the field; null and an empty string name no session."""
    name = given.get("id") if isinstance(given, Mapping) else given
    if given is None:
        return ""
    if not isinstance(name, str):
        message = (
            "Invalid 'conversation': expected a string, or an object with an id,"
            f" but got {clip(given)}."
        )
        raise InvalidRequest(message, param="conversation", code="invalid_type")
    return "" if is_placeholder(name) else name
