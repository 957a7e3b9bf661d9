"""Opens the database, the ledger in it and the journal beside it."""

from __future__ import annotations

import logging
import os
from hashlib import sha256
from pathlib import Path
from zoneinfo import ZoneInfo

from chattable.budget.journal import Journal
from chattable.budget.ledger import Ledger
from chattable.budget.limits import Limit
from chattable.budget.sql_ledger import SqlLedger
from chattable.budget.storage.errors import StorageUnavailable
from chattable.proxy.config.settings import Config, DefaultBudget
from chattable.proxy.store.database import Database

log = logging.getLogger("chattable")

DEFAULT = "lim_default"
# an SQL expression in place of the database's clock, for tests of midnights and leases
CLOCK = "CHATTABLE_LEDGER_CLOCK"


def open_database(config: Config) -> Database:
    """The database that a config names."""
    sync = config.budgets.sync == "commit"
    return Database(config.database_url, sync=sync, now=os.environ.get(CLOCK))


def open_ledger(config: Config, database: Database) -> SqlLedger:
    """The ledger in the database, by the config's calendar."""
    budgets = config.budgets
    zone = ZoneInfo(budgets.timezone)
    return SqlLedger(database.storage, zone=zone, thresholds=budgets.thresholds)


def open_journal(config: Config, database: Database) -> Journal:
    """The journal: a folder for each database, beside a SQLite file or where the config says."""
    beside = f"{database.file}.settling" if database.is_file else "chattable.settling"
    name = sha256((database.file or config.database_url).encode()).hexdigest()[:16]
    return Journal(Path(config.budgets.journal or beside) / name)


async def put_default(ledger: Ledger, default: DefaultBudget | None) -> None:
    """Makes the config's default budget the limit of users without their own, or drops it.

    A database that is away keeps the one it has: a worker that is started anew in an outage must
    not end the server.
    """
    try:
        if default is None:
            await ledger.drop_limit(DEFAULT)
            return
        cost = None if default.cost_usd is None else round(default.cost_usd * 1_000_000)
        await ledger.put_limit(
            Limit(
                id=DEFAULT,
                kind="each_user",
                subject="",
                per=default.per,
                tokens=default.tokens,
                cost=cost,
            )
        )
    except StorageUnavailable as error:
        log.warning("the default budget stays as it was: %s", error)
