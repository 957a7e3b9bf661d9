"""config.yaml as frozen structs: every setting, its default and its limits; reader.py reads it.

A setting is one annotated field here; the schema for editors and the list for the manual are
derived from it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from chattable.proxy.config.setting_types import (
    AdminKey,
    BaseUrl,
    Code,
    Count,
    Database,
    Dollars,
    Duration,
    Header,
    KeptFor,
    Name,
    Origin,
    Pace,
    Percent,
    Redis,
    Region,
    Retries,
    Tokens,
    UpstreamKey,
    Usd,
    Version,
    WebhookSecret,
    WebhookUrl,
    Weight,
    Window,
    Word,
)

OPTIONS = ("api_version", "region")  # of providers of some kinds
ADMIN_KEY = "CHATTABLE_ADMIN_KEY"  # sets the admin key where no file does


class Server(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and how the proxy listens."""

    host: Annotated[
        str, Meta(min_length=1, description="address to listen on; 0.0.0.0 for all")
    ] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65535, description="port to listen on; 0 picks a free one")
    ] = 8000
    workers: Annotated[int, Meta(ge=1, le=256, description="processes")] = 1
    cors_origins: Annotated[
        tuple[Origin, ...], Meta(description="web pages that may call, by origin; * for all")
    ] = ()
    max_body_mb: Annotated[
        int, Meta(ge=1, le=1024, description="largest request accepted, in MiB")
    ] = 20
    on_disconnect: Annotated[
        Literal["drain", "cancel"],
        Meta(description="a client leaves: finish and store its reply, or stop it"),
    ] = "drain"
    receive: Annotated[
        Duration,
        Meta(description="time for a request's head, and for each 16 KiB of its body"),
    ] = 30.0
    keepalive: Annotated[
        Duration, Meta(description="time between the comments that keep a silent stream open")
    ] = 15.0
    grace: Annotated[Duration, Meta(description="how long a shutdown waits for running chats")] = (
        30.0
    )


class Timeouts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long an upstream may take."""

    connect: Annotated[Duration, Meta(description="to open a connection")] = 5.0
    first_token: Annotated[Duration, Meta(description="of silence before its first word")] = 300.0
    between_tokens: Annotated[Duration, Meta(description="to go on with it")] = 30.0
    total: Annotated[Duration, Meta(description="for the whole reply")] = 600.0


class TimeoutOverrides(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model's own timeouts; what is left out is the provider's."""

    connect: Annotated[Duration | None, Meta(description="to open a connection")] = None
    first_token: Annotated[
        Duration | None, Meta(description="of silence before its first word")
    ] = None
    between_tokens: Annotated[Duration | None, Meta(description="to go on with it")] = None
    total: Annotated[Duration | None, Meta(description="for the whole reply")] = None

    def onto(self, base: Timeouts) -> Timeouts:
        """The time-outs of `base` but for those that are set here."""
        return replace(
            base, **{name: value for name, value in asdict(self).items() if value is not None}
        )


class Provider(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An upstream that serves models."""

    kind: Annotated[Word, Meta(description="what it speaks: openai, or the name of a known vendor")]
    api_key: Annotated[
        UpstreamKey | None,
        Meta(description="key sent upstream; empty for none"),
    ] = None
    api_keys: Annotated[
        tuple[UpstreamKey, ...],
        Meta(description="several that take turns, in place of `api_key`; a refused one rests"),
    ] = ()
    base_url: Annotated[
        BaseUrl | None,
        Meta(description="where it is, if not at the vendor's usual address"),
    ] = None
    api_version: Annotated[
        Version, Meta(description="azure: a date in quotes; default: the v1 API")
    ] = ""
    region: Annotated[
        Region, Meta(description="bedrock: where its models run, as eu-central-1")
    ] = ""
    unsupported: Annotated[
        Literal["drop", "reject"],
        Meta(description="a parameter it has no place for: leave it out, or refuse the request"),
    ] = "drop"
    allow: Annotated[
        tuple[str, ...],
        Meta(
            description="parameters of clients that it is told though they change address, "
            "credentials or price"
        ),
    ] = ()
    timeouts: Annotated[Timeouts, Meta(description="how long it may take")] = Timeouts()
    retries: Annotated[
        Retries, Meta(description="more attempts after a failure, before the first token only")
    ] = 2
    max_connections: Annotated[
        int, Meta(ge=1, le=100_000, description="open connections at a time")
    ] = 1000
    discover: Annotated[
        bool, Meta(description="ask it once an hour which models a wildcard may list")
    ] = False

    @property
    def options(self) -> dict[str, str]:
        """The settings that are for some kinds only, those that are set."""
        return {name: value for name in OPTIONS if (value := getattr(self, name))}


class LongPrice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What tokens cost where the prompt is long, in US dollars per million."""

    above: Annotated[int, Meta(ge=1, description="tokens of the longest prompt at the usual price")]
    input: Annotated[Usd | None, Meta(description="of prompt; default: the usual")] = None
    output: Annotated[Usd | None, Meta(description="of output; default: the usual")] = None
    cached: Annotated[
        Usd | None, Meta(description="of prompt that the upstream had cached; default: as input")
    ] = None
    cache_write: Annotated[
        Usd | None, Meta(description="of prompt that it writes; default: as input")
    ] = None
    cache_write_1h: Annotated[
        Usd | None, Meta(description="kept for an hour; default: as cache_write")
    ] = None


class ModelPrice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model costs."""

    input: Annotated[Usd, Meta(description="US dollars per million tokens of prompt")] = 0.0
    output: Annotated[Usd, Meta(description="US dollars per million tokens of output")] = 0.0
    cached: Annotated[
        Usd | None, Meta(description="for prompt that the upstream had cached; default: as input")
    ] = None
    cache_write: Annotated[
        Usd | None, Meta(description="for prompt that it writes to its cache; default: as input")
    ] = None
    cache_write_1h: Annotated[
        Usd | None, Meta(description="the same, kept for an hour; default: as cache_write")
    ] = None

    long: Annotated[
        LongPrice | None,
        Meta(description="what every token costs where the prompt is longer than `above`"),
    ] = None
    image: Annotated[Usd, Meta(description="US dollars for a picture that the model makes")] = 0.0


class ModelCache(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How answers of one model are kept."""

    enabled: Annotated[bool, Meta(description="false: they are not")] = True
    ttl: Annotated[KeptFor | None, Meta(description="how long; default: what `cache` says")] = None


class Target(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of several that serve a model name."""

    provider: Annotated[str, Meta(description="name of the provider")]
    model: Annotated[
        Name | None, Meta(description="its name upstream; default: the entry's own name")
    ] = None
    weight: Annotated[
        Weight | None,
        Meta(
            description="its share of the calls; default: where none has one, the quicker is asked"
        ),
    ] = None
    context_length: Annotated[Count | None, Meta(description="tokens the model can read")] = None
    max_output: Annotated[Count | None, Meta(description="tokens it can write in one reply")] = None
    price: Annotated[
        ModelPrice | None,
        Meta(description="what it costs; default: as the entry, or what is known"),
    ] = None
    picture_tokens: Annotated[
        Count | None, Meta(description="tokens that a picture costs; default: as the entry")
    ] = None

    def upstream(self, name: str, asked: str) -> str:
        """What to call the model upstream when `asked` found the entry `name`."""
        if not name.endswith("*"):
            return self.model or name
        return (self.model or "*").replace("*", asked[len(name) - 1 :])


class ModelEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model name that clients may ask for; `openai/*` stands for every name that begins so."""

    provider: Annotated[
        str, Meta(description="name of the provider that serves it, unless there are targets")
    ] = ""
    targets: Annotated[
        tuple[Target, ...],
        Meta(description="several that serve it, in place of `provider` and `model`"),
    ] = ()
    fallbacks: Annotated[
        tuple[str, ...],
        Meta(description="models that answer where this one fails before its first token"),
    ] = ()
    model: Annotated[
        Name | None,
        Meta(description="its name upstream, * being what * matched; default: its own name"),
    ] = None
    description: Annotated[str, Meta(description="shown in /v1/models")] = ""
    timeouts: Annotated[
        TimeoutOverrides | None, Meta(description="where they differ from the provider's")
    ] = None
    retries: Annotated[Retries | None, Meta(description="if not the provider's")] = None
    context_length: Annotated[Count | None, Meta(description="tokens the model can read")] = None
    max_output: Annotated[Count | None, Meta(description="tokens it can write in one reply")] = None
    price: Annotated[
        ModelPrice | None,
        Meta(description="what it costs; default: what is known of the model, else nothing"),
    ] = None
    picture_tokens: Annotated[
        Count | None,
        Meta(description="tokens that a picture costs; default: by its size, as is known"),
    ] = None
    owned_by: Annotated[
        str | None, Meta(description="shown in /v1/models; default: the provider")
    ] = None
    cache: Annotated[
        ModelCache | None,
        Meta(description="how its answers are kept, if there is a section `cache`"),
    ] = None

    def served_by(self) -> tuple[Target, ...]:
        """Its targets, be it one or several."""
        return self.targets or (Target(provider=self.provider, model=self.model),)


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one turn of an agent may use, everything it asks included."""

    calls: Annotated[Count, Meta(description="calls of models and other agents")] = 20
    tokens: Annotated[Count | None, Meta(description="tokens; default: no limit")] = None
    seconds: Annotated[Duration, Meta(description="time")] = 120.0


class CodeAgentEntry(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="code"
):
    """An agent written in Python; every key that is not listed here is a parameter of it."""

    KEY: ClassVar[str] = "use"
    REST: ClassVar[str] = "params"

    use: Annotated[
        Code, Meta(description="the class or function, as package.module:name, or an entry point")
    ]
    description: Annotated[str, Meta(description="shown in /v1/models")] = ""
    limits: Annotated[Limits, Meta(description="what one turn may use")] = Limits()
    cache: Annotated[
        bool,
        Meta(
            description="keep whole turns, if there is a section `cache`; its models have their own"
        ),
    ] = False
    params: dict[str, Any] = {}


class PromptAgentEntry(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="prompt"
):
    """A model with a role to play."""

    model: Annotated[
        str,
        Meta(min_length=1, description="model or agent that answers; an agent of code has `use`"),
    ]
    context: Annotated[str, Meta(description="who it is: the first system message")] = ""
    instructions: Annotated[str, Meta(description="what it should do")] = ""
    params: Annotated[
        dict[str, Any], Meta(description="request parameters such as temperature")
    ] = {}
    description: Annotated[str, Meta(description="shown in /v1/models")] = ""
    limits: Annotated[Limits, Meta(description="what one turn may use")] = Limits()
    cache: Annotated[
        bool,
        Meta(
            description="keep whole turns, if there is a section `cache`; its models have their own"
        ),
    ] = False


AgentEntry = CodeAgentEntry | PromptAgentEntry


class DefaultBudget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every user may spend who has no budget of their own."""

    per: Annotated[
        Window, Meta(description="hour, day, week, month, total, or a length such as 6h or 30d")
    ]
    tokens: Annotated[Tokens | None, Meta(description="tokens per window")] = None
    cost_usd: Annotated[Dollars | None, Meta(description="US dollars per window")] = None


class Webhook(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where budget events go."""

    url: Annotated[WebhookUrl, Meta(description="where events are posted")]
    secret: Annotated[
        WebhookSecret,
        Meta(description="what signs them, 16 characters or more, or whsec_ and base64"),
    ]


class Rate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast calls may come; what is left out is not limited."""

    requests_per_minute: Annotated[Pace | None, Meta(description="calls in a minute")] = None
    tokens_per_minute: Annotated[
        Pace | None, Meta(description="tokens in a minute, of prompts and answers")
    ] = None
    parallel: Annotated[Pace | None, Meta(description="calls at once")] = None


class RateLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast calls may come; a call must fit into all that it counts against."""

    default: Annotated[Rate | None, Meta(description="of every user who is not named below")] = None
    users: Annotated[dict[str, Rate], Meta(description="of users, by name")] = {}
    teams: Annotated[
        dict[str, Rate], Meta(description="of teams, by name, all members together")
    ] = {}
    keys: Annotated[dict[str, Rate], Meta(description="of keys, by id")] = {}
    models: Annotated[
        dict[str, Rate], Meta(description="of models and agents, by name, everybody together")
    ] = {}


class Budgets(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be spent."""

    default: Annotated[
        DefaultBudget | None,
        Meta(description="budget of users without one of their own; default: none"),
    ] = None
    timezone: Annotated[str, Meta(description="where days, weeks and months begin at midnight")] = (
        "UTC"
    )
    thresholds: Annotated[
        tuple[Percent, ...], Meta(description="per cent of a budget at which an event is raised")
    ] = (
        50,
        80,
        100,
    )
    unpriced: Annotated[
        Literal["allow", "refuse"],
        Meta(description="a model without a price under a hard budget in dollars"),
    ] = "allow"
    webhook: Annotated[
        Webhook | None, Meta(description="where budget events are posted, signed; default: nowhere")
    ] = None
    wait: Annotated[
        Duration, Meta(description="how long a call waits for room that others only hold")
    ] = 2.0
    sync: Annotated[
        Literal["second", "commit"],
        Meta(description="how often SQLite's budgets are forced to the disk"),
    ] = "second"
    journal: Annotated[
        str,
        Meta(
            description="directory for what is used and not yet booked; default: beside the "
            "SQLite file, else here"
        ),
    ] = ""


class Cache(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answers that are kept for identical requests."""

    enabled: Annotated[bool, Meta(description="false: as without the section")] = True
    ttl: Annotated[KeptFor, Meta(description="how long an answer is kept")] = 3600.0
    scope: Annotated[
        Literal["user", "team", "shared"],
        Meta(description="who gets each other's answers: nobody, members of a team, everybody"),
    ] = "user"
    max_entry_kb: Annotated[
        int, Meta(ge=1, le=65536, description="largest answer kept, in KiB")
    ] = 1024
    memory_mb: Annotated[
        int,
        Meta(ge=1, le=65536, description="size of the cache of a process without Redis, in MiB"),
    ] = 64


class SessionHeader(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A header that names a session."""

    name: Annotated[Header, Meta(description="the header")]
    mode: Annotated[
        Literal["append", "mirror", "auto", "off", ""],
        Meta(
            description="how its clients keep history; default: X-Session-Id as `mode` says, all "
            "others mirror"
        ),
    ] = ""


class SessionWindow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much stored history is asked."""

    messages: Annotated[
        int, Meta(ge=1, le=5000, description="most stored messages sent upstream")
    ] = 200
    tokens: Annotated[
        Count | None,
        Meta(
            description="most tokens of a prompt with history; default: what the model's context "
            "leaves"
        ),
    ] = None


class SessionRetention(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept."""

    max_sessions_per_user: Annotated[
        Count | None, Meta(description="the newest so many of each user; null: all")
    ] = 500
    max_age: Annotated[
        Duration | None, Meta(description="since something was last said; default: for ever")
    ] = None
    max_messages: Annotated[
        Count | None, Meta(description="the newest so many of a session; default: all")
    ] = None
    deleted_users: Annotated[
        Literal["delete", "keep"],
        Meta(description="what becomes of the sessions of users who are deleted"),
    ] = "delete"


class SessionTitle(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How sessions get their titles."""

    model: Annotated[
        str,
        Meta(
            description="writes titles, and those that chat UIs ask for; default: the first words "
            "of the user"
        ),
    ] = ""


class SessionTasks(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What chat UIs ask for their own ends: titles, tags, follow-ups, searches, summaries."""

    model: Annotated[
        str,
        Meta(description="model that answers; default: `title.model` for titles and agents"),
    ] = ""
    prompts: Annotated[
        dict[str, tuple[Name, ...]],
        Meta(description="how prompts of your own wording begin, by task: title_generation …"),
    ] = {}


class SessionSummary(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of history that is too long."""

    model: Annotated[
        str, Meta(description="sums up what is old; default: what does not fit is left out")
    ] = ""
    after: Annotated[
        Count, Meta(description="stored messages after which the older ones are summed up")
    ] = 60
    keep: Annotated[Count, Meta(description="newest messages that are sent as they are")] = 20


class SessionSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Conversations that the server keeps."""

    headers: Annotated[
        tuple[Header | SessionHeader, ...],
        Meta(description="headers that name a session; the first one present counts"),
    ] = (
        "X-Session-Id",
        "X-Conversation-Id",
        "X-OpenWebUI-Chat-Id",
        "Helicone-Session-Id",
        "x-litellm-session-id",
    )
    mode: Annotated[
        Literal["append", "mirror", "auto", "off"],
        Meta(
            description="who keeps the history: the server, the client, whoever seems to, or nobody"
        ),
    ] = "auto"
    unknown: Annotated[
        Literal["create", "reject"], Meta(description="what happens to a session that nobody has")
    ] = "create"
    wait: Annotated[
        Duration, Meta(description="how long a turn waits for the one before it, then it is a 409")
    ] = 20.0
    keep_partial: Annotated[
        bool, Meta(description="keep what was said to a client that left, marked as incomplete")
    ] = True
    window: Annotated[SessionWindow, Meta(description="how much stored history is asked")] = (
        SessionWindow()
    )
    retention: Annotated[SessionRetention, Meta(description="what is kept")] = SessionRetention()
    title: Annotated[SessionTitle, Meta(description="how sessions get their titles")] = (
        SessionTitle()
    )
    tasks: Annotated[
        SessionTasks,
        Meta(description="what chat UIs ask for their own ends"),
    ] = SessionTasks()
    summary: Annotated[
        SessionSummary, Meta(description="what becomes of history that is too long")
    ] = SessionSummary()
    store: Annotated[
        str,
        Meta(
            description="a SessionStore of your own, as package.module:Class; default: the database"
        ),
    ] = ""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that config.yaml says."""

    server: Annotated[Server, Meta(description="where and how the proxy listens")] = Server()
    database_url: Annotated[
        Database, Meta(description="sqlite:///file or postgresql://user:password@host/name")
    ] = "sqlite:///chattable.db"
    redis_url: Annotated[
        Redis,
        Meta(description="a Redis or Valkey that workers and replicas share; empty: in-process"),
    ] = ""
    admin_keys: Annotated[
        tuple[AdminKey, ...],
        Meta(description=f"keys for /admin, 16 characters or more; default: {ADMIN_KEY}"),
    ] = ()
    providers: Annotated[dict[str, Provider], Meta(description="upstreams by name")] = {}
    models: Annotated[
        dict[str, ModelEntry], Meta(description="models by the name that clients ask for")
    ] = {}
    default_model: Annotated[
        str, Meta(description="served for `default` and where a request names no model")
    ] = ""
    agents: Annotated[
        dict[str, CodeAgentEntry | PromptAgentEntry],
        Meta(description="agents by the name clients ask for"),
    ] = {}
    budgets: Annotated[Budgets, Meta(description="what may be spent")] = Budgets()
    rate_limits: Annotated[RateLimits, Meta(description="how fast calls may come")] = RateLimits()
    sessions: Annotated[
        SessionSettings, Meta(description="conversations that the server keeps")
    ] = SessionSettings()
    cache: Annotated[
        Cache | None, Meta(description="answers kept for identical requests; default: none are")
    ] = None

    def __repr__(self) -> str:
        """Leave the URLs out: they may hold a password."""
        return (
            f"Config(providers={list(self.providers)}, models={list(self.models)}, "
            f"agents={list(self.agents)})"
        )


def match(name: str, names: Collection[str]) -> str | None:
    """The entry for `name`: the one called so, else the wildcard with the longest beginning."""
    if name in names:
        return name
    wild = (
        known
        for known in names
        if known.endswith("*") and name.startswith(known[:-1]) and len(name) >= len(known)
    )
    return max(wild, key=len, default=None)
