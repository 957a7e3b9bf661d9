"""Tells the application of a stop at once: servers do only when the last connection ended."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger("chattable")

HANGING = 1.0  # seconds that a loop which hangs gets before the process ends without it


@contextmanager
def on_stop_signal(
    stop: Callable[[], Coroutine[Any, Any, None]], at_once: Callable[[], None]
) -> Generator[None]:
    """Runs `stop` when SIGTERM or SIGINT comes, then what the server had planned for it.

    A second signal ends the process at once, with the shell's code for that signal; `at_once` runs
    before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []  # a task without a reference may vanish
    seen: list[int] = []
    planned = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def end(number: int) -> None:
        try:
            at_once()
        finally:
            os._exit(128 + number)

    def handle(number: int, frame: Any) -> None:
        if number in seen:  # Ctrl-C and a supervisor's SIGTERM for it are one wish
            # On the loop, between two steps of it: a signal may come in the middle of a line for
            # the journal.
            loop.call_soon_threadsafe(end, number)
            hanging = threading.Timer(HANGING, os._exit, [128 + number])
            hanging.daemon = True
            hanging.start()
            return
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


@contextmanager
def ignoring_hangups() -> Generator[None]:
    """Lets SIGHUP end nothing; the first one says in the log that nothing is read anew."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGHUP"):
        yield
        return
    loop = asyncio.get_running_loop()
    text = "SIGHUP is ignored: a running server does not read its config anew. Restart it."

    def handle(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_IGN)
        # a signal may come in the middle of a line of the log
        loop.call_soon_threadsafe(log.warning, text)

    signal.signal(signal.SIGHUP, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
