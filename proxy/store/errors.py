"""What a store can say no with; only `proxy/errors.py` turns these into status codes.

StoreError
├── NotFound       nothing has this id or name
├── Conflict       another row already has what must be unique
├── Invalid        a value cannot be stored; `field` names it
└── Unavailable    the database is away, full, locked or not migrated; the text is for the log
"""


class StoreError(Exception):
    """Any refusal of a store."""


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


class Unavailable(StoreError):
    """The database did not do its part; the same call may succeed later.

    Whether a write was done is then unknown.
    """


class Crowded(Unavailable):
    """Every connection to the database is busy."""


class Contended(Unavailable):
    """Somebody else holds the rows that this wanted, for too long."""
