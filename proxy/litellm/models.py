"""The section `models`: LiteLLM's deployments by name, with their shares, limits, prices and lengths."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from chattable.adapters.vendors.models import known
from chattable.proxy.litellm.given import Given, Input
from chattable.proxy.litellm.plan import Plan, escaped
from chattable.proxy.litellm.providers import Left, upstream

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
MOST_RETRIES = 10
FASTEST = 10**10  # in a minute
DEAREST = 0.1  # dollars for a token
DEAREST_PICTURE = 1000.0  # dollars
HEAVIEST = 10**6
LONGEST = 3650 * 86400  # seconds


class Deployment(NamedTuple):
    """One entry of `model_list` that can be served."""

    name: str
    params: Given
    target: dict[str, Any]  # as one of `targets`


def add_models(source: Input, plan: Plan) -> None:
    """Makes `providers`, `models` and the models' `rate_limits`."""
    credentials = {
        str(entry.text("credential_name")): entry
        for entry in source.top.sections("credential_list")
    }
    groups: dict[str, list[Deployment]] = {}
    used = set[str]()
    for entry in source.top.sections("model_list"):
        name = entry.text("model_name")
        params = entry.section("litellm_params")
        for field, there in (("model_name", name), ("litellm_params.model", params.text("model"))):
            if not there:
                source.doc.complain((*entry.place, *field.split(".")), "is missing")
            elif not there.isprintable() or there != there.strip():
                source.doc.complain(
                    (*entry.place, *field.split(".")),
                    "is no name: it holds odd spaces or characters",
                )
        used.add(params.text("litellm_credential_name") or "")
        if name and params.has("model"):
            groups.setdefault(name, [])
            try:
                groups[name].append(
                    _deployment(name, entry, _with_credential(params, credentials), plan)
                )
            except Left as left:
                source.notes.left(entry.place, str(left))
    for name in credentials.keys() - used:
        source.notes.left(credentials[name].place, "no deployment uses it")
    strategy = source.top.section("router_settings").text("routing_strategy")
    for name, deployments in groups.items():
        if deployments:
            plan.models[name] = _entry(name, deployments, strategy, plan)


def _with_credential(params: Given, credentials: dict[str, Given]) -> Given:
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


def _deployment(name: str, entry: Given, params: Given, plan: Plan) -> Deployment:
    model = params.text("model") or ""
    if "*" in name[:-1] or model.count("*") > 1:
        raise Left("a name may hold one `*`, at its end")
    if "*" in model and not name.endswith("*"):
        raise Left("its model has a `*`, for which nothing in its name stands")
    found = upstream(name, params)
    target: dict[str, Any] = {"provider": plan.providers.name(found)}
    if found.model != ("*" if name.endswith("*") else name):
        target["model"] = escaped(found.model)
    if model == "*":
        params.changed(
            "model", "here one provider serves it; for others, add names such as `anthropic/*`"
        )
    entry.taken("model_name")
    info = entry.section("model_info")
    _lengths(info, target)
    _price(params, info, target, plan.providers.entries[target["provider"]]["kind"], found.model)
    if (mode := info.text("mode")) in SERVED:
        info.taken("mode")
    elif mode:
        info.left("mode", "there is no route for it")
    return Deployment(name, params, target)


def _lengths(info: Given, target: dict[str, Any]) -> None:
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


def _price(params: Given, info: Given, target: dict[str, Any], kind: str, model: str) -> None:
    """Dollars for a token become dollars for a million; a part that is not said is what is known of the model."""
    price: dict[str, Any] = _costs(params, info, "")
    image, long = _cost(params, info, PICTURE, DEAREST_PICTURE), _long(params, info)
    if not price and image is None and not long:
        return
    if (usual := known(kind, model)) is not None:
        price = {"input": usual.input, "output": usual.output} | price
    price = {part: price[part] for part in PRICES if part in price}
    if long:
        for part in ("input", "output"):  # no less than the usual
            if part in price:
                long[part] = max(price[part], long.get(part, 0))
        price["long"] = long
    if image is not None:
        price["image"] = round(image, 6)
    target["price"] = price


def _costs(params: Given, info: Given, ending: str) -> dict[str, float]:
    """The parts of a price whose names end so, in dollars for a million tokens."""
    found = {part: _cost(params, info, name + ending, DEAREST) for part, name in PRICES.items()}
    return {part: round(cost * 1e6, 6) for part, cost in found.items() if cost is not None}


def _cost(params: Given, info: Given, name: str, most: float) -> float | None:
    holder = params if params.has(name) else info
    cost = holder.number(name, most)
    if cost is not None:
        holder.taken(name)
        if holder is params:
            info.left(name, "what `litellm_params` says counts")
    return cost


def _long(params: Given, info: Given) -> dict[str, Any]:
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
    name: str, deployments: list[Deployment], strategy: str | None, plan: Plan
) -> dict[str, Any]:
    targets = [deployment.target for deployment in deployments]
    made: dict[str, Any] = dict(targets[0]) if len(targets) == 1 else {"targets": targets}
    if len(targets) > 1:
        _weigh(deployments, strategy)
    made |= _patience(deployments)
    _limit(name, deployments, plan, weighed=len(targets) > 1)
    if len(targets) == 1:
        deployments[0].params.changed("weight", "says nothing where one deployment serves a name")
    return made


def _weigh(deployments: list[Deployment], strategy: str | None) -> None:
    """Each target's share of the calls: `weight`, else by `rpm`, else by `tpm`, as LiteLLM's shuffle does."""
    if strategy not in (None, "simple-shuffle"):
        for deployment in deployments:
            deployment.params.left("weight", f"LiteLLM has no use for it with `{strategy}`")
        return
    by = next(
        (
            name
            for name in ("weight", "rpm", "tpm")
            if any(item.params.has(name) for item in deployments)
        ),
        None,
    )
    greatest = (
        max((deployment.params.number(by) or 0 for deployment in deployments), default=0)
        if by
        else 0
    )
    scale = 1 if greatest <= HEAVIEST else HEAVIEST / greatest
    for deployment in deployments:
        if by or strategy:
            deployment.target["weight"] = (
                round((deployment.params.number(by) or 0) * scale, 6) if by else 1
            )
        if by == "weight":
            deployment.params.taken("weight")
        elif by:
            deployment.params.changed(by, "is its share of the calls")


def _patience(deployments: list[Deployment]) -> dict[str, Any]:
    """Timeouts and retries, which a model has for all its targets: the longest of them."""
    most: dict[str, float] = {}
    for name in ("timeout", "stream_timeout", "max_retries", "num_retries"):
        found = [
            (item.params, value)
            for item in deployments
            if (value := item.params.number(name)) is not None
        ]
        for params, value in found:
            most[name] = max(most.get(name, 0), value)
            params.taken(name)
            if "retries" in name and value > MOST_RETRIES:
                params.changed(name, f"there are at most {MOST_RETRIES}")
        for params, value in found:
            if value != most[name]:
                params.changed(
                    name,
                    "timeouts and retries are the same for all targets of a name: the greatest counts",
                )
    made: dict[str, Any] = {}
    if spans := timeouts(most.get("timeout"), most.get("stream_timeout")):
        made["timeouts"] = spans
    tries = [most[name] for name in ("max_retries", "num_retries") if name in most]
    if tries:
        made["retries"] = min(int(max(tries)), MOST_RETRIES)
    return made


def timeouts(total: float | None, first: float | None) -> dict[str, str]:
    """LiteLLM's timeouts as ours: that of a stream is until its first token."""
    first = total if first is None else first
    spans = {"first_token": first, "total": total}
    return {name: duration(span) for name, span in spans.items() if span}


def duration(seconds: float) -> str:
    """Seconds as settings spell them, to the millisecond."""
    return f"{min(max(seconds, 0.001), LONGEST):.3f}".rstrip("0").rstrip(".") + "s"


def _limit(name: str, deployments: list[Deployment], plan: Plan, *, weighed: bool) -> None:
    """Limits of deployments become the name's: their sum, if each has one."""
    limits = {}
    for ours, theirs in PACES.items():
        holders = [item.params for item in deployments if item.params.has(theirs)]
        paces = [params.number(theirs, FASTEST) for params in holders]
        total = min(int(sum(pace or 0 for pace in paces)), FASTEST)
        for params in holders:
            if not total:
                params.left(theirs, "a limit of 0 would let nobody in: leave the model out")
            elif name.endswith("*"):
                params.left(
                    theirs, "a name with `*` has no limit: name the models in `rate_limits.models`"
                )
            elif len(holders) < len(deployments):
                params.changed(theirs, "limits nothing, for others of that name have no limit")
            elif weighed:
                params.changed(
                    theirs,
                    "the limits of a name's deployments are one, their sum: `rate_limits.models`",
                )
            else:
                params.changed(theirs, "limits the name: `rate_limits.models`")
        for_all = len(holders) == len(deployments) and None not in paces
        if total and for_all and not name.endswith("*"):
            limits[ours] = total
    if limits:
        plan.rates[name] = limits
