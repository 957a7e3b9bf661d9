"""The address and the secret of a webhook."""

from __future__ import annotations

import base64
from urllib.parse import urlsplit

from chattable.adapters.transport import Url

MIN_SECRET = 16  # bytes
MAKE_ONE = "make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"


def check_url(text: str) -> str:
    """Pass on the URL of a webhook: http(s), https recommended, no user or password.

    ValueError, without the URL.

    Law: loopback and private addresses are allowed only because the URL comes from the operator's
    own config. A URL that users may set needs an address check at every connection as well, which
    is not done here.
    """
    try:
        split, host = urlsplit(text), Url.parse(text).origin[1]
        usable = split.scheme in ("http", "https") and bool(host) and split.port != 0
    except ValueError:
        usable = False
    if not usable or not text.isprintable() or " " in text or "\\" in text:
        raise ValueError("must be a URL such as https://host.example/budget-events")
    if "@" in split.netloc:
        raise ValueError("must not hold a user or password; the signature shows who is calling")
    if "#" in text:
        raise ValueError("must not hold a `#`: what follows it is never sent")
    return text


def check_secret(text: str) -> str:
    """Pass on a secret that can sign: `whsec_` and base64, or at least 16 characters.

    ValueError, without the secret.
    """
    signing_key(text)
    return text


def signing_key(secret: str) -> bytes:
    """The bytes that sign."""
    if not secret:
        raise ValueError(f"must not be empty; {MAKE_ONE}")
    if not secret.isprintable() or secret != secret.strip():
        raise ValueError(
            f"must not hold line breaks, control characters or spaces around it; {MAKE_ONE}"
        )
    key = secret.encode()
    if secret.startswith("whsec_"):
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except ValueError:
            raise ValueError(
                f"must be base64 after `whsec_`, with + and / and its padding; {MAKE_ONE}"
            ) from None
    if len(key) < MIN_SECRET:
        raise ValueError(
            f"must have at least {MIN_SECRET} characters, or bytes in base64 after `whsec_`; "
            f"{MAKE_ONE}"
        )
    if len(set(key)) < 6:
        raise ValueError(f"must not be easy to guess; {MAKE_ONE}")
    return key
