"""Whether a gateway passes on what an upstream says: checks by single requests, and a budget."""

import itertools
import json
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import uvloop
from answers import Answer, Gate, Plain, Request, Sse, error
from echo_model import Body, chat_chunks, chat_completion
from gateways import BUDGET, Gateway, Start, ask, first_answer
from load import Load, measure
from rows import chat, tool
from setups import Running
from upstream import ScriptedUpstream

PATIENCE_S = 5.0  # how long the first word of a stream may take that the upstream has sent
PARALLEL = 200  # requests at once against a budget
PAUSE_S = 0.02  # before each word of those answers: all are under way at the same time

NUMBERS = itertools.count()

Usage = tuple[int, int]  # prompt, completion
ToolCall = tuple[str, str, Any]  # id, name, arguments


@dataclass(frozen=True)
class Asked:
    """A gateway before a scripted upstream."""

    gateway: Gateway
    running: Running
    upstream: ScriptedUpstream

    def body(self, text: str = "one two three four five", **fields: Any) -> Body:
        # No two questions are equal: an answer from a cache would say nothing of the upstream's.
        said = [{"role": "user", "content": f"{text} {next(NUMBERS)}"}]
        return {"model": self.gateway.model, "messages": said, **fields}

    def streamed(self, text: str = "one two three four five", **fields: Any) -> Body:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        return self.body(text, **options, **fields)

    def whole(self, body: Body) -> Body:
        with ask(self.gateway, self.running, body) as answer:
            read: Body = json.loads(answer.read())
        return read

    @contextmanager
    def events(self, body: Body) -> Iterator[Iterator[Body]]:
        """Yields the events of a stream as they come."""
        with ask(self.gateway, self.running, body, PATIENCE_S) as answer:
            lines = (line[6:].strip() for line in answer if line.startswith(b"data: "))
            yield (json.loads(line) for line in lines if line != b"[DONE]")

    def status(self, answer: Answer) -> int:
        """Returns the status that a client gets where the upstream gives nothing but this."""
        proper = self.upstream.reply
        self.upstream.reply = lambda request: answer
        try:
            with ask(self.gateway, self.running, self.body()) as got:
                return int(got.status)
        except urllib.error.HTTPError as refused:
            return refused.code
        finally:
            self.upstream.reply = proper


# What is wrong, or nothing.
Check = Callable[[Asked], str]
TOOLS = [tool(1), tool(2)]
BOTH = "call look_up_1 and look_up_2"


def tool_calls(asked: Asked) -> str:
    body = asked.body(BOTH, tools=TOOLS)
    sent = chat_completion(body)
    asked.upstream.script(Plain(200, sent))
    return compared(calls(asked.whole(body)), calls(sent))


def streamed_tool_calls(asked: Asked) -> str:
    body = asked.streamed(BOTH, tools=TOOLS)
    sent = chat_chunks(body)
    asked.upstream.script(Sse(sent))
    with asked.events(body) as events:
        return compared(folded(events), folded(iter(sent)))


def calls(completion: Body) -> list[ToolCall]:
    """Returns the tool calls of an unstreamed answer."""
    found = completion["choices"][0]["message"].get("tool_calls") or []
    return [called(call["id"], call["function"]) for call in found]


def folded(events: Iterator[Body]) -> list[ToolCall]:
    """Returns the tool calls of a stream, put together as OpenAI's documentation says."""
    found: dict[int, tuple[str, Body]] = {}
    deltas = (choice["delta"] for event in events for choice in event.get("choices") or [])
    for piece in (piece for delta in deltas for piece in delta.get("tool_calls") or []):
        function = piece.get("function") or {}
        id, whole = found.get(piece["index"], ("", {"name": "", "arguments": ""}))
        for part in whole:
            whole[part] += function.get(part) or ""
        found[piece["index"]] = (id or piece.get("id") or "", whole)
    return [called(id, function) for id, function in found.values()]


def called(id: str, function: Body) -> ToolCall:
    try:
        return id, function["name"], json.loads(function["arguments"])
    except ValueError:
        return id, function["name"], f"no JSON: {function['arguments']!r}"


def compared(got: object, sent: object) -> str:
    return "" if got == sent else f"{got} of {sent}"


def real_streaming(asked: Asked) -> str:
    """Holds the upstream after its second word: the first one must have come out."""
    gate = Gate(3)
    asked.upstream.script(gate)
    try:
        with asked.events(asked.streamed()) as events:
            for event in events:
                if any(choice["delta"].get("content") for choice in event.get("choices") or []):
                    return ""
        return "no word came"
    except TimeoutError:
        return "no word comes before the upstream's last"
    finally:
        gate.release()


def streamed_usage(asked: Asked) -> str:
    body = asked.streamed()
    sent = chat_chunks(body)
    asked.upstream.script(Sse(sent))
    with asked.events(body) as events:
        return compared(usages(events), usages(iter(sent)))


def usages(events: Iterator[Body]) -> list[Usage]:
    """Returns what each usage of a stream says."""
    found = (event["usage"] for event in events if event.get("usage"))
    return [(usage["prompt_tokens"], usage["completion_tokens"]) for usage in found]


def status_of(status: int) -> Check:
    """Returns the check that a client sees an upstream's refusal as what it is."""
    said = error(status, "no", headers={"retry-after": "1"} if status == 429 else {})

    def check(asked: Asked) -> str:
        got = asked.status(said)
        same = got // 100 == 5 if status >= 500 else got == status
        return "" if same else f"{got} for {status}"

    return check


CHECKS: dict[str, Check] = {
    "tool calls": tool_calls,
    "tool calls, streamed": streamed_tool_calls,
    "streams are real": real_streaming,
    "usage in streams": streamed_usage,
    "400 of the upstream": status_of(400),
    "429 of the upstream": status_of(429),
    "500 of the upstream": status_of(500),
}


def fidelity(gateway: Gateway) -> dict[str, str]:
    """Returns what is wrong by check; nothing where a check passes."""
    with ScriptedUpstream() as upstream, gateway.start(upstream.port) as running:
        first_answer(gateway, running)
        return {
            name: checked(check, Asked(gateway, running, upstream))
            for name, check in CHECKS.items()
        }


def checked(check: Check, asked: Asked) -> str:
    """Runs one check; whatever an answer looks like that it cannot read is what is wrong."""
    try:
        return check(asked)
    except urllib.error.HTTPError as refused:
        return f"{refused.code} {refused.read(300).decode(errors='replace').strip()}"
    except Exception as problem:
        return repr(problem)


@dataclass(frozen=True)
class Spent:
    """What came of many requests at once against a small budget."""

    answered: int
    tokens: int

    @property
    def beyond(self) -> int:
        return max(0, self.tokens - BUDGET)


def spent(gateway: Gateway, start: Start) -> Spent:
    """Sends many streamed requests at once, and counts at the upstream what they cost."""
    with ScriptedUpstream() as upstream, start(upstream.port) as running:
        first_answer(gateway, running)
        upstream.reply = slowly
        body = json.loads(chat(gateway.model, stream=True)) | {"max_tokens": 20}
        load = Load(
            port=running.port,
            path=gateway.path,
            headers=running.headers,
            body=json.dumps(body).encode(),
            connections=PARALLEL,
            requests=PARALLEL,
            expect=b"[DONE]",
        )
        seen = uvloop.run(measure(replace(load, deadline_s=60)))
        return Spent(seen.requests - seen.bad, upstream.tokens)


def slowly(request: Request) -> Answer:
    return Sse(chat_chunks(request.json), delay_s=PAUSE_S)
