"""The command `chattable`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from chattable.adapters.local.server import LocalError, data_home, pull
from chattable.agents.errors import InvalidRequest
from chattable.agents.loading import LoadError
from chattable.budget.errors import BudgetError
from chattable.budget.storage.errors import StorageError
from chattable.proxy.cli import check, conversations, databases, ledger, users
from chattable.proxy.cli.databases import Commands
from chattable.proxy.cli.known_models import UnknownModelError
from chattable.proxy.cli.startup import StartError, find_config
from chattable.proxy.config.document import ConfigError
from chattable.proxy.importers.conversation_files import TransferError
from chattable.proxy.telemetry.progress import show_progress
from chattable.proxy.version import VERSION

REFUSALS = (
    StorageError,
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
    _add_serve(commands, config)
    for module in (check, databases, users, ledger, conversations):
        module.add_commands(commands, config)
    _add_import_litellm(commands)
    _add_local(commands)
    return root


def _add_serve(commands: Commands, config: argparse.ArgumentParser) -> None:
    serve = commands.add_parser("serve", parents=[config], help="run the server")
    serve.add_argument("--host")
    serve.add_argument("--port", type=_between(0, 65535))
    serve.add_argument("--workers", type=_between(1, 256))
    serve.set_defaults(run=_serve)


def _add_import_litellm(commands: Commands) -> None:
    other = commands.add_parser(
        "import-litellm",
        help="make a config from that of a LiteLLM proxy, and say what became of it",
    )
    other.add_argument("file", metavar="FILE", help="LiteLLM's config.yaml")
    other.add_argument(
        "-o", "--output", metavar="FILE", help="a new file; default: standard output"
    )
    other.set_defaults(run=_import_litellm)


def _add_local(commands: Commands) -> None:
    local = commands.add_parser("local", help="a small model on this machine").add_subparsers(
        required=True, metavar="ACTION"
    )
    local.add_parser("pull", help="fetch the model (93 MB)").set_defaults(run=_pull)


def _serve(args: argparse.Namespace) -> None:
    from chattable.proxy.cli.serve import serve

    serve(
        find_config(args.config, host=args.host, port=args.port, workers=args.workers, code=True),
        args.config,
    )


def _import_litellm(args: argparse.Namespace) -> int:
    from chattable.proxy.importers.litellm.convert import import_litellm

    return import_litellm(args.file, args.output)


def _pull(_: argparse.Namespace) -> None:
    with show_progress(sys.stderr) as tell:
        path = pull(tell, data_home())
    print(f"The model is at {path}; `chattable serve` without a config file now serves it.")


def _between(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text[:10]) <= most):
            raise argparse.ArgumentTypeError(f"give a number from {least} to {most}")
        return int(text)

    return number


if __name__ == "__main__":
    sys.exit(main())
