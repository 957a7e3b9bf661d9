"""What a refusal is about: the key, the account's money, what it may be used for, or the prompt.

A status alone does not say it: 403 is a dead key at one vendor and a flagged prompt at the next,
429 a moment's haste or an empty account. The first row counts that has the status and the words. A
compatible server may be anybody, so the rows of all vendors count for all of them. As of 2026-11,
from the references of the vendors' APIs and from errors that people reported.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from chattable.adapters.errors import UpstreamHTTPError


class Cause(StrEnum):
    """What a refusal is about."""

    OTHER = "other"
    KEY = "key"
    ACCOUNT = "account"  # has no money left, or may spend no more
    USE = "use"  # of a model, a feature or a place that the account does not have
    PROMPT = "prompt"  # was flagged


class Row(NamedTuple):
    """Statuses and words that tell a cause."""

    cause: Cause
    statuses: tuple[int, ...]
    words: re.Pattern[str]  # in the error's code or message
    who: str  # says so


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.I)


ROWS = (
    Row(
        Cause.PROMPT, (403,),
        _words(r"\bflagged\b|moderation|content.?(policy|filter)|safety (system|policy)"
               r"|usage polic"),
        "OpenRouter's moderated models; OpenAI's images; Azure",
    ),
    Row(
        Cause.ACCOUNT, (400,),
        _words(r"credit balance is too low to access|reached your specified API usage limits"),
        "Anthropic",
    ),
    Row(
        Cause.ACCOUNT, (400, 403, 429),
        _words(r"^(insufficient_quota|billing_hard_limit_reached|billing_not_active)$"),
        "OpenAI and Azure, by their codes",
    ),
    Row(
        Cause.ACCOUNT, (403,),
        _words(r"all available credits|spending limit|have any credits|purchase (more )?credits"
               r"|insufficient (balance|credits|funds)|INVALID_PAYMENT_INSTRUMENT|billing"),
        "xAI; Google's projects without billing; Bedrock",
    ),
    Row(
        Cause.USE, (403,),
        _words(r"(access|permission) to\b|not (have|been granted) (access|permission)"
               r"|not (enabled|available)|(not supported|unsupported)|country|region|territory"
               r"|\bfeature\b|blocked at the"),
        "OpenAI's projects and countries; Anthropic's permission_error; Bedrock's models; "
        "Groq's blocked models",
    ),
    Row(
        Cause.KEY, (403,),
        _words(r"\bapi.?keys?\b|\bkey\b|credential|\btoken\b|authent|unauthori[sz]ed"
               r"|unregistered callers|signature|suspended|disabled|deactivated|revoked|expired"),
        "Google's leaked and suspended keys; AWS; Anthropic's disabled organizations; Together",
    ),
)  # fmt: skip
# Words on money beside a 429 that names no time to wait: one that does is a limit that passes.
MONEY = Row(
    Cause.ACCOUNT, (429,),
    _words(r"current quota|plan and billing|insufficient (balance|credits|funds|quota)"
           r"|all available credits|spending limit|credit (limit|balance)|recharge|top.?up"
           r"|\bbilling\b"),
    "Moonshot's suspended accounts; xAI; OpenAI-compatible servers that leave the code out; "
    "Google's daily quotas",
)  # fmt: skip
# DeepSeek, OpenRouter, Together and Anthropic answer 402
ALWAYS = {401: Cause.KEY, 402: Cause.ACCOUNT}


def cause_of(error: UpstreamHTTPError) -> Cause:
    """What a refusal is about; `OTHER` for what is none of these."""
    if (cause := ALWAYS.get(error.status)) is not None:
        return cause
    rows = (*ROWS, MONEY) if error.status == 429 and error.retry_after is None else ROWS
    for row in rows:
        if error.status in row.statuses and (
            row.words.search(error.message) or row.words.search(error.code or "")
        ):
            return row.cause
    return Cause.OTHER
