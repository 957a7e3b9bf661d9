"""Before a server runs: finds the config, prepares the database, makes the first key."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from msgspec.structs import replace

from chattable.adapters.local.server import MODEL_NAME, data_home, model_path
from chattable.adapters.services import VENDORS
from chattable.budget.storage.errors import StorageUnavailable
from chattable.proxy.config import reader, settings
from chattable.proxy.config.settings import Config
from chattable.proxy.ledger_setup import open_journal
from chattable.proxy.people.users import Users
from chattable.proxy.store.database import Database
from chattable.proxy.telemetry.progress import show_progress

DEFAULT_FILE = "config.yaml"


class StartError(Exception):
    """The server cannot start; the text says what to do about it."""


def find_config(
    path: str | None,
    *,
    host: str | None = None,
    port: int | None = None,
    workers: int | None = None,
    code: bool = False,
) -> Config:
    """The config of a file, else of ./config.yaml, else the built-in one; flags win over all.

    With `code` an agent that cannot be loaded is a mistake in the config like any other.
    """
    if path is None and Path(DEFAULT_FILE).is_file():
        path = DEFAULT_FILE
    config = built_in() if path is None else reader.load(path, os.environ, VENDORS, code=code)
    flags = {
        name: value
        for name, value in (("host", host), ("port", port), ("workers", workers))
        if value is not None
    }
    return replace(config, server=replace(config.server, **flags))


def built_in() -> Config:
    """The built-in config: `echo`, providers whose key is set, and the local model if pulled."""
    keys = {name: vendor.key_env for name, vendor in VENDORS.items() if vendor.key_env}
    config = reader.defaults(os.environ, keys)
    if not model_path(data_home()).is_file():
        return config
    return replace(
        config,
        providers={**config.providers, "local": settings.Provider(kind="local")},
        models={
            **config.models,
            MODEL_NAME: settings.ModelEntry(provider="local", context_length=2048),
        },
    )


async def prepare(config: Config) -> None:
    """Makes the first admin key; migrates a SQLite file, and refuses an older PostgreSQL."""
    if (
        any(provider.kind == "local" for provider in config.providers.values())
        and not model_path(data_home()).is_file()
    ):
        raise StartError(
            f"the local model is not at {model_path(data_home())} yet. Run: chattable local pull"
        )
    database = Database(config.database_url)
    await database.start()
    try:
        if not await database.up_to_date():
            if not database.is_sqlite:
                raise StorageUnavailable(
                    f"{database} is not at the version this program needs. Run: chattable migrate"
                )
            with show_progress(sys.stderr) as tell:
                await database.migrate(tell)
        _try_journal(config, database)
        users = Users(database.storage)
        first = not config.admin_keys and await users.count() == 0
        if first:
            await users.create("admin", admin=True)
            _, secret = await users.create_key("admin", name="first")
            print(welcome(config, secret), flush=True)
    finally:
        await database.stop()


def _try_journal(config: Config, database: Database) -> None:
    journal = open_journal(config, database)
    try:
        journal.probe()
    except OSError as error:
        what = "the journal of what is used and not yet booked cannot be written"
        way = "Set `budgets.journal` to a folder that can be."
        where = f"{journal.directory}: {error.strerror}"
        raise StartError(f"{what}: {where}. {way}") from None
    finally:
        journal.close()


def welcome(config: Config, secret: str) -> str:
    """What a new server tells its owner, once."""
    name = next(iter([*config.agents, *config.models]), "MODEL")
    return (
        f"\nYour admin key, shown this once: {secret}\n\nTry it:\n"
        f"  curl {address(config)}/chat/completions \\\n"
        f"    -H 'Authorization: Bearer {secret}' -H 'Content-Type: application/json' \\\n"
        f'    -d \'{{"model": "{name}", "messages": [{{"role": "user", "content": "Hello"}}]}}\'\n'
    )


def address(config: Config) -> str:
    """The base URL for a client on this machine."""
    loopback = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104
    host = loopback.get(config.server.host, config.server.host)
    return f"http://{host}:{config.server.port}/v1"
