"""Which session a request names, and how: by a header of ours, one of a chat UI, or `conversation`.

What stands for no name, such as `null` or a template that nobody filled in, names none.
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

# whose mode is the general one; clients behind the other headers resend their history
OURS = "X-Session-Id"
MODES = ("append", "mirror", "auto", "off")
# What Open WebUI does not store itself: temporary chats, by their new and old names, and channels.
UNSAVED = ("temporary:", "local:", "channel:")


class SessionRef(Struct, frozen=True):
    """How a request came to its session; `name` None: a new one."""

    name: str | None
    mode: str  # one of MODES
    task: str = ""  # what a chat UI says that this request is for: title_generation …
    retried: bool = False  # the client's SDK sends the same request again
    ui: bool = False  # its client keeps the history, as chat UIs do

    @property
    def named(self) -> bool:
        """Whether it leads to a session."""
        return self.name != "" and self.mode != "off"


class SessionResolver:
    """Reads doors off requests, by the config."""

    def __init__(self, config: settings.SessionSettings) -> None:
        self._mode = config.mode
        named = [
            one if isinstance(one, settings.SessionHeader) else settings.SessionHeader(name=one)
            for one in config.headers
        ]
        self._modes = {
            one.name.lower().encode(): one.mode or self._usual(one.name) for one in named
        }
        self._names = {one.name.lower().encode(): one.name for one in named}
        self._read = {*self._modes, b"x-session-mode", b"x-task", b"x-stainless-retry-count"}

    def _usual(self, name: str) -> str:
        return self._mode if name.lower() == OURS.lower() else "mirror"

    def of_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> SessionRef | None:
        """The ref that the headers name; without one, what they say goes for a session that the body may name."""
        found: dict[bytes, str] = {}
        for key, value in headers:
            if key in self._read:
                text = _text(value)
                if found.setdefault(key, text) != text:
                    raise _twice(self._names.get(key, key.decode()))
        if not found:
            return None
        mode = _mode(found.get(b"x-session-mode", ""))
        task = found.get(b"x-task", "")
        retried = found.get(b"x-stainless-retry-count", "0") != "0"
        for key, usual in self._modes.items():
            if name := found.get(key):
                mode = mode or usual
                ui = mode == "mirror"
                if ui and name.startswith(UNSAVED):
                    mode = "off"
                return SessionRef(_named(name, self._names[key]), mode, task, retried, ui)
        return SessionRef("", mode or self._mode, task, retried)

    def of_body(self, chat: Chat, ref: SessionRef | None) -> tuple[Chat, SessionRef | None]:
        """The request without its field `conversation`, and the ref, which the field names where no header does."""
        if "conversation" in chat.params:
            said = chat.params["conversation"]
            chat = replace(
                chat,
                params={
                    name: value for name, value in chat.params.items() if name != "conversation"
                },
            )
            if name := _body(said):
                ref = ref or SessionRef("", self._mode)
                if ref.name == "":
                    named, ui = _named(name, "conversation"), ref.mode == "mirror"
                    ref = replace(ref, name=named, ui=ui)
        return chat, ref


def _text(value: bytes) -> str:
    """A header's value; what stands for none is none."""
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


def _mode(text: str) -> str:
    mode = text.lower()
    if mode and mode not in MODES:
        message = (
            f"The header X-Session-Mode must be one of {', '.join(MODES)}, not '{clip(text)}'."
        )
        raise InvalidRequest(message, param="X-Session-Mode", code="invalid_value")
    return mode


def _body(said: Any) -> str:
    """The session's name in the field; null and an empty string name none."""
    name = said.get("id") if isinstance(said, Mapping) else said
    if name is None and said is None:
        return ""
    if not isinstance(name, str):
        message = f"Invalid 'conversation': expected a string, or an object with an id, but got {clip(said)}."
        raise InvalidRequest(message, param="conversation", code="invalid_type")
    return "" if is_placeholder(name) else name
