"""A chat as the body of a request to Anthropic's Messages API."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from chattable.adapters.anthropic.messages import called, starts_with_thoughts, translate
from chattable.adapters.anthropic.models import EFFORTS, capabilities
from chattable.adapters.anthropic.schemas import closed, endless, flat
from chattable.adapters.params import (
    ChatParams,
    Unsupported,
    function_of,
    invalid,
    unsupported_parameter,
    without_tools,
)
from chattable.agents.chat import Chat, Json
from chattable.agents.errors import InvalidRequest

# a forced call of it is how models without structured outputs obey a schema
JSON_TOOL = "chattable_answer"
ALWAYS_REASONS = "this model always reasons, 'low' is the least"
ENDLESS = "this model cannot be held to a schema that refers to itself or to another place"
NOT_FORCED = "this model decides itself whether it calls a tool"
THINKING_FORM = "expected an object, as {'type': 'enabled', 'budget_tokens': 2048}"
JSON_ONLY = "Answer with one JSON object and nothing else: no words around it and no code fence."
# A user's id that can be passed on as it is; Anthropic refuses names, addresses and telephone
# numbers, so that others are passed on as a digest.
OPAQUE = re.compile(r"(?=.*[a-zA-Z])[a-zA-Z0-9_-]{1,256}")
CHOICES = {"auto": "auto", "none": "none", "required": "any"}
TIERS = {
    "auto": "auto",
    "priority": "auto",
    "default": "standard_only",
    "standard_only": "standard_only",
}
# Anthropic's own parameters, as extensions of a chat completion.
NATIVE = (
    "cache_control",
    "container",
    "context_management",
    "diagnostics",
    "inference_geo",
    "mcp_servers",
    "speed",
)
TRANSLATED = frozenset(
    {
        "max_completion_tokens",
        "max_tokens",
        "modalities",
        "n",
        "parallel_tool_calls",
        "reasoning",
        "reasoning_effort",
        "response_format",
    }
    | {
        "output_config",
        "service_tier",
        "stop",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
        *NATIVE,
    }
)


class AnthropicBody(ChatParams):
    """One request body in the making."""

    def __init__(self, chat: Chat, model: str, *, cap: int, unsupported: Unsupported) -> None:
        super().__init__(chat, unsupported)
        self._capabilities = capabilities(model)
        self._system, self._turns = translate(chat.messages)
        if self._turns[-1]["role"] == "assistant" and not self._capabilities.prefill:
            raise no_prefill()
        asked = self._cap()
        self.json: Json = {
            "model": model,
            "max_tokens": cap if asked is None else asked,
            "messages": self._turns,
        }
        if chat.stream:
            self.json["stream"] = True
        self._refuse_several()
        self._refuse_probabilities()
        self._refuse_modalities("text")
        self._refuse_legacy_calls()
        self._tools()
        self._format()
        self._thinking()
        self._sampling()
        self._rest()
        if self._system:
            self.json["system"] = self._system

    def _tools(self) -> None:
        tools = [
            self._tool(tool, f"tools[{i}]") for i, tool in enumerate(self._params.get("tools", ()))
        ]
        choice = self._choice()
        forced = choice["type"] in ("any", "tool")
        if not tools:
            if forced:
                raise without_tools()
            tools, choice = self._tools_of_history(), {"type": "none"}
        if not tools:
            return
        self.json["tools"] = tools
        if forced and not self._capabilities.forced_tools:
            self._unsupported("tool_choice", NOT_FORCED)
            self._system.append({"type": "text", "text": must_call(choice.get("name"))})
            choice = {"type": "auto"}
        if self._params.get("parallel_tool_calls") is False and choice["type"] != "none":
            choice["disable_parallel_tool_use"] = True
        if choice != {"type": "auto"}:
            self.json["tool_choice"] = choice

    def _tools_of_history(self) -> list[Json]:
        """The tools that were called, which calls in the history want beside them."""
        return [{"name": name, "input_schema": {"type": "object"}} for name in called(self._turns)]

    def _choice(self) -> Json:
        kind, name = self._wanted_tool()
        return {"type": "tool", "name": name} if name else {"type": CHOICES[kind]}

    def _tool(self, tool: Json, where: str) -> Json:
        if tool["type"] not in ("function", "custom"):
            return tool  # one of the provider's own, as web_search
        function = function_of(tool, where)
        schema = flat(function.get("parameters"))
        out: Json = {"name": function["name"], "input_schema": schema}
        if function.get("description"):
            out["description"] = function["description"]
        if function.get("strict"):
            if self._capabilities.structured_output and not endless(schema):
                out |= {"input_schema": closed(schema), "strict": True}
            else:
                self._unsupported(f"{where}.function.strict")
        mark = tool.get("cache_control") or function.get("cache_control")
        return out | ({"cache_control": mark} if mark else {})

    def _format(self) -> None:
        kind, schema = self._wanted_format()
        if kind == "json_object":
            self._system.append({"type": "text", "text": JSON_ONLY})
        elif kind == "json_schema":
            if endless(schema):
                self._unsupported("response_format", ENDLESS)
                self._system.append({"type": "text", "text": in_words(schema)})
            elif self._capabilities.structured_output:
                self._configure("format", {"type": "json_schema", "schema": closed(schema)})
            elif "tools" in self.json:
                raise unsupported_parameter(
                    "response_format", "this model cannot obey a schema and have tools at once"
                )
            else:
                self.json["tools"] = [
                    {
                        "name": JSON_TOOL,
                        "description": "Gives the answer.",
                        "input_schema": flat(schema),
                    }
                ]
                self.json["tool_choice"] = {"type": "tool", "name": JSON_TOOL}

    def _configure(self, name: str, value: Any) -> None:
        self.json.setdefault("output_config", {})[name] = value

    def _thinking(self) -> None:
        params, can = self._params, self._capabilities
        effort, param = self._effort()
        if isinstance(given := params.get("output_config"), dict):
            self.json["output_config"] = given | self.json.get("output_config", {})
        if "thinking" in params:
            self._think_natively(params["thinking"])
        elif effort == "none" and can.always_reasons:
            self._unsupported(param, ALWAYS_REASONS)
            self._configure("effort", "low")
        elif effort == "none" or (effort is None and can.reasons_by_default and self._forced):
            self._stop_thinking()
        elif effort is not None:
            self._think(effort, param)

    def _think_natively(self, given: Any) -> None:
        """What the client says in Anthropic's own words counts more than an effort."""
        if not isinstance(given, dict):
            raise invalid("thinking", THINKING_FORM)
        self.json["thinking"] = given

    def _think(self, effort: Any, param: str) -> None:
        """Asks for reasoning of an effort, where the model can reason in this request."""
        if not isinstance(effort, str) or effort not in EFFORTS:
            raise invalid(param, f"expected one of {', '.join(('none', *EFFORTS))}")
        if obstacle := self._obstacle():
            self._unsupported(param, obstacle)
            if self._capabilities.reasons_by_default:
                self._stop_thinking()
            return
        cap = self.json["max_tokens"]
        self.json["thinking"], level = self._capabilities.thinking(effort, cap)
        if level:
            self._configure("effort", level)

    def _stop_thinking(self) -> None:
        if none := self._capabilities.no_thinking():
            self.json["thinking"] = none

    @property
    def _forced(self) -> bool:
        """Whether it must call a tool."""
        return self.json.get("tool_choice", {}).get("type") in ("any", "tool")

    def _obstacle(self) -> str | None:
        """Why the model cannot think this time."""
        last = next((turn for turn in reversed(self._turns) if turn["role"] == "assistant"), None)
        return self._capabilities.obstacle(
            forced=self._forced,
            cap=self.json["max_tokens"],
            prefilled=self._turns[-1]["role"] == "assistant",
            thoughtless=last is not None and not starts_with_thoughts(last),
        )

    def _sampling(self) -> None:
        thinks = self.json.get("thinking", {}).get("type") in ("enabled", "adaptive")
        self.json.update(
            self._capabilities.sampling_params(
                self._params, thinks=thinks, unsupported=self._unsupported
            )
        )

    def _rest(self) -> None:
        params, body = self._params, self.json
        if stops := self._visible_stops():
            body["stop_sequences"] = stops
        if user := self._user():
            opaque = OPAQUE.fullmatch(user) is not None
            body["metadata"] = {"user_id": user if opaque else _digest(user)}
        if (tier := params.get("service_tier")) is not None:
            if isinstance(tier, str) and tier in TIERS:
                body["service_tier"] = TIERS[tier]
            else:
                self._unsupported("service_tier", "this model has the tiers 'auto' and 'default'")
        body.update({name: params[name] for name in NATIVE if name in params})
        self._unsupported_rest(TRANSLATED)

    def _user(self) -> str | None:
        """The end user, by the first of the parameters that names one."""
        params = self._params
        own = (params.get("metadata") or {}).get("user_id")
        users = own, params.get("user"), params.get("safety_identifier")
        return next((user for user in users if isinstance(user, str) and user), None)


def _digest(user: str) -> str:
    return hashlib.sha256(user.encode(errors="surrogatepass")).hexdigest()


def in_words(schema: Json) -> str:
    """The instruction for a schema that a model cannot be held to."""
    return f"{JSON_ONLY} It must obey this JSON Schema: {msgspec.json.encode(schema).decode()}"


def must_call(name: str | None) -> str:
    """The instruction for a model that cannot be made to call a tool."""
    return (
        f"Answer with a call of the tool `{name}`."
        if name
        else "Answer with a call of one of the tools."
    )


def no_prefill() -> InvalidRequest:
    """The last message is the assistant's, and the model does not continue it."""
    return invalid(
        "messages",
        "this model does not go on with the assistant's words: the last message must be the user's",
    )
