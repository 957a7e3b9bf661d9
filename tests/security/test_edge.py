"""The edge of the server on real sockets: what is refused says why, whoever asks is answered."""

import gzip
import json
import socket
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import brotli
import pytest
from answers import Gate, Plain, error
from echo_model import ask
from faults.world import wait_for
from process import chattable
from security.victim import Got, Victim, refused
from upstream import ScriptedUpstream

from chattable.proxy.parsing import json_bounds as bounds

try:
    from compression import zstd  # of the standard library, from Python 3.14 on
except ImportError:
    from backports import zstd

MAX_BODY = 2**20
CONFIG = """
server: {{max_body_mb: 1}}
providers: {{stub: {{kind: openai, base_url: "{url}", retries: 0}}}}
models: {{m: {{provider: stub}}, "any/*": {{provider: stub, model: "*"}}}}
agents: {{echo: {{use: "chattable.agents.echo:Echo"}}}}
"""
HELLO = json.dumps(ask("hello there", model="echo")).encode()
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def server(upstream: ScriptedUpstream) -> Iterator[Victim]:
    with chattable(CONFIG.format(url=upstream.url)) as running:
        yield Victim(running)


def length(body: bytes) -> bytes:
    return b"content-length: %d\r\n\r\n" % len(body) + body


def said(got: Got | None) -> str:
    assert got is not None and got.status == 200, got
    return json.loads(got.body)["choices"][0]["message"]["content"]


# --- what is refused says why ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/responses/x", ["chat/completions", "models", "embeddings", "conversations"]),
        ("/v1/chat/completion", ["/v1/chat/completions?"]),
        ("/chat/completions/x", ["/v1/chat/completions?"]),
        ("/v2/anything", ["below /v1", "POST /v1/chat/completions"]),
    ],
)
def test_a_path_that_nobody_serves_says_what_is_served(
    server: Victim,
    path: str,
    words: list[str],
) -> None:
    got = refused(server.post(HELLO, path), 404)
    assert got.error["code"] == "not_found" and path.rpartition("/")[2] in got.error["message"]
    assert all(word in got.error["message"] for word in words), got.error["message"]


PACK: dict[str, Any] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
}


def too_large(got: Got | None) -> None:
    error = refused(got, 413).error
    assert error["code"] == "request_too_large"
    assert "1 MiB" in error["message"] and "server.max_body_mb" in error["message"]


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/v1/embeddings", "/v1/conversations", "/v1/conversations/import"],
)
def test_a_body_that_is_too_large_names_the_limit_and_its_setting(
    server: Victim,
    path: str,
) -> None:
    too_large(server.post(b" " * (MAX_BODY + 1), path))


@pytest.mark.parametrize("encoding", PACK)
def test_one_that_unpacks_to_too_much_does_too(server: Victim, encoding: str) -> None:
    too_large(
        server.post(
            PACK[encoding](b" " * (MAX_BODY + 1)),
            headers=b"content-encoding: %b\r\n" % encoding.encode(),
        )
    )


@pytest.mark.parametrize("encoding", PACK)
def test_packed_bodies_are_read(server: Victim, encoding: str) -> None:
    for name in (encoding, encoding.upper()):
        assert (
            said(
                server.post(
                    PACK[encoding](HELLO),
                    headers=b"content-encoding: %b\r\n" % name.encode(),
                )
            )
            == "hello there"
        )


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize("how", ["empty", "torn", "followed", "nonsense"])
def test_packed_bodies_that_are_broken_are_refused(server: Victim, encoding: str, how: str) -> None:
    whole = PACK[encoding](HELLO)
    body = {
        "empty": b"",
        "torn": whole[:-3],
        "followed": whole + b"more",
        "nonsense": b"\xff" * 40,
    }[how]
    got = refused(server.post(body, headers=b"content-encoding: %b\r\n" % encoding.encode()), 400)
    assert encoding in got.error["message"]


def test_a_frame_that_wants_more_memory_than_clients_may_ask_for_is_refused(server: Victim) -> None:
    body = zstd.compress(
        b" " * 1000,
        options={
            zstd.CompressionParameter.window_log: 24,
            zstd.CompressionParameter.content_size_flag: 0,
        },
    )
    refused(server.post(body, headers=b"content-encoding: zstd\r\n"), 400)


@pytest.mark.parametrize("encoding", ["lz4", "gzip, gzip"])
def test_other_encodings_are_told_which_are_taken(server: Victim, encoding: str) -> None:
    got = refused(server.post(HELLO, headers=b"content-encoding: %b\r\n" % encoding.encode()), 415)
    assert got.error["code"] == "unsupported_media_type"
    assert all(known in got.error["message"] for known in ("gzip", "deflate", "zstd", "br", "none"))


def test_bytes_that_are_no_http_are_refused_in_our_shape_and_logged(server: Victim) -> None:
    got = refused(server.send(b"HELLO THERE\r\n\r\n"), 400)
    assert got.headers["connection"] == "close"
    wait_for(
        lambda: "" if got.headers["x-request-id"] in server.server.log() else "it is not logged",
    )


# --- cost before the parse ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/v1/embeddings", "/v1/conversations", "/admin/users"],
)
def test_what_would_cost_too_much_to_parse_is_refused(server: Victim, path: str) -> None:
    admin = b"authorization: Bearer %b\r\n" % server.keys["admin"].encode()
    deep = b'{"x": %b}' % (b"[" * bounds.MAX_DEPTH + b'"\\ud800"' + b"]" * bounds.MAX_DEPTH)
    many = b'{"x": [%b]}' % b",".join([b"[]"] * bounds.MAX_PARTS)
    for body, word in ((deep, "100 levels"), (many, "100,000")):
        got = refused(server.post(body, path, auth=admin), 400)
        assert got.error["code"] == "request_too_complex" and word in got.error["message"]
    assert server.post(
        deep.replace(b"[", b"", 1).replace(b"]", b"", 1),
        path,
        auth=admin,
    ).status in (400, 404, 200)


def test_who_has_no_tokens_left_hears_so_before_a_large_body_is_parsed(server: Victim) -> None:
    key = server.server.user_key("spent")
    server.server.admin(
        "POST",
        "/admin/budgets",
        {"subject": {"user": "spent"}, "tokens": 0, "per": "total"},
    )
    auth = b"authorization: Bearer %b\r\n" % key.encode()
    no_json = b"no JSON"
    assert refused_for_budget(
        server.post(gzip.compress(no_json), headers=b"content-encoding: gzip\r\n", auth=auth),
    )
    assert refused(
        server.post(no_json, auth=auth),
        400,
    )  # where parsing costs nothing, it comes first
    assert refused(server.post(gzip.compress(no_json), headers=b"content-encoding: gzip\r\n"), 400)


def refused_for_budget(got: Got) -> bool:
    assert (got.status, got.error["code"]) == (429, "insufficient_quota")
    return "spent" in got.error["message"]


# --- RFC 9112 ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "framing",
    [b"content-length: 1835008\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n1c0000\r\n"],
)
@pytest.mark.parametrize("connection", [b"close", b"keep-alive"])
def test_a_client_that_sends_too_much_before_it_reads_gets_its_413(
    server: Victim,
    connection: bytes,
    framing: bytes,
) -> None:
    with server.line() as line:
        line.sendall(CHAT + server.auth + b"connection: %b\r\n" % connection + framing)
        for _ in range(28):
            line.sendall(b" " * 65536)
        too_large(server.receive(line))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "headers",
    [b"", b"connection: keep-alive\r\n", b"expect: 100-continue\r\n"],
)
def test_http_1_0_gets_no_chunks_and_its_answer_ends_with_the_connection(
    server: Victim,
    stream: bool,
    headers: bytes,
) -> None:
    body = json.dumps(ask("hello there", model="echo", stream=stream)).encode()
    with server.line() as line:
        line.sendall(
            b"POST /v1/chat/completions HTTP/1.0\r\n" + server.auth + headers + length(body),
        )
        head, _, rest = b"".join(iter(lambda: line.recv(65536), b"")).partition(b"\r\n\r\n")
    assert b" 200 " in head and b"transfer-encoding" not in head and b"connection: close" in head
    if stream:
        assert b"content-length" not in head
        assert rest.startswith(b"data: {") and rest.endswith(b"data: [DONE]\n\n")
    else:
        assert b"content-length: %d\r\n" % len(rest) in head + b"\r\n"
        assert json.loads(rest)["object"] == "chat.completion"


@pytest.mark.parametrize("model", ["echo", "m"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_half_closes_is_served_whole(
    server: Victim,
    model: str,
    stream: bool,
) -> None:
    body = json.dumps(ask("hello there", model=model, stream=stream)).encode()
    with server.line() as line:
        line.sendall(CHAT + server.auth + length(body))
        line.shutdown(socket.SHUT_WR)
        got = server.receive(line)
    assert got is not None and got.status == 200
    if stream:
        assert got.body.endswith(b"data: [DONE]\n\n")
    else:
        assert said(got) == "hello there"


def test_a_client_that_leaves_in_the_middle_of_its_request_is_no_error_of_ours(
    server: Victim,
) -> None:
    since = log_so_far(server)
    with server.line() as line:
        line.sendall(CHAT + server.auth + b"content-length: 100\r\n\r\n{")
    assert logged(server, since, 1) == [499]


@pytest.mark.parametrize("how", ["resets", "closes"])
def test_a_client_that_leaves_before_its_answer_is_no_shutdown(
    how: str,
    upstream: ScriptedUpstream,
) -> None:
    config = CONFIG.replace("{{max_body_mb: 1}}", "{{on_disconnect: cancel}}")
    with chattable(config.format(url=upstream.url)) as own:
        server = Victim(own)
        since = log_so_far(server)
        gate = Gate()
        upstream.script(gate)
        with server.line() as line:
            line.sendall(CHAT + server.auth + length(json.dumps(ask("hi", model="m")).encode()))
            gate.wait()
            if how == "resets":
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert logged(server, since, 1) == [499]
        gate.release()


def log_so_far(server: Victim) -> int:
    """How much was logged of all that was asked until now."""
    known = server.post(b"", "/health", method=b"GET").headers["x-request-id"]
    wait_for(lambda: "" if known in server.server.log() else "it is not logged")
    return len(server.server.log())


def logged(server: Victim, since: int, count: int) -> list[int]:
    """The statuses of the requests that were logged since then."""

    def lines() -> list[dict[str, Any]]:
        new = server.server.log()[since:].splitlines()
        return [json.loads(line) for line in new if line.startswith("{")]

    wait_for(lambda: "" if len(lines()) >= count else f"{lines()} are logged")
    return [line["status"] for line in lines()]


# --- headers -----------------------------------------------------------------------------------


def test_errors_of_an_upstream_say_who_was_asked_and_how_often(
    server: Victim,
    upstream: ScriptedUpstream,
) -> None:
    for path, body in (
        ("/v1/chat/completions", ask("hi", model="m")),
        ("/v1/chat/completions", ask("hi", model="m", stream=True)),
        ("/v1/embeddings", {"model": "m", "input": "hi"}),
    ):
        upstream.script(error(400, "no such thing"), path=path.removeprefix("/v1"))
        got = refused(server.post(json.dumps(body).encode(), path), 400)
        assert (got.headers["x-chattable-model"], got.headers["x-chattable-attempts"]) == (
            "stub/m",
            "1",
        )
    got = refused(server.post(json.dumps(ask("hi", model="nobody")).encode()), 404)
    assert "x-chattable-model" not in got.headers  # nobody was asked


def test_an_upstream_s_429_is_told_apart_from_ours(
    server: Victim,
    upstream: ScriptedUpstream,
) -> None:
    upstream.script(error(429, "slow down", "rate_limit_exceeded"), path="/chat/completions")
    got = server.post(json.dumps(ask("hi", model="m")).encode())
    assert (got.status, got.error["type"], got.error["code"]) == (
        429,
        "upstream_error",
        "rate_limit_exceeded",
    )
    assert got.error["message"] == "The upstream limits its requests: slow down"


@pytest.mark.parametrize("name", ["any/模型", "any/é", "any/😀"])
def test_models_of_any_script_behind_a_wildcard(
    server: Victim,
    upstream: ScriptedUpstream,
    name: str,
) -> None:
    chat = server.post(json.dumps(ask("hello there", model=name)).encode())
    assert said(chat) == "hello there"
    upstream.script(
        Plain(200, {"object": "list", "data": [], "usage": {"prompt_tokens": 1}}),
        path="/embeddings",
    )
    embedding = server.post(json.dumps({"model": name, "input": "hi"}).encode(), "/v1/embeddings")
    assert embedding.status == 200, embedding
    for got in (chat, embedding):
        asked = got.headers["x-chattable-model"]
        assert asked.isascii() and asked.startswith("stub/%")
