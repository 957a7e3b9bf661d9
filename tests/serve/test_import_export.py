"""Conversations to files and from them, over HTTP and by command, on both databases."""

import gzip
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import httpx
import pytest
from databases import held, migrated_postgres, migrated_sqlite
from process import Chattable, chattable

SAMPLES = Path(__file__).parents[1] / "transcripts"
CONFIG = """
server: {{max_body_mb: 2}}
agents: {{echo: {{use: "chattable.agents.echo:Echo"}}}}
default_model: echo
database_url: {url}
"""
NASTY = "NUL \x00, halves \ud800 \udfff, 👩‍💻, \u2028"
ROW = {"index", "source_id", "id", "title", "messages", "warnings", "error"}


class Client:
    """A user of one server."""

    def __init__(self, server: Chattable, name: str) -> None:
        self.server, self.name, self.key = server, name, server.user_key(name)

    def __call__(
        self, method: str, path: str, content: bytes | None = None, **headers: str
    ) -> httpx.Response:
        given = {"authorization": f"Bearer {self.key}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        with httpx.Client(base_url=self.server.base_url, trust_env=False, timeout=60) as client:
            return client.request(method, path, content=content, headers=given)

    def chat(self, session: str, *words: str) -> str:
        """Says this in a session, and returns its id."""
        messages = [{"role": "user", "content": word} for word in words]
        done = self(
            "POST",
            "/v1/chat/completions",
            json.dumps({"messages": messages}).encode(),
            x_session_id=session,
        )
        assert done.status_code == 200, done.text
        return done.headers["x-session-id"]

    def take(self, content: bytes, **query: str) -> Any:
        done = self("POST", f"/v1/conversations/import?{httpx.QueryParams(query)}", content)
        assert done.status_code == 200, done.text
        return done.json()

    def give(self, id: str, name: str = "native") -> httpx.Response:
        return self("GET", f"/v1/conversations/{id}/export?format={name}")

    def count(self) -> int:
        return len(self("GET", "/v1/conversations?limit=100").json()["data"])


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chattable]:
    if request.param == "sqlite":
        url = migrated_sqlite(tmp_path_factory.mktemp("db") / "chat.db")
        with chattable(CONFIG.format(url=url)) as running:
            yield running
        return
    with held(migrated_postgres()) as url, chattable(CONFIG.format(url=url)) as running:
        yield running


@pytest.fixture
def alice(server: Chattable) -> Client:
    return Client(server, f"alice-{uuid4().hex[:8]}")


@pytest.fixture
def bob(server: Chattable) -> Client:
    return Client(server, f"bob-{uuid4().hex[:8]}")


def command(
    server: Chattable, *arguments: str, code: int = 0, stdin: bytes | None = None
) -> CompletedProcess[bytes]:
    done = subprocess.run(
        [sys.executable, "-m", "chattable.proxy", *arguments],
        cwd=server.directory,
        input=stdin,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == code, (done.stdout + done.stderr).decode()
    assert b"Traceback" not in done.stderr
    return done


# -- HTTP ------------------------------------------------------------------------------------------


def test_a_conversation_goes_to_another_user_and_on(alice: Client, bob: Client) -> None:
    id = alice.chat("trip", "one", "two")
    alice.chat("trip", "three")
    exported = alice.give("trip")
    assert exported.headers["content-type"] == "application/x-ndjson"
    assert exported.headers["content-disposition"].startswith(f'attachment; filename="{id}.jsonl"')
    assert exported.headers["transfer-encoding"] == "chunked"
    rows = [json.loads(line) for line in exported.content.splitlines()]
    assert [row["object"] for row in rows] == [
        "chattable.session",
        *["chattable.message"] * 5,
        "chattable.end",
    ]
    report = bob.take(exported.content)
    assert {name: value for name, value in report.items() if name != "data"} == {
        "object": "import", "format": "native", "imported": 1, "failed": 0,
    }  # fmt: skip
    (row,) = report["data"]
    assert set(row) == ROW
    assert (row["index"], row["source_id"], row["messages"], row["warnings"], row["error"]) == (
        0,
        id,
        5,
        [],
        None,
    )
    again = bob.give(row["id"]).content.splitlines()
    assert again[1:-1] == exported.content.splitlines()[1:-1]
    ask = json.dumps({"messages": [{"role": "user", "content": "four"}]}).encode()
    more = bob("POST", "/v1/chat/completions", ask, x_session_id="trip")
    assert (more.headers["x-session-id"], more.headers["x-session-injected"]) == (row["id"], "5")


def test_what_no_encoding_takes_goes_through(alice: Client, bob: Client) -> None:
    line = json.dumps(
        {"messages": [{"role": "user", "content": NASTY, "odd\x00": [NASTY]}], "title": NASTY}
    ).encode()
    report = alice.take(line)
    assert report["data"][0]["error"] is None
    exported = alice.give(report["data"][0]["id"])
    stored = json.loads(exported.content.splitlines()[1])["message"]
    assert stored == {"role": "user", "content": NASTY, "odd\x00": [NASTY]}
    assert bob.take(exported.content)["data"][0]["messages"] == 1
    assert "NUL \ufffd" in alice.give(report["data"][0]["id"], "markdown").text


def words(user: Client, id: str) -> list[str]:
    """What a conversation's items say, the newest first."""
    items = user("GET", f"/v1/conversations/{id}/items").json()["data"]
    return [item["content"][0]["text"] for item in items]


@pytest.mark.parametrize("forked", [False, True])
@pytest.mark.parametrize("deleted", [1, 2, 4])
def test_what_ends_with_deleted_messages_goes_to_another_user(
    alice: Client, bob: Client, deleted: int, forked: bool
) -> None:
    """The head is then a message that the file does not have (5 of “The house”)."""
    id = alice.chat("new", "one")
    alice.chat(id, "two")
    if forked:
        id = alice("POST", f"/v1/conversations/{id}/fork", b"{}").json()["id"]
    items = alice("GET", f"/v1/conversations/{id}/items").json()["data"]
    for item in items[:deleted]:
        assert alice("DELETE", f"/v1/conversations/{id}/items/{item['id']}").status_code == 200
    left = words(alice, id)
    assert len(left) == 4 - deleted
    report = bob.take(alice.give(id).content)
    (row,) = report["data"]
    assert (report["imported"], row["error"], row["warnings"]) == (1, None, [])
    assert words(bob, row["id"]) == left
    bob.chat(row["id"], "three")
    assert words(bob, row["id"])[1:] == ["three", *left]


def test_the_name_of_the_file_is_safe(alice: Client) -> None:
    title = '../..\\etc/pass"wd; filename=evil.sh\r\nX-Evil: 1 — Ärger'
    (row,) = alice.take(
        json.dumps({"messages": [{"role": "user", "content": "q"}], "title": title}).encode()
    )["data"]
    exported = alice.give(row["id"], "markdown")
    assert "x-evil" not in exported.headers
    plain, _, full = exported.headers["content-disposition"].partition("; filename*=UTF-8''")
    assert plain == f'attachment; filename="{row["id"]}.md"'
    name = unquote(full)
    assert name.endswith("Ärger.md")
    assert not set(name) & set('/\\":;\r\n') - {";"}
    assert not name.startswith(".")
    assert full.isascii() and ";" not in full


@pytest.mark.parametrize(
    "name, kind",
    [
        ("openai", "application/x-ndjson"),
        ("sharegpt", "application/x-ndjson"),
        ("markdown", "text/markdown; charset=utf-8"),
    ],
)
def test_every_format_is_exported(alice: Client, bob: Client, name: str, kind: str) -> None:
    exported = alice.give(alice.chat("s", "hello"), name)
    assert (exported.status_code, exported.headers["content-type"]) == (200, kind)
    assert "hello" in exported.text
    if name != "markdown":
        report = bob.take(exported.content)
        assert (report["format"], report["imported"], report["data"][0]["messages"]) == (name, 1, 2)


@pytest.mark.parametrize("sample", sorted(path.name for path in SAMPLES.iterdir()))
def test_files_of_other_programs_are_recognised(alice: Client, sample: str) -> None:
    name = sample.partition(".")[0].partition("-")[0]
    report = alice.take((SAMPLES / sample).read_bytes())
    assert report["format"] == name
    assert report["imported"] + report["failed"] == len(report["data"])
    assert report["failed"] == (1 if name == "chatgpt" else 0)
    assert alice.count() == report["imported"]
    assert (
        alice.take((SAMPLES / sample).read_bytes(), format=name)["imported"] == report["imported"]
    )
    for row in report["data"]:
        assert set(row) == ROW
        assert (row["id"] is None) == (row["error"] is not None)
        assert all(set(note) == {"message", "index", "id"} for note in row["warnings"])
        if row["error"]:
            assert set(row["error"]) == {"message", "param", "code", "line"}


def test_anothers_conversation_is_like_one_that_nobody_has(alice: Client, bob: Client) -> None:
    id = alice.chat("mine", "secret")
    theirs, nobodys = bob.give(id), bob.give("conv_" + "0" * 31)
    assert (theirs.status_code, nobodys.status_code) == (404, 404)
    assert theirs.json()["error"] | {"message": ""} == nobodys.json()["error"] | {"message": ""}
    assert bob.give("mine").status_code == 404
    assert "secret" not in theirs.text


@pytest.mark.parametrize(
    "content, query, status, words",
    [
        (b"", "", 400, "empty"),
        (b"PK\x03\x04", "", 400, "zip"),
        (b"--x\r\nContent-Disposition: form-data", "", 400, "--data-binary"),
        (b'{"a": 1}', "", 400, "none of the formats"),
        (b'{"messages": []}', "?format=shargpt", 400, "did you mean"),
        (b'{"messages": []}', "?format=markdown", 400, "none of native"),
        (b"[" + b"1," * 2**20 + b"1]", "", 413, "larger than"),
    ],
)
def test_what_is_no_file_of_conversations_is_refused(
    alice: Client, content: bytes, query: str, status: int, words: str
) -> None:
    refused = alice("POST", f"/v1/conversations/import{query}", content)
    assert refused.status_code == status, refused.text
    error = refused.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"]
    assert alice.count() == 0


def test_only_who_has_a_key_may_and_only_known_formats_and_encodings_are_taken(
    server: Chattable, alice: Client
) -> None:
    alice.key, key = "sk-nobody", alice.key
    assert alice.give("x").status_code == 401
    assert alice("POST", "/v1/conversations/import", b"{}").status_code == 401
    alice.key = key
    id = alice.chat("s", "q")
    wrong = alice.give(id, "chatgpt")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "format")
    packed = gzip.compress(b'{"messages": [{"role": "user", "content": "q"}]}')
    assert (
        alice("POST", "/v1/conversations/import", packed, content_encoding="gzip").status_code
        == 415
    )


def test_a_broken_conversation_keeps_no_other_out(alice: Client) -> None:
    good = {"messages": [{"role": "user", "content": "q"}, {"role": "wizard", "content": "z"}]}
    report = alice.take(
        b"\n".join([json.dumps(good).encode(), b'{"messages": [', json.dumps(good).encode()])
    )
    assert (report["imported"], report["failed"], alice.count()) == (2, 1, 2)
    first, broken, _ = report["data"]
    assert [note["index"] for note in first["warnings"]] == [1]
    assert (broken["error"]["code"], broken["error"]["line"]) == ("invalid_json", 2)


@pytest.mark.parametrize("end", [b"\n\n", b"\n \t", b"\n" * 70_000])
def test_blank_lines_at_the_end_of_a_file_end_it(alice: Client, end: bytes) -> None:
    report = alice.take(b'{"messages": [{"role": "user", "content": "q"}]}' + end)
    assert (report["imported"], report["failed"], alice.count()) == (1, 0, 1)


def test_one_request_reports_on_so_many_conversations_and_no_more(alice: Client) -> None:
    good = b'{"messages": [{"role": "user", "content": "q"}]}'
    report = alice.take(b"\n".join([good, *[b"{}"] * 10_000, good]))
    assert (report["imported"], report["failed"], len(report["data"]), alice.count()) == (
        1,
        10_000,
        10_001,
        1,
    )
    last = report["data"][-1]["error"]
    assert (last["code"], last["line"]) == ("too_many", 10_000)


# -- the command line ------------------------------------------------------------------------------


def test_a_users_conversations_go_out_and_come_in(
    server: Chattable, alice: Client, bob: Client, tmp_path: Path
) -> None:
    ids = {alice.chat("a", "one"), alice.chat("b", "two")}
    file = tmp_path / "chats.jsonl"
    done = command(server, "export", str(file), "--user", alice.name)
    assert (done.stdout, done.stderr) == (b"2 conversations exported\n", b"")
    assert file.stat().st_mode & 0o777 == 0o600
    assert {
        row["id"]
        for line in file.read_bytes().splitlines()
        if (row := json.loads(line))["object"] == "chattable.session"
    } == ids
    done = command(server, "import", str(file), "--user", bob.name)
    assert (done.stdout, done.stderr) == (b"2 conversations imported (format native)\n", b"")
    assert bob.count() == 2
    assert {path.name for path in tmp_path.iterdir()} == {"chats.jsonl"}
    everybody = command(server, "export", "-", "--format", "openai")
    assert everybody.stdout.count(b'{"messages":[') >= 4
    assert everybody.stderr.endswith(b"conversations exported\n")
    piped = command(
        server,
        "import",
        "-",
        "--user",
        bob.name,
        stdin=command(server, "export", "-", "--user", alice.name).stdout,
    )
    assert b"2 conversations imported, 2 with warnings (format native)\n" in piped.stdout
    assert (
        server.admin("GET", "/admin/audit?action=conversation.import")["data"][0]["target_name"]
        == bob.name
    )


def test_the_report_of_an_import_names_what_failed(server: Chattable, alice: Client) -> None:
    done = command(server, "import", str(SAMPLES / "chatgpt.json"), "--user", alice.name, code=1)
    told = done.stdout.decode().splitlines()
    assert told[0] == "1. Tide tables: 8 messages"
    assert any(line.startswith("   message 9: the attachment 'chart.pdf'") for line in told)
    assert any(
        line.startswith("2. ") and "failed: 'mapping' must be an object" in line for line in told
    )
    assert told[-1] == "2 conversations imported, 1 failed, 2 with warnings (format chatgpt)"
    assert done.stderr == b""
    assert alice.count() == 2


def test_commands_that_cannot_be_done_say_why(
    server: Chattable, alice: Client, tmp_path: Path
) -> None:
    def why(*arguments: str) -> str:
        done = command(server, *arguments, code=1)
        assert done.stdout == b""
        return done.stderr.decode()

    junk = tmp_path / "junk.txt"
    junk.write_text("hello\n")
    assert "No user has the id or name 'nobody'" in why("import", str(junk), "--user", "nobody")
    assert "No user has the id or name 'nobody'" in why(
        "export", str(tmp_path / "x"), "--user", "nobody"
    )
    assert "no conversation in this file" in why("import", str(junk), "--user", alice.name)
    assert "No such file" in why("import", str(tmp_path / "none"), "--user", alice.name)
    assert "cannot be written" in why("export", str(tmp_path / "none" / "x"))
    assert "did you mean `native`" in why("export", str(tmp_path / "x"), "--format", "nativ")
    assert "none of native" in why("import", str(junk), "--user", alice.name, "--format", "word")
    assert {path.name for path in tmp_path.iterdir()} == {"junk.txt"}


def test_a_person_at_a_terminal_sees_how_far_it_is(server: Chattable, alice: Client) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "chattable.proxy",
            "import",
            str(SAMPLES / "sharegpt.json"),
            "--user",
            alice.name,
        ],
        cwd=server.directory,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm"},
    )
    out, _ = process.communicate(timeout=60)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert process.returncode == 0
    assert "importing" in shown
    assert "100%" in shown
    assert b"3 conversations imported" in out
