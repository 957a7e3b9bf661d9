"""Writes titles and summaries of conversations.

Where the config names a model it writes them: its calls are charged to the user, with a tag.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from msgspec.structs import replace

from chattable.agents.chat import Chat, Message
from chattable.proxy.config import settings
from chattable.proxy.errors import known
from chattable.proxy.identity.auth import Caller
from chattable.proxy.sessions.titles import UNTITLED, title_in, title_of
from chattable.proxy.store.sessions.port import Item, SessionRecord, SessionStore, Summary

log = logging.getLogger("chattable")

MAX_SUMMARY_MESSAGES = 1000  # that one summary takes in
MAX_SUMMARY_MESSAGE_CHARS = 8_000  # of one message that a summary is made of
MAX_SUMMARY_CHARS = 60_000  # of all messages that a summary is made of
FIRST_MESSAGES = 8  # among which the first question and its answer are looked for
MAX_TITLE_SOURCE_CHARS = 2_000  # of the question and of its answer, of which a title is made
TITLE = (
    "Give the conversation below a title of two to six words, in its language. "
    "Answer with the title alone: no quotes, no full stop."
    "\n\nUser: {asked}\n\nAssistant: {answered}"
)
SUMMARY = (
    "Below are notes on a conversation and what was said since. "
    "Write new notes that can stand in the place of both: what is wanted, what was decided, "
    "facts, names and figures, what is still open. No chronology, nothing that is not there, "
    "at most 300 words, in the language of the conversation."
    "\n\nNotes:\n{notes}\n\nSaid since:\n{said}"
)

Ask = Callable[[Chat, Caller], Awaitable[str]]


class TitlesAndSummaries:
    """Writes titles and summaries.

    Law: a title that a user gave stays; a summary grows, and never starts from nothing again.
    """

    def __init__(self, store: SessionStore, config: settings.SessionSettings, ask: Ask) -> None:
        self._store = store
        self._config = config
        self._ask = ask
        self._summarising: set[str] = set()

    async def write_title(
        self, session: SessionRecord, caller: Caller, messages: Sequence[Message], answer: Message
    ) -> None:
        """Gives a session its title, after the first question and answer."""
        if title := await self._title(caller, [*messages, answer]):
            await self.set_title_if_missing(session, title)

    async def regenerate_title(self, session: SessionRecord, caller: Caller) -> SessionRecord:
        """Replaces a session's title by one made of its first messages."""
        first = (await self._store.items(session, FIRST_MESSAGES, descending=False)).data
        title = await self._title(caller, [item.message for item in first])
        return await self._store.update(session, title=title or UNTITLED)

    async def _title(self, caller: Caller, messages: Sequence[Message]) -> str:
        asked = _first_text(messages, "user")
        if not asked:
            return ""
        if self._config.title.model:
            prompt = TITLE.format(
                asked=asked[:MAX_TITLE_SOURCE_CHARS],
                answered=_first_text(messages, "assistant")[:MAX_TITLE_SOURCE_CHARS],
            )
            answer = await self._written(self._config.title.model, prompt, caller, "title")
            if title := title_in(answer):
                return title
        return title_of(asked)

    async def adopt_title(self, session: SessionRecord, answer: str) -> None:
        """Gives a session the title that a chat UI's own model wrote, if its answer has one."""
        if title := title_in(answer):
            await self.set_title_if_missing(session, title)

    async def set_title_if_missing(self, session: SessionRecord, title: str) -> None:
        """Sets the title of a session that has none."""
        fresh = await self._store.open(session.user_id, session.id, create=False)
        if fresh.title is None:
            await self._store.update(fresh, title=title)

    async def summarise(
        self, session: SessionRecord, caller: Caller, *, fitting: int | None = None
    ) -> bool:
        """Puts all but the newest messages into the session's summary, and says whether it did.

        `fitting` says that no more than so many fit into a prompt: then some of those go as well,
        or every turn would write a summary.
        """
        settings_ = self._config.summary
        if not settings_.model or session.id in self._summarising:
            return False
        self._summarising.add(session.id)
        try:
            window = await self._store.window(session, messages=MAX_SUMMARY_MESSAGES)
            old = _old(
                window.items,
                settings_.keep if fitting is None else min(settings_.keep, fitting // 2),
            )
            if not old:
                return False
            notes = window.summary.text if window.summary else "none yet"
            said = "\n\n".join(
                f"{item.speaker or item.message.role}: {_clipped(item)}" for item in old
            )
            text = await self._written(
                settings_.model, SUMMARY.format(notes=notes, said=said), caller, "summary"
            )
            if text:
                await self._store.update(session, summary=Summary(text, old[-1].id))
            return bool(text)
        finally:
            self._summarising.discard(session.id)

    async def _written(self, model: str, prompt: str, caller: Caller, tag: str) -> str:
        """What the model writes; "" if it fails, for no client waits for it."""
        terms = replace(
            caller,
            principal=replace(caller.principal, models=None),  # the operator chose the model
            request_id=f"{caller.request_id}-{tag}",
            began=time.monotonic(),
            max_calls=None,
            parent=None,
            idempotency_key="",
            cache=None,
            session_ref=None,
            tag=tag,
        )
        try:
            return (await self._ask(Chat(model, [Message("user", prompt)]), terms)).strip()
        except Exception as error:
            if not known(error):
                raise
            log.warning("no %s was written for request %s: %s", tag, caller.request_id, error)
            return ""


def _first_text(messages: Sequence[Message], role: str) -> str:
    """The first text that somebody said in this role; "" for none."""
    for message in messages:
        if message.role == role and (text := message.text):
            return text
    return ""


def _old(items: Sequence[Item], keep: int) -> Sequence[Item]:
    """The messages before the newest ones: whole turns, as many as one summary takes in."""
    size, fits = 0, 0
    for i, item in enumerate(items):
        if i > 0 and item.message.role == "user" and i <= len(items) - keep:
            fits = i
        size += len(_clipped(item))
        if size > MAX_SUMMARY_CHARS and fits:
            break
    return items[:fits]


def _clipped(item: Item) -> str:
    calls = [
        str((call.get("function") or {}).get("name")) for call in item.message.tool_calls or ()
    ]
    text = item.message.text + "".join(f" [asks the tool {name}]" for name in calls)
    return (
        text
        if len(text) <= MAX_SUMMARY_MESSAGE_CHARS
        else f"{text[:MAX_SUMMARY_MESSAGE_CHARS]} […]"
    )
