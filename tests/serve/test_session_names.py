"""Names of sessions as bytes on a socket: whatever is sent is a session, none, or a 400."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from conversations import Kept, asked, talk
from openai import BadRequestError, OpenAI
from process import Chattable, chattable
from upstream import ScriptedUpstream

CONFIG = """
providers: {{stub: {{kind: openai, base_url: "{url}", api_key: x, retries: 0}}}}
models: {{m: {{provider: stub}}}}
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def server(upstream: ScriptedUpstream) -> Iterator[Chattable]:
    with chattable(CONFIG.format(url=upstream.url)) as running:
        yield running


@pytest.fixture(autouse=True)
def clear(upstream: ScriptedUpstream) -> None:
    upstream.clear()


def send(
    server: Chattable, user: str, *headers: bytes, **fields: Any
) -> tuple[int, dict[str, str], Any]:
    """One request with these header lines as they are."""
    said = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields
    body = json.dumps(said).encode()
    first = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
        f"{server.user_key(user)}\r\n"
    )
    first += f"connection: close\r\ncontent-length: {len(body)}\r\n"
    with socket.create_connection(
        ("127.0.0.1", int(server.base_url.rpartition(":")[2])), timeout=10
    ) as line:
        line.sendall(
            first.encode() + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body
        )
        seen = b""
        while block := line.recv(65536):
            seen += block
    head, _, rest = seen.partition(b"\r\n\r\n")
    status, *shown = head.decode("latin-1").split("\r\n")
    pairs = [one.partition(": ") for one in shown]
    found = {name.lower(): value for name, _, value in pairs}
    if found.get("transfer-encoding") == "chunked":
        rest = rest.partition(b"\r\n")[2].rpartition(b"\r\n0\r\n")[0]
    return int(status.split()[1]), found, json.loads(rest) if rest[:1] == b"{" else rest


BAD = {
    "bell": b"a\x07b",
    "escape": b"\x1b[2J",
    "delete": b"a\x7fb",
    "tab": b"a\tb",
    "10 KiB": b"x" * 10_240,
    "513": b"x" * 513,
    "c1": "a\u0085b".encode(),
}


@pytest.mark.parametrize("name", BAD.values(), ids=BAD.keys())
def test_a_name_that_is_none_is_refused(
    server: Chattable, upstream: ScriptedUpstream, name: bytes
) -> None:
    status, _, answer = send(server, "bad", b"x-session-id: " + name)
    assert status == 400
    assert answer["error"].keys() == {"message", "type", "param", "code"}
    if answer["error"]["code"] != "invalid_http":  # else the HTTP parser has refused it
        assert (answer["error"]["param"], answer["error"]["code"]) == (
            "X-Session-Id",
            "invalid_value",
        )
        assert answer["error"]["message"].isprintable()
        assert len(answer["error"]["message"]) < 300
    assert upstream.requests == []
    assert Kept(server).sessions("bad") == []


@pytest.mark.parametrize(
    "name", ["a\x07b", "a\r\nx-evil: 1", "a\x00b", "x" * 513, "x" * 10_240, "\u2028", "a\ud83d"]
)
def test_a_name_in_the_body_is_refused_for_the_same_reasons(
    server: Chattable, upstream: ScriptedUpstream, name: str
) -> None:
    for conversation in (name, {"id": name}):
        status, headers, answer = send(server, "body", conversation=conversation)
        assert status == 400
        assert answer["error"].keys() == {"message", "type", "param", "code"}
        assert "x-evil" not in headers
    assert upstream.requests == []
    assert Kept(server).sessions("body") == []


EMPTY = {
    "empty": b"",
    "spaces": b"   ",
    "placeholder": b"{{LIBRECHAT_BODY_CONVERSATIONID}}",
    "other": b"{{CHAT_ID}}",
}
NOTHING = [
    "null", "NULL", "undefined", "None", "none", "nil", "NaN", "(null)", "<nil>", "n/a", '""', "[]",
    "{}", "{chat_id}", "${CHAT_ID}", "$CHAT_ID", "<chat_id>", "%CHAT_ID%", "[object Object]",
    "00000000-0000-0000-0000-000000000000",
]  # fmt: skip
LEFT_OUT = {**EMPTY, **{name: name.encode() for name in NOTHING}}


@pytest.mark.parametrize("name", LEFT_OUT.values(), ids=LEFT_OUT.keys())
def test_a_name_that_a_client_left_out_is_no_session(
    server: Chattable, upstream: ScriptedUpstream, name: bytes
) -> None:
    status, headers, _ = send(
        server, "nobody", b"x-session-id: " + name, b"x-conversation-id: " + name
    )
    assert (status, headers["x-session-mode"]) == (200, "off")
    assert "x-session-id" not in headers


@pytest.mark.parametrize(
    "conversation",
    [None, "", "{{CHAT_ID}}", {"id": ""}, "null", {"id": "undefined"}],
)
def test_nor_is_one_in_the_body(server: Chattable, conversation: Any) -> None:
    status, headers, _ = send(server, "nobody", conversation=conversation)
    assert (status, headers["x-session-mode"]) == (200, "off")


def test_none_of_them_was_made_a_session(server: Chattable) -> None:
    send(server, "nobody", b"x-session-id: null", b"x-conversation-id: null", conversation="null")
    assert Kept(server).sessions("nobody") == []


@pytest.mark.parametrize("task", ["null", "undefined", "None", "{{TASK}}"])
def test_a_task_that_was_not_filled_in_is_none(server: Chattable, task: str) -> None:
    _, headers, _ = send(server, "tasks", b"x-session-id: s", b"x-task: " + task.encode())
    assert headers["x-session-mode"] == "appended"


@pytest.mark.parametrize("name", ["null", "undefined", "None", "{{LIBRECHAT_USER_ID}}"])
def test_an_end_user_that_was_not_filled_in_is_nobody(server: Chattable, name: str) -> None:
    """Else all whose name is missing would share one user, and their sessions."""
    key = server.user_key("the-ui", trusted=True)
    sdk = OpenAI(base_url=f"{server.base_url}/v1", api_key=key, max_retries=0)
    ways: tuple[Any, ...] = (({"X-User-Id": name}, {}), ({}, {"user": name}))
    for headers, more in ways:
        talk(sdk, "hi", headers=headers, **more)
    users = server.admin("GET", "/admin/users?limit=1000")["data"]
    assert name not in {user["name"] for user in users}


@pytest.mark.parametrize("name", ["null", "{{CHAT_ID}}", "new"])
def test_no_conversation_is_given_a_name_by_which_no_request_finds_it(
    server: Chattable,
    name: str,
) -> None:
    headers = {"authorization": f"Bearer {server.user_key('alias')}"}
    made = httpx.post(f"{server.base_url}/v1/conversations", json={"alias": name}, headers=headers)
    assert (made.status_code, made.json()["error"]["param"]) == (400, "alias")


def test_an_empty_header_lets_the_next_one_speak(server: Chattable) -> None:
    for lines, wanted in (
        ([b"x-session-id:", b"x-conversation-id: c"], "c"),
        ([b"x-conversation-id: {{X}}"], "b"),
    ):
        _, headers, _ = send(server, "next", *lines, conversation="b")
        assert Kept(server).session("next", wanted).id == headers["x-session-id"]


GOOD = {
    "utf-8": "日本 – Ω".encode(),
    "latin-1": "Müller".encode("latin-1"),
    "512": b"y" * 512,
    "sql": b"'; DROP TABLE sessions; --",
    "path": b"../../etc/passwd",
    "percent": b"%00%0d%0a",
    "like": b"%",
    "quote": b'"; x="',
    "uuid": b"6b1d5b8e-7f0a-4d6a-9a55-0e6f2f9a4b11",
    "guid": b"{6b1d5b8e-7f0a-4d6a-9a55-0e6f2f9a4b11}",
    "null-ish": b"nullable",
    "zero": b"0",
}


@pytest.mark.parametrize("name", GOOD.values(), ids=GOOD.keys())
def test_any_printable_name_is_one(
    server: Chattable, upstream: ScriptedUpstream, name: bytes
) -> None:
    status, headers, _ = send(server, "good", b"x-session-id: " + name)
    assert (status, headers["x-session-injected"]) == (200, "0")
    text = name.decode("latin-1" if name == GOOD["latin-1"] else "utf-8")
    assert Kept(server).session("good", text).id == headers["x-session-id"]
    assert send(server, "good", conversation=text)[1]["x-session-injected"] == "2"
    assert asked(upstream) == ["u:hi", "a:hi", "u:hi"]


def test_names_are_compared_letter_by_letter(server: Chattable) -> None:
    names = ["a", "A", "á", "a\u0301", "a b", "a  b", "conv_", "_", "%"]
    sessions = [send(server, "letters", conversation=name)[1]["x-session-id"] for name in names]
    assert len(set(sessions)) == len(names)


def test_a_line_break_in_a_header_is_never_a_header(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    """What follows it is a header of the request, or refused; it is in no answer and no name."""
    for bad in (
        b"x-session-id: a\r\n b",
        b"x-session-id: a\rb",
        b"x-session-id: a\nx-evil: 1",
        b"x-session-id: a\x00b",
    ):
        status, headers, _ = send(server, "breaks", bad)
        assert status in (200, 400), bad
        assert "x-evil" not in headers
        assert all(name.isascii() for name in headers)
    assert all(
        session.alias.isprintable() for session in Kept(server).sessions("breaks") if session.alias
    )
    assert not any("evil" in name for request in upstream.requests for name in request.headers)


def test_a_header_that_says_two_things_is_refused(server: Chattable) -> None:
    status, headers, answer = send(server, "twice", b"x-session-id: a", b"x-session-id: b")
    assert status == 400, headers
    assert answer["error"]["param"] == "X-Session-Id"
    assert Kept(server).sessions("twice") == []
    assert send(server, "twice", b"x-session-id: a", b"x-session-id: a")[0] == 200


def test_no_name_reaches_the_upstream(server: Chattable, upstream: ScriptedUpstream) -> None:
    send(
        server,
        "leak",
        b"x-session-id: canary",
        b"x-conversation-id: canary",
        b"x-task: canary",
        conversation="canary",
    )
    request = upstream.requests[-1]
    assert "canary" not in json.dumps(request.headers)
    assert b"canary" not in request.body


def test_a_mode_and_a_task_are_words(server: Chattable, upstream: ScriptedUpstream) -> None:
    sdk = OpenAI(
        base_url=f"{server.base_url}/v1",
        api_key=server.user_key("words"),
        max_retries=0,
        timeout=20,
    )
    assert talk(sdk, "one", "s", mode="APPEND").mode == "appended"
    assert talk(sdk, "two", "s", mode="{{MODE}}", task="{{TASK}}").mode == "appended"
    with pytest.raises(BadRequestError):
        talk(sdk, "three", mode="sometimes")  # also where no session is named
    assert len(upstream.requests) == 2
