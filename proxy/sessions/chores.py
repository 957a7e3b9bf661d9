"""What chat UIs ask for their own ends, with the session's header: titles, tags, follow-up questions, summaries."""

from __future__ import annotations

import json
import re

from chattable.agents.chat import NO_USAGE, Chat, Chunk
from chattable.proxy.store.session_chain import spoken

TITLE, TAGS, FOLLOW_UPS, OTHER = "title", "tags", "follow_ups", "other"
UNTITLED = "New chat"
LONGEST = 60  # characters of a title that is made of somebody's words
HEAD = 600  # characters in which a prompt says what it wants

_TASKS = {"title_generation": TITLE, "tags_generation": TAGS, "follow_up_generation": FOLLOW_UPS}
# What the prompts of LibreChat and Open WebUI begin with; ops who write their own name the task in the header X-Task.
_PROMPTS = (
    (re.compile(r"\s*### Task:\s.*?\btitle\b", re.S), TITLE),
    (re.compile(r"\s*### Task:\s.*?\btags\b", re.S), TAGS),
    (re.compile(r"\s*### Task:\s.*?\bfollow-?up\b", re.S), FOLLOW_UPS),
    (re.compile(r"\s*### Task:\s"), OTHER),
    (re.compile(r".*?\btitle for (?:the|this) (?:conversation|chat)\b", re.S | re.I), TITLE),
    (re.compile(r"\s*analy[sz]e (?:the|this) (?:conversation|chat)\b.*?\btitle\b", re.S | re.I), TITLE),
    (re.compile(r"\s*(?:progressively )?summari[sz]e (?:the|this) (?:conversation|chat|lines of conversation)\b", re.I), OTHER),
)
# How LibreChat asks for a summary: behind the messages that it is to stand for.
_CHECKPOINT = re.compile(r"\s*hold on\b.*?\bcheckpoint\b.*?\b(?:context window|existing checkpoint)\b", re.S | re.I)
_USER = re.compile(r"^\W*user\W*:\s*\W*(\S.*)$", re.I | re.M)


def recognised(chat: Chat, task: str) -> str | None:
    """What chore a request is, if it is one: by the UI's own word for it, else by how its prompt begins."""
    if task:
        return _TASKS.get(task.lower(), OTHER)
    messages = spoken(chat.messages)
    if not messages or messages[-1].role != "user":
        return None
    text = messages[-1].text
    if len(messages) > 1:
        return OTHER if _CHECKPOINT.match(text[:HEAD]) else None
    quoted = _USER.search(text)
    if quoted is None:  # somebody who asks the same of a model quotes no conversation
        return None
    wish = text[: min(quoted.start(), HEAD)]
    return next((chore for pattern, chore in _PROMPTS if pattern.match(wish)), None)


def answered(chore: str, chat: Chat) -> list[Chunk] | None:
    """An answer that needs no model, in the form that the prompt asks for; None for what only a model can do."""
    if chore == TITLE and not chat.tools:
        prompt = chat.messages[-1].text
        said = _USER.search(prompt)
        title = titled(said[1]) if said else UNTITLED
        wish = prompt[: said.start()] if said else prompt
        as_json = '"title"' in wish or "response_format" in chat.params
        return whole(json.dumps({"title": title}, ensure_ascii=False) if as_json else title)
    if chore == TAGS:
        return whole('{"tags": []}')
    if chore == FOLLOW_UPS:
        return whole('{"follow_ups": []}')
    return None


def title_in(answer: str) -> str:
    """The title in a model's answer: bare, quoted, or in the JSON that Open WebUI asks for."""
    found = re.search(r'\{.*?"title"\s*:\s*("(?:[^"\\]|\\.)*")', answer, re.S)
    if found:
        answer = json.loads(found[1], strict=False)
    return answer.strip().strip("\"'*#` ").partition("\n")[0]


def titled(text: str) -> str:
    """A title made of somebody's first words."""
    line = " ".join(text.split())
    if len(line) <= LONGEST:
        return line or UNTITLED
    return line[:LONGEST].rsplit(" ", 1)[0].rstrip(" ,;:.–-") + "…"


def whole(text: str) -> list[Chunk]:
    """An answer of ours, which costs nothing."""
    return [Chunk(0, {"role": "assistant", "content": text}), Chunk(finish_reason="stop"), Chunk(usage=NO_USAGE)]
