"""Reads a request body as a `Chat`.

Only the types that clients depend on are checked, and refused in OpenAI's words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from chattable.agents.chat import Chat, Json, Message
from chattable.agents.errors import InvalidRequest, MissingParameter, clip

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
# What a part of a known type must carry, and of which Python type; parts of other types pass
# untouched.
PART_PAYLOADS: dict[str, tuple[str, type]] = {
    "text": ("text", str),
    "refusal": ("refusal", str),
    "image_url": ("image_url", dict),
    "input_audio": ("input_audio", dict),
    "file": ("file", dict),
}


MESSAGE_FIELDS = frozenset(Message.__struct_fields__) - {"extra"}

_Probability = Annotated[float, Meta(ge=0)]
_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class _Function(Struct):
    name: str
    arguments: str


class _ToolCall(Struct):
    id: str
    type: str = "function"
    function: _Function | None = None


class _Tool(Struct):
    type: str
    function: Json | None = None


class _ResponseFormat(Struct):
    type: str
    json_schema: Json | None = None


class _StreamOptions(Struct):
    include_usage: bool | None = None


class Sampling(Struct):
    """The fields of a request that say how an answer is made, which a conversation may keep."""

    temperature: _Probability | None = None
    top_p: _Probability | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: _Probability | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: _Probability | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    seed: _Int64 | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, float] | None = None
    response_format: _ResponseFormat | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None


class Shape(Sampling):
    """The types of the fields that clients depend on; unknown fields are not checked."""

    model: str | None = None
    messages: list[Message] | None = None
    stream: bool | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Json] | None = None
    function_call: str | Json | None = None
    stream_options: _StreamOptions | None = None
    modalities: list[str] | None = None
    metadata: Json | None = None
    store: bool | None = None


def parse(body: Json, *, default_model: str = "") -> Chat:
    """A request body as a `Chat`, or `InvalidRequest` naming the first field that is wrong."""
    try:
        shape = msgspec.convert(body, Shape)
    except msgspec.ValidationError as error:
        raise explain(error) from None
    model = shape.model or default_model
    if not model:
        raise MissingParameter("model")
    if shape.messages is None:
        raise MissingParameter("messages")
    if not shape.messages:
        raise InvalidRequest(
            "Invalid 'messages': empty array. "
            "Expected an array with minimum length 1, but got an empty array instead.",
            param="messages",
            code="empty_array",
        )
    for i, message in enumerate(shape.messages):
        _finish(message, body["messages"][i], i)
    params = {k: v for k, v in body.items() if k not in ("model", "messages", "stream")}
    return Chat(model, shape.messages, bool(shape.stream), params)


def check_tool_replies(messages: Iterable[Message]) -> None:
    """Refuses a tool's answer to a call that nobody made before it."""
    known: set[str] = set()
    for i, message in enumerate(messages):
        if message.tool_calls:
            known.update(call["id"] for call in message.tool_calls)
        elif message.role == "tool" and message.tool_call_id not in known:
            raise InvalidRequest(
                f"Invalid parameter: messages[{i}] has role 'tool' and answers the call "
                f"'{clip(message.tool_call_id)}', but no preceding message with 'tool_calls' "
                "made that call.",
                param="messages",
            )


def _finish(message: Message, raw: Json, i: int) -> None:
    """Checks what types alone cannot say, and keeps the fields that `Message` does not name."""
    role, content = message.role, message.content
    if role not in ROLES:
        raise _unsupported(f"messages[{i}].role", role, ROLES)
    if content is None:
        if role not in ("assistant", "function"):
            raise _no_content(raw, f"messages[{i}].content")
    elif not isinstance(content, str):
        _check_parts(content, f"messages[{i}].content")
    if message.tool_calls:
        _check_calls(message.tool_calls, f"messages[{i}].tool_calls")
    if role == "tool" and message.tool_call_id is None:
        raise MissingParameter(f"messages[{i}].tool_call_id")
    if not raw.keys() <= MESSAGE_FIELDS:
        message.extra = _unnamed(raw)


def _unnamed(raw: Json) -> Json:
    """The fields that `Message` does not name."""
    return {k: v for k, v in raw.items() if k not in MESSAGE_FIELDS}


def _no_content(raw: Json, path: str) -> InvalidRequest:
    """A message that must have content and has none, or null."""
    if "content" not in raw:
        return MissingParameter(path)
    return _wrong_type(path, "a string or an array of content parts", "null")


def _check_calls(calls: list[Json], path: str) -> None:
    try:
        msgspec.convert(calls, list[_ToolCall])
    except msgspec.ValidationError as error:
        raise explain(error, path) from None


def _check_parts(parts: list[Json], path: str) -> None:
    for j, part in enumerate(parts):
        _check_part(part, f"{path}[{j}]")


def _check_part(part: Json, path: str) -> None:
    kind = part.get("type")
    if not isinstance(kind, str):
        raise (
            MissingParameter(f"{path}.type")
            if kind is None
            else _wrong_type(f"{path}.type", "a string", _name(kind))
        )
    if (needs := PART_PAYLOADS.get(kind)) is None:
        return
    field, wanted = needs
    value = part.get(field)
    if value is None:
        raise MissingParameter(f"{path}.{field}")
    if not isinstance(value, wanted):
        raise _wrong_type(
            f"{path}.{field}", TYPE_NAMES["str" if wanted is str else "object"], _name(value)
        )
    if kind == "image_url" and not isinstance(part["image_url"].get("url"), str):
        raise MissingParameter(f"{path}.image_url.url")


# msgspec's names of types, in OpenAI's words.
TYPE_NAMES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


def explain(error: msgspec.ValidationError, prefix: str = "") -> InvalidRequest:
    """A wrong value in msgspec's words, in OpenAI's form and with the field as `param`."""
    text, _, place = str(error).partition(" - at `$")
    param = (prefix + place.rstrip("`")).lstrip(".")
    if "[...]" in param:  # msgspec does not say which key of a map it means
        param = param.partition("[...]")[0]
    if text.startswith("Object missing required field"):
        missing = text.split("`")[1]
        return MissingParameter(f"{param}.{missing}" if param else missing)
    if text.startswith("Object contains unknown field"):
        unknown = f"{param}.{text.split('`')[1]}".lstrip(".")
        return InvalidRequest(
            f"Unknown parameter: '{clip(unknown)}'.", param=clip(unknown), code="unknown_parameter"
        )
    if ", got `" in text:
        wanted, got = text.split("`")[1], text.split("`")[3]
        names = [TYPE_NAMES.get(name, name) for name in wanted.split(" | ") if name != "null"]
        return _wrong_type(param, " or ".join(names), TYPE_NAMES.get(got, got))
    if re.match("Expected `.* [<>]= ", text):
        return _out_of_range(param, text.split("`")[1], text.rpartition("`")[2].strip())
    return InvalidRequest(
        f"Invalid value for '{param}': {text[:1].lower()}{text[1:]}.",
        param=param,
        code="invalid_value",
    )


def _out_of_range(param: str, kind: str, bound: str) -> InvalidRequest:
    """A number beyond its bound, as `<= 128`; `kind` is msgspec's name of its type."""
    edge = "above_max" if "<=" in bound else "below_min"
    name = "integer" if kind.startswith("int") else "decimal"
    return InvalidRequest(
        f"Invalid value for '{param}': expected a value {bound}.",
        param=param,
        code=f"{name}_{edge}_value",
    )


def _wrong_type(param: str, wanted: str, got: str) -> InvalidRequest:
    if not param:
        return InvalidRequest(f"The request body must be {wanted}, but it is {got}.")
    return InvalidRequest(
        f"Invalid type for '{param}': expected {wanted}, but got {got} instead.",
        param=param,
        code="invalid_type",
    )


def _unsupported(param: str, value: str, supported: Iterable[str]) -> InvalidRequest:
    *most, last = (f"'{v}'" for v in supported)
    return InvalidRequest(
        f"Invalid value: '{clip(value)}'. Supported values are: {', '.join(most)}, and {last}.",
        param=param,
        code="invalid_value",
    )


def _name(value: Any) -> str:
    kinds = {
        type(None): "null",
        bool: "bool",
        int: "int",
        float: "float",
        str: "str",
        list: "array",
    }
    return TYPE_NAMES[kinds.get(type(value), "object")]
