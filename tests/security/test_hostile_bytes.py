"""Bytes that no honest client sends: each is refused in OpenAI's shape or answered, never with a 5xx, and the server goes on.

Numbers are those of the list of faults.
"""

import gzip
import json
import re
import socket
import zlib
from collections.abc import Iterator

import httpx
import psutil
import pytest
from process import chattable
from security.victim import Got, Victim, refused
from upstream import ScriptedUpstream

from chattable.proxy.catalog.catalog import MAX_NAME
from chattable.proxy.http.protocol import MAX_HEAD
from chattable.proxy.parsing.json_bounds import MAX_DEPTH, MAX_PARTS, MAX_VALUES

MAX_BODY = 2**20
CONFIG = """
server: {{max_body_mb: 1}}
providers: {{stub: {{kind: openai, base_url: "{url}"}}}}
models: {{m: {{provider: stub}}}}
agents: {{echo: {{use: "chattable.agents.echo:Echo"}}}}
"""
HELLO = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def server() -> Iterator[Victim]:
    with ScriptedUpstream() as upstream, chattable(CONFIG.format(url=upstream.url)) as running:
        yield Victim(running)


@pytest.fixture
def victim(server: Victim) -> Iterator[Victim]:
    """The server, with the proof afterwards that it still serves and has nothing to regret."""
    logged = len(server.server.log())
    yield server
    got = server.post(json.dumps(HELLO).encode())
    assert got.status == 200 and json.loads(got.body)["choices"][0]["message"]["content"] == "hello"
    assert "Traceback" not in server.server.log()[logged:]


# --- 58: size --------------------------------------------------------------------------------------------------------


def rss(victim: Victim) -> int:
    return psutil.Process(victim.server.pid).memory_info().rss


def test_58_a_large_body(victim):
    refused(victim.post(b'{"x": "' + b"a" * MAX_BODY + b'"}'), 413)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + victim.auth
    refused(victim.send(head + b"content-length: 100000000000\r\n\r\n{"), 413)


def test_58_a_large_body_without_a_length(victim):
    before = rss(victim)
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
        + victim.auth
        + b"transfer-encoding: chunked\r\n\r\n"
    )
    refused(victim.send(head + b"10000\r\n%b\r\n" % (b"a" * 65536) * 200), 413)
    assert rss(victim) - before < 64 * 2**20


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_58_a_bomb(victim, encoding):
    before = rss(victim)
    zeros = b'{"x": "' + b"0" * (512 * 2**20 // 8)
    bomb = gzip.compress(zeros, 9) if encoding == "gzip" else zlib.compress(zeros, 9)
    assert len(bomb) < MAX_BODY
    refused(victim.post(bomb, headers=b"content-encoding: %b\r\n" % encoding.encode()), 413)
    assert rss(victim) - before < 64 * 2**20


@pytest.mark.parametrize("encoding", ["lz4", "gzip, gzip", "x" * 5000, "gzip\x00"])
def test_58_other_encodings(victim, encoding):
    got = victim.post(b"{}", headers=b"content-encoding: %b\r\n" % encoding.encode())
    assert got.status in (400, 415)


PACKED = gzip.compress(b"{}", mtime=0)  # the same in every process: a test's name has it


@pytest.mark.parametrize("body", [b"", b"\x1f\x8b", b"not gzip", PACKED[:-4], PACKED + b"junk"])
def test_58_broken_gzip(victim, body):
    got = victim.post(body, headers=b"content-encoding: gzip\r\n")
    refused(got, 400)


# --- 59-62: JSON -----------------------------------------------------------------------------------------------------

BEYOND = MAX_DEPTH + 1
DEEP = [
    b"[" * BEYOND,
    b'{"a":' * BEYOND,
    b"[" * BEYOND + b"]" * BEYOND,
    b'{"messages":' + b"[" * MAX_DEPTH,
]
PATHS = ["/v1/chat/completions", "/admin/users", "/admin/users/alice/keys"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", DEEP, ids=["lists", "objects", "closed", "inside"])
def test_59_depth(victim, body, path):
    refused(
        victim.post(
            body, path, auth=b"authorization: Bearer %b\r\n" % victim.keys["admin"].encode()
        ),
        400,
    )


def test_59_many(victim):
    many = b",".join([b'{"role":"user","content":""}'] * 30_000)
    assert victim.post(b'{"model":"echo","messages":[%b]}' % many).status == 200
    for one, count in ((b"{}", MAX_PARTS), (b"0", MAX_VALUES)):
        body = b'{"model":"echo","messages":[%b]}' % b",".join([one] * count)
        assert victim.post(body).status == 400
    bias = b",".join(b'"%d":0' % i for i in range(90_000))
    assert victim.post(json.dumps(HELLO).encode()[:-1] + b',"logit_bias":{%b}}' % bias).status in (
        200,
        400,
    )
    assert victim.post(json.dumps(HELLO | {"k" * 1000: 1}).encode()).status in (200, 400)
    assert victim.post(json.dumps(HELLO | {"model": "m" * (MAX_NAME + 1)}).encode()).status == 404


def test_60_a_field_given_twice_means_one_thing(victim):
    got = victim.post(
        b'{"model":"nobody","model":"echo","messages":[{"role":"user","content":"a","content":"b"}]}'
    )
    assert got.status == 200 and json.loads(got.body)["model"] == "echo"
    assert json.loads(got.body)["choices"][0]["message"]["content"] == "b"


BAD_TEXT = {
    "invalid utf-8": b'"\xff\xfe"',
    "overlong": b'"\xc0\xaf"',
    "utf-8 surrogate": b'"\xed\xa0\x80"',
    "lone surrogate": b'"\\ud800"',
    "control": b'"a\x01b"',
    "newline": b'"a\nb"',
    "escape": b'"\\x41"',
    "torn": b'"abc',
    "single quotes": b"'abc'",
}


@pytest.mark.parametrize("name", BAD_TEXT)
def test_61_text(victim, name):
    body = b'{"model": "echo", "messages": [{"role": "user", "content": %b}]}' % BAD_TEXT[name]
    refused(victim.post(body), 400)
    refused(victim.post(body.replace(b"echo", BAD_TEXT[name][1:-1])), 400)
    admin = b"authorization: Bearer %b\r\n" % victim.keys["admin"].encode()
    refused(victim.post(b'{"name": %b}' % BAD_TEXT[name], "/admin/users", auth=admin), 400)


@pytest.mark.parametrize(
    "text",
    [
        b"\\u0000",
        b"\\u0001\\u001f",
        b"\\u2028\\u2029",
        b"\\ud83d\\ude00",
        b"\\r\\n\\r\\ndata: [DONE]",
        b"\\ufeff",
    ],
)
def test_41_text_that_is_odd_and_allowed(victim, text):
    body = b'{"model": "echo", "stream": %b, "messages": [{"role": "user", "content": "%b"}]}'
    said = json.loads(b'"%b"' % text)
    whole = victim.post(body % (b"false", text))
    assert json.loads(whole.body)["choices"][0]["message"]["content"] == said
    events = [e[6:] for e in victim.post(body % (b"true", text)).body.decode().split("\n\n") if e]
    deltas = [json.loads(e)["choices"][0]["delta"] for e in events[:-1]]
    assert events[-1] == "[DONE]" and "".join(d.get("content", "") for d in deltas) == said


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b")]}'\n", b"//x\n"])
def test_61_before_the_body(victim, start):
    refused(victim.post(start + json.dumps(HELLO).encode()), 400)


NUMBERS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "9" * 400,
    "-" + "9" * 400,
    "1." + "9" * 400 + "e999",
    "0x10",
    "01",
    "+1",
    "1.",
]
WRONG = {
    "max_tokens": ["-1", str(2**63), "1.5", '"7"', "true", "[]"],
    "max_completion_tokens": ["-1", str(2**63), '"7"'],
    "n": ["0", "-1", "129", str(2**63), "1.5", '"1"'],
    "temperature": ['"1"', "[]", "true", "-1"],
    "top_p": ['"1"', "-1"],
    "seed": [str(2**63), str(-(2**63) - 1), "1.5", '"1"'],
    "top_logprobs": ["-1", "21"],
}


@pytest.mark.parametrize("model", ["echo", "m"])
@pytest.mark.parametrize("field", WRONG)
def test_62_numbers(victim, field, model):
    start = json.dumps(HELLO | {"model": model}).encode()[:-1]
    for number in [*NUMBERS, *WRONG[field]]:
        got = victim.post(b'%b, "%b": %b}' % (start, field.encode(), number.encode()))
        assert got.status == 400, (number[:50], got)
        assert got.error["type"] == "invalid_request_error" and len(got.body) < 2000


@pytest.mark.parametrize("number", ["-0", "-0.0", "0", "0.0", "1e0", "1E-400"])
def test_62_numbers_that_are_fine(victim, number):
    start = json.dumps(HELLO).encode()[:-1]
    assert victim.post(b'%b, "temperature": %b}' % (start, number.encode())).status == 200


# --- 63: headers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    ["", "-1", "1.5", "9" * 400, "²", "\x7f", "é", "1, 2", "NaN", "0x10", "x" * 10_000],
    ids=lambda value: ascii(value[:8]),
)
def test_63_a_header_that_should_be_a_number(victim, value):
    got = victim.post(
        json.dumps(HELLO).encode(), headers=b"x-max-calls: %b\r\n" % value.encode("latin-1")
    )
    assert got.status == (200 if value == "" else 400)


AUTH = [b"", b"Bearer", b"Bearer ", b"bearer  ", b"Basic eDp5", b"Bearer \xff\xfe", b"Bearer " + b"x" * 50_000, b"Bearer a b c",
        b"Bearer \xe2\x82\xac", b"\xc3\xa9" * 100, b"Bearer sk-admin\t", b"Bearer ${ADMIN}"]  # fmt: skip


@pytest.mark.parametrize("value", AUTH, ids=range(len(AUTH)))
@pytest.mark.parametrize("path", PATHS)
def test_63_credentials(victim, value, path):
    for headers in (
        b"authorization: %b\r\n" % value,
        b"x-api-key: %b\r\n" % value.removeprefix(b"Bearer "),
    ):
        got = refused(victim.post(json.dumps(HELLO).encode(), path, auth=headers), 401)
        assert "www-authenticate" in got.headers


def test_63_two_credentials_are_one_or_none(victim):
    """Whichever counts, a bad first one is never saved by a good second one for admin routes."""
    bad, good = (
        b"authorization: Bearer nobody\r\n",
        b"authorization: Bearer %b\r\n" % victim.keys["admin"].encode(),
    )
    assert victim.post(b"", "/admin/users", method=b"GET", auth=bad + good).status == 401


@pytest.mark.parametrize("size", [10_000, MAX_HEAD + 1])
def test_63_huge_headers(victim, size):
    got = victim.send(
        b"GET /health HTTP/1.1\r\nhost: x\r\nx: " + b"a" * size + b"\r\n\r\n", method="GET"
    )
    assert got is None or got.status in (200, 400, 431)
    got = victim.send(
        b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"x: y\r\n" * (size // 6) + b"\r\n", method="GET"
    )
    assert got is None or got.status in (200, 400, 431)


@pytest.mark.parametrize(
    "block", [b"a" * 65536, b"a\r\nx: " * 10_000], ids=["one header", "many headers"]
)
def test_63_a_head_without_end(victim, block):
    before = rss(victim)
    with victim.line() as line, pytest.raises(ConnectionError):
        line.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nx: ")
        for _ in range(128):
            line.sendall(block)
    assert rss(victim) - before < 16 * 2**20


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/json; charset=utf-16",
        "\xff",
    ],
)
def test_63_content_types(victim, content_type):
    got = victim.post(
        json.dumps(HELLO).encode(), headers=b"content-type: %b\r\n" % content_type.encode("latin-1")
    )
    assert got.status in (200, 400, 415)


# --- 64, 65: framing -------------------------------------------------------------------------------------------------

CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
BODY = json.dumps(HELLO).encode()
LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
SMUGGLED = b"GET /admin/users HTTP/1.1\r\nhost: x\r\n\r\n"
SMUGGLING = {
    "length and chunks": LENGTH + b"transfer-encoding: chunked\r\n\r\n" + CHUNKS + SMUGGLED,
    "chunks and length": b"transfer-encoding: chunked\r\n" + LENGTH + b"\r\n" + CHUNKS + SMUGGLED,
    "two lengths": LENGTH + b"content-length: 3\r\n\r\n" + BODY,
    "a list of lengths": b"content-length: 3, 3\r\n\r\n" + BODY,
    "a signed length": b"content-length: +3\r\n\r\n" + BODY,
    "a negative length": b"content-length: -3\r\n\r\n" + BODY,
    "a length of letters": b"content-length: abc\r\n\r\n" + BODY,
    "an endless length": b"content-length: %b\r\n\r\n" % (b"9" * 400) + BODY,
    "a spaced name": b"content-length : 3\r\n\r\n" + BODY,
    "a folded line": LENGTH + b"x: a\r\n b\r\ntransfer-encoding:\r\n chunked\r\n\r\n" + CHUNKS,
    "an odd encoding": b"transfer-encoding: xchunked\r\n\r\n" + CHUNKS,
    "two encodings": b"transfer-encoding: chunked, identity\r\n\r\n" + CHUNKS,
    "a bare line feed": b"x: a\ny: b\r\n" + LENGTH + b"\r\n" + BODY,
    "a bare return": b"x: a\ry: b\r\n" + LENGTH + b"\r\n" + BODY,
    "a nul": b"x: a\x00b\r\n" + LENGTH + b"\r\n" + BODY,
    "a bad chunk": b"transfer-encoding: chunked\r\n\r\nzz\r\n" + BODY,
    "an endless chunk": b"transfer-encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n" + BODY,
    "no name": b": a\r\n" + LENGTH + b"\r\n" + BODY,
}


@pytest.mark.parametrize("name", SMUGGLING)
def test_64_ambiguous_framing(victim, name):
    """Law: whatever could be read in two ways is refused and ends its connection, so nothing hides behind it."""
    with victim.line() as line:
        line.sendall(CHAT + victim.auth + SMUGGLING[name])
        line.shutdown(socket.SHUT_WR)
        data = b"".join(iter(lambda: line.recv(65536), b""))
    statuses = [int(s) for s in re.findall(rb"HTTP/1\.1 (\d+)", data)]
    assert statuses in ([], [400]), data[:500]


def test_64_extensions_of_chunks(victim):
    flood = (
        b"transfer-encoding: chunked\r\n\r\n"
        + b"".join(b"1;%b\r\n \r\n" % (b"x" * 1000) for _ in range(500))
        + CHUNKS
    )
    got = victim.send(CHAT + victim.auth + flood)
    assert got is None or got.status in (200, 400)


def test_64_chunks_without_end(victim):
    """A body whose sender leaves before its end is no request: nothing good is answered to it."""
    with victim.line() as line:
        line.sendall(
            CHAT
            + victim.auth
            + b"transfer-encoding: chunked\r\n\r\n"
            + b"%x\r\n%b\r\n" % (len(BODY), BODY)
        )
        line.shutdown(socket.SHUT_WR)
        data = b"".join(iter(lambda: line.recv(65536), b""))
    assert b" 200 " not in data and b" 500 " not in data


def test_65_pipelined_requests_are_answered_in_order(victim):
    """Each with its own key: what is behind a request is never read with that request's rights."""
    texts = [f"number {i}" for i in range(10)]
    admin = b"authorization: Bearer %b\r\n" % victim.keys["admin"].encode()
    data = b""
    for text in texts:
        body = json.dumps(HELLO | {"messages": [{"role": "user", "content": text}]}).encode()
        data += CHAT + admin + b"content-length: %d\r\n\r\n%b" % (len(body), body)
    with victim.line() as line:
        line.sendall(data + SMUGGLED)
        reader = line.makefile("rb")
        for text in texts:
            length = 0
            while (header := reader.readline()) != b"\r\n":
                if header.lower().startswith(b"content-length:"):
                    length = int(header.split(b":")[1])
            assert json.loads(reader.read(length))["choices"][0]["message"]["content"] == text
        assert reader.readline().startswith(b"HTTP/1.1 401")


def test_65_http_1_0(victim):
    got = victim.send(
        b"POST /v1/chat/completions HTTP/1.0\r\n" + victim.auth + LENGTH + b"\r\n" + BODY
    )
    assert got is not None and got.status == 200
    stream = json.dumps(HELLO | {"stream": True}).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.0\r\n"
        + victim.auth
        + b"content-length: %d\r\n\r\n" % len(stream)
    )
    got = victim.send(head + stream)
    assert got is not None and got.status == 200 and got.body.endswith(b"data: [DONE]\n\n")


TARGETS = [
    "http://elsewhere/v1/models", "http://127.0.0.1:1/admin/users", "//v1//models", "//admin//users", "/v1/models?x=%00",
    "/%76%31/models", "/v1/models#x", "/v1/../admin/users", "/v1/%2e%2e/admin/users", "/v1/models/%2e%2e/%2e%2e/admin/users",
    "*", "/\xff", "/%ff", "/%", "/v1/models/" + "a" * 60_000, "/v1/models/%00", "/v1/models/a%0d%0aset-cookie:x",
    "/admin/users/%00", "/admin/users/a%2fb/keys", "/;", "/v1;x/models", "\\v1\\models", "/v1/admin/users", "/v1/v1/admin/users",
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: ascii(target[:20]))
def test_65_targets(victim, target):
    """Law: a path with a user's key never reaches /admin, however it is written."""
    got = victim.send(
        b"GET %b HTTP/1.1\r\nhost: x\r\n%b\r\n" % (target.encode("latin-1"), victim.auth),
        method="GET",
    )
    if got is not None:
        assert got.status in (200, 400, 403, 404, 405, 414), got
        assert b'"object":"user"' not in got.body and "set-cookie" not in got.headers
        if got.status != 200 and got.headers.get("content-type") == "application/json":
            assert got.error["message"]


@pytest.mark.parametrize(
    "method",
    ["TRACE", "CONNECT", "OPTIONS", "PUT", "PATCH", "DELETE", "PROPFIND", "get", "X", "G" * 5000],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/admin/users", "/v1/nowhere"])
def test_65_methods(victim, method, path):
    target = "x:1" if method == "CONNECT" else path
    got = victim.send(
        f"{method} {target} HTTP/1.1\r\nhost: x\r\nx: canary\r\n\r\n".encode(), method=method
    )
    assert got is None or got.status in (204, 400, 401, 404, 405), got
    assert got is None or b"canary" not in got.body


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"host: \r\n",
        b"host: a\r\nhost: b\r\n",
        b"host: a b\r\n",
        b"host: \xff\r\n",
        b"host: x:99999999\r\n",
    ],
)
def test_65_hosts(victim, host):
    for path in (b"/v1/models", b"/health", b"/v1/nowhere", b"/schema/openapi.json"):
        got = victim.send(b"GET %b HTTP/1.1\r\n%b%b\r\n" % (path, host, victim.auth), method="GET")
        assert got is None or got.status in (200, 400, 404), got


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\x00" * 1000,
        b"\r\n" * 1000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ],
)
def test_65_not_http(victim, data):
    with victim.line() as line:
        line.sendall(data)
        line.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    assert not answer or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 200", b"HTTP/1.1 404")), (
        answer
    )


# --- every route -----------------------------------------------------------------------------------------------------

BODIES = [
    None,
    b"",
    b"{}",
    b"null",
    b"[]",
    b'""',
    b"0",
    b"true",
    b"{",
    b'{"": null}',
    b'{"name": null}',
    b'{"name": 5, "model": [], "messages": {}}',
]
QUERIES = [
    "",
    "?limit=-1",
    "?limit=x",
    "?limit=" + "9" * 400,
    "?after=%00",
    "?after=x&limit=1",
    "?limit=%ff",
    "?limit=1&limit=2",
]


def test_fuzz_every_route(victim):
    """Law: whatever the route, the key and the body, the answer is below 500 and an error has its four keys."""
    schema = httpx.get(f"{victim.server.base_url}/schema/openapi.json", trust_env=False).json()
    routes = [(method.upper(), path) for path, item in schema["paths"].items() for method in item]
    assert {("POST", "/v1/chat/completions"), ("POST", "/admin/users"), ("GET", "/health")} <= set(
        routes
    )
    with httpx.Client(base_url=victim.server.base_url, trust_env=False, timeout=10) as client:
        for method, path in routes:
            path = re.sub(r"\{[^}]+\}", "nobody", path)
            tries = [(path, body) for body in BODIES] + [(path + query, None) for query in QUERIES]
            for key in (None, *victim.keys.values()):
                headers = {"authorization": f"Bearer {key}"} if key else {}
                for target, body in tries:
                    got = client.request(method, target, content=body, headers=headers)
                    assert got.status_code < 500, (method, target, body, got.text)
                    if got.status_code >= 400:
                        assert Got(got.status_code, {}, got.content).error["message"], (
                            method,
                            target,
                            body,
                        )
