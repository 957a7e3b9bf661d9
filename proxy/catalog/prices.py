"""What budgets take models to cost: what the config says, else what is known, else nobody knows."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain

from msgspec.structs import replace

from chattable.adapters.services import vendor_at
from chattable.adapters.vendors.known import Known, Long
from chattable.adapters.vendors.models import TABLE, known
from chattable.agents.chat import Chat
from chattable.budget.ledger import Ledger, Price
from chattable.budget.limits import Limit
from chattable.budget.storage.errors import StorageUnavailable
from chattable.proxy.config import settings

log = logging.getLogger("chattable")


def known_of(provider: settings.Provider, model: str) -> Known | None:
    """What is known of a model, which holds at the vendor's own address only."""
    return known(vendor_at(provider.kind, provider.base_url), model)


def price_of(
    target: settings.Target,
    model: settings.ModelEntry,
    facts: Known | None,
) -> Price | None:
    """What a model costs; None: nobody knows, which is not the same as nothing."""
    said = target.price or model.price or facts
    return _in_micro_dollars(said) if said else None


def held_price(price: Price, chat: Chat) -> Price:
    """What a hold must cover: more than the usual price where the prompt may go into a cache.

    Vendors that have a price for an hour write only what is marked; others write by themselves.
    """
    steps = [price] if price.long is None else [price, price.long]
    marked_only = any(step.cache_write_1h is not None for step in steps)
    if all(step.cache_write is None for step in steps) or (marked_only and not _marked(chat)):
        return price
    return price.dearest


def unpriced(config: settings.Config) -> list[str]:
    """The models that have no price; of wildcards those of whose vendor nothing is known."""
    return [name for name, model in config.models.items() if any(_lacking(config, name, model))]


class Unpriced:
    """The models without a price, and which of them a budget in dollars would have to bind.

    Thousands of budgets, which mostly bind the same models, are compared with thousands of models.
    """

    def __init__(self, config: settings.Config) -> None:
        self._config = config
        self._known: dict[tuple[str, tuple[str, ...] | None], list[str]] = {}

    @cached_property
    def names(self) -> list[str]:
        """All of them."""
        return unpriced(self._config)

    def under(self, limit: Limit) -> list[str]:
        """Those that this limit would have to bind."""
        if limit.cost is None:
            return []
        binds = (limit.subject if limit.kind == "model" else "", limit.models)
        if binds not in self._known:
            self._known[binds] = unpriced_under(limit, self.names)
        return self._known[binds]

    def under_any(self, limits: Iterable[Limit]) -> list[str]:
        """Those that one of the limits would have to bind."""
        for limit in limits:
            self.under(limit)
        return sorted(set(chain.from_iterable(self._known.values())))


def unpriced_under(limit: Limit, names: Sequence[str]) -> list[str]:
    """Those of the names without a price that a budget in dollars would have to bind."""
    return [] if limit.cost is None else [name for name in names if _binds(limit, name)]


async def warn_of_unpriced(ledger: Ledger, config: settings.Config) -> None:
    """Says in the log which models the budgets in dollars do not bind."""
    lacking = Unpriced(config)
    try:
        limits = await ledger.limits() if lacking.names else []
    except StorageUnavailable:
        return  # it is said wherever the ledger is needed
    if found := lacking.under_any(limits):
        log.warning(warning(config, found))


def warning(config: settings.Config, names: Sequence[str]) -> str:
    """What an operator should know of models without a price under a budget in dollars."""
    refused = config.budgets.unpriced == "refuse"
    effect = "are refused under hard ones" if refused else "are not bound by them"
    instead = "" if refused else ", or `budgets.unpriced: refuse`"
    models = f"models without a price {effect}: {', '.join(names)}"
    return f"there are budgets in dollars, and {models}. Set `models.*.price`{instead}."


def _in_micro_dollars(said: settings.ModelPrice | Known) -> Price:
    usual = _of_tokens(said, said.input, said.output)
    usual, long = replace(usual, image=round(said.image * 1e6)), said.long
    if long is None:
        return usual
    prompt = said.input if long.input is None else long.input
    output = said.output if long.output is None else long.output
    return replace(usual, above=long.above, long=_of_tokens(long, prompt, output))


def _of_tokens(
    said: settings.ModelPrice | settings.LongPrice | Known | Long,
    prompt: float,
    output: float,
) -> Price:
    return Price(
        input=round(prompt * 1e6),
        output=round(output * 1e6),
        cached=_micro(said.cached),
        cache_write=_micro(said.cache_write),
        cache_write_1h=_micro(said.cache_write_1h),
    )


def _micro(dollars: float | None) -> int | None:
    return None if dollars is None else round(dollars * 1e6)


def _lacking(config: settings.Config, name: str, model: settings.ModelEntry) -> Iterator[bool]:
    for target in model.served_by():
        provider = config.providers[target.provider]
        if name.endswith("*"):
            listed = vendor_at(provider.kind, provider.base_url) in TABLE
            yield not (target.price or model.price or listed)
        else:
            facts = known_of(provider, target.upstream(name, name))
            yield price_of(target, model, facts) is None


def _binds(limit: Limit, name: str) -> bool:
    """Whether a limit counts requests for a name, which may be a wildcard."""
    start = name.removesuffix("*")
    if limit.kind == "model" and not _overlap(start, name, limit.subject):
        return False
    return limit.models is None or any(_overlap(start, name, model) for model in limit.models)


def _overlap(start: str, name: str, other: str) -> bool:
    """Whether two names, each of which may be a wildcard, have a model in common."""
    if name == other:
        return True
    beginning = other.removesuffix("*")
    within = name != start and beginning.startswith(start)
    return within or (other != beginning and start.startswith(beginning))


def _marked(chat: Chat) -> bool:
    """Whether a request asks for anything to be written to a cache."""
    parts = (part for m in chat.messages if isinstance(m.content, list) for part in m.content)
    marks = (chat.params, *(m.extra for m in chat.messages), *chat.tools, *parts)
    return any("cache_control" in mark for mark in marks)
