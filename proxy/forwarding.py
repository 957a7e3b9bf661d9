"""What is no chat, passed through to a provider that has it: under the same keys, limits, budgets and fallbacks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from chattable.adapters.errors import BrokenAnswer
from chattable.adapters.openai import OpenAIWire
from chattable.adapters.upstream import Upstream
from chattable.agents.chat import NO_USAGE, Chat, Chunk, Json, Message, Usage
from chattable.agents.chattable import Trace
from chattable.agents.errors import InvalidRequest, MissingParameter, clip
from chattable.proxy.auth import Caller
from chattable.proxy.catalog import Entry
from chattable.proxy.pipeline import Pipeline
from chattable.proxy.router import Routes

LEGACY_CAP = 16  # tokens that a completion has where nobody says


class Kind(Struct, frozen=True):
    """One of the things that are passed through."""

    path: str  # below the base URL, ours and the provider's
    what: str  # as an error says it
    asks: str  # the field that holds what is asked
    free: bool = False  # costs nothing where the provider reports no usage


KINDS = (
    Kind("/embeddings", "embeddings", "input"),
    Kind("/completions", "completions", "prompt"),
    Kind("/moderations", "moderations", "input", free=True),
    Kind("/images/generations", "images", "prompt"),
    Kind("/audio/speech", "speech", "input"),
    Kind("/rerank", "reranking", "query"),
)


class Forwarded(Struct, frozen=True):
    """An answer as it came, but for the model's name."""

    content_type: str
    body: bytes
    headers: Mapping[str, str]
    trace: Trace


class Forwarding:
    """Passes requests on."""

    def __init__(self, pipeline: Pipeline, default_model: str) -> None:
        self._pipeline = pipeline
        self._default = default_model

    async def ask(self, kind: Kind, fields: Json, caller: Caller, trace: Trace) -> Forwarded:
        """The provider's answer. What was used is booked whether or not somebody waits for it."""
        return await asyncio.shield(asyncio.create_task(self._ask(kind, fields, caller, trace)))

    async def _ask(self, kind: Kind, fields: Json, caller: Caller, trace: Trace) -> Forwarded:
        entry = self._pipeline.catalog.find(self._model(fields), caller.principal)
        chat = Chat(entry.name, [Message("user", _text(kind, fields))], params=_caps(kind, fields))
        async with self._pipeline.pace.call(chat, entry, caller, nested=caller.parent is not None) as paced:
            headers = dict(await paced.admitted())
            routes = Routes(self._pipeline.catalog, entry, caller)
            for target in routes:
                upstream = _upstream(kind, target)
                try:
                    call = self._pipeline.metering.call(chat, target, caller, caller.parent, routes.more)
                    async with call as hold:
                        asked = fields | {"model": upstream.model}
                        if "max_tokens" in hold.chat.params and kind.path == "/completions":
                            asked["max_tokens"] = hold.chat.params["max_tokens"]
                        content_type, body = await upstream.forward(kind.path, msgspec.json.encode(asked), trace, hold.progress)
                        answer = _object(content_type, body)
                        usage = _usage(answer) or (NO_USAGE if kind.free else None)
                        if usage is not None:
                            hold.see(Chunk(usage=usage))
                        paced.see(Chunk(usage=await hold.usage()))
                        routes.ended(True)
                    if "model" in answer:
                        body = msgspec.json.encode(answer | {"model": entry.name})
                    return Forwarded(content_type, body, headers | hold.headers, trace)
                except Exception as error:
                    if not routes.failed(error):
                        raise
                finally:
                    routes.ended()
        raise AssertionError("a name has at least one target")

    def _model(self, fields: Json) -> str:
        name = fields.get("model") or self._default
        if not name:
            raise MissingParameter("model")
        if not isinstance(name, str):
            raise InvalidRequest(
                f"Invalid type for 'model': expected a string, but got {clip(name)}.", param="model", code="invalid_type"
            )
        return name


def _upstream(kind: Kind, target: Entry) -> Upstream:
    model = target.model
    if not isinstance(model, Upstream) or not isinstance(model.provider.wire, OpenAIWire):
        message = f"The model `{target.name}` does no {kind.what}: only a provider that speaks OpenAI's API is asked for them."
        raise InvalidRequest(message, param="model", code="unsupported_model")
    return model


def _text(kind: Kind, fields: Json) -> str:
    """What is asked, to be counted where nobody reports the usage; token ids weigh more as text than as tokens."""
    asked = fields.get(kind.asks)
    if asked is None and kind.path != "/completions":
        raise MissingParameter(kind.asks)
    if isinstance(asked, str):
        return asked
    if isinstance(asked, list) and all(isinstance(part, str) for part in asked):
        return "\n".join(asked)
    return msgspec.json.encode([asked, fields.get("documents")]).decode()


def _caps(kind: Kind, fields: Json) -> Json:
    """How many tokens of output may come."""
    if kind.path != "/completions":
        return {"max_tokens": 0}
    most = fields.get("max_tokens")
    choices = max([number for name in ("n", "best_of") if type(number := fields.get(name)) is int] or [1])
    return {"max_tokens": most if type(most) is int and most >= 0 else LEGACY_CAP, "n": max(1, choices)}


def _object(content_type: str, body: bytes) -> dict[str, Any]:
    """The answer if it is JSON, else nothing: sound passes as it is."""
    if "json" not in content_type:
        return {}
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        raise BrokenAnswer("sent an answer that is no JSON") from None
    return answer if isinstance(answer, dict) else {}


def _usage(answer: Mapping[str, Any]) -> Usage | None:
    used = answer.get("usage")
    if not isinstance(used, dict):
        return None
    prompt, completion = (
        next((used[name] for name in names if type(used.get(name)) is int and 0 <= used[name] < 2**53), None)
        for names in (("prompt_tokens", "input_tokens", "total_tokens"), ("completion_tokens", "output_tokens"))
    )
    if prompt is None:
        return None
    return Usage(prompt, completion or 0, prompt + (completion or 0))
