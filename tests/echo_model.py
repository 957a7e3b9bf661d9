"""What a well-behaved model says to a chat request: an echo, the tool calls it was asked for, or JSON by schema."""

import json
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]
Count = Callable[[str], int]


def words(text: str) -> int:
    """Counts tokens as words; pass `count=` to ScriptedUpstream for another tokeniser."""
    return len(text.split())


def ask(text: str, **fields: Any) -> Body:
    """Returns the body of a chat request with one user message."""
    return {"model": "m", "messages": [{"role": "user", "content": text}], **fields}


def text_of(message: Body) -> str:
    """Returns a message's text, whether its content is a string, parts or null."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if "text" in part)


def example(schema: Body, root: Body | None = None) -> Any:
    """Returns a small value that a simple JSON schema accepts."""
    root = root or schema
    if ref := schema.get("$ref"):
        found: Any = root
        for name in ref.removeprefix("#/").split("/"):
            found = found[name]
        return example(found, root)
    for choice in (schema.get("anyOf"), schema.get("oneOf"), schema.get("allOf")):
        if choice:
            return example(choice[0], root)
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    kind = schema.get("type") or ("object" if "properties" in schema else "string")
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            return {
                name: example(value, root) for name, value in schema.get("properties", {}).items()
            }
        case "array":
            return [example(schema.get("items", {}), root)] * schema.get("minItems", 1)
        case "integer" | "number":
            return min(schema.get("minimum", 1), schema.get("maximum", schema.get("minimum", 1)))
        case "boolean":
            return True
        case "null":
            return None
    return "x" * schema.get("minLength", 1)


def calls_asked(body: Body) -> list[Body]:
    """Returns the functions the last user message asks for ("call f and g"), or that tool_choice demands."""
    functions = {
        tool["function"]["name"]: tool["function"]
        for tool in body.get("tools") or []
        if "function" in tool
    }
    choice, last = body.get("tool_choice"), body["messages"][-1]
    if not functions or choice == "none" or last.get("role") != "user":
        return []
    if isinstance(choice, dict):
        names = [choice["function"]["name"]]
    else:
        _, asked, rest = text_of(last).partition("call ")
        names = [word for word in re.findall(r"[\w-]+", rest) if word in functions] if asked else []
        names = names or (list(functions)[:1] if choice == "required" else [])
    return [
        {"name": name, "arguments": example(functions[name].get("parameters") or {})}
        for name in names
    ]


@dataclass(slots=True)
class Saying:
    """What the model says to a request, before it is dressed as a completion or as chunks."""

    body: Body
    count: Count = words
    pieces: list[str] = field(init=False)
    calls: list[Body] = field(init=False)
    finish: str = field(init=False, default="stop")

    def __post_init__(self) -> None:
        self.calls = [
            {
                "id": f"call_{uuid.uuid4().hex}",
                "name": call["name"],
                "arguments": json.dumps(call["arguments"] or {}),
            }
            for call in calls_asked(self.body)
        ]
        self.pieces = [] if self.calls else re.findall(r"\s*\S+", self.text())
        limit = (
            self.body.get("max_completion_tokens")
            or self.body.get("max_tokens")
            or len(self.pieces)
        )
        if self.calls:
            self.finish = "tool_calls"
        elif len(self.pieces) > limit:
            self.pieces, self.finish = self.pieces[:limit], "length"

    def text(self) -> str:
        wanted = self.body.get("response_format") or {}
        if wanted.get("type") == "json_schema":
            return json.dumps(example(wanted["json_schema"]["schema"]))
        said = text_of(self.body["messages"][-1])
        return json.dumps({"echo": said}) if wanted.get("type") == "json_object" else said

    def usage(self) -> Body:
        prompt = sum(self.count(text_of(message)) for message in self.body["messages"])
        said = self.pieces + [
            piece for call in self.calls for piece in (call["name"], *arguments_pieces(call))
        ]
        completion = sum(map(self.count, said)) * (self.body.get("n") or 1)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def logprobs(self, pieces: list[str]) -> Body | None:
        if not self.body.get("logprobs"):
            return None
        top = range(self.body.get("top_logprobs") or 0)
        content = [
            {"token": piece, "logprob": -0.1, "bytes": list(piece.encode())} for piece in pieces
        ]
        tops = [[{**entry, "logprob": -0.1 - n} for n in top] for entry in content]
        return {
            "content": [
                {**entry, "top_logprobs": top} for entry, top in zip(content, tops, strict=True)
            ]
        }


def arguments_pieces(call: Body) -> list[str]:
    return re.findall(r"\s*\S+", call["arguments"])


def _head(body: Body, kind: str) -> Body:
    created = int(time.time())
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": created,
        "model": body.get("model", "m"),
    }


def chat_completion(body: Body, count: Count = words) -> Body:
    """Returns the proper unstreamed answer to a chat request: an echo, tool calls or JSON by schema."""
    said = Saying(body, count)
    message: Body = {
        "role": "assistant",
        "content": None if said.calls else "".join(said.pieces),
        "refusal": None,
    }
    if said.calls:
        message["tool_calls"] = [_call(call) for call in said.calls]
    choices = [
        {
            "index": n,
            "message": message,
            "logprobs": said.logprobs(said.pieces),
            "finish_reason": said.finish,
        }
        for n in range(body.get("n") or 1)
    ]
    return _head(body, "chat.completion") | {"choices": choices, "usage": said.usage()}


def _call(call: Body) -> Body:
    return {
        "id": call["id"],
        "type": "function",
        "function": {"name": call["name"], "arguments": call["arguments"]},
    }


def chat_chunks(body: Body, count: Count = words) -> list[Body]:
    """Returns the proper chunks: role, one word or call piece each, finish, and usage when stream_options asks."""
    said, head = Saying(body, count), _head(body, "chat.completion.chunk")
    with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    head |= {"usage": None} if with_usage else {}

    def chunks(delta: Body, finish: str | None = None, logprobs: Body | None = None) -> list[Body]:
        rest = {"delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return [head | {"choices": [{"index": n, **rest}]} for n in range(body.get("n") or 1)]

    events = chunks({"role": "assistant", "content": None if said.calls else "", "refusal": None})
    for piece in said.pieces:
        events += chunks({"content": piece}, logprobs=said.logprobs([piece]))
    for index, call in enumerate(said.calls):
        events += chunks({"tool_calls": [{"index": index, **_call(call | {"arguments": ""})}]})
        for piece in arguments_pieces(call):
            events += chunks({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    events += chunks({}, said.finish)
    return [*events, head | {"choices": [], "usage": said.usage()}] if with_usage else events
