"""Reads config.yaml; every mistake has its line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from chattable.adapters.services import Vendor
from chattable.proxy.config.checks import mistakes, mistakes_in_code
from chattable.proxy.config.decoder import Decoder
from chattable.proxy.config.document import MAX_BYTES, ConfigError, Document, Problem, read
from chattable.proxy.config.setting_types import Secret, admin_key, upstream_key
from chattable.proxy.config.settings import ADMIN_KEY, CodeAgentEntry, Config, ModelEntry, Provider

# Sections of a LiteLLM proxy's config.yaml.
LITELLM = ("model_list", "litellm_settings", "router_settings", "general_settings")


def load(
    path: str | Path,
    env: Mapping[str, str],
    kinds: Mapping[str, Vendor] | None = None,
    *,
    code: bool = False,
) -> Config:
    """Read a config file; ConfigError holds every problem in it.

    `kinds` are the providers' kinds there are; `code` builds every agent, to find those whose code
    cannot be loaded.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(Problem(str(path), 0, "", f"cannot be read: {error.strerror}")) from None
    return parse(data, str(path), env, kinds, code=code)


def parse(
    data: bytes,
    file: str,
    env: Mapping[str, str],
    kinds: Mapping[str, Vendor] | None = None,
    *,
    code: bool = False,
) -> Config:
    """Reads the text of a config; `env` fills in `${VAR}`, and admin keys where there are none."""
    doc = read(data, file, env)
    _refuse_litellm(doc)
    config: Config = Decoder(doc, _hook).decode(Config, doc.value, ())
    for where, text in mistakes(config, doc, kinds):
        if not doc.lacks_variable(where):  # what follows from it is no mistake of its own
            doc.complain(where, text)
    for where, text in mistakes_in_code(config, doc) if code else ():
        doc.complain(where, text)
    doc.check()
    if doc.value.get("admin_keys") is None:
        config = replace(config, admin_keys=_admin_keys(env))
    return config


def defaults(env: Mapping[str, str], vendors: Mapping[str, str]) -> Config:
    """The config without a file: `echo`, and the vendors whose key's variable is set."""
    keys = {
        vendor: Secret(_from_environment(env, variable, upstream_key))
        for vendor, variable in vendors.items()
        if env.get(variable, "").strip()
    }
    return Config(
        admin_keys=_admin_keys(env),
        providers={
            vendor: Provider(kind=vendor, api_key=key, discover=True)
            for vendor, key in keys.items()
        },
        models={f"{vendor}/*": ModelEntry(provider=vendor) for vendor in keys},
        agents={
            "echo": CodeAgentEntry(
                use="chattable.agents.echo:Echo", description="Says what it hears."
            )
        },
    )


def _hook(kind: Any, value: Any) -> Any:
    return Secret(msgspec.convert(value, str))


def _admin_keys(env: Mapping[str, str]) -> tuple[Secret, ...]:
    return (Secret(_from_environment(env, ADMIN_KEY, admin_key)),) if ADMIN_KEY in env else ()


def _from_environment(env: Mapping[str, str], variable: str, parse: Callable[[str], str]) -> str:
    try:
        return parse(env[variable])
    except ValueError as error:
        raise ConfigError(Problem("environment", 0, variable, str(error))) from None


def _refuse_litellm(doc: Document) -> None:
    """Says of a LiteLLM proxy's file what to do with it: every line of it would be a mistake."""
    for section in LITELLM:
        if section in doc.value:
            way = f"make a config of this file: chattable import-litellm {doc.file} -o new.yaml"
            text = f"is a section of LiteLLM's; {way}"
            raise ConfigError(Problem(doc.file, doc.line((section,)), section, text))
