"""Pictures, sound and files cost what they show, as vendors publish it, and no byte of encoding."""

import base64
import json
import re
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chattable.adapters.vendors.media import (
    UNKNOWN,
    ImageCost,
    image_cost,
    media_tokens,
    without_media,
)
from chattable.adapters.vendors.pictures import GENERAL, READINGS, Reading, reading
from chattable.adapters.vendors.sizes import MAX_READ_BYTES, Encoded, picture_size

KB = 1024


def png(width: int, height: int, size: int = 0) -> bytes:
    """The beginning of a picture, and as many bytes as it is large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    chunk = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + chunk + bytes(size)


def jpeg(width: int, height: int, before: int = 0) -> bytes:
    """A picture with so many bytes of EXIF before its size."""
    exif = b"\xff\xe1" + struct.pack(">H", before + 2) + bytes(before)
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)
    return b"\xff\xd8" + (exif if before else b"") + frame + b"\xff\xda" + bytes(200)


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(20)


def webp(width: int, height: int) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + bytes(4) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sides


def data_url(data: bytes, media: str = "image/png") -> str:
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


def at(url: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def part(data: bytes, detail: str | None = None) -> dict[str, Any]:
    return at(data_url(data), **({"detail": detail} if detail else {}))


PUBLISHED = [  # model, width, height, detail, tokens that the vendor's guide says
    ("gpt-4o", 1024, 1024, "high", 765),
    ("gpt-4o", 2048, 4096, "high", 1105),
    ("gpt-4o", 4096, 8192, "low", 85),
    ("gpt-4o", 2048, 512, "high", 765),
    ("gpt-4o", 512, 512, None, 255),
    ("gpt-4o-mini", 1024, 1024, "high", 2833 + 4 * 5667),
    ("gpt-5", 1024, 1024, "high", 70 + 4 * 140),
    ("o3", 1024, 1024, "auto", 75 + 4 * 150),
    ("gpt-4.1-mini", 1024, 1024, "high", 1659),  # 1024 patches
    ("gpt-4.1-mini", 1800, 2400, "high", 2353),  # 1452 patches
    ("gpt-5-nano", 1024, 1024, "high", 2520),
    ("gpt-6-astra", 640, 480, "high", 360),
    ("gpt-6-astra", 640, 480, "low", 231),
    ("gpt-6-astra", 3200, 960, "original", 3600),
    ("gpt-6-astra", 2880, 864, "high", 2916),
    ("gpt-6-astra", 1280, 720, None, 1104),
    ("gpt-5.4", 1600, 1600, None, 3000),
    ("claude-sonnet-4-5-20250929", 1000, 1000, None, 1334),
    ("claude-sonnet-4-5-20250929", 1092, 1092, None, 1590),
    ("claude-3-7-sonnet-latest", 4000, 4000, None, 1600),
    ("claude-opus-4-7", 4000, 4000, None, 4784),
    ("gemini-2.5-flash", 384, 384, None, 258),
    ("gemini-2.5-flash", 960, 540, None, 6 * 258),
    ("gemini-3.8-flash", 3000, 2000, None, 1120),
    ("grok-4.3", 448, 448, None, 512),
    ("grok-4.3", 4000, 4000, None, 1792),
]


@pytest.mark.parametrize(("model", "w", "h", "detail", "tokens"), PUBLISHED)
def test_published_figures(model: str, w: int, h: int, detail: Any, tokens: int) -> None:
    assert media_tokens("openai", model, part(png(w, h, 300), detail)) == tokens


NAMES = [
    ("openrouter", "openai/gpt-4o", "gpt-4o"),
    ("openai", "ft:gpt-4o-mini-2024-07-18:acme::abc", "gpt-4o-mini"),
    ("bedrock", "us.anthropic.claude-opus-4-6-v1", "claude-opus-4-6"),
    ("bedrock", "global.anthropic.claude-opus-5", "claude-opus-5"),
    ("openrouter", "anthropic/claude-3.5-sonnet", "claude-3-5-sonnet"),
    ("gemini", "models/gemini-2.5-flash", "gemini-2.5-flash"),
    ("azure", "GPT-4o", "gpt-4o"),
]


@pytest.mark.parametrize(("kind", "name", "model"), NAMES)
def test_a_model_has_its_rule_under_all_its_names(kind: str, name: str, model: str) -> None:
    assert reading(name) is reading(model) is not GENERAL


@pytest.mark.parametrize("name", ["llama-3.3-70b", "qwen3-vl", "my-model", "", "not-o1x", "foo1"])
def test_an_unknown_model_has_the_general_rule(name: str) -> None:
    assert reading(name) is GENERAL
    assert media_tokens("vllm", name, part(png(64, 64))) == 2880
    assert media_tokens("vllm", name, part(png(3000, 2000))) == 7776
    assert media_tokens("vllm", name, part(png(9000, 9000))) == 16384
    assert media_tokens("vllm", name, part(b"?" * 300 * KB)) == 2880


SEEN = [png(777, 333), jpeg(777, 333), jpeg(777, 333, 60_000), gif(777, 333), webp(777, 333)]


@pytest.mark.parametrize("picture", SEEN)
def test_sizes_of_every_format(picture: bytes) -> None:
    assert picture_size(base64.b64encode(picture).decode()) == (777, 333)


BROKEN = [
    b"",
    b"x",
    png(777, 333)[:20],
    b"\xff\xd8\xff" + bytes(9),
    gif(0, 0),
    b"<svg width='5' height='5'/>",
    b"%PDF-1.7",
    b"\xff\xd8\xff" + bytes(2 * MAX_READ_BYTES) + jpeg(9, 9),
]


@pytest.mark.parametrize("picture", BROKEN)
def test_a_header_that_does_not_say_it(picture: bytes) -> None:
    assert picture_size(base64.b64encode(picture).decode()) is None


UNSEEN = [
    "https://example.com/cat.png",
    "data:image/png,%89PNG",
    "data:image/png;base64,!!!!",
    "data:image/png;base64,iVBORw0K\nGgo",
    "gs://bucket/cat.png",
    "",
]


@pytest.mark.parametrize("url", UNSEEN)
def test_what_cannot_be_seen_costs_the_most(url: str) -> None:
    assert media_tokens("openai", "gpt-4o", at(url)) == 85 + 8 * 170
    assert media_tokens("openai", "gpt-4o", at(url, detail="low")) == 85
    assert media_tokens("openai", "gpt-6-astra", at(url)) == 36_000
    assert media_tokens("vllm", "x", at(url), picture=500) == 500


def test_only_the_beginning_of_a_picture_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, read = [], Encoded.read

    def counted(file: Encoded, size: int = -1) -> bytes:
        sizes.append(size)
        return read(file, size)

    monkeypatch.setattr(Encoded, "read", counted)
    assert media_tokens("openai", "gpt-4o", part(png(2048, 512, 1_500 * KB), "high")) == 765
    assert 0 < sum(sizes) <= 100


def test_a_file_over_base64_reads_as_the_bytes_do() -> None:
    data = bytes(range(256)) * 3
    file = Encoded("head," + base64.b64encode(data).decode(), 5)
    assert (file.size, file.read(10)) == (768, data[:10])
    assert (file.seek(-3, 2), file.read(10)) == (765, data[-3:])
    assert (file.seek(7), file.seek(5, 1), file.read(4)) == (7, 12, data[12:16])
    assert file.read() == data[16:]


BEGINNINGS = (b"", png(5, 5)[:16], b"\xff\xd8\xff", b"RIFF", b"\x00\x00\x00\x18ftypheic")
TAILS = st.binary(max_size=60).map(lambda tail: jpeg(9, 9)[:12] + tail)


@given(st.binary(max_size=200) | TAILS, st.sampled_from(BEGINNINGS))
def test_any_bytes_may_be_a_picture(data: bytes, beginning: bytes) -> None:
    assert 85 <= media_tokens("openai", "gpt-4o", part(beginning + data)) <= 1445


SIDES = st.integers(1, 2**31)
DETAILS = st.sampled_from(["low", "high", "original", "auto", ""])


@given(SIDES, SIDES, st.sampled_from(READINGS), DETAILS)
def test_no_picture_costs_more_than_the_most(w: int, h: int, row: Reading, detail: str) -> None:
    assert 0 < row.rule.tokens(w, h, detail) <= row.rule.most(detail)


@pytest.mark.parametrize("row", READINGS)
def test_every_rule_says_where_it_was_read_and_when(row: Reading) -> None:
    assert re.fullmatch(r"https://\S+ 20\d\d-\d\d", f"{row.source} {row.since}")
    assert row.rule.says


def wav(seconds: float, rate: int = 32_000) -> bytes:
    head = b"RIFF" + bytes(4) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, rate, 2, 16)
    return head + b"data" + bytes(4) + bytes(round(seconds * rate))


def sound(data: bytes, form: str) -> dict[str, Any]:
    text = base64.b64encode(data).decode()
    return {"type": "input_audio", "input_audio": {"data": text, "format": form}}


SOUNDS = [
    ("gpt-audio", sound(wav(60), "wav"), 601),  # its header is a moment of sound, too
    ("gemini-3.8-flash", sound(wav(60), "wav"), 1921),
    ("gpt-audio", sound(bytes(240_000), "mp3"), 600),  # a minute at 32 kbit/s
    ("gpt-audio", sound(bytes(48_000), "pcm16"), 10),
    ("gpt-audio", sound(b"RIFF", "wav"), 1),
    ("x", {"type": "audio_url", "audio_url": {"url": "https://example.com/a.mp3"}}, 180_000),
    ("x", {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}, 1_080_000),
    ("x", {"type": "video_url", "video_url": {"url": data_url(bytes(60_000), "video/mp4")}}, 600),
]


@pytest.mark.parametrize(("model", "heard", "tokens"), SOUNDS)
def test_sound_and_film_cost_by_their_length(model: str, heard: Any, tokens: int) -> None:
    assert media_tokens("vllm", model, heard) == tokens


def pdf(pages: int | None, size: int = 1000) -> bytes:
    tree = b"" if pages is None else b"<< /Type /Pages /Kids [] /Count %d >>" % pages
    return b"%PDF-1.7\n" + bytes(size) + tree + b"\n%%EOF"


def file(data: bytes, media: str = "application/pdf", name: str = "a.pdf") -> dict[str, Any]:
    return {"type": "file", "file": {"filename": name, "file_data": data_url(data, media)}}


def document(**source: Any) -> dict[str, Any]:
    return {"type": "document", "source": source}


PAGE = 3000 + 1600
RAW_PDF = base64.b64encode(pdf(3)).decode()
FILES = [
    (file(pdf(3)), 3 * PAGE),
    (file(pdf(None)), PAGE),
    (file(pdf(None, 50_000)), 11 * PAGE),
    (file(pdf(1, 500_000)), 6 * PAGE),  # it says too few
    ({"type": "file", "file": {"file_id": "file-1"}}, 100 * PAGE),
    ({"type": "file", "file": {"file_data": RAW_PDF}}, 3 * PAGE),
    (document(type="base64", media_type="application/pdf", data=RAW_PDF), 3 * PAGE),
    (document(type="url", url="https://example.com/a.pdf"), 100 * PAGE),
    (file(b"a,b\n" * 300, "text/csv", "a.csv"), 1200),
    (file(png(1000, 1000), "image/png", "a.png"), 1334),
    (file(bytes(4000), "audio/mpeg", "a.mp3"), 50),
]


@pytest.mark.parametrize(("sent", "tokens"), FILES)
def test_files_cost_by_their_pages_or_bytes_or_as_what_they_are(sent: Any, tokens: int) -> None:
    assert media_tokens("vllm", "claude-sonnet-4-5", sent) == tokens


def test_nothing_costs_more_than_the_model_can_read() -> None:
    sent = {"type": "file", "file": {"file_id": "file-1"}}
    assert media_tokens("anthropic", "claude-sonnet-4-5", sent) == 200_000


WORDS: list[dict[str, Any]] = [
    {"type": "text", "text": "data:image/png;base64,AAAA"},
    {"type": "refusal", "refusal": "no"},
    {"type": "of_tomorrow", "data": "AAAA"},
    document(type="text", media_type="text/plain", data="many words"),
    {"type": "image_url", "image_url": None},
    at(5),
    {"type": 5},
    {},
    {"type": "image"},
    {"type": "tool_result", "content": "text"},
    {"type": "tool_result", "content": [5]},
    {"type": "tool_result", "content": [{"type": "tool_result", "content": []}]},
]


@pytest.mark.parametrize("words", WORDS)
def test_what_is_no_media_costs_by_its_words(words: dict[str, Any]) -> None:
    assert media_tokens("openai", "gpt-4o", words) == 0
    same = without_media([words])
    assert isinstance(same, list) and len(same) == 1 and same[0] is words


def image(data: str) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/png", "data": data}
    return {"type": "image", "source": source}


def test_content_without_its_media() -> None:
    url, small = "https://example.com/cat.png", base64.b64encode(png(8, 8)).decode()
    content: list[Any] = [
        {"type": "text", "text": "look"},
        part(png(64, 64, 1_500 * KB), "high"),
        at(url),
        sound(wav(9), "wav"),
        {"type": "tool_result", "tool_use_id": "t", "content": [image(small)]},
        {"type": "input_image", "image_url": data_url(png(8, 8))},
    ]
    before = json.dumps(content)
    assert without_media(content) == [
        {"type": "text", "text": "look"},
        at("", detail="high"),
        at(url),
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "tool_result", "tool_use_id": "t", "content": [image("")]},
        {"type": "input_image", "image_url": ""},
    ]
    assert json.dumps(content) == before
    assert without_media("words") == "words" and without_media(None) is None
    tokens = [media_tokens("openai", "gpt-4o", each) for each in content]
    assert tokens == [0, 255, 1445, 91, 255, 255]


MADE = [
    ("gpt-image-1", "1024x1024", "low", ImageCost(272, 10_880)),
    ("gpt-image-1", "1024x1024", "medium", ImageCost(1056, 42_240)),
    ("gpt-image-1", "1536x1024", "high", ImageCost(6208, 248_320)),
    ("gpt-image-1", "auto", "auto", ImageCost(6240, 249_600)),
    ("gpt-image-1", None, "low", ImageCost(408, 16_320)),
    ("gpt-image-1-mini", "1024x1024", "high", ImageCost(4160, 33_280)),
    ("gpt-image-1.5", "1024x1024", "high", ImageCost(4160, 133_120)),
    ("gpt-image-2", "1024x1024", "low", ImageCost(196, 5_880)),
    ("gpt-image-2", "1024x1024", "high", ImageCost(7024, 210_720)),
    ("gpt-image-2", "1024x1536", "high", ImageCost(5488, 164_640)),
    ("gpt-image-2.5-flare", "1024x1024", "high", ImageCost(1756, 52_680)),
    ("gpt-image-2.5-flare", 5, 5, ImageCost(23_719, 711_570)),
    ("dall-e-3", "1024x1024", "standard", ImageCost(0, 40_000)),
    ("dall-e-3", "1024x1792", "hd", ImageCost(0, 120_000)),
    ("dall-e-3", None, None, ImageCost(0, 120_000)),
    ("dall-e-2", "256x256", None, ImageCost(0, 16_000)),
    ("somebody/flux", "1024x1024", None, UNKNOWN),
]


@pytest.mark.parametrize(("model", "size", "quality", "made"), MADE)
def test_what_a_picture_costs_that_is_made(
    model: str, size: Any, quality: Any, made: ImageCost
) -> None:
    assert image_cost("openai", model, size, quality) == made
    four = ImageCost(made.tokens * 4, made.micro_usd * 4)
    assert image_cost("azure", f"openai/{model}", size, quality, 4) == four
