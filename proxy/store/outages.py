"""Tells a database that is away from a statement that is wrong."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from chattable.proxy.store.errors import Contended, Crowded, Unavailable

# Classes of SQLSTATE that say "not now": connection, login, rollback of a deadlock, no such
# database, no resources, lock not available, operator intervention, system error; and a server that
# has become a read-only replica.
AWAY = ("08", "28", "3D", "40", "53", "55", "57", "58", "25006")
CONTENDED = ("40", "55P03")  # of these, what others who want the same rows are to blame for
NOT_MIGRATED = "42P01"


@contextmanager
def outages(database: str) -> Iterator[None]:
    """Raises `Unavailable` for what the database, not the statement, is to blame for; lets everything else pass."""
    try:
        yield
    except exc.TimeoutError:
        raise Crowded(f"{database}: every connection is busy.") from None
    except exc.DBAPIError as error:
        if not _away(error):
            raise
        kind = Contended if (_state(error) or "").startswith(CONTENDED) else Unavailable
        raise kind(f"{database}: {_reason(error)}") from error
    except (OSError, sqlite3.Error) as error:  # TimeoutError is an OSError
        raise Unavailable(f"{database}: {str(error) or 'no answer in time'}") from error


def _away(error: exc.DBAPIError) -> bool:
    if isinstance(error, exc.IntegrityError):
        return False
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


def _reason(error: exc.DBAPIError) -> str:
    reason = str(error.orig)
    if _state(error) == NOT_MIGRATED or reason.startswith("no such table"):
        return f"{reason}; run `chattable migrate`."
    return reason
