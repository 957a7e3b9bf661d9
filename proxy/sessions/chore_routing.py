"""Who answers what a chat UI asks for its own ends."""

from __future__ import annotations

from contextlib import suppress

from chattable.agents.chat import Chat, Chunk
from chattable.agents.errors import ModelNotFound
from chattable.agents.prompt import PromptAgent
from chattable.proxy.catalog.catalog import CatalogHolder, Entry
from chattable.proxy.config import settings, ui_tasks
from chattable.proxy.identity.auth import Caller
from chattable.proxy.sessions import chores
from chattable.proxy.sessions.chore_answers import answered
from chattable.proxy.sessions.chores import Chore
from chattable.proxy.sessions.doors import Door

TITLED = (
    ui_tasks.TITLE,
    ui_tasks.TAGS,
    ui_tasks.FOLLOW_UPS,
)  # what the model for titles does as well

Answering = tuple[Entry, list[Chunk] | None]


class ChoreRouting:
    """Recognises chores and says who answers them. Law: no agent is run for one."""

    def __init__(self, config: settings.SessionSettings, catalogs: CatalogHolder) -> None:
        self._model = config.tasks.model
        self._titles = config.title.model
        self._prompts = config.tasks.prompts
        self._catalogs = catalogs

    def recognised(self, chat: Chat, door: Door) -> Chore | None:
        """The chore that a request is, if it is one."""
        if not door.task and door.mode == "append":
            return None
        return chores.recognised(chat, door.task, ui=door.ui, own=self._prompts)

    def answering(self, chore: Chore, chat: Chat, entry: Entry, caller: Caller) -> Answering:
        """Who is asked in the place of `entry`, and the answer where nobody is."""
        titled = chore.kind in TITLED
        model = self._model or (self._titles if titled or not entry.model.leaf else "")
        with suppress(ModelNotFound):  # not for this key
            if model:
                entry = self._catalogs.current.find(model, caller.principal)
            while isinstance(entry.model, PromptAgent) and not titled:
                entry = self._catalogs.current.find(entry.model.model, caller.principal)
        return entry, None if entry.model.leaf else answered(chore, chat)
