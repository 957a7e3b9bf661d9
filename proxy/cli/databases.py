"""`chattable migrate`, and how other commands open the database."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from chattable.proxy.cli.startup import find_config
from chattable.proxy.ledger_setup import open_database
from chattable.proxy.store.database import Database
from chattable.proxy.telemetry.progress import show_progress

# what argparse has no public name for
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_commands(commands: Commands, config: argparse.ArgumentParser) -> None:
    """Adds them to the command line."""
    migrate = commands.add_parser("migrate", parents=[config], help="bring the database up to date")
    migrate.set_defaults(run=_migrate)


def _migrate(args: argparse.Namespace) -> None:
    async def run(database: Database) -> None:
        with show_progress(sys.stderr) as tell:
            await database.migrate(tell)
        print(f"{database} is at version {await database.version()}")

    asyncio.run(with_database(args, run))


async def with_database(
    args: argparse.Namespace, run: Callable[[Database], Awaitable[None]]
) -> None:
    """Runs something with the database of the config open."""
    database = open_database(find_config(args.config))
    await database.start()
    try:
        await run(database)
    finally:
        await database.stop()


async def bring_up(database: Database) -> None:
    """Brings a file of our own up to date; a server's database is its operator's affair."""
    if database.is_sqlite and not await database.up_to_date():
        await database.migrate()
