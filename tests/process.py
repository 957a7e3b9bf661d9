"""Real server processes for tests: spawn, wait until ready, read what they logged, stop them by pid."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from databases import migrated_sqlite
from shared import in_a_run

# A proxy in the environment must not see traffic that is meant for the loopback.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    """Returns a loopback port that nobody listens on right now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Process:
    """A running server: its pid, its address and its output."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        base_url: str = "",
        cwd: str | Path | None = None,
    ) -> None:
        self.base_url = base_url
        self._output, self._logged = tempfile.TemporaryFile(), ""  # noqa: SIM115 (stop closes it)
        self.spawned = time.monotonic()
        self.popen = subprocess.Popen(
            list(command), env=env, cwd=cwd, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def tree(self) -> list[psutil.Process]:
        """Returns the process and all its descendants that are alive."""
        try:
            main = psutil.Process(self.pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def log(self) -> str:
        """Returns everything written to stdout and stderr so far."""
        if not self._output.closed:
            descriptor = self._output.fileno()
            self._logged = os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(
                errors="replace"
            )
        return self._logged

    def wait_ready(self, url: str, timeout: float = 90) -> float:
        """Returns the seconds from spawn to the first 200; says what was logged when that does not come in time."""
        while time.monotonic() - self.spawned < timeout:
            if not self.running:
                raise RuntimeError(
                    f"{self.popen.args!r} ended with {self.popen.returncode}:\n{self.log()[-4000:]}"
                )
            try:
                with _direct.open(url, timeout=1):
                    return time.monotonic() - self.spawned
            except OSError:
                time.sleep(0.01)
        raise TimeoutError(f"{url} gave no 200 within {timeout} s:\n{self.log()[-4000:]}")

    def stop(self, grace: float = 10) -> int:
        """Ends the process with SIGTERM, past the grace with SIGKILL, orphaned children too; returns the exit code."""
        family = self.tree()
        if self.running:
            self.popen.send_signal(signal.SIGTERM)
        try:
            self.popen.wait(grace)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait(grace)
        for process in family[1:]:
            if process.is_running():  # compares the start time, so a pid in other hands is safe
                process.kill()
        psutil.wait_procs(family[1:], grace)
        self.log()
        self._output.close()
        return self.popen.returncode


def start(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    ready_url: str = "",
    timeout: float = 90,
    cwd: str | Path | None = None,
) -> Process:
    """Starts a command and waits until `ready_url` answers 200; a process that does not get there is stopped."""
    process = Process(command, env, ready_url.rpartition("/")[0], cwd)
    try:
        if ready_url:
            process.wait_ready(ready_url, timeout)
    except BaseException:
        process.stop()
        raise
    return process


class Chattable(Process):
    """A running `chattable serve` with its admin key."""

    admin_key: str
    directory: Path
    ready_after: float  # seconds from spawn to the first 200 on /health

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        """Calls an admin route and returns its JSON; an error status raises with the server's own words."""
        request = urllib.request.Request(
            self.base_url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "authorization": f"Bearer {self.admin_key}",
                "content-type": "application/json",
            },
        )
        try:
            with _direct.open(request, timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as refused:
            refused.msg = f"{method} {path}: {refused.read().decode(errors='replace')[:1000]}"
            raise

    def user_key(self, name: str = "alice", **key_fields: Any) -> str:
        """Mints a key for a user, who is created when unknown."""
        try:
            self.admin("POST", "/admin/users", {"name": name})
        except urllib.error.HTTPError as refused:
            if refused.code != 409:
                raise
        key: str = self.admin("POST", f"/admin/users/{name}/keys", key_fields)["key"]
        return key


@contextmanager
def chattable(
    config_text: str | None = None,
    *arguments: str,
    prefix: Sequence[str] = (),
    program: Sequence[str] = (sys.executable, "-m", "chattable.proxy"),
    timeout: float = 90,
    directory: str | Path | None = None,
    port: int = 0,
    migrated: bool = True,
    **env: str,
) -> Iterator[Chattable]:
    """Runs the real server in its own directory (config.yaml, database) until the block ends.

    Without a config text it runs on the built-in defaults; `prefix` wraps the command (taskset,
    faketime), `program` is what runs another installation, and a given `directory` outlives the
    block, so that a second run finds the same database. With `migrated` a server whose config names
    no database finds one with the newest schema, and spares its start that work.
    """
    with tempfile.TemporaryDirectory(prefix="chattable-") as scratch:
        home, port, admin_key = (
            Path(directory or scratch),
            port or free_port(),
            f"sk-admin-{secrets.token_urlsafe(32)}",
        )
        command = [*prefix, *program, "serve", "--port", str(port), *arguments]
        if config_text is not None:
            (home / "config.yaml").write_text(config_text)
            command += ["--config", str(home / "config.yaml")]
        # Keys of real providers stay outside: nothing under test may reach them.
        inherited = {
            name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")
        }
        file = home / "chattable.db"
        if (
            migrated
            and in_a_run()
            and "database_url" not in (config_text or "")
            and not file.exists()
        ):
            migrated_sqlite(file)
        settings = {"CHATTABLE_ADMIN_KEY": admin_key, "PYTHONUNBUFFERED": "1"} | env
        server = Chattable(command, inherited | settings, f"http://127.0.0.1:{port}", home)
        server.admin_key, server.directory = settings["CHATTABLE_ADMIN_KEY"], home
        try:
            server.ready_after = server.wait_ready(f"{server.base_url}/health", timeout)
            yield server
        finally:
            server.stop()
