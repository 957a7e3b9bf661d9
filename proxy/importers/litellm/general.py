"""The other sections: database, Redis, admin key, cache, budgets."""

from __future__ import annotations

import re
from urllib.parse import quote

from chattable.proxy.config.settings import match
from chattable.proxy.importers.litellm.draft import ConfigDraft
from chattable.proxy.importers.litellm.models import duration
from chattable.proxy.importers.litellm.source import (
    InputMapping,
    LiteLLMConfig,
    escaped,
    is_reference,
)

MAX_CACHE_TTL_S = 30 * 86400
DATABASE = "postgresql://placeholder/db"
CACHES = ("local", "redis")
MAX_BODY_MB = 1024
MAX_BUDGET_USD = 1e9


def add_general(source: LiteLLMConfig, draft: ConfigDraft) -> None:
    """Adds what is neither a model nor about routing."""
    general, module = source.top.section("general_settings"), source.top.section("litellm_settings")
    _database(general, draft)
    _master_key(general, draft)
    _redis(source, draft)
    _cache(module, draft)
    _budget(module, draft)
    model = general.text("completion_model")
    if model and match(model, draft.models):
        draft.settings["default_model"] = escaped(model)
        general.changed(
            "completion_model", "is asked where a request names no model: `default_model`"
        )
    else:
        general.left("completion_model", "no model of that name is taken")
    if size := general.number("max_request_size_mb"):
        draft.settings["server"] = {"max_body_mb": max(1, min(int(size), MAX_BODY_MB))}
        general.taken("max_request_size_mb")


def _database(general: InputMapping, draft: ConfigDraft) -> None:
    text = general.text("database_url")
    if not text:
        return
    variables, where = general.source.variables, general.where("database_url")
    if is_reference(text):
        draft.settings["database_url"] = variables.text(text, where, DATABASE)
    else:
        draft.settings["database_url"] = variables.hide(
            where, "DATABASE_URL", "postgresql://user:password@host/name", DATABASE
        )
    draft.remark(
        ("database_url",),
        "a database of its own, not LiteLLM's: "
        "users, keys and what they spent are not carried over",
    )
    general.changed(
        "database_url",
        "give it a database of its own: users, keys and what they spent are not carried over",
    )


def _master_key(general: InputMapping, draft: ConfigDraft) -> None:
    text = general.text("master_key")
    if not text:
        return
    variables, where = general.source.variables, general.where("master_key")
    draft.settings["admin_keys"] = [variables.secret(text, where, "CHATTABLE_ADMIN_KEY")]
    draft.remark(("admin_keys",), "16 characters or more, and not easy to guess")
    how = (
        ""
        if is_reference(text)
        else "a secret in the file is not copied: it is a variable now, see below; "
    )
    general.changed("master_key", f"{how}must have 16 characters or more")


def _redis(source: LiteLLMConfig, draft: ConfigDraft) -> None:
    """One Redis for all: the router's, else the cache's."""
    router, module = source.top.section("router_settings"), source.top.section("litellm_settings")
    cache = module.section("cache_params")
    if router.has("redis_url", "redis_host"):
        draft.settings["redis_url"] = _redis_url(router, "redis_", draft)
        for name in ("url", "host", "port", "password", "username", "db", "ssl"):
            cache.changed(name, "there is one `redis_url`: what `router_settings` says counts")
    elif not module.flag("cache"):
        return
    elif cache.has("url", "host"):
        draft.settings["redis_url"] = _redis_url(cache, "", draft)
    elif cache.text("type") == "redis" and not cache.has("redis_startup_nodes", "sentinel_nodes"):
        draft.settings["redis_url"] = source.variables.need("REDIS_URL", "redis://placeholder")
        draft.remark(
            ("redis_url",), "guessed: LiteLLM looks into REDIS_HOST, REDIS_PORT and REDIS_PASSWORD"
        )


def _redis_url(given: InputMapping, prefix: str, draft: ConfigDraft) -> str:
    """`redis_url`, put together from what is given."""
    variables = given.source.variables
    name = f"{prefix}url"
    if url := given.text(name):
        if not is_reference(url) and "@" in url:
            given.changed(
                name, "holds a password and is not copied: it is a variable now, see below"
            )
            return variables.hide(
                given.where(name), "REDIS_URL", "redis://:password@host:6379", "redis://placeholder"
            )
        if not is_reference(url) and not re.match(r"(rediss?|unix)://", url):
            given.source.doc.complain(
                given.where(name), "must begin with redis://, rediss:// or unix://"
            )
        given.taken(name)
        return variables.text(url, given.where(name), "redis://placeholder")
    parts = {
        part: _redis_part(given, f"{prefix}{part}") for part in ("host", "port", "username", "db")
    }
    secret = given.text(f"{prefix}password")
    who = ""
    if secret:
        password = variables.secret(secret, given.where(f"{prefix}password"), "REDIS_PASSWORD")
        who = f"{parts['username']}:{password}@"
        given.changed(
            f"{prefix}password",
            "stands in `redis_url`, where characters such as @ and / are written %40 and %2F",
        )
        draft.remark(
            ("redis_url",),
            "in the password, characters such as @ and / must be written %40 and %2F",
        )
    scheme = "rediss" if given.flag(f"{prefix}ssl") else "redis"
    given.taken(f"{prefix}ssl")
    return f"{scheme}://{who}{parts['host']}:{parts['port'] or 6379}" + f"/{parts['db']}" * bool(
        parts["db"]
    )


def _redis_part(given: InputMapping, name: str) -> str:
    variables = given.source.variables
    value = given.raw(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        given.source.doc.complain(given.where(name), "must be text or a whole number")
        return ""
    given.taken(name)
    if isinstance(value, str) and is_reference(value):
        return variables.text(value, given.where(name), "6379" if "port" in name else "placeholder")
    return quote(str(value), safe="")


def _cache(module: InputMapping, draft: ConfigDraft) -> None:
    params = module.section("cache_params")
    wanted = module.flag("cache")
    module.taken("cache")
    if not wanted:
        module.left("cache_params", "without `cache: true` LiteLLM keeps nothing")
        return
    made: dict[str, object] = {"ttl": "1h", "scope": "shared"}
    kind = params.text("type")
    if kind is None or kind in CACHES:
        params.taken("type")
    else:
        params.left("type", "answers are kept in Redis or in the process, for identical requests")
    if ttl := params.number("ttl"):
        made["ttl"] = duration(min(ttl, MAX_CACHE_TTL_S))
        params.taken("ttl")
        if ttl > MAX_CACHE_TTL_S:
            params.changed("ttl", "at most 30 days")
    if params.text("mode") == "default_off":
        made = {"enabled": False} | made
        params.left(
            "mode", "a request cannot ask for the cache where it is off, so it is: `cache.enabled`"
        )
    params.taken("mode")
    draft.settings["cache"] = made
    draft.remark(
        ("cache",),
        "shared: everybody gets each other's answers, as in LiteLLM; `user` keeps them apart",
    )
    module.changed("cache", "`scope: shared` as in LiteLLM; `user` keeps users' answers apart")


def _budget(module: InputMapping, draft: ConfigDraft) -> None:
    """What LiteLLM gives every internal user is what every user has here."""
    most = module.number("max_internal_user_budget", MAX_BUDGET_USD)
    if most is None:
        return
    window = _window(module.text("internal_user_budget_duration"))
    if window is None:
        module.left("max_internal_user_budget", "goes with `internal_user_budget_duration`")
        module.left(
            "internal_user_budget_duration",
            "a window is a number of minutes, hours or days, or `month`",
        )
        return
    draft.settings["budgets"] = {"default": {"cost_usd": most, "per": window}}
    module.taken("max_internal_user_budget", "internal_user_budget_duration")


def _window(text: str | None) -> str | None:
    if text is None:
        return "total"
    if text in ("1mo", "monthly"):
        return "month"
    words = {"daily": "day", "weekly": "week", "hourly": "hour"}
    return words.get(text, text if re.fullmatch(r"[1-9]\d{0,3}[mhd]", text) else None)
