"""What LiteLLM's router does for all models: timeouts, retries, fallbacks and aliases."""

from __future__ import annotations

import copy
from typing import Any

from chattable.proxy.config.document import Where
from chattable.proxy.config.settings import match
from chattable.proxy.importers.litellm.draft import ConfigDraft
from chattable.proxy.importers.litellm.models import MAX_RETRIES, timeouts
from chattable.proxy.importers.litellm.source import InputMapping, LiteLLMConfig, escaped

QUICKER = "targets without weights: the quicker of two, counting what is under way"
STRATEGIES = {
    "simple-shuffle": "",
    "least-busy": QUICKER,
    "latency-based-routing": QUICKER,
}
LISTS = ("fallbacks", "context_window_fallbacks")
ANY = "*"


def add_routing(source: LiteLLMConfig, draft: ConfigDraft) -> None:
    """Adds what the models have in common; `router_settings` wins over `litellm_settings`."""
    router, module = source.top.section("router_settings"), source.top.section("litellm_settings")
    _strategy(router)
    _patience(router, module, draft)
    _parameters(module, draft)
    aliases = _aliases(router.section("model_group_alias"), draft)
    links = _Links(source, draft)
    for name in LISTS:
        holder = router if router.has(name) else module
        if holder is router:
            module.left(name, "what `router_settings` says counts")
        for entry in holder.sections(name):
            links.add(entry, name)
    links.add_aliases(aliases)
    holder = router if router.has("default_fallbacks") else module
    if holder is router:
        module.left("default_fallbacks", "what `router_settings` says counts")
    links.add_defaults(holder)


def _strategy(router: InputMapping) -> None:
    name = router.text("routing_strategy")
    if name in STRATEGIES:
        router.taken("routing_strategy")
        if STRATEGIES[name]:
            router.changed("routing_strategy", STRATEGIES[name])
    elif name:
        router.left(
            "routing_strategy",
            "there are two: by `weight`, or, without weights, the quicker of two targets",
        )


def _patience(router: InputMapping, module: InputMapping, draft: ConfigDraft) -> None:
    """What holds for all models stands in every provider."""
    total = _either((router, "timeout"), (module, "request_timeout"))
    first = _either((router, "stream_timeout"), (module, "stream_timeout"))
    tries = _either((router, "num_retries"), (module, "num_retries"))
    for provider in draft.providers.entries.values():
        if spans := timeouts(total, first):
            provider["timeouts"] = spans
        if tries is not None:
            provider["retries"] = min(int(tries), MAX_RETRIES)


def _parameters(module: InputMapping, draft: ConfigDraft) -> None:
    """What providers do with parameters they have no place for, and whether they list models."""
    drops, asks = module.flag("drop_params"), module.flag("check_provider_endpoint")
    module.taken("drop_params", "check_provider_endpoint")
    for provider in draft.providers.entries.values():
        if drops is False:
            provider.setdefault("unsupported", "reject")
    for name, model in draft.models.items():
        for target in model.get("targets", [model]) if asks and name.endswith("*") else ():
            draft.providers.entries[target["provider"]]["discover"] = True


def _either(*places: tuple[InputMapping, str]) -> float | None:
    """The number at the first of these places that has one."""
    found = None
    for given, name in places:
        value = given.number(name)
        if value is not None and found is not None:
            given.left(name, "what `router_settings` says counts")
        elif value is not None:
            found = value
            given.taken(name)
            if "retries" in name and value > MAX_RETRIES:
                given.changed(name, f"there are at most {MAX_RETRIES}")
    return found


def _aliases(aliases: InputMapping, draft: ConfigDraft) -> dict[str, tuple[str, Where]]:
    """Makes each alias an entry with its model's targets, and returns the models by alias."""
    made: dict[str, tuple[str, Where]] = {}
    notes = aliases.source.notes
    for alias, value, where in aliases.pairs():
        name = value.get("model") if isinstance(value, dict) else value
        if not isinstance(name, str) or name not in draft.models:
            notes.left(where, "no model of that name is taken")
        elif alias in draft.models:
            notes.left(where, "there is a model of that name")
        elif "*" in alias + name or _is_odd(alias):
            notes.left(where, "a name with `*` or odd spaces cannot be another's")
        else:
            draft.models[alias] = _under(name, draft.models[name])
            draft.remark(("models", alias), f"another name of {name}")
            if isinstance(value, dict) and value.get("hidden"):
                notes.changed(where, "all models are shown in /v1/models to those who may use them")
            notes.taken(where)
            made[alias] = name, where
    return made


def _is_odd(name: str) -> bool:
    return not name.isprintable() or name.strip() != name


def _under(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    made = copy.deepcopy(entry)
    if "targets" in made:
        made["targets"] = [_called(name, target) for target in made["targets"]]
        return made
    return _called(name, made)


def _called(name: str, target: dict[str, Any]) -> dict[str, Any]:
    """A target that names its model, which was the name of the entry."""
    return {"provider": target["provider"], "model": escaped(name)} | target


class _Links:
    """The models' fallbacks.

    Law: there are no circles, and all of them lead to a model that is there.
    """

    def __init__(self, source: LiteLLMConfig, draft: ConfigDraft) -> None:
        self._source, self._models = source, draft.models
        self._links: dict[str, list[str]] = {}
        self._defaults: list[tuple[str, Where]] = []

    def add(self, entry: InputMapping, kind: str) -> None:
        """The fallbacks of one model, or with `*` of all."""
        for name, _, where in entry.pairs():
            for other, place in entry.items(name):
                if not isinstance(other, str):
                    self._source.notes.left(
                        place, "a fallback is a model's name; the request goes to it as it is"
                    )
                elif name == ANY:
                    self._defaults.append((other, place))
                elif name not in self._models:
                    self._source.notes.left(where, "no model of that name is taken")
                elif why := self._link(name, other):
                    self._source.notes.left(place, why)
                elif kind == "context_window_fallbacks":
                    self._source.notes.changed(
                        place, "is asked after other failures too: there is one list, `fallbacks`"
                    )
                else:
                    self._source.notes.taken(place)

    def add_defaults(self, holder: InputMapping) -> None:
        """Those of the models that have none of their own."""
        for other, place in holder.items("default_fallbacks"):
            if isinstance(other, str):
                self._defaults.append((other, place))
        alone = [name for name in self._models if not self._links.get(name)]
        for other, place in self._defaults:
            if not self._is_taken(other):
                self._source.notes.left(place, f"no model `{other}` is taken")
                continue
            for name in alone:
                if not (name.endswith("*") and match(other, [name])):
                    self._link(name, other)
            self._source.notes.changed(
                place,
                "stands in each model without fallbacks of its own, but where it makes a circle",
            )

    def add_aliases(self, aliases: dict[str, tuple[str, Where]]) -> None:
        """An alias without fallbacks of its own has those of its model."""
        for alias, (name, where) in aliases.items():
            for other in () if self._links.get(alias) else self._links.get(name, ()):
                if why := self._link(alias, other):
                    self._source.notes.changed(
                        where, f"has not all of its fallbacks: {other} {why}"
                    )

    def _link(self, name: str, other: str) -> str:
        """Adds a fallback, or says why not."""
        if not self._is_taken(other):
            return f"no model `{other}` is taken"
        if self._reaches(other, name):
            return f"would lead back to `{name}`: fallbacks may not go in a circle"
        links = self._links.setdefault(name, [])
        if other not in links:
            links.append(other)
            self._models[name].setdefault("fallbacks", []).append(escaped(other))
        return ""

    def _is_taken(self, name: str) -> bool:
        return "*" not in name and match(name, self._models) is not None

    def _reaches(self, start: str, goal: str) -> bool:
        seen, todo = set[str](), [start]
        while todo:
            name = todo.pop()
            if name == goal:
                return True
            if name not in seen:
                seen.add(name)
                todo += self._links.get(name, [])
        return False
