"""Reads a streamed answer as the least forgiving client would: whatever any known client trips over is an error here.

It shares no code with the server and none with any SDK, and it reads bytes, so that nothing is
tidied up before it looks.
"""

import json
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]
FINISHES = ("stop", "length", "tool_calls", "content_filter", "function_call")
HEAD = ("id", "object", "created", "model")
ERROR = {"message", "type", "param", "code"}
TEXTS = ("content", "reasoning_content", "reasoning", "refusal")


class LawBroken(AssertionError):
    """A stream that some client cannot read."""


def law(holds: object, text: str, *facts: object) -> None:
    """Raises unless the law holds."""
    if not holds:
        raise LawBroken(f"{text}: {', '.join(map(repr, facts))}" if facts else text)


@dataclass
class Call:
    """A tool call as it grows."""

    id: str
    kind: str
    name: str
    text: str


@dataclass
class Choice:
    """One choice as it grows."""

    texts: dict[str, str] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    function_call: dict[str, str] = field(default_factory=dict)
    logprobs: list[Body] = field(default_factory=list)
    deltas: int = 0
    finish: str | None = None

    @property
    def text(self) -> str:
        return self.texts.get("content", "")

    def grow(self, delta: Body) -> None:
        """Takes a delta that is not the last."""
        law(
            ("role" in delta) == (self.deltas == 0),
            "the role comes with the first delta and never again",
            delta,
        )
        law(delta.get("role", "assistant") == "assistant", "the role is `assistant`", delta)
        self.deltas += 1
        for name in TEXTS:
            if name in delta:
                law(
                    isinstance(delta[name], str) or (delta[name] is None and "role" in delta),
                    "text is a string",
                    delta,
                )
                self.texts[name] = self.texts.get(name, "") + (delta[name] or "")
        if "tool_calls" in delta:
            law(
                isinstance(delta["tool_calls"], list) and delta["tool_calls"],
                "tool_calls is a list of pieces",
                delta,
            )
            for piece in delta["tool_calls"]:
                self.call(piece)
        for name, text in delta.get("function_call", {}).items():
            self.function_call[name] = self.function_call.get(name, "") + text

    def call(self, piece: Body) -> None:
        """Takes a piece of a tool call."""
        index = piece.get("index")
        law(
            type(index) is int and 0 <= index <= len(self.calls),
            "calls have an index and begin in its order",
            piece,
        )
        assert isinstance(index, int)
        if index < len(self.calls):
            known = self.calls[index]
            body = "function" if known.kind == "function" else "custom"
            text = "arguments" if known.kind == "function" else "input"
            law(
                set(piece) == {"index", body} and set(piece[body]) == {text},
                "id, type and name come once",
                piece,
            )
            law(isinstance(piece[body][text], str), "arguments are a string", piece)
            known.text += piece[body][text]
            return
        kind: Any = piece.get("type")
        law(kind in ("function", "custom"), "a call's first piece has its type", piece)
        body, text = piece[kind], "arguments" if kind == "function" else "input"
        law(
            isinstance(piece.get("id"), str) and piece["id"],
            "a call's first piece has its id",
            piece,
        )
        law(piece["id"] not in [call.id for call in self.calls], "every call has its own id", piece)
        law(
            isinstance(body.get("name"), str) and body["name"],
            "a call's first piece has its name",
            piece,
        )
        law(isinstance(body.get(text), str), "arguments are a string", piece)
        self.calls.append(Call(piece["id"], kind, body["name"], body[text]))


@dataclass
class StrictStream:
    """A streamed answer that kept every law, put together."""

    choices: list[Choice]
    usage: Body | None
    error: Body | None
    chunks: list[Body]
    comments: int

    @property
    def text(self) -> str:
        """The first choice's text."""
        return self.choices[0].text


def events(stream: bytes) -> tuple[list[bytes], int]:
    """The data of every event, and how many comments there were."""
    stream.decode()  # UTF-8 throughout
    law(b"\r" not in stream, "lines end with a line feed alone")
    law(stream.endswith(b"\n\n"), "the last event ends with a blank line", stream[-40:])
    found, comments = [], 0
    for block in stream[:-2].split(b"\n\n"):
        if block.startswith(b":"):
            law(b"\n" not in block, "a comment stands alone", block)
            comments += 1
        else:
            law(block.startswith(b"data: "), "every line is a comment or data", block)
            law(
                b"\n" not in block and block != b"data: ",
                "an event is one line, and not empty",
                block,
            )
            found.append(block[6:])
    return found, comments


def read(
    stream: bytes,
    *,
    include_usage: bool = False,
    n: int = 1,
    fails: bool = False,
    unsaid: bool = False,
) -> StrictStream:
    """The answer in a stream's bytes; `LawBroken` when anything is out of order.

    `fails`: it must end with an error. `unsaid`: its first choice must never say why it ended.
    """
    data, comments = events(stream)
    law((data[-1] == b"[DONE]") != fails, "[DONE] comes last, unless the answer failed", data[-1])
    law(b"[DONE]" not in data[:-1], "[DONE] comes once")
    raw = [json.loads(item) for item in (data if fails else data[:-1])]
    law(all(isinstance(chunk, dict) for chunk in raw), "every event is an object")
    error = raw.pop() if fails else None
    if error:
        law(
            set(error) == {"error"} and set(error["error"]) == ERROR,
            "an error has its four keys",
            error,
        )
    law(not any("error" in chunk for chunk in raw), "an error is the last event")
    usage = raw.pop() if include_usage and not fails else None
    if usage:
        law(usage["choices"] == [], "the usage comes last, with no choice", usage)
        check_usage(usage["usage"])
    law(raw or fails, "an answer has chunks")
    heads = {tuple(chunk[name] for name in HEAD) for chunk in [*raw, *([usage] if usage else [])]}
    law(len(heads) <= 1, "one id, created and model throughout", heads)
    choices: list[Choice] = []
    for chunk in raw:
        take(chunk, choices, include_usage)
    if not fails:
        law(len(choices) == n, "as many choices as were asked for", len(choices))
        law(all(choice.finish for choice in choices[unsaid:]), "every choice ends")
        law(not unsaid or choices[0].finish is None, "an end that nobody gave is not invented")
    return StrictStream(choices, usage and usage["usage"], error and error["error"], raw, comments)


def take(chunk: Body, choices: list[Choice], include_usage: bool) -> None:
    """One chunk that is neither usage nor error."""
    law(
        isinstance(chunk["id"], str) and chunk["id"] and isinstance(chunk["model"], str),
        "id and model are text",
        chunk,
    )
    law(
        chunk["object"] == "chat.completion.chunk" and type(chunk["created"]) is int,
        "a chunk says what it is and when",
        chunk,
    )
    law(
        include_usage == ("usage" in chunk) and chunk.get("usage") is None,
        "usage: null where asked for, else none",
        chunk,
    )
    law(isinstance(chunk["choices"], list) and chunk["choices"], "a chunk has a choice", chunk)
    for part in chunk["choices"]:
        law(
            {"index", "delta", "logprobs", "finish_reason"} == set(part),
            "a choice has its four fields",
            part,
        )
        index, finish = part["index"], part["finish_reason"]
        law(
            type(index) is int and 0 <= index <= len(choices),
            "choices begin in the order of their index",
            part,
        )
        if index == len(choices):
            choices.append(Choice())
        choice = choices[index]
        law(choice.finish is None, "nothing follows a choice's end", part)
        law(finish is None or finish in FINISHES, "the finish reason is one of OpenAI's", part)
        if part["logprobs"] is not None:
            choice.logprobs += part["logprobs"].get("content") or []
        if finish:
            law(
                part["delta"] == {} and choice.deltas,
                "the finish reason comes alone, after the role",
                part,
            )
            choice.finish = finish
        else:
            law(part["delta"] or part["logprobs"], "a delta says something", part)
            choice.grow(part["delta"])


def check_usage(usage: Body) -> None:
    """Usage is three whole numbers whose sum is right."""
    counts: list[Any] = [
        usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    ]
    law(all(type(count) is int and count >= 0 for count in counts), "usage is whole numbers", usage)
    law(counts[0] + counts[1] == counts[2], "usage adds up", usage)
