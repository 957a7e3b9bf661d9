"""One exchange on its way through the pipeline: what is asked for it, what was answered, and what is kept of both."""

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
    """One exchange: what is asked for it, of whom, and what was answered."""

    def __init__(self, chat: Chat, entry: Entry, caller: Caller, headers: dict[str, str]) -> None:
        self.chat = chat  # with the stored history, fitted to the window
        self.entry = entry
        self.caller = caller
        self.headers = headers
        self.replay: list[Chunk] | None = None  # the answer, where nothing is asked

    def observe(self, chunk: Chunk) -> None:
        """Notes a step of the answer."""


class KeptTurn(Turn):
    """An exchange of a session, which it holds where it appends to it."""

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
        self.incomplete = False  # whether the answer ended and never said why
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
        """Whether nobody reads it any more."""
        return self.claim.reply is not None and self.claim.reply.left

    @property
    def partial(self) -> bool:
        """Whether a part of an answer is there that may be kept: only its client left."""
        dropped = self.claim.reply is not None and self.claim.reply.dropped
        return self.left and not dropped and not self.plan.off_path and bool(self.answer_text)

    @property
    def lock(self) -> str:
        """What the store knows it by."""
        return self.claim.holder if self.held is None else self.held.name

    @property
    def answer(self) -> Message:
        """The answer so far: the first one, where several were asked for."""
        return self._fold.message()

    @property
    def answer_text(self) -> str:
        """What was answered, where it was given to a function too."""
        answer = self.answer
        calls = [call.get("function") or {} for call in answer.tool_calls or ()]
        return answer.text or "".join(str(call.get("arguments") or "") for call in calls)

    @property
    def usage(self) -> Usage | None:
        """What it used, once it is known."""
        return self._fold.usage


def _params(session: SessionRecord, entry: Entry) -> Json:
    """The session's params that may go with a request to this model.

    Older versions let in others, and the model may be another one than they were meant for.
    """
    params = fitting(session.params, entry.model.accepts)
    if params is not session.params:
        names = sorted(session.params.keys() - params.keys())[:20]
        _warn_once(session.id, entry.name, ", ".join(clip(name, 40) for name in names))
    return params


@functools.lru_cache(maxsize=1000)  # once for each, as long as there are not too many
def _warn_once(session: str, model: str, names: str) -> None:
    told = "params of conversation %s that are not for %s are left out: %s"
    log.warning(told, session, model, names)


class Stateless:
    """A turn of which nothing is kept."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    async def __aenter__(self) -> Turn:
        return self._turn

    async def __aexit__(self, *exc: object) -> None:
        return None


def turn_record(turn: KeptTurn, *, incomplete: bool) -> stored.TurnRecord:
    """What is kept of a turn."""
    plan, usage, name = turn.plan, turn.usage, turn.entry.name
    tokens = usage.completion_tokens if usage is not None else None
    answer = stored.NewItem(
        message=turn.answer, tokens=tokens, speaker=name, usage=usage, incomplete=incomplete
    )
    # who asks again under it is to be kept, and kept once
    key = "" if incomplete else turn.caller.idempotency_key
    return stored.TurnRecord(
        entries=(
            *(stored.NewItem(message=message) for message in plan.new),
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
