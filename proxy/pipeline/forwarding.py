"""Passes on what is no chat, under the same keys, limits, budgets and fallbacks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from chattable.adapters.errors import InvalidUpstreamResponse
from chattable.adapters.openai.wire import OpenAIWire
from chattable.adapters.upstream import Upstream
from chattable.agents.chat import NO_USAGE, Chat, Chunk, Json, Message, Usage
from chattable.agents.chattable import Trace
from chattable.agents.errors import InvalidRequest, MissingParameter, clip
from chattable.proxy.catalog.catalog import Entry
from chattable.proxy.identity.auth import Caller
from chattable.proxy.pipeline.attempts import Question, ask_targets
from chattable.proxy.pipeline.forwarded_kinds import Body, Estimate, Kind
from chattable.proxy.pipeline.metered_call import MeteredCall
from chattable.proxy.pipeline.pipeline import Pipeline


class Forwarded(Struct, frozen=True):
    """An answer as it came, but for the model's name."""

    content_type: str
    body: bytes
    headers: Mapping[str, str]
    trace: Trace


_decode = msgspec.json.Decoder(Forwarded).decode


class _Question(Question):
    """What is passed on as it is, and its answer."""

    kind: Kind
    fields: Json
    given: Body
    content_type = ""
    body = b""

    def held(self, target: Entry) -> tuple[Chat, Estimate]:
        """By what the kind may use at most at this target."""
        model = _upstream(self.kind, target).model
        most = self.given.estimate(target.kind, model, target.price)
        params = {"max_tokens": most.output, "n": most.answers}
        return replace(self.chat, params=params), most

    async def answer(self, target: Entry, call: MeteredCall) -> AsyncGenerator[Chunk]:
        """What is to be booked of the answer, which is kept aside."""
        upstream = _upstream(self.kind, target)
        asked = upstream.provider.wire.allowed_params(self.fields) | {"model": upstream.model}
        if "max_tokens" in call.chat.params and self.kind.path == "/completions":
            asked["max_tokens"] = call.chat.params["max_tokens"]
        user, body = self.caller.principal.user.id, msgspec.json.encode(asked)
        self.content_type, self.body = await upstream.forward(
            self.kind.path, body, user, self.trace, call.progress
        )
        answer = _object(self.content_type, self.body)
        usage = _usage(answer) or (NO_USAGE if self.kind.free else None)
        if usage is not None:
            yield Chunk(usage=usage)
        for index, text in enumerate(_texts(answer)):
            yield Chunk(index, {"content": text})
        if "model" in answer:
            self.body = msgspec.json.encode(answer | {"model": self.entry.name})


class Forwarding:
    """Passes requests on."""

    def __init__(self, pipeline: Pipeline, default_model: str) -> None:
        self._pipeline = pipeline
        self._default = default_model

    async def ask(self, kind: Kind, fields: Json, caller: Caller, trace: Trace) -> Forwarded:
        """The provider's answer. What was used is booked whether or not somebody waits for it."""
        return await asyncio.shield(asyncio.create_task(self._once(kind, fields, caller, trace)))

    async def _once(self, kind: Kind, fields: Json, caller: Caller, trace: Trace) -> Forwarded:
        """The answer, or that of the request before with the same Idempotency-Key."""
        if not caller.idempotency_key:
            return await self._ask(kind, fields, caller, trace)
        async with self._pipeline.idempotency.claim(caller, [kind.path, fields]) as claim:
            if claim.kept is not None:
                return replace(_decode(claim.kept), headers={"idempotency-replayed": "true"})
            answer = await self._ask(kind, fields, caller, trace)
            claim.answer = msgspec.json.encode(answer)
            return answer

    async def _ask(self, kind: Kind, fields: Json, caller: Caller, trace: Trace) -> Forwarded:
        pipeline, parent = self._pipeline, caller.parent
        entry = pipeline.find(self._model(fields), caller, parent)
        trace.model = entry.name
        given = kind.parse(fields)
        chat = Chat(entry.name, [Message("user", given.words)])
        nested = parent is not None
        async with pipeline.rate_limiter.call(chat, entry, caller, nested=nested) as admission:
            question = _Question(
                chat, entry, caller, parent, trace, pipeline.gateway, admission, {}
            )
            question.kind, question.fields, question.given = kind, fields, given
            answer = ask_targets(question, pipeline.catalogs.current, pipeline.metering)
            async with aclosing(answer) as chunks:
                async for chunk in chunks:
                    admission.see(chunk)
        return Forwarded(question.content_type, question.body, question.headers, trace)

    def _model(self, fields: Json) -> str:
        name = fields.get("model") or self._default
        if not name:
            raise MissingParameter("model")
        if not isinstance(name, str):
            raise InvalidRequest(
                f"Invalid type for 'model': expected a string, but got {clip(name)}.",
                param="model",
                code="invalid_type",
            )
        return name


def _upstream(kind: Kind, target: Entry) -> Upstream:
    model = target.model
    if not isinstance(model, Upstream) or not isinstance(model.provider.wire, OpenAIWire):
        message = (
            f"The model `{target.name}` does no {kind.what}: only a provider that speaks OpenAI's "
            "API is asked for them."
        )
        raise InvalidRequest(message, param="model", code="unsupported_model")
    return model


def _object(content_type: str, body: bytes) -> dict[str, Any]:
    """The answer if it is JSON, else nothing: sound passes as it is."""
    if "json" not in content_type:
        return {}
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        raise InvalidUpstreamResponse("sent an answer that is no JSON") from None
    return answer if isinstance(answer, dict) else {}


def _texts(answer: Mapping[str, Any]) -> list[str]:
    """What a completion says, choice by choice."""
    choices = answer.get("choices")
    found = (
        [choice.get("text") for choice in choices if isinstance(choice, dict)]
        if isinstance(choices, list)
        else []
    )
    return [text for text in found if isinstance(text, str)]


def _usage(answer: Mapping[str, Any]) -> Usage | None:
    used = answer.get("usage")
    if not isinstance(used, dict):
        return None
    prompt, completion = (
        next(
            (
                used[name]
                for name in names
                if type(used.get(name)) is int and 0 <= used[name] < 2**53
            ),
            None,
        )
        for names in (
            ("prompt_tokens", "input_tokens", "total_tokens"),
            ("completion_tokens", "output_tokens"),
        )
    )
    if prompt is None:
        return None
    return Usage(prompt, completion or 0, prompt + (completion or 0))
