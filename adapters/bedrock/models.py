"""What the families of models at Bedrock take where Converse leaves it to them."""

from __future__ import annotations

import re

from msgspec import Struct

from chattable.adapters.anthropic.models import Generation, generation

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
    """What a model takes."""

    claude: Generation | None = None
    nova: bool = False
    reasons: bool = True  # Nova only: can be told to
    oss: bool = False  # OpenAI's open weights
    formats: bool = True  # structured outputs and strict tools
    signs: bool = False  # wants its thoughts back
    caches: bool = False  # takes points up to which a prompt is to be cached
    caches_tools: bool = False  # also behind tools
    keeps: bool = False  # and is told for how long


# Claude before 3.7 that caches.
# https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html, read 2026-11
EARLY_CACHES = re.compile("3-5-haiku|3-5-sonnet-20241022")


def family(model: str) -> Family:
    """The family of a model by its id or ARN.

    An ARN may name none, and the model may then be any.
    """
    name = RELEASE.sub("", model.rpartition("/")[2].lower())
    if "claude" in name:
        kind = generation(name)
        caches = kind.thinks or EARLY_CACHES.search(name) is not None
        return Family(
            claude=kind,
            formats=kind.formats,
            signs=True,
            caches=caches,
            caches_tools=caches,
            keeps=kind.formats,
        )
    if "nova" in name:
        return Family(nova=True, reasons="nova-2" in name, formats=False, caches=True)
    any_model = "inference-profile/" in model or "provisioned-model/" in model
    return Family(
        oss="gpt-oss" in name,
        signs=any_model,
        caches=any_model,
        caches_tools=any_model,
        keeps=any_model,
    )
