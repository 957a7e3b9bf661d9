"""A chat as the body of a request to Bedrock's Converse."""

from __future__ import annotations

from typing import Any

import msgspec

from chattable.adapters.anthropic.betas import asked
from chattable.adapters.anthropic.models import EFFORTS, Generation
from chattable.adapters.anthropic.request import (
    ALWAYS_THINKS,
    ENDLESS,
    JSON_ONLY,
    JSON_TOOL,
    NOT_FORCED,
    in_words,
    must_call,
    no_prefill,
)
from chattable.adapters.anthropic.schemas import closed, endless, flat
from chattable.adapters.bedrock.messages import Conversation, cache_point
from chattable.adapters.bedrock.models import NOVA_EFFORTS, OSS_EFFORTS, family
from chattable.adapters.params import (
    Asked,
    function_of,
    invalid,
    unsupported_parameter,
    without_tools,
)
from chattable.adapters.vendors.withheld import BETAS
from chattable.adapters.wire import Wire
from chattable.agents.chat import Chat, Json

CHOICES = {"auto": "auto", "required": "any"}
TIERS = {
    "auto": None,
    "default": None,
    "flex": "flex",
    "priority": "priority",
    "reserved": "reserved",
}
ENOUGH = 32_000  # tokens of an answer without a cap that are shared between thoughts and words
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


class Body(Asked):
    """One request body in the making."""

    def __init__(self, chat: Chat, model: str, most: int | None = None, *, wire: Wire) -> None:
        super().__init__(chat, wire.unsupported)
        self._most = most or ENOUGH
        self._kind = family(model)
        self._said = Conversation(chat.messages, self._kind)
        claude = self._kind.claude
        if claude and not claude.prefills and self._said.turns[-1]["role"] == "assistant":
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
        tools: list[Json] = []
        for i, tool in enumerate(self._params.get("tools", ())):
            tools.append(self._tool(tool, f"tools[{i}]"))
            if self._kind.caches_tools:
                tools += cache_point(tool, self._kind)
        kind, name = self._wanted_tool()
        called = self._said.called
        if not tools and kind in ("required", "named"):
            raise without_tools()
        if kind == "none" and tools and called:
            self._lacks("tool_choice", "this model cannot be kept from calling once it has called")
        if not tools or (kind == "none" and not called):
            # Calls in the history want their tools beside them, also where no more calls are to be
            # made.
            tools = [
                {"toolSpec": {"name": name, "inputSchema": {"json": {"type": "object"}}}}
                for name in called
            ]
        if not tools:
            return
        config = self.json["toolConfig"] = {"tools": tools}
        if kind in ("required", "named") and self._kind.claude and not self._kind.claude.forces:
            self._lacks("tool_choice", NOT_FORCED)
            self._said.system.append({"text": must_call(name)})
        elif name:
            config["toolChoice"] = {"tool": {"name": name}}
        elif kind == "required":
            config["toolChoice"] = {"any": {}}
        if self._params.get("parallel_tool_calls") is False:
            self._lacks(
                "parallel_tool_calls", "this model decides itself how many calls it makes at once"
            )

    def _tool(self, tool: Json, where: str) -> Json:
        function = function_of(tool, where)
        schema = flat(function.get("parameters"))
        strict = bool(function.get("strict"))
        held = strict and self._kind.formats and not endless(schema)
        out: Json = {"name": function["name"]}
        if function.get("description"):
            out["description"] = function["description"]
        out["inputSchema"] = {"json": closed(schema) if held and self._kind.claude else schema}
        if strict:
            if held:
                out["strict"] = True
            else:
                self._lacks(f"{where}.function.strict")
        return {"toolSpec": out}

    def _format(self) -> None:
        kind, schema = self._wanted_format()
        if kind == "json_object":
            self._said.system.append({"text": JSON_ONLY})
        elif kind == "json_schema" and endless(schema):
            self._lacks("response_format", ENDLESS)
            self._said.system.append({"text": in_words(schema)})
        elif kind == "json_schema" and self._kind.formats:
            if self._kind.claude:
                schema = closed(schema)
            name = self._params["response_format"]["json_schema"].get("name")
            text: Json = {"schema": msgspec.json.encode(schema).decode()} | (
                {"name": name} if isinstance(name, str) else {}
            )
            self._configure(
                "textFormat", {"type": "json_schema", "structure": {"jsonSchema": text}}
            )
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

    def _configure(self, name: str, value: Any) -> None:
        self.json.setdefault("outputConfig", {})[name] = value

    def _thinking(self) -> None:
        effort, param = self._effort()
        own = self._params.get("thinking")
        if own is not None and not isinstance(own, dict):
            raise invalid(
                "thinking", "expected an object, as {'type': 'enabled', 'budget_tokens': 2048}"
            )
        if own is not None:  # Anthropic's own words win
            self._more["thinking"] = own
        elif effort is None:
            if (claude := self._kind.claude) and claude.default and self._forced:
                self._stop_thinking(claude)
        elif not isinstance(effort, str) or effort not in ("none", *EFFORTS):
            raise invalid(param, f"expected one of {', '.join(('none', *EFFORTS))}")
        elif self._kind.claude:
            self._think(self._kind.claude, effort, param)
        elif self._kind.oss:
            self._more["reasoning_effort"] = OSS_EFFORTS[effort]
            if effort == "none":
                self._lacks(param, "this model always reasons, 'low' is the least")
        elif effort != "none" and self._kind.nova and self._kind.reasons:
            self._more["reasoningConfig"] = {
                "type": "enabled",
                "maxReasoningEffort": NOVA_EFFORTS[effort],
            }
        elif effort != "none":
            self._lacks(param, "this model cannot be told how to reason")

    def _think(self, claude: Generation, effort: str, param: str) -> None:
        if effort == "none":
            if claude.default and not claude.off:
                self._lacks(param, ALWAYS_THINKS)
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
            self._lacks(param, obstacle)
            if claude.default:
                self._stop_thinking(claude)
            return
        self._more["thinking"], level = claude.thinking(effort, cap)
        if level:
            self._configure("effort", level)
        else:  # a budget is a part of a cap, so there must be one
            self._inference["maxTokens"] = cap

    def _stop_thinking(self, claude: Generation) -> None:
        if none := claude.without():
            self._more["thinking"] = none

    @property
    def _forced(self) -> bool:
        """Whether it must call a tool."""
        return bool(self.json.get("toolConfig", {}).get("toolChoice"))

    def _sampling(self) -> None:
        thinks = self._more.get("thinking", {}).get("type") in ("enabled", "adaptive")
        sampled = (self._kind.claude or Generation()).sampling(
            self._params, thinks=thinks, lacks=self._lacks
        )
        for ours, theirs in (("temperature", "temperature"), ("top_p", "topP")):
            if ours in sampled:
                self._inference[theirs] = sampled[ours]
        if "top_k" in sampled and self._kind.claude:
            self._more["top_k"] = sampled["top_k"]
        elif "top_k" in sampled and self._kind.nova:
            self._more["inferenceConfig"] = {"topK": sampled["top_k"]}
        elif "top_k" in sampled:
            self._lacks("top_k")

    def _rest(self, wire: Wire) -> None:
        params = self._params
        if (cap := self._cap()) is not None:
            self._inference["maxTokens"] = cap
        stops = self._stops()
        if any(not text.strip() for text in stops):
            self._lacks("stop", "this model does not stop at white space")
        if stops := [text for text in stops if text.strip()]:
            self._inference["stopSequences"] = stops
        tier = params.get("service_tier", "auto")
        if not isinstance(tier, str) or tier not in TIERS:
            self._lacks("service_tier", f"this model has the tiers {', '.join(TIERS)}")
        elif TIERS[tier]:
            self.json["serviceTier"] = {"type": TIERS[tier]}
        self.json.update({name: params[name] for name in NATIVE if name in params})
        # the model's own words win
        if isinstance(own := params.get("additionalModelRequestFields"), dict):
            for fields in (own, *(value for value in own.values() if isinstance(value, dict))):
                if taken := sorted(RESERVED & fields.keys()):
                    why = f"`{taken[0]}` is for the request itself to say"
                    raise invalid("additionalModelRequestFields", why)
            own = wire.allowed(own)
            self._more.update({name: value for name, value in own.items() if name != BETAS})
            if betas := asked(own.get(BETAS), anything=wire.any_beta):
                self._more[BETAS] = betas
        if self._kind.claude and (betas := asked(params.get(BETAS), anything=wire.any_beta)):
            self._more.setdefault(BETAS, betas)
        self._lacks_the_rest(TRANSLATED)
