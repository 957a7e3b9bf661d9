"""Text that both databases store unchanged: what they would refuse is refused here, by field."""

import re
import unicodedata

from chattable.proxy.store.errors import Invalid

MAX_LENGTH = 200

# Cc: NUL and friends; Cs: lone surrogates, which no encoding of the drivers takes; Zl, Zp: newlines
# in disguise.
UNSTORABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
# What programs write where they have no value: a language's word for nothing, or an open template.
NOTHING = re.compile(
    r"""[(<\[]?(?:null|Null|NULL|none|None|NONE|undefined|nil|nan|NaN|n/a|N/A)[)>\]]?
    |\[object\ \w+\]|""|''|\[\]|0{8}-0{4}-0{4}-0{4}-0{12}|\{\w*\}|\$\{?\w+\}?|<\w+>|%\w+%""",
    re.X | re.A,
)


def is_placeholder(text: str) -> bool:
    """Says whether a name that a client sent stands for no name."""
    return not text or text.startswith("{{") or bool(NOTHING.fullmatch(text))


def printable(text: str, field: str) -> str:
    """Returns the text, or refuses control characters, line separators and lone surrogates."""
    for position, character in enumerate(text):
        if unicodedata.category(character) in UNSTORABLE:
            raise Invalid(
                f"{field} contains the unusable character {character!a} at position {position}.",
                field,
            )
    return text


def short(text: str, field: str) -> str:
    """Returns a name: 1–200 printable characters, with no space at either end."""
    if not 1 <= len(text) <= MAX_LENGTH:
        raise Invalid(f"{field} must have 1 to {MAX_LENGTH} characters, not {len(text)}.", field)
    if printable(text, field) != text.strip():
        raise Invalid(f"{field} must not begin or end with a space: {text!r}.", field)
    return text


def addressable(name: str, field: str) -> str:
    """Returns a name that a path may have in it; no client sends `.` and `..` as they are."""
    if name in (".", ".."):
        raise Invalid(f"{field} must not be {name!r}: no path can name it.", field)
    return short(name, field)
