"""Serves a few chats and says which of our functions each of them ran through.

    python tests/shape/walked.py

It is the real server in this very process, with everything on, and a scripted upstream beside it.
Counted is the thread of the event loop, from a request until all that is done behind its answer is
done. As loops in the background run meanwhile, a function counts only where every one of the
measured chats came through it.
"""

import json
import os
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from process import free_port
from upstream import ScriptedUpstream

ROOT = Path(__file__).parents[2]
FOLDERS = ("agents", "adapters", "budget", "proxy")
PRODUCT = tuple(f"{ROOT / folder}{os.sep}" for folder in FOLDERS)
WARM_UP, MEASURED = 2, 4  # chats
BEHIND = 0.25  # seconds in which what follows an answer is done: it is booked, stored, corrected
START = 60.0  # seconds that the server may take to start

CONFIG = """
providers:
  stub: {{kind: openai, base_url: "{url}", api_key: x}}
  away: {{kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: x, retries: 0}}
models: {{m: {{provider: stub}}, away: {{provider: away}}}}
budgets: {{default: {{tokens: 1000000000, per: day}}}}
rate_limits:
  default: {{requests_per_minute: 100000, tokens_per_minute: 100000000, parallel: 100}}
  users: {{hasty: {{requests_per_minute: 1}}}}
cache: {{ttl: 1h}}
"""
CHATS: dict[str, dict[str, str]] = {"plain": {}, "session": {"x-session-id": "walked"}}


class Walk:
    """Notes which of our code runs on the thread that it watches, while it is told to."""

    def __init__(self) -> None:
        self._seen: set[CodeType] | None = None

    def watch(self, frame: FrameType, event: str, _: Any) -> None:
        """Hears of every call."""
        if event == "call" and self._seen is not None:
            self._seen.add(frame.f_code)

    def of(self, headers: dict[str, str], number: int, port: int, key: str) -> set[CodeType]:
        """What one chat runs through."""
        self._seen = seen = set[CodeType]()
        body = {"model": "m", "messages": [{"role": "user", "content": f"chat {number}"}]}
        asked(port, "/v1/chat/completions", body, headers | {"authorization": f"Bearer {key}"})
        time.sleep(BEHIND)
        self._seen = None
        return {code for code in seen if is_function(code)}


def is_function(code: CodeType) -> bool:
    """Whether it is a function of ours; a comprehension is a part of the one it stands in."""
    ours = code.co_filename.startswith(PRODUCT)
    return ours and (code.co_name == "<lambda>" or not code.co_name.startswith("<"))


def asked(port: int, path: str, body: Any, headers: dict[str, str]) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=json.dumps(body).encode(),
        headers=headers | {"content-type": "application/json"},
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=30) as answer:
        text = answer.read()
    return text if body.get("stream") else json.loads(text)


def user_key(port: int, name: str = "walker") -> str:
    """The key of a new user."""
    admin = {"authorization": f"Bearer {os.environ['CHATTABLE_ADMIN_KEY']}"}
    asked(port, "/admin/users", {"name": name}, admin)
    return asked(port, f"/admin/users/{name}/keys", {}, admin)["key"]


def measured(walk: Walk, port: int) -> dict[str, set[CodeType]]:
    """What each kind of chat runs through, whenever it is asked."""
    key, found = user_key(port), {}
    for kind, headers in CHATS.items():
        walks = [walk.of(headers, number, port, key) for number in range(WARM_UP + MEASURED)]
        found[kind] = set.intersection(*walks[WARM_UP:])
    return found


def wait_ready(port: int) -> None:
    late = time.monotonic() + START
    while time.monotonic() < late:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"no server within {START:g} s")


def served(ask: Callable[[int], None]) -> None:
    """Serves in this thread, while another asks at the port that it is told."""
    from chattable.proxy.__main__ import main

    port, asked_all = free_port(), threading.Event()

    def asking() -> None:
        try:
            wait_ready(port)
            ask(port)
            asked_all.set()
        finally:
            signal.raise_signal(signal.SIGTERM)

    with tempfile.TemporaryDirectory() as home, ScriptedUpstream() as upstream:
        os.chdir(home)
        Path("config.yaml").write_text(CONFIG.format(url=upstream.url))
        os.environ["CHATTABLE_ADMIN_KEY"] = "sk-admin-4f9a0c6b2e7d8135"
        threading.Thread(target=asking, name="asking").start()
        code = main(["serve", "--port", str(port)])
        os.chdir(ROOT)
    if code or not asked_all.is_set():
        raise RuntimeError(f"the server ended with {code}")


def walked() -> dict[str, set[CodeType]]:
    """What each kind of chat runs through."""
    walk, found = Walk(), {}
    sys.setprofile(walk.watch)
    served(lambda port: found.update(measured(walk, port)))
    sys.setprofile(None)
    return found


if __name__ == "__main__":
    told = {
        kind: {
            "files": sorted({str(Path(code.co_filename).relative_to(ROOT)) for code in codes}),
            "functions": len(codes),
        }
        for kind, codes in walked().items()
    }
    print(json.dumps(told))
