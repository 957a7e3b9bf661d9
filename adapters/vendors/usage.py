"""Where vendors report what an answer used, as data, and how their figures become one `Usage`.

Each figure is read by itself: one that is missing, of another type, negative or absurd costs no
other. Who reports a figure where is written beside it; a compatible server may be anybody, so all
places count for all of them. As of 2026-11, from the references of the vendors' APIs and from
recorded answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from chattable.agents.chat import Json, Usage

ABSURD = 2**53  # tokens that no answer has


class Place(NamedTuple):
    """Where a figure may stand: in a field, or one level below it."""

    figure: str
    field: str
    below: str = ""


Places = tuple[Place, ...]

# The figures:
# prompt      with all of it that was cached; or `uncached`, without
# tool        what a vendor's own tools added to the prompt
# completion  and `thoughts`, where they are told apart from it
# total
# cached      of the prompt, read from a cache; `written` to one; `written_1h`, of those for an hour
# reasoning   of the completion
# Of several places the first counts that says more than 0.
COMPATIBLE: Places = (
    Place("prompt", "prompt_tokens"),
    Place("prompt", "input_tokens"),  # OpenAI's images, Responses and transcriptions
    Place("completion", "completion_tokens"),
    Place("completion", "output_tokens"),  # the same
    Place("total", "total_tokens"),
    # OpenAI, Azure, Groq, xAI, Mistral, Fireworks, OpenRouter, vLLM, llama.cpp …
    Place("cached", "prompt_tokens_details", "cached_tokens"),
    Place("cached", "input_tokens_details", "cached_tokens"),  # OpenAI's Responses
    Place("cached", "prompt_cache_hit_tokens"),  # DeepSeek
    Place("cached", "cached_tokens"),  # Moonshot, Together
    Place("cached", "cache_read_input_tokens"),  # LiteLLM, of Anthropic's models
    # OpenAI since GPT-5.6, OpenRouter
    Place("written", "prompt_tokens_details", "cache_write_tokens"),
    Place("written", "input_tokens_details", "cache_write_tokens"),
    Place("written", "prompt_tokens_details", "cache_creation_tokens"),  # LiteLLM
    Place("written", "cache_creation_input_tokens"),  # LiteLLM
    Place("written_1h", "prompt_tokens_details", "cache_write_1h_tokens"),  # this program
    Place("written_1h", "cache_creation", "ephemeral_1h_input_tokens"),  # LiteLLM
    Place("reasoning", "completion_tokens_details", "reasoning_tokens"),
    Place("reasoning", "output_tokens_details", "reasoning_tokens"),  # OpenAI's Responses
    Place("reasoning", "reasoning_tokens"),  # Together, SGLang
)
TIMINGS: Places = (  # llama.cpp, where nobody asked it for usage
    Place("uncached", "prompt_n"),
    Place("cached", "cache_n"),
    Place("completion", "predicted_n"),
)
ANTHROPIC_PROMPT: Places = (
    Place("uncached", "input_tokens"),
    Place("cached", "cache_read_input_tokens"),
    Place("written", "cache_creation_input_tokens"),
    Place("written_1h", "cache_creation", "ephemeral_1h_input_tokens"),
)
ANTHROPIC: Places = (
    *ANTHROPIC_PROMPT,
    Place("completion", "output_tokens"),
    Place("reasoning", "output_tokens_details", "thinking_tokens"),
)
BEDROCK: Places = (
    Place("uncached", "inputTokens"),
    Place("cached", "cacheReadInputTokens"),
    Place("written", "cacheWriteInputTokens"),
    Place("completion", "outputTokens"),
    Place("total", "totalTokens"),
)
BEDROCK_HOUR: Places = (Place("written_1h", "inputTokens"),)  # in those `cacheDetails` of ttl 1h
GEMINI: Places = (
    Place("prompt", "promptTokenCount"),
    Place("tool", "toolUsePromptTokenCount"),
    Place("cached", "cachedContentTokenCount"),
    Place("completion", "candidatesTokenCount"),
    Place("thoughts", "thoughtsTokenCount"),
    Place("reasoning", "thoughtsTokenCount"),
    Place("total", "totalTokenCount"),
)
OLLAMA: Places = (
    Place("prompt", "prompt_eval_count"),
    Place("completion", "eval_count"),
)

# The details that are read here, as a client finds them: OpenAI's, and two that it has no name for.
OURS = {
    "prompt_tokens_details": {
        "cached_tokens": "cached",
        "cache_write_tokens": "written",
        "cache_write_1h_tokens": "written_1h",
    },
    "completion_tokens_details": {"reasoning_tokens": "reasoning"},
}
SAID_AS_ZERO = ("cached", "reasoning")  # as OpenAI does
USUAL = {"prompt_tokens", "completion_tokens", "total_tokens"}


def reports(raw: Json) -> Iterator[tuple[Any, Places]]:
    """The reports in a compatible answer or chunk, the most credible last."""
    if "timings" in raw:  # llama.cpp
        yield raw["timings"], TIMINGS
    choices = raw.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(first, dict) and "usage" in first:  # Moonshot's streams
        yield first["usage"], COMPATIBLE
    if isinstance(groq := raw.get("x_groq"), dict):  # Groq's streams
        yield groq.get("usage"), COMPATIBLE
    yield raw.get("usage"), COMPATIBLE


def read_answer(raw: Json, told: Json | None = None) -> Usage | None:
    """The usage in a compatible answer or chunk, wherever it stands; else as `read_usage`."""
    told = {} if told is None else told
    usage = None
    if type(report := raw.get("usage")) is dict and "timings" not in raw:  # the usual case, at once
        if not told and report.keys() == USUAL:
            prompt: Any = report["prompt_tokens"]
            output: Any = report["completion_tokens"]
            total = report["total_tokens"]
            plain = type(prompt) is type(output) is type(total) is int
            if plain and 0 < prompt < ABSURD > output >= 0 and total == prompt + output:
                told["prompt"], told["completion"], told["total"] = prompt, output, total
                return Usage(prompt, output, total)
        return read_usage(report, told)
    for report, places in reports(raw):
        if isinstance(report, dict):
            usage = read_usage(report, told, places)
    return usage


def read_usage(raw: Any, told: Json | None = None, places: Places = COMPATIBLE) -> Usage | None:
    """Usage as a provider reports it; None where it says nothing credible.

    A figure that nobody told is 0. `told` has what earlier reports on the same answer said, and
    takes what this one says: of each figure the later report counts.
    """
    told = {} if told is None else told
    if type(raw) is not dict:
        return as_usage(told)
    found: dict[str, int] = {}
    for figure, field, below in places:
        value = raw.get(field)
        if below:
            value = value.get(below) if type(value) is dict else None
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is int and 0 <= value < ABSURD and not found.get(figure):
            found[figure] = value
    told |= found
    for field in OURS if found else ():
        if type(details := raw.get(field)) is dict:
            told[field] = told.get(field, {}) | details
    return as_usage(told)


def as_usage(told: Json) -> Usage | None:
    """The usage that figures make; None where there are none, or more than any answer has.

    Law: a total that is more than its parts has output in it that they leave out (xAI and Google's
    compatible endpoint leave out the reasoning); of three figures two give the third.
    """
    prompt = told.get("prompt", 0)
    if not prompt and "uncached" in told:
        prompt = told["uncached"] + told.get("cached", 0) + told.get("written", 0)
    prompt += told.get("tool", 0)
    completion, total = told.get("completion", 0), told.get("total", 0)
    if prompt and total > prompt + completion:
        completion = total - prompt
    elif total != prompt + completion:  # nobody says that the thoughts are in it
        completion += told.get("thoughts", 0)
    if not total and told.get("reasoning", 0) > completion:  # it cannot be a part of it
        completion += told["reasoning"]
    if not prompt and completion:
        prompt = max(0, total - completion)
    counted = prompt + completion
    if not told or counted >= ABSURD:
        return None
    details = []
    for field, names in OURS.items():
        found: Json = {}
        for name, value in told.get(field, {}).items():  # as they came, but for those read here
            if name not in names and value is not None:
                found[name] = value
        for name, figure in names.items():
            if told.get(figure) or (figure in told and figure in SAID_AS_ZERO):
                found[name] = told[figure]
        details.append(found or None)
    return Usage(prompt, completion, counted or total, *details)
