"""Recognises what chat UIs ask beside the conversation: titles, tags, searches, summaries.

A task is recognised by the UI's own word for it in the header X-Task, by how the config says that
reworded prompts begin, or by its frame: a lone prompt, of whatever role, that quotes a conversation
and asks for a title or for JSON with a key that UIs read. The frames are those of Open WebUI 0.12.4
and of LibreChat (@librechat/agents 3.9.2).
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

# characters at its start in which a prompt says what it wants, where it does not name a key
HEAD_CHARS = 600
# characters of a prompt, besides what it quotes, in which a key is looked for
MAX_INSTRUCTIONS_CHARS = 20_000
KEY_NAMES = "|".join(KEYS)

_MARKS = "chat|convers|histor|messag|dialog|transcript"
_OPENED = re.compile(rf"<([\w-]{{0,20}}(?:{_MARKS})[\w-]{{0,20}})>", re.I)
_USER = re.compile(r"^[^\w\n]{0,8}user[^\w\n]{0,8}:[^\S\n]{0,8}(.*)$", re.I | re.M)
_DIALOGUES = (  # of LibreChat and of Open WebUI
    (re.compile("^User: ", re.M), re.compile("^AI:", re.M)),
    (re.compile("^USER: ", re.M), re.compile("^ASSISTANT:", re.M)),
)
_SHAPE = re.compile(rf'\{{\s{{0,9}}"({KEY_NAMES})"\s{{0,9}}:')
_NAMED = re.compile(rf"[\"'`]({KEY_NAMES})[\"'`]")
_TALK = "(?:conversation|chat|lines of conversation)"
# What prompts that quote a conversation ask for, without naming a key.
_REQUESTS = (
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
    instructions: str = ""  # the prompt without what it quotes
    user_texts: tuple[str, ...] = ()  # what the user wrote, as far as it is quoted
    quoted: bool = False  # whether it quotes a conversation at all
    tagged: bool = False  # whether the quote is between tags, which nobody types
    dialogue: bool = False  # whether both speakers are called as UIs call them


def recognise(
    chat: Chat,
    task: str = "",
    *,
    ui: bool = False,
    own: Mapping[str, Iterable[str]] | None = None,
) -> UiTask | None:
    """The task that a request is, if it is one.

    `task` is the UI's word for it. `ui` says that the client keeps the history itself, as chat UIs
    do: then weaker frames count as well. `own` has the beginnings of prompts that an operator has
    reworded, by task.
    """
    messages, system = conversation_messages(chat.messages), _system(chat.messages)
    prompt = messages[-1].text if messages else system
    if task:
        return _read(TASKS.get(task.lower(), OTHER), prompt)
    if len(messages) > 1:
        return _checkpoint(messages[-1])
    if messages and messages[0].role != "user":
        return None
    if own and (name := _reworded(prompt, own)) is not None:
        return _read(TASKS.get(name, OTHER), prompt)
    return _by_frame(prompt, system if messages else "", chat, ui=ui)


def requested_key(instructions: str) -> str | None:
    """The key of the JSON that a prompt asks for."""
    instructions = instructions[:MAX_INSTRUCTIONS_CHARS]
    found = _SHAPE.search(instructions)
    if found is None and "json" in instructions.lower():
        found = _NAMED.search(instructions)
    return found[1] if found else None


def answer_schema(chat: Chat) -> tuple[Mapping[str, object], str]:
    """The schema that an answer must follow, and the function that takes it; empty for none."""
    form = chat.params.get("response_format")
    schema = (form.get("json_schema") or {}).get("schema") if isinstance(form, dict) else None
    if isinstance(schema, dict):
        return schema, ""
    functions = [tool.get("function") or {} for tool in chat.tools]
    if len(functions) == 1 and isinstance(parameters := functions[0].get("parameters"), dict):
        return parameters, str(functions[0].get("name") or "")
    return {}, ""


def _checkpoint(last: Message) -> UiTask | None:
    """The summary that a last message asks for behind all that it is to stand for."""
    head = last.text[:HEAD_CHARS]
    asks = last.role == "user" and _CHECKPOINT.match(head)
    return UiTask(SUMMARY, head) if asks else None


def _reworded(prompt: str, own: Mapping[str, Iterable[str]]) -> str | None:
    """The name of the task whose prompts an operator lets begin like this one."""
    start = prompt.lstrip()[:HEAD_CHARS].casefold()
    for name, beginnings in own.items():
        if any(start.startswith(beginning.casefold()) for beginning in beginnings):
            return name
    return None


def _by_frame(prompt: str, system: str, chat: Chat, *, ui: bool) -> UiTask | None:
    """The task that a lone prompt is set out as."""
    found = _read(OTHER, prompt)
    kind = _of_quote(found, chat, ui=ui) if found.quoted else None
    if kind is None and ui:
        kind = _of_lone_prompt(prompt, system, chat)
    return None if kind is None else replace(found, kind=kind)


def _read(kind: str, prompt: str) -> UiTask:
    """A prompt taken apart: its instructions, and what it quotes.

    The quote is between tags, or begins with the first line that names the user.
    """
    opened = _OPENED.search(prompt)
    end = prompt.rfind(f"</{opened[1]}>") if opened else -1
    if opened and end >= opened.end():
        quote, instructions = prompt[opened.end() : end], prompt[: opened.start()] + prompt[end:]
    elif (user := _USER.search(prompt)) is not None:
        quote, instructions = prompt[user.start() :], prompt[: user.start()]
    else:
        return UiTask(kind, prompt)
    lines = [found[1].strip(" \t\"'*`") for found in _USER.finditer(quote)]
    dialogue = any(asks.search(quote) and answers.search(quote) for asks, answers in _DIALOGUES)
    texts = tuple(lines or [quote.strip()])
    return UiTask(kind, instructions, texts, quoted=True, tagged=end >= 0, dialogue=dialogue)


def _of_quote(prompt: UiTask, chat: Chat, *, ui: bool) -> str | None:
    """What a prompt that quotes a conversation asks for."""
    key = requested_key(prompt.instructions)
    if key is not None and (ui or prompt.tagged or key in (TITLE, TAGS, FOLLOW_UPS)):
        return key
    head = prompt.instructions[:HEAD_CHARS]
    for pattern, kind in _REQUESTS:
        if pattern.match(head):
            return kind
    return TITLE if ui and _by_answer(prompt, chat) else None


def _by_answer(prompt: UiTask, chat: Chat) -> bool:
    """Whether the answer that is asked for tells that it is a title."""
    properties = answer_schema(chat)[0].get("properties")
    if isinstance(properties, dict) and TITLE in properties:
        return True
    # nobody in a chat UI waits for a whole answer to a text that looks like what UIs make
    return prompt.dialogue and not chat.stream


def _of_lone_prompt(prompt: str, system: str, chat: Chat) -> str | None:
    """What a prompt asks for that quotes something else: answers to merge, one message, a query."""
    head, ended = prompt[:HEAD_CHARS], prompt[-HEAD_CHARS:].rstrip()
    if ended.endswith('"""') and prompt.count('"""') >= 4 and _MERGING.match(head):
        return MERGED
    if chat.stream:
        return None
    if ended.endswith("```") and "emoji" in head.lower():
        return OTHER
    if prompt.startswith(("Query:", "History:")) and requested_key(system) == TOOLS:
        return TOOLS
    return OTHER if _LABELLING.match(system[:HEAD_CHARS]) else None


def _system(messages: Iterable[Message]) -> str:
    texts = [message.text for message in messages if message.role in ("system", "developer")]
    return "\n".join(texts)
