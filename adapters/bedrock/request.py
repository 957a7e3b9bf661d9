"""A chat as the body of a request to Bedrock's Converse."""

from __future__ import annotations

from typing import Any

import msgspec

from chattable.adapters.anthropic.betas import asked
from chattable.adapters.anthropic.models import EFFORTS, ClaudeCapabilities
from chattable.adapters.anthropic.request import (
    ALWAYS_REASONS,
    ENDLESS,
    JSON_ONLY,
    JSON_TOOL,
    NOT_FORCED,
    THINKING_FORM,
    in_words,
    must_call,
    no_prefill,
)
from chattable.adapters.anthropic.schemas import closed, endless, flat
from chattable.adapters.bedrock.messages import Conversation, cache_point
from chattable.adapters.bedrock.models import NOVA_EFFORTS, OSS_EFFORTS, family
from chattable.adapters.params import (
    ChatParams,
    function_of,
    invalid,
    unsupported_parameter,
    without_tools,
)
from chattable.adapters.vendors.withheld import BETAS
from chattable.adapters.wire import Wire
from chattable.agents.chat import Chat, Json

CHOICES = {"auto": "auto", "required": "any"}
TIERS: dict[str, str | None] = {
    "auto": None,
    "default": None,
    "flex": "flex",
    "priority": "priority",
    "reserved": "reserved",
}
DEFAULT_MAX_TOKENS = (
    32_000  # tokens of an answer without a cap that are shared between thoughts and words
)
# Converse's own fields, as extensions of a chat completion.
NATIVE = (
    "additionalModelResponseFieldPaths",
    "guardrailConfig",
    "performanceConfig",
    "requestMetadata",
)
# What a model's own fields may not say in the place of the request, nor objects among them.
RESERVED = frozenset(
    {"messages", "model", "modelId", "stream", "system"}
    | {"max_tokens", "maxTokens", "max_completion_tokens", "max_new_tokens", "max_gen_len"}
    | {"maxTokenCount"}
)
TRANSLATED = frozenset(
    {
        "additionalModelRequestFields",
        "function_call",
        "functions",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
    }
    | {
        "modalities",
        "n",
        "parallel_tool_calls",
        "reasoning",
        "reasoning_effort",
        "response_format",
        "service_tier",
        "stop",
    }
    | {"temperature", "thinking", "tool_choice", "tools", "top_k", "top_logprobs", "top_p", *NATIVE}
)


class BedrockBody(ChatParams):
    """One request body in the making."""

    def __init__(self, chat: Chat, model: str, most: int | None = None, *, wire: Wire) -> None:
        super().__init__(chat, wire.unsupported)
        self._most = most or DEFAULT_MAX_TOKENS
        self._capabilities = family(model)
        self._said = Conversation(chat.messages, self._capabilities)
        claude = self._capabilities.claude
        if claude and not claude.prefill and self._said.turns[-1]["role"] == "assistant":
            raise no_prefill()
        self._inference: Json = {}
        self._more: Json = {}  # fields of the model's own
        self.json: Json = {"messages": self._said.turns}
        self._refuse_several()
        self._refuse_probabilities()
        self._refuse_modalities("text")
        self._refuse_legacy_calls()
        self._tools()
        self._format()
        self._thinking()
        self._sampling()
        self._rest(wire)
        parts = {
            "system": self._said.system,
            "inferenceConfig": self._inference,
            "additionalModelRequestFields": self._more,
        }
        self.json.update({name: part for name, part in parts.items() if part})

    def _tools(self) -> None:
        tools = self._given_tools()
        kind, name = self._wanted_tool()
        forced = kind in ("required", "named")
        called = self._said.called
        if forced and not tools:
            raise without_tools()
        if kind == "none" and tools and called:
            why = "this model cannot be kept from calling once it has called"
            self._unsupported("tool_choice", why)
        if not tools or (kind == "none" and not called):
            tools = _tools_of_history(called)
        if tools:
            self.json["toolConfig"] = {"tools": tools}
            self._tool_choice(name, forced)

    def _tool_choice(self, name: str, forced: bool) -> None:
        if forced:
            self._force(name)
        self._parallel_calls()

    def _given_tools(self) -> list[Json]:
        """The client's tools, with the cache points behind them."""
        tools: list[Json] = []
        for i, tool in enumerate(self._params.get("tools", ())):
            tools.append(self._tool(tool, f"tools[{i}]"))
            if self._capabilities.tool_caching:
                tools += cache_point(tool, self._capabilities)
        return tools

    def _force(self, name: str) -> None:
        """Makes it call the tool of a name, or any where there is none."""
        claude = self._capabilities.claude
        if claude and not claude.forced_tools:
            self._unsupported("tool_choice", NOT_FORCED)
            self._said.system.append({"text": must_call(name)})
            return
        choice: Json = {"tool": {"name": name}} if name else {"any": {}}
        self.json["toolConfig"]["toolChoice"] = choice

    def _tool(self, tool: Json, where: str) -> Json:
        function = function_of(tool, where)
        schema = flat(function.get("parameters"))
        strict = bool(function.get("strict"))
        held = strict and self._capabilities.structured_output and not endless(schema)
        out: Json = {"name": function["name"]}
        if function.get("description"):
            out["description"] = function["description"]
        out["inputSchema"] = {
            "json": closed(schema) if held and self._capabilities.claude else schema
        }
        if strict:
            if held:
                out["strict"] = True
            else:
                self._unsupported(f"{where}.function.strict")
        return {"toolSpec": out}

    def _format(self) -> None:
        kind, schema = self._wanted_format()
        if kind == "json_object":
            self._said.system.append({"text": JSON_ONLY})
        elif kind == "json_schema" and endless(schema):
            self._unsupported("response_format", ENDLESS)
            self._said.system.append({"text": in_words(schema)})
        elif kind == "json_schema" and self._capabilities.structured_output:
            self._configure("textFormat", self._text_format(schema))
        elif kind == "json_schema" and "toolConfig" in self.json:
            raise unsupported_parameter(
                "response_format", "this model cannot obey a schema and have tools at once"
            )
        elif kind == "json_schema":
            tool = {
                "name": JSON_TOOL,
                "description": "Gives the answer.",
                "inputSchema": {"json": flat(schema)},
            }
            self.json["toolConfig"] = {
                "tools": [{"toolSpec": tool}],
                "toolChoice": {"tool": {"name": JSON_TOOL}},
            }

    def _text_format(self, schema: Json) -> Json:
        schema = closed(schema) if self._capabilities.claude else schema
        text: Json = {"schema": msgspec.json.encode(schema).decode()}
        name = self._params["response_format"]["json_schema"].get("name")
        if isinstance(name, str):
            text["name"] = name
        return {"type": "json_schema", "structure": {"jsonSchema": text}}

    def _configure(self, name: str, value: Any) -> None:
        self.json.setdefault("outputConfig", {})[name] = value

    def _thinking(self) -> None:
        effort, param = self._effort()
        own, claude = self._params.get("thinking"), self._capabilities.claude
        if own is not None:
            if not isinstance(own, dict):
                raise invalid("thinking", THINKING_FORM)
            self._more["thinking"] = own  # what the client says in Anthropic's words counts more
        elif effort is None:
            if claude and claude.reasons_by_default and self._forced:
                self._stop_thinking(claude)
        elif not isinstance(effort, str) or effort not in ("none", *EFFORTS):
            raise invalid(param, f"expected one of {', '.join(('none', *EFFORTS))}")
        elif claude:
            self._think(claude, effort, param)
        else:
            self._think_as_others(effort, param)

    def _think_as_others(self, effort: str, param: str) -> None:
        """The effort of a model that is not Claude."""
        can = self._capabilities
        if can.oss:
            self._more["reasoning_effort"] = OSS_EFFORTS[effort]
            if effort == "none":
                self._unsupported(param, ALWAYS_REASONS)
        elif effort == "none":
            return
        elif can.nova and can.reasoning:
            self._more["reasoningConfig"] = {
                "type": "enabled",
                "maxReasoningEffort": NOVA_EFFORTS[effort],
            }
        else:
            self._unsupported(param, "this model cannot be told how to reason")

    def _think(self, claude: ClaudeCapabilities, effort: str, param: str) -> None:
        if effort == "none":
            if claude.always_reasons:
                self._unsupported(param, ALWAYS_REASONS)
                self._configure("effort", "low")
            self._stop_thinking(claude)
            return
        asked = self._cap()
        cap = self._most if asked is None else asked
        obstacle = claude.obstacle(
            forced=self._forced,
            cap=cap,
            prefilled=self._said.turns[-1]["role"] == "assistant",
            thoughtless=self._said.thoughtless,
        )
        if obstacle:
            self._unsupported(param, obstacle)
            if claude.reasons_by_default:
                self._stop_thinking(claude)
            return
        self._more["thinking"], level = claude.thinking(effort, cap)
        if level:
            self._configure("effort", level)
        else:  # a budget is a part of a cap, so there must be one
            self._inference["maxTokens"] = cap

    def _stop_thinking(self, claude: ClaudeCapabilities) -> None:
        if none := claude.no_thinking():
            self._more["thinking"] = none

    @property
    def _forced(self) -> bool:
        """Whether it must call a tool."""
        return bool(self.json.get("toolConfig", {}).get("toolChoice"))

    def _sampling(self) -> None:
        thinks = self._more.get("thinking", {}).get("type") in ("enabled", "adaptive")
        sampled = (self._capabilities.claude or ClaudeCapabilities()).sampling_params(
            self._params, thinks=thinks, unsupported=self._unsupported
        )
        for ours, theirs in (("temperature", "temperature"), ("top_p", "topP")):
            if ours in sampled:
                self._inference[theirs] = sampled[ours]
        if "top_k" in sampled and self._capabilities.claude:
            self._more["top_k"] = sampled["top_k"]
        elif "top_k" in sampled and self._capabilities.nova:
            self._more["inferenceConfig"] = {"topK": sampled["top_k"]}
        elif "top_k" in sampled:
            self._unsupported("top_k")

    def _rest(self, wire: Wire) -> None:
        params = self._params
        if (cap := self._cap()) is not None:
            self._inference["maxTokens"] = cap
        if stops := self._visible_stops():
            self._inference["stopSequences"] = stops
        if tier := self._tier(TIERS):
            self.json["serviceTier"] = {"type": tier}
        self.json.update({name: params[name] for name in NATIVE if name in params})
        if isinstance(own := params.get("additionalModelRequestFields"), dict):
            self._model_fields(own, wire)
        betas = (
            asked(params.get(BETAS), anything=wire.any_beta) if self._capabilities.claude else []
        )
        if betas:
            self._more.setdefault(BETAS, betas)
        self._unsupported_rest(TRANSLATED)

    def _model_fields(self, own: Json, wire: Wire) -> None:
        """What the client says in the model's own words, which counts more than the rest."""
        _check_reserved(own)
        own = wire.allowed_params(own)
        self._more.update({name: value for name, value in own.items() if name != BETAS})
        if betas := asked(own.get(BETAS), anything=wire.any_beta):
            self._more[BETAS] = betas


def _tools_of_history(called: list[str]) -> list[Json]:
    """The tools that were called, which calls in the history want beside them."""
    return [
        {"toolSpec": {"name": name, "inputSchema": {"json": {"type": "object"}}}} for name in called
    ]


def _check_reserved(own: Json) -> None:
    """Refuses fields that would take the place of the request's own, also one level below."""
    for fields in (own, *(value for value in own.values() if isinstance(value, dict))):
        if taken := sorted(RESERVED & fields.keys()):
            why = f"`{taken[0]}` is for the request itself to say"
            raise invalid("additionalModelRequestFields", why)
