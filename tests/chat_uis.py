"""Chat UIs as they are: what Open WebUI and LibreChat send for a turn, and for their own ends.

The requests have the shapes, read from Open WebUI 0.12.4 (Python) and from LibreChat with
@librechat/agents 3.9.2 (an OpenAI client in JavaScript), with the headers that docs/sessions.md
tells admins to set, placeholders filled in. The prompts have the frames of theirs, in our words.
"""

import itertools
import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import httpx
from conversations import Body, Kept, Told, lines
from process import Chattable

from chattable.proxy.store.sessions.port import Item


class LibreChat:
    """A custom endpoint of LibreChat."""

    system = ({"role": "system", "content": "Today is Saturday."},)

    def headers(self, user: str, chat: str, task: str = "") -> dict[str, str]:
        return {
            "user-agent": "OpenAI/JS 5.12.2",
            "x-stainless-lang": "js",
            "x-stainless-retry-count": "0",
            "x-conversation-id": chat,
            "x-message-id": str(uuid4()),
            "x-parent-message-id": "00000000-0000-0000-0000-000000000000",
            "x-user-id": user,
            "x-user-email": f"{user}@example.org",
        }

    def body(self, messages: Sequence[Body], **fields: Any) -> Body:
        return {
            "model": "tutor",
            "user": "66f0c2a5e7b1f2c3d4e5f607",
            "stream": True,
            "messages": [*self.system, *messages],
        } | fields

    def chore(self, prompt: str, role: str = "user") -> Body:
        messages = [{"role": role, "content": prompt}]
        return {"model": "tutor", "user": "66f0c2a5e7b1f2c3d4e5f607", "messages": messages}

    def title(self, said: str, answer: str = "", role: str = "user") -> Body:
        wish = "Provide a short title for the conversation, in title case. Only return the title."
        return self.chore(f"{wish}\n\nConversation:\n{self.quoted(said, answer)}", role)

    def quoted(self, said: str, answer: str = "") -> str:
        return f"User: {said}\nAI: {answer}"

    def structured(self, said: str, *, tool: bool = False) -> Body:
        """A title by schema: in the answer's form, or as the arguments of a function."""
        wish = "Analyze this conversation and say:\n1. Its language\n2. A title of few words"
        text = {"type": "string"}
        schema = {
            "type": "object",
            "properties": {"language": text, "title": text},
            "required": ["language", "title"],
        }
        form: Body = {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": schema},
            }
        }
        if tool:
            function = {"type": "function", "function": {"name": "extract", "parameters": schema}}
            form = {
                "tools": [function],
                "tool_choice": {"type": "function", "function": {"name": "extract"}},
            }
        return self.chore(f"{wish}\n\n{self.quoted(said)}") | form

    def label(self) -> Body:
        """The header of a folded group of steps."""
        system = "Write a label of a few words for these steps: the header of a group in a chat UI."
        chore = self.chore("Steps:\n- searched for otters")
        return chore | {"messages": [{"role": "system", "content": system}, *chore["messages"]]}

    def title_in(self, told: Told) -> str:
        return told.text


class OpenWebUI:
    """An OpenAI connection of Open WebUI that forwards who its user is."""

    system = ()

    def headers(self, user: str, chat: str, task: str = "") -> dict[str, str]:
        return {
            "user-agent": "Python/3.11 aiohttp/3.12",
            "x-openwebui-user-name": "M%C3%BCller",
            "x-openwebui-user-id": user,
            "x-openwebui-user-email": f"{user}@example.org",
            "x-openwebui-user-role": "user",
            "x-openwebui-chat-id": chat,
            "x-task": task,
        }

    def body(self, messages: Sequence[Body], **fields: Any) -> Body:
        return {"stream": True, "model": "tutor", "messages": list(messages)} | fields

    def chore(self, wish: str, form: str, *history: str) -> Body:
        prompt = f"### Task:\n{wish}\n### Guidelines:\n- Use the chat's language.\n"
        prompt += f"### Output:\nJSON format: {form}\n"
        prompt += f"### Chat History:\n<chat_history>\n{self.quoted(*history)}\n</chat_history>"
        return self.lone(prompt)

    def lone(self, prompt: str, **fields: Any) -> Body:
        messages = [{"role": "user", "content": prompt}]
        return {
            "model": "tutor",
            "messages": messages,
            "stream": False,
            "max_tokens": 1000,
        } | fields

    def quoted(self, *history: str) -> str:
        speakers = itertools.cycle(("USER", "ASSISTANT"))
        return "\n".join(f"{who}: {text}" for who, text in zip(speakers, history, strict=False))

    def chores(self, *history: str) -> dict[str, Body]:
        """Everything that it asks for its own ends, by the name of the task."""
        last, quoted = history[len(history) - 1 & ~1], self.quoted(*history)
        completion = "### Task:\nYou complete texts. Go on with the text in `<text>`.\n"
        completion += 'If unsure, return: `{ "text": "" }`.\n'
        completion += f"<chat_history>\n{quoted}\n</chat_history>\n<type>General</type>\n"
        completion += f"<text>{last[:2]}</text>\n#### Output:\n"
        merging = f'You have a set of responses from several models to the query: "{last}"\n\n'
        merging += "Make one of them.\n\n"
        merging += 'Responses from models: """first answer"""\n\n"""second answer"""'
        compaction = "### Task:\nSummarize what will be cut off.\n### Previous Summary:\n\n"
        compaction += f"### Messages Being Compacted:\n{quoted}\n\n"
        compaction += "### Recent Messages:\nUSER: and now"
        tools = "Available Tools: []\n\nChoose tools by the query. The format is:\n"
        tools += '{\n  "tool_calls": [\n    {"name": "a"}\n  ]\n}'
        memory = "Review the turn. Return only JSON in this shape:\n"
        memory += '  {"operations":[\n    {"action":"add"}\n  ]}\n\nConversation:\n'
        memory += quoted.lower().replace("\n", "\n\n")
        query = f'History:\nUSER: """{history[0]}"""\nQuery: {last}'
        return {
            "title_generation": self.title(*history[:2]),
            "tags_generation": self.chore("Name broad tags.", '{ "tags": ["tag1"] }', *history),
            "follow_up_generation": self.chore(
                "Predict 3-5 useful things that the user might send next.",
                '{ "follow_ups": ["Next?"] }',
                *history,
            ),
            "query_generation": self.chore(
                "Decide whether to search.",
                '{ "queries": ["query1"] }',
                *history,
            ),
            "image_prompt_generation": self.chore(
                "Describe a picture.",
                '{\n    "prompt": "Words."\n}',
                *history,
            ),
            "autocomplete_generation": self.lone(completion),
            "moa_response_generation": self.lone(merging, stream=True),
            "emoji_generation": self.lone(f"Find an emoji.\n\nMessage: ```{last}```", max_tokens=4),
            "context_compaction": self.lone(compaction),
            "function_calling": self.told(tools, query),
            "memory_review": self.told("You look after memories. Return only valid JSON.", memory),
        }

    def told(self, system: str, prompt: str) -> Body:
        """A prompt behind instructions."""
        chore = self.lone(prompt)
        return chore | {"messages": [{"role": "system", "content": system}, *chore["messages"]]}

    def title(self, said: str, answer: str = "") -> Body:
        wish = "Write a title of 2-4 words that sums up the chat history."
        return self.chore(wish, '{ "title": "your concise title here" }', said, answer)

    def title_in(self, told: Told) -> str:
        return str(json.loads(told.text)["title"])


class Window:
    """A chat in a UI, as its user sees it: every request resends the branch that is shown."""

    def __init__(self, ui: LibreChat | OpenWebUI, server: Chattable, user: str) -> None:
        self.ui, self.server, self.user, self.chat = ui, server, user, str(uuid4())
        self._key = server.user_key("the-ui", trusted=True)
        self.kept = Kept(server)
        self.shown: list[Body] = []

    def post(self, body: Body, task: str = "") -> Told:
        """Sends a request and reads the answer as the UI does."""
        sent = self.ui.headers(self.user, self.chat, task)
        told = httpx.post(
            f"{self.server.base_url}/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {self._key}"} | sent,
            timeout=20,
        )
        assert told.status_code == 200, told.text
        if not body.get("stream"):
            message = told.json()["choices"][0]["message"]
            return Told(message["content"], dict(told.headers), message)
        assert told.text.endswith("data: [DONE]\n\n")
        events = told.text.split("\n\n")
        chunks = [json.loads(event[6:]) for event in events if event.startswith("data: {")]
        return Told(
            "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]),
            dict(told.headers),
        )

    def say(self, text: str) -> Told:
        """The user writes, and sees the answer."""
        self.shown.append({"role": "user", "content": text})
        return self.answer()

    def answer(self) -> Told:
        """Asks for an answer to what is shown, as after an edit or for another one."""
        told = self.post(self.ui.body(self.shown))
        self.shown.append({"role": "assistant", "content": told.text})
        return told

    def agrees(self) -> None:
        """What is stored is what the user sees, and no message of any branch is there twice."""
        assert self.kept.said(self.user, self.chat) == lines(self.shown)
        items = self.all()
        assert len({(item.parent, item.message.role, item.message.text) for item in items}) == len(
            items,
        )
        assert not any(item.side for item in self.kept.path(self.user, self.chat))

    def all(self) -> list[Item]:
        return self.kept.all(self.user, self.chat)
