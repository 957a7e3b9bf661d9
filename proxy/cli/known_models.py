"""What is known of models, from where and since when, as a person reads it: `chattable models`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from chattable.adapters.services import VENDORS, vendor_at
from chattable.adapters.vendors.known import Known, Long
from chattable.adapters.vendors.models import TABLE, known
from chattable.adapters.vendors.pictures import reading
from chattable.proxy.catalog.prices import known_of
from chattable.proxy.config.settings import Config, LongPrice, ModelEntry, ModelPrice, Target, match

CONFIG = "the config"
NOBODY = ModelEntry()  # what a config says of a model that is not in it

# What a price has, beside its prompt and output, by its names here and in the config.
PARTS = {"cached": "cached", "cache_write": "cache write", "cache_write_1h": "cache write for 1 h"}


class Fact(NamedTuple):
    """One thing that is known of a model, and who says so."""

    what: str
    value: str
    origin: str


class UnknownModelError(Exception):
    """Nothing is known of a name."""


def describe(config: Config, name: str) -> Iterator[str]:
    """Lines on a model: one of the config's, or any that a vendor has; on all of the config's."""
    if not name:
        for each in config.models:
            yield from _configured(config, each, each)
    elif pattern := match(name, config.models):
        yield from _configured(config, pattern, name)
    elif found := list(_vendors(name)):
        for kind, model in found:
            yield from _shown(f"{kind}/{model}", _facts(known(kind, model), model))
    else:
        raise UnknownModelError(f"nothing is known of {name!r}; it may be called otherwise there")


def _configured(config: Config, pattern: str, name: str) -> Iterator[str]:
    entry = config.models[pattern]
    for target in entry.served_by():
        provider = config.providers[target.provider]
        upstream = target.upstream(pattern, name)
        title = f"{name} → {target.provider}/{upstream}"
        if name.endswith("*"):
            rows = len(TABLE.get(vendor_at(provider.kind, provider.base_url), ()))
            yield f"{title}: as each model that it stands for; {rows} of the vendor's are known"
            yield ""
        else:
            facts = known_of(provider, upstream)
            yield from _shown(title, _facts(facts, upstream, entry, target))


def _vendors(name: str) -> Iterator[tuple[str, str]]:
    """Who has a model of that name, which may begin with the vendor's."""
    kind, _, model = name.partition("/")
    if kind in VENDORS and known(kind, model):
        yield kind, model
    else:
        yield from ((kind, name) for kind in TABLE if known(kind, name))


def _facts(
    facts: Known | None,
    model: str,
    entry: ModelEntry = NOBODY,
    target: Target | None = None,
) -> Iterator[Fact]:
    said = target or Target(provider="")
    origin = f"{facts.source}, {facts.since}" if facts else ""
    if price := said.price or entry.price:
        yield Fact("price", _price(price), CONFIG)
    else:
        yield Fact("price", _price(facts) if facts else "not known", origin)
    context = said.context_length or entry.context_length
    yield _tokens("context", context, facts.context_length if facts else None, origin)
    output = said.max_output or entry.max_output
    yield _tokens("output", output, facts.max_output if facts else None, origin)
    yield _picture(model, said.picture_tokens or entry.picture_tokens)


def _tokens(what: str, configured: int | None, listed: int | None, origin: str) -> Fact:
    figure = configured or listed
    value = f"{figure:,} tokens at most" if figure else "not known"
    return Fact(what, value, CONFIG if configured else origin if listed else "")


def _picture(model: str, configured: int | None) -> Fact:
    if configured:
        return Fact("picture", f"{configured:,} tokens", CONFIG)
    rule = reading(model)
    return Fact("picture", rule.rule.says, rule.source and f"{rule.source}, {rule.since}")


def _price(price: ModelPrice | Known) -> str:
    said = f"{_costs(price)} per million tokens"
    if price.long:
        said += f"; above {price.long.above:,} of prompt {_costs(price.long)}"
    if price.image:
        said += f"; ${price.image:g} a picture made"
    return said


def _costs(price: ModelPrice | LongPrice | Known | Long) -> str:
    said = (("prompt", price.input), ("output", price.output))
    costs = [f"${cost:g} {words}" for words, cost in said if cost is not None]
    for name, words in PARTS.items():
        if (cost := getattr(price, name)) is not None:
            costs.append(f"${cost:g} {words}")
    return ", ".join(costs)


def _shown(title: str, facts: Iterator[Fact]) -> Iterator[str]:
    yield title
    for fact in facts:
        yield f"  {fact.what:<8} {fact.value}{f'  ({fact.origin})' if fact.origin else ''}"
    yield ""
