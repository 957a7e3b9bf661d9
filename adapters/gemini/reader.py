"""What Gemini answers: chunks, usage and probabilities.

A whole answer has the form of one event of a stream.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from chattable.adapters.decoding import hidden_error, read_as, read_object
from chattable.adapters.errors import InvalidUpstreamResponse, UpstreamHTTPError
from chattable.adapters.gemini.errors import error_from
from chattable.adapters.openai.wire import MAX_CHOICES
from chattable.adapters.vendors.usage import GEMINI, read_usage
from chattable.agents.chat import Chunk, Json
from chattable.agents.errors import clip

FINISHES = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    "BLOCKLIST": "content_filter",
    "ESCALATION": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "LANGUAGE": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "RECITATION": "content_filter",
    "SAFETY": "content_filter",
    "SPII": "content_filter",
}
# Ends that leave nothing to use: as a plain end they would be saved and cached as if the model had
# chosen to say no more.
BROKEN = {
    "MALFORMED_FUNCTION_CALL": "made a call that is no call",
    "MALFORMED_RESPONSE": "gave up on a malformed answer",
    "TOO_MANY_TOOL_CALLS": "gave up after too many calls of its own tools",
    "UNEXPECTED_TOOL_CALL": "called a function that it does not have",
}


class _Call(Struct, rename="camel"):
    name: Annotated[str, Meta(min_length=1)]
    args: Json | None = None
    id: str | None = None


class _Blob(Struct, rename="camel"):
    mime_type: str = ""
    data: str = ""


class _Code(Struct):
    code: str = ""
    output: str = ""


class _Part(Struct, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _Call | None = None
    inline_data: _Blob | None = None
    executable_code: _Code | None = None
    code_execution_result: _Code | None = None


class _Content(Struct):
    parts: list[_Part] | None = None


class _Candidate(Struct, rename="camel"):
    index: Annotated[int, Meta(ge=0, lt=MAX_CHOICES)] | None = None
    content: _Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    logprobs_result: Any = None
    grounding_metadata: Any = None


class _Feedback(Struct, rename="camel"):
    block_reason: str | None = None


class _Answer(Struct, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: Any = None
    model_version: str | None = None
    response_id: str | None = None
    error: Any = None


class _Said(Struct):
    """What has been said so far in one candidate."""

    anything: bool = False
    calls: int = 0
    images: int = 0
    signature: str = ""
    ended: bool = False
    told: set[str] = set()  # fields that were given at an end


class GeminiStream:
    """Reads one answer, event by event.

    It is whole if every candidate has a finish reason. Only the end of the stream says that no more
    is to come: Gemini may begin with an empty one, and goes on after one where it runs code of its
    own.
    """

    ended = False

    def __init__(self) -> None:
        self.complete = False
        self._said: dict[int, _Said] = {}
        self._facts: Json = {}
        self._figures: Json = {}  # of the usage

    def feed(self, data: bytes) -> list[Chunk]:
        """What one event adds."""
        answer = read_as(data, _Answer)
        if answer.error or not answer.candidates:
            _check_error(data)
        self._note("model_version", answer.model_version)
        self._note("response_id", answer.response_id)
        chunks = [
            self._candidate(candidate, i) for i, candidate in enumerate(answer.candidates or ())
        ]
        if not self._said:
            chunks += self._blocked(answer.prompt_feedback)
        self.complete = bool(self._said) and all(said.ended for said in self._said.values())
        usage = read_usage(answer.usage_metadata, self._figures, GEMINI)
        if usage is not None and answer.usage_metadata:
            chunks.append(Chunk(usage=usage, facts=self._facts))
        return chunks

    def _blocked(self, feedback: _Feedback | None) -> list[Chunk]:
        """The answer to a prompt that was blocked; none where it was not."""
        if feedback is None or not feedback.block_reason:
            return []
        self._said[0] = _Said(ended=True)
        delta = {"refusal": f"The prompt was blocked: {clip(feedback.block_reason)}."}
        return [Chunk(0, delta, "content_filter", facts=self._facts)]

    def _note(self, name: str, value: Any) -> None:
        """A fact of the whole answer; chunks that are on their way keep what was known."""
        if value and self._facts.get(name) != value:
            self._facts = self._facts | {name: value}

    def _candidate(self, raw: _Candidate, at: int) -> Chunk:
        index = at if raw.index is None else raw.index
        said = self._said.setdefault(index, _Said())
        self._note("grounding_metadata", raw.grounding_metadata)
        delta: Json = {}
        for part in (raw.content and raw.content.parts) or ():
            self._part(part, delta, said, index)
        if delta:
            said.anything, said.ended = True, False
        reason = _finish(raw, delta, said) if raw.finish_reason else None
        return Chunk(index, delta, reason, read_logprobs(raw.logprobs_result), None, self._facts)

    def _part(self, part: _Part, delta: Json, said: _Said, index: int) -> None:
        if part.function_call is not None:
            delta.setdefault("tool_calls", []).append(
                self._call(part.function_call, part.thought_signature, said, index)
            )
            return
        if part.thought_signature:
            said.signature = part.thought_signature
        if part.text:
            name = "reasoning_content" if part.thought else "content"
            delta[name] = delta.get(name, "") + part.text
        elif part.inline_data is not None and part.inline_data.mime_type.startswith("image/"):
            url = f"data:{part.inline_data.mime_type};base64,{part.inline_data.data}"
            delta.setdefault("images", []).append(
                {"index": said.images, "type": "image_url", "image_url": {"url": url}}
            )
            said.images += 1
        elif (
            code := part.executable_code or part.code_execution_result
        ):  # its own doing, so no call for the client
            delta["reasoning_content"] = (
                delta.get("reasoning_content", "") + f"\n```\n{code.code or code.output}\n```\n"
            )

    def _call(self, call: _Call, signature: str | None, said: _Said, index: int) -> Json:
        """A call.

        Law: an id that Gemini does not give is the same for the same bytes, and another in every
        answer.
        """
        number, call_id = said.calls, call.id
        said.calls += 1
        if not call_id and (response := self._facts.get("response_id")):
            call_id = (
                "call_" + hashlib.sha256(f"{response}/{index}/{number}".encode()).hexdigest()[:24]
            )
        out: Json = {"index": number, "type": "function"} | ({"id": call_id} if call_id else {})
        out["function"] = {
            "name": call.name,
            "arguments": msgspec.json.encode(call.args or {}).decode(),
        }
        return out | _signed(signature)


def _signed(signature: str | None) -> Json:
    return {"extra_content": {"google": {"thought_signature": signature}}} if signature else {}


def _check_error(data: bytes) -> None:
    """Raises the error that stands in the place of an answer."""
    if (error := hidden_error(read_object(data))) is not None:
        raise error_from(error)


def _check_finish(reason: str) -> None:
    """Raises the errors that Gemini tells as a finish reason."""
    if reason in BROKEN:
        raise InvalidUpstreamResponse(BROKEN[reason])
    if reason == "MISSING_THOUGHT_SIGNATURE":
        message = "A tool call has lost its thought signature: "
        message += "send calls back with their `extra_content`."
        raise UpstreamHTTPError(400, message, param="messages")
    if reason == "PUP_LIMITED_DISABLED":
        raise UpstreamHTTPError(
            403, "The account is limited for violations of the policy of prohibited use."
        )


def _finish(raw: _Candidate, delta: Json, said: _Said) -> str:
    """Why a candidate ended, by OpenAI's name.

    Adds to the delta what belongs to the whole message.
    """
    reason = raw.finish_reason or ""
    said.ended = True
    _check_finish(reason)
    last = _signed(said.signature)
    finish = FINISHES.get(reason, "stop")
    if finish == "content_filter":
        last["refusal"] = clip(raw.finish_message or f"The answer was stopped: {reason}.", 1000)
    elif reason not in FINISHES and not said.anything:  # as OTHER, IMAGE_OTHER, NO_IMAGE
        raise InvalidUpstreamResponse("ended without an answer and without a reason")
    # once each, for there may be several ends, and clients append what comes again
    delta.update({name: value for name, value in last.items() if name not in said.told})
    said.told.update(last)
    return finish


class _Token(Struct, rename="camel"):
    token: str = ""
    log_probability: float = 0.0

    def json(self) -> Json:
        return {
            "token": self.token,
            "logprob": self.log_probability,
            "bytes": list(self.token.encode()),
        }


class _Top(Struct):
    candidates: list[_Token] = []


class _Logprobs(Struct, rename="camel"):
    chosen_candidates: list[_Token] = []
    top_candidates: list[_Top] = []


def read_logprobs(raw: Any) -> Json | None:
    """The probabilities of the tokens in OpenAI's form; None when nothing usable came."""
    if raw is None:
        return None
    try:
        logprobs = msgspec.convert(raw, _Logprobs)
    except msgspec.ValidationError:
        return None
    tops = [[token.json() for token in top.candidates] for top in logprobs.top_candidates]
    tops += [[] for _ in logprobs.chosen_candidates]
    content = [
        token.json() | {"top_logprobs": top}
        for token, top in zip(logprobs.chosen_candidates, tops, strict=False)
    ]
    return {"content": content, "refusal": None} if content else None
