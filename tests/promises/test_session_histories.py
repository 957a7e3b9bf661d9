"""Histories of conversations that many write at once, checked whole.

On SQLite with two workers, on PostgreSQL with two replicas.

Every question is asked once in the world, and every answer names its question and the upstream call
that gave it. So of each conversation it can be said what belongs to which turn, which call saw
which history, and what must not be there.
"""

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psutil
import pytest
from answers import (
    CHUNKED_SSE,
    Answer,
    Gate,
    Plain,
    Raw,
    Request,
    Sse,
    error,
    framed,
    head,
    sse_event,
)
from conversations import Kept, asked, lines
from echo_model import chat_chunks, chat_completion
from process import Chattable, chattable, free_port
from promises.bases import Base
from promises.clients import connections
from promises.conftest import make
from promises.house import ADMIN_KEY, gone, until
from upstream import ScriptedUpstream

from chattable.proxy.store.sessions.port import Item

SESSIONS, TURNS, WRITERS = 20, 10, 2  # 200 turns
TRIES = 30
CONFIG = """
server: {{workers: {workers}}}
database_url: "{database}"
admin_keys: [{key}]
providers: {{stub: {{kind: openai, base_url: "{url}", api_key: x, retries: 0}}}}
models: {{m: {{provider: stub}}}}
"""


class Model:
    """An upstream that does what the question says.

    It answers with the question's name and the number of the call.
    """

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.upstream = upstream
        self.gates: dict[str, Gate] = {}
        upstream.reply = self.reply

    def reply(self, request: Request) -> Answer:
        question = request.json["messages"][-1]["content"]
        number = self.calls[question]
        said = request.json | {
            "messages": [{"role": "user", "content": answer_to(question, number)}]
        }
        first = number == 1 or "always" in question
        if "boom" in question and first:
            return error(500, "boom")
        if "dies" in question and first:
            if not request.json.get("stream"):
                return Raw([Plain(200, chat_completion(said)).render()[:150]])
            events = chat_chunks(said)[:3]
            return Raw([head(200, CHUNKED_SSE), *(framed(sse_event(event)) for event in events)])
        if question in self.gates:
            return self.gates[question]
        return (
            Sse(chat_chunks(said), delay_s=0.002)
            if request.json.get("stream")
            else Plain(200, chat_completion(said))
        )

    @property
    def calls(self) -> Counter[str]:
        """How often each question was asked, the call that is being answered included."""
        return Counter(
            request.json["messages"][-1]["content"] for request in list(self.upstream.requests)
        )


def answer_to(question: str, call: int) -> str:
    return f"to {question} #{call}"


class Replicas:
    """One house with two doors."""

    def __init__(
        self, base: Base, folder: Path, model: Model, *, workers: int, count: int, stack: ExitStack
    ) -> None:
        self.base, self.model, self._stack = base, model, stack
        self._config = CONFIG.format(
            workers=workers, database=base.url, key=ADMIN_KEY, url=model.upstream.url
        )
        self._places = [(folder / str(i), free_port()) for i in range(count)]
        for place, _ in self._places:
            place.mkdir()
        self.servers: list[Chattable] = [self._started(i) for i in range(count)]
        self.kept = Kept(self.servers[0], base.url)

    def _started(self, i: int) -> Chattable:
        place, port = self._places[i]
        return self._stack.enter_context(
            chattable(
                self._config, directory=place, port=port, timeout=60, CHATTABLE_ADMIN_KEY=ADMIN_KEY
            )
        )

    def kill(self) -> None:
        """SIGKILL to one replica, or to a worker of the only one; then there are as many again."""
        victim = self.servers[0]
        if len(self.servers) > 1:
            for process in victim.tree():
                process.kill()
            until(lambda: not victim.running, "the replica is dead")
            self.servers[0] = self._started(0)
            return
        worker = busiest(victim)
        worker.kill()
        gone(worker)
        until(lambda: self.healthy(victim), "a worker answers")

    @staticmethod
    def healthy(server: Chattable) -> bool:
        try:
            return bool(server.admin("GET", "/admin/users"))
        except OSError:
            return False

    def locked(self) -> int:
        """How many sessions have a turn under way, drained ones included."""
        return int(self.base.rows("SELECT COUNT(*) FROM sessions WHERE locked_by <> ''")[0][0])

    def idle(self) -> None:
        """Waits until every turn is over."""
        until(lambda: not self.locked(), "every session is free", 20)


def busiest(server: Chattable) -> psutil.Process:
    """The worker that talks to the upstream or to clients most."""
    port = int(server.base_url.rpartition(":")[2])

    def clients(process: psutil.Process) -> int:
        found = process.net_connections("tcp4")
        return sum(
            c.status == psutil.CONN_ESTABLISHED and bool(c.laddr) and c.laddr.port == port
            for c in found
        )

    return max(server.tree()[1:], key=clients)


@pytest.fixture(scope="module")
def replicas(
    kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    folder = tmp_path_factory.mktemp(f"histories-{kind}")
    base = make(kind, request, folder)
    workers, count = (2, 1) if kind == "sqlite" else (1, 2)
    with ScriptedUpstream() as upstream, ExitStack() as stack:
        yield Replicas(base, folder, Model(upstream), workers=workers, count=count, stack=stack)


@dataclass
class Turn:
    """What a writer asked, and what it was told."""

    question: str
    answer: str | None = None  # None: never acknowledged
    drained: bool = False  # it left, but somebody must have answered


@dataclass
class Writer:
    """Asks one thing after the other in a session, at any replica; retries as SDKs do."""

    replicas: Replicas
    key: str
    session: str
    name: str
    dice: random.Random
    turns: list[Turn] = field(default_factory=list)
    status: int = 0  # of the last answer; 0 where there was none

    async def write(self, count: int) -> None:
        async with connections() as http:
            for i in range(count):
                fate = self.dice.choices(
                    ["", "leaves", "again", "dies", "boom", "dies always"], [60, 10, 10, 10, 5, 5]
                )[0]
                await self.turn(http, f"{self.session} {self.name} {i} {fate}".strip(), fate)

    async def turn(self, http: aiohttp.ClientSession, question: str, fate: str = "") -> None:
        told = Turn(question)
        self.turns.append(told)
        leaves = fate in ("leaves", "again")
        stream = leaves or self.dice.random() < 0.5
        for attempt in range(2 if "always" in fate else TRIES):
            body = {
                "model": "m",
                "stream": stream,
                "messages": [{"role": "user", "content": question}],
            }
            told.answer, left = await self.ask(
                http, body, attempt, leave=leaves and not told.drained
            )
            told.drained = told.drained or left
            if told.answer is not None or (left and fate == "leaves"):
                return
            # As SDKs do, though not as long; another's question may come before who left asks
            # again.
            await asyncio.sleep(self.dice.random() * 0.3 if left else 0.05)

    async def ask(
        self,
        http: aiohttp.ClientSession,
        body: Any,
        attempt: int = 0,
        *,
        leave: bool = False,
        mode: str = "append",
        at: Chattable | None = None,
    ) -> tuple[str | None, bool]:
        """The whole answer, if it came; and whether this client left in its middle."""
        server = at or self.dice.choice(self.replicas.servers)
        headers = {
            "authorization": f"Bearer {self.key}",
            "x-session-id": self.session,
            "x-session-mode": mode,
        }
        headers["x-stainless-retry-count"] = str(attempt)
        self.status = 0
        try:
            async with http.post(
                f"{server.base_url}/v1/chat/completions", json=body, headers=headers
            ) as response:
                self.status, seen = response.status, b""
                async for block in response.content.iter_any():
                    seen += block
                    if leave and response.status == 200 and b'"content":"' in seen:
                        response.close()
                        return None, True
        except (aiohttp.ClientError, ConnectionError):
            return None, False
        return (said_in(seen) if response.status == 200 else None), False

    def post(
        self, question: str, session: str = "s", attempt: int = 0
    ) -> tuple[int, str, str | None]:
        """The status, the body and the words of one plain answer."""
        told = httpx.post(
            f"{self.replicas.servers[0].base_url}/v1/chat/completions",
            json={"model": "m", "messages": [{"role": "user", "content": question}]},
            headers={
                "authorization": f"Bearer {self.key}",
                "x-session-id": session,
                "x-stainless-retry-count": str(attempt),
            },
            timeout=30,
        )
        return (
            told.status_code,
            told.text,
            said_in(told.content) if told.status_code == 200 else None,
        )


def said_in(body: bytes) -> str | None:
    """The words of an answer that came whole."""
    if body[:1] == b"{":
        return str(json.loads(body)["choices"][0]["message"]["content"])
    if not body.endswith(b"data: [DONE]\n\n"):
        return None
    chunks = [
        json.loads(event[6:])
        for event in body.decode().split("\n\n")
        if event.startswith("data: {")
    ]
    return "".join(
        chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]
    )


def check(replicas: Replicas, user: str, writers: Sequence[Writer]) -> Counter[str]:
    """The law, of every session that these writers wrote in; returns what was seen.

    Where a client left and another question came, its turn ended early: a part of its answer is
    kept, marked as that, until its own writer has asked again and got the whole.
    """
    seen = Counter[str]()
    told: dict[str, list[Turn]] = defaultdict(list)
    for writer in writers:
        told[writer.session] += writer.turns
    prompts: dict[str, list[list[str]]] = defaultdict(list)
    for request in replicas.model.upstream.requests:
        prompts[request.json["messages"][-1]["content"]].append(lines(request.json["messages"]))
    for session, turns in told.items():
        items = replicas.kept.path(user, session)
        path = [f"{item.message.role[0]}:{item.message.text}" for item in items]
        questions, answers = [one[2:] for one in path[::2]], [one[2:] for one in path[1::2]]
        assert [one[:2] for one in path] == ["u:", "a:"] * (len(path) // 2), path
        assert len(set(questions)) == len(questions), "a question is there twice"
        left = {turn.question for turn in turns if turn.drained}
        parts = parts_of(replicas.kept.all(user, session))
        assert parts.keys() <= left, "an answer was cut that somebody read"
        whole = dict(zip(questions, answers, strict=True))
        cut = {one for one, item in zip(questions, items[1::2], strict=True) if item.incomplete}
        for question, answer in whole.items():
            possible = [answer_to(question, n + 1) for n in range(len(prompts[question]))]
            if question in cut:
                assert possible[-1].startswith(answer), (question, answer)
            else:
                assert answer in possible, (question, answer)
        assert whole.keys() <= {turn.question for turn in turns}
        for turn in turns:
            seen[("acknowledged" if turn.answer else "left" if turn.drained else "failed")] += 1
            seen["cut"] += turn.question in cut
            seen["completed"] += turn.question in parts and turn.question not in cut
            if turn.answer is not None:
                assert turn.question not in cut
                assert whole.get(turn.question) == turn.answer, f"{turn} is lost or changed"
            assert not turn.drained or turn.question in whole, f"{turn} was not drained"
            assert "always" not in turn.question or turn.question not in whole, (
                f"{turn} never was answered"
            )
            for call, prompt in enumerate(prompts[turn.question], 1):
                seen["calls"] += 1
                last = call == len(prompts[turn.question])
                where = (
                    2 * questions.index(turn.question) if last and turn.question in whole else None
                )
                before = len(prompt) - 1 if where is None else where
                assert len(prompt) == before + 1 and prompt[-1] == f"u:{turn.question}"
                assert before % 2 == 0
                for line, kept, above in zip(prompt[:-1], path, ["", *path], strict=False):
                    known = line == kept or line[2:] in parts.get(above[2:], ())
                    assert known, f"call {call} saw another history"
            # asked again only because a call had failed
            if turn.question in whole and turn.question not in cut:
                assert whole[turn.question] == answer_to(
                    turn.question, len(prompts[turn.question])
                ), "it was asked once more"
    return +seen


def parts_of(items: Sequence[Item]) -> dict[str, set[str]]:
    """What is kept of answers that were cut, on all branches, by their questions."""
    questions = {item.id: item.message.text for item in items}
    parts: dict[str, set[str]] = defaultdict(set)
    for item in items:
        if item.incomplete:
            assert item.parent is not None
            parts[questions[item.parent]].add(item.message.text)
    return parts


def test_200_turns_of_40_writers_in_20_sessions(replicas: Replicas) -> None:
    """Half of them at once with another in the same session; some leave, fail or try again."""
    user, dice = "ada", random.Random(20261121)
    key = replicas.servers[0].user_key(user)
    writers = [
        Writer(replicas, key, f"s{i // WRITERS}", f"w{i % WRITERS}", random.Random(dice.random()))
        for i in range(SESSIONS * WRITERS)
    ]

    async def all_at_once() -> None:
        await asyncio.gather(*(writer.write(TURNS // WRITERS) for writer in writers))

    asyncio.run(all_at_once())
    replicas.idle()
    seen = check(replicas, user, writers)
    print(seen)
    assert seen["acknowledged"] + seen["left"] + seen["failed"] == SESSIONS * TURNS
    assert (
        min(
            seen["acknowledged"],
            seen["left"],
            seen["failed"],
            seen["calls"] - SESSIONS * TURNS // 2,
        )
        > 0
    )


def test_a_kill_in_the_middle_of_a_turn_leaves_what_was_acknowledged(replicas: Replicas) -> None:
    """The dead turn is nowhere, and its lock ends with its lease.

    Its retry at another replica knows what was said before.
    """
    user = "kim"
    key = replicas.servers[0].user_key(user)
    writer = Writer(replicas, key, "s", "w", random.Random(1))
    gate = replicas.model.gates["kim killed"] = Gate(
        3, chat_chunks({"messages": [{"role": "user", "content": "never heard of"}]})
    )

    async def turn(question: str, server: Chattable, attempt: int = 0) -> str | None:
        async with connections() as http:
            body = {
                "model": "m",
                "stream": True,
                "messages": [{"role": "user", "content": question}],
            }
            return (await writer.ask(http, body, attempt, at=server))[0]

    async def killed() -> None:
        first, last = replicas.servers[0], replicas.servers[-1]
        for i, server in enumerate((first, last)):
            writer.turns.append(Turn(f"kim {i}", await turn(f"kim {i}", server)))
        doomed = asyncio.create_task(turn("kim killed", first))
        await gate.arrival()
        await asyncio.to_thread(replicas.kill)
        assert await doomed is None
        gate.release()
        del replicas.model.gates["kim killed"]
        assert await asyncio.to_thread(replicas.locked) == 1
        # the lease ends
        await asyncio.to_thread(
            replicas.base.change, "UPDATE sessions SET locked_until = locked_until - 15"
        )
        answers = [
            await turn("kim killed", replicas.servers[-1], 1),
            await turn("kim after", replicas.servers[0]),
        ]
        writer.turns += [Turn("kim killed", answers[0]), Turn("kim after", answers[1])]

    asyncio.run(killed())
    assert asked(replicas.model.upstream)[-3:] == [
        "u:kim killed",
        "a:to kim killed #2",
        "u:kim after",
    ]
    replicas.idle()
    assert check(replicas, user, [writer]) == {"acknowledged": 4, "calls": 5}


def test_writers_who_keep_their_own_history_make_branches_and_lose_none(replicas: Replicas) -> None:
    """Twelve windows on one chat that resend what they see, edit and ask again, at once."""
    user, count = "uma", 12
    key = replicas.servers[0].user_key(user)
    seen: list[list[str]] = []

    async def window(number: int) -> None:
        dice = random.Random(number)
        writer = Writer(replicas, key, "s", f"w{number}", dice)
        shown: list[dict[str, str]] = []
        async with connections() as http:
            for i in range(5):
                if shown and dice.random() < 0.4:  # an edit, or another answer
                    del shown[2 * dice.randrange(len(shown) // 2) :]
                shown.append(
                    {"role": "user", "content": f"mirror {'all' if not shown else number} {i}"}
                )
                body = {"model": "m", "stream": True, "messages": shown}
                answer, _ = await writer.ask(http, body, mode="mirror")
                # a slow database keeps nothing of it
                while answer is None and writer.status == 503:
                    answer, _ = await writer.ask(http, body, mode="mirror")
                assert answer is not None
                shown.append({"role": "assistant", "content": answer})
                seen.append(lines(shown))

    async def all_at_once() -> None:
        await asyncio.gather(*(window(number) for number in range(count)))

    asyncio.run(all_at_once())
    items = {item.id: item for item in replicas.kept.all(user, "s")}
    paths = set()
    for item in items.values():
        path = []
        at = item
        while True:
            path.append(f"{at.message.role[0]}:{at.message.text}")
            if at.parent is None:
                break
            at = items[at.parent]
        paths.add(tuple(reversed(path)))
    assert len(paths) == len(items), "a message is there twice"
    assert {tuple(one) for one in seen} <= paths
    assert {path for path in paths if path[-1][0] == "a"} == {tuple(one) for one in seen}
    assert replicas.kept.said(user, "s") in seen
    assert not any(item.side for item in items.values())


def test_a_turn_that_was_thought_dead_comes_too_late(replicas: Replicas) -> None:
    """A turn whose lease ended while another came first is told so, and is nowhere."""
    if len(replicas.servers) == 1:
        pytest.skip("workers behind one door cannot be told apart")
    user = "zoe"
    writer = Writer(replicas, replicas.servers[0].user_key(user), "s", "w", random.Random(1))
    gate = replicas.model.gates["zoe late"] = Gate(
        3, chat_chunks({"messages": [{"role": "user", "content": "too late by far"}]})
    )

    def body(question: str) -> Any:
        return {"model": "m", "stream": True, "messages": [{"role": "user", "content": question}]}

    async def late() -> None:
        async with connections() as http:
            first = asyncio.create_task(writer.ask(http, body("zoe late"), at=replicas.servers[0]))
            await gate.arrival()
            await asyncio.to_thread(replicas.base.change, "UPDATE sessions SET locked_until = 0")
            answer, _ = await writer.ask(http, body("zoe first"), at=replicas.servers[1])
            writer.turns.append(Turn("zoe first", answer))
            gate.release()
            del replicas.model.gates["zoe late"]
            assert (await first)[0] is None
            writer.turns.append(
                Turn(
                    "zoe late",
                    (await writer.ask(http, body("zoe late"), 1, at=replicas.servers[0]))[0],
                )
            )

    asyncio.run(late())
    assert check(replicas, user, [writer]) == {"acknowledged": 2, "calls": 3}


def test_a_database_that_is_away_is_a_503_and_the_talk_goes_on_after_it(replicas: Replicas) -> None:
    """With a session and without; a turn that it interrupts is not called complete."""
    user = "pam"
    writer = Writer(replicas, replicas.servers[0].user_key(user), "s", "w", random.Random(1))
    writer.turns.append(Turn("pam before", writer.post("pam before")[2]))
    gate = replicas.model.gates["pam interrupted"] = Gate(0)
    with ThreadPoolExecutor(3) as pool:
        interrupted = pool.submit(writer.post, "pam interrupted")
        gate.wait()
        with replicas.base.away():
            gate.release()
            asking = [pool.submit(writer.post, f"pam {session}", session) for session in ("t", "")]
            refused = [one.result() for one in (*asking, interrupted)]
    # no limit is set, which each process believes for a moment before it asks the database again
    stateless = refused.pop(1)
    assert [status for status, _, _ in refused] == [503, 503]
    refused += [stateless] if stateless[0] != 200 else []
    assert {json.loads(text)["error"]["code"] for _, text, _ in refused} == {"database_unavailable"}
    del replicas.model.gates["pam interrupted"]
    replicas.base.change("UPDATE sessions SET locked_until = 0")
    until(lambda: replicas.healthy(replicas.servers[0]), "it is back")
    for question, attempt in (("pam interrupted", 1), ("pam after", 0)):
        writer.turns.append(Turn(question, writer.post(question, attempt=attempt)[2]))
    assert check(replicas, user, [writer]) == {"acknowledged": 3, "calls": 4}
