"""Decides who answers the tasks of a chat UI."""

from __future__ import annotations

from contextlib import suppress

from chattable.agents.chat import Chat, Chunk
from chattable.agents.errors import ModelNotFound
from chattable.agents.prompt import PromptAgent
from chattable.proxy.catalog.catalog import CatalogHolder, Entry
from chattable.proxy.config import settings
from chattable.proxy.config.ui_tasks import FOLLOW_UPS, TAGS, TITLE
from chattable.proxy.identity.auth import Caller
from chattable.proxy.sessions.resolver import SessionRef
from chattable.proxy.sessions.ui_task_answers import free_answer
from chattable.proxy.sessions.ui_tasks import UiTask, recognise

FOR_TITLE_MODEL = (TITLE, TAGS, FOLLOW_UPS)  # what the model for titles answers

Answering = tuple[Entry, list[Chunk] | None]


class UiTaskRouting:
    """Recognises tasks of chat UIs and decides who answers them. Law: no agent runs for one."""

    def __init__(self, config: settings.SessionSettings, catalogs: CatalogHolder) -> None:
        self._model = config.tasks.model
        self._titles = config.title.model
        self._prompts = config.tasks.prompts
        self._catalogs = catalogs

    def task_of(self, chat: Chat, ref: SessionRef) -> UiTask | None:
        """The task that a request is, if it is one."""
        if not ref.task and ref.mode == "append":
            return None
        return recognise(chat, ref.task, ui=ref.ui, own=self._prompts)

    def route(self, task: UiTask, chat: Chat, entry: Entry, caller: Caller) -> Answering:
        """The entry that is asked in place of this one, and the answer where no model is asked."""
        titled = task.kind in FOR_TITLE_MODEL
        model = self._model or (self._titles if titled or not entry.model.leaf else "")
        with suppress(ModelNotFound):  # not for this key
            if model:
                entry = self._catalogs.current.find(model, caller.principal)
            while isinstance(entry.model, PromptAgent) and not titled:
                entry = self._catalogs.current.find(entry.model.model, caller.principal)
        return entry, None if entry.model.leaf else free_answer(task, chat)
