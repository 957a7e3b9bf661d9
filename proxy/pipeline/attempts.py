"""The loop behind every answer: target after target, each under its own hold."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from chattable.agents.chat import Chat, Chunk
from chattable.agents.chattable import Context, Gateway, Trace
from chattable.agents.run_turn import run_turn
from chattable.proxy.catalog.catalog import Catalog, Entry
from chattable.proxy.identity.auth import Caller
from chattable.proxy.pipeline.forwarded_kinds import NOTHING_BESIDES, Estimate
from chattable.proxy.pipeline.targets import TargetSelector

if TYPE_CHECKING:
    from chattable.proxy.pipeline.metered_call import MeteredCall
    from chattable.proxy.pipeline.metering import Metering
    from chattable.proxy.pipeline.rate_limits import Admission


class Question:
    """What is asked, whichever target answers, and for whom; here it is a chat."""

    def __init__(
        self,
        chat: Chat,
        entry: Entry,
        caller: Caller,
        parent: Context | None,
        trace: Trace,
        gateway: Gateway,
        admission: Admission,
        headers: dict[str, str],
    ) -> None:
        self.chat = chat
        self.entry = entry
        self.caller = caller
        self.parent = parent  # the agent's turn that asks
        self.trace = trace
        self.admission = admission  # by the rate limits
        self.headers = headers  # of the response: what the limits and holds say is added
        self._gateway = gateway

    def held(self, target: Entry) -> tuple[Chat, Estimate]:
        """What a hold at this target is for."""
        return self.chat, NOTHING_BESIDES

    def answer(self, target: Entry, call: MeteredCall) -> AsyncGenerator[Chunk]:
        """The target's answer, with its output capped to what is held."""
        caller, parent = self.caller, self.parent
        ctx = Context(
            self._gateway,
            call.chat,
            caller.principal.user,
            target.name,
            caller,
            parent=parent,
            limits=target.limits.within(caller.max_calls),
            trace=self.trace,
            session=caller.session if parent is None else None,
        )
        ctx.progress = call.progress
        return run_turn(target.model, ctx)


async def ask_targets(
    question: Question, catalog: Catalog, metering: Metering
) -> AsyncGenerator[Chunk]:
    """The answer of the first target that gives one; its usage comes last and is booked."""
    question.headers.update(await question.admission.wait())
    caller, parent = question.caller, question.parent
    targets = TargetSelector(catalog, question.chat, question.entry, caller, question.trace)
    for target in targets:
        leaf = target.model.leaf
        try:
            chat, besides = question.held(target)
            async with metering.call(
                chat, target, caller, parent, targets.followed, besides
            ) as call:
                question.headers.update(call.headers)
                call.progress = targets.progress
                chunks = question.answer(target, call)
                try:
                    async for chunk in chunks:
                        targets.answering()
                        call.see(chunk)
                        if chunk.usage is None or not leaf:
                            yield chunk
                        if call.suspect and await call.overrun():  # it ignores its cap
                            for index in call.choices:
                                yield Chunk(index, {}, "length")
                            break
                finally:
                    await chunks.aclose()
                targets.ended(True)
                if leaf:
                    usage = await call.usage()
                    if parent is not None:
                        parent.add_usage(usage)
                    yield Chunk(usage=usage, facts=call.facts)
                return
        except Exception as error:
            if not await targets.failed(error):
                raise
        finally:
            targets.ended()
