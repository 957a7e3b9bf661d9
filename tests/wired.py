"""What every test of a wire needs: bytes read in any blocks, folded into answers, and requests damaged in every way."""

import json
import random
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from chattable.adapters.wire import Wire
from chattable.agents.chat import Chat, Chunk
from chattable.agents.chattable import Context, Gateway
from chattable.agents.errors import InvalidRequest
from chattable.agents.fold import FINISHES, Accumulator, Choice, StreamNormalizer
from chattable.agents.parsing import parse

DATA = Path(__file__).parent / "wire" / "data"


class Alone(Gateway):
    """The gateway of an upstream, which asks no other model."""

    threads: Executor = ThreadPoolExecutor(1)

    def run(self, chat: Chat, parent: Context) -> AsyncGenerator[Chunk]:
        raise AssertionError("an upstream asks no other model")

    def client(self, ctx: Context) -> AsyncOpenAI:
        raise AssertionError("an upstream asks no other model")

    def run_credentials(self, ctx: Context) -> tuple[str, str]:
        raise AssertionError("an upstream asks no other model")


def read(wire: Wire, blocks: Iterable[bytes]) -> tuple[list[Chunk], bool, bool]:
    """The chunks of a stream that comes in these blocks, whether it came to its end, and whether more may come."""
    decoder, reader = wire.framing.decoder(), wire.stream_reader()
    chunks = [
        chunk for block in blocks for event in decoder.feed(block) for chunk in reader.feed(event)
    ]
    return chunks, reader.complete, reader.ended


def folded(chunks: Iterable[Chunk]) -> Accumulator:
    """The answer of these chunks; on the way, the law of the normal form is checked."""
    normal, fold = StreamNormalizer(), Accumulator()
    roles: set[int] = set()
    ended: set[int] = set()
    calls: dict[int, set[str]] = {}
    outs = [out for chunk in chunks for out in normal.feed(chunk)] + normal.end()
    for out in outs:
        fold.add(out)
        if out.usage:
            assert out is outs[-1] and not out.delta
            continue
        assert out.index not in ended and ("role" in out.delta) == (out.index not in roles)
        roles.add(out.index)
        assert sorted(roles) == list(range(len(roles)))
        for call in out.delta.get("tool_calls", ()):
            known = calls.setdefault(out.index, set())
            if "id" in call:
                assert (
                    call["index"] == len(known)
                    and call["id"]
                    and call["type"] == "function"
                    and call["id"] not in known
                )
                known.add(call["id"])
            else:
                assert call["index"] < len(known)
        if out.finish_reason:
            assert out.delta == {} and out.finish_reason in FINISHES
            ended.add(out.index)
    assert ended == roles
    return fold


def streamed(wire: Wire, data: bytes) -> Accumulator:
    """The answer of a whole stream, which must come to its end."""
    chunks, complete, ended = read(wire, [data])
    assert complete and ended
    return folded(chunks)


def only(fold: Accumulator) -> Choice:
    [choice] = fold.choices()
    return choice


def same_for_every_cut(wire: Wire, data: bytes) -> None:
    """Law: what a stream means does not depend on the blocks it comes in, be they cut in the middle of a letter."""
    whole = read(wire, [data])
    assert read(wire, [data[i : i + 1] for i in range(len(data))]) == whole
    for at in range(1, len(data)):
        assert read(wire, [data[:at], data[at:]]) == whole


def damaged(everything: Any, seed: int, rounds: int = 300) -> Iterator[Chat]:
    """Requests that the house lets in, with values of any type anywhere."""
    dice = random.Random(seed)
    junk = [
        "null",
        "0",
        "-1",
        "1.5",
        '"x"',
        '""',
        "[]",
        "[null]",
        "[5]",
        "{}",
        '{"type": "x"}',
        '{"type": "thinking"}',
        "true",
    ]
    for _ in range(rounds):
        body = json.loads(json.dumps(everything))
        for _ in range(dice.randint(1, 3)):
            holder: Any = body
            while inner := [
                value for value in _inside(holder) if isinstance(value, dict | list) and value
            ]:
                if dice.random() < 0.3:
                    break
                holder = dice.choice(inner)
            at = (
                dice.choice(list(holder))
                if isinstance(holder, dict)
                else dice.randrange(len(holder))
            )
            holder[at] = json.loads(dice.choice(junk))
        try:
            yield parse(body)
        except InvalidRequest:
            continue


def bodies(chats: Iterable[Chat], ask: Callable[[Chat], bytes]) -> int:
    """How many of these requests become a body; the others must be refused properly."""
    count = 0
    for chat in chats:
        try:
            json.loads(ask(chat))
            count += 1
        except InvalidRequest as error:
            assert error.message
    return count


def _inside(holder: Any) -> list[Any]:
    return list(holder.values()) if isinstance(holder, dict) else holder
