"""The command `chattable`."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from chattable.adapters.local.server import LocalError, data_home, pull
from chattable.agents.errors import InvalidRequest
from chattable.agents.loading import LoadError
from chattable.budget.errors import BudgetError
from chattable.budget.ledger import GROUPS, Difference
from chattable.proxy.catalog.catalog import declared
from chattable.proxy.catalog.prices import known_of, price_of, unpriced, warning
from chattable.proxy.cli.absent_subjects import absent_subjects
from chattable.proxy.cli.known_models import UnknownModelError, describe
from chattable.proxy.cli.progress import show_progress
from chattable.proxy.cli.startup import StartError, find_config
from chattable.proxy.config.document import ConfigError
from chattable.proxy.config.settings import Config, ModelEntry, Target
from chattable.proxy.ledger_setup import open_ledger
from chattable.proxy.people.usage import Usage, as_csv, as_table
from chattable.proxy.sessions.sessions import open_store
from chattable.proxy.store.audit import COMMAND_LINE, Audit
from chattable.proxy.store.database import Database
from chattable.proxy.store.errors import StoreError
from chattable.proxy.store.teams import Teams
from chattable.proxy.store.users import Users
from chattable.proxy.transcripts.formats import READABLE, WRITABLE
from chattable.proxy.transfer import TransferError, export_file, import_file
from chattable.proxy.version import VERSION

REFUSALS = (
    StoreError,
    BudgetError,
    LocalError,
    LoadError,
    StartError,
    InvalidRequest,
    TransferError,
    UnknownModelError,
)


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 1 refused, 2 misused, 3 done in part."""
    args = parser().parse_args(argv)
    try:
        code = int(args.run(args) or 0)
        sys.stdout.flush()
    except ConfigError as error:
        print(error, file=sys.stderr)
    except REFUSALS as error:
        print(f"chattable: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    except (
        BrokenPipeError
    ):  # who read, such as `head`, has read enough; Python flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    else:
        return code
    return 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="chattable", description="An OpenAI-compatible proxy for agents and upstream models."
    )
    root.add_argument("--version", action="version", version=f"chattable {VERSION}")
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument(
        "--config",
        metavar="FILE",
        help="default: ./config.yaml if there is one, else built-in settings",
    )
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", parents=[config], help="run the server")
    serve.add_argument("--host")
    serve.add_argument("--port", type=_between(0, 65535))
    serve.add_argument("--workers", type=_between(1, 256))
    serve.set_defaults(run=_serve)

    commands.add_parser(
        "check", parents=[config], help="validate the config and print what it serves"
    ).set_defaults(run=_check)
    models = commands.add_parser("models", parents=[config], help="what is known of models")
    models.add_argument("name", nargs="?", default="", help="default: all of the config")
    models.set_defaults(run=_models)
    commands.add_parser(
        "migrate", parents=[config], help="bring the database up to date"
    ).set_defaults(run=_migrate)

    user = commands.add_parser("user", help="manage users").add_subparsers(
        required=True, metavar="ACTION"
    )
    create = user.add_parser("create", parents=[config], help="add a user")
    create.add_argument("name")
    create.add_argument("--team")
    create.add_argument("--admin", action="store_true", help="whose keys may use /admin")
    create.set_defaults(run=_with_users(_create_user))
    user.add_parser("list", parents=[config], help="list users").set_defaults(
        run=_with_users(_list_users)
    )
    disable = user.add_parser(
        "disable", parents=[config], help="refuse a user's keys until further notice"
    )
    disable.add_argument("name")
    disable.set_defaults(run=_with_users(_disable_user))

    key = commands.add_parser("key", help="manage API keys").add_subparsers(
        required=True, metavar="ACTION"
    )
    new = key.add_parser("create", parents=[config], help="make a key and print it, once")
    new.add_argument("user")
    new.add_argument("--name", default="default")
    new.add_argument("--models", help="comma-separated names, or beginnings that end in *")
    new.add_argument(
        "--expires", type=_lifetime, metavar="30d", help="how long it works: 12h, 30d …"
    )
    new.add_argument("--trusted", action="store_true", help="may say on whose behalf it asks")
    new.set_defaults(run=_with_users(_create_key))
    listing = key.add_parser("list", parents=[config], help="list a user's keys")
    listing.add_argument("user")
    listing.set_defaults(run=_with_users(_list_keys))
    revoke = key.add_parser("revoke", parents=[config], help="end a key for good")
    revoke.add_argument("id")
    revoke.set_defaults(run=_with_users(_revoke_key))

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

    other = commands.add_parser(
        "import-litellm",
        help="make a config from that of a LiteLLM proxy, and say what became of it",
    )
    other.add_argument("file", metavar="FILE", help="LiteLLM's config.yaml")
    other.add_argument(
        "-o", "--output", metavar="FILE", help="a new file; default: standard output"
    )
    other.set_defaults(run=_import_litellm)

    local = commands.add_parser("local", help="a small model on this machine").add_subparsers(
        required=True, metavar="ACTION"
    )
    local.add_parser("pull", help="fetch the model (93 MB)").set_defaults(run=_pull)
    return root


def _serve(args: argparse.Namespace) -> None:
    from chattable.proxy.cli.serve import serve

    serve(
        find_config(args.config, host=args.host, port=args.port, workers=args.workers, code=True),
        args.config,
    )


def _check(args: argparse.Namespace) -> None:
    config = find_config(args.config, code=True)
    server = config.server
    print(
        f"serves at http://{server.host}:{server.port}/v1, database {Database(config.database_url)}"
    )
    for name, model in config.models.items():
        for target in model.served_by():
            print(
                f"model  {name} → {target.provider}/{target.upstream(name, name)}{_priced(config, name, model, target)}"
            )
        if model.fallbacks:
            print(f"       else {', '.join(model.fallbacks)}")
    budget = config.budgets.default
    if budget is not None and budget.cost_usd is not None and (names := unpriced(config)):
        print(f"warning: {warning(config, names)}", file=sys.stderr)
    for name, agent in config.agents.items():
        print(f"agent  {name} → {getattr(agent, 'use', None) or getattr(agent, 'model', '')}")
    for absent in asyncio.run(absent_subjects(config)):
        print(f"warning: {absent}", file=sys.stderr)


def _priced(config: Config, name: str, model: ModelEntry, target: Target) -> str:
    """What budgets in dollars take it to cost; a wildcard's models cost what is known of each."""
    if name.endswith("*"):
        return ""
    price = price_of(
        target, model, known_of(config.providers[target.provider], target.upstream(name, name))
    )
    if price is None:
        return "  no price"
    return f"  ${price.input / 1e6:g} / ${price.output / 1e6:g} per million tokens"


def _models(args: argparse.Namespace) -> None:
    for line in describe(find_config(args.config), args.name):
        print(line)


def _migrate(args: argparse.Namespace) -> None:
    async def run(database: Database) -> None:
        with show_progress(sys.stderr) as tell:
            await database.migrate(tell)
        print(f"{database} is at version {await database.version()}")

    asyncio.run(_with_database(args, run))


def _verify(args: argparse.Namespace) -> int:
    async def run(database: Database) -> None:
        ledger = open_ledger(config, database)
        await ledger.start()
        wrong.extend(await ledger.verify())
        print(f"{await ledger.accounts()} accounts, {len(wrong)} differences")
        await ledger.stop()

    config, wrong = find_config(args.config), list[Difference]()
    asyncio.run(_with_database(args, run))
    for difference in wrong:
        print(difference, file=sys.stderr)
    return 1 if wrong else 0


def _usage(args: argparse.Namespace) -> None:
    async def run(database: Database) -> None:
        ledger = open_ledger(config, database)
        await ledger.start()
        try:
            report = Usage(
                ledger, Users(database), Teams(database), ZoneInfo(config.budgets.timezone)
            )
            rows = await report.report(by, args.since, args.until)
        finally:
            await ledger.stop()
        print(as_csv(by, rows) if args.csv else as_table(by, rows), end="")

    config, by = (
        find_config(args.config),
        [name.strip() for name in args.by.split(",") if name.strip()],
    )
    asyncio.run(_with_database(args, run))


def _export(args: argparse.Namespace) -> None:
    async def run(database: Database) -> None:
        await _bring_up(database)
        await export_file(
            open_store(config, database), Users(database), args.file, args.user, args.format
        )

    config = find_config(args.config)
    asyncio.run(_with_database(args, run))


def _import(args: argparse.Namespace) -> int:
    failed = 0

    async def run(database: Database) -> None:
        nonlocal failed
        await _bring_up(database)
        store, users, audit = open_store(config, database), Users(database), Audit(database)
        accepts = declared(config)
        failed = await import_file(store, users, audit, args.file, args.user, args.format, accepts)

    config = find_config(args.config)
    asyncio.run(_with_database(args, run))
    return 1 if failed else 0


def _import_litellm(args: argparse.Namespace) -> int:
    from chattable.proxy.litellm.convert import import_litellm

    return import_litellm(args.file, args.output)


def _pull(_: argparse.Namespace) -> None:
    with show_progress(sys.stderr) as tell:
        path = pull(tell, data_home())
    print(f"The model is at {path}; `chattable serve` without a config file now serves it.")


async def _with_database(
    args: argparse.Namespace, run: Callable[[Database], Awaitable[None]]
) -> None:
    database = Database(find_config(args.config).database_url)
    await database.start()
    try:
        await run(database)
    finally:
        await database.stop()


async def _bring_up(database: Database) -> None:
    """Brings a file of our own up to date; a server's database is its operator's affair."""
    if database.is_sqlite and not await database.up_to_date():
        await database.migrate()


def _with_users(
    act: Callable[[Users, Audit, argparse.Namespace], Awaitable[None]],
) -> Callable[[argparse.Namespace], None]:
    """A command on the users of a database, which is brought up to date first if it is a file of our own."""

    def command(args: argparse.Namespace) -> None:
        async def run(database: Database) -> None:
            await _bring_up(database)
            await act(Users(database), Audit(database), args)

        asyncio.run(_with_database(args, run))

    return command


async def _create_user(users: Users, audit: Audit, args: argparse.Namespace) -> None:
    details = {"team": args.team, "admin": args.admin}
    async with audit.entry(COMMAND_LINE, "user.create", args.name, details) as effect:
        user = await users.create(args.name, args.team, admin=args.admin)
        effect.about(user.id, user.name)
    print(f"{user.id}  {user.name}")


async def _list_users(users: Users, _audit: Audit, _: argparse.Namespace) -> None:
    after = None
    while True:
        page = await users.list(after=after)
        for user in page.data:
            _row(
                user.id,
                user.name,
                user.team or "-",
                "disabled" if user.disabled else "admin" if user.admin else "active",
            )
        if not page.has_more:
            return
        after = page.data[-1].id


async def _disable_user(users: Users, audit: Audit, args: argparse.Namespace) -> None:
    async with audit.entry(COMMAND_LINE, "user.update", args.name, {"disabled": True}) as effect:
        user = await users.update(args.name, disabled=True)
        effect.about(user.id, user.name)
    print(f"{user.name} is disabled")


async def _create_key(users: Users, audit: Audit, args: argparse.Namespace) -> None:
    fields = {
        "name": args.name,
        "models": [name.strip() for name in args.models.split(",")] if args.models else None,
        "expires_at": int(time.time() + args.expires) if args.expires else None,
        "trusted": args.trusted,
    }
    async with audit.entry(
        COMMAND_LINE, "key.create", args.name, {"user": args.user, **fields}
    ) as effect:
        key, secret = await users.create_key(args.user, **fields)
        effect.about(key.id, key.name)
    print(secret)


async def _list_keys(users: Users, _: Audit, args: argparse.Namespace) -> None:
    for key in await users.list_keys(args.user):
        ends = (
            datetime.fromtimestamp(key.expires_at, UTC).isoformat()
            if key.expires_at
            else "never expires"
        )
        _row(
            key.id,
            key.name,
            key.prefix,
            ",".join(key.models or ["all models"]),
            "revoked" if key.revoked_at else ends,
        )


async def _revoke_key(users: Users, audit: Audit, args: argparse.Namespace) -> None:
    async with audit.entry(COMMAND_LINE, "key.revoke", args.id) as effect:
        key = await users.revoke_key(args.id)
        effect.about(key.id, key.name)
    print(f"{key.id} is revoked")


def _row(*fields: Any) -> None:
    print("  ".join(str(field) for field in fields))


def _between(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text[:10]) <= most):
            raise argparse.ArgumentTypeError(f"give a number from {least} to {most}")
        return int(text)

    return number


def _lifetime(text: str) -> float:
    found = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if not found:
        raise argparse.ArgumentTypeError("give a number and a unit, such as 12h or 30d")
    return int(found[1]) * {"m": 60, "h": 3600, "d": 86400}[found[2]]


if __name__ == "__main__":
    sys.exit(main())
