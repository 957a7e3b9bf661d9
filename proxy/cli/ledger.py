"""`chattable usage` and `chattable ledger`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from zoneinfo import ZoneInfo

from chattable.agents.chat import Json
from chattable.budget.ledger import GROUPS, Difference
from chattable.proxy.cli.databases import Commands, with_database
from chattable.proxy.cli.startup import find_config
from chattable.proxy.ledger_setup import open_ledger
from chattable.proxy.people.teams import Teams
from chattable.proxy.people.usage import Report, UsageReports, as_table, csv_header, csv_rows
from chattable.proxy.people.users import Users
from chattable.proxy.store.database import Database
from chattable.proxy.telemetry.progress import show_progress


def add_commands(commands: Commands, config: argparse.ArgumentParser) -> None:
    """Adds them to the command line."""
    usage = commands.add_parser("usage", parents=[config], help="who used what")
    usage.add_argument(
        "--by", default="user", help=f"comma-separated: {', '.join(GROUPS)}; default: user"
    )
    usage.add_argument(
        "--from", dest="since", default="", metavar="DATE", help="first day, such as 2026-11-01"
    )
    usage.add_argument(
        "--to", dest="until", default="", metavar="DATE", help="the day after the last"
    )
    usage.add_argument("--csv", action="store_true", help="for a spreadsheet")
    usage.set_defaults(run=_usage)

    ledger = commands.add_parser("ledger", help="the books of the budgets").add_subparsers(
        required=True, metavar="ACTION"
    )
    ledger.add_parser(
        "verify", parents=[config], help="recompute every balance from its entries"
    ).set_defaults(run=_verify)


def _usage(args: argparse.Namespace) -> None:
    async def run(database: Database) -> None:
        ledger = open_ledger(config, database)
        await ledger.start()
        try:
            reports = UsageReports(
                ledger,
                Users(database.storage),
                Teams(database.storage),
                ZoneInfo(config.budgets.timezone),
            )
            pages = reports.pages(Report(by=by, since=args.since, until=args.until))
            await (_print_csv(by, pages) if args.csv else _print_table(by, pages))
        finally:
            await ledger.stop()

    config, by = (
        find_config(args.config),
        [name.strip() for name in args.by.split(",") if name.strip()],
    )
    asyncio.run(with_database(args, run))


async def _print_csv(by: list[str], pages: AsyncIterator[list[Json]]) -> None:
    first = await anext(pages)
    print(csv_header(by) + csv_rows(by, first), end="")
    async for rows in pages:
        print(csv_rows(by, rows), end="")


async def _print_table(by: list[str], pages: AsyncIterator[list[Json]]) -> None:
    print(as_table(by, [row async for rows in pages for row in rows]), end="")


def _verify(args: argparse.Namespace) -> int:
    async def run(database: Database) -> None:
        ledger = open_ledger(config, database)
        await ledger.start()
        with show_progress(sys.stderr) as tell:
            wrong.extend(await ledger.verify(tell))
        print(f"{await ledger.accounts()} accounts, {len(wrong)} differences")
        await ledger.stop()

    config, wrong = find_config(args.config), list[Difference]()
    asyncio.run(with_database(args, run))
    for difference in wrong:
        print(difference, file=sys.stderr)
    return 1 if wrong else 0
