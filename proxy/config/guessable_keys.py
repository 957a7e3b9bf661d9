"""Keys that guessers try first: known words, sequences, repetitions and what is made of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

ENOUGH = 8  # characters that must be left of a key without all that
DIFFERENT = 6  # different characters that a key must have
RUN = 5  # characters of a sequence that are no accident
LONGEST = 256  # characters of a key that are looked at

_WORDS = (
    "abc access account admin administrator anthropic api apikey app bar battery baz bearer"
    " beef cafe change changeit changeme chattable code correct credential dead default demo"
    " dev development dragon dummy empty example fill foo foobar for gateway god guest hello"
    " here horse hunter iloveyou in insert is key letmein litellm local localhost login long"
    " love manager master me model monkey my new none null of openai operator owner pass"
    " passphrase passwd password placeholder please private prod production proxy public put"
    " qwerty random replace root safe sample secret secure server service shadow sk some"
    " staging staple strong sunshine super supersecret system team temp test testing the this"
    " to token trustno user value very welcome with word world xxx xyz your"
)
_ROWS = (
    *("abcdefghijklmnopqrstuvwxyz", "01234567890123456789"),
    *("qwertyuiop", "qwertzuiop", "azertyuiop", "asdfghjkl", "qsdfghjklm", "asdfjkl;"),
    *("zxcvbnm", "yxcvbnm", "wxcvbn", "1q2w3e4r5t6y7u8i9o0p"),
    *("1qaz2wsx3edc4rfv5tgb6yhn7ujm", "qazwsxedcrfvtgbyhnujmikolp"),
)
_LETTERS = str.maketrans("013457@$!", "oleastasi")  # as in passw0rd
_SEPARATORS = re.compile(r"[-_.:/ ]+")
_AGAIN = re.compile(r"(.)\1{2,}|(..+?)\2+")
_KNOWN = re.compile("|".join(sorted(_WORDS.split(), key=len, reverse=True)))
_LINES = [line for row in _ROWS for line in (row, row[::-1])]
_RUNS = {line[at : at + RUN] for line in _LINES for at in range(len(line) - RUN + 1)}


def is_guessable(key: str) -> bool:
    """Whether too little of a key is left without what is well known."""
    key = key[:LONGEST].lower()
    return len(set(key)) < DIFFERENT or any(len(left) < ENOUGH for left in _readings(key))


def _readings(key: str) -> Iterator[str]:
    """What is left of a key: as it stands, with letters for digits, and every other character."""
    for text in (key, key.translate(_LETTERS), key[::2] + key[1::2]):
        once = _AGAIN.sub(lambda found: found[1] or found[2], _SEPARATORS.sub("", text))
        yield _without_runs(_KNOWN.sub("", once))


def _without_runs(text: str) -> str:
    """The text without what lies in a row of the alphabet, of the digits or of a keyboard."""
    starts = [at for at in range(len(text) - RUN + 1) if text[at : at + RUN] in _RUNS]
    runs = {start + i for start in starts for i in range(RUN)}
    return "".join(character for at, character in enumerate(text) if at not in runs)
