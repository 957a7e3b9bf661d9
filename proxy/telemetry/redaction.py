"""What the log may not hold: known secrets, and what looks like one, in anybody's words."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit

from chattable.proxy.config.settings import Config

SHORTEST = 8  # characters of a secret: less would be found in ordinary words
HIDDEN = "****"
VARIABLE = re.compile(
    r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)S?$",
    re.IGNORECASE,
)  # names of variables that hold one
LOOKS = r"\bsk-[\w-]{8,}|\b(?:Bearer|Basic) [\w.~+/=-]{8,}|(?<=://)[^\s/@]+:[^\s/@]+(?=@)"


class RedactingFormatter(logging.Formatter):
    """Formats records, tracebacks included, without secrets."""

    def __init__(self, form: str, redact: Callable[[str], str]) -> None:
        super().__init__(form)
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """The whole text of a record."""
        return self._redact(super().format(record))


def redactor(config: Config, env: Mapping[str, str]) -> Callable[[str], str]:
    """A function that hides secrets of the config and the environment, and what looks like one."""
    known = {text for text in (*_of_config(config), *_of_environment(env)) if len(text) >= SHORTEST}
    longest_first = sorted(map(re.escape, known), key=len, reverse=True)
    pattern = re.compile("|".join([*longest_first, LOOKS]))
    return lambda text: pattern.sub(HIDDEN, text)


def _of_config(config: Config) -> list[str]:
    keys = [*config.admin_keys]
    for provider in config.providers.values():
        keys += [key for key in (provider.api_key, *provider.api_keys) if key]
    if config.budgets.webhook is not None:
        keys.append(config.budgets.webhook.secret)
    secrets = [key.reveal() for key in keys]
    passwords = [urlsplit(url).password or "" for url in (config.database_url, config.redis_url)]
    return secrets + passwords + [unquote(password) for password in passwords]


def _of_environment(env: Mapping[str, str]) -> list[str]:
    return [value.strip() for name, value in env.items() if VARIABLE.search(name)]
