"""What a picture, sound or file costs in a prompt, in tokens; what a picture costs that is made.

Everything is bounded by what it shows, never by the bytes of its encoding. The rules for pictures
are in pictures.py, those for sound, film and files here, as of 2026-11.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from chattable.adapters.vendors.models import known
from chattable.adapters.vendors.pictures import reading
from chattable.adapters.vendors.sizes import Encoded, picture_size
from chattable.agents.chat import Json

Path = tuple[str, ...]
# Where parts have their payload, by type: OpenAI's, those of Responses, Anthropic's, vLLM's.
PAYLOADS: dict[str, tuple[Path, ...]] = {
    "image_url": (("image_url", "url"), ("image_url",)),
    "input_image": (("image_url",), ("image_url", "url"), ("file_id",)),
    "image": (("source", "data"), ("source", "url"), ("source", "file_id")),
    "input_audio": (("input_audio", "data"),),
    "audio_url": (("audio_url", "url"),),
    "video_url": (("video_url", "url"),),
    "file": (("file", "file_data"), ("file", "file_id"), ("file", "file_url")),
    "input_file": (("file_data",), ("file_id",), ("file_url",)),
    "document": (("source", "data"), ("source", "url"), ("source", "file_id")),
}
RAW = ("data", "file_data")  # fields that hold base64 also where they do not say so
DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?[^,]{0,200}?;base64,", re.IGNORECASE)
KINDS = {"input_audio": "sound", "audio_url": "sound", "video_url": "film"}  # others: pictures
FILES = ("file", "input_file", "document")  # which may be any of these, by their media type
MEDIA = {"image": "picture", "audio": "sound", "video": "film"}

# A page of a PDF is its words and its picture: an A4 at 150 dpi, and Anthropic's 3,000 tokens.
PAGE_PIXELS = 1_240, 1_754  # pixels
PAGE_TEXT_TOKENS = 3_000  # tokens
USUAL_PAGE_BYTES = 5_000  # where a file does not say how many pages it has
DENSE_PAGE_BYTES = 100_000  # of a page in any file, so that one that says too few is not believed
MAX_PAGES = 1_000
UNSEEN_PAGES = 100  # of a file that is somewhere else: what most vendors take
COUNT = re.compile(rb"/Count\s+(\d{1,6})")
PDF_WINDOW_BYTES = 32_768  # bytes at either end of a PDF in which it may say how many pages it has

# Bytes of a second, as few as are usual; of pcm16 and g711 always. A WAV says it itself.
SOUND_BYTES_PER_S = {
    "wav": 8_000,
    "pcm16": 48_000,
    "flac": 30_000,
    "g711_ulaw": 8_000,
    "g711_alaw": 8_000,
    "opus": 1_500,
    "ogg": 1_500,
    "webm": 1_500,
}
OTHER_SOUND_BYTES_PER_S = 4_000  # mp3, aac, m4a … at 32 kbit/s
MAX_SOUND_BYTES_PER_S = 768_000  # stereo at 192 kHz
# Tokens of a second: OpenAI's audio guide, ai.google.dev/gemini-api/docs/tokens.
SOUND_TOKENS_PER_S = ((re.compile(r"gpt-"), 10), (re.compile(r"gemini"), 32))
OTHER_SOUND_TOKENS_PER_S = 50  # more than Voxtral, Qwen and Ultravox take
FILM_BYTES_PER_S = 30_000  # of a second
FILM_TOKENS_PER_S = 300  # of a second with its sound, as Gemini has it
UNSEEN_MEDIA_S = 3_600  # of a sound or film that is somewhere else


class Payload(Struct, frozen=True):
    """What a part carries that is no text."""

    what: str  # picture, sound, film, file
    path: Path  # its keys in the part
    text: str
    start: int  # where its base64 begins in the text; -1: it is somewhere else
    form: str  # its media type, its format, or the end of its file's name
    detail: str  # of a picture

    @property
    def file(self) -> Encoded:
        """Its bytes."""
        return Encoded(self.text, self.start)


def media_tokens(kind: str, model: str, part: Json, picture: int | None = None) -> int:
    """Tokens that the payload of a message's part costs at most; 0 for text, and for unknown parts.

    `kind` is the provider's and `model` its name there; `picture` is what the config says that one
    costs. What is somewhere else, or damaged, costs the most that there is, but nothing costs more
    than the model can read. What a part says beside its payload is in `without_media`.
    """
    payload = _payload(part)
    if payload is None:
        return sum(media_tokens(kind, model, inner, picture) for inner in _inner(part))
    if payload.what == "picture" and picture is not None:
        return picture
    tokens, facts = _COSTS[payload.what](model, payload), known(kind, model)
    return min(tokens, facts.context_length) if facts and facts.context_length else tokens


def without_media(content: str | list[Json] | None) -> str | list[Json] | None:
    """A message's content without base64: what a model reads of it as text.

    Nothing is decoded or copied, and parts without media are the same objects.
    """
    if not isinstance(content, list):
        return content
    return [_without(part) for part in content]


def _without(part: Json) -> Json:
    payload = _payload(part)
    if payload is not None and payload.start >= 0:
        return _emptied(part, payload.path)
    inner = _inner(part)
    return part | {"content": [_without(each) for each in inner]} if inner else part


def _emptied(part: Json, path: Path) -> Json:
    field, *below = path
    return part | {field: _emptied(part[field], tuple(below)) if below else ""}


def _inner(part: Json) -> list[Json]:
    """The parts of a tool's answer, in Anthropic's form."""
    content = part.get("content") if part.get("type") == "tool_result" else None
    if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
        return []
    return [] if any(each.get("type") == "tool_result" for each in content) else content


def _payload(part: Json) -> Payload | None:
    kind = part.get("type")
    if not isinstance(kind, str):
        return None
    for path in PAYLOADS.get(kind, ()):
        holder: Any = part
        for field in path[:-1]:
            holder = holder.get(field) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and isinstance(text := holder.get(path[-1]), str):
            words = holder.get("type") == "text"  # a document of Anthropic's that is its text
            return None if words else _found(kind, path, holder, text, _said(part, "detail"))
    return None


def _found(kind: str, path: Path, holder: Json, text: str, detail: str) -> Payload:
    data = DATA_URL.match(text)
    start = data.end() if data else 0 if path[-1] in RAW else -1
    form = data[1] if data else ""
    form = form or _said(holder, "media_type") or _said(holder, "format")
    form = (form or _said(holder, "filename").rpartition(".")[2]).lower()
    what = KINDS.get(kind, "picture")
    if kind in FILES:
        what = MEDIA.get(form.partition("/")[0], "file")
    return Payload(what, path, text, start, form, _said(holder, "detail") or detail)


def _said(holder: Json, name: str) -> str:
    value = holder.get(name)
    return value if isinstance(value, str) else ""


def _picture(model: str, payload: Payload) -> int:
    rule = reading(model).rule
    size = picture_size(payload.text, payload.start) if payload.start >= 0 else None
    return rule.tokens(*size, payload.detail) if size else rule.most(payload.detail)


def _sound(model: str, payload: Payload) -> int:
    rates = (rate for pattern, rate in SOUND_TOKENS_PER_S if pattern.search(model))
    rate = next(rates, OTHER_SOUND_TOKENS_PER_S)
    if payload.start < 0:
        return UNSEEN_MEDIA_S * rate
    form = payload.form.rpartition("/")[2].removeprefix("x-")
    pace = SOUND_BYTES_PER_S.get(form, OTHER_SOUND_BYTES_PER_S)
    if form in ("wav", "wave"):
        pace = _wav_pace(payload.file) or pace
    return math.ceil(payload.file.size / pace * rate)


def _wav_pace(file: Encoded) -> int:
    """Bytes of a second as the header of a WAV says; 0 where it does not."""
    try:
        head = file.read(32)
    except ValueError:
        return 0
    if head[:4] != b"RIFF" or head[8:16] != b"WAVEfmt ":
        return 0
    return min(MAX_SOUND_BYTES_PER_S, int.from_bytes(head[28:32], "little"))


def _film(model: str, payload: Payload) -> int:
    seen = math.ceil(payload.file.size / FILM_BYTES_PER_S)
    return FILM_TOKENS_PER_S * (seen if payload.start >= 0 else UNSEEN_MEDIA_S)


def _file(model: str, payload: Payload) -> int:
    """A PDF by its pages; anything else by its bytes, for a token has one at least."""
    pdf = "pdf" in payload.form or payload.text.startswith("JVBERi", max(0, payload.start))
    if payload.start >= 0 and not pdf:
        return payload.file.size
    pages = _pages(payload.file) if payload.start >= 0 else UNSEEN_PAGES
    return pages * (PAGE_TEXT_TOKENS + reading(model).rule.tokens(*PAGE_PIXELS, "high"))


def _pages(file: Encoded) -> int:
    """How many pages a PDF has: what it says near its beginning or end, else by its size."""
    try:
        ends = file.read(PDF_WINDOW_BYTES)
        file.seek(max(0, file.size - PDF_WINDOW_BYTES))
        ends += file.read(PDF_WINDOW_BYTES)
    except ValueError:
        ends = b""
    said = max((int(count) for count in COUNT.findall(ends)), default=0)
    return min(
        MAX_PAGES, max(said, 1 + file.size // (DENSE_PAGE_BYTES if said else USUAL_PAGE_BYTES))
    )


_COSTS = {"picture": _picture, "sound": _sound, "film": _film, "file": _file}


class ImageCost(Struct, frozen=True):
    """What pictures cost that a model makes."""

    tokens: int  # of output; 0 where pictures are not paid by tokens
    micro_usd: int  # in all, by the table


# Tokens by quality and size: OpenAI's guide to images, 2026-09.
GPT_IMAGE_1 = {
    "low": {"1024x1024": 272, "1024x1536": 408, "1536x1024": 400},
    "medium": {"1024x1024": 1_056, "1024x1536": 1_584, "1536x1024": 1_568},
    "high": {"1024x1024": 4_160, "1024x1536": 6_240, "1536x1024": 6_208},
}
# Patches of the longer side by quality, from which the guide's formula makes tokens of any size.
GPT_IMAGE_2 = {"low": 16, "medium": 48, "high": 96}
GPT_IMAGE_2_5 = {"low": 16, "medium": 24, "high": 48, "xhigh": 64, "max": 96}
LARGEST_PIXELS = 2_880, 2_880  # pixels, of which the formula makes most tokens
SIZE = re.compile(r"(\d{1,5})x(\d{1,5})", re.ASCII)
# Dollars for a picture.
DALL_E_3 = {
    "standard": {"1024x1024": 0.04, "1024x1792": 0.08, "1792x1024": 0.08},
    "hd": {"1024x1024": 0.08, "1024x1792": 0.12, "1792x1024": 0.12},
}
DALL_E_2 = {"standard": {"256x256": 0.016, "512x512": 0.018, "1024x1024": 0.02}}
UNKNOWN = ImageCost(
    6_240, 250_000
)  # of models that are not in the table: the dearest of GPT Image 1


def image_cost(
    kind: str, model: str, size: Any = None, quality: Any = None, n: int = 1
) -> ImageCost:
    """What `n` pictures cost at most that a model makes; `size` and `quality` as in a request.

    What they do not say (`auto`, or nothing) is the dearest. A usage that is reported counts more.
    """
    name = model.rpartition("/")[2]
    facts = known(kind, model) or known("openai", name)
    if name.startswith("dall-e"):
        table = DALL_E_2 if name.startswith("dall-e-2") else DALL_E_3
        return ImageCost(0, n * round(_greatest(table, quality, size) * 1e6))
    if not name.startswith("gpt-image") or facts is None:
        return ImageCost(UNKNOWN.tokens * n, UNKNOWN.micro_usd * n)
    if name.startswith("gpt-image-1"):
        tokens = int(_greatest(GPT_IMAGE_1, quality, size))
    else:
        latest = name.startswith("gpt-image-2.5")
        tokens = _drawn(GPT_IMAGE_2_5 if latest else GPT_IMAGE_2, quality, size)
    return ImageCost(tokens * n, math.ceil(tokens * n * facts.output))


def _greatest(table: Mapping[str, Mapping[str, float]], quality: Any, size: Any) -> float:
    """The figure of a quality and a size; of those that are not in the table, the greatest."""
    chosen = table.get(quality) if isinstance(quality, str) else None
    figures = []
    for row in [chosen] if chosen else table.values():
        known_size = isinstance(size, str) and size in row
        figures.append(row[size] if known_size else max(row.values()))
    return max(figures)


def _drawn(patches: Mapping[str, int], quality: Any, size: Any) -> int:
    """Tokens of a picture by the formula of GPT Image 2."""
    chosen = patches.get(quality) if isinstance(quality, str) else None
    longer = chosen or max(patches.values())
    found = SIZE.fullmatch(size) if isinstance(size, str) else None
    width, height = (max(1, int(side)) for side in found.groups()) if found else LARGEST_PIXELS
    shorter = round(longer * min(width, height) / max(width, height))
    return math.ceil(longer * shorter * (2_000_000 + width * height) / 4_000_000)
