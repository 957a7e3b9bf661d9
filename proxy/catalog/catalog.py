"""What every model name stands for."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from chattable.adapters import discovery
from chattable.adapters.local.server import LocalServer, data_home, model_path
from chattable.adapters.services import VENDORS, wire_of
from chattable.adapters.stream_reading import UpstreamTimeouts
from chattable.adapters.transport import Transport
from chattable.adapters.upstream import Upstream, UpstreamProvider
from chattable.agents.chattable import Chattable, TurnLimits
from chattable.agents.errors import ModelNotFound
from chattable.agents.loading import load
from chattable.agents.params import Accepts
from chattable.agents.prompt import PromptAgent
from chattable.budget.ledger import Price
from chattable.budget.periodic import Periodic
from chattable.proxy.catalog.circuits import CircuitBreaker
from chattable.proxy.catalog.prices import known_of, price_of
from chattable.proxy.config import settings
from chattable.proxy.identity.auth import Principal

log = logging.getLogger("chattable")

STARTED = int(time.time())  # what models say they were created
DEFAULT = "default"  # the name that means `default_model`
# seconds until a provider is asked again which models it has; a sixtieth of it where it did not say
DISCOVER = 3600.0
MOST_MODELS = 1000  # of a provider that are remembered
MAX_NAME = 256  # characters of a name that a wildcard serves
# tokens of output that a budget holds of what is only known of a model: many can write far more
# than they do
MOST_HELD = 16_384


class Entry(Struct, frozen=True):
    """One model name."""

    name: str
    model: Chattable
    owned_by: str
    created: int
    description: str = ""
    context_length: int | None = None
    limits: TurnLimits = TurnLimits()
    price: Price | None = None  # None: nobody knows it
    priced: bool = True  # False: it has none, and hard budgets in dollars refuse it
    picture_tokens: int | None = None  # of a picture that it reads, where the config says so
    max_output: int | None = None
    kind: str = ""  # of the provider, where a model answers
    # what really answers, whatever it is called here: what differs in it may answer differently
    source: tuple[str, ...] = ()
    targets: tuple[Entry, ...] = ()  # where there are several: each as an entry of the same name
    fallbacks: tuple[str, ...] = ()
    weight: float | None = None  # a target's share of the calls
    health: CircuitBreaker | None = None
    cache_ttl: float | None = None  # seconds that answers are kept; None: they are not


class Catalog:
    """Model name → what answers it, built once from a config."""

    def __init__(
        self,
        entries: Iterable[Entry],
        wildcards: Mapping[str, settings.ModelEntry],
        sources: Mapping[str, _Source],
        default: str,
    ) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self._wildcards = wildcards
        self._sources = sources
        self._default = default
        self._wild: dict[str, Entry] = {}  # names that wildcards served
        # what was discovered, and the entries it makes
        self._listed: tuple[list[tuple[str, ...]], list[Entry]] = [], []

    def find(self, name: str, principal: Principal) -> Entry:
        """The entry of a name; `ModelNotFound` if there is none, or none for this principal."""
        entry = self._entries.get(name) or self._by_wildcard(name)
        if entry is None and name == DEFAULT and self._default:
            return self.find(self._default, principal)
        if entry is None or not principal.may_use(name):
            raise ModelNotFound(name)
        return entry

    def accepts(self, name: str | None, principal: Principal) -> Accepts:
        """What a name accepts of its own: nothing, where it is not there for this principal."""
        if name is None:
            return {}
        try:
            return self.find(name, principal).model.accepts
        except ModelNotFound:
            return {}

    def visible(self, principal: Principal) -> list[Entry]:
        """The entries this principal may use, with those behind wildcards that somebody names."""
        discovered = [source.discovered for source in self._sources.values()]
        if self._listed[0] != discovered:  # once an hour: there may be thousands
            names = [
                name
                for pattern, model in self._wildcards.items()
                for name in self._behind(pattern, model)
            ]
            entries = [
                entry
                for name in dict.fromkeys(names)
                if name not in self._entries and (entry := self._by_wildcard(name))
            ]
            self._listed = discovered, entries
        known = [*self._entries.values(), *self._listed[1], *self._granted(principal)]
        by_name = {entry.name: entry for entry in known if principal.may_use(entry.name)}
        return list(by_name.values())

    def _granted(self, principal: Principal) -> Iterator[Entry]:
        """The entries that a key's list names one by one, of which a wildcard may serve some."""
        for name in principal.models or ():
            if name.endswith("*"):
                continue
            if entry := self._entries.get(name) or self._by_wildcard(name):
                yield entry

    def _behind(self, pattern: str, model: settings.ModelEntry) -> Iterator[str]:
        """The names behind a wildcard that its provider has listed, but those of a longer one."""
        target = model.served_by()[0]
        before, _, after = target.upstream(pattern, pattern).partition("*")
        for name in self._sources[target.provider].discovered:
            if (
                name.startswith(before)
                and name.endswith(after)
                and len(name) > len(before) + len(after)
            ):
                asked = pattern[:-1] + name[len(before) : len(name) - len(after)]
                if settings.match(asked, self._wildcards) == pattern:
                    yield asked

    async def start(self) -> None:
        """Starts local servers and agents."""
        wild = {
            target.provider for model in self._wildcards.values() for target in model.served_by()
        }
        try:
            await _all(source.start(listed=name in wild) for name, source in self._sources.items())
            await _all(entry.model.start() for entry in self._entries.values())
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stops what was started; what fails to stop does not keep the rest running."""
        await asyncio.gather(
            *(entry.model.stop() for entry in self._entries.values()), return_exceptions=True
        )
        await asyncio.gather(
            *(source.stop() for source in self._sources.values()), return_exceptions=True
        )

    def _by_wildcard(self, name: str) -> Entry | None:
        if name in self._wild:
            return self._wild[name]
        if len(name) > MAX_NAME or not name.isprintable():  # it is kept with what it used
            return None
        pattern = settings.match(name, self._wildcards)
        if pattern is None:
            return None
        if len(self._wild) >= MOST_MODELS:  # every client may name models of its own
            self._wild.clear()
        self._wild[name] = _model(pattern, name, self._wildcards[pattern], self._sources)
        return self._wild[name]


class CatalogHolder:
    """The catalog that is served now.

    Law: it is swapped whole, and only for one that has started. A turn under way keeps the entry
    that it found, whose models run until its end: `swap` leaves the stopping to whoever knows when.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.current = catalog

    async def swap(self, catalog: Catalog) -> Catalog:
        """Serves another catalog from now on; returns the one before, which is to be stopped."""
        await catalog.start()
        before, self.current = self.current, catalog
        return before

    async def start(self) -> None:
        """Starts the catalog at hand."""
        await self.current.start()

    async def stop(self) -> None:
        """Stops the catalog at hand."""
        await self.current.stop()


class _Source:
    """A provider together with the process that serves it, if it is one of ours."""

    def __init__(
        self,
        name: str,
        config: settings.Provider,
        transport: Transport,
        cache: settings.Cache | None,
        unpriced: str,
    ) -> None:
        self.name = name
        self.config = config
        self.cache = cache
        self.unpriced = unpriced
        self.discovered: tuple[str, ...] = ()
        self._discovery = Periodic(
            f"which models {name} has",
            self._discover,
            lambda: DISCOVER if self.discovered else DISCOVER / 60,
            at_once=True,
            expected=(discovery.DiscoveryError,),
        )
        self._health: dict[str, CircuitBreaker] = {}
        self.server = LocalServer(model_path(data_home())) if config.kind == "local" else None
        vendor = VENDORS[config.kind]
        self.provider = UpstreamProvider(
            name,
            wire_of(config.kind, config.base_url, config.options).with_unsupported(
                config.unsupported, config.allow
            ),
            vendor.address(config.base_url, config.options),
            transport,
            api_key=config.api_key.reveal() if config.api_key else "",
            api_keys=[key.reveal() for key in config.api_keys],
            max_connections=config.max_connections,
        )

    def health(self, model: str) -> CircuitBreaker:
        """What is known of a model here, under whatever names it is served."""
        if model not in self._health:
            # behind a wildcard every client may name models of its own
            if len(self._health) >= MOST_MODELS:
                self._health.clear()
            self._health[model] = CircuitBreaker()
        return self._health[model]

    async def start(self, *, listed: bool) -> None:
        """Starts it; where its models are `listed`, asks for them again and again."""
        if self.server is not None:
            await self.server.start()
            self.provider.point_at(self.server.base_url)
        if listed and self.config.discover:
            self._discovery.start()

    async def _discover(self) -> None:
        self.discovered = tuple(await discovery.models(self.provider))
        log.info("%s has %d models", self.name, len(self.discovered))

    async def stop(self) -> None:
        await self._discovery.stop()
        if self.server is not None:
            await self.server.stop()


async def _all(starts: Iterable[Awaitable[None]]) -> None:
    """Waits for all of them, then raises what the first raised that failed."""
    for outcome in await asyncio.gather(*starts, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def _model(
    pattern: str, name: str, model: settings.ModelEntry, sources: Mapping[str, _Source]
) -> Entry:
    """A name that upstreams answer."""
    targets = tuple(
        [
            _target(pattern, name, model, target, sources[target.provider])
            for target in model.served_by()
        ]
    )
    if len(targets) == 1:
        return replace(targets[0], fallbacks=model.fallbacks)
    lengths = [target.context_length for target in targets]
    return replace(
        targets[0],
        context_length=max((length for length in lengths if length), default=None),
        source=tuple([part for target in targets for part in target.source]),
        targets=targets,
        fallbacks=model.fallbacks,
    )


def _target(
    pattern: str, name: str, model: settings.ModelEntry, target: settings.Target, source: _Source
) -> Entry:
    """A name that one upstream answers."""
    config, upstream_name = source.config, target.upstream(pattern, name)
    limits = model.timeouts.onto(config.timeouts) if model.timeouts else config.timeouts
    retries = config.retries if model.retries is None else model.retries
    facts = known_of(config, upstream_name)
    most = min(facts.max_output, MOST_HELD) if facts and facts.max_output else None
    max_output = target.max_output or model.max_output or most
    price = price_of(target, model, facts)
    return Entry(
        name,
        Upstream(
            source.provider,
            upstream_name,
            timeouts=UpstreamTimeouts(
                limits.connect, limits.first_token, limits.between_tokens, limits.total
            ),
            retries=retries,
            max_output=max_output,
        ),
        model.owned_by or target.provider,
        STARTED,
        model.description,
        target.context_length or model.context_length or (facts.context_length if facts else None),
        max_output=max_output,
        kind=config.kind,
        price=price,
        priced=price is not None or source.unpriced == "allow",
        picture_tokens=target.picture_tokens or model.picture_tokens,
        source=(
            source.name,
            config.kind,
            config.base_url or "",
            *config.options.values(),
            upstream_name,
        ),
        cache_ttl=_kept_for(source.cache, model.cache or settings.ModelCache()),
        weight=target.weight,
        health=source.health(upstream_name),
    )


def build(config: settings.Config, transport: Transport) -> Catalog:
    """The catalog that a config describes; raises `LoadError` for an agent that cannot be built."""
    sources = {
        name: _Source(name, provider, transport, config.cache, config.budgets.unpriced)
        for name, provider in config.providers.items()
    }
    fixed = {name: model for name, model in config.models.items() if not name.endswith("*")}
    entries = [_model(name, name, model, sources) for name, model in fixed.items()]
    reach = _reach(config)
    entries += [_agent(name, agent, config.cache, reach) for name, agent in config.agents.items()]
    wildcards = {name: model for name, model in config.models.items() if name.endswith("*")}
    return Catalog(entries, wildcards, sources, config.default_model)


def declared(config: settings.Config) -> Callable[[str | None], Accepts]:
    """What agents accept of their own, without a catalog: each is loaded when it is asked for."""

    @functools.cache
    def accepts(name: str | None) -> Accepts:
        agent = config.agents.get((config.default_model if name == DEFAULT else name) or "")
        if not isinstance(agent, settings.CodeAgentEntry):
            return {}
        return load(agent.use, agent.params).accepts

    return accepts


def _agent(
    name: str, agent: settings.AgentEntry, cache: settings.Cache | None, reach: str
) -> Entry:
    limits = TurnLimits(agent.limits.calls, agent.limits.tokens, agent.limits.seconds)
    model: Chattable
    if isinstance(agent, settings.PromptAgentEntry):
        model = PromptAgent(
            agent.model, context=agent.context, instructions=agent.instructions, params=agent.params
        )
    else:
        model = load(agent.use, agent.params)
    return Entry(
        name,
        model,
        "chattable",
        STARTED,
        agent.description or model.description,
        limits=limits,
        source=("agent", name, reach, _code(model) if agent.cache else ""),
        cache_ttl=_kept_for(cache, settings.ModelCache(enabled=agent.cache)),
    )


def _kept_for(cache: settings.Cache | None, model: settings.ModelCache) -> float | None:
    """How long answers are kept; None: they are not."""
    if cache is None or not cache.enabled or not model.enabled:
        return None
    return model.ttl or cache.ttl


def _reach(config: settings.Config) -> str:
    """A digest of what an agent's answer may depend on in the config: itself and all it may ask."""
    places = {
        name: (provider.kind, provider.base_url, provider.options)
        for name, provider in config.providers.items()
    }
    return sha256(
        msgspec.json.encode(
            [config.agents, config.models, config.default_model, places], order="sorted"
        )
    ).hexdigest()


def _code(model: Chattable) -> str:
    """A digest of the file that an agent's code is in; empty where there is none."""
    with suppress(OSError, TypeError):
        return sha256(
            Path(inspect.getfile(getattr(model, "function", type(model)))).read_bytes()
        ).hexdigest()
    return ""
