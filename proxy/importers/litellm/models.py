"""The section `models`: LiteLLM's deployments by name, with shares, limits, prices and lengths."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from chattable.adapters.vendors.models import known
from chattable.proxy.importers.litellm.draft import ConfigDraft
from chattable.proxy.importers.litellm.providers import NoCounterpart, provider_of
from chattable.proxy.importers.litellm.source import InputMapping, LiteLLMConfig, escaped

SERVED = {
    "chat",
    "completion",
    "responses",
    "embedding",
    "moderation",
    "image_generation",
    "audio_speech",
    "rerank",
}
PRICES = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cached": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
}
STEP = re.compile(r"(?:in|out)put_cost_per_token_above_(\d{1,6})k_tokens", re.ASCII)
PICTURE = "output_cost_per_image"
PACES = {
    "requests_per_minute": "rpm",
    "tokens_per_minute": "tpm",
    "parallel": "max_parallel_requests",
}
SUMMED = "the limits of a name's deployments are one, their sum: `rate_limits.models`"
UNLIMITED = "a name with `*` has no limit: name the models in `rate_limits.models`"
ALONE = "limits the name: `rate_limits.models`"
MAX_RETRIES = 10
MAX_PER_MINUTE = 10**10
MAX_TOKEN_PRICE_USD = 0.1
MAX_PICTURE_PRICE_USD = 1000.0
MAX_WEIGHT = 10**6
MAX_DURATION_S = 3650 * 86400


class Deployment(NamedTuple):
    """One entry of `model_list` that can be served."""

    name: str
    params: InputMapping
    target: dict[str, Any]  # as one of `targets`


def add_models(source: LiteLLMConfig, draft: ConfigDraft) -> None:
    """Makes `providers`, `models` and the models' `rate_limits`."""
    strategy = source.top.section("router_settings").text("routing_strategy")
    for name, deployments in _grouped(source, draft).items():
        if deployments:
            draft.models[name] = _entry(name, deployments, strategy, draft)


def _grouped(source: LiteLLMConfig, draft: ConfigDraft) -> dict[str, list[Deployment]]:
    """The deployments that can be served, by the name that clients ask for."""
    credentials = {
        str(entry.text("credential_name")): entry
        for entry in source.top.sections("credential_list")
    }
    unused = dict(credentials)
    groups: dict[str, list[Deployment]] = {}
    for entry in source.top.sections("model_list"):
        name = entry.text("model_name")
        params = entry.section("litellm_params")
        _check_name(name, entry, "model_name")
        _check_name(params.text("model"), entry, "litellm_params", "model")
        unused.pop(params.text("litellm_credential_name") or "", None)
        if name and params.has("model"):
            group = groups.setdefault(name, [])
            params = _with_credential(params, credentials)
            try:
                group.append(_deployment(name, entry, params, draft))
            except NoCounterpart as left:
                source.notes.left(entry.place, str(left))
    for credential in unused.values():
        source.notes.left(credential.place, "no deployment uses it")
    return groups


def _check_name(name: str | None, entry: InputMapping, *where: str) -> None:
    if not name:
        entry.source.doc.complain((*entry.place, *where), "is missing")
    elif not name.isprintable() or name != name.strip():
        why = "is no name: it holds odd spaces or characters"
        entry.source.doc.complain((*entry.place, *where), why)


def _with_credential(params: InputMapping, credentials: dict[str, InputMapping]) -> InputMapping:
    name = params.text("litellm_credential_name")
    if name is None:
        return params
    if name not in credentials:
        params.source.doc.complain(
            params.where("litellm_credential_name"), "there is no such entry in `credential_list`"
        )
        return params
    entry = credentials[name]
    entry.taken("credential_name")
    params.changed("litellm_credential_name", "what the credential holds is in the provider")
    return params.over(entry.section("credential_values"))


def _deployment(
    name: str, entry: InputMapping, params: InputMapping, draft: ConfigDraft
) -> Deployment:
    model = params.text("model") or ""
    _check_wildcards(name, model)
    found = provider_of(name, params)
    target: dict[str, Any] = {"provider": draft.providers.name(found)}
    if found.model != ("*" if name.endswith("*") else name):
        target["model"] = escaped(found.model)
    if model == "*":
        params.changed(
            "model", "here one provider serves it; for others, add names such as `anthropic/*`"
        )
    entry.taken("model_name")
    info = entry.section("model_info")
    _lengths(info, target)
    _price(params, info, target, draft.providers.entries[target["provider"]]["kind"], found.model)
    _mode(info)
    return Deployment(name, params, target)


def _check_wildcards(name: str, model: str) -> None:
    if "*" in name[:-1] or model.count("*") > 1:
        raise NoCounterpart("a name may hold one `*`, at its end")
    if "*" in model and not name.endswith("*"):
        raise NoCounterpart("its model has a `*`, for which nothing in its name stands")


def _mode(info: InputMapping) -> None:
    mode = info.text("mode")
    if mode in SERVED:
        info.taken("mode")
    elif mode:
        info.left("mode", "there is no route for it")


def _lengths(info: InputMapping, target: dict[str, Any]) -> None:
    if reads := int(info.number("max_input_tokens") or 0):
        target["context_length"] = reads
        info.taken("max_input_tokens")
    writes = info.first("max_output_tokens", "max_tokens")
    if most := int(info.number(writes) or 0):
        target["max_output"] = most
        info.taken("max_output_tokens")
        if writes == "max_output_tokens":
            info.left("max_tokens", "`max_output_tokens` counts")
        else:
            info.changed(
                "max_tokens", "is taken as `max_output`, what the model can write in one reply"
            )


def _price(
    params: InputMapping, info: InputMapping, target: dict[str, Any], kind: str, model: str
) -> None:
    """The price in dollars for a million tokens; what is not said of it is known of the model."""
    price: dict[str, Any] = _costs(params, info, "")
    image, long = _cost(params, info, PICTURE, MAX_PICTURE_PRICE_USD), _long(params, info)
    if not price and image is None and not long:
        return
    if (usual := known(kind, model)) is not None:
        price = {"input": usual.input, "output": usual.output} | price
    price = {part: price[part] for part in PRICES if part in price}
    if long:
        price["long"] = long | _no_less(long, price)
    if image is not None:
        price["image"] = round(image, 6)
    target["price"] = price


def _no_less(long: dict[str, Any], usual: dict[str, Any]) -> dict[str, float]:
    """What a long prompt costs at least, which is what any prompt does."""
    parts = [part for part in ("input", "output") if part in usual]
    return {part: max(usual[part], long.get(part, 0)) for part in parts}


def _costs(params: InputMapping, info: InputMapping, ending: str) -> dict[str, float]:
    """The parts of a price whose names end so, in dollars for a million tokens."""
    found = {
        part: _cost(params, info, name + ending, MAX_TOKEN_PRICE_USD)
        for part, name in PRICES.items()
    }
    return {part: round(cost * 1e6, 6) for part, cost in found.items() if cost is not None}


def _cost(params: InputMapping, info: InputMapping, name: str, most: float) -> float | None:
    holder = params if params.has(name) else info
    cost = holder.number(name, most)
    if cost is not None:
        holder.taken(name)
        if holder is params:
            info.left(name, "what `litellm_params` says counts")
    return cost


def _long(params: InputMapping, info: InputMapping) -> dict[str, Any]:
    """What a long prompt costs: of several steps the first, for here there is one."""
    names = [name for holder in (params, info) for name, _, _ in holder.pairs()]
    steps = sorted({int(found[1]) for name in names if (found := STEP.fullmatch(name))})
    for step in steps[1:]:
        for name in PRICES.values():
            for holder in (params, info):
                holder.left(f"{name}_above_{step}k_tokens", "a price has one step here: the first")
    return (
        {"above": steps[0] * 1000, **_costs(params, info, f"_above_{steps[0]}k_tokens")}
        if steps
        else {}
    )


def _entry(
    name: str, deployments: list[Deployment], strategy: str | None, draft: ConfigDraft
) -> dict[str, Any]:
    targets = [deployment.target for deployment in deployments]
    made: dict[str, Any] = dict(targets[0]) if len(targets) == 1 else {"targets": targets}
    if len(targets) > 1:
        _weigh(deployments, strategy)
    made |= _timeouts_and_retries(deployments)
    _limit(name, deployments, draft)
    if len(targets) == 1:
        deployments[0].params.changed("weight", "says nothing where one deployment serves a name")
    return made


def _weigh(deployments: list[Deployment], strategy: str | None) -> None:
    """Each target's share of the calls, by `weight`, `rpm` or `tpm`, the first that is given."""
    if strategy not in (None, "simple-shuffle"):
        for deployment in deployments:
            deployment.params.left("weight", f"LiteLLM has no use for it with `{strategy}`")
        return
    for name in ("weight", "rpm", "tpm"):
        if _with_setting(name, deployments):
            _weigh_by(name, deployments)
            return
    if strategy:
        for deployment in deployments:
            deployment.target["weight"] = 1


def _weigh_by(name: str, deployments: list[Deployment]) -> None:
    shares = [deployment.params.number(name) or 0 for deployment in deployments]
    greatest = max(shares)
    scale = MAX_WEIGHT / greatest if greatest > MAX_WEIGHT else 1
    for deployment, share in zip(deployments, shares, strict=True):
        deployment.target["weight"] = round(share * scale, 6)
        if name == "weight":
            deployment.params.taken("weight")
        else:
            deployment.params.changed(name, "is its share of the calls")


def _timeouts_and_retries(deployments: list[Deployment]) -> dict[str, Any]:
    """Timeouts and retries, which a model has for all its targets: the longest of them."""
    made: dict[str, Any] = {}
    total = _greatest("timeout", deployments)
    if spans := timeouts(total, _greatest("stream_timeout", deployments)):
        made["timeouts"] = spans
    tries = [_greatest(name, deployments) for name in ("max_retries", "num_retries")]
    if counts := [count for count in tries if count is not None]:
        made["retries"] = min(int(max(counts)), MAX_RETRIES)
    return made


def _greatest(name: str, deployments: list[Deployment]) -> float | None:
    """The greatest of the deployments' numbers; of all others is told that it counts."""
    numbers = [(deployment.params, deployment.params.number(name)) for deployment in deployments]
    found = [(params, value) for params, value in numbers if value is not None]
    greatest = max((value for _, value in found), default=None)
    for params, value in found:
        params.taken(name)
        if "retries" in name and value > MAX_RETRIES:
            params.changed(name, f"there are at most {MAX_RETRIES}")
        if value != greatest:
            params.changed(
                name,
                "timeouts and retries are the same for all targets of a name: the greatest counts",
            )
    return greatest


def timeouts(total: float | None, first: float | None) -> dict[str, str]:
    """LiteLLM's timeouts as ours: that of a stream is until its first token."""
    first = total if first is None else first
    spans = {"first_token": first, "total": total}
    return {name: duration(span) for name, span in spans.items() if span}


def duration(seconds: float) -> str:
    """Seconds as settings spell them, to the millisecond."""
    return f"{min(max(seconds, 0.001), MAX_DURATION_S):.3f}".rstrip("0").rstrip(".") + "s"


def _limit(name: str, deployments: list[Deployment], draft: ConfigDraft) -> None:
    """Limits of deployments become the name's: their sum, if each has one."""
    totals = {ours: _total(theirs, name, deployments) for ours, theirs in PACES.items()}
    if limits := {ours: total for ours, total in totals.items() if total}:
        draft.rates[name] = limits


def _total(theirs: str, name: str, deployments: list[Deployment]) -> int:
    """The sum of a limit over all deployments; 0 if it cannot limit the name."""
    holders = _with_setting(theirs, deployments)
    paces = [params.number(theirs, MAX_PER_MINUTE) for params in holders]
    total = min(int(sum(filter(None, paces))), MAX_PER_MINUTE)
    all_limited = len(holders) == len(deployments)
    for params in holders:
        if not total:
            params.left(theirs, "a limit of 0 would let nobody in: leave the model out")
        elif name.endswith("*"):
            params.left(theirs, UNLIMITED)
        elif not all_limited:
            params.changed(theirs, "limits nothing, for others of that name have no limit")
        else:
            params.changed(theirs, SUMMED if len(deployments) > 1 else ALONE)
    counts = all_limited and None not in paces and not name.endswith("*")
    return total if counts else 0


def _with_setting(name: str, deployments: list[Deployment]) -> list[InputMapping]:
    return [deployment.params for deployment in deployments if deployment.params.has(name)]
