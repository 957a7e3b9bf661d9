"""The parameters of a request to a provider that is not OpenAI, read in one way for all of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from chattable.agents.chat import Chat, Json
from chattable.agents.errors import InvalidRequest, MissingParameter, clip

Unsupported = Literal["drop", "reject"]

# What may be left out in silence: it is for this server, or does not touch the answer.
HARMLESS = frozenset(
    {
        "anthropic_beta",
        "cache",
        "conversation",
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
    }
    | {"safety_identifier", "store", "stream_options", "user"}
)
FORMATS = ("text", "json_object", "json_schema")


class ChatParams:
    """The parameters of one request, and what becomes of those that a provider does not support.

    Law: nothing is altered in silence. An unsupported parameter goes by the rule `unsupported`, and
    what changes the kind of answer (several choices, probabilities, sound, legacy calls) is refused
    under either rule.
    """

    def __init__(self, chat: Chat, unsupported: Unsupported) -> None:
        self._params = {k: v for k, v in chat.params.items() if v is not None}
        self._rule = unsupported

    def _unsupported(self, param: str, why: str = "this model does not have it") -> None:
        """What happens to a parameter that cannot be passed on."""
        if self._rule == "reject":
            raise unsupported_parameter(param, why)

    def _unsupported_rest(self, translated: Collection[str]) -> None:
        """The same for all others that would change something, as a penalty of 0 would not."""
        for name, value in self._params.items():
            if name not in translated and name not in HARMLESS and (value or name == "seed"):
                self._unsupported(name)

    def _refuse_several(self) -> None:
        if self._params.get("n", 1) > 1:
            raise unsupported_parameter("n", "this model gives one answer")

    def _refuse_probabilities(self) -> None:
        for param in ("logprobs", "top_logprobs"):
            if self._params.get(param):
                raise unsupported_parameter(param, "this model does not tell its probabilities")

    def _refuse_modalities(self, *known: str) -> None:
        if any(kind not in known for kind in self._params.get("modalities", ())):
            raise unsupported_parameter(
                "modalities", f"this model answers in {' and '.join(known)}"
            )

    def _refuse_legacy_calls(self) -> None:
        for param in ("functions", "function_call"):
            if self._params.get(param):
                raise unsupported_parameter(
                    param, "this model knows tools: send `tools` and `tool_choice`"
                )

    def _cap(self) -> int | None:
        """The cap on output tokens that the client sets, by either name."""
        return min(
            (self._params[k] for k in ("max_tokens", "max_completion_tokens") if k in self._params),
            default=None,
        )

    def _stops(self) -> list[str]:
        stop = self._params.get("stop") or []
        return [stop] if isinstance(stop, str) else stop

    def _visible_stops(self) -> list[str]:
        """The texts to stop at, for models that do not stop at white space."""
        stops = self._stops()
        visible = [text for text in stops if text.strip()]
        if len(visible) < len(stops):
            self._unsupported("stop", "this model does not stop at white space")
        return visible

    def _tier(self, tiers: Mapping[str, str | None]) -> str | None:
        """The provider's name of the service tier; None where it is the usual one."""
        tier = self._params.get("service_tier", "auto")
        if isinstance(tier, str) and tier in tiers:
            return tiers[tier]
        self._unsupported("service_tier", f"this model has the tiers {', '.join(tiers)}")
        return None

    def _parallel_calls(self) -> None:
        """Notes that the client wants one call at a time, which the model cannot promise."""
        if self._params.get("parallel_tool_calls") is False:
            self._unsupported(
                "parallel_tool_calls", "this model decides itself how many calls it makes at once"
            )

    def _effort(self) -> tuple[Any, str]:
        """How hard to reason, and the name of the parameter that says so."""
        own = self._params.get("reasoning")
        effort = self._params.get("reasoning_effort")
        if effort is None and isinstance(own, dict) and own.get("effort") is not None:
            return own["effort"], "reasoning.effort"
        return effort, "reasoning_effort"

    def _wanted_format(self) -> tuple[str, Json]:
        """The kind of answer, and its schema where it has one."""
        wanted = self._params.get("response_format") or {}
        kind = wanted.get("type", "text")
        if kind not in FORMATS:
            raise unsupported_parameter(
                "response_format", f"this model has no format '{clip(kind)}'"
            )
        schema = (wanted.get("json_schema") or {}).get("schema")
        if kind == "json_schema" and not isinstance(schema, dict):
            raise MissingParameter("response_format.json_schema.schema")
        return kind, schema if isinstance(schema, dict) else {}

    def _wanted_tool(self) -> tuple[str, str]:
        """`auto`, `none`, `required` or `named`, and the name."""
        wanted = self._params.get("tool_choice", "auto")
        if wanted in ("auto", "none", "required"):
            return str(wanted), ""
        if name := named(wanted):
            return "named", name
        raise invalid(
            "tool_choice",
            "expected 'none', 'auto', 'required' or a function's name, "
            "as {'function': {'name': …}}",
        )


def named(tool: Any) -> str | None:
    """The name of the function that a tool is or that a choice means."""
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def function_of(tool: Json, where: str) -> Json:
    """The function that a tool is; raises for anything else."""
    if tool["type"] != "function":
        raise unsupported_parameter(f"{where}.type", "this model's tools take JSON: use a function")
    if not named(tool):
        raise MissingParameter(f"{where}.function.name")
    function: Json = tool["function"]
    return function


def without_tools() -> InvalidRequest:
    """A call is wanted and there is nothing to call."""
    return InvalidRequest(
        "Invalid value for 'tool_choice': it is only allowed with 'tools'.", param="tool_choice"
    )


def invalid(param: str, why: str) -> InvalidRequest:
    """A value that makes no sense here."""
    return InvalidRequest(f"Invalid value for '{param}': {why}.", param=param, code="invalid_value")


def unsupported_parameter(param: str, why: str) -> InvalidRequest:
    """A parameter that is not for this model."""
    return InvalidRequest(
        f"Unsupported parameter: '{clip(param)}': {why}.",
        param=clip(param),
        code="unsupported_parameter",
    )
