"""A chat as the body of a request to Ollama's /api/chat."""

from __future__ import annotations

from typing import Any

from chattable.adapters.params import ChatParams, Unsupported, function_of, invalid, without_tools
from chattable.adapters.turns import asked_until, call_of, data_url, says_nothing
from chattable.agents.chat import Chat, Json, Message
from chattable.agents.errors import clip

# reasoning_effort → how Ollama says it; most models only know whether to think
EFFORTS = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
# Options of a single answer. How a model is loaded (num_gpu, num_thread …) is the server's to
# decide, but for its context.
OPTIONS = frozenset(
    {
        "frequency_penalty",
        "min_p",
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "num_ctx",
        "num_keep",
        "num_predict",
    }
    | {
        "penalize_newline",
        "presence_penalty",
        "repeat_last_n",
        "repeat_penalty",
        "seed",
        "stop",
        "temperature",
        "tfs_z",
    }
    | {"top_k", "top_p", "typical_p"}
)
# Ollama's own parameters, as extensions of a chat completion.
NATIVE = ("format", "keep_alive", "shift", "think", "truncate")
TRANSLATED = frozenset(
    {
        "function_call",
        "functions",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "modalities",
        "n",
        "options",
    }
    | {
        "parallel_tool_calls",
        "reasoning",
        "reasoning_effort",
        "response_format",
        "tool_choice",
        "tools",
        "top_logprobs",
    }
    | OPTIONS
    | {*NATIVE}
)


class OllamaBody(ChatParams):
    """One request body in the making."""

    def __init__(self, chat: Chat, model: str, *, unsupported: Unsupported) -> None:
        super().__init__(chat, unsupported)
        self.json: Json = {
            "model": model,
            "messages": _messages(chat.messages),
            "stream": chat.stream,
        }
        self._refuse_several()
        self._refuse_modalities("text")
        self._refuse_legacy_calls()
        self._tools()
        self._format()
        self._thinking()
        self._options()
        self._rest()

    def _tools(self) -> None:
        tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(self._params.get("tools", ()))]
        kind, name = self._wanted_tool()
        if kind in ("required", "named"):
            if not tools:
                raise without_tools()
            self._unsupported("tool_choice", "this model decides itself whether it calls a tool")
        if name:
            tools = _only(name, tools)
        if tools and kind != "none":
            self.json["tools"] = tools
            self._parallel_calls()

    def _format(self) -> None:
        kind, schema = self._wanted_format()
        if kind != "text":
            self.json["format"] = schema if kind == "json_schema" else "json"

    def _thinking(self) -> None:
        effort, param = self._effort()
        if effort is None:
            return
        if not isinstance(effort, str) or effort not in EFFORTS:
            raise invalid(param, f"expected one of {', '.join(EFFORTS)}")
        self.json["think"] = EFFORTS[effort]

    def _options(self) -> None:
        params = self._params
        options: Json = {
            name: params[name] for name in sorted(OPTIONS & params.keys()) if name != "stop"
        }
        if (cap := self._cap()) is not None:
            options["num_predict"] = cap
        if stops := [text for text in self._stops() if text]:
            options["stop"] = stops
        options |= self._native_options(cap)
        if options:
            self.json["options"] = options

    def _native_options(self, cap: int | None) -> Json:
        """What the client says in Ollama's own words, which counts more, but for a higher cap."""
        given = self._params.get("options", {})
        if not isinstance(given, dict):
            raise invalid("options", "expected an object, as {'num_ctx': 8192}")
        options: Json = {}
        for name, value in given.items():
            if name == "num_predict" and cap is not None:
                options[name] = min(cap, value) if type(value) is int and value >= 0 else cap
            elif name in OPTIONS:
                options[name] = value
            else:
                why = "how a model is loaded is not for its askers to say"
                self._unsupported(f"options.{name}", why)
        return options

    def _rest(self) -> None:
        params = self._params
        if params.get("logprobs"):
            self.json["logprobs"] = True
            if params.get("top_logprobs"):
                self.json["top_logprobs"] = params["top_logprobs"]
        elif params.get("top_logprobs"):
            raise invalid("top_logprobs", "it is only allowed with 'logprobs'")
        self.json.update({name: params[name] for name in NATIVE if name in params})
        self._unsupported_rest(TRANSLATED)


def _only(name: str, tools: list[Json]) -> list[Json]:
    """The tool that is to be called, without the others."""
    named = [tool for tool in tools if tool["function"]["name"] == name]
    if not named:
        raise invalid("tool_choice", f"there is no function '{clip(name)}' in 'tools'")
    return named


def _tool(tool: Json, where: str) -> Json:
    function = function_of(tool, where)
    schema = function.get("parameters")
    out: Json = {"name": function["name"], "description": function.get("description") or ""}
    out["parameters"] = {"type": "object", "properties": {}} | (
        schema if isinstance(schema, dict) else {}
    )
    return {"type": "function", "function": out}


def _messages(messages: list[Message]) -> list[Json]:
    """The messages, each tool's answer with its function's name; empty ones are left out."""
    names: dict[str, str] = {}  # of the functions that were called, by the call's id
    out: list[Json] = []
    last = asked_until(messages) - 1
    for i, message in enumerate(messages):
        said = _message(message, f"messages[{i}]")
        for call in said.get("tool_calls", ()):
            names[call["id"]] = call["function"]["name"]
        if message.role == "tool":
            said |= _answered(message, names)
        says_something = len(said) > 2 or said["content"]
        if says_something or (i == last and message.role == "user" and out):
            out.append(said)
    if not out:
        raise says_nothing()
    return out


def _answered(message: Message, names: dict[str, str]) -> Json:
    """Which call a tool's answer is for."""
    call_id = message.tool_call_id
    return {
        "tool_name": names.get(call_id or "") or message.name or "",
        "tool_call_id": call_id,
    }


def _message(message: Message, where: str) -> Json:
    role = "system" if message.role == "developer" else message.role
    if role not in ("system", "user", "assistant", "tool"):
        raise invalid(
            f"{where}.role", "this model knows no such messages; answer calls with the role 'tool'"
        )
    content = message.content if message.content is not None else message.refusal or ""
    out: Json = {"role": role, "content": content}
    if isinstance(content, list):
        out |= _content(content, where)
    if message.role == "assistant":
        if message.reasoning_content:
            out["thinking"] = message.reasoning_content
        if message.tool_calls:
            out["tool_calls"] = [_call(call) for call in message.tool_calls]
    return out


def _content(parts: list[Json], where: str) -> Json:
    """The words of the parts, and their images."""
    texts: list[str] = []
    images: list[str] = []
    for j, part in enumerate(parts):
        _part(part, f"{where}.content[{j}]", texts, images)
    content: Json = {"content": "".join(texts)}
    return content | {"images": images} if images else content


def _call(call: Json) -> Json:
    name, arguments = call_of(call)
    return {"id": str(call.get("id") or ""), "function": {"name": name, "arguments": arguments}}


def _part(part: Json, where: str, texts: list[str], images: list[str]) -> None:
    kind = part.get("type")
    if kind in ("text", "refusal"):
        texts.append(part[kind])
    elif kind == "image_url":
        images.append(_image(part["image_url"].get("url"), f"{where}.image_url.url"))
    else:
        raise invalid(f"{where}.type", f"this model reads text and images, not '{clip(kind)}'")


def _image(url: Any, where: str) -> str:
    """The base64 of an image: Ollama fetches none."""
    return data_url(url, where, or_else="")[1]
