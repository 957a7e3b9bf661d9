"""Tells a database that is away from a statement that is wrong, in what SQLAlchemy raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from chattable.budget.storage.errors import (
    ConstraintViolated,
    LockTimeout,
    PoolExhausted,
    StorageUnavailable,
)

# Classes of SQLSTATE that say "not now": connection, login, rollback of a deadlock, no such
# database, no resources, lock not available, operator intervention, system error; and a server that
# has become a read-only replica.
AWAY = ("08", "28", "3D", "40", "53", "55", "57", "58", "25006")
CONTENDED = ("40", "55P03")  # of these, what others who want the same rows are to blame for
NOT_MIGRATED = "42P01"


@contextmanager
def outages(database: str) -> Iterator[None]:
    """Raises `StorageUnavailable` where the database is to blame, not the statement."""
    try:
        yield
    except exc.TimeoutError:
        raise PoolExhausted("every connection is busy.", database) from None
    except exc.IntegrityError as error:
        raise ConstraintViolated(str(error.orig)) from error
    except exc.DBAPIError as error:
        if not _away(error):
            raise
        kind = LockTimeout if (_state(error) or "").startswith(CONTENDED) else StorageUnavailable
        raise kind(with_hint(error.orig or error, _state(error)), database) from error
    except OSError as error:  # TimeoutError is one
        raise StorageUnavailable(str(error) or "no answer in time", database) from error


def _away(error: exc.DBAPIError) -> bool:
    # it failed before or after our statement
    if error.statement is None or error.connection_invalidated:
        return True
    state = _state(error)
    if state is not None:
        return state.startswith(AWAY) or state == NOT_MIGRATED
    # `DatabaseError` itself, none of its children, is SQLite's word for a file that is no database
    # or is damaged.
    return (
        isinstance(error, exc.OperationalError | exc.InterfaceError)
        or type(error) is exc.DatabaseError
    )


def _state(error: exc.DBAPIError) -> str | None:
    state = getattr(error.orig, "sqlstate", None)
    return state if isinstance(state, str) else None


def with_hint(error: BaseException, state: str | None = None) -> str:
    """What the database said, and what helps against it."""
    reason = str(error)
    if state == NOT_MIGRATED or reason.startswith("no such table"):
        return f"{reason}; run `chattable migrate`."
    return reason
