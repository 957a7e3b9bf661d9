"""How a storage refuses.

StorageError
├── StorageUnavailable  the database is away, full, locked or not migrated; the text is for the log
│   ├── PoolExhausted   every connection to it is busy
│   └── LockTimeout     others held the rows for too long
├── ConstraintViolated  another row has what must be unique, or refers to this one
└── StoreError          what was asked is refused, by a store of the server (proxy/store/errors.py)
"""

from __future__ import annotations


class StorageError(Exception):
    """Any refusal of a storage."""


class StorageUnavailable(StorageError):
    """The database did not do its part; the same call may succeed later.

    Whether a write was done is then unknown.
    """

    def __init__(self, reason: str, database: str = "") -> None:
        super().__init__(f"{database}: {reason}" if database else reason)
        self.reason = reason  # without the database's name


class PoolExhausted(StorageUnavailable):
    """Every connection to the database is busy."""


class LockTimeout(StorageUnavailable):
    """Somebody else holds the rows that this wanted, for too long."""


class ConstraintViolated(StorageError):
    """A row may not be as the operation would have it, for another row's sake."""
