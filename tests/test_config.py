"""config.yaml: what it may say, and how a mistake in it is named."""

import base64
import json
import random
import re
import shlex
import string
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chattable.adapters.services import VENDORS
from chattable.proxy.config import decoder
from chattable.proxy.config import settings as configuration
from chattable.proxy.config.document import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_VALUES,
    ConfigError,
    Problem,
    dotted,
    expand,
    read,
)
from chattable.proxy.config.reader import defaults, load, parse
from chattable.proxy.config.schema import schema
from chattable.proxy.config.schema import settings as setting_names
from chattable.proxy.config.setting_types import Secret, admin_key, seconds
from chattable.proxy.config.settings import (
    CodeAgentEntry,
    Config,
    ModelEntry,
    PromptAgentEntry,
    Provider,
    Target,
    Timeouts,
    match,
)
from chattable.proxy.store.database import Database

ROOT = Path(__file__).parent.parent
KINDS = {
    kind: VENDORS[kind] for kind in ("openai", "azure", "bedrock", "deepseek", "ollama", "local")
}
GOOD_KEY = "orbit-velvet-canyon-17"
ENV = {
    "PORT": "9000",
    "EMPTY": "",
    "KEY": "sk-upstream",
    "ADMIN": GOOD_KEY,
    "WORD": "soon",
    "NIL": "null",
}
ONE = "providers: {p: {kind: openai}}\n"
BASE = "providers: {openai: {kind: openai}}\nmodels: {fast: {provider: openai}}\n"


def parsed(text: str | bytes, env: dict[str, str] = ENV) -> Config:
    return parse(
        text if isinstance(text, bytes) else dedent(text).encode(), "config.yaml", env, KINDS
    )


def problems(text: str | bytes, env: dict[str, str] = ENV) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        parsed(text, env)
    return caught.value.problems


# What a good file means


def test_an_empty_file_is_all_defaults() -> None:
    for text in ("", "# nothing\n", "---\n", "~", "\ufeff", "{}"):
        assert parsed(text) == Config()
    assert Config().server.port == 8000
    assert Config().database_url == "sqlite:///chattable.db"


def test_every_setting_reaches_its_struct() -> None:
    config = parsed("""
        server: {host: 0.0.0.0, port: 0, workers: 4, cors_origins: ["*", "https://a.example:8443"], max_body_mb: 5,
                 on_disconnect: cancel, keepalive: 500ms, grace: 1m}
        database_url: postgresql://user:pw@db/chat
        admin_keys: ["${ADMIN}"]
        providers:
          openai: {kind: openai, api_key: "${KEY}", base_url: "http://127.0.0.1:9001/v1", retries: 0, max_connections: 7,
                   timeouts: {connect: 1, first_token: 2.5, between_tokens: 3s, total: 1h}}
        models:
          fast: {provider: openai, model: gpt-4o-mini, description: quick, timeouts: {total: 5m}, retries: 1,
                 context_length: 128000, max_output: 16384, owned_by: me}
        default_model: fast
        agents:
          echo: {use: "pkg.echo:Echo", description: echoes, limits: {calls: 3, tokens: 100, seconds: 5}, shout: true}
          chef: {model: fast, context: C, instructions: I, params: {temperature: 0.5}, description: D}
    """)
    assert config.server == configuration.Server(
        host="0.0.0.0",
        port=0,
        workers=4,
        cors_origins=("*", "https://a.example:8443"),
        max_body_mb=5,
        on_disconnect="cancel",
        keepalive=0.5,
        grace=60,
    )
    assert config.database_url == "postgresql://user:pw@db/chat"
    assert [key.reveal() for key in config.admin_keys] == [GOOD_KEY]
    assert config.providers["openai"] == Provider(
        kind="openai",
        api_key=Secret("sk-upstream"),
        base_url="http://127.0.0.1:9001/v1",
        retries=0,
        max_connections=7,
        timeouts=Timeouts(connect=1, first_token=2.5, between_tokens=3, total=3600),
    )
    fast = config.models["fast"]
    assert (fast.model, fast.description, fast.retries, fast.owned_by) == (
        "gpt-4o-mini",
        "quick",
        1,
        "me",
    )
    assert (fast.context_length, fast.max_output, config.default_model) == (128000, 16384, "fast")
    limits = configuration.Limits(calls=3, tokens=100, seconds=5)
    echo = CodeAgentEntry(
        use="pkg.echo:Echo", description="echoes", limits=limits, params={"shout": True}
    )
    assert config.agents["echo"] == echo
    assert config.agents["chef"] == PromptAgentEntry(
        model="fast", context="C", instructions="I", params={"temperature": 0.5}, description="D"
    )


def test_annotations_are_evaluated_once_however_many_models_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluated: list[type] = []

    def fields(kind: type) -> Any:
        evaluated.append(kind)
        return msgspec.structs.fields(kind)

    decoder._fields.cache_clear()
    monkeypatch.setattr(decoder, "fields", fields)
    models = "".join(f"  m{n}: {{provider: p}}\n" for n in range(100))
    config = "providers: {p: {kind: openai, api_key: x}}\nmodels:\n" + models
    assert len(parse(config.encode(), "config.yaml", {}).models) == 100
    assert len(evaluated) == len(set(evaluated)) > 2


def test_a_model_changes_only_the_timeouts_it_names() -> None:
    config = parsed("""
        providers: {p: {kind: openai, timeouts: {connect: 1s}}}
        models: {m: {provider: p, timeouts: {total: 1h}}}
    """)
    override = config.models["m"].timeouts
    assert override is not None
    assert override.onto(config.providers["p"].timeouts) == Timeouts(connect=1, total=3600)


def test_every_other_key_of_a_code_agent_is_a_parameter() -> None:
    agent = parsed(
        'agents: {a: {use: "m:A", params: 1, model: x, nested: {deep: [1, null]}, limits: {calls: 2}}}'
    ).agents["a"]
    assert isinstance(agent, CodeAgentEntry)
    assert agent.params == {"params": 1, "model": "x", "nested": {"deep": [1, None]}}
    assert agent.limits.calls == 2


def test_a_section_with_everything_commented_out_is_empty() -> None:
    text = "server:\nproviders:\nadmin_keys:\nmodels:\nagents:\n  a:\n    use: m:A\n    limits:\n"
    assert parsed(text) == Config(agents={"a": CodeAgentEntry(use="m:A")})


def test_crlf_and_a_byte_order_mark_change_nothing() -> None:
    text = BASE + "default_model: fast\n"
    assert parsed(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()) == parsed(text)
    assert problems(b"\xef\xbb\xbfserver:\r\n  port: x\r\n")[0].line == 2


def test_merge_keys_work_and_own_keys_win() -> None:
    config = parsed("""
        providers: {openai: {kind: openai}}
        models:
          a: &base {provider: openai, description: base, retries: 1}
          b: {<<: *base, description: own}
          c: {<<: [{description: first}, *base]}
          d: *base
    """)
    assert [(m.description, m.retries) for m in config.models.values()] == [
        ("base", 1),
        ("own", 1),
        ("first", 1),
        ("base", 1),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5s", 5),
        ("500ms", 0.5),
        ("10m", 600),
        ("1h", 3600),
        ("30d", 2592000),
        ("1.5h", 5400),
        ("7", 7),
        (" 2 m ", 120),
    ],
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected
    assert parsed(f"server: {{grace: '{text}'}}").server.grace == expected


@pytest.mark.parametrize(
    "text", ["", "s", "5 s s", "-5s", "5S", "1h30m", "1e3", "nan", "inf", "٥s", "5s\n5s", "9" * 400]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration such as"):
        seconds(text)


# Wildcards


@pytest.mark.parametrize(
    ("asked", "entry", "upstream"),
    [
        ("gpt-4o", "gpt-4o", "gpt-4o"),
        ("fast", "fast", "gpt-4o-mini"),
        ("gpt-4.1", "gpt-*", "gpt-4.1"),
        ("openai/o3", "openai/*", "o3"),
        ("openai/ft/x*y", "openai/ft/*", "ft:x*y"),
        ("openai/", None, None),
        ("else", None, None),
    ],
)
def test_the_longest_wildcard_serves_what_has_no_entry_of_its_own(
    asked: str, entry: str | None, upstream: str | None
) -> None:
    models = parsed("""
        providers: {p: {kind: openai}}
        models:
          gpt-4o: {provider: p}
          fast: {provider: p, model: gpt-4o-mini}
          "gpt-*": {provider: p, model: "gpt-*"}
          "openai/*": {provider: p}
          "openai/ft/*": {provider: p, model: "ft:*"}
    """).models
    found = match(asked, models)
    assert found == entry
    assert (models[found].served_by()[0].upstream(found, asked) if found else None) == upstream


def test_a_star_alone_serves_everything() -> None:
    assert match("any/thing", {"*": 1}) == "*"
    assert Target(provider="p").upstream("*", "any/thing") == "any/thing"
    assert parsed(BASE + "  \n").models
    assert "*" in parsed(ONE + "models: {'*': {provider: p}}\ndefault_model: x").models


# The environment


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${PORT}", "9000"),
        ("a${PORT}b${KEY}", "a9000bsk-upstream"),
        ("${NONE:-x y}", "x y"),
        ("${NONE:-}", ""),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY}", ""),
        ("${PORT:-x}", "9000"),
        ("$${PORT}", "${PORT}"),
        ("$PORT $ {PORT} $$", "$PORT $ {PORT} $$"),
        ("${NONE:-http://h:1/v1}", "http://h:1/v1"),
        ("${NONE:-{}", "{"),
    ],
)
def test_variables(text: str, expected: str) -> None:
    assert expand(text, ENV) == expected


@pytest.mark.parametrize(
    "text",
    ["${", "${}", "${ PORT }", "${1}", "${PORT", "${NONE:-${PORT}}", "${PORT-x}", "a ${A.B}"],
)
def test_half_a_variable_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape("write $${ to mean the characters")):
        expand(text, ENV)


def test_a_value_is_never_expanded_twice() -> None:
    assert expand("${A}", {"A": "${B} $${C}", "B": "no"}) == "${B} $${C}"


def test_a_variable_may_stand_for_a_number_a_choice_and_a_duration() -> None:
    text = 'server: {port: "${PORT}", workers: "${N:-2}", on_disconnect: "${D:-cancel}", keepalive: "${K:-2m}", grace: "${N:-9}"}'
    server = parsed(text).server
    assert (server.port, server.workers, server.on_disconnect, server.keepalive, server.grace) == (
        9000,
        2,
        "cancel",
        120,
        9,
    )


def test_an_unset_key_with_a_default_is_an_empty_secret() -> None:
    key = parsed("providers: {p: {kind: openai, api_key: '${NONE:-}'}}").providers["p"].api_key
    assert key is not None
    assert not key


def test_the_environment_sets_the_admin_key_where_the_file_does_not() -> None:
    env = {"CHATTABLE_ADMIN_KEY": GOOD_KEY}
    assert parsed("", env).admin_keys == (Secret(GOOD_KEY),)
    assert parsed("admin_keys:\n  # - commented out\n", env).admin_keys == (Secret(GOOD_KEY),)
    assert parsed("admin_keys: []", env).admin_keys == ()
    assert parsed("").admin_keys == ()


# Mistakes: each with its line, its path and the way out

SERVED = "providers: {openai: {kind: openai}}\nmodels:\n  fast: {provider: openai}\n  "
MISTAKES = {
    "unknown section": ("\ntools: {}", 2, "tools", "unknown key; known here: server, database_url, redis_url"),
    "unknown section, close": ("servr: {}", 1, "servr", "unknown key (did you mean `server`?)"),
    "unknown key": ("server:\n  host: a\n  prot: 1", 3, "server.prot", "unknown key (did you mean `port`?)"),
    "unknown key in a model": (BASE.replace("r: openai}}", "r: openai, modle: x}}"), 2, "models.fast.modle", "mean `model`?"),
    "unknown key in limits": ('agents: {e: {use: "m:A", limits: {call: 1}}}', 1, "agents.e.limits.call", "mean `calls`?"),
    "text for a number": ("server:\n  port: eighty", 2, "server.port", "must be a whole number, not text"),
    "a number in quotes": ("server: {port: '80'}", 1, "server.port", "must be a whole number, not text"),
    "expanded text for a number": ("server: {port: '${WORD}'}", 1, "server.port", "must be a whole number, not text"),
    "a fraction": ("server: {port: 80.5}", 1, "server.port", "must be a whole number, not a decimal number"),
    "a boolean": ("server: {port: yes}", 1, "server.port", "must be a whole number, not a boolean"),
    "nothing": ("server:\n  port:", 2, "server.port", "must be a whole number, not nothing"),
    "too small": ("server: {port: -1}", 1, "server.port", "must be at least 0"),
    "too large": ("server: {port: 65536}", 1, "server.port", "must be at most 65535"),
    "huge": (f"server: {{port: {10**30}}}", 1, "server.port", "must be a number of at most 64 bits"),
    "huge in hex": (f"server: {{port: 0x{'f' * 9000}}}", 1, "server.port", "must be a number of at most 64 bits"),
    "longer than Python reads": (f"server: {{port: {'9' * 9000}}}", 1, "server.port", "cannot be read as a number"),
    "a list for text": ("server: {host: [a]}", 1, "server.host", "must be text, not a list"),
    "empty": ("server: {host: ''}", 1, "server.host", "must not be empty"),
    "a number for text": ("database_url: 5", 1, "database_url", "must be text, not a whole number; put it in quotes"),
    "on is a boolean": ("default_model: on", 1, "default_model", "put it in quotes: yes, no, on and off are booleans in YAML"),
    "a date is no text": ("default_model: 2024-01-01", 1, "default_model", "is a date in YAML; put it in quotes"),
    "text for a section": ("server: here", 1, "server", "must be a mapping, not text"),
    "a list for a section": ("models:\n  - a", 1, "models", "must be a mapping, not a list"),
    "zero for a section": ("agents: 0", 1, "agents", "must be a mapping, not a whole number"),
    "text for a list": ("admin_keys: x", 1, "admin_keys", "must be a list, not text"),
    "text for an entry": ("agents:\n  a: echo", 2, "agents.a", "must be a mapping, not text"),
    "a wrong choice": ("server: {on_disconnect: drian}", 1, "server.on_disconnect", "`drain` or `cancel` (did you mean `drain`"),
    "a boolean for a choice": ("server: {on_disconnect: off}", 1, "server.on_disconnect", "`drain` or `cancel`, not a boolean"),
    "no duration": ("server: {grace: soon}", 1, "server.grace", 'must be a duration such as "30s", "500ms" or "10m"'),
    "a list for a duration": ("server: {grace: [5s]}", 1, "server.grace", "or a number of seconds, not a list"),
    "a boolean for a duration": ("server: {grace: true}", 1, "server.grace", "or a number of seconds, not a boolean"),
    "no time": ("server: {grace: 0s}", 1, "server.grace", "must be more than 0"),
    "negative time": ("server: {grace: -1}", 1, "server.grace", "must be more than 0"),
    "too much time": ("server: {grace: 4000d}", 1, "server.grace", "must be at most 315360000"),
    "nan": ("server: {grace: .nan}", 1, "server.grace", "must be a finite number"),
    "infinite": ("server: {grace: .inf}", 1, "server.grace", "must be a finite number"),
    "infinite by overflow": ("server: {grace: 1.0e+999}", 1, "server.grace", "must be a finite number"),
    "nan in a parameter": ('agents:\n  e: {use: "m:A",\n    x: [1, .nan]}', 3, "agents.e.x[1]", "must be a finite number"),
    "an origin with a path": ("server: {cors_origins: ['*', http://a/b]}", 1, "server.cors_origins[1]", "without a path"),
    "a number as origin": ("server:\n  cors_origins:\n    - '*'\n    - 5", 4, "server.cors_origins[1]", "must be text"),
    "a database we do not speak to": ("database_url: mysql://u:pw@h/d", 1, "database_url", "must begin with sqlite:///"),
    "a kind there is not": ("providers:\n  x:\n    kind: opnai", 3, "providers.x.kind", "no kind `opnai` (did you mean `openai`"),
    "a kind like no other": ("providers: {x: {kind: zzz}}", 1, "providers.x.kind", "there are azure, bedrock, deepseek, local"),
    "no kind": ("providers:\n  x: {}", 2, "providers.x.kind", "is missing (what it speaks"),
    "a kind in capitals": ("providers: {x: {kind: OpenAI}}", 1, "providers.x.kind", "must be a lowercase word such as `openai`"),
    "ftp": ("providers: {x: {kind: openai, base_url: ftp://h}}", 1, "providers.x.base_url", "must be a URL such as https://"),
    "no host": ("providers: {x: {kind: openai, base_url: 'http:///v1'}}", 1, "providers.x.base_url", "must be a URL such as"),
    "no such port": ("providers: {x: {kind: openai, base_url: 'http://h:99999'}}", 1, "providers.x.base_url", "must be a URL"),
    "half an address": ("providers: {x: {kind: openai, base_url: 'http://[::1'}}", 1, "providers.x.base_url", "must be a URL"),
    "a host that no name is": (
        "providers: {x: {kind: openai, base_url: 'http://h\u00ad\u0378.de'}}", 1,
        "providers.x.base_url", "must be a URL",
    ),
    "a password": ("providers: {x: {kind: openai, base_url: 'http://u:p@h'}}", 1, "providers.x.base_url", "use api_key"),
    "a query": ("providers: {x: {kind: openai, base_url: 'http://h/v1?k=1'}}", 1, "providers.x.base_url", "hold a `?` or `#`"),
    "too many retries": ("providers: {x: {kind: openai, retries: 11}}", 1, "providers.x.retries", "must be at most 10"),
    "a key with a line break": (
        'providers: {x: {kind: openai, api_key: "sk-1\\n"}}', 1, "providers.x.api_key",
        "ends in a line break, which no HTTP header can carry",
    ),
    "a key with another": (
        'providers: {x: {kind: openai, api_keys: [a, "b\\r\\n"]}}', 1, "providers.x.api_keys[1]",
        "ends in a line break",
    ),
    "a key with a control character": (
        'providers: {x: {kind: openai, api_key: "sk\\x01"}}', 1, "providers.x.api_key",
        "no HTTP header can carry",
    ),
    "a key with a space": (
        "providers: {x: {kind: openai, api_key: 'k '}}", 1, "providers.x.api_key", "a space at",
    ),
    "a key beyond ASCII": (
        "providers: {x: {kind: openai, api_key: ké}}", 1, "providers.x.api_key", "no HTTP header",
    ),
    "an endpoint": (
        "providers: {x: {kind: openai, base_url: 'http://h/v1/chat/completions'}}", 1,
        "providers.x.base_url", "must end before `/chat/completions`, which is added by itself",
    ),
    "another endpoint": (
        "providers: {x: {kind: openai, base_url: 'http://h/v1/models/'}}", 1,
        "providers.x.base_url", "before `/models`",
    ),
    "a number as api key": ("providers: {x: {kind: openai, api_key: 5}}", 1, "providers.x.api_key", "must be text, not a"),
    "a variable that is not set": (
        'providers:\n  x:\n    kind: openai\n    api_key: "${OPENAI_API_KEY}"', 4, "providers.x.api_key",
        "needs the environment variable OPENAI_API_KEY, which is not set; set it or write "
        "${OPENAI_API_KEY:-default}",
    ),
    "half a variable": ("database_url: '${oh'", 1, "database_url", "holds `${` that is no ${VAR}"),
    "a provider there is not": (BASE.replace("r: openai}", "r: opnai}"), 2, "models.fast.provider", "mean `openai`?"),
    "no provider at all": ("models:\n  m:\n    provider: p", 3, "models.m.provider", "`p`; define it under `providers`"),
    "a long prompt that is cheaper": (
        SERVED + "m: {provider: openai, price: {input: 2, long: {above: 9, input: 1}}}",
        4,
        "models.m.price.long.input",
        "must be no less than the usual",
    ),
    "no provider named": ("models:\n  m:", 2, "models.m", "must have either `provider` or `targets`"),
    "two ways to be served": (SERVED + "m: {provider: openai, targets: [{provider: openai}]}", 4, "models.m", "must have either"),
    "a target's provider there is not": (
        SERVED + "m: {targets: [{provider: openai}, {provider: opnai}]}", 4, "models.m.targets[1].provider", "mean `openai`?"
    ),
    "a name beside targets": (SERVED + "m: {model: x, targets: [{provider: openai}]}", 4, "models.m.model", "into each of"),
    "a fallback there is not": (SERVED + "m: {provider: openai, fallbacks: [fats]}", 4, "models.m.fallbacks[0]", "mean `fast`?"),
    "fallbacks in a circle": (
        SERVED + "a: {provider: openai, fallbacks: [fast, b]}\n  b: {provider: openai, fallbacks: [a]}",
        4, "models.a.fallbacks", "models ask each other in a circle: a -> b -> a",
    ),
    "a negative weight": (
        SERVED + "m: {targets: [{provider: openai, weight: -1}]}", 4, "models.m.targets[0].weight", "at least 0"
    ),
    "a star in the middle": (ONE + "models: {a*b: {provider: p}}", 2, "models.a*b", "one `*`, at the end"),
    "two stars": (ONE + "models: {a**: {provider: p}}", 2, "models.a**", "one `*`, at the end"),
    "a star upstream": (ONE + "models: {a: {provider: p, model: 'a*'}}", 2, "models.a.model", "ends in `*`"),
    "two stars upstream": (ONE + "models: {a*: {provider: p, model: '**'}}", 2, "models.a*.model", "one `*`"),
    "no name": ("agents: {'': {use: 'm:A'}}", 1, 'agents.""', "is no name"),
    "an odd name": ("agents: {' x': {use: 'm:A'}}", 1, 'agents." x"', "is no name"),
    "a star for an agent": ("agents: {a*: {use: 'm:A'}}", 1, "agents.a*", "may hold one `*`, at the end of a model's name"),
    "neither code nor prompt": ("agents:\n  a: {context: x}", 2, "agents.a.model", "an agent of code has `use`)"),
    "use with a space": ("agents: {a: {use: pkg mod}}", 1, "agents.a.use", "must be `package.module:name`, or an entry point"),
    "use as a list": ("agents: {a: {use: [m]}}", 1, "agents.a.use", "entry point's name, not a list"),
    "a prompt's unknown model": (BASE + "agents:\n  a:\n    model: fsat", 5, "agents.a.model", "`fsat` (did you mean `fast`?)"),
    "a wildcard as model": (BASE + "agents: {a: {model: 'x/*'}}", 3, "agents.a.model", "must name one model or agent"),
    "a name twice": (BASE + "agents:\n  fast: {use: 'm:A'}", 4, "agents.fast", "a model too, on line 2; rename one"),
    "an agent of itself": ("agents: {a: {model: a}}", 1, "agents.a.model", "agents ask each other in a circle: a -> a"),
    "circle": ("agents:\n z: {model: a}\n a: {model: b}\n b: {model: c}\n c: {model: a}", 3, "agents.a.model", "b -> c -> a"),
    "an unknown default": (BASE + "default_model: fastt", 3, "default_model", "no model or agent `fastt` (did you mean `fast`?)"),
    "a limit of an unknown model": (
        BASE + "rate_limits: {models: {fats: {parallel: 1}}}", 3,
        "rate_limits.models.fats", "`fats` (did you mean `fast`?)",
    ),
    "a limit of a wildcard": (
        BASE + "rate_limits: {models: {'fa*': {parallel: 1}}}", 3,
        "rate_limits.models.fa*", "must name one model or",
    ),
    "an unknown writer of titles": (
        BASE + "sessions: {title: {model: fats}}", 3,
        "sessions.title.model", "`fats` (did you mean `fast`?)",
    ),
    "an unknown writer of summaries": (
        BASE + "sessions: {summary: {model: x}}", 3,
        "sessions.summary.model", "no model or agent `x`",
    ),
    "no request at all": (
        "rate_limits: {default: {requests_per_minute: 0}}", 1,
        "rate_limits.default.requests_per_minute", "must be at least 1",
    ),
    "no token at all": (
        "rate_limits: {users: {a: {tokens_per_minute: 0}}}", 1,
        "rate_limits.users.a.tokens_per_minute", "at least 1",
    ),
    "nothing at once": (
        "rate_limits: {keys: {k: {parallel: 0}}}", 1, "rate_limits.keys.k.parallel", "at least 1",
    ),
    "a file of LiteLLM's": (
        "general_settings: {master_key: x}\nlitellm_settings: {}\nmodel_list: []", 3, "model_list",
        "make a config of this file: chattable import-litellm config.yaml -o new.yaml",
    ),
    "half a file of LiteLLM's": (
        "router_settings: {}", 1, "router_settings", "is a section of LiteLLM's",
    ),
    "a key twice": ("server:\n  port: 1\n  host: a\n  port: 2", 4, "server.port", "is set twice; the first is on line 2"),
    "a section twice": ("agents: {}\nserver: {}\nagents: {}", 3, "agents", "is set twice; the first is on line 1"),
    "a boolean as key": ("models:\n  no: {provider: p}", 2, "models.no", "is a boolean in YAML, and a key must be text; put"),
    "a number as key": ("models:\n  4: {provider: p}", 2, "models.4", "is a number in YAML, and a key must be text"),
    "a list as key": ("models:\n  [a]: {provider: p}", 2, 'models."?"', "is no key: a key must be text"),
    "a merge of text": ("server: {<<: x}", 1, 'server."<<"', "can merge mappings only"),
    "python": ("default_model: !!python/name:os.system x", 1, "default_model", "tag !!python/name:os.system, which"),
    "a set": ("server: !!set {a}", 1, "server", "has the tag !!set"),
    "bytes": ("default_model: !!binary aGk=", 1, "default_model", "has the tag !!binary"),
    "a false boolean": ("default_model: !!bool x", 1, "default_model", "cannot be read as a boolean"),
    "an equals sign": ("default_model: =", 1, "default_model", "put it in quotes to mean text"),
    "NUL": ('default_model: "a\\0b"', 1, "default_model", "holds a NUL character"),
    "a list at the top": ("- a", 1, "", "must hold settings, such as `server:`"),
    "text at the top": ("hello", 1, "", "must hold settings, such as `server:`"),
    "a tag at the top": ("!!set {a}", 1, "", "has the tag !!set"),
    "tabs": ("server:\n\tport: 1", 2, "", "indent with spaces, not tabs"),
    "a colon too many": ("server:\n  host: a: b", 2, "", "column 10: mapping values are not allowed"),
    "an open bracket": ("server: {port: 1\n", 2, "", "column 1: "),
    "a variable without quotes": ("server: {port: ${PORT}}", 1, "", "put ${…} in quotes"),
    "an unknown alias": ("server: *x", 1, "", "column 9: found undefined alias"),
    "two documents": ("server: {}\n---\nserver: {}", 2, "", "another document"),
    "a control character": ("server: {}\n# \x07", 2, "", "YAML does not allow the character U+0007"),
    "a session named by a secret": (
        "sessions:\n  headers:\n    - X-Chat-Id\n    - authorization", 4, "sessions.headers[1]",
        "`authorization` carries a secret, which would be kept in plain text as the name of a",
    ),
    "a session named by a secret, with a mode": (
        "sessions:\n  headers:\n    - {name: X-Api-Key, mode: append}", 3,
        "sessions.headers[0].name", "name one such as `X-Session-Id`",
    ),
    "an unknown task": (
        "sessions: {tasks: {prompts: {title_generaton: [x]}}}", 1,
        "sessions.tasks.prompts.title_generaton", "no such task (did you mean `title_generation`?)",
    ),
    "tasks for a model that is not there": (
        "sessions: {tasks: {model: x}}", 1,
        "sessions.tasks.model", "there is no model or agent `x`",
    ),
    "tasks for an agent": (
        'agents: {a: {use: "m:A"}}\nsessions: {tasks: {model: a}}', 2,
        "sessions.tasks.model", "must be a model: no agent is run",
    ),
}  # fmt: skip
SECRET_HEADERS = [
    "Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "X-Api-Key", "api-key",
    "apikey", "X-Goog-Api-Key", "X-Auth-Token", "X-Amz-Security-Token", "Ocp-Apim-Subscription-Key",
    "X-Functions-Key", "X-OpenWebUI-User-Jwt", "Cf-Access-Jwt-Assertion", "X-Client-Secret",
    "X-Forwarded-Access-Token", "X-Access-Key", "X-Litellm-Key-Password",
]  # fmt: skip
SESSION_HEADERS = [
    "X-Session-Id", "X-Conversation-Id", "X-OpenWebUI-Chat-Id", "Helicone-Session-Id", "X-Chat-Key",
    "x-litellm-session-id", "X-Session-Key", "X-Openclaw-Session-Key", "X-Thread",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRET_HEADERS)
def test_no_session_is_named_by_what_opens_something(name: str) -> None:
    for header in (name, name.lower(), name.upper()):
        (problem,) = problems(f"sessions: {{headers: [{header}]}}")
        assert "carries a secret" in problem.text


@pytest.mark.parametrize("name", SESSION_HEADERS)
def test_a_session_may_be_named_by_anything_else(name: str) -> None:
    assert parsed(f"sessions: {{headers: [{name}]}}").sessions.headers == (name,)


@pytest.mark.parametrize("name", MISTAKES)
def test_one_mistake_one_problem(name: str) -> None:
    text, line, path, what = MISTAKES[name]
    (problem,) = problems(text)
    assert (problem.file, problem.line, problem.path) == ("config.yaml", line, path)
    assert what in problem.text
    assert str(problem) == f"config.yaml:{line}: " + (f"{path}: " if path else "") + problem.text


FOLLOWERS = {
    "a model's provider": (ONE + "models: {m: {provider: '${NONE}'}}", "models.m.provider"),
    "a target": (ONE + "models: {m: {targets: ['${NONE}']}}", "models.m.targets[0]"),
    "an address that a kind needs": (
        "providers: {p: {kind: azure, base_url: '${NONE}'}}\nmodels: {m: {provider: p}}",
        "providers.p.base_url",
    ),
    "a region": ("providers: {p: {kind: bedrock, region: '${NONE}'}}", "providers.p.region"),
    "a kind": ("providers: {p: {kind: '${NONE}'}}\nmodels: {m: {provider: p}}", "providers.p.kind"),
    "the only amount": (
        "budgets: {default: {per: day, tokens: '${NONE}'}}", "budgets.default.tokens",
    ),
    "what several workers need": (
        "server: {workers: 2}\nredis_url: '${NONE}'\nrate_limits: {default: {parallel: 1}}",
        "redis_url",
    ),
    "the admin key": ("admin_keys: ['${NONE}']", "admin_keys[0]"),
    "an agent's parameter": (
        "agents: {a: {use: 'chattable.agents.scripted:Scripted', replies: '${NONE}'}}",
        "agents.a.replies",
    ),
    "all that is merged": (
        "providers: {a: &a {kind: openai, api_key: '${NONE}'}, b: *a, c: {<<: *a}}",
        "providers.a.api_key",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLLOWERS)
def test_a_variable_that_is_not_set_is_one_problem_and_nothing_follows_from_it(name: str) -> None:
    text, path = FOLLOWERS[name]
    with pytest.raises(ConfigError) as caught:
        parse(text.encode(), "config.yaml", ENV, KINDS, code=True)
    (problem,) = caught.value.problems
    assert problem.path == path and "needs the environment variable NONE" in problem.text


def test_what_else_is_wrong_beside_a_variable_is_told() -> None:
    found = problems("server: {port: '${NONE}', workers: 0}\nmodels: {m: {provider: x}}")
    paths = [problem.path for problem in found]
    assert paths == ["server.port", "server.workers", "models.m.provider"]


def test_keys_from_the_environment_are_looked_at_too() -> None:
    with pytest.raises(ConfigError, match=r"^environment: OPENAI_API_KEY: ends in a line break"):
        defaults({"OPENAI_API_KEY": "sk-1\n"}, {"openai": "OPENAI_API_KEY"})


@pytest.mark.parametrize("url", ["postgres://u:p@h/d", "postgresql://u:p@h/d", "sqlite:///x.db"])
def test_addresses_of_databases_as_people_write_them(url: str) -> None:
    shown = str(Database(parsed(f"database_url: {url}").database_url))
    assert shown.startswith(("postgresql://", "sqlite:///"))


def test_every_mistake_is_reported_at_once_in_the_order_of_the_file() -> None:
    found = problems("""\
        server: {port: x, workers: 0}
        admin_keys: [5, admin]
        providers:
          a: {kind: opnai, retries: -1}
          b: {base_url: ftp://x}
        models:
          m: {provider: aa, context_length: 0}
          n: {provider: a}
        agents:
          p: {model: q}
          q: {model: p, limits: {seconds: never}}
          n: {use: "not a name"}
        default_model: mm
    """)
    assert [(problem.line, problem.path) for problem in found] == [
        (1, "server.port"),
        (1, "server.workers"),
        (2, "admin_keys[0]"),
        (2, "admin_keys[1]"),
        (4, "providers.a.kind"),
        (4, "providers.a.retries"),
        (5, "providers.b.base_url"),
        (5, "providers.b.kind"),
        (7, "models.m.context_length"),
        (7, "models.m.provider"),
        (10, "agents.p.model"),
        (11, "agents.q.limits.seconds"),
        (12, "agents.n"),
        (12, "agents.n.use"),
        (13, "default_model"),
    ]


def test_an_unclosed_bracket_names_the_line_it_opened_on() -> None:
    (problem,) = problems("server:\n  cors_origins: [a,\n  b\nmodels: {}\n")
    assert problem.line == 4
    assert problem.text.endswith("while parsing a flow sequence that begins on line 2")


def test_an_environment_that_is_not_unicode_is_named() -> None:
    (problem,) = problems("database_url: ${ODD}", {"ODD": b"\xff".decode(errors="surrogateescape")})
    assert (problem.path, problem.text) == ("database_url", "holds what is not Unicode text")


def test_bytes_that_are_not_utf8_are_named() -> None:
    (problem,) = problems(b"server: {}\n# caf\xe9\n")
    assert str(problem) == "config.yaml:2: byte 0xe9 is not UTF-8; save the file as UTF-8"


def test_the_text_of_a_problem_tells_no_value() -> None:
    canary = "canary-secret-value-1"
    env = {"S": canary, "CHATTABLE_ADMIN_KEY": "short-canary"}
    broken = """
        server: {port: "${S}", on_disconnect: "${S}", grace: "${S}", cors_origins: ["${S}/"]}
        database_url: "${S}"
        admin_keys: ["${S} ", "é${S}"]
        providers: {p: {kind: "É${S}", base_url: "http://u:${S}@h", retries: "${S}"}}
    """
    assert len(problems(broken, env)) == 10
    assert canary not in str(ConfigError(*problems(broken, env)))
    with pytest.raises(ConfigError) as caught:
        parsed("", env)
    assert "short-canary" not in str(caught.value)


# Files


def test_load_reads_a_file_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "chat.yaml"
    path.write_text(BASE)
    assert load(path, {}).models == {"fast": ModelEntry(provider="openai")}
    path.write_text("server: {port: x}")
    with pytest.raises(
        ConfigError, match=re.escape(f"{path}:1: server.port: must be a whole number")
    ):
        load(str(path), {})


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        load(tmp_path / "none.yaml", {})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, {})


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_bytes(b"#" * MAX_BYTES)
    assert load(path, {}) == Config()
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match=r"big\.yaml: is larger than 1024 KiB"):
        load(path, {})


# Bombs


def billion(levels: int, item: str) -> str:
    rows = [f"a0: &a0 [{item}]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(rows)


BOMBS = {
    "aliases": (billion(12, "x"), "holds more than 100,000 values"),
    "merges": ("a0: &a0 {" + ", ".join(f"k{n}: 1" for n in range(400)) + "}\n"
               + "\n".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 50)}]}}" for n in range(1, 40)), "holds more than"),
    "an alias of itself": ("a: &a [*a]", "deeper than"),
    "brackets": ("[" * (MAX_DEPTH + 1), "deeper than"),
    "braces": ("{a: " * (MAX_DEPTH + 1), "deeper than"),
    "dashes": ("- " * (MAX_DEPTH + 1), "deeper than"),
    "questions": ("? " * (MAX_DEPTH + 1), "deeper than"),
    "values": ("a: [" + "1," * MAX_VALUES + "]", "holds more than 100,000 values"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_quickly(name: str) -> None:
    text, what = BOMBS[name]
    began = time.process_time()
    (problem,) = problems(text)
    assert time.process_time() - began < 20
    assert what in problem.text
    assert problem.line >= 1


def test_a_mapping_merged_into_itself_ends() -> None:
    assert problems("server: &s {<<: *s, port: x}")[0].path == "server.port"


def test_nesting_up_to_the_limit_is_fine() -> None:
    levels = MAX_DEPTH - 3
    config = parsed('agents: {a: {use: "m:A", x: ' + "[" * levels + "]" * levels + "}}")
    assert json.dumps(config.agents["a"].params) == '{"x": ' + "[" * levels + "]" * levels + "}"


# Parameters of prompt agents


@pytest.mark.parametrize(
    ("param", "why"),
    [
        ("model: fast", "is no parameter: it is the agent's own `model`"),
        ("messages: []", "are no parameter: what the agent adds to them is its `context` and"),
        ("stream: false", "is no parameter: each client says whether"),
        ("temperature: hot", "Invalid type for 'temperature': expected a number, but got a string"),
        ("n: '2'", "Invalid type for 'n': expected an integer"),
        ("max_tokens: -1", "Invalid value for 'max_tokens': expected a value >= 0"),
        ("response_format: {}", "Missing required parameter: 'response_format.type'"),
    ],
)
def test_f1_a_prompt_agent_overrides_nothing_and_its_params_are_typed(param: str, why: str) -> None:
    head = f"{BASE}agents:\n  chef:\n    model: fast\n    params:\n      seed: 1\n      "
    (problem,) = problems(head + param)
    assert (problem.line, problem.path) == (8, f"agents.chef.params.{param.partition(':')[0]}")
    assert problem.text.startswith(why)


def test_f1_what_else_a_prompt_agent_says_is_its_operators() -> None:
    params = {"temperature": 0, "tools": [{"type": "function"}], "vendors": {"a": 1}, "n": None}
    config = parsed(f"{BASE}agents: {{chef: {{model: fast, params: {json.dumps(params)}}}}}")
    assert isinstance(agent := config.agents["chef"], PromptAgentEntry)
    assert agent.params == params


def test_f9_check_names_the_line_of_an_agent_that_is_none() -> None:
    text = b"agents:\n  shell:\n    use: os:system\n  of_c: {use: 'msgspec.json:encode'}\n"
    with pytest.raises(ConfigError) as caught:
        parse(text, "config.yaml", {}, KINDS, code=True)
    shell, of_c = caught.value.problems
    assert (shell.line, shell.path) == (3, "agents.shell.use")
    assert shell.text.startswith("os:system is a part of Python itself")
    assert (of_c.line, of_c.path) == (4, "agents.of_c.use")
    assert "is not written in Python" in of_c.text


# Secrets and admin keys


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = Secret("sk-canary")
    config = parsed(f"admin_keys: [{GOOD_KEY}]\nproviders: {{p: {{kind: openai, api_key: sk-canary}}}}\n"
                    "database_url: postgresql://u:sk-canary@h/d")  # fmt: skip
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r:>9}",
        repr(config),
        str(config),
        repr(config.providers),
    ]
    assert not [text for text in shown if "canary" in text or GOOD_KEY in text]
    assert secret.reveal() == "sk-canary"
    for encode in (json.dumps, msgspec.json.encode, msgspec.to_builtins):
        with pytest.raises(TypeError):
            encode(secret)


def test_secrets_compare_by_what_they_hold() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("\udcff")}) == 2
    assert Secret("\udcff") != Secret("b")
    assert bool(Secret("a")) and not Secret("")


GUESSED = [
    *("sk-1234567890123456", "0123456789abcdef", "zyxwvutsrqponmlk", "abcdefghijklmnop"),
    *("1111222233334444", "qwertyuiopasdfgh", "qazwsxedcrfvtgby", "1q2w3e4r5t6y7u8i"),
    *("a1b2c3d4e5f6g7h8", "deadbeefdeadbeef", "passw0rd-passw0rd", "P@ssw0rdP@ssw0rd!"),
    *("Password123456789", "hunter2hunter2hunter2", "admin1234admin5678", "thisisasecretkey"),
    *("correct-horse-battery-staple", "your-admin-key-here", "chattable-admin-2026"),
]
WEAK = [
    ("", "is empty"),
    ("admin", "is shorter"),
    ("changeme", "is shorter"),
    ("sk-1234", "is shorter"),
    ("fifteen-letters", "is shorter than 16 characters"),
    ("PASSWORDpassword", "is easy to guess"),
    ("change-me-please", "is easy to guess"),
    ("a" * 40, "is easy to guess"),
    ("abc" * 10, "is easy to guess"),
    ("changeme-changeme", "is easy to guess: well-known words, sequences and repetitions are"),
    *((key, "is easy to guess") for key in GUESSED),
    (GOOD_KEY + " ", "an HTTP header cannot carry"),
    (GOOD_KEY + "é", "an HTTP header cannot carry"),
]


@pytest.mark.parametrize(("key", "why"), WEAK)
def test_a_weak_admin_key_refuses_to_start(key: str, why: str) -> None:
    (problem,) = problems(
        f"server: {{}}\nadmin_keys:\n  - {GOOD_KEY}\n  - {json.dumps(key, ensure_ascii=False)}"
    )
    assert (problem.line, problem.path) == (4, "admin_keys[1]")
    assert re.search(why, problem.text)
    assert "make one: python3 -c" in problem.text
    ways: list[Callable[[dict[str, str]], Config]] = [
        lambda env: parsed("", env),
        lambda env: defaults(env, {}),
    ]
    for read_environment in ways:
        with pytest.raises(ConfigError, match=f"^environment: CHATTABLE_ADMIN_KEY: ({why}|holds)"):
            read_environment({"CHATTABLE_ADMIN_KEY": key})


@pytest.mark.parametrize("key", GUESSED)
def test_f9_an_admin_key_that_is_easy_to_guess_is_no_better_with_a_prefix(key: str) -> None:
    for spelt in (key.upper(), f"sk-{key}", f"{key}!", f"admin_{key}", key.title()):
        with pytest.raises(ValueError, match="is easy to guess"):
            admin_key(spelt)


@given(st.integers(0, 2**64))
def test_f9_random_admin_keys_are_taken(seed: int) -> None:
    chance = random.Random(seed)
    bits = chance.randbytes(16)
    letters = "".join(chance.choices(string.ascii_letters + string.digits, k=24))
    encoded = base64.urlsafe_b64encode(bits).decode().rstrip("=")
    identifier = str(uuid.UUID(bytes=bits))
    for key in (bits.hex(), identifier, encoded, f"sk-{encoded}", letters, letters.lower()):
        assert admin_key(key) == key


@given(st.text(max_size=600))
def test_f9_an_admin_key_is_taken_or_refused_in_words_that_do_not_show_it(key: str) -> None:
    try:
        assert admin_key(key) == key
    except ValueError as error:
        reason, _, _ = str(error).partition("; make one")
        reasons = {"is empty", "is shorter than 16 characters", "is easy to guess"}
        reasons |= {"holds what an HTTP header cannot carry"}
        assert reason.partition(":")[0] in reasons


def test_an_admin_key_whose_variable_is_empty_is_refused() -> None:
    (problem,) = problems('admin_keys: ["${NONE:-}"]')
    assert problem.text.startswith("is empty; make one")
    (problem,) = problems('admin_keys: ["${NONE}"]')
    assert problem.text.startswith("needs the environment variable NONE")


def test_the_suggested_command_makes_a_key_that_is_accepted() -> None:
    (problem,) = problems("admin_keys: [admin]")
    command = shlex.split(problem.text.partition("make one: ")[2])
    made = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()
    assert parsed(f"admin_keys: ['{made}']").admin_keys == (Secret(made),)


# Without a file


def test_defaults_serve_echo_and_every_vendor_whose_key_is_set() -> None:
    env = {"OPENAI_API_KEY": "sk-1", "DEEPSEEK_API_KEY": " ", "CHATTABLE_ADMIN_KEY": GOOD_KEY}
    config = defaults(
        env, {"openai": "OPENAI_API_KEY", "deepseek": "DEEPSEEK_API_KEY", "groq": "GROQ_API_KEY"}
    )
    assert config.providers == {
        "openai": Provider(kind="openai", api_key=Secret("sk-1"), discover=True)
    }
    assert config.models == {"openai/*": ModelEntry(provider="openai")}
    assert [agent.use for agent in config.agents.values() if isinstance(agent, CodeAgentEntry)] == [
        "chattable.agents.echo:Echo"
    ]
    assert config.admin_keys == (Secret(GOOD_KEY),)
    assert defaults({}, {"openai": "OPENAI_API_KEY"}).providers == {}
    assert defaults({}, {}).server == Config().server


# The shipped file, its schema and the manual


def test_the_shipped_file_loads_with_nothing_set() -> None:
    config = load(ROOT / "config.yaml", {}, KINDS)
    assert config.server == Config().server
    assert config.database_url == Config().database_url
    assert list(config.agents) == ["echo"]


def uncommented() -> str:
    """The shipped file with its examples switched on: they begin with a lowercase key, prose with a capital."""
    return re.sub(
        r'(?m)^( *)# (?!yaml-)(?= *(?:[a-z][\w-]*|"[^"]+"):(?: |$))',
        r"\1",
        (ROOT / "config.yaml").read_text(),
    )


def test_the_examples_in_the_shipped_file_are_right() -> None:
    env = {
        "CHATTABLE_ADMIN_KEY": GOOD_KEY,
        "OPENAI_API_KEY": "a",
        "DEEPSEEK_API_KEY": "b",
        "WEBHOOK_SECRET": GOOD_KEY,
    }
    config = parsed(uncommented(), env)
    assert list(config.providers) == ["openai", "deepseek", "vllm", "azure", "aws"]
    assert list(config.models) == ["gpt-4o-mini", "fast", "smart", "openai/*", "gpt-*"]
    assert list(config.agents) == ["echo", "chef"]
    assert config.providers["vllm"].timeouts == Timeouts()  # what it shows are the defaults


def test_the_shipped_file_mentions_every_setting() -> None:
    text = uncommented()
    assert [
        name for name in setting_names() if not re.search(rf"\b{name.rpartition('.')[2]}:", text)
    ] == []


def test_the_shipped_file_points_editors_to_the_schema() -> None:
    first = (ROOT / "config.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=./config.schema.json"


def test_the_schema_on_disk_is_the_one_the_structs_make() -> None:
    stored = (ROOT / "config.schema.json").read_text()
    make = (
        "python -c 'import json; from chattable.proxy.config.schema import schema; "
        "print(json.dumps(schema(), indent=2))'"
    )
    assert stored == json.dumps(schema(), indent=2) + "\n", (
        f"write it anew: {make} > config.schema.json"
    )
    assert json.loads(stored) == schema()


def test_the_schema_says_what_the_loader_does() -> None:
    made = schema()["$defs"]
    assert made["Config"]["additionalProperties"] is False
    assert (
        "type"
        not in made["CodeAgentEntry"]["properties"].keys()
        | made["PromptAgentEntry"]["properties"].keys()
    )
    assert (made["CodeAgentEntry"]["required"], made["PromptAgentEntry"]["required"]) == (
        ["use"],
        ["model"],
    )
    assert made["CodeAgentEntry"]["additionalProperties"] is True
    assert made["PromptAgentEntry"]["additionalProperties"] is False
    assert {"type": "string", "pattern": r"\$\{"} in made["Server"]["properties"]["port"]["anyOf"]
    assert {"type": "string"} in made["Timeouts"]["properties"]["total"]["anyOf"]
    described = [field for struct in made.values() for field in struct["properties"].values()]
    assert all("description" in field for field in described)


def test_settings_are_derived_from_the_structs() -> None:
    names = setting_names()
    assert len(names) == len(set(names))
    assert {"server.port", "database_url", "admin_keys", "providers.*.timeouts.total", "models.*.provider", "agents.*.use",
            "models.*.timeouts.total", "agents.*.limits.calls", "agents.*.params", "default_model"} <= set(names)  # fmt: skip
    assert not {"server", "models", "models.*", "agents.*.type"} & set(names)


# Anything at all


def test_paths_are_readable() -> None:
    assert dotted(()) == ""
    assert dotted(("models", "gpt-4.1", "provider")) == 'models."gpt-4.1".provider'
    assert dotted(("admin_keys", 0)) == "admin_keys[0]"
    assert "\n" not in dotted(("agents", "a\nb"))


def only_config_errors(data: bytes) -> None:
    try:
        config = parse(data, "config.yaml", ENV, KINDS)
    except ConfigError as error:
        assert error.problems
        lines = len(re.split(rb"\r\n|[\r\n]|\xc2\x85|\xe2\x80[\xa8\xa9]", data))
        assert all(0 <= problem.line <= lines for problem in error.problems)
        assert "\n" not in "".join(problem.path for problem in error.problems)
    else:
        assert isinstance(config, Config)


RELAXED = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)


@RELAXED
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    only_config_errors(data)


@RELAXED
@given(st.text(alphabet="abc:-?[]{}&*!|>'\"%@` \n\t#,.0159eE_~<=$\u2028\x85\ud7ff", max_size=80))
def test_any_yaml_is_read_or_refused(text: str) -> None:
    only_config_errors(text.encode())


KEYS = st.sampled_from(
    sorted({part for name in setting_names() for part in name.split(".")} | {"a", "openai", "x/*"})
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(), KEYS,
                    st.sampled_from(["${PORT}", "${NONE}", "${NIL}", "${WORD}", "5s", "*", "m:A", "http://h"]))  # fmt: skip
TREES = st.recursive(
    SCALARS,
    lambda some: st.lists(some, max_size=3) | st.dictionaries(KEYS, some, max_size=4),
    max_leaves=25,
)


@RELAXED
@given(st.dictionaries(KEYS, TREES, max_size=6))
def test_any_tree_of_our_own_keys_is_read_or_refused(tree: dict[str, object]) -> None:
    only_config_errors(yaml.safe_dump(tree, allow_unicode=True).encode(errors="replace"))


def test_reading_alone_gives_plain_values_and_their_lines() -> None:
    doc = read(b"a: 1\nb:\n  - x\n  - {c: ~}\n", "f", {})
    assert doc.value == {"a": 1, "b": ["x", {"c": None}]}
    assert [
        doc.line(where) for where in [("a",), ("b", 1), ("b", 1, "c"), ("b", 9, "z"), ("none",)]
    ] == [1, 4, 4, 2, 1]


def test_only_what_is_withheld_can_be_allowed() -> None:
    text = "providers: {{a: {{kind: openai, allow: {}}}}}"
    assert (
        parse(
            text.format("[service_tier, extra_body, anthropic_beta]").encode(),
            "c.yaml",
            {},
            VENDORS,
        )
        .providers["a"]
        .allow
    )
    with pytest.raises(ConfigError) as caught:
        parse(
            text.format("[service_tier, extra_bodyy, temperature]").encode(), "c.yaml", {}, VENDORS
        )
    assert "`extra_bodyy` is never withheld" in str(caught.value) and "extra_body" in str(
        caught.value
    )
    assert "providers.a.allow[2]" in str(caught.value) or "`temperature`" in str(caught.value)
