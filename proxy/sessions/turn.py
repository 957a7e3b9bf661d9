"""One turn on its way through the pipeline: what is asked, what was answered, what is stored."""

from __future__ import annotations

import copy
import functools
import logging

from msgspec import UNSET
from msgspec.structs import replace

from chattable.agents import chattable as agents
from chattable.agents.chat import Chat, Chunk, Json, Message, Usage
from chattable.agents.errors import clip
from chattable.agents.fold import INCOMPLETE, Accumulator
from chattable.agents.params import fitting
from chattable.proxy.catalog.catalog import Entry
from chattable.proxy.identity.auth import Caller
from chattable.proxy.sessions.locks import Claim, Held
from chattable.proxy.sessions.plans import Plan
from chattable.proxy.store.sessions import port as stored
from chattable.proxy.store.sessions.port import SessionRecord

log = logging.getLogger("chattable")

STATELESS = {"x-session-mode": "off"}


class Turn:
    """One question and its answer: what is asked, which model, and what it answered."""

    def __init__(self, chat: Chat, entry: Entry, caller: Caller, headers: dict[str, str]) -> None:
        self.chat = chat  # with the stored history, fitted to the window
        self.entry = entry
        self.caller = caller
        self.headers = headers
        self.replay: list[Chunk] | None = None  # the answer, where no model is asked

    def observe(self, chunk: Chunk) -> None:
        """Takes note of a chunk of the answer."""


class KeptTurn(Turn):
    """A turn of a session, which it holds if it appends to it."""

    def __init__(
        self,
        plan: Plan,
        session: SessionRecord,
        chat: Chat,
        entry: Entry,
        caller: Caller,
        claim: Claim,
        held: Held | None,
    ) -> None:
        headers = {
            "x-session-id": session.id,
            "x-session-mode": plan.mode,
            "x-session-injected": str(plan.injected),
        }
        own = _params(session, entry) if session.params else {}
        view = agents.TurnSession(session.id, session.title, own, copy.deepcopy(session.state))
        params = own | chat.params if own else chat.params
        chat = replace(chat, messages=plan.messages, params=params)
        super().__init__(chat, entry, replace(caller, session=view), headers)
        self.plan = plan
        self.session = session
        self.replay = plan.replay
        self.state = view
        self.incomplete = False  # whether the answer ended without a finish reason
        self.claim = claim
        self.held = held
        self._fold = Accumulator()

    def observe(self, chunk: Chunk) -> None:
        """Adds it to the answer."""
        self._fold.add(chunk)
        if chunk.finish_reason == INCOMPLETE and chunk.index == 0:
            self.incomplete = True

    @property
    def left(self) -> bool:
        """Whether its client has left."""
        return self.claim.reply is not None and self.claim.reply.left

    @property
    def partial(self) -> bool:
        """Whether there is a part of an answer that may be kept: its client left, no more."""
        dropped = self.claim.reply is not None and self.claim.reply.dropped
        return self.left and not dropped and not self.plan.off_path and bool(self.answer_text)

    @property
    def lock(self) -> str:
        """The name of its lock in the store."""
        return self.claim.holder if self.held is None else self.held.name

    @property
    def answer(self) -> Message:
        """The answer so far; of several choices the first."""
        return self._fold.message()

    @property
    def answer_text(self) -> str:
        """The text of the answer, or the arguments of the function that it calls."""
        answer = self.answer
        calls = [call.get("function") or {} for call in answer.tool_calls or ()]
        return answer.text or "".join(str(call.get("arguments") or "") for call in calls)

    @property
    def usage(self) -> Usage | None:
        """Its usage, once it is known."""
        return self._fold.usage


def _params(session: SessionRecord, entry: Entry) -> Json:
    """The session's params that this model takes.

    Older versions stored others as well, and they may have been meant for another model.
    """
    params = fitting(session.params, entry.model.accepts)
    if params is not session.params:
        names = sorted(session.params.keys() - params.keys())[:20]
        _warn_once(session.id, entry.name, ", ".join(clip(name, 40) for name in names))
    return params


@functools.lru_cache(maxsize=1000)  # once for each of the last thousand
def _warn_once(session: str, model: str, names: str) -> None:
    log.warning(
        "params of conversation %s that are not for %s are left out: %s", session, model, names
    )


class Stateless:
    """The context of a turn of which nothing is stored."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    async def __aenter__(self) -> Turn:
        return self._turn

    async def __aexit__(self, *exc: object) -> None:
        return None


def turn_record(turn: KeptTurn, *, incomplete: bool) -> stored.TurnRecord:
    """What is stored of a turn."""
    plan, usage, name = turn.plan, turn.usage, turn.entry.name
    tokens = usage.completion_tokens if usage is not None else None
    answer = stored.NewItem(
        message=turn.answer, tokens=tokens, speaker=name, usage=usage, incomplete=incomplete
    )
    # a request that is sent again under its key is stored, and stored once
    key = "" if incomplete else turn.caller.idempotency_key
    return stored.TurnRecord(
        entries=(
            *[stored.NewItem(message=message) for message in plan.new],
            answer,
            *plan.following,
        ),
        parent=plan.parent,
        head=plan.head,
        side=plan.off_path,
        key=f"key {key}" if key else turn.claim.holder,
        holder=turn.lock,
        request_id=turn.caller.request_id,
        model=UNSET if plan.off_path else name,
        state=turn.state.state if turn.state.state != turn.session.state else UNSET,
    )
