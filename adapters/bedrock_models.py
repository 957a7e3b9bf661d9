"""What the families of models at Bedrock take where Converse leaves it to them."""

from __future__ import annotations

import re

from msgspec import Struct

from chattable.adapters.anthropic_models import Generation, generation

RELEASE = re.compile(r"(?<=\d)-v\d+(:\w+)*$")  # of a model as Bedrock counts it, which is no version of Claude
NOVA_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
OSS_EFFORTS = NOVA_EFFORTS | {"none": "low"}


class Family(Struct, frozen=True):
    """What a model takes."""

    claude: Generation | None = None
    nova: bool = False
    reasons: bool = True  # Nova only: can be told to
    oss: bool = False  # OpenAI's open weights
    formats: bool = True  # structured outputs and strict tools
    signs: bool = False  # wants its thoughts back


def family(model: str) -> Family:
    """The family of a model by its id or ARN. An ARN may name none, and the model may then be any."""
    name = RELEASE.sub("", model.rpartition("/")[2].lower())
    if "claude" in name:
        kind = generation(name)
        return Family(claude=kind, formats=kind.formats, signs=True)
    if "nova" in name:
        return Family(nova=True, reasons="nova-2" in name, formats=False)
    return Family(oss="gpt-oss" in name, signs="inference-profile/" in model or "provisioned-model/" in model)
