"""A database URL as people write it."""

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from chattable.proxy.store.errors import Invalid

FIELD = "database_url"
DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+aiosqlite": "sqlite",
    "postgresql": "postgresql",
    "postgresql+asyncpg": "postgresql",
    "postgres": "postgresql",
}


def parse(text: str) -> URL:
    """Returns the URL with the driver `sqlite` or `postgresql`; a refusal does not repeat it."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise _unreadable() from None  # the cause may carry the password
    if url.drivername not in DRIVERS:
        raise Invalid(
            f"database_url begins with {url.drivername}://, known are: {', '.join(DRIVERS)}.", FIELD
        )
    url = url.set(drivername=DRIVERS[url.drivername])
    if url.drivername == "postgresql" and "@" in f"{url.host}{url.database}":
        raise _unreadable()  # half a password would pass for a host, and be shown
    return url


def _unreadable() -> Invalid:
    return Invalid(
        "database_url cannot be read: write sqlite:///file.db or"
        " postgresql://user:password@host/database, with special characters of the password"
        " percent-encoded.",
        FIELD,
    )


def shown(url: URL) -> str:
    """Returns the URL without its password and without its query, which may hold another."""
    return url.set(query={}).render_as_string(hide_password=True)
