"""A chat as the body of a request to Anthropic's Messages API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from chattable.adapters.anthropic_messages import called, starts_with_thoughts, translate
from chattable.adapters.anthropic_models import generation
from chattable.agents.chat import Chat, Json
from chattable.agents.errors import InvalidRequest, MissingParameter, clip

Unsupported = Literal["drop", "reject"]

JSON_TOOL = "chattable_answer"  # a forced call of it is how models without structured outputs obey a schema
JSON_ONLY = "Answer with one JSON object and nothing else: no words around it and no code fence."
MIN_BUDGET = 1024  # tokens of thinking, by the API's rule
# reasoning_effort → the share of max_tokens that may be thought, and the effort of models that manage it themselves
EFFORTS = {
    "minimal": (0.1, "low"),
    "low": (0.2, "low"),
    "medium": (0.5, "medium"),
    "high": (0.8, "high"),
    "xhigh": (0.9, "xhigh"),
    "max": (0.9, "max"),
}
CHOICES = {"auto": "auto", "none": "none", "required": "any"}
TIERS = {"auto": "auto", "priority": "auto", "default": "standard_only", "standard_only": "standard_only"}
# Anthropic's own parameters, as extensions of a chat completion.
NATIVE = ("cache_control", "container", "context_management", "diagnostics", "inference_geo", "mcp_servers", "speed")
# What a request loses nothing by: it is ours, or does not touch the answer.
HARMLESS = frozenset(
    {"cache", "conversation", "metadata", "prediction", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"}
    | {"safety_identifier", "store", "stream_options", "user"}
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
    | {"output_config", "service_tier", "stop", "temperature", "thinking", "tool_choice", "tools", "top_k", "top_p", *NATIVE}
)


class Body:
    """One request body in the making.

    Law: nothing is altered in silence. A parameter the API has no place for goes by the rule `unsupported`, and what
    changes the kind of answer (several choices, logprobs, audio) is refused under either rule.
    """

    def __init__(self, chat: Chat, model: str, *, cap: int, unsupported: Unsupported) -> None:
        self._params = {k: v for k, v in chat.params.items() if v is not None}
        self._rule = unsupported
        self._kind = generation(model)
        self._system, self._turns = translate(chat.messages)
        caps = [self._params[k] for k in ("max_tokens", "max_completion_tokens") if k in self._params]
        self.json: Json = {"model": model, "max_tokens": min(caps, default=cap), "messages": self._turns}
        if chat.stream:
            self.json["stream"] = True
        self._refuse()
        self._tools()
        self._format()
        self._thinking()
        self._sampling()
        self._rest()
        if self._system:
            self.json["system"] = self._system

    def _lacks(self, param: str, why: str = "this model does not have it") -> None:
        """What happens to a parameter that cannot be passed on."""
        if self._rule == "reject":
            raise unsupported_parameter(param, why)

    def _refuse(self) -> None:
        params = self._params
        if params.get("n", 1) > 1:
            raise unsupported_parameter("n", "this model gives one answer")
        for param in ("logprobs", "top_logprobs"):
            if params.get(param):
                raise unsupported_parameter(param, "this model does not tell its probabilities")
        if any(kind != "text" for kind in params.get("modalities", ())):
            raise unsupported_parameter("modalities", "this model answers in text")
        for param in ("functions", "function_call"):
            if params.get(param):
                raise unsupported_parameter(param, "this model knows tools: send `tools` and `tool_choice`")

    def _tools(self) -> None:
        tools = [self._tool(tool, f"tools[{i}]") for i, tool in enumerate(self._params.get("tools", ()))]
        choice = self._choice()
        if not tools:
            if choice["type"] in ("any", "tool"):
                raise InvalidRequest("Invalid value for 'tool_choice': it is only allowed with 'tools'.", param="tool_choice")
            # Calls in the history want their tools beside them, also where no more calls are to be made.
            tools = [{"name": name, "input_schema": {"type": "object"}} for name in called(self._turns)]
            choice = {"type": "none"}
        if not tools:
            return
        self.json["tools"] = tools
        if self._params.get("parallel_tool_calls") is False and choice["type"] != "none":
            choice["disable_parallel_tool_use"] = True
        if choice != {"type": "auto"}:
            self.json["tool_choice"] = choice

    def _choice(self) -> Json:
        wanted = self._params.get("tool_choice", "auto")
        if isinstance(wanted, str) and wanted in CHOICES:
            return {"type": CHOICES[wanted]}
        function = wanted.get("function") if isinstance(wanted, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            return {"type": "tool", "name": function["name"]}
        raise invalid("tool_choice", "expected 'none', 'auto', 'required' or a function's name, as {'function': {'name': …}}")

    def _tool(self, tool: Json, where: str) -> Json:
        if tool["type"] == "custom":
            raise unsupported_parameter(f"{where}.type", "this model's tools take JSON: use a function")
        if tool["type"] != "function":
            return tool  # one of the provider's own, as web_search
        function = tool.get("function") or {}
        if not isinstance(function.get("name"), str):
            raise MissingParameter(f"{where}.function.name")
        schema = function.get("parameters")
        out = {"name": function["name"], "input_schema": {"type": "object"} | (schema if isinstance(schema, dict) else {})}
        if function.get("description"):
            out["description"] = function["description"]
        if function.get("strict"):
            if self._kind.formats:
                out["strict"] = True
            else:
                self._lacks(f"{where}.function.strict")
        mark = tool.get("cache_control") or function.get("cache_control")
        return out | ({"cache_control": mark} if mark else {})

    def _format(self) -> None:
        wanted = self._params.get("response_format") or {}
        kind = wanted.get("type", "text")
        if kind == "json_object":
            self._system.append({"type": "text", "text": JSON_ONLY})
        elif kind == "json_schema":
            schema = (wanted.get("json_schema") or {}).get("schema")
            if not isinstance(schema, dict):
                raise MissingParameter("response_format.json_schema.schema")
            if self._kind.formats:
                self._configure("format", {"type": "json_schema", "schema": schema})
            elif "tools" in self.json:
                raise unsupported_parameter("response_format", "this model cannot obey a schema and have tools at once")
            else:
                self.json["tools"] = [{"name": JSON_TOOL, "description": "Gives the answer.", "input_schema": schema}]
                self.json["tool_choice"] = {"type": "tool", "name": JSON_TOOL}
        elif kind != "text":
            raise unsupported_parameter("response_format", f"this model has no format '{clip(kind)}'")

    def _configure(self, name: str, value: Any) -> None:
        self.json.setdefault("output_config", {})[name] = value

    def _thinking(self) -> None:
        params = self._params
        own = params.get("reasoning")
        effort, param = params.get("reasoning_effort"), "reasoning_effort"
        if effort is None and isinstance(own, dict) and own.get("effort") is not None:
            effort, param = own["effort"], "reasoning.effort"
        if isinstance(given := params.get("output_config"), dict):
            self.json["output_config"] = given | self.json.get("output_config", {})
        if "thinking" in params:  # Anthropic's own words win
            if not isinstance(params["thinking"], dict):
                raise invalid("thinking", "expected an object, as {'type': 'enabled', 'budget_tokens': 2048}")
            self.json["thinking"] = params["thinking"]
        elif effort == "none":
            if self._kind.thinks:
                self.json["thinking"] = {"type": "disabled"}
        elif effort is not None:
            if not isinstance(effort, str) or effort not in EFFORTS:
                raise invalid(param, f"expected one of {', '.join(('none', *EFFORTS))}")
            if obstacle := self._obstacle():
                self._lacks(param, obstacle)
            else:
                self._think(*EFFORTS[effort])

    def _obstacle(self) -> str | None:
        """Why the model cannot think this time."""
        if not self._kind.thinks:
            return "this model does not reason"
        if self.json.get("tool_choice", {}).get("type") in ("any", "tool"):
            return "this model does not reason where it must call a tool"
        if self._kind.adaptive:
            return None
        if self.json["max_tokens"] <= MIN_BUDGET:
            return f"this model reasons with a max_tokens above {MIN_BUDGET} only"
        if self._turns[-1]["role"] == "assistant":
            return "this model does not reason while it goes on with given words"
        last = next((turn for turn in reversed(self._turns) if turn["role"] == "assistant"), None)
        if last is not None and not starts_with_thoughts(last):
            return "this model goes on reasoning after tool calls only with the `thinking_blocks` of the message that made them"
        return None

    def _think(self, share: float, effort: str) -> None:
        if self._kind.adaptive:
            self.json["thinking"] = {"type": "adaptive", "display": "summarized"}  # else newer models keep it to themselves
            self._configure("effort", "high" if effort == "xhigh" and not self._kind.xhigh else effort)
        else:
            budget = max(MIN_BUDGET, int(share * self.json["max_tokens"]))
            self.json["thinking"] = {"type": "enabled", "budget_tokens": budget}

    def _sampling(self) -> None:
        params, kind = self._params, self._kind
        thinking = self.json.get("thinking", {}).get("type") in ("enabled", "adaptive")
        temperature, top_p = params.get("temperature", 1), params.get("top_p", 1)
        if temperature != 1:
            if not kind.samples:
                self._lacks("temperature")
            elif temperature > 1:
                raise invalid("temperature", "this model takes values from 0 to 1")
            elif thinking:
                self._lacks("temperature", "this model reasons at temperature 1 only")
            else:
                self.json["temperature"] = temperature
        if top_p != 1:
            if not kind.samples:
                self._lacks("top_p")
            elif thinking and top_p < 0.95:
                self._lacks("top_p", "this model reasons with a top_p of 0.95 or more")
            elif "temperature" in self.json and not kind.both:
                self._lacks("top_p", "this model takes temperature or top_p, not both")
            else:
                self.json["top_p"] = top_p
        if "top_k" in params:
            if kind.samples and not thinking:
                self.json["top_k"] = params["top_k"]
            else:
                self._lacks("top_k")

    def _rest(self) -> None:
        params, body = self._params, self.json
        stop = [params["stop"]] if isinstance(params.get("stop"), str) else params.get("stop") or []
        if any(not text.strip() for text in stop):
            self._lacks("stop", "this model does not stop at white space")
        if stop := [text for text in stop if text.strip()]:
            body["stop_sequences"] = stop
        users = [(params.get("metadata") or {}).get("user_id"), params.get("user"), params.get("safety_identifier")]
        if user := next((user for user in users if isinstance(user, str) and user), None):
            body["metadata"] = {"user_id": user}
        if (tier := params.get("service_tier")) is not None:
            if isinstance(tier, str) and tier in TIERS:
                body["service_tier"] = TIERS[tier]
            else:
                self._lacks("service_tier", "this model has the tiers 'auto' and 'default'")
        body.update({name: params[name] for name in NATIVE if name in params})
        for name in self._left():
            self._lacks(name)

    def _left(self) -> Iterator[str]:
        """Parameters that nobody here knows and that would change something: a penalty of 0 would not."""
        for name, value in self._params.items():
            if name not in TRANSLATED and name not in HARMLESS and (value or name == "seed"):
                yield name


def invalid(param: str, why: str) -> InvalidRequest:
    """A value that makes no sense here."""
    return InvalidRequest(f"Invalid value for '{param}': {why}.", param=param, code="invalid_value")


def unsupported_parameter(param: str, why: str) -> InvalidRequest:
    """A parameter that is not for this model."""
    return InvalidRequest(f"Unsupported parameter: '{clip(param)}': {why}.", param=clip(param), code="unsupported_parameter")
