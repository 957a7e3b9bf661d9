"""The command `chattable`, as an operator meets it: what it prints, where it points, how it ends."""

import asyncio
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import httpx
import pytest
from echo_model import ask
from process import Process, chattable, free_port

COMMAND = [sys.executable, "-m", "chattable.proxy"]
ECHO = 'agents: {echo: {use: "chattable.agents.echo:Echo"}}\n'

Shell = Callable[..., CompletedProcess[str]]


def settings(folder: Path, **more: str) -> dict[str, str]:
    """An environment in which no setting of this machine counts."""
    ours = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    ours.pop("CHATTABLE_ADMIN_KEY", None)
    return ours | {"CHATTABLE_HOME": str(folder / "home"), "NO_PROXY": "*"} | more


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Runs one command in an empty folder."""

    def run(*arguments: str, code: int = 0, **env: str) -> CompletedProcess[str]:
        command = [*COMMAND, *arguments]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=30,
            cwd=tmp_path,
            env=settings(tmp_path, **env),
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def one_line(text: str) -> str:
    assert text.endswith("\n") and text.count("\n") == 1, text
    return text.strip()


# -- the command itself ------------------------------------------------------------------------------------------------


def test_the_version_is_said_in_one_place(shell: Shell) -> None:
    version = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
        "version"
    ]
    assert one_line(shell("--version").stdout) == f"chattable {version}"


def test_a_reader_that_has_read_enough_is_no_error(tmp_path: Path) -> None:
    models = "".join(f"  m{number}: {{provider: stub, model: m}}\n" for number in range(3000))
    (tmp_path / "config.yaml").write_text(
        f"providers: {{stub: {{kind: openai, base_url: http://127.0.0.1:9/v1}}}}\nmodels:\n{models}"
    )
    program = subprocess.Popen(
        [*COMMAND, "check"],
        cwd=tmp_path,
        env=settings(tmp_path),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout and program.stderr
    program.stdout.readline()
    program.stdout.close()
    assert (program.stderr.read(), program.wait(30)) == ("", 1)
    program.stderr.close()


# -- check -------------------------------------------------------------------------------------------------------------


def test_check_without_a_file_names_the_built_in_settings(shell: Shell) -> None:
    assert shell("check").stdout.splitlines() == [
        "serves at http://127.0.0.1:8000/v1, database sqlite:///chattable.db",
        "agent  echo → chattable.agents.echo:Echo",
    ]


def test_check_names_everything_that_is_served(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "server: {port: 8123}\n"
        "database_url: postgresql://chat:tulip@db.example/chat\n"
        "providers: {stub: {kind: openai, base_url: http://127.0.0.1:9/v1, api_key: rose}, oai: "
        "{kind: openai, api_key: x}}\n"
        'models: {fast: {provider: stub, model: big-7b}, gpt-4o-mini: {provider: oai}, "stub/*": {provider: stub}}\n'
        "agents: {tutor: {model: fast}}\n"
    )
    done = shell("check")
    assert done.stdout.splitlines() == [
        "serves at http://127.0.0.1:8123/v1, database postgresql://chat:***@db.example/chat",
        "model  fast → stub/big-7b  no price",
        "model  gpt-4o-mini → oai/gpt-4o-mini  $0.15 / $0.6 per million tokens",
        "model  stub/* → stub/*",
        "agent  tutor → fast",
    ]
    assert done.stderr == "" and not list(tmp_path.glob("*.db*"))


def test_check_says_where_every_mistake_is(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(
        "server:\n"
        "  prot: 8000\n"
        "providers: {openai: {kind: openai}}\n"
        "models:\n"
        "  fast:\n"
        "    provider: opanai\n"
        "admin_keys: [changeme]\n"
    )
    done = shell("check", "--config", "my.yaml", code=1)
    assert done.stdout == ""
    first, second, third = done.stderr.splitlines()
    assert first.startswith("my.yaml:2: server.prot: ") and "did you mean `port`" in first
    assert (
        second
        == "my.yaml:6: models.fast.provider: there is no provider `opanai` (did you mean `openai`?)"
    )
    assert third.startswith("my.yaml:7: admin_keys[0]: ") and "changeme" not in third


def test_check_builds_the_agents(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "def greet(message, ctx, name): return name\n"
        "class Picky:\n"
        "    def __init__(self, path): open(path)\n"
        "    def chat(self, message): return ''\n"
    )
    (tmp_path / "broken.py").write_text("import no_such_library\n")
    (tmp_path / "config.yaml").write_text(
        "agents:\n"
        '  good: {use: "shop:greet", name: Ann}\n'
        '  lost: {use: "shop:greeet", name: Ann}\n'
        "  typo:\n"
        "    description: Greets.\n"
        '    use: "shop:greet"\n'
        "    nmae: Ann\n"
        '  less: {use: "shop:greet"}\n'
        '  gone: {use: "nowhere.at.all:agent"}\n'
        '  deep: {use: "broken:agent"}\n'
        '  file: {use: "shop:Picky", path: no-such-file}\n'
        "  bare: {use: helper}\n"
    )
    told = shell("check", code=1, PYTHONPATH=paths(tmp_path)).stderr.splitlines()
    assert [line.partition(": ")[2].partition(":")[0] for line in told] == [
        f"agents.{name}.use" for name in ("lost", "typo", "less", "gone", "deep", "file", "bare")
    ]
    assert told[:6] == [
        "config.yaml:3: agents.lost.use: the module shop has no `greeet`",
        "config.yaml:6: agents.typo.use: shop:greet takes no parameter nmae (it takes: name)",
        "config.yaml:8: agents.less.use: shop:greet needs name",
        "config.yaml:9: agents.gone.use: cannot import nowhere.at.all: no module named 'nowhere' "
        "(is its folder on PYTHONPATH?)",
        "config.yaml:10: agents.deep.use: cannot import broken: no module named 'no_such_library' "
        "(is its folder on PYTHONPATH?)",
        "config.yaml:11: agents.file.use: shop:Picky could not be built: "
        "FileNotFoundError: [Errno 2] No such file or directory: 'no-such-file'",
    ]
    assert "no entry point `helper`" in told[6]


def test_check_looks_at_plain_types_of_an_agent_s_parameters(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from __future__ import annotations\n"
        "from typing import Any, Literal\n"
        "def count(message, *, rounds: int = 1, names: list[str] | None = None): return ''\n"
        "class Teller:\n"
        "    def __init__(self, mood: Literal['a'] = 'a', odd: Any = 0, other: NoSuch = 0): ...\n"
        "    def chat(self, message): return ''\n"
        "class Plain:\n"
        "    def __init__(self, weights: dict[str, float] | None = None): self.weights = weights\n"
        "    def chat(self, message): return ''\n"
    )
    (tmp_path / "config.yaml").write_text(
        "agents:\n"
        '  three: {use: "shop:count", rounds: "${ROUNDS}", names: [a]}\n'
        '  word: {use: "shop:count", rounds: many}\n'
        '  list: {use: "shop:count", names: [a, 5]}\n'
        '  yes: {use: "shop:count", rounds: yes}\n'.replace("yes: {", "on_: {")
        + '  any: {use: "shop:Teller", odd: [1], other: x}\n'
        '  dict: {use: "shop:Plain", weights: {a: heavy}}\n'
    )
    told = shell("check", code=1, PYTHONPATH=paths(tmp_path), ROUNDS="3").stderr.splitlines()
    assert told == [
        f"config.yaml:{line}: agents.{name}.use: {code}: Invalid type for '{param}': {what}."
        for line, name, code, param, what in (
            (3, "word", "shop:count", "rounds", "expected an integer, but got a string instead"),
            (4, "list", "shop:count", "names[1]", "expected a string, but got an integer instead"),
            (5, "on_", "shop:count", "rounds", "expected an integer, but got a boolean instead"),
            (7, "dict", "shop:Plain", "weights", "expected a number, but got a string instead"),
        )
    ]


def test_check_warns_of_limits_of_nobody(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "rate_limits:\n"
        "  users: {alice: {parallel: 1}, alcie: {parallel: 1}}\n"
        "  teams: {red: {parallel: 1}, rde: {parallel: 1}}\n"
        "  keys: {key_0: {parallel: 1}}\n"
    )
    assert shell("check").stderr == ""  # nobody can be there yet
    assert not list(tmp_path.glob("*.db"))
    shell("user", "create", "alice", "--team", "red")
    assert shell("check").stderr.splitlines() == [
        "warning: rate_limits.users.alcie: there is no such user yet (did you mean `alice`?)",
        "warning: rate_limits.teams.rde: there is no such team yet (did you mean `red`?)",
        "warning: rate_limits.keys.key_0: there is no such key yet",
    ]


def test_serve_refuses_what_check_refuses(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text('agents:\n  a: {use: "nowhere:agent"}\n')
    for workers in ("1", "2"):
        told = one_line(
            shell("serve", "--workers", workers, "--port", str(free_port()), code=1).stderr
        )
        assert told.startswith("config.yaml:2: agents.a.use: cannot import nowhere")
    assert not list(tmp_path.glob("*.db*"))


def test_other_commands_do_not_run_the_agents_code(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text('agents:\n  a: {use: "nowhere:agent"}\n')
    assert shell("user", "create", "alice").stdout


def paths(folder: Path) -> str:
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("absent.yaml", None, "absent.yaml: cannot be read: No such file or directory"),
        ("bytes.yaml", b"\xff\xfe", "bytes.yaml:1: byte 0xff is not UTF-8; save the file as UTF-8"),
        (
            "var.yaml",
            b"database_url: ${NOT_SET}\n",
            "var.yaml:1: database_url: needs the environment variable NOT_SET",
        ),
    ],
)
def test_a_file_that_cannot_be_read(
    name: str, content: bytes | None, told: str, shell: Shell, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for command in ("check", "serve"):
        assert one_line(shell(command, "--config", name, code=1).stderr).startswith(told)


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["sreve"], ["key", "create"], ["key", "create", "alice", "--expires", "soon"],
        ["serve", "--port", "70000"], ["serve", "--workers", "0"],
    ],
)  # fmt: skip
def test_misuse_is_told_and_ends_with_2(arguments: list[str], shell: Shell) -> None:
    done = shell(*arguments, code=2)
    assert done.stdout == "" and "usage: chattable" in done.stderr and "error: " in done.stderr


# -- users and keys ----------------------------------------------------------------------------------------------------


def test_users_and_keys_from_the_first_to_the_last(shell: Shell) -> None:
    made = one_line(shell("user", "create", "alice", "--team", "red").stdout)
    assert re.fullmatch(r"user_\S+  alice", made)
    shell("user", "create", "boss", "--admin")
    secret = one_line(
        shell(
            "key", "create", "alice", "--name", "laptop", "--expires", "30d", "--models", "a, b"
        ).stdout
    )
    assert re.fullmatch(r"sk-[\w-]{43}", secret)
    forever = one_line(shell("key", "create", "alice").stdout)

    first, second = sorted(
        shell("key", "list", "alice").stdout.splitlines(), key=lambda line: "  laptop  " not in line
    )
    key_id, name, prefix, models, ends = first.split("  ")
    assert (name, models) == ("laptop", "a,b") and key_id.startswith("key_")
    assert prefix.startswith(secret[:7]) and prefix.endswith(secret[-4:])
    assert 0 <= time.time() + 30 * 86400 - datetime.fromisoformat(ends).timestamp() < 60
    assert second.endswith("all models  never expires")
    assert secret not in first and forever not in second

    assert one_line(shell("key", "revoke", key_id).stdout) == f"{key_id} is revoked"
    assert f"{prefix}  a,b  revoked\n" in shell("key", "list", "alice").stdout
    assert one_line(shell("user", "disable", "alice").stdout) == "alice is disabled"
    assert sorted(line.split("  ")[1:] for line in shell("user", "list").stdout.splitlines()) == [
        ["alice", "red", "disabled"], ["boss", "-", "admin"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["user", "disable", "nobody"], "chattable: No user has the id or name 'nobody'."),
        (["key", "create", "nobody"], "chattable: No user has the id or name 'nobody'."),
        (["key", "revoke", "key_nothing"], "chattable: No key has the id or name 'key_nothing'."),
        (["user", "create", "user_1"], "chattable: name must not begin with 'user_': ids do."),
    ],
)
def test_what_is_not_there_is_one_line_and_1(arguments: list[str], told: str, shell: Shell) -> None:
    done = shell(*arguments, code=1)
    assert (done.stdout, one_line(done.stderr)) == ("", told)


def test_a_name_is_given_once(shell: Shell) -> None:
    shell("user", "create", "alice")
    assert (
        one_line(shell("user", "create", "alice", code=1).stderr)
        == "chattable: There is a user named 'alice' already."
    )


def test_keys_made_beside_a_running_server_count_at_once(tmp_path: Path, shell: Shell) -> None:
    url = f"database_url: sqlite:///{tmp_path}/shared.db\n"
    (tmp_path / "config.yaml").write_text(url)
    with (
        chattable(url + ECHO) as server,
        httpx.Client(base_url=server.base_url, trust_env=False) as http,
    ):

        def status(secret: str) -> int:
            return http.get("/v1/models", headers={"authorization": f"Bearer {secret}"}).status_code

        shell("user", "create", "alice")
        secret = one_line(shell("key", "create", "alice").stdout)
        assert status(secret) == 200
        shell("user", "disable", "alice")
        # another process has changed it: the server asks again after a second
        deadline = time.monotonic() + 2
        while status(secret) != 401:
            assert time.monotonic() < deadline
            time.sleep(0.02)


# -- serve -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts servers in one folder, without an admin key of their own, and stops them."""
    running: list[Process] = []

    def serve(*arguments: str, **env: str) -> Process:
        port = free_port()
        command = [*COMMAND, "serve", "--port", str(port), *arguments]
        running.append(
            Process(
                command,
                settings(tmp_path, PYTHONUNBUFFERED="1", **env),
                f"http://127.0.0.1:{port}",
                tmp_path,
            )
        )
        running[-1].wait_ready(f"{running[-1].base_url}/health")
        return running[-1]

    yield serve
    for process in running:
        process.stop()


def test_the_first_start_makes_a_key_and_the_pasted_line_works(
    start: Callable[..., Process], tmp_path: Path
) -> None:
    first = start()
    log = first.log()
    [secret] = re.findall(r"^Your admin key, shown this once: (sk-\S+)$", log, re.M)
    line = log[log.index("  curl ") : log.index("}'\n") + 3]
    assert line.count(secret) == 1 and f"{first.base_url}/v1" in line
    body = pasted(line)
    assert body["choices"][0]["message"]["content"] == "Hello"
    admin = {"authorization": f"Bearer {secret}"}
    assert (
        httpx.get(f"{first.base_url}/admin/users", headers=admin, trust_env=False).status_code
        == 200
    )
    assert first.stop() == 0

    second = start()
    assert "sk-" not in second.log() and "admin key" not in second.log()
    assert (
        httpx.get(f"{second.base_url}/admin/users", headers=admin, trust_env=False).status_code
        == 200
    )
    with sqlite3.connect(tmp_path / "chattable.db") as database:
        assert secret not in "".join(database.iterdump())


def pasted(line: str) -> Any:
    """What a shell makes of the line, or what curl would send where there is none."""
    if shutil.which("curl"):
        done = subprocess.run(
            ["bash", "-c", line],
            capture_output=True,
            text=True,
            timeout=30,
            env=os.environ | {"NO_PROXY": "*"},
        )
        return json.loads(done.stdout)
    url, *quoted = re.findall(r"curl (\S+)|'([^']*)'", line)
    *headers, data = [text for _, text in quoted]
    return httpx.post(
        url[0],
        content=data,
        headers=dict(header.split(": ", 1) for header in headers),
        trust_env=False,
    ).json()


def test_a_key_of_ones_own_is_not_printed(start: Callable[..., Process]) -> None:
    key = "orbit-velvet-canyon-17"
    server = start(CHATTABLE_ADMIN_KEY=key)
    answer = httpx.get(
        f"{server.base_url}/admin/users",
        headers={"authorization": f"Bearer {key}"},
        trust_env=False,
    )
    assert answer.json()["data"] == []
    assert key not in server.log() and "sk-" not in server.log()


GUESSED = "is easy to guess: well-known words, sequences and repetitions are nearly all of it"


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", "is empty"),
        ("changeme", "is shorter than 16 characters"),
        ("Change-Me-Please", GUESSED),
        ("changeme-changeme", GUESSED),
        ("sk-1234567890123456", GUESSED),
        ("schlüssel-zum-erfolg", "holds what an HTTP header cannot carry"),
    ],
)
def test_a_weak_admin_key_refuses_to_start(
    key: str, why: str, shell: Shell, tmp_path: Path
) -> None:
    told = one_line(
        shell("serve", "--port", str(free_port()), code=1, CHATTABLE_ADMIN_KEY=key).stderr
    )
    assert told.startswith(f"environment: CHATTABLE_ADMIN_KEY: {why}; make one: ")
    assert not key or key not in told
    assert not list(tmp_path.glob("*.db*"))


def test_an_address_in_use_is_one_line_and_no_key_is_made(shell: Shell, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for workers in ("1", "2"):
            told = one_line(
                shell("serve", "--port", str(port), "--workers", workers, code=1).stderr
            )
            assert told.startswith(
                f"chattable: cannot listen on 127.0.0.1:{port}: Address already in use"
            )
    assert not list(tmp_path.glob("*.db*"))


def test_an_address_that_is_not_ours(shell: Shell) -> None:
    told = one_line(shell("serve", "--host", "192.0.2.1", "--port", "0", code=1).stderr)
    assert told.startswith("chattable: cannot listen on 192.0.2.1:0: ")


def test_port_0_is_a_free_one_and_named(tmp_path: Path) -> None:
    command = [*COMMAND, "serve", "--port", "0"]
    server = Process(command, settings(tmp_path, PYTHONUNBUFFERED="1"), cwd=tmp_path)
    try:
        deadline = time.monotonic() + 30
        while not (
            found := re.search(r"serving echo at (http://127\.0\.0\.1:[1-9]\d+)/v1", server.log())
        ):
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.02)
        server.wait_ready(f"{found[1]}/health")
        version = httpx.get(found[1], trust_env=False).json()["version"]
        assert f"chattable {version}, serving echo" in server.log()
        assert f"curl {found[1]}/v1/chat/completions" in server.log()
    finally:
        server.stop()


def test_a_local_model_that_is_not_there_is_one_line(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "providers: {local: {kind: local}}\nmodels: {small: {provider: local}}\n"
    )
    told = one_line(shell("serve", "--port", str(free_port()), code=1).stderr)
    assert told.endswith("Run: chattable local pull") and str(tmp_path / "home") in told


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_agent_that_does_not_start_ends_the_server(
    workers: str, shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "stuck.py").write_text(
        "class Agent:\n"
        "    async def start(self): raise RuntimeError(' '.join(['the', 'disk', 'is', 'full']))\n"
        "    def chat(self, message): return ''\n"
    )
    (tmp_path / "config.yaml").write_text('agents: {a: {use: "stuck:Agent"}}\n')
    command = [*COMMAND, "serve", "--port", str(free_port()), "--workers", workers]
    environment = settings(tmp_path, PYTHONPATH=paths(tmp_path))
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment
    )
    assert done.returncode != 0 and "RuntimeError: the disk is full" in done.stderr


# -- the database ------------------------------------------------------------------------------------------------------


def test_migrate_brings_sqlite_up_and_repeats(shell: Shell, tmp_path: Path) -> None:
    first, second = shell("migrate").stdout, shell("migrate").stdout
    assert re.fullmatch(r"sqlite:///chattable\.db is at version \d{4}\n", first) and first == second
    assert (tmp_path / "chattable.db").is_file()


@pytest.mark.parametrize("command", [["user", "list"], ["serve", "--port", "0"]])
@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://chat:tulip@127.0.0.1:1/chat", "postgresql://chat:***@127.0.0.1:1/chat"),
        ("sqlite:////no/such/folder/chat.db", "the folder /no/such/folder does not exist"),
        ("sqlite:///{folder}/text.db", "file is not a database"),
    ],
)
def test_a_database_that_is_not_there_is_one_line(
    command: list[str], url: str, why: str, shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "text.db").write_text("This is no database. " * 100)
    (tmp_path / "config.yaml").write_text(f"database_url: {url.format(folder=tmp_path)}\n")
    told = one_line(shell(*command, code=1).stderr)
    assert why in told and "tulip" not in told


async def test_postgresql_is_migrated_on_demand_only(
    postgres_url: str, shell: Shell, tmp_path: Path
) -> None:
    config = f"database_url: {json.dumps(postgres_url)}\n{ECHO}"
    (tmp_path / "config.yaml").write_text(config)
    for command in (["serve", "--port", str(free_port())], ["user", "list"]):
        told = one_line((await asyncio.to_thread(shell, *command, code=1)).stderr)
        assert re.search(r"[Rr]un:? `?chattable migrate", told)
    done = await asyncio.to_thread(shell, "migrate")
    assert re.search(r" is at version \d{4}\n$", done.stdout)
    assert (await asyncio.to_thread(shell, "user", "list")).stdout == ""
    await asyncio.to_thread(chats, config)


def chats(config: str) -> None:
    with chattable(config) as server:
        headers = {"authorization": f"Bearer {server.user_key('alice')}"}
        body = ask("hi") | {"model": "echo"}
        answer = httpx.post(
            f"{server.base_url}/v1/chat/completions", json=body, headers=headers, trust_env=False
        )
        assert answer.json()["choices"][0]["message"]["content"] == "hi"
