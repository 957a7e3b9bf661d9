"""Opens the ledger in the server's own database."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from chattable.budget.ledger import Ledger
from chattable.budget.limits import Limit
from chattable.budget.postgres import PostgresLedger
from chattable.budget.sqlite import SqliteLedger
from chattable.proxy.config import Config, DefaultBudget
from chattable.proxy.store.database import Database
from chattable.proxy.store.errors import Unavailable

DEFAULT = "lim_default"


def open_ledger(config: Config, database: Database) -> Ledger:
    """The ledger for the database: a thread that commits in groups for SQLite, a transaction each for PostgreSQL."""
    zone = ZoneInfo(config.budgets.timezone)
    if database.is_sqlite:
        return SqliteLedger(database.file, zone=zone)
    return PostgresLedger(database.begin, away=(Unavailable,), zone=zone)


async def put_default(ledger: Ledger, default: DefaultBudget | None) -> None:
    """Makes the config's default budget the limit of every user who has none of their own, or drops it."""
    if default is None:
        await ledger.drop_limit(DEFAULT)
        return
    cost = None if default.cost_usd is None else round(default.cost_usd * 1_000_000)
    await ledger.put_limit(Limit(id=DEFAULT, kind="each_user", subject="", per=default.per, tokens=default.tokens, cost=cost))
