"""Work that is done again and again in the background, and that nothing ends but its stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("chattable")

GRACE = 1.0  # seconds that work under way gets to end once it is cancelled

Sleep = Callable[[float], Awaitable[object]]


class Periodic:
    """Does its work, pauses, and does it again.

    Law: whatever the work raises is logged and it goes on, also where it cancels itself. Errors of
    the `expected` kinds, such as a database that is away, are a line; others have their traceback.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[object]],
        seconds: float | Callable[[], float],
        *,
        at_once: bool = False,
        expected: tuple[type[Exception], ...] = (),
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._name = name
        self._work = work
        self._seconds = seconds
        self._at_once = at_once
        self._expected = expected
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins: with the work if it is to be done at once, else with a pause."""
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        """Ends; work that is under way is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=GRACE)

    async def _run(self) -> None:
        if self._at_once:
            await self._once()
        while True:
            await self._sleep(self._seconds() if callable(self._seconds) else self._seconds)
            await self._once()

    async def _once(self) -> None:
        try:
            await self._work()
        except self._expected as error:
            log.warning("%s: not now, it is tried again: %s", self._name, error)
        except Exception:
            log.exception("%s: failed, it is tried again", self._name)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            log.exception(
                "%s: something that it waited for was cancelled, it is tried again", self._name
            )
