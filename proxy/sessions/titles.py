"""Titles of conversations: made of the first question, or found in a model's answer."""

from __future__ import annotations

import json
import re
from typing import Any

UNTITLED = "New chat"
MAX_TITLE_CHARS = 60  # of a title that is made of a question
MAX_ANSWER_CHARS = 4_000  # of an answer in which a title is looked for
END_OF_THOUGHTS = "</think>"  # some models put their thoughts before it into the answer's text

_FENCED = re.compile(r"```\w*\s(.*?)```", re.S)
_JSON = re.compile(r'\{\s*"')


def title_in(answer: str) -> str:
    """The title in a model's answer, bare, quoted or in JSON; "" for none."""
    answer = answer.rpartition(END_OF_THOUGHTS)[2].strip()[:MAX_ANSWER_CHARS]
    if fenced := _FENCED.fullmatch(answer):
        answer = fenced[1].strip()
    if answer.startswith("<think>"):
        return ""
    if answer.startswith(("{", "[")) or _JSON.search(answer):
        answer = _in_json(answer)
    return answer.strip().strip("\"'*#` ").partition("\n")[0].strip()


def title_of(text: str) -> str:
    """A title made of a text's first words."""
    line = " ".join(text.split())
    if len(line) <= MAX_TITLE_CHARS:
        return line or UNTITLED
    return line[:MAX_TITLE_CHARS].rsplit(" ", 1)[0].rstrip(" ,;:.–-") + "…"


def _in_json(answer: str) -> str:
    """The `title` of JSON somewhere in an answer, also where the JSON is cut off."""
    try:
        found: Any = json.loads(answer[answer.index("{") : answer.rindex("}") + 1], strict=False)
    except (ValueError, RecursionError):
        cut = re.search(r'"title"\s*:\s*("(?:[^"\\]|\\.)*")', answer, re.S)
        found = {"title": _unescaped(cut[1])} if cut else {}
    title = found.get("title")
    return title if isinstance(title, str) else ""


def _unescaped(text: str) -> Any:
    """The value of a quoted text; as it stands where a backslash in it escapes nothing."""
    try:
        return json.loads(text, strict=False)
    except ValueError:
        return text[1:-1]
