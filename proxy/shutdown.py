"""Tells the application of a stop signal at once: servers tell it only when the last connection has ended."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def on_stop_signal(stop: Callable[[], Coroutine[Any, Any, None]]) -> Generator[None]:
    """Runs `stop` on the loop when SIGTERM or SIGINT comes, then does what the server had planned for the signal.

    The same signal again ends the process at once, with the shell's code for that signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []  # a task without a reference may vanish
    seen: list[int] = []
    planned = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: Any) -> None:
        if number in seen:  # Ctrl-C and a supervisor's SIGTERM for it are one wish
            os._exit(128 + number)
        seen.append(number)
        loop.call_soon_threadsafe(lambda: tasks.append(loop.create_task(stop())))
        plan = planned[signal.Signals(number)]
        if callable(plan):
            plan(number, frame)

    for number in planned:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, plan in planned.items():
            signal.signal(number, plan)
