"""Reads config.yaml: every mistake with its line, and the schema that editors complete from."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

import msgspec
from msgspec.structs import replace

from chattable.adapters.services import Vendor
from chattable.adapters.vendors.withheld import ALLOWABLE
from chattable.agents import loading
from chattable.agents.parsing import Shape, explain
from chattable.proxy.config.decoder import Decoder, is_struct, parts
from chattable.proxy.config.document import MAX_BYTES, ConfigError, Document, Problem, read
from chattable.proxy.config.hints import hint
from chattable.proxy.config.setting_types import Secret, admin_key, upstream_key
from chattable.proxy.config.settings import (
    ADMIN_KEY,
    CodeAgent,
    Config,
    ModelEntry,
    PromptAgent,
    Provider,
    RateLimits,
    match,
)
from chattable.proxy.sessions.chores import TASKS

# Headers whose values open something.
SECRET = re.compile(
    r"authori[sz]ation|cookie|passw(?:or)?d|secret|token|credential|jwt|signature|assertion|bearer"
    r"|(?:^|-)(?:api|access|auth|private|subscription|functions|master|admin|service)-?key$",
    re.I,
)


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
    """Read what a config file holds; the environment fills in `${VAR}` and, where no file does, the admin key."""
    doc = read(data, file, env)
    _refuse_litellm(doc)
    config: Config = Decoder(doc, _hook).decode(Config, doc.value, ())
    for where, text in _mistakes(config, doc, kinds):
        if not doc.lacks_variable(where):  # what follows from it is no mistake of its own
            doc.complain(where, text)
    for where, text in _mistakes_in_code(config, doc) if code else ():
        doc.complain(where, text)
    doc.check()
    if doc.value.get("admin_keys") is None:
        config = replace(config, admin_keys=_admin_keys(env))
    return config


def defaults(env: Mapping[str, str], vendors: Mapping[str, str]) -> Config:
    """What is served without a file: `echo`, and every vendor (name -> variable of its key) whose key is set."""
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
            "echo": CodeAgent(use="chattable.agents.echo:Echo", description="Says what it hears.")
        },
    )


# Sections of a LiteLLM proxy's config.yaml.
LITELLM = ("model_list", "litellm_settings", "router_settings", "general_settings")
# What no parameter of a prompt agent may take the place of, and where it is said instead.
NOT_PARAMS = {
    "model": "is no parameter: it is the agent's own `model`",
    "messages": "are no parameter: what the agent adds to them is its `context` and `instructions`",
    "stream": "is no parameter: each client says whether it wants a stream",
}
_Mistakes = Iterator[tuple[tuple[str | int, ...], str]]


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


def _mistakes(config: Config, doc: Document, kinds: Mapping[str, Vendor] | None) -> _Mistakes:
    """What no single value shows: each mistake with its place.

    Names count as known even where their entry is broken.
    """
    for name, provider in config.providers.items():
        if kinds is not None and provider.kind not in kinds:
            known = hint(provider.kind, kinds) or f"; there are {', '.join(sorted(kinds))}"
            yield ("providers", name, "kind"), f"there is no kind `{provider.kind}`{known}"
        elif kinds is not None:
            for setting, text in kinds[provider.kind].mistakes(provider.base_url, provider.options):
                yield (
                    ("providers", name, setting)
                    if setting in provider.options
                    else ("providers", name),
                    f"`{setting}` {text}",
                )
        for i, param in enumerate(provider.allow):
            if param not in ALLOWABLE:
                what = f"`{param}` is never withheld{hint(param, ALLOWABLE)}"
                yield ("providers", name, "allow", i), what
        if provider.api_key and provider.api_keys:
            yield ("providers", name, "api_keys"), "takes the place of `api_key`; have one of them"
        if why := _bad_name(name):
            yield ("providers", name), why
    sections = (doc.value.get(section) for section in ("providers", "models", "agents"))
    providers, models, agents = (
        section if isinstance(section, dict) else {} for section in sections
    )
    yield from _mistakes_in_models(config, providers, models)
    yield from _mistakes_in_agents(config, {**models, **agents})
    for name in models.keys() & agents.keys():
        yield (
            ("agents", name),
            f"is the name of a model too, on line {doc.line(('models', name))}; rename one",
        )
    asks = {
        name: (agent.model,)
        for name, agent in config.agents.items()
        if isinstance(agent, PromptAgent)
    }
    yield from _cycles("agents", "model", asks)
    budget = config.budgets.default
    if budget is not None and budget.tokens is None and budget.cost_usd is None:
        yield ("budgets", "default"), "must have `tokens` or `cost_usd`"
    limited = config.rate_limits != RateLimits()
    alone = not config.redis_url and not doc.lacks_variable(("redis_url",))
    if limited and alone and config.server.workers > 1:
        yield (
            ("rate_limits",),
            "need `redis_url` with several workers: each of them would count for itself",
        )
    yield from _mistakes_in_sessions(config, doc, {**models, **agents})
    if config.budgets.timezone not in available_timezones():
        yield ("budgets", "timezone"), "must be a time zone such as UTC or Europe/Berlin"
    if config.default_model and (why := _unknown(config.default_model, {**models, **agents})):
        yield ("default_model",), why
    for name in config.rate_limits.models:
        if why := _unknown(name, {**models, **agents}):
            yield ("rate_limits", "models", name), why
    for job in ("title", "summary"):
        model = getattr(config.sessions, job).model
        if model and (why := _unknown(model, {**models, **agents})):
            yield ("sessions", job, "model"), why


def _mistakes_in_models(
    config: Config, providers: Mapping[str, Any], names: Mapping[str, Any]
) -> _Mistakes:
    for name, model in config.models.items():
        if name != "*" and (why := _bad_name(name.removesuffix("*"))):
            yield ("models", name), why
        if bool(model.provider) == bool(model.targets):
            yield ("models", name), "must have either `provider` or `targets`"
        elif model.targets and model.model:
            yield ("models", name, "model"), "belongs into each of `targets`"
        for i, target in enumerate(model.served_by()):
            where: tuple[str | int, ...] = (
                ("models", name, "targets", i) if model.targets else ("models", name)
            )
            if target.provider and target.provider not in providers:
                known = hint(target.provider, providers) or "; define it under `providers`"
                yield (*where, "provider"), f"there is no provider `{target.provider}`{known}"
            price = target.price if model.targets else model.price
            for part in ("input", "output"):
                if (
                    price
                    and price.long
                    and (cost := getattr(price.long, part)) is not None
                    and cost < getattr(price, part)
                ):
                    what = "must be no less than the usual: a hold knows the prompt only roughly"
                    yield (*where, "price", "long", part), what
            if target.model and target.model.count("*") > name.endswith("*"):
                yield (
                    (*where, "model"),
                    "may hold one `*`, and only if the entry's own name ends in `*`",
                )
        for i, fallback in enumerate(model.fallbacks):
            if why := _unknown(fallback, names):
                yield ("models", name, "fallbacks", i), why
    yield from _cycles(
        "models", "fallbacks", {name: model.fallbacks for name, model in config.models.items()}
    )


def _mistakes_in_agents(config: Config, names: Mapping[str, Any]) -> _Mistakes:
    for name, agent in config.agents.items():
        if why := _bad_name(name):
            yield ("agents", name), why
        if isinstance(agent, PromptAgent):
            if why := _unknown(agent.model, names):
                yield ("agents", name, "model"), why
            for param, value in agent.params.items():
                if why := _bad_param(param, value):
                    yield ("agents", name, "params", param), why


def _bad_param(name: str, value: Any) -> str:
    """Why a prompt agent cannot have this parameter; empty where it can."""
    if name in NOT_PARAMS:
        return NOT_PARAMS[name]
    try:
        msgspec.convert({name: value}, Shape)
    except msgspec.ValidationError as error:
        return explain(error).message.removesuffix(".")
    return ""


def _mistakes_in_sessions(config: Config, doc: Document, names: Mapping[str, Any]) -> _Mistakes:
    section = doc.value.get("sessions")
    given = section.get("headers") if isinstance(section, dict) else None
    for i, header in enumerate(given if isinstance(given, list) else ()):
        within = isinstance(header, dict)
        name = header.get("name") if within else header
        if isinstance(name, str) and SECRET.search(name):
            why = "carries a secret, which would be kept in plain text as the name of a session"
            place = ("sessions", "headers", i, *(("name",) if within else ()))
            yield place, f"`{name}` {why}; name one such as `X-Session-Id`"
    tasks = config.sessions.tasks
    for task in tasks.prompts:
        if task not in TASKS:
            known = hint(task, TASKS) or f"; there are {', '.join(TASKS)}"
            yield ("sessions", "tasks", "prompts", task), f"there is no such task{known}"
    if tasks.model and (why := _unknown(tasks.model, names)):
        yield ("sessions", "tasks", "model"), why
    elif tasks.model and tasks.model in config.agents:
        why = "must be a model: no agent is run for what chat UIs ask"
        yield ("sessions", "tasks", "model"), why


def _mistakes_in_code(config: Config, doc: Document) -> _Mistakes:
    for name, agent in config.agents.items():
        if isinstance(agent, CodeAgent) and not doc.troubled(("agents", name)):
            try:
                loading.load(agent.use, agent.params)
            except loading.LoadError as error:
                yield ("agents", name, "use"), str(error)


def _cycles(section: str, field: str, asks: Mapping[str, Collection[str]]) -> _Mistakes:
    """Entries that would ask each other for ever, every circle once."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> _Mistakes:
        if name in path:
            circle = [*path[path.index(name) :], name]
            yield (
                (section, name, field),
                f"{section} ask each other in a circle: {' -> '.join(circle)}",
            )
        elif name in asks and name not in done:
            for other in asks[name]:
                yield from walk(other, [*path, name])
            done.add(name)

    for start in asks:
        yield from walk(start, [])


def _unknown(name: str, names: Mapping[str, Any]) -> str:
    if "*" in name:
        return "must name one model or agent, not a wildcard"
    return "" if match(name, names) else f"there is no model or agent `{name}`{hint(name, names)}"


def _bad_name(name: str) -> str:
    if "*" in name:
        return "may hold one `*`, at the end of a model's name"
    return (
        ""
        if name.isprintable() and name.strip() == name != ""
        else "is no name: it is empty, or holds odd spaces"
    )


def settings() -> list[str]:
    """Every setting by its dotted name, `*` being a name of the user's: `server.port`, `models.*.provider`."""
    return list(dict.fromkeys(_settings(Config, "")))


def _settings(kind: Any, prefix: str) -> Iterator[str]:
    for part in parts(kind):
        if is_struct(part):
            for field in msgspec.structs.fields(part):
                if field.name != getattr(part, "REST", None):
                    yield from _settings(field.type, f"{prefix}.{field.name}")
        elif getattr(part, "__origin__", None) is dict and any(
            map(is_struct, parts(part.__args__[1]))
        ):
            yield from _settings(part.__args__[1], f"{prefix}.*")
        else:
            yield prefix.removeprefix(".")


def schema() -> dict[str, Any]:
    """The JSON Schema of config.yaml, for editors."""
    raw = msgspec.json.schema(Config, schema_hook=lambda _: {"type": "string"})
    made = msgspec.json.decode(msgspec.json.encode(raw))  # tuples among the defaults become lists
    for agent in (CodeAgent, PromptAgent):
        entry = made["$defs"][agent.__name__]
        del entry["properties"]["type"]  # which kind of agent it is shows in its keys
        entry["required"].remove("type")
        if rest := getattr(agent, "REST", None):
            del entry["properties"][rest]
            entry["additionalProperties"] = True
    agents = made["$defs"]["Config"]["properties"]["agents"]["additionalProperties"]
    del agents["discriminator"]
    _allow_variables(made)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Chattable's config.yaml",
        **made,
    }


def _allow_variables(node: Any) -> None:
    """Let `${VAR}` stand where a number or a choice is expected, and "5s" for a number of seconds."""
    if isinstance(node, list):
        for item in node:
            _allow_variables(item)
    elif isinstance(node, dict):
        for key in node.keys() - {"default"}:
            _allow_variables(node[key])
        if node.get("type") in ("integer", "number") or "enum" in node or "pattern" in node:
            text = (
                {"type": "string"}
                if node.get("type") == "number"
                else {"type": "string", "pattern": r"\$\{"}
            )
            node["anyOf"] = [
                {key: node.pop(key) for key in [*node] if key not in ("description", "default")},
                text,
            ]
