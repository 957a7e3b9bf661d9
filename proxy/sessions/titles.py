"""Titles of conversations: of somebody's first words, or as a model wrote them."""

from __future__ import annotations

import json
import re
from typing import Any

UNTITLED = "New chat"
LONGEST = 60  # characters of a title that is made of somebody's words
READ = 4_000  # characters of an answer in which its title is looked for
THOUGHTS = "</think>"  # what some models think comes before it, in their answer's text

_FENCED = re.compile(r"```\w*\s(.*?)```", re.S)
_JSON = re.compile(r'\{\s*"')


def title_in(answer: str) -> str:
    """The title in a model's answer: bare, quoted, or in JSON; "" where it has none."""
    answer = answer.rpartition(THOUGHTS)[2].strip()[:READ]
    if fenced := _FENCED.fullmatch(answer):
        answer = fenced[1].strip()
    if answer.startswith("<think>"):
        return ""
    if answer.startswith(("{", "[")) or _JSON.search(answer):
        answer = _in_json(answer)
    return answer.strip().strip("\"'*#` ").partition("\n")[0].strip()


def title_of(text: str) -> str:
    """A title made of somebody's first words."""
    line = " ".join(text.split())
    if len(line) <= LONGEST:
        return line or UNTITLED
    return line[:LONGEST].rsplit(" ", 1)[0].rstrip(" ,;:.–-") + "…"


def _in_json(answer: str) -> str:
    """The text that JSON somewhere in an answer has as `title`, also where the JSON has no end."""
    try:
        found: Any = json.loads(answer[answer.index("{") : answer.rindex("}") + 1], strict=False)
    except (ValueError, RecursionError):
        cut = re.search(r'"title"\s*:\s*("(?:[^"\\]|\\.)*")', answer, re.S)
        found = {"title": _unescaped(cut[1])} if cut else {}
    title = found.get("title")
    return title if isinstance(title, str) else ""


def _unescaped(text: str) -> Any:
    """What a quoted text says; as it stands where a backslash in it escapes nothing."""
    try:
        return json.loads(text, strict=False)
    except ValueError:
        return text[1:-1]
