"""Titles and summaries of conversations: by a model where the config names one, and then charged to the user and tagged."""

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

MOST = 1000  # messages that one summary takes in
CLIPPED = 8_000  # characters of one message that a summary is told of
READ = 60_000  # characters that one summary is told of
BEGINNING = 8  # messages in which the first question and its answer are looked for
OPENING = 2_000  # characters of each side that a title is made of
TITLE = (
    "Give the conversation below a title of two to six words, in its language. "
    "Answer with the title alone: no quotes, no full stop.\n\nUser: {asked}\n\nAssistant: {answered}"
)
SUMMARY = (
    "Below are notes on a conversation and what was said since. Write new notes that can stand in the place of both: "
    "what is wanted, what was decided, facts, names and figures, what is still open. No chronology, nothing that is not "
    "there, at most 300 words, in the language of the conversation.\n\nNotes:\n{notes}\n\nSaid since:\n{said}"
)

Ask = Callable[[Chat, Caller], Awaitable[str]]


class TitlesAndSummaries:
    """Writes about conversations.

    Law: never over a title that somebody gave; a summary grows, and is never begun anew.
    """

    def __init__(self, store: SessionStore, config: settings.SessionSettings, ask: Ask) -> None:
        self._store = store
        self._config = config
        self._ask = ask
        self._summarising: set[str] = set()

    async def write_title(
        self, session: SessionRecord, caller: Caller, messages: Sequence[Message], answer: Message
    ) -> None:
        """Gives a session its title, after the first exchange."""
        if title := await self._title(caller, [*messages, answer]):
            await self.set_title_if_missing(session, title)

    async def regenerate_title(self, session: SessionRecord, caller: Caller) -> SessionRecord:
        """Gives a session a title made of how it began, in the place of the one it has."""
        began = (await self._store.items(session, BEGINNING, descending=False)).data
        return await self._store.update(
            session, title=await self._title(caller, [item.message for item in began]) or UNTITLED
        )

    async def _title(self, caller: Caller, messages: Sequence[Message]) -> str:
        asked = next(
            (message.text for message in messages if message.role == "user" and message.text), ""
        )
        if self._config.title.model and asked:
            answered = next(
                (
                    message.text
                    for message in messages
                    if message.role == "assistant" and message.text
                ),
                "",
            )
            prompt = TITLE.format(asked=asked[:OPENING], answered=answered[:OPENING])
            if text := title_in(
                await self._written(self._config.title.model, prompt, caller, "title")
            ):
                return text
        return title_of(asked) if asked else ""

    async def adopt_title(self, session: SessionRecord, answer: str) -> None:
        """Gives a session the title that a chat UI's own model wrote, if its answer has one."""
        if title := title_in(answer):
            await self.set_title_if_missing(session, title)

    async def set_title_if_missing(self, session: SessionRecord, title: str) -> None:
        """Sets a title where there is none."""
        fresh = await self._store.open(session.user_id, session.id, create=False)
        if fresh.title is None:
            await self._store.update(fresh, title=title)

    async def summarise(
        self, session: SessionRecord, caller: Caller, *, fitting: int | None = None
    ) -> bool:
        """Puts all but the newest messages into the session's summary; False if that could not be done.

        With `fitting`, no more than so many fit into a prompt: then some of those go as well, or it
        would be done every turn.
        """
        settings_ = self._config.summary
        if not settings_.model or session.id in self._summarising:
            return False
        self._summarising.add(session.id)
        try:
            window = await self._store.window(session, messages=MOST)
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
        """What the model writes; nothing if it fails, for nobody asked for it."""
        terms = replace(
            caller,
            principal=replace(caller.principal, models=None),  # the model is the operator's choice
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


def _old(items: Sequence[Item], keep: int) -> Sequence[Item]:
    """The messages before the newest ones: whole turns, as many as can be read at once."""
    size, fits = 0, 0
    for i, item in enumerate(items):
        if i > 0 and item.message.role == "user" and i <= len(items) - keep:
            fits = i
        size += len(_clipped(item))
        if size > READ and fits:
            break
    return items[:fits]


def _clipped(item: Item) -> str:
    calls = [
        str((call.get("function") or {}).get("name")) for call in item.message.tool_calls or ()
    ]
    text = item.message.text + "".join(f" [asks the tool {name}]" for name in calls)
    return text if len(text) <= CLIPPED else f"{text[:CLIPPED]} […]"
