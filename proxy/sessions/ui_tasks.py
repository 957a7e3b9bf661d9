"""What chat UIs ask for their own ends, beside the conversation: titles, tags, searches, summaries.

A task is recognise by what it is: by the UI's own word for it in the header X-Task, by how the
config says that prompts of the house begin, or by its frame: a lone prompt, of whatever role, that
quotes a conversation and asks for a title or for JSON with a key that UIs read. The frames are
those of Open WebUI 0.12.4 and of LibreChat (@librechat/agents 3.9.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from chattable.agents.chat import Chat, Message
from chattable.proxy.config.ui_tasks import (
    FOLLOW_UPS,
    KEYS,
    MERGED,
    OTHER,
    SUMMARY,
    TAGS,
    TASKS,
    TITLE,
    TOOLS,
)
from chattable.proxy.store.sessions.chain import conversation_messages

HEAD = 600  # characters in which a prompt says what it wants, where it does not name a key
WISH = 20_000  # characters of a prompt, besides what it quotes, in which a key is looked for
CALLED = "|".join(KEYS)

_MARKS = "chat|convers|histor|messag|dialog|transcript"
_OPENED = re.compile(rf"<([\w-]{{0,20}}(?:{_MARKS})[\w-]{{0,20}})>", re.I)
_USER = re.compile(r"^[^\w\n]{0,8}user[^\w\n]{0,8}:[^\S\n]{0,8}(.*)$", re.I | re.M)
_DIALOGUES = (  # of LibreChat and of Open WebUI
    (re.compile("^User: ", re.M), re.compile("^AI:", re.M)),
    (re.compile("^USER: ", re.M), re.compile("^ASSISTANT:", re.M)),
)
_SHAPE = re.compile(rf'\{{\s{{0,9}}"({CALLED})"\s{{0,9}}:')
_NAMED = re.compile(rf"[\"'`]({CALLED})[\"'`]")
_TALK = "(?:conversation|chat|lines of conversation)"
# What prompts that quote a conversation ask for, without naming a key.
_WISHES = (
    (re.compile(r"\s*### Task:\s.*?\btitle\b", re.S), TITLE),
    (re.compile(r"\s*### Task:\s.*?\btags\b", re.S), TAGS),
    (re.compile(r"\s*### Task:\s.*?\bfollow-?up\b", re.S), FOLLOW_UPS),
    (re.compile(r"\s*### Task:\s.*?\bsummari[sz]e\b", re.S | re.I), SUMMARY),
    (re.compile(r"\s*### Task:\s"), OTHER),
    (re.compile(rf".*?\btitle for (?:the|this) {_TALK}\b", re.S | re.I), TITLE),
    (re.compile(rf"\s*analy[sz]e (?:the|this) {_TALK}\b.*?\btitle\b", re.S | re.I), TITLE),
    (re.compile(rf"\s*(?:progressively )?summari[sz]e (?:the|this) {_TALK}\b", re.I), SUMMARY),
)
# How LibreChat asks for a summary: behind the messages that it is to stand for.
_FULL = "(?:context window|existing checkpoint)"
_CHECKPOINT = re.compile(rf"\s*hold on\b.*?\bcheckpoint\b.*?\b{_FULL}\b", re.S | re.I)
_MERGING = re.compile(r"(?=.*?\bresponses\b).*?\bmodels\b", re.S | re.I)
_LABELLING = re.compile(r"(?=.*?\bchat UI\b).*?\b(?:label|title|header)\b", re.S | re.I)


class UiTask(Struct, frozen=True):
    """What a UI asks for, and what its prompt quotes of the conversation."""

    kind: str
    wish: str = ""  # the prompt without what it quotes
    said: tuple[str, ...] = ()  # what the user said
    quoted: bool = False  # whether it quotes a conversation at all
    marked: bool = False  # between marks that nobody types
    dialogue: bool = False  # as speakers are called by UIs, both of them


def recognise(
    chat: Chat,
    task: str = "",
    *,
    ui: bool = False,
    own: Mapping[str, Iterable[str]] | None = None,
) -> UiTask | None:
    """What task a request is, if it is one.

    `task` is the UI's word for it. `ui` says that its client keeps the history itself, as chat UIs
    do: then weaker frames count as well. `own` is how prompts begin that somebody worded anew.
    """
    said, system = conversation_messages(chat.messages), _system(chat.messages)
    prompt = said[-1].text if said else system
    if task:
        return _read(TASKS.get(task.lower(), OTHER), prompt)
    if len(said) > 1:
        asked = said[-1].role == "user" and _CHECKPOINT.match(prompt[:HEAD])
        return UiTask(SUMMARY, prompt[:HEAD]) if asked else None
    if said and said[0].role != "user":
        return None
    start = prompt.lstrip()[:HEAD].casefold()
    for name, beginnings in (own or {}).items():
        if any(start.startswith(beginning.casefold()) for beginning in beginnings):
            return _read(TASKS.get(name, OTHER), prompt)
    found = _read(OTHER, prompt)
    kind = _of_quote(found, chat, ui=ui) if found.quoted else None
    if kind is None and ui:
        kind = _of_lone_prompt(prompt, system if said else "", chat)
    return None if kind is None else replace(found, kind=kind)


def keyed(wish: str) -> str | None:
    """The key of the JSON that a prompt asks for."""
    wish = wish[:WISH]
    found = _SHAPE.search(wish) or (_NAMED.search(wish) if "json" in wish.lower() else None)
    return found[1] if found else None


def wanted(chat: Chat) -> tuple[Mapping[str, object], str]:
    """The schema that an answer must have, and the function that takes it; empty for none."""
    form = chat.params.get("response_format")
    schema = (form.get("json_schema") or {}).get("schema") if isinstance(form, dict) else None
    if isinstance(schema, dict):
        return schema, ""
    functions = [tool.get("function") or {} for tool in chat.tools]
    if len(functions) == 1 and isinstance(parameters := functions[0].get("parameters"), dict):
        return parameters, str(functions[0].get("name") or "")
    return {}, ""


def _read(kind: str, prompt: str) -> UiTask:
    """A prompt taken apart: what it wants, and what it quotes.

    The quote is between tags, or begins with the first line that names the user.
    """
    opened = _OPENED.search(prompt)
    end = prompt.rfind(f"</{opened[1]}>") if opened else -1
    if opened and end >= opened.end():
        quote, wish = prompt[opened.end() : end], prompt[: opened.start()] + prompt[end:]
    elif (user := _USER.search(prompt)) is not None:
        quote, wish = prompt[user.start() :], prompt[: user.start()]
    else:
        return UiTask(kind, prompt)
    lines = [found[1].strip(" \t\"'*`") for found in _USER.finditer(quote)]
    dialogue = any(asks.search(quote) and answers.search(quote) for asks, answers in _DIALOGUES)
    return UiTask(kind, wish, tuple(lines or [quote.strip()]), True, end >= 0, dialogue)


def _of_quote(prompt: UiTask, chat: Chat, *, ui: bool) -> str | None:
    """What a prompt that quotes a conversation wants."""
    key = keyed(prompt.wish)
    if key is not None and (ui or prompt.marked or key in (TITLE, TAGS, FOLLOW_UPS)):
        return key
    for pattern, kind in _WISHES:
        if pattern.match(prompt.wish[:HEAD]):
            return kind
    properties = wanted(chat)[0].get("properties")
    by_schema = isinstance(properties, dict) and TITLE in properties
    # Nobody in a chat UI waits for a whole answer to a text that looks like what UIs make.
    return TITLE if ui and (by_schema or (prompt.dialogue and not chat.stream)) else None


def _of_lone_prompt(prompt: str, system: str, chat: Chat) -> str | None:
    """What a prompt wants that quotes something else: answers to merge, one message, a query."""
    head, ended = prompt[:HEAD], prompt[-HEAD:].rstrip()
    if ended.endswith('"""') and prompt.count('"""') >= 4 and _MERGING.match(head):
        return MERGED
    if chat.stream:
        return None
    if ended.endswith("```") and "emoji" in head.lower():
        return OTHER
    if prompt.startswith(("Query:", "History:")) and keyed(system) == TOOLS:
        return TOOLS
    return OTHER if _LABELLING.match(system[:HEAD]) else None


def _system(messages: Iterable[Message]) -> str:
    said = [message.text for message in messages if message.role in ("system", "developer")]
    return "\n".join(said)
