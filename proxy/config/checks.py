"""Mistakes that no single value of a config shows: unknown names, circles, contradictions."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from zoneinfo import available_timezones

import msgspec

from chattable.adapters.services import Vendor
from chattable.adapters.vendors.withheld import ALLOWABLE
from chattable.agents import loading
from chattable.agents.parsing import Shape, explain
from chattable.proxy.config.document import Document
from chattable.proxy.config.hints import hint
from chattable.proxy.config.settings import (
    CodeAgentEntry,
    Config,
    ModelEntry,
    ModelPrice,
    PromptAgentEntry,
    Provider,
    RateLimits,
    Target,
    match,
)
from chattable.proxy.config.ui_tasks import TASKS

# Headers whose values open something.
SECRET = re.compile(
    r"authori[sz]ation|cookie|passw(?:or)?d|secret|token|credential|jwt|signature|assertion|bearer"
    r"|(?:^|-)(?:api|access|auth|private|subscription|functions|master|admin|service)-?key$",
    re.I,
)


# What no parameter of a prompt agent may take the place of, and where it is said instead.
NOT_PARAMS = {
    "model": "is no parameter: it is the agent's own `model`",
    "messages": "are no parameter: what the agent adds to them is its `context` and `instructions`",
    "stream": "is no parameter: each client says whether it wants a stream",
}
Mistakes = Iterator[tuple[tuple[str | int, ...], str]]  # each with its place


def mistakes(config: Config, doc: Document, kinds: Mapping[str, Vendor] | None) -> Mistakes:
    """Each mistake with its place; names count as known even where their entry is broken."""
    sections = (doc.value.get(section) for section in ("providers", "models", "agents"))
    providers, models, agents = (
        section if isinstance(section, dict) else {} for section in sections
    )
    names = {**models, **agents}
    for name, provider in config.providers.items():
        yield from _in_provider(name, provider, kinds)
    for name, model in config.models.items():
        yield from _in_model(name, model, providers, names)
    fallbacks = {name: model.fallbacks for name, model in config.models.items()}
    yield from _cycles("models", "fallbacks", fallbacks)
    yield from _in_agents(config, names)
    for name in models.keys() & agents.keys():
        first = f"is the name of a model too, on line {doc.line(('models', name))}"
        yield ("agents", name), f"{first}; rename one"
    prompts = {n: (a.model,) for n, a in config.agents.items() if isinstance(a, PromptAgentEntry)}
    yield from _cycles("agents", "model", prompts)
    yield from _in_budgets(config)
    yield from _in_rate_limits(config, doc, names)
    yield from _in_sessions(config, doc, names)
    if config.default_model and (why := _unknown(config.default_model, names)):
        yield ("default_model",), why


def _in_provider(name: str, provider: Provider, kinds: Mapping[str, Vendor] | None) -> Mistakes:
    where = ("providers", name)
    if kinds is not None and provider.kind not in kinds:
        known = hint(provider.kind, kinds) or f"; there are {', '.join(sorted(kinds))}"
        yield (*where, "kind"), f"there is no kind `{provider.kind}`{known}"
    elif kinds is not None:
        vendor = kinds[provider.kind]
        for setting, text in vendor.mistakes(provider.base_url, provider.options):
            place = (*where, setting) if setting in provider.options else where
            yield place, f"`{setting}` {text}"
    for i, param in enumerate(provider.allow):
        if param not in ALLOWABLE:
            yield (*where, "allow", i), f"`{param}` is never withheld{hint(param, ALLOWABLE)}"
    if provider.api_key and provider.api_keys:
        yield (*where, "api_keys"), "takes the place of `api_key`; have one of them"
    if why := _bad_name(name):
        yield where, why


def _in_model(
    name: str, model: ModelEntry, providers: Mapping[str, Any], names: Mapping[str, Any]
) -> Mistakes:
    where: tuple[str | int, ...] = ("models", name)
    if name != "*" and (why := _bad_name(name.removesuffix("*"))):
        yield where, why
    if bool(model.provider) == bool(model.targets):
        yield where, "must have either `provider` or `targets`"
    elif model.targets and model.model:
        yield (*where, "model"), "belongs into each of `targets`"
    for i, target in enumerate(model.served_by()):
        place = (*where, "targets", i) if model.targets else where
        price = target.price if model.targets else model.price
        yield from _in_target(place, target, providers, wildcard=name.endswith("*"))
        yield from _in_price(place, price)
    for i, fallback in enumerate(model.fallbacks):
        if why := _unknown(fallback, names):
            yield (*where, "fallbacks", i), why


def _in_target(
    where: tuple[str | int, ...], target: Target, providers: Mapping[str, Any], *, wildcard: bool
) -> Mistakes:
    if target.provider and target.provider not in providers:
        known = hint(target.provider, providers) or "; define it under `providers`"
        yield (*where, "provider"), f"there is no provider `{target.provider}`{known}"
    if target.model and target.model.count("*") > wildcard:
        text = "may hold one `*`, and only if the entry's own name ends in `*`"
        yield (*where, "model"), text


def _in_price(where: tuple[str | int, ...], price: ModelPrice | None) -> Mistakes:
    if price is None or price.long is None:
        return
    for part in ("input", "output"):
        cost = getattr(price.long, part)
        if cost is not None and cost < getattr(price, part):
            text = "must be no less than the usual: a hold knows the prompt only roughly"
            yield (*where, "price", "long", part), text


def _in_budgets(config: Config) -> Mistakes:
    budget = config.budgets.default
    if budget is not None and budget.tokens is None and budget.cost_usd is None:
        yield ("budgets", "default"), "must have `tokens` or `cost_usd`"
    if config.budgets.timezone not in available_timezones():
        yield ("budgets", "timezone"), "must be a time zone such as UTC or Europe/Berlin"


def _in_rate_limits(config: Config, doc: Document, names: Mapping[str, Any]) -> Mistakes:
    limited = config.rate_limits != RateLimits()
    alone = not config.redis_url and not doc.lacks_variable(("redis_url",))
    if limited and alone and config.server.workers > 1:
        text = "need `redis_url` with several workers: each of them would count for itself"
        yield ("rate_limits",), text
    for name in config.rate_limits.models:
        if why := _unknown(name, names):
            yield ("rate_limits", "models", name), why


def _in_agents(config: Config, names: Mapping[str, Any]) -> Mistakes:
    for name, agent in config.agents.items():
        if why := _bad_name(name):
            yield ("agents", name), why
        if isinstance(agent, PromptAgentEntry):
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


def _in_sessions(config: Config, doc: Document, names: Mapping[str, Any]) -> Mistakes:
    yield from _in_session_headers(doc.value.get("sessions"))
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
    for job in ("title", "summary"):
        model = getattr(config.sessions, job).model
        if model and (why := _unknown(model, names)):
            yield ("sessions", job, "model"), why


def _in_session_headers(section: Any) -> Mistakes:
    given = section.get("headers") if isinstance(section, dict) else None
    for i, header in enumerate(given if isinstance(given, list) else ()):
        within = isinstance(header, dict)
        name = header.get("name") if within else header
        if isinstance(name, str) and SECRET.search(name):
            why = "carries a secret, which would be kept in plain text as the name of a session"
            place = ("sessions", "headers", i, *(("name",) if within else ()))
            yield place, f"`{name}` {why}; name one such as `X-Session-Id`"


def mistakes_in_code(config: Config, doc: Document) -> Mistakes:
    """Agents whose code cannot be loaded."""
    for name, agent in config.agents.items():
        if isinstance(agent, CodeAgentEntry) and not doc.troubled(("agents", name)):
            try:
                loading.load(agent.use, agent.params)
            except loading.LoadError as error:
                yield ("agents", name, "use"), str(error)


def _cycles(section: str, field: str, asks: Mapping[str, Collection[str]]) -> Mistakes:
    """Entries that would ask each other for ever, every circle once."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> Mistakes:
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
