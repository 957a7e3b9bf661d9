"""`chattable check` and `chattable models`."""

from __future__ import annotations

import argparse
import asyncio
import sys

from chattable.proxy.catalog.prices import known_of, price_of, unpriced, warning
from chattable.proxy.cli.absent_subjects import absent_subjects
from chattable.proxy.cli.databases import Commands
from chattable.proxy.cli.known_models import describe
from chattable.proxy.cli.startup import find_config
from chattable.proxy.config.settings import Config, ModelEntry, Target
from chattable.proxy.store.database import Database


def add_commands(commands: Commands, config: argparse.ArgumentParser) -> None:
    """Adds them to the command line."""
    check = commands.add_parser(
        "check", parents=[config], help="validate the config and print what it serves"
    )
    check.set_defaults(run=_check)
    models = commands.add_parser("models", parents=[config], help="what is known of models")
    models.add_argument("name", nargs="?", default="", help="default: all of the config")
    models.set_defaults(run=_models)


def _check(args: argparse.Namespace) -> None:
    config = find_config(args.config, code=True)
    server = config.server
    print(
        f"serves at http://{server.host}:{server.port}/v1, database {Database(config.database_url)}"
    )
    for name, model in config.models.items():
        for target in model.served_by():
            print(
                f"model  {name} → "
                f"{target.provider}/{target.upstream(name, name)}"
                f"{_priced(config, name, model, target)}"
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
