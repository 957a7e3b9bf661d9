"""Where vendors report what an answer used, as data, and how their figures become one `Usage`.

Each figure is read by itself: one that is missing, of another type, negative or absurd costs no
other. Who reports a figure where is written beside it; a compatible server may be anybody, so all
fields count for all of them. As of 2026-11, from the references of the vendors' APIs and from
recorded answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from chattable.agents.chat import Json, Usage

MAX_TOKENS = 2**53  # more than any answer has


class UsageField(NamedTuple):
    """Where a figure may stand: in a field, or one level below it."""

    figure: str
    field: str
    below: str = ""


UsageFields = tuple[UsageField, ...]

# The figures:
# prompt      with all of it that was cached; or `uncached`, without
# tool        what a vendor's own tools added to the prompt
# completion  and `thoughts`, where they are reported apart from it
# total
# cached      of the prompt, read from a cache; `written` to one; `written_1h`, of those for an hour
# reasoning   of the completion
# Of several fields the first counts that says more than 0.
COMPATIBLE: UsageFields = (
    UsageField("prompt", "prompt_tokens"),
    UsageField("prompt", "input_tokens"),  # OpenAI's images, Responses and transcriptions
    UsageField("completion", "completion_tokens"),
    UsageField("completion", "output_tokens"),  # the same
    UsageField("total", "total_tokens"),
    # OpenAI, Azure, Groq, xAI, Mistral, Fireworks, OpenRouter, vLLM, llama.cpp …
    UsageField("cached", "prompt_tokens_details", "cached_tokens"),
    UsageField("cached", "input_tokens_details", "cached_tokens"),  # OpenAI's Responses
    UsageField("cached", "prompt_cache_hit_tokens"),  # DeepSeek
    UsageField("cached", "cached_tokens"),  # Moonshot, Together
    UsageField("cached", "cache_read_input_tokens"),  # LiteLLM, of Anthropic's models
    # OpenAI since GPT-5.6, OpenRouter
    UsageField("written", "prompt_tokens_details", "cache_write_tokens"),
    UsageField("written", "input_tokens_details", "cache_write_tokens"),
    UsageField("written", "prompt_tokens_details", "cache_creation_tokens"),  # LiteLLM
    UsageField("written", "cache_creation_input_tokens"),  # LiteLLM
    UsageField("written_1h", "prompt_tokens_details", "cache_write_1h_tokens"),  # this program
    UsageField("written_1h", "cache_creation", "ephemeral_1h_input_tokens"),  # LiteLLM
    UsageField("reasoning", "completion_tokens_details", "reasoning_tokens"),
    UsageField("reasoning", "output_tokens_details", "reasoning_tokens"),  # OpenAI's Responses
    UsageField("reasoning", "reasoning_tokens"),  # Together, SGLang
)
TIMINGS: UsageFields = (  # llama.cpp, where nobody asked it for usage
    UsageField("uncached", "prompt_n"),
    UsageField("cached", "cache_n"),
    UsageField("completion", "predicted_n"),
)
ANTHROPIC_PROMPT: UsageFields = (
    UsageField("uncached", "input_tokens"),
    UsageField("cached", "cache_read_input_tokens"),
    UsageField("written", "cache_creation_input_tokens"),
    UsageField("written_1h", "cache_creation", "ephemeral_1h_input_tokens"),
)
ANTHROPIC: UsageFields = (
    *ANTHROPIC_PROMPT,
    UsageField("completion", "output_tokens"),
    UsageField("reasoning", "output_tokens_details", "thinking_tokens"),
)
BEDROCK: UsageFields = (
    UsageField("uncached", "inputTokens"),
    UsageField("cached", "cacheReadInputTokens"),
    UsageField("written", "cacheWriteInputTokens"),
    UsageField("completion", "outputTokens"),
    UsageField("total", "totalTokens"),
)
BEDROCK_HOUR: UsageFields = (
    UsageField("written_1h", "inputTokens"),
)  # in those `cacheDetails` of ttl 1h
GEMINI: UsageFields = (
    UsageField("prompt", "promptTokenCount"),
    UsageField("tool", "toolUsePromptTokenCount"),
    UsageField("cached", "cachedContentTokenCount"),
    UsageField("completion", "candidatesTokenCount"),
    UsageField("thoughts", "thoughtsTokenCount"),
    UsageField("reasoning", "thoughtsTokenCount"),
    UsageField("total", "totalTokenCount"),
)
OLLAMA: UsageFields = (
    UsageField("prompt", "prompt_eval_count"),
    UsageField("completion", "eval_count"),
)

# The details that are read here, as a client finds them: OpenAI's, and two that it has no name for.
DETAILS = {
    "prompt_tokens_details": {
        "cached_tokens": "cached",
        "cache_write_tokens": "written",
        "cache_write_1h_tokens": "written_1h",
    },
    "completion_tokens_details": {"reasoning_tokens": "reasoning"},
}
REPORTED_AS_ZERO = ("cached", "reasoning")  # as OpenAI does
USUAL = {"prompt_tokens", "completion_tokens", "total_tokens"}


def reports(raw: Json) -> Iterator[tuple[Any, UsageFields]]:
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


def read_answer(raw: Json, figures: Json | None = None) -> Usage | None:
    """The usage in a compatible answer or chunk, wherever it stands; else as `read_usage`."""
    figures = {} if figures is None else figures
    if type(report := raw.get("usage")) is dict and "timings" not in raw:  # the usual case, at once
        if not figures and report.keys() == USUAL:
            prompt: Any = report["prompt_tokens"]
            output: Any = report["completion_tokens"]
            total = report["total_tokens"]
            whole = type(prompt) is type(output) is type(total) is int
            if whole and 0 < prompt < MAX_TOKENS > output >= 0 and total == prompt + output:
                figures["prompt"], figures["completion"], figures["total"] = prompt, output, total
                return Usage(prompt, output, total)
        return read_usage(report, figures)
    return _read_reports(raw, figures)


def _read_reports(raw: Json, figures: Json) -> Usage | None:
    usage = None
    for report, fields in reports(raw):
        if isinstance(report, dict):
            usage = read_usage(report, figures, fields)
    return usage


def read_usage(
    raw: Any, figures: Json | None = None, fields: UsageFields = COMPATIBLE
) -> Usage | None:
    """Usage as a provider reports it; None where it says nothing credible.

    A figure that is not reported is 0. `figures` has what earlier reports on the same answer said,
    and takes what this one says: of each figure the later report counts.
    """
    figures = {} if figures is None else figures
    if type(raw) is not dict:
        return as_usage(figures)
    found = _read_fields(raw, fields)
    figures |= found
    for field in DETAILS if found else ():
        if type(details := raw.get(field)) is dict:
            figures[field] = figures.get(field, {}) | details
    return as_usage(figures)


def _read_fields(raw: Json, fields: UsageFields) -> dict[str, int]:
    """The credible figures of a report; of several fields the first that says more than 0."""
    found: dict[str, int] = {}
    for figure, field, below in fields:
        value = raw.get(field)
        if below:
            value = value.get(below) if type(value) is dict else None
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is int and 0 <= value < MAX_TOKENS and not found.get(figure):
            found[figure] = value
    return found


def as_usage(figures: Json) -> Usage | None:
    """The usage that figures make; None where there are none, or more than any answer has."""
    prompt, completion, total = _totals(figures)
    counted = prompt + completion
    if not figures or counted >= MAX_TOKENS:
        return None
    details = [_details(figures, field, names) for field, names in DETAILS.items()]
    return Usage(prompt, completion, counted or total, *details)


def _totals(figures: Json) -> tuple[int, int, int]:
    """The tokens of prompt and completion, and the total that was reported.

    Law: a total that is more than its parts has output in it that they leave out (xAI and Google's
    compatible endpoint leave out the reasoning); of three figures two give the third.
    """
    count = figures.get
    prompt = count("prompt", 0)
    if not prompt and "uncached" in figures:
        prompt = figures["uncached"] + count("cached", 0) + count("written", 0)
    prompt += count("tool", 0)
    completion, total = count("completion", 0), count("total", 0)
    if prompt and total > prompt + completion:
        completion = total - prompt
    elif total != prompt + completion:  # no report says that the thoughts are in it
        completion += count("thoughts", 0)
    if not total and count("reasoning", 0) > completion:  # it cannot be a part of it
        completion += figures["reasoning"]
    if not prompt and completion:
        prompt = max(0, total - completion)
    return prompt, completion, total


def _details(figures: Json, field: str, names: dict[str, str]) -> Json | None:
    """The details of prompt or completion: as they came, but for those that are read here."""
    found: Json = {}
    for name, value in figures.get(field, {}).items():
        if name not in names and value is not None:
            found[name] = value
    for name, figure in names.items():
        if figures.get(figure) or (figure in figures and figure in REPORTED_AS_ZERO):
            found[name] = figures[figure]
    return found or None
