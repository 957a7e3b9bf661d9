"""Turns that go wrong or come twice: what is stored, who waits for whom, what a retry gets."""

import json
import socket
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from answers import Gate, Reset, Sse, error
from conversations import Kept, Told, asked, talk
from echo_model import chat_chunks
from openai import (
    APIError,
    APITimeoutError,
    BadRequestError,
    ConflictError,
    OpenAI,
    RateLimitError,
    Timeout,
)
from process import Chattable, chattable
from promises.house import until
from upstream import ScriptedUpstream

CONFIG = """
server: {{on_disconnect: {policy}}}
providers: {{stub: {{kind: openai, base_url: "{url}", api_key: x, retries: 0}}}}
models: {{m: {{provider: stub}}}}
sessions: {{wait: {wait}, keep_partial: {partial}}}
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def server(upstream: ScriptedUpstream) -> Iterator[Chattable]:
    """Where an answer is drained when its client leaves, as by default."""
    with chattable(
        CONFIG.format(url=upstream.url, policy="drain", wait="10s", partial="true")
    ) as running:
        yield running


@pytest.fixture(scope="module")
def hasty(upstream: ScriptedUpstream) -> Iterator[Chattable]:
    """Where an answer ends when its client leaves, and nobody waits."""
    with chattable(
        CONFIG.format(url=upstream.url, policy="cancel", wait="0.2s", partial="true")
    ) as running:
        yield running


@pytest.fixture
def gate(upstream: ScriptedUpstream) -> Iterator[Gate]:
    """What holds an answer after the role and two words."""
    upstream.clear()
    held = Gate(3)
    yield held
    held.release()


@pytest.fixture(autouse=True)
def clear(upstream: ScriptedUpstream) -> None:
    upstream.clear()


def client(server: Chattable, name: str, retries: int = 0, **options: Any) -> OpenAI:
    return OpenAI(
        base_url=f"{server.base_url}/v1",
        api_key=server.user_key(name),
        max_retries=retries,
        **({"timeout": 20} | options),
    )


def leave(
    server: Chattable,
    name: str,
    text: str,
    session: str,
    upstream: ScriptedUpstream,
    gate: Gate,
    key: str = "",
    mode: str = "",
) -> None:
    """Asks for a stream and hangs up in its middle."""
    upstream.script(gate)
    body = json.dumps(
        {"model": "m", "stream": True, "messages": [{"role": "user", "content": text}]}
    ).encode()
    lines = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
        f"{server.user_key(name)}\r\n"
    )
    lines += f"x-session-id: {session}\r\nx-session-mode: {mode}\r\nidempotency-key: {key}\r\n"
    lines += f"content-length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(server.base_url.rpartition(":")[2]))) as line:
        line.sendall(lines.encode() + body)
        gate.wait()
        seen = b""
        while b"two" not in seen:
            seen += line.recv(65536)


def rows(server: Chattable, sql: str) -> list[tuple[Any, ...]]:
    with closing(
        sqlite3.connect(server.directory / "chattable.db", timeout=10, isolation_level=None)
    ) as connection:
        return connection.execute(sql).fetchall()


change = rows


# --- turns that fail ------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", ["refused", "reset", "dies"])
def test_a_turn_that_fails_leaves_nothing(
    server: Chattable, upstream: ScriptedUpstream, how: str, stream: bool
) -> None:
    name = f"fails-{how}-{stream}"
    sdk, kept = client(server, name), Kept(server)
    talk(sdk, "one", "s")
    half = Sse(
        chat_chunks({"messages": [{"role": "user", "content": "t w o"}]})[:3],
        done=False,
        end="reset",
    )
    upstream.script({"refused": error(500, "boom"), "reset": Reset(), "dies": half}[how])
    with pytest.raises(APIError):
        talk(sdk, "two", "s", stream=stream)
    assert kept.said(name, "s") == ["u:one", "a:one"]
    assert len(kept.all(name, "s")) == 2
    talk(sdk, "three", "s", stream=stream)  # at once: the lock went with the turn
    assert asked(upstream) == ["u:one", "a:one", "u:three"]


def test_a_first_turn_that_fails_leaves_an_empty_session(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    sdk, kept = client(server, "first"), Kept(server)
    upstream.script(error(500, "boom"))
    with pytest.raises(APIError):
        talk(sdk, "one", "s")
    assert kept.said("first", "s") == []
    assert kept.session("first", "s").title is None
    assert talk(sdk, "two", "s").injected == 0
    assert kept.said("first", "s") == ["u:two", "a:two"]


# --- clients that leave ---------------------------------------------------------------------------


def test_a_client_that_leaves_finds_its_whole_answer_later(
    server: Chattable, upstream: ScriptedUpstream, gate: Gate
) -> None:
    kept = Kept(server)
    leave(server, "lea", "one two three", "s", upstream, gate)
    assert kept.said("lea", "s") == []
    gate.release()
    until(
        lambda: kept.said("lea", "s") == ["u:one two three", "a:one two three"],
        "the drained turn is kept",
    )
    assert not any(item.incomplete for item in kept.path("lea", "s"))


def test_with_cancel_the_words_so_far_are_kept_and_marked(
    hasty: Chattable, upstream: ScriptedUpstream, gate: Gate
) -> None:
    kept = Kept(hasty)
    leave(hasty, "cal", "one two three", "s", upstream, gate)
    until(
        lambda: kept.said("cal", "s") == ["u:one two three", "a:one two"], "what was said is kept"
    )
    assert [item.incomplete for item in kept.path("cal", "s")] == [False, True]
    upstream.wait(lambda: upstream.aborted == 1)
    talk(client(hasty, "cal"), "go on", "s")
    assert asked(upstream) == ["u:one two three", "a:one two", "u:go on"]


def test_a_client_that_left_may_ask_again_for_the_whole_answer(
    hasty: Chattable, upstream: ScriptedUpstream, gate: Gate
) -> None:
    kept = Kept(hasty)
    leave(hasty, "ann", "one two three", "s", upstream, gate)
    until(
        lambda: kept.said("ann", "s") == ["u:one two three", "a:one two"], "what was said is kept"
    )
    told = talk(
        client(hasty, "ann"), "one two three", "s", headers={"x-stainless-retry-count": "1"}
    )
    assert told.text == "one two three"
    assert asked(upstream) == ["u:one two three"]
    assert kept.said("ann", "s") == ["u:one two three", "a:one two three"]


def test_an_idempotency_key_of_a_client_that_left_is_good_for_the_whole_answer(
    hasty: Chattable, upstream: ScriptedUpstream, gate: Gate
) -> None:
    kept = Kept(hasty)
    leave(hasty, "kay", "one two three", "s", upstream, gate, key="k")
    until(lambda: len(kept.said("kay", "s")) == 2, "what was said is kept")
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "one two three"}],
        "stream": True,
    }
    told = httpx.post(
        f"{hasty.base_url}/v1/chat/completions",
        json=body,
        headers={
            "authorization": f"Bearer {hasty.user_key('kay')}",
            "x-session-id": "s",
            "idempotency-key": "k",
        },
    )
    assert told.text.endswith("data: [DONE]\n\n")
    assert kept.said("kay", "s")[-2:] == ["u:one two three", "a:one two three"]


def test_words_so_far_need_not_be_kept(upstream: ScriptedUpstream, gate: Gate) -> None:
    with chattable(
        CONFIG.format(url=upstream.url, policy="cancel", wait="5s", partial="false")
    ) as server:
        leave(server, "ned", "one two three", "s", upstream, gate)
        upstream.wait(lambda: upstream.aborted == 1)
        talk(client(server, "ned"), "again", "s")
        assert asked(upstream) == ["u:again"]
        assert Kept(server).said("ned", "s") == ["u:again", "a:again"]


def test_the_words_so_far_of_a_turn_that_gave_its_connection_to_somebody_are_kept(
    upstream: ScriptedUpstream, gate: Gate
) -> None:
    config = CONFIG.replace("retries: 0", "retries: 0, max_connections: 1")
    with chattable(
        config.format(url=upstream.url, policy="drain", wait="5s", partial="true")
    ) as server:
        kept = Kept(server)
        leave(server, "wes", "one two three", "s", upstream, gate)
        assert talk(client(server, "wim"), "hi").text == "hi"
        until(
            lambda: kept.said("wes", "s") == ["u:one two three", "a:one two"],
            "what was said is kept",
        )
        assert [item.incomplete for item in kept.path("wes", "s")] == [False, True]


def test_another_question_ends_a_turn_that_nobody_reads(
    server: Chattable,
    upstream: ScriptedUpstream,
    gate: Gate,
) -> None:
    kept = Kept(server)
    leave(server, "ada", "one two three", "s", upstream, gate)
    assert talk(client(server, "ada"), "go on", "s").text == "go on"  # the gate is still closed
    assert asked(upstream) == ["u:one two three", "a:one two", "u:go on"]
    assert kept.said("ada", "s") == ["u:one two three", "a:one two", "u:go on", "a:go on"]
    assert [item.incomplete for item in kept.path("ada", "s")] == [False, True, False, False]
    upstream.wait(lambda: upstream.aborted == 1)


def test_items_that_are_added_by_hand_end_it_too(
    server: Chattable,
    upstream: ScriptedUpstream,
    gate: Gate,
) -> None:
    leave(server, "abe", "one two three", "s", upstream, gate)
    item: Any = {"type": "message", "role": "user", "content": "note"}
    client(server, "abe").conversations.items.create("s", items=[item])
    assert Kept(server).said("abe", "s") == ["u:one two three", "a:one two", "u:note"]


def again(server: Chattable, name: str, gate: Gate, *, stream: bool = False) -> Told:
    """Asks while the gate is closed, and opens it once the server has the request."""
    sdk = client(server, name)
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(talk, sdk, "one two three", "s", stream=stream)
        for _ in range(5):  # by the same key, through the same database: what came before is there
            sdk.conversations.retrieve("s")
        gate.release()
        return told.result(20)


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_question_waits_for_a_turn_that_nobody_reads(
    server: Chattable, upstream: ScriptedUpstream, gate: Gate, stream: bool
) -> None:
    """And gets its answer, once: also where nothing says that it is sent again."""
    name = f"sam-{stream}"
    leave(server, name, "one two three", "s", upstream, gate)
    assert again(server, name, gate, stream=stream).text == "one two three"
    assert len(upstream.requests) == 1
    assert Kept(server).said(name, "s") == ["u:one two three", "a:one two three"]


def test_where_a_turn_that_nobody_reads_fails_the_same_question_is_asked_again(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    half = chat_chunks({"messages": [{"role": "user", "content": "one two three"}]})[:3]
    held = Gate(3, half, done=False, end="reset")
    leave(server, "fay", "one two three", "s", upstream, held)
    assert again(server, "fay", held).text == "one two three"
    assert len(upstream.requests) == 2
    assert Kept(server).said("fay", "s") == ["u:one two three", "a:one two three"]


def test_a_turn_that_its_user_left_does_not_take_them_back(
    server: Chattable,
    upstream: ScriptedUpstream,
    gate: Gate,
) -> None:
    """Whose client keeps the history, and went on with another question meanwhile."""
    sdk, kept = client(server, "max"), Kept(server)
    leave(server, "max", "one two three", "s", upstream, gate, mode="mirror")
    talk(sdk, "instead", "s", mode="mirror", stream=True)
    gate.release()
    until(lambda: len(kept.all("max", "s")) == 4, "the drained turn is kept")
    assert kept.said("max", "s") == ["u:instead", "a:instead"]
    talk(sdk, [*says("instead"), *says("on")[:1]], "s", mode="mirror")
    assert kept.said("max", "s")[-2:] == ["u:on", "a:on"]


def says(text: str) -> list[dict[str, str]]:
    """A question and its answer, which repeats it."""
    return [{"role": role, "content": text} for role in ("user", "assistant")]


@pytest.mark.parametrize("shared", [False, True])
def test_a_turn_that_nobody_reads_gives_its_place_to_its_users_next(
    upstream: ScriptedUpstream, gate: Gate, shared_redis: str, shared: bool
) -> None:
    """Also in another session. The place of somebody else it keeps."""
    config = CONFIG.format(url=upstream.url, policy="drain", wait="10s", partial="true")
    config += "rate_limits: {teams: {red: {parallel: 1}}, users: {pam: {parallel: 1}}}\n"
    config += f"redis_url: {shared_redis}\n" if shared else ""
    with chattable(config) as server:
        for name in ("pam", "pat"):
            server.admin("POST", "/admin/users", {"name": name, "team": "red"})
        leave(server, "pam", "one two three", "s", upstream, gate)
        with pytest.raises(RateLimitError) as refused:
            talk(client(server, "pat"), "hi")
        assert refused.value.type == "parallel"
        assert talk(client(server, "pam"), "hi", "t").text == "hi"
        upstream.wait(lambda: upstream.aborted == 1)
        assert Kept(server).said("pam", "s") == ["u:one two three", "a:one two"]


@pytest.mark.parametrize("same", [False, True])
def test_the_same_among_replicas(
    upstream: ScriptedUpstream,
    gate: Gate,
    tmp_path: Path,
    same: bool,
) -> None:
    config = CONFIG.format(url=upstream.url, policy="drain", wait="10s", partial="true")
    config += f'database_url: "sqlite:///{tmp_path}/shared.db"\n'
    with chattable(config) as one, chattable(config) as two:
        kept = Kept(one, f"sqlite:///{tmp_path}/shared.db")
        leave(one, "ria", "one two three", "s", upstream, gate)
        if same:
            assert again(two, "ria", gate).text == "one two three"
            assert kept.said("ria", "s") == ["u:one two three", "a:one two three"]
            assert len(upstream.requests) == 1
        else:
            assert talk(client(two, "ria"), "go on", "s").text == "go on"
            assert asked(upstream) == ["u:one two three", "a:one two", "u:go on"]
            assert kept.said("ria", "s") == ["u:one two three", "a:one two", "u:go on", "a:go on"]


RETRY = {"x-stainless-retry-count": "1"}


@pytest.mark.parametrize("stream", [False, True])
def test_who_asks_again_behind_another_question_gets_the_whole_answer_in_its_place(
    server: Chattable,
    upstream: ScriptedUpstream,
    gate: Gate,
    stream: bool,
) -> None:
    """The stored part of it is on a branch of its own from then on; nothing is there twice."""
    name = f"ivy-{stream}"
    sdk, kept = client(server, name), Kept(server)
    talk(sdk, "before", "s")
    leave(server, name, "one two three", "s", upstream, gate)
    talk(sdk, "two", "s")
    talk(sdk, "three", "s", headers=RETRY)
    used = sdk.get("/conversations/s/usage", cast_to=httpx.Response).json()["total_tokens"]
    told = talk(sdk, "one two three", "s", headers=RETRY, stream=stream)
    assert (told.text, asked(upstream)) == (
        "one two three",
        ["u:before", "a:before", "u:one two three"],
    )
    whole = ["u:one two three", "a:one two three", "u:two", "a:two", "u:three", "a:three"]
    assert kept.said(name, "s") == ["u:before", "a:before", *whole]
    assert not any(item.incomplete for item in kept.path(name, "s"))
    assert [item.message.text for item in kept.all(name, "s") if item.incomplete] == ["one two"]
    session = kept.session(name, "s")
    assert session is not None and session.message_count == 8
    assert session.usage.total_tokens - used == upstream.usage_log[-1].total_tokens
    talk(sdk, "four", "s")
    assert asked(upstream)[-3:] == ["u:three", "a:three", "u:four"]
    assert talk(sdk, "one two three", "s", headers=RETRY).text == "one two three"
    assert len(upstream.requests) == 6  # the last one was answered before


def test_the_same_words_behind_another_question_are_another_turn(
    server: Chattable, upstream: ScriptedUpstream, gate: Gate
) -> None:
    """Where nothing says that a request is sent again: a person comes back to what they stopped."""
    sdk, kept = client(server, "ina"), Kept(server)
    leave(server, "ina", "one two three", "s", upstream, gate)
    talk(sdk, "two", "s")
    talk(sdk, "one two three", "s")
    first = ["u:one two three", "a:one two", "u:two", "a:two"]
    assert kept.said("ina", "s") == [*first, "u:one two three", "a:one two three"]


def test_who_asks_the_same_after_a_part_of_its_answer_gets_the_whole_in_its_place(
    hasty: Chattable, upstream: ScriptedUpstream, gate: Gate
) -> None:
    kept = Kept(hasty)
    leave(hasty, "isa", "one two three", "s", upstream, gate)
    until(
        lambda: kept.said("isa", "s") == ["u:one two three", "a:one two"], "what was said is kept"
    )
    upstream.script(error(400, "no"))
    sdk = client(hasty, "isa")
    with pytest.raises(APIError):
        talk(sdk, "one two three", "s")
    assert kept.said("isa", "s") == ["u:one two three", "a:one two"]
    talk(sdk, "one two three", "s", headers=RETRY)
    assert asked(upstream) == ["u:one two three"]
    assert kept.said("isa", "s") == ["u:one two three", "a:one two three"]


# --- turns that come twice ------------------------------------------------------------------------


def test_a_retry_after_a_timeout_is_answered_from_the_turn_that_went_on(
    server: Chattable, upstream: ScriptedUpstream, gate: Gate
) -> None:
    """The SDK gives up on the first try, which is drained; its second try waits for that."""
    kept, held = Kept(server), Gate()
    sdk = client(server, "tim", retries=1)
    talk(sdk, "one", "s")
    upstream.script(held)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(talk, sdk.with_options(timeout=Timeout(2, read=0.3)), "two", "s")
        held.wait()
        with pytest.raises(APITimeoutError):  # both tries have timed out; the turn has not
            asking.result(20)
        assert kept.said("tim", "s") == ["u:one", "a:one"]
        held.release()
        until(lambda: len(kept.said("tim", "s")) == 4, "the drained turn is kept")
    before = len(upstream.requests)
    told = talk(sdk, "two", "s", headers={"x-stainless-retry-count": "2"})
    assert (told.text, told.message["role"]) == ("two", "assistant")
    assert (
        talk(sdk, "two", "s", stream=True, headers={"x-stainless-retry-count": "3"}).text == "two"
    )
    assert len(upstream.requests) == before == 2
    assert kept.said("tim", "s") == ["u:one", "a:one", "u:two", "a:two"]
    assert len(kept.all("tim", "s")) == 4


def test_a_retry_that_waits_gets_the_answer_of_the_first_try(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    sdk, kept, held = client(server, "wes"), Kept(server), Gate()
    upstream.script(held)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(talk, sdk, "one", "s")
        held.wait()
        second = pool.submit(talk, sdk, "one", "s", headers={"x-stainless-retry-count": "1"})
        until(lambda: not first.done(), "both are under way")
        held.release()
        assert first.result().text == second.result().text == "one"
    assert len(upstream.requests) == 1
    assert kept.said("wes", "s") == ["u:one", "a:one"]


def test_an_answer_of_long_ago_is_not_what_a_retry_waits_for(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    """Another process may have failed to give the one that it waits for."""
    sdk, kept = client(server, "old"), Kept(server)
    talk(sdk, "more", "s")
    change(server, "UPDATE session_messages SET created_at = created_at - 61")
    talk(sdk, "more", "s", headers={"x-stainless-retry-count": "1"})
    assert len(upstream.requests) == 2
    assert kept.said("old", "s") == ["u:more", "a:more"] * 2


def test_a_retry_finds_its_answer_behind_another_writers_turn(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    sdk, kept = client(server, "two"), Kept(server)
    talk(sdk, "mine", "s")
    talk(sdk, "another's", "s")
    assert talk(sdk, "mine", "s", headers={"x-stainless-retry-count": "1"}).text == "mine"
    assert kept.said("two", "s") == ["u:mine", "a:mine", "u:another's", "a:another's"]


def test_a_stored_tool_call_is_told_again_as_it_was(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    sdk = client(server, "tom")
    tools = [
        {
            "type": "function",
            "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
        }
    ]
    first = talk(sdk, "call weather", "s", tools=tools)
    again = talk(sdk, "call weather", "s", tools=tools, headers={"x-stainless-retry-count": "1"})
    assert again.message == first.message
    assert len(upstream.requests) == 1


def test_the_same_words_again_are_another_turn(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    sdk, kept = client(server, "rob"), Kept(server)
    for _ in range(2):
        talk(sdk, "more", "s")
    assert asked(upstream) == ["u:more", "a:more", "u:more"]
    assert kept.said("rob", "s") == ["u:more", "a:more"] * 2


def test_the_same_words_again_are_another_turn_also_where_the_sdk_had_to_try_twice(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    """The second turn's first try fails: its retry is not answered by the equal turn before."""
    sdk, kept = client(server, "roy", retries=1), Kept(server)
    talk(sdk, "more", "s")
    upstream.script(error(503, "busy"))
    talk(sdk, "more", "s")
    assert len(upstream.requests) == 3
    assert kept.said("roy", "s") == ["u:more", "a:more"] * 2


@pytest.mark.parametrize("mode", ["append", "mirror"])
def test_an_idempotency_key_makes_one_turn_of_all_repeats(
    server: Chattable, upstream: ScriptedUpstream, mode: str
) -> None:
    name = f"ida-{mode}"
    sdk, kept = client(server, name), Kept(server)
    told = [talk(sdk, "one", "s", mode=mode, headers={"idempotency-key": "k1"}) for _ in range(3)]
    assert len({answer.text for answer in told}) == len(upstream.requests) == 1
    talk(sdk, "two", "s", mode="append", headers={"idempotency-key": "k2"})
    assert kept.said(name, "s") == ["u:one", "a:one", "u:two", "a:two"]


@pytest.mark.parametrize("by", ["header", "body"])
def test_an_idempotency_key_is_another_one_in_another_session(
    server: Chattable,
    upstream: ScriptedUpstream,
    by: str,
) -> None:
    name = f"ivo-{by}"
    sdk, kept, key = client(server, name), Kept(server), {"idempotency-key": "k"}
    for session in ("a", "b", "a", None):
        if by == "header" or session is None:
            told = talk(sdk, "one", session, headers=key)
        else:
            told = talk(sdk, "one", conversation=session, headers=key)
        assert told.text == "one"
    assert len(upstream.requests) == 3
    for session in ("a", "b"):
        assert kept.said(name, session) == ["u:one", "a:one"]


@pytest.mark.parametrize("key", ["null", "undefined", "{{KEY}}"])
def test_an_idempotency_key_that_was_not_filled_in_is_none(
    server: Chattable,
    upstream: ScriptedUpstream,
    key: str,
) -> None:
    sdk = client(server, "nokey")
    for text in ("one", "two"):
        assert talk(sdk, text, headers={"idempotency-key": key}).text == text
    assert len(upstream.requests) == 2


# --- turns at once --------------------------------------------------------------------------------


def test_the_second_of_two_waits_and_knows_the_first(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    sdk, kept, held = client(server, "una"), Kept(server), Gate()
    upstream.script(held)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(talk, sdk, "one", "s")
        held.wait()
        second = pool.submit(talk, sdk, "two", "s")
        assert talk(sdk, "elsewhere", "t").text == "elsewhere"  # nobody waits for another session
        assert len(upstream.requests) == 2
        held.release()
        assert [first.result().text, second.result().text] == ["one", "two"]
    assert asked(upstream) == ["u:one", "a:one", "u:two"]
    assert kept.said("una", "s") == ["u:one", "a:one", "u:two", "a:two"]


def test_a_turn_that_takes_long_keeps_its_session(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    """Its lease is renewed before it ends."""
    sdk, held = client(server, "len"), Gate()
    upstream.script(held)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(talk, sdk, "one", "s")
        held.wait()
        change(server, "UPDATE sessions SET locked_until = locked_until - 14 WHERE locked_by <> ''")
        until(
            lambda: (
                rows(
                    server,
                    "SELECT MAX(locked_until) - unixepoch() FROM sessions WHERE locked_by <> ''",
                )[0][0]
                > 9
            ),
            "renewed",
        )
        held.release()
        first.result()
    assert rows(server, "SELECT COUNT(*) FROM sessions WHERE locked_by <> ''") == [(0,)]


def test_who_cannot_wait_is_told_to_come_again(
    hasty: Chattable, upstream: ScriptedUpstream
) -> None:
    sdk, held = client(hasty, "bob"), Gate()
    upstream.script(held)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(talk, sdk, "one", "s")
        held.wait()
        with pytest.raises(ConflictError) as locked:
            talk(sdk, "two", "s")
        assert (locked.value.code, locked.value.param, locked.value.type) == (
            "conversation_locked",
            "conversation",
            "invalid_request_error",
        )
        headers = locked.value.response.headers
        assert (headers["x-should-retry"], headers["retry-after"]) == ("true", "1")
        held.release()
        first.result()
    assert talk(client(hasty, "bob"), "two", "s").injected == 2


def test_a_default_sdk_gets_through_a_busy_session(
    hasty: Chattable, upstream: ScriptedUpstream
) -> None:
    """It is told to try again, and does."""
    sdk, held = client(hasty, "pat", retries=3), Gate()
    upstream.script(held)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(talk, sdk, "one", "s")
        held.wait()
        second = pool.submit(talk, sdk, "two", "s")
        until(
            lambda: hasty.log().count("409") > 0 or second.done(), "the second is refused once", 10
        )
        held.release()
        first.result()
        second.result()
    assert Kept(hasty).said("pat", "s") == ["u:one", "a:one", "u:two", "a:two"]


def test_mirror_never_waits(hasty: Chattable, upstream: ScriptedUpstream) -> None:
    sdk, kept, held = client(hasty, "mia"), Kept(hasty), Gate(1)
    upstream.script(held)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(talk, sdk, "one", "s", mode="mirror", stream=True)
        held.wait()
        talk(sdk, "other", "s", mode="mirror", stream=True)
        assert kept.said("mia", "s") == ["u:other", "a:other"]
        held.release()
        first.result()
    assert kept.said("mia", "s") == ["u:one", "a:one"]
    assert len(kept.all("mia", "s")) == 4


def test_a_turn_that_is_refused_before_it_is_asked_frees_the_session(
    hasty: Chattable, upstream: ScriptedUpstream
) -> None:
    sdk = client(hasty, "ron")
    for _ in range(3):
        with pytest.raises(BadRequestError):
            talk(sdk, [{"role": "tool", "tool_call_id": "x", "content": "y"}], "s", mode="append")
    assert talk(sdk, "one", "s").injected == 0
