"""Joins chats and budgets: what a request may use is held before an upstream is asked, what it did use is booked after."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import msgspec

from chattable.adapters.errors import BrokenAnswer, TimedOut
from chattable.agents.chat import Chat, Chunk, Message, Usage
from chattable.agents.chattable import Context
from chattable.agents.errors import ChatError
from chattable.budget.errors import BudgetError, BudgetExceededError, LedgerUnavailableError
from chattable.budget.ledger import LEASE, Amount, Hold, Ledger, Wish
from chattable.budget.limits import Asker
from chattable.budget.tokens import count_async
from chattable.proxy.auth import Caller
from chattable.proxy.catalog import Entry
from chattable.proxy.errors import QuotaError

log = logging.getLogger("chattable")

DEFAULT_OUTPUT = 4096  # tokens of output held where neither the client nor the model has a cap
PER_MESSAGE = 8  # tokens that a chat template adds to a message, at most
PER_IMAGE = 1600  # tokens of a picture, at most, at the usual detail
SHAPES = ("tools", "functions", "response_format")  # fields that providers put into the prompt
BELIEVE = 1.0  # seconds that "there is no limit at all" is believed
SWEEP = 10.0  # seconds between two looks for holds that nobody renews


class Metering:
    """Admits requests and books what they use. Law: charged at leaves; an agent's turn is the sum of the models it asked."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        self.ledger = ledger
        self._clock = clock
        self._bounded = True
        self._believed_until = 0.0
        self._open: set[str] = set()  # holds of this process, whose leases it renews
        self._unbooked: dict[str, Amount] = {}  # settles that the database did not take yet
        self._upkeep: asyncio.Task[None] | None = None
        self._abandoning: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begins to renew leases and to sweep."""
        self._upkeep = asyncio.create_task(self._keep_up())

    async def stop(self) -> None:
        """Ends; what could not be booked is forfeited when its lease ends."""
        if self._upkeep is not None:
            self._upkeep.cancel()

    def forget(self) -> None:
        """Limits have changed here."""
        self._believed_until = 0.0

    def hold(self, chat: Chat, entry: Entry, caller: Caller, parent: Context | None) -> Held:
        """The right to ask `entry` this, for as long as the context lasts."""
        return Held(self, chat, entry, caller, parent.path[0] if parent else "")

    async def bounded(self) -> bool:
        """Whether anything is limited, believed for a moment: where nothing is, a request pays nothing for budgets."""
        if self._believed_until <= self._clock():
            self._bounded = await self.ledger.bounded()
            self._believed_until = self._clock() + BELIEVE
        return self._bounded

    async def admit(self, wish: Wish, chat: Chat, caller: Caller) -> Hold:
        """A hold of all that is wished, else of what there is room for."""
        least, wish = wish.least, msgspec.structs.replace(wish, least=wish.most)
        try:
            hold = await self.ledger.hold(wish)
        except BudgetExceededError:  # the bound on the prompt is coarse: only now is it worth counting
            prompt = min(wish.prompt, await count_prompt(chat, wish.model))
            try:
                hold = await self.ledger.hold(msgspec.structs.replace(wish, prompt=prompt, least=least))
            except BudgetExceededError as error:
                raise _quota(error, caller) from None
        self._open.add(hold.id)
        return hold

    async def book(self, hold: Hold, used: Amount | None, reason: str) -> None:
        """Settles a hold, or voids it for None; keeps trying when the database is away."""
        try:
            if used is None:
                await self.ledger.void(hold.id, reason)
            else:
                await self.ledger.settle(hold.id, used, reason)
            self._open.discard(hold.id)
        except LedgerUnavailableError as error:
            log.warning("the settlement of %s waits: %s", hold.id, error)
            self._unbooked[hold.id] = used or Amount()

    def abandon(self, hold_id: str) -> None:
        """Voids a hold that may exist, whose request ended while it was asked for."""

        async def void() -> None:
            with suppress(BudgetError, KeyError):
                await self.ledger.void(hold_id, "abandoned")

        task = asyncio.create_task(void())
        self._abandoning.add(task)
        task.add_done_callback(self._abandoning.discard)

    async def _keep_up(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            try:
                for hold_id, used in list(self._unbooked.items()):
                    await self.ledger.settle(hold_id, used, "booked late")
                    del self._unbooked[hold_id]
                    self._open.discard(hold_id)
                if self._open:
                    await self.ledger.renew(list(self._open))
                for hold_id in await self.ledger.sweep():
                    log.warning("hold %s was forfeited: nobody renewed it for %d seconds", hold_id, LEASE)
            except BudgetError as error:
                log.warning("the ledger's upkeep waits: %s", error)


class Held:
    """One request's hold. Left in any way, it is settled: with what was reported, else counted; voided if nothing was used."""

    def __init__(self, metering: Metering, chat: Chat, entry: Entry, caller: Caller, agent: str) -> None:
        self.chat = chat  # with its output capped to what is held
        self.reported: Usage | None = None
        self.headers: dict[str, str] = {}
        self._metering = metering
        self._entry = entry
        self._caller = caller
        self._agent = agent
        self._hold: Hold | None = None
        self._said: list[str] = []
        self.choices: set[int] = set()

    async def __aenter__(self) -> Held:
        if self._entry.model.leaf and await self._metering.bounded():
            wish = self._wish()
            try:
                self._hold = await self._metering.admit(wish, self.chat, self._caller)
            except asyncio.CancelledError:  # the database may hold it all the same
                self._metering.abandon(wish.id)
                raise
            self._cap(self._hold)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._hold is None:
            return
        if not self.choices and isinstance(error, ChatError) and not isinstance(error, BrokenAnswer):
            # Refused before a byte: nothing was used. No answer at all: nobody knows, so the hold is charged.
            used = self._hold.held if isinstance(error, TimedOut) else None
        else:
            usage = await self.usage()
            used = Amount(usage.total_tokens, self._entry.price.of(usage.prompt_tokens, usage.completion_tokens))
        await self._metering.book(self._hold, used, type(error).__name__ if error else "")

    def see(self, chunk: Chunk) -> None:
        """Notes a step of the answer."""
        if chunk.usage is not None:
            self.reported = chunk.usage
        else:
            self.choices.add(chunk.index)
            for key in ("content", "reasoning_content", "refusal"):
                if text := chunk.delta.get(key):
                    self._said.append(text)
            for call in chunk.delta.get("tool_calls") or ():
                self._said += [text for text in (call.get("function") or {}).values() if text]

    @property
    def overrun(self) -> bool:
        """Whether the upstream ignores its cap: a piece is a token at least, so more pieces than tokens held are too many."""
        return self._hold is not None and len(self._said) > self._hold.output

    async def usage(self) -> Usage:
        """The reported usage, else an estimate: the words of both sides, counted."""
        if self.reported is None:
            name = self._entry.name
            asked = await count_async("\n".join(m.text for m in self.chat.messages), name)
            said = await count_async("".join(self._said), name)
            self.reported = Usage(asked, said, asked + said)
        return self.reported

    def _wish(self) -> Wish:
        params, principal = self.chat.params, self._caller.principal
        caps = [params[name] for name in ("max_tokens", "max_completion_tokens") if params.get(name) is not None]
        if self._entry.max_output is not None:
            caps.append(self._entry.max_output)
        most = min(caps, default=DEFAULT_OUTPUT)
        choices = params.get("n") or 1
        return Wish(
            id=f"hold_{random.getrandbits(128):032x}",
            asker=Asker(user=principal.user.id, key=principal.key_id, team=principal.team or "", agent=self._agent),
            model=self._entry.name,
            prompt=bound_prompt(self.chat),
            most=most * choices,
            least=min(most, 1) * choices,
            price=self._entry.price,
            request=self._caller.request_id,
        )

    def _cap(self, hold: Hold) -> None:
        params = self.chat.params
        old = params.get("max_tokens") is not None and params.get("max_completion_tokens") is None
        name, each = "max_tokens" if old else "max_completion_tokens", hold.output // (params.get("n") or 1)
        capped = {k: v for k, v in params.items() if k not in ("max_tokens", "max_completion_tokens")} | {name: each}
        self.chat = msgspec.structs.replace(self.chat, params=capped)
        if hold.remaining is not None:
            self.headers["x-budget-remaining-tokens"] = str(hold.remaining)
        if hold.resets_at is not None:
            self.headers["x-budget-reset"] = str(hold.resets_at)


def bound_prompt(chat: Chat) -> int:
    """More tokens than the prompt can have: the bytes of all that is forwarded and what its pictures may cost, none counted."""
    shape = [chat.params.get(name) for name in SHAPES]
    written = len(msgspec.json.encode([[m.to_json() for m in chat.messages], shape]))
    return written + sum(_media(message) for message in chat.messages)


async def count_prompt(chat: Chat, model: str) -> int:
    """The prompt's tokens, counted, with room for what chat templates add."""
    texts = [message.text for message in chat.messages]
    rest = [*(chat.params.get(name) for name in SHAPES), *(m.tool_calls for m in chat.messages)]
    texts.append(msgspec.json.encode([part for part in rest if part]).decode())
    words = await count_async("\n".join(texts), model)
    return words + PER_MESSAGE * (len(chat.messages) + 1) + sum(_media(message) for message in chat.messages)


def _media(message: Message) -> int:
    """What the parts of a message that are not text may cost."""
    if not isinstance(message.content, list):
        return 0
    others = [part for part in message.content if part.get("type") != "text"]
    return sum(PER_IMAGE if part.get("type") == "image_url" else len(msgspec.json.encode(part)) for part in others)


def _quota(error: BudgetExceededError, caller: Caller) -> QuotaError:
    """The refusal as a person reads it."""
    user = caller.principal.user
    who = error.subject.replace(user.id, user.name)
    amount, remaining = (_shown(value, error.unit) for value in (error.amount, error.remaining))
    left = "is used up" if error.remaining == 0 else f"has {remaining} left, too little for this request"
    per = "in all" if error.per == "total" else f"per {error.per}"
    resets = f", resets at {datetime.fromtimestamp(error.resets_at, UTC):%Y-%m-%dT%H:%M:%SZ}" if error.resets_at else ""
    headers: dict[str, Any] = {"x-budget-reset": str(error.resets_at)} if error.resets_at else {}
    if error.unit == "tokens":
        headers["x-budget-remaining-tokens"] = str(error.remaining)
    kind = "Token" if error.unit == "tokens" else "Cost"
    return QuotaError(f"{kind} budget for {who} {left}: {amount} {per}{resets}.", headers)


def _shown(value: int, unit: str) -> str:
    return f"{value:,} tokens" if unit == "tokens" else f"${value / 1_000_000:,.6f}".rstrip("0").rstrip(".")
