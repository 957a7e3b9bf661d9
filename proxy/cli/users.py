"""`chattable user` and `chattable key`."""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from chattable.proxy.cli.databases import Commands, bring_up, with_database
from chattable.proxy.errors import outcome_of
from chattable.proxy.people.audit import COMMAND_LINE, Audit
from chattable.proxy.people.users import Users
from chattable.proxy.store.database import Database


def add_commands(commands: Commands, config: argparse.ArgumentParser) -> None:
    """Adds them to the command line."""
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


def _with_users(
    act: Callable[[Users, Audit, argparse.Namespace], Awaitable[None]],
) -> Callable[[argparse.Namespace], None]:
    """A command on the users of a database; a SQLite file is migrated first."""

    def command(args: argparse.Namespace) -> None:
        async def run(database: Database) -> None:
            await bring_up(database)
            await act(Users(database.storage), Audit(database.storage, outcome_of), args)

        asyncio.run(with_database(args, run))

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


def _lifetime(text: str) -> float:
    found = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if not found:
        raise argparse.ArgumentTypeError("give a number and a unit, such as 12h or 30d")
    return int(found[1]) * {"m": 60, "h": 3600, "d": 86400}[found[2]]
