"""A chat as the body of a request to generateContent or streamGenerateContent."""

from __future__ import annotations

from typing import Any

import msgspec

from chattable.adapters.decoding import as_object
from chattable.adapters.gemini.messages import Contents
from chattable.adapters.gemini.models import EFFORTS, capabilities
from chattable.adapters.params import (
    ChatParams,
    Unsupported,
    invalid,
    named,
    unsupported_parameter,
    without_tools,
)
from chattable.agents.chat import Chat, Json
from chattable.agents.errors import MissingParameter

CHOICES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
TIERS: dict[str, str | None] = {
    "auto": None,
    "default": None,
    "standard": None,
    "flex": "flex",
    "priority": "priority",
}
MAX_STOPS = 5
# Google's own tools, by the type that asks for them.
BUILT_IN = {
    "code_execution": "codeExecution",
    "google_search": "googleSearch",
    "url_context": "urlContext",
}
# What may stand in `extra_body.google`, by the names of Google's OpenAI-compatible endpoint.
NATIVE = {"cached_content": "cachedContent", "safety_settings": "safetySettings"}
THINKING = {
    "include_thoughts": "includeThoughts",
    "thinking_budget": "thinkingBudget",
    "thinking_level": "thinkingLevel",
}
SAMPLING = {"temperature": "temperature", "top_p": "topP", "top_k": "topK"}
PENALTIES = {"presence_penalty": "presencePenalty", "frequency_penalty": "frequencyPenalty"}
# a schema of these alone says nothing
NO_PARAMETERS = ("$schema", "description", "required", "strict", "title", "type")
TRANSLATED = frozenset(
    {
        "extra_body",
        "frequency_penalty",
        "function_call",
        "functions",
        "google",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
    }
    | {
        "modalities",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "reasoning",
        "reasoning_effort",
        "response_format",
        "seed",
    }
    | {
        "service_tier",
        "stop",
        "tool_choice",
        "tools",
        "top_logprobs",
        "web_search_options",
        *SAMPLING,
    }
)


class GeminiBody(ChatParams):
    """One request body in the making."""

    def __init__(self, chat: Chat, model: str, *, unsupported: Unsupported) -> None:
        super().__init__(chat, unsupported)
        self._capabilities = capabilities(model)
        self._config: Json = {}
        contents = Contents(chat.messages, signs=self._capabilities.signatures)
        self.json: Json = {"contents": contents.list}
        if contents.system:
            self.json["systemInstruction"] = {"parts": contents.system}
        if chat.stream and self._params.get("n", 1) > 1:
            raise unsupported_parameter(
                "n", "this model streams one answer: ask for several without `stream`"
            )
        self._refuse_modalities("text", "image")
        self._refuse_legacy_calls()
        self._tools()
        self._format()
        self._thinking()
        self._sampling()
        self._rest()
        if self._config:
            self.json["generationConfig"] = self._config

    def _tools(self) -> None:
        functions: list[Json] = []
        tools: list[Json] = []
        for i, tool in enumerate(self._params.get("tools", ())):
            if tool["type"] == "function":
                functions.append(_declaration(tool.get("function"), f"tools[{i}].function"))
            else:
                tools.append(_built_in(tool, f"tools[{i}].type"))
        if "web_search_options" in self._params:
            tools.append({"googleSearch": {}})
        if functions:
            tools.insert(0, {"functionDeclarations": functions})
        if tools:
            self.json["tools"] = tools
        choice = self._choice()
        if functions:
            self._tool_choice(choice)
        elif choice["mode"] == "ANY":
            raise without_tools()

    def _tool_choice(self, choice: Json) -> None:
        if choice != {"mode": "AUTO"}:
            self.json["toolConfig"] = {"functionCallingConfig": choice}
        self._parallel_calls()

    def _choice(self) -> Json:
        wanted = self._params.get("tool_choice")
        allowed = wanted.get("allowed_tools") if isinstance(wanted, dict) else None
        if not isinstance(allowed, dict):
            kind, name = self._wanted_tool()
            return (
                {"mode": "ANY", "allowedFunctionNames": [name]} if name else {"mode": CHOICES[kind]}
            )
        tools = allowed.get("tools")
        names = [named(tool) for tool in tools] if isinstance(tools, list) else []
        if not names or None in names:
            raise invalid(
                "tool_choice",
                "expected the names of functions, "
                "as {'allowed_tools': {'tools': [{'function': …}]}}",
            )
        # VALIDATED is AUTO with a list of names
        return {
            "mode": "ANY" if allowed.get("mode") == "required" else "VALIDATED",
            "allowedFunctionNames": names,
        }

    def _format(self) -> None:
        kind, schema = self._wanted_format()
        if kind != "text":
            self._config["responseMimeType"] = "application/json"
        if kind == "json_schema":
            self._config["responseJsonSchema"] = plain_schema(schema)
        if "image" in self._params.get("modalities", ()):
            self._config["responseModalities"] = [
                kind.upper() for kind in self._params["modalities"]
            ]

    def _thinking(self) -> None:
        effort, param = self._effort()
        if effort is None:
            return
        if not isinstance(effort, str) or effort not in EFFORTS:
            raise invalid(param, f"expected one of {', '.join(EFFORTS)}")
        if self._capabilities.reasoning:
            self._config["thinkingConfig"] = self._capabilities.thinking(effort)
            if effort == "none" and not self._capabilities.stops_thinking:
                self._unsupported(param, "this model always reasons, 'minimal' is the least")
        elif effort != "none":
            self._unsupported(param, "this model does not reason")

    def _sampling(self) -> None:
        params, config = self._params, self._config
        config.update({theirs: params[ours] for ours, theirs in SAMPLING.items() if ours in params})
        if (cap := self._cap()) is not None:
            config["maxOutputTokens"] = cap
        if params.get("n", 1) > 1:
            config["candidateCount"] = params["n"]
        if "seed" in params:
            # theirs has 32 bits; all that a seed means is the same again
            config["seed"] = params["seed"] % 2**31
        for ours, theirs in PENALTIES.items():
            if params.get(ours) and self._capabilities.penalties:
                config[theirs] = params[ours]
            elif params.get(ours):
                self._unsupported(ours)
        self._logprobs()

    def _logprobs(self) -> None:
        params, config = self._params, self._config
        if params.get("logprobs"):
            config["responseLogprobs"] = True
            if params.get("top_logprobs"):
                config["logprobs"] = params["top_logprobs"]
        elif params.get("top_logprobs"):
            raise invalid("top_logprobs", "it is only allowed with 'logprobs'")

    def _rest(self) -> None:
        params = self._params
        if stops := [text for text in self._stops() if text]:
            if len(stops) > MAX_STOPS:
                self._unsupported("stop", f"this model stops at {MAX_STOPS} texts at most")
            self._config["stopSequences"] = stops[:MAX_STOPS]
        if tier := self._tier(TIERS):
            self.json["serviceTier"] = tier
        extra = as_object(params.get("extra_body"))
        if extra.keys() - {"google"}:
            self._unsupported("extra_body", "this model takes `google` there and nothing else")
        for given in (extra, params):
            if isinstance(own := given.get("google"), dict):
                self._native(own)
        self._unsupported_rest(TRANSLATED)

    def _native(self, own: Json) -> None:
        """What the client says in Google's own words, which counts more than the rest."""
        self.json.update({theirs: own[ours] for ours, theirs in NATIVE.items() if ours in own})
        if isinstance(config := own.get("thinking_config"), dict):
            self._config["thinkingConfig"] = {THINKING.get(k, k): v for k, v in config.items()}


def _built_in(tool: Json, where: str) -> Json:
    """One of Google's own tools, with its settings."""
    if tool["type"] not in BUILT_IN:
        raise unsupported_parameter(where, "this model's tools are functions that take JSON")
    return {BUILT_IN[tool["type"]]: {k: v for k, v in tool.items() if k != "type"}}


def _declaration(function: Any, where: str) -> Json:
    """A function as Gemini declares it.

    `parametersJsonSchema` takes what `parameters`, an older subset, refuses.
    """
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise MissingParameter(f"{where}.name")
    out = {"name": function["name"], "description": function.get("description") or function["name"]}
    schema = function.get("parameters")
    if isinstance(schema, dict) and any(schema[key] for key in schema if key not in NO_PARAMETERS):
        out["parametersJsonSchema"] = plain_schema(schema)
    return out


def plain_schema(schema: Json) -> Json:
    """A JSON Schema without what Gemini refuses.

    That is `$schema` at its root, and beside a `$ref` all but its description and default.
    """
    copy: Json = msgspec.json.decode(msgspec.json.encode(schema))
    copy.pop("$schema", None)
    nodes: list[Any] = [copy]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                for key in [
                    key
                    for key in node
                    if not key.startswith("$") and key not in ("description", "default")
                ]:
                    del node[key]
            nodes += node.values()
        elif isinstance(node, list):
            nodes += node
    return copy
