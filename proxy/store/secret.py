"""The secret half of a key: made once, shown once, kept only as a digest."""

import hashlib
import secrets

from chattable.proxy.store.errors import Invalid
from chattable.proxy.store.text import printable

MIN_LENGTH = 8
MAX_LENGTH = 512


def new_secret() -> str:
    """Makes a secret of 256 random bits."""
    return f"sk-{secrets.token_urlsafe(32)}"


def imported(secret: str) -> str:
    """Returns an existing secret without the space around it, or says why it cannot be a key."""
    secret = secret.strip()
    if not MIN_LENGTH <= len(secret) <= MAX_LENGTH:
        raise Invalid(
            f"key must have {MIN_LENGTH} to {MAX_LENGTH} characters, not {len(secret)}.", "key"
        )
    return printable(secret, "key")


def digest(secret: str) -> str:
    """Returns the SHA-256 of a secret in hex; any string has one, so that a lookup never raises.

    A plain hash is enough for the 256 bits we make; an imported secret is as hard to guess as its
    owner made it.
    """
    return hashlib.sha256(secret.strip().encode("utf-8", "surrogatepass")).hexdigest()


def masked(secret: str) -> str:
    """Returns what a list may show: the first 7 and last 4 characters, at most a third in all."""
    shown = min(11, len(secret) // 3)
    tail = shown * 4 // 11
    return f"{secret[: shown - tail]}…{secret[len(secret) - tail :]}"
