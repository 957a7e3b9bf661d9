"""config.yaml as frozen Structs: every setting, its default and its limits, and what must fit together.

A setting is one annotated field here; the schema for editors and the list for the manual are derived from it.
"""

import hmac
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit
from zoneinfo import available_timezones

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from chattable.agents import loading
from chattable.budget.ledger import Price
from chattable.proxy.webhooks import check_secret, check_url
from chattable.proxy.yaml import MAX_BYTES, ConfigError, Decoder, Document, Problem, hint, is_struct, parts, read

ADMIN_KEY = "CHATTABLE_ADMIN_KEY"  # sets the admin key where no file does


class Secret:
    """Text that only `reveal()` shows: printing gives ***, and no encoder knows it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._bytes(), other._bytes())

    def __hash__(self) -> int:
        return hash(self._text)

    def _bytes(self) -> bytes:
        return self._text.encode(errors="surrogatepass")


def seconds(text: str) -> float:
    """Read "500ms", "5s", "10m", "1h", "30d" or a bare number of seconds. ValueError."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?(ms|s|m|h|d)?", text.strip(), re.ASCII)
    if not found:
        raise ValueError('must be a duration such as "30s", "500ms" or "10m", or a number of seconds')
    return float(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2] or "s"]


def url(text: str) -> str:
    """Pass on an http(s) URL without user, password, query or fragment. ValueError, without the URL: it may tell one."""
    try:
        split = urlsplit(text)
        usable = split.scheme in ("http", "https") and bool(split.hostname) and split.port != 0
    except ValueError:
        usable = False
    if not usable or not text.isprintable() or " " in text:
        raise ValueError("must be a URL such as https://host.example/v1")
    if "@" in split.netloc:
        raise ValueError("must not hold a user or password; use api_key")
    if "?" in text or "#" in text:
        raise ValueError("must not hold a `?` or `#`")
    return text


def origin(text: str) -> str:
    """Pass on `*` or the origin of a web page, as browsers write it. ValueError."""
    if text != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#@]+", text):
        raise ValueError("must be `*` or an origin such as https://chat.example.com, without a path")
    return text


def database(text: str) -> str:
    """Pass on the URL of a database we speak to. ValueError, without the URL."""
    if not text.startswith(("sqlite:///", "postgresql://")):
        raise ValueError("must begin with sqlite:/// or postgresql://")
    return text


def redis(text: str) -> str:
    """Pass on the URL of a Redis or Valkey, or nothing. ValueError, without the URL."""
    if text and not text.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must begin with redis://, rediss:// or unix://, or be empty")
    return text


def admin_key(text: str) -> str:
    """Pass on a key that may open /admin. ValueError when it is easy to guess."""
    why = ""
    if not text:
        why = "is empty"
    elif not (text.isascii() and text.isprintable()) or text != text.strip():
        why = "holds what an HTTP header cannot carry"
    elif text.lower() in _KNOWN_KEYS or len(set(text)) < 6:
        why = "is easy to guess"
    elif len(text) < 16:
        why = "is shorter than 16 characters"
    if why:
        raise ValueError(f"{why}; make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'")
    return text


_KNOWN_KEYS = {"1234567890123456", "0123456789abcdef", "change-me-please", "please-change-me", "changemechangeme",
               "your-admin-key-here", "your-secret-key-here", "your-api-key-here", "sk-1234567890abcdef",
               "passwordpassword", "chattable-admin-key"}  # fmt: skip
_DURATION = {"parse": seconds, "words": 'a duration such as "30s", "500ms" or "10m", or a number of seconds'}
Duration = Annotated[float, Meta(gt=0, le=3650 * 86400, extra=_DURATION)]  # seconds
Url = Annotated[str, Meta(extra={"parse": url})]
Origin = Annotated[str, Meta(extra={"parse": origin})]
Database = Annotated[str, Meta(extra={"parse": database})]
AdminKey = Annotated[Secret, Meta(extra={"parse": admin_key})]
WebhookUrl = Annotated[str, Meta(extra={"parse": check_url})]
WebhookSecret = Annotated[Secret, Meta(extra={"parse": check_secret})]
Redis = Annotated[str, Meta(extra={"parse": redis})]
Count = Annotated[int, Meta(ge=1, le=2**53)]
Tokens = Annotated[int, Meta(ge=0, le=2**53)]
Dollars = Annotated[float, Meta(ge=0, le=1e9)]
Usd = Annotated[float, Meta(ge=0, le=100_000)]
Pace = Annotated[int, Meta(ge=0, le=10**10)]
Percent = Annotated[int, Meta(ge=1, le=100)]
Window = Annotated[
    str,
    Meta(
        pattern=r"^(hour|day|week|month|total|[1-9][0-9]{0,3}[mhd])$",
        extra={"words": "hour, day, week, month, total, or a length such as 6h"},
    ),
]
Retries = Annotated[int, Meta(ge=0, le=10)]
Name = Annotated[str, Meta(min_length=1)]
Word = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]*$", extra={"words": "a lowercase word such as `openai`"})]
Code = Annotated[str, Meta(pattern=r"^[\w.-]+(:[\w.]+)?$", extra={"words": "`package.module:name`, or an entry point's name"})]


class Server(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and how the proxy listens."""

    host: Annotated[str, Meta(min_length=1, description="address to listen on; 0.0.0.0 for all")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="port to listen on; 0 picks a free one")] = 8000
    workers: Annotated[int, Meta(ge=1, le=256, description="processes")] = 1
    cors_origins: Annotated[tuple[Origin, ...], Meta(description="web pages that may call, by origin; * for all")] = ()
    max_body_mb: Annotated[int, Meta(ge=1, le=1024, description="largest request accepted, in MiB")] = 20
    on_disconnect: Annotated[
        Literal["drain", "cancel"], Meta(description="a client leaves: finish and store its reply, or stop it")
    ] = "drain"
    keepalive: Annotated[Duration, Meta(description="time between the comments that keep a silent stream open")] = 15.0
    grace: Annotated[Duration, Meta(description="how long a shutdown waits for running chats")] = 30.0


class Timeouts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long an upstream may take."""

    connect: Annotated[Duration, Meta(description="to open a connection")] = 5.0
    first_token: Annotated[Duration, Meta(description="to begin its reply")] = 60.0
    between_tokens: Annotated[Duration, Meta(description="to go on with it")] = 30.0
    total: Annotated[Duration, Meta(description="for the whole reply")] = 600.0


class TimeoutOverrides(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model's own timeouts; what is left out is the provider's."""

    connect: Annotated[Duration | None, Meta(description="to open a connection")] = None
    first_token: Annotated[Duration | None, Meta(description="to begin its reply")] = None
    between_tokens: Annotated[Duration | None, Meta(description="to go on with it")] = None
    total: Annotated[Duration | None, Meta(description="for the whole reply")] = None

    def onto(self, base: Timeouts) -> Timeouts:
        return replace(base, **{name: value for name, value in asdict(self).items() if value is not None})


class Provider(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An upstream that serves models."""

    kind: Annotated[Word, Meta(description="what it speaks: openai, or the name of a known vendor")]
    api_key: Annotated[Secret | None, Meta(description="key sent upstream; empty for none")] = None
    base_url: Annotated[Url | None, Meta(description="where it is, if not at the vendor's usual address")] = None
    timeouts: Annotated[Timeouts, Meta(description="how long it may take")] = Timeouts()
    retries: Annotated[Retries, Meta(description="more attempts after a failure, before the first token only")] = 2
    max_connections: Annotated[int, Meta(ge=1, le=100_000, description="open connections at a time")] = 1000


class ModelPrice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model costs."""

    input: Annotated[Usd, Meta(description="US dollars per million tokens of prompt")] = 0.0
    output: Annotated[Usd, Meta(description="US dollars per million tokens of output")] = 0.0
    cached: Annotated[Usd | None, Meta(description="for prompt that the upstream had cached; default: as input")] = None

    def as_price(self) -> Price:
        """In the ledger's unit."""
        cached = None if self.cached is None else round(self.cached * 1e6)
        return Price(round(self.input * 1e6), round(self.output * 1e6), cached)


class ModelEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model name that clients may ask for; `openai/*` stands for every name that begins so."""

    provider: Annotated[str, Meta(description="name of the provider that serves it")]
    model: Annotated[Name | None, Meta(description="its name upstream, * being what * matched; default: its own name")] = None
    description: Annotated[str, Meta(description="shown in /v1/models")] = ""
    timeouts: Annotated[TimeoutOverrides | None, Meta(description="where they differ from the provider's")] = None
    retries: Annotated[Retries | None, Meta(description="if not the provider's")] = None
    context_length: Annotated[Count | None, Meta(description="tokens the model can read")] = None
    max_output: Annotated[Count | None, Meta(description="tokens it can write in one reply")] = None
    price: Annotated[ModelPrice | None, Meta(description="what it costs; default: what is known of the model, else nothing")] = (
        None
    )
    owned_by: Annotated[str | None, Meta(description="shown in /v1/models; default: the provider")] = None

    def upstream(self, name: str, asked: str) -> str:
        """What to call the model upstream when `asked` found this entry under `name`."""
        if not name.endswith("*"):
            return self.model or name
        return (self.model or "*").replace("*", asked[len(name) - 1 :])


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one turn of an agent may use, everything it asks included."""

    calls: Annotated[Count, Meta(description="calls of models and other agents")] = 20
    tokens: Annotated[Count | None, Meta(description="tokens; default: no limit")] = None
    seconds: Annotated[Duration, Meta(description="time")] = 120.0


class CodeAgent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="code"):
    """An agent written in Python; every key that is not listed here is a parameter of it."""

    KEY: ClassVar[str] = "use"
    REST: ClassVar[str] = "params"

    use: Annotated[Code, Meta(description="the class or function, as package.module:name, or an entry point")]
    description: Annotated[str, Meta(description="shown in /v1/models")] = ""
    limits: Annotated[Limits, Meta(description="what one turn may use")] = Limits()
    params: dict[str, Any] = {}


class PromptAgent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="prompt"):
    """A model with a role to play."""

    model: Annotated[str, Meta(min_length=1, description="model or agent that answers; an agent of code has `use`")]
    context: Annotated[str, Meta(description="who it is: the first system message")] = ""
    instructions: Annotated[str, Meta(description="what it should do")] = ""
    params: Annotated[dict[str, Any], Meta(description="request parameters such as temperature")] = {}
    description: Annotated[str, Meta(description="shown in /v1/models")] = ""
    limits: Annotated[Limits, Meta(description="what one turn may use")] = Limits()


AgentEntry = CodeAgent | PromptAgent


class DefaultBudget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every user may spend who has no budget of their own."""

    per: Annotated[Window, Meta(description="hour, day, week, month, total, or a length such as 6h or 30d")]
    tokens: Annotated[Tokens | None, Meta(description="tokens per window")] = None
    cost_usd: Annotated[Dollars | None, Meta(description="US dollars per window")] = None


class Webhook(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where budget events go."""

    url: Annotated[WebhookUrl, Meta(description="where events are posted")]
    secret: Annotated[WebhookSecret, Meta(description="what signs them, 16 characters or more, or whsec_ and base64")]


class Rate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast calls may come; what is left out is not limited."""

    requests_per_minute: Annotated[Pace | None, Meta(description="calls in a minute")] = None
    tokens_per_minute: Annotated[Pace | None, Meta(description="tokens in a minute, of prompts and answers")] = None
    parallel: Annotated[Pace | None, Meta(description="calls at once")] = None


class RateLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast calls may come; a call must fit into all that it counts against."""

    default: Annotated[Rate | None, Meta(description="of every user who is not named below")] = None
    users: Annotated[dict[str, Rate], Meta(description="of users, by name")] = {}
    teams: Annotated[dict[str, Rate], Meta(description="of teams, by name, all members together")] = {}
    keys: Annotated[dict[str, Rate], Meta(description="of keys, by id")] = {}
    models: Annotated[dict[str, Rate], Meta(description="of models and agents, by name, everybody together")] = {}


class Budgets(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be spent."""

    default: Annotated[DefaultBudget | None, Meta(description="budget of users without one of their own; default: none")] = None
    timezone: Annotated[str, Meta(description="where days, weeks and months begin at midnight")] = "UTC"
    thresholds: Annotated[tuple[Percent, ...], Meta(description="per cent of a budget at which an event is raised")] = (
        50,
        80,
        100,
    )
    webhook: Annotated[Webhook | None, Meta(description="where budget events are posted, signed; default: nowhere")] = None
    sync: Annotated[
        Literal["second", "commit"],
        Meta(description="how often SQLite's budgets are forced to the disk"),
    ] = "second"
    journal: Annotated[
        str, Meta(description="directory for what is used and not yet booked; default: beside the SQLite file, else here")
    ] = ""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that config.yaml says."""

    server: Annotated[Server, Meta(description="where and how the proxy listens")] = Server()
    database_url: Annotated[Database, Meta(description="sqlite:///file or postgresql://user:password@host/name")] = (
        "sqlite:///chattable.db"
    )
    redis_url: Annotated[Redis, Meta(description="a Redis or Valkey that workers and replicas share; empty: in-process")] = ""
    admin_keys: Annotated[
        tuple[AdminKey, ...], Meta(description=f"keys for /admin, 16 characters or more; default: {ADMIN_KEY}")
    ] = ()
    providers: Annotated[dict[str, Provider], Meta(description="upstreams by name")] = {}
    models: Annotated[dict[str, ModelEntry], Meta(description="models by the name that clients ask for")] = {}
    default_model: Annotated[str, Meta(description="served for `default` and where a request names no model")] = ""
    agents: Annotated[dict[str, CodeAgent | PromptAgent], Meta(description="agents by the name clients ask for")] = {}
    budgets: Annotated[Budgets, Meta(description="what may be spent")] = Budgets()
    rate_limits: Annotated[RateLimits, Meta(description="how fast calls may come")] = RateLimits()

    def __repr__(self) -> str:
        """Leave the URLs out: they may hold a password."""
        return f"Config(providers={list(self.providers)}, models={list(self.models)}, agents={list(self.agents)})"


def load(path: str | Path, env: Mapping[str, str], kinds: Collection[str] | None = None, *, code: bool = False) -> Config:
    """Read a config file; ConfigError holds every problem in it.

    `kinds` are the providers' kinds there are; `code` builds every agent, to find those whose code cannot be loaded.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(Problem(str(path), 0, "", f"cannot be read: {error.strerror}")) from None
    return parse(data, str(path), env, kinds, code=code)


def parse(data: bytes, file: str, env: Mapping[str, str], kinds: Collection[str] | None = None, *, code: bool = False) -> Config:
    """Read what a config file holds; the environment fills in `${VAR}` and, where no file does, the admin key."""
    doc = read(data, file, env)
    config: Config = Decoder(doc, _hook).decode(Config, doc.value, ())
    for where, text in _mistakes(config, doc, kinds):
        doc.complain(where, text)
    for where, text in _mistakes_in_code(config) if code else ():
        doc.complain(where, text)
    doc.check()
    if doc.value.get("admin_keys") is None:
        config = replace(config, admin_keys=_admin_keys(env))
    return config


def defaults(env: Mapping[str, str], vendors: Mapping[str, str]) -> Config:
    """What is served without a file: `echo`, and every vendor (name -> variable of its key) whose key is set."""
    keys = {vendor: Secret(env[variable]) for vendor, variable in vendors.items() if env.get(variable, "").strip()}
    return Config(
        admin_keys=_admin_keys(env),
        providers={vendor: Provider(kind=vendor, api_key=key) for vendor, key in keys.items()},
        models={f"{vendor}/*": ModelEntry(provider=vendor) for vendor in keys},
        agents={"echo": CodeAgent(use="chattable.agents.echo:Echo", description="Says what it hears.")},
    )


def match(name: str, names: Collection[str]) -> str | None:
    """The entry that serves `name`: the one called so, else the wildcard that shares the longest beginning with it."""
    if name in names:
        return name
    wild = (known for known in names if known.endswith("*") and name.startswith(known[:-1]) and len(name) >= len(known))
    return max(wild, key=len, default=None)


_Mistakes = Iterator[tuple[tuple[str | int, ...], str]]


def _hook(kind: Any, value: Any) -> Any:
    return Secret(msgspec.convert(value, str))


def _admin_keys(env: Mapping[str, str]) -> tuple[Secret, ...]:
    if ADMIN_KEY not in env:
        return ()
    try:
        return (Secret(admin_key(env[ADMIN_KEY])),)
    except ValueError as error:
        raise ConfigError(Problem("environment", 0, ADMIN_KEY, str(error))) from None


def _mistakes(config: Config, doc: Document, kinds: Collection[str] | None) -> _Mistakes:
    """What no single value shows: each mistake with its place. Names count as known even where their entry is broken."""
    for name, provider in config.providers.items():
        if kinds is not None and provider.kind not in kinds:
            known = hint(provider.kind, kinds) or f"; there are {', '.join(sorted(kinds))}"
            yield ("providers", name, "kind"), f"there is no kind `{provider.kind}`{known}"
        if why := _bad_name(name):
            yield ("providers", name), why
    sections = (doc.value.get(section) for section in ("providers", "models", "agents"))
    providers, models, agents = (section if isinstance(section, dict) else {} for section in sections)
    yield from _mistakes_in_models(config, providers)
    yield from _mistakes_in_agents(config, {**models, **agents})
    for name in models.keys() & agents.keys():
        yield ("agents", name), f"is the name of a model too, on line {doc.line(('models', name))}; rename one"
    yield from _cycles({name: agent.model for name, agent in config.agents.items() if isinstance(agent, PromptAgent)})
    budget = config.budgets.default
    if budget is not None and budget.tokens is None and budget.cost_usd is None:
        yield ("budgets", "default"), "must have `tokens` or `cost_usd`"
    limited = config.rate_limits != RateLimits()
    if limited and config.server.workers > 1 and not config.redis_url:
        yield ("rate_limits",), "need `redis_url` with several workers: each of them would count for itself"
    if config.budgets.timezone not in available_timezones():
        yield ("budgets", "timezone"), "must be a time zone such as UTC or Europe/Berlin"
    if config.default_model and (why := _unknown(config.default_model, {**models, **agents})):
        yield ("default_model",), why


def _mistakes_in_models(config: Config, providers: Mapping[str, Any]) -> _Mistakes:
    for name, model in config.models.items():
        if name != "*" and (why := _bad_name(name.removesuffix("*"))):
            yield ("models", name), why
        if model.provider not in providers:
            known = hint(model.provider, providers) or "; define it under `providers`"
            yield ("models", name, "provider"), f"there is no provider `{model.provider}`{known}"
        if model.model and model.model.count("*") > name.endswith("*"):
            yield ("models", name, "model"), "may hold one `*`, and only if the entry's own name ends in `*`"


def _mistakes_in_agents(config: Config, names: Mapping[str, Any]) -> _Mistakes:
    for name, agent in config.agents.items():
        if why := _bad_name(name):
            yield ("agents", name), why
        if isinstance(agent, PromptAgent) and (why := _unknown(agent.model, names)):
            yield ("agents", name, "model"), why


def _mistakes_in_code(config: Config) -> _Mistakes:
    for name, agent in config.agents.items():
        if isinstance(agent, CodeAgent):
            try:
                loading.load(agent.use, agent.params)
            except loading.LoadError as error:
                yield ("agents", name, "use"), str(error)


def _cycles(asks: Mapping[str, str]) -> _Mistakes:
    """Agents that would ask each other for ever, every circle once."""
    done: set[str] = set()
    for start in asks:
        path: list[str] = []
        name = start
        while name in asks and name not in done:
            done.add(name)
            path.append(name)
            name = asks[name]
        if name in path:
            circle = [*path[path.index(name) :], name]
            yield ("agents", name, "model"), f"agents ask each other in a circle: {' -> '.join(circle)}"


def _unknown(name: str, names: Mapping[str, Any]) -> str:
    if "*" in name:
        return "must name one model or agent, not a wildcard"
    return "" if match(name, names) else f"there is no model or agent `{name}`{hint(name, names)}"


def _bad_name(name: str) -> str:
    if "*" in name:
        return "may hold one `*`, at the end of a model's name"
    return "" if name.isprintable() and name.strip() == name != "" else "is no name: it is empty, or holds odd spaces"


def settings() -> list[str]:
    """Every setting by its dotted name, `*` being a name of the user's: `server.port`, `models.*.provider`."""
    return list(dict.fromkeys(_settings(Config, "")))


def _settings(kind: Any, prefix: str) -> Iterator[str]:
    for part in parts(kind):
        if is_struct(part):
            for field in msgspec.structs.fields(part):
                if field.name != getattr(part, "REST", None):
                    yield from _settings(field.type, f"{prefix}.{field.name}")
        elif getattr(part, "__origin__", None) is dict and any(map(is_struct, parts(part.__args__[1]))):
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
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Chattable's config.yaml", **made}


def _allow_variables(node: Any) -> None:
    """Let `${VAR}` stand where a number or a choice is expected, and "5s" for a number of seconds."""
    if isinstance(node, list):
        for item in node:
            _allow_variables(item)
    elif isinstance(node, dict):
        for key in node.keys() - {"default"}:
            _allow_variables(node[key])
        if node.get("type") in ("integer", "number") or "enum" in node or "pattern" in node:
            text = {"type": "string"} if node.get("type") == "number" else {"type": "string", "pattern": r"\$\{"}
            node["anyOf"] = [{key: node.pop(key) for key in [*node] if key not in ("description", "default")}, text]
