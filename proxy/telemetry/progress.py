"""Shows how far a long job is: a bar to a person at a terminal, a few plain lines to a log."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

Progress = Callable[[int, int, str], None]  # done, in all, what is being done


@contextmanager
def show_progress(stream: TextIO) -> Iterator[Progress]:
    """Yields a callback that draws a bar on a terminal, or prints a line at each quarter."""
    if not stream.isatty():
        yield _plain(stream)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(file=stream)) as bars:
        started: dict[str, TaskID] = {}

        def draw(done: int, total: int, what: str) -> None:
            if what not in started:
                started[what] = bars.add_task(what, total=total)
            bars.update(started[what], completed=done, total=total)

        yield draw


def _plain(stream: TextIO) -> Progress:
    told: dict[str, int] = {}

    def tell(done: int, total: int, what: str) -> None:
        quarter = 4 * done // total if total else 4
        if quarter > told.get(what, -1):
            told[what] = quarter
            print(f"{what}: {25 * quarter} %", file=stream, flush=True)

    return tell
