"""`chattable usage` and `chattable ledger`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from zoneinfo import ZoneInfo

from chattable.budget.ledger import GROUPS, Difference
from chattable.proxy.cli.databases import Commands, with_database
from chattable.proxy.cli.startup import find_config
from chattable.proxy.ledger_setup import open_ledger
from chattable.proxy.people.teams import Teams
from chattable.proxy.people.usage import UsageReports, as_csv, as_table
from chattable.proxy.people.users import Users
from chattable.proxy.store.database import Database


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
            report = UsageReports(
                ledger,
                Users(database.storage),
                Teams(database.storage),
                ZoneInfo(config.budgets.timezone),
            )
            rows = await report.report(by, args.since, args.until)
        finally:
            await ledger.stop()
        print(as_csv(by, rows) if args.csv else as_table(by, rows), end="")

    config, by = (
        find_config(args.config),
        [name.strip() for name in args.by.split(",") if name.strip()],
    )
    asyncio.run(with_database(args, run))


def _verify(args: argparse.Namespace) -> int:
    async def run(database: Database) -> None:
        ledger = open_ledger(config, database)
        await ledger.start()
        wrong.extend(await ledger.verify())
        print(f"{await ledger.accounts()} accounts, {len(wrong)} differences")
        await ledger.stop()

    config, wrong = find_config(args.config), list[Difference]()
    asyncio.run(with_database(args, run))
    for difference in wrong:
        print(difference, file=sys.stderr)
    return 1 if wrong else 0
