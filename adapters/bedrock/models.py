"""What each family of models takes where Converse leaves it to the model."""

from __future__ import annotations

import re

from msgspec import Struct

from chattable.adapters.anthropic.models import ClaudeCapabilities, capabilities

# of a model as Bedrock counts it, which is no version of Claude
RELEASE = re.compile(r"(?<=\d)-v\d+(:\w+)*$")
NOVA_EFFORTS = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
OSS_EFFORTS = NOVA_EFFORTS | {"none": "low"}


class Family(Struct, frozen=True):
    """What a model at Bedrock takes."""

    claude: ClaudeCapabilities | None = None
    nova: bool = False
    reasoning: bool = True  # Nova only: takes an effort
    oss: bool = False  # OpenAI's open weights
    structured_output: bool = True  # structured outputs and strict tools
    signatures: bool = False  # wants its signed thoughts back
    prompt_caching: bool = False  # takes cache points
    tool_caching: bool = False  # takes cache points behind tools
    cache_ttl: bool = False  # takes a lifetime with a cache point


# Claude before 3.7 that caches.
# https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html, read 2026-11
EARLY_CACHES = re.compile("3-5-haiku|3-5-sonnet-20241022")


def family(model: str) -> Family:
    """The family of a model by its id or ARN.

    An ARN may name none, and the model may then be any.
    """
    name = RELEASE.sub("", model.rpartition("/")[2].lower())
    if "claude" in name:
        kind = capabilities(name)
        caches = kind.reasoning or EARLY_CACHES.search(name) is not None
        return Family(
            claude=kind,
            structured_output=kind.structured_output,
            signatures=True,
            prompt_caching=caches,
            tool_caching=caches,
            cache_ttl=kind.structured_output,
        )
    if "nova" in name:
        return Family(
            nova=True, reasoning="nova-2" in name, structured_output=False, prompt_caching=True
        )
    any_model = "inference-profile/" in model or "provisioned-model/" in model
    return Family(
        oss="gpt-oss" in name,
        signatures=any_model,
        prompt_caching=any_model,
        tool_caching=any_model,
        cache_ttl=any_model,
    )
