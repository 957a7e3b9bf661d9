"""One call of a model: what it may use is held before, what it used is charged after."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from chattable.adapters import errors as upstream
from chattable.adapters.upstream import Upstream
from chattable.adapters.vendors.media import media_tokens
from chattable.agents.chat import NO_USAGE, Chat, Chunk, Json, Usage
from chattable.agents.chattable import Progress
from chattable.budget.holds import Settlement, UnheldCall
from chattable.budget.journal import JournalRecord
from chattable.budget.ledger import FREE, Charge, Hold, HoldRequest
from chattable.budget.limits import Payer
from chattable.budget.tokens import bound, count_async, count_at_once
from chattable.proxy.catalog.catalog import Entry
from chattable.proxy.catalog.prices import held_price
from chattable.proxy.identity.auth import Caller
from chattable.proxy.pipeline.forwarded_kinds import Estimate
from chattable.proxy.pipeline.output_caps import asked_cap, capped, least_output
from chattable.proxy.pipeline.prompt_tokens import bound_prompt, count_prompt, to_count

if TYPE_CHECKING:
    from chattable.proxy.pipeline.metering import Metering

DEFAULT_OUTPUT_TOKENS = (
    4096  # tokens of output held where neither the client nor the model has a cap
)
# tokens that no answer has: neither what a client asks for nor a report is believed beyond
MAX_OUTPUT_TOKENS = 10**9
# bytes that a reported token of text may have on average before the words are counted
MAX_BYTES_PER_TOKEN = 5
SPOKEN_FIELDS = ("content", "reasoning_content", "refusal")


# Why a call ended, in the ledger's entries: these words stay, whatever the classes are called.
REASONS: dict[type[BaseException], str] = {
    upstream.UpstreamHTTPError: "Refused",
    upstream.UpstreamUnreachable: "Unreachable",
    upstream.UpstreamTimedOut: "TimedOut",
    upstream.InvalidUpstreamResponse: "BrokenAnswer",
    upstream.UnreadableEvent: "Noise",
    upstream.ConnectionLimitReached: "Busy",
    upstream.ConnectionReclaimed: "GaveWay",
    upstream.CircuitOpened: "Overtaken",
}


class MeteredCall:
    """One call of a model. Left in any way, it is charged by what is known of it.

    Law: never sent, or refused before the first word: nothing. Words came: the prompt as reported,
    else counted, and the larger of what was said and what was reported. Sent, and no word: the
    prompt as counted, flagged unknown, up to what was held. Given up by whoever asked, and ended
    here for whatever reason: the cap besides, flagged the same, so that leaving makes no call
    cheaper.
    """

    def __init__(
        self,
        metering: Metering,
        chat: Chat,
        entry: Entry,
        caller: Caller,
        agent: str,
        followed: Callable[[BaseException | None], bool],
        estimate: Estimate,
    ) -> None:
        self.chat = chat  # with its output capped to what is held
        self.headers: dict[str, str] = {}
        self.progress = Progress()
        self.suspect = False  # whether what was said may be more than is held: its bytes are
        self._metering = metering
        self._entry = entry
        self._caller = caller
        self._agent = agent
        self._followed = followed
        self._estimate = estimate
        self._hold: Hold | None = None
        self._reported: Usage | None = None
        self.facts: Json | None = None  # that came with the usage
        self._said: dict[int, list[str]] = {}  # by choice
        self._size = 0  # bytes that were said, of a stream that may be cut
        # tokens of those that were counted, and how many bytes these were
        self._counted, self._counted_size = 0, 0
        self._most_said: int | None = None  # tokens after which a stream is cut
        self._usage: Usage | None = None
        self._guessed = False  # whether any of it was counted here

    async def __aenter__(self) -> MeteredCall:
        if self._entry.model.leaf:
            if await self._metering.has_limits():
                request = self.hold_request(bound_prompt(self.chat, self._media))
                hold = await self._metering.admit(request, self._count_prompt, self._caller)
                self._hold = hold if hold.bound else None
                if hold.warnings:
                    self.headers["x-budget-warning"] = ", ".join(hold.warnings)
            if self._hold is not None and self._hold.hard:
                self._cap(self._hold)
                self._most_said = self._hold.output if self.chat.stream else None
            self._metering.calls.add(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._entry.model.leaf:
            return
        self._metering.failpoint("after_answer")
        try:
            used = await self._charge(error)
            line = self._line(used, _reason(error))
            if line is not None:
                later = used is not None and used.unknown and self._followed(error)
                await self._metering.book(line, later=later)
        finally:
            self._metering.calls.discard(self)

    def cut_short(self) -> JournalRecord | None:
        """What is booked where the process ends now; None: nothing."""
        used = None
        if self.progress.sent:
            text, pictures = to_count(self.chat, self._media)
            counted = count_at_once(text, self._entry.name) + pictures + self._estimate.prompt
            used = self._unknown(counted, self._most)
        return self._line(used, "stopped")

    def see(self, chunk: Chunk) -> None:
        """Notes a step of the answer."""
        if chunk.usage is not None:
            self._reported, self.facts = chunk.usage, chunk.facts
            return
        if not self._said:
            self._metering.failpoint("first_chunk")
        said = self._said.get(chunk.index)
        if said is None:
            said = self._said[chunk.index] = []
        delta, before = chunk.delta, 0 if self._most_said is None else len(said)
        for key in delta:
            if key in SPOKEN_FIELDS and delta[key]:
                said.append(delta[key])
            elif key == "tool_calls":
                said += _texts_of_calls(delta[key])
        if self._most_said is not None:
            for text in said[before:]:
                self._size += bound(text)
            self.suspect = self._counted + self._size - self._counted_size > self._most_said

    async def overrun(self) -> bool:
        """Whether more tokens came than are held: the upstream ignores its cap."""
        self._counted, self._counted_size = await self._count_said(), self._size
        return self._most_said is not None and self._counted > self._most_said

    async def _count_said(self) -> int:
        return sum(
            [await count_async("".join(said), self._entry.name) for said in self._said.values()]
        )

    @property
    def choices(self) -> list[int]:
        """The choices that have begun, in their order."""
        return sorted(self._said)

    async def usage(self) -> Usage:
        """What the call used: as reported where that can be, else counted."""
        if self._usage is not None:
            return self._usage
        reported = self._reported or self.progress.usage or NO_USAGE
        prompt, output = reported.prompt_tokens, reported.completion_tokens
        if (not prompt and self._reported is not NO_USAGE) or self._estimate.prompts > 1:
            prompt = await self._prompt_used(prompt)
        if self._estimate.whole and self._reported is None:
            output, self._guessed = self._most, True
        size = 0
        for index in self._said:
            size += bound("".join(self._said[index]))
        # Too few tokens for so many bytes, or more than any answer has: only then it is worth
        # counting.
        if size > MAX_BYTES_PER_TOKEN * output or output > MAX_OUTPUT_TOKENS:
            output = await self._output_used(output)
        if self._guessed or reported.total_tokens != prompt + output:
            figures = {"prompt_tokens": prompt, "completion_tokens": output}
            reported = msgspec.structs.replace(reported, **figures, total_tokens=prompt + output)
        self._usage = reported
        return reported

    async def _prompt_used(self, reported: int) -> int:
        """The prompt as counted, where nothing was reported or far too little.

        llama.cpp reports the first of several prompts only.
        """
        counted = await self._count_prompt(0)
        if reported and counted <= _tolerated(reported):
            return reported
        self._guessed = True
        return counted

    async def _output_used(self, reported: int) -> int:
        """The output as counted, where the report cannot be right."""
        counted = await self._count_said()
        if reported and reported <= MAX_OUTPUT_TOKENS and counted <= _tolerated(reported):
            return reported
        if self._reported is not None:
            self._tell_implausible(reported, counted)
        self._guessed = True
        return counted

    def _tell_implausible(self, reported: int, counted: int) -> None:
        facts = {"reported": reported, "counted": counted, "model": self._entry.name}
        asked_by = {"request": self._caller.request_id, "user": self._caller.principal.user.name}
        self._metering.event("usage.implausible", facts | asked_by)

    async def _charge(self, error: BaseException | None) -> Charge | None:
        """What the call is charged; None: nothing at all."""
        if error is None or self._reported is not None:
            return self._used(self._usage or await self.usage())
        gave_up = isinstance(error, (asyncio.CancelledError, upstream.ConnectionReclaimed))
        if self._said and not gave_up:
            return self._used(await self.usage())
        if not self.progress.sent or isinstance(error, upstream.UpstreamHTTPError):
            return None
        if isinstance(error, upstream.InvalidUpstreamResponse):  # bytes came, if not words
            return self._used(await self.usage())
        return self._unknown(await self._count_prompt(0), self._most if gave_up else 0)

    def _used(self, usage: Usage) -> Charge:
        cached = written = longer = 0
        if details := usage.prompt_tokens_details:
            cached = _part(details, "cached_tokens", usage)
            written = _part(details, "cache_write_tokens", usage)
            longer = _part(details, "cache_write_1h_tokens", usage)
        prompt, output = usage.prompt_tokens, usage.completion_tokens
        cost = (self._entry.price or FREE).of(prompt, output, cached, written, longer)
        cost += self._estimate.fixed
        return Charge(
            prompt=prompt, completion=output, cached=cached, cost=cost, estimated=self._guessed
        )

    def _unknown(self, prompt: int, output: int) -> Charge:
        """A charge of which nobody knows more than that it is at least this."""
        if self.progress.usage is not None and self.progress.usage.prompt_tokens:
            prompt = self.progress.usage.prompt_tokens
        cost = (self._entry.price or FREE).of(prompt, output)
        if output:
            cost += self._estimate.fixed
        return Charge(prompt=prompt, completion=output, cost=cost, estimated=True, unknown=True)

    def _line(self, used: Charge | None, reason: str) -> JournalRecord | None:
        if self._hold is not None:
            return Settlement(
                self._hold.id, "voided" if used is None else "settled", used or Charge(), reason
            )
        return None if used is None else UnheldCall(self.hold_request(0), used)

    @property
    def _most(self) -> int:
        """The most output that the upstream was told."""
        return self._hold.output if self._hold is not None else self.hold_request(0).max_output

    def hold_request(self, prompt: int) -> HoldRequest:
        """The call, as the ledger knows it."""
        params, principal = self.chat.params, self._caller.principal
        asked = asked_cap(params)
        most = self._output_cap(asked)
        choices = (params["n"] or 1) if "n" in params else 1
        least = least_output(params) if "thinking" in params or "reasoning" in params else 1
        return HoldRequest(
            id=f"hold_{random.getrandbits(128):032x}",
            payer=Payer(
                user=principal.user.id,
                key=principal.key_id,
                team=principal.team or "",
                agent=self._agent,
                session=self._caller.session.id if self._caller.session else "",
            ),
            model=self._entry.name,
            prompt=prompt + self._estimate.prompt,
            max_output=most * choices,
            min_output=(most if self._estimate.whole or most < least else least) * choices,
            price=held_price(self._entry.price, self.chat) if self._entry.price else FREE,
            priced=self._entry.priced,
            fixed=self._estimate.fixed,
            uncapped=asked is None,
            request_id=self._caller.request_id,
            tag=self._caller.tag,
        )

    def _output_cap(self, asked: int | None) -> int:
        """The most tokens that one answer may have: as asked, within what the model can write."""
        of_model = self._entry.max_output
        most = of_model if asked is None else asked
        if most is None:
            most = DEFAULT_OUTPUT_TOKENS
        elif of_model is not None and of_model < most:
            most = of_model
        return min(most, MAX_OUTPUT_TOKENS)

    async def _count_prompt(self, per_message: int = 8) -> int:
        counted = await count_prompt(self.chat, self._entry.name, self._media, per_message)
        return counted + self._estimate.prompt

    def _media(self, part: Json) -> int:
        entry = self._entry
        model = entry.model.model if isinstance(entry.model, Upstream) else entry.name
        return media_tokens(entry.kind, model, part, entry.picture_tokens)

    def _cap(self, hold: Hold) -> None:
        params = self.chat.params
        each = hold.output // (params.get("n") or 1)
        self.chat = msgspec.structs.replace(self.chat, params=capped(params, each))
        if hold.remaining is not None:
            self.headers["x-budget-remaining-tokens"] = str(hold.remaining)
        if hold.resets_at is not None:
            self.headers["x-budget-reset"] = str(hold.resets_at)


def _reason(error: BaseException | None) -> str:
    return "" if error is None else REASONS.get(type(error), type(error).__name__)


def _texts_of_calls(calls: list[Json] | None) -> list[str]:
    """The texts in a piece of tool calls: names and arguments."""
    return [text for call in calls or () for text in (call.get("function") or {}).values() if text]


def _tolerated(tokens: int) -> float:
    """How many tokens may be counted where so many are reported.

    Another tokeniser may need a quarter fewer tokens for the same words, and a few.
    """
    return tokens * 4 / 3 + 3


def _part(details: Json, name: str, usage: Usage) -> int:
    """A part of the prompt, which is no more than all of it."""
    value = details.get(name)
    return min(value, usage.prompt_tokens) if type(value) is int and value > 0 else 0
