"""How a store refuses; like `StorageUnavailable` of its database, each is a `StorageError`.

Only `proxy/errors.py` turns these into status codes.

StoreError
├── NotFound       nothing has this id or name
├── Conflict       another row already has what must be unique
│   └── HeadMoved  a conversation went on since it was read
└── Invalid        a value cannot be stored; `field` names it
"""

from chattable.budget.storage.errors import StorageError


class StoreError(StorageError):
    """Any refusal of what is asked of a store; the database itself did its part."""


class NotFound(StoreError):
    """Nothing of this kind has this id or name."""

    def __init__(self, what: str, id: str) -> None:  # noqa: A002 - the public word for it
        super().__init__(f"No {what} has the id or name {id!r}.")
        self.what = what
        self.id = id


class Conflict(StoreError):
    """The value of `field` is taken."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class Invalid(StoreError):
    """The value of `field` cannot be stored."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class HeadMoved(Conflict):
    """The conversation went on since it was read: somebody else's turn came first."""

    code = "conversation_locked"

    def __init__(self) -> None:
        super().__init__(
            "The conversation went on while this turn was under way; send it again.", "conversation"
        )
