"""`chattable export` and `chattable import`."""

from __future__ import annotations

import argparse
import asyncio

from chattable.proxy.catalog.catalog import declared
from chattable.proxy.cli.databases import Commands, bring_up, with_database
from chattable.proxy.cli.startup import find_config
from chattable.proxy.errors import outcome_of
from chattable.proxy.importers.conversation_files import export_file, import_file
from chattable.proxy.importers.transcripts.formats import READABLE, WRITABLE
from chattable.proxy.people.audit import Audit
from chattable.proxy.people.users import Users
from chattable.proxy.sessions.sessions import open_store
from chattable.proxy.store.database import Database


def add_commands(commands: Commands, config: argparse.ArgumentParser) -> None:
    """Adds them to the command line."""
    export = commands.add_parser("export", parents=[config], help="write conversations to a file")
    export.add_argument("file", metavar="FILE", help="- is standard output")
    export.add_argument("--user", metavar="U", help="whose; default: everybody's")
    export.add_argument(
        "--format",
        default="native",
        help=f"{', '.join(WRITABLE)}; default: native, which loses nothing",
    )
    export.set_defaults(run=_export)
    take = commands.add_parser("import", parents=[config], help="read conversations from a file")
    take.add_argument("file", metavar="FILE", help="- is standard input")
    take.add_argument("--user", metavar="U", required=True, help="whose they will be")
    take.add_argument(
        "--format", default="", help=f"{', '.join(READABLE)}; default: what the file looks like"
    )
    take.set_defaults(run=_import)


def _export(args: argparse.Namespace) -> None:
    async def run(database: Database) -> None:
        await bring_up(database)
        await export_file(
            open_store(config, database), Users(database.storage), args.file, args.user, args.format
        )

    config = find_config(args.config)
    asyncio.run(with_database(args, run))


def _import(args: argparse.Namespace) -> int:
    failed = 0

    async def run(database: Database) -> None:
        nonlocal failed
        await bring_up(database)
        store, users, audit = (
            open_store(config, database),
            Users(database.storage),
            Audit(database.storage, outcome_of),
        )
        accepts = declared(config)
        failed = await import_file(store, users, audit, args.file, args.user, args.format, accepts)

    config = find_config(args.config)
    asyncio.run(with_database(args, run))
    return 1 if failed else 0
