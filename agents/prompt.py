"""A prompt agent: a model, a context and parameters under a name of their own."""

from __future__ import annotations

from typing import Any

from chattable.agents.chat import Message
from chattable.agents.chattable import Call, Chattable, Context


class PromptAgent(Chattable):
    """Puts its context before the conversation and asks its model.

    The client's own parameters win over the agent's.
    """

    supports = frozenset({"n", "response_format"})

    def __init__(
        self,
        model: str,
        *,
        context: str = "",
        instructions: str = "",
        params: dict[str, Any] | None = None,
        description: str = "",
    ) -> None:
        self.model = model
        self.params = params or {}
        self.description = description
        self.system = "\n\n".join(text for text in (context, instructions) if text)

    async def chat(self, message: Message, ctx: Context) -> Call:
        """The model's answer, passed on as it comes."""
        system = [Message("system", self.system)] if self.system else []
        return ctx.chat(self.model, [*system, *ctx.messages], **(self.params | ctx.params))
