"""The port of a database: everything that is kept in it goes through here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from sqlalchemy import Connection

from chattable.budget.storage.statements import Dialect, Steps, T

PING = 2.0  # seconds


class Storage(ABC):
    """A database in which operations are run.

    Law: an operation happens wholly or not at all, whoever else runs one at the same time, and
    what it raises is raised, having changed nothing. A database that is away raises
    `StorageUnavailable`, within bounded time, from every method; an operation has then changed
    nothing, or everything. The name never shows a password.
    """

    def __init__(self, name: str, dialect: Dialect) -> None:
        self.name = name
        self.dialect = dialect

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    async def start(self) -> None:
        """Begins to work; a server that is away may come up later."""

    @abstractmethod
    async def stop(self) -> None:
        """Finishes what was asked and ends."""

    @abstractmethod
    async def run(self, operation: Callable[[], Steps[T]]) -> T:
        """Runs an operation in a transaction, and returns once it is committed."""

    @abstractmethod
    async def read(self, operation: Callable[[], Steps[T]]) -> T:
        """Runs an operation that changes nothing, beside those that write."""

    @abstractmethod
    async def alter(self, work: Callable[[Connection], T]) -> T:
        """Does something to the schema in a transaction, while nobody else does."""

    @abstractmethod
    async def ping(self) -> None:
        """Returns when the database answers."""

    @abstractmethod
    async def trouble(self) -> str:
        """What keeps it from serving, as said behind its name; empty if nothing does."""

    async def flush(self) -> None:  # noqa: B027 - a server flushes for itself
        """Waits until what was committed survives a loss of power."""
