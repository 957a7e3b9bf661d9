"""The command `import-litellm`: what a LiteLLM config becomes, and what is said of the rest."""

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chattable.adapters.services import VENDORS
from chattable.proxy.config.document import ConfigError, read
from chattable.proxy.config.reader import parse
from chattable.proxy.config.setting_types import Secret
from chattable.proxy.config.settings import Config
from chattable.proxy.importers.litellm.convert import Converted, convert
from chattable.proxy.importers.litellm.providers import COMPATIBLE, FOREIGN, KINDS
from chattable.proxy.importers.litellm.reasons import why
from chattable.proxy.importers.litellm.report import SettingOutcome, general

SAMPLES = Path(__file__).parent / "litellm"
SMALL, LARGE = (SAMPLES / f"{name}.yaml" for name in ("small", "large"))
SECRETS = ("orchid", "tulip", "violet", "lily", "rose", "daisy", "peony", "marigold")


def converted(text: str) -> Converted:
    return convert(text.encode(), "proxy.yaml")


def loaded(made: Converted, **env: str) -> Config:
    """What our own loader makes of the made file."""
    return parse(made.text.encode(), "config.yaml", made.source.variables.examples | env, VENDORS)


def entry(params: str, name: str = "m") -> str:
    """An item of `model_list`."""
    return f"{{model_name: {name}, litellm_params: {{{params}}}}}"


def one(params: str, rest: str = "", name: str = "m", **env: str) -> Config:
    """The config of one deployment."""
    return loaded(
        converted(f'model_list: [{{model_name: "{name}", litellm_params: {{{params}}}{rest}}}]'),
        **env,
    )


def noted(made: Converted) -> dict[str, tuple[SettingOutcome, str]]:
    return {general(where): (note[0], note[1]) for where, note in made.source.notes.all().items()}


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as found:
        converted(text)
    return str(found.value)


@pytest.fixture(scope="module")
def large() -> Converted:
    return convert(LARGE.read_bytes(), "large.yaml")


# -- the command -----------------------------------------------------------------------------------


def run(folder: Path, *arguments: str, code: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chattable.proxy", "import-litellm", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=folder)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_what_is_taken_whole_ends_with_0_and_is_served_as_it_was(tmp_path: Path) -> None:
    done = run(tmp_path, str(SMALL), code=0)
    config = parse(
        done.stdout.encode(), "made", {"OPENAI_API_KEY": "a", "ANTHROPIC_API_KEY": "b"}, VENDORS
    )
    assert config.models["gpt-4o"].fallbacks == ("anthropic/claude-sonnet-4-5",)
    assert config.models["anthropic/*"].provider == "anthropic"
    openai = config.providers["openai"]
    assert (openai.kind, openai.api_key, openai.retries, openai.timeouts.total) == (
        "openai",
        Secret("a"),
        2,
        30.0,
    )
    assert (
        "No counterpart" not in done.stderr and "ANTHROPIC_API_KEY, OPENAI_API_KEY" in done.stderr
    )


def test_what_is_left_ends_with_3_and_the_made_file_passes_check(tmp_path: Path) -> None:
    done = run(tmp_path, str(LARGE), "-o", "made.yaml", code=3)
    assert done.stdout == "" and "No counterpart:" in done.stderr
    assert not [
        secret for secret in SECRETS if secret in done.stderr + (tmp_path / "made.yaml").read_text()
    ]
    names = re.findall(r"\$\{(\w+)\}", (tmp_path / "made.yaml").read_text())
    env = dict.fromkeys(names, "Rz5-kM8w_Q2vN7tJc") | {
        "AZURE_US_BASE": "https://us.example",
        "REDIS_PORT": "6379",
    }
    env |= {"DATABASE_URL": "postgresql://db.example/ours"}
    check = subprocess.run(
        [sys.executable, "-m", "chattable.proxy", "check", "--config", "made.yaml"],
        capture_output=True, text=True, timeout=30, cwd=tmp_path, env=env,
    )  # fmt: skip
    assert check.returncode == 0, check.stderr
    assert (
        "model  claude → anthropic/claude-sonnet-4-5  $3 / $15 per million tokens" in check.stdout
    )
    assert "       else claude, house" not in check.stdout and "       else claude" in check.stdout


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("precious")
    done = run(tmp_path, str(SMALL), "-o", "config.yaml", code=1)
    assert done.stderr == "config.yaml: is there already; move it away, or name another file\n"
    assert (tmp_path / "config.yaml").read_text() == "precious"
    assert "cannot be written" in run(tmp_path, str(SMALL), "-o", "no/folder.yaml", code=1).stderr
    assert (
        run(tmp_path, "none.yaml", code=1).stderr
        == "none.yaml: cannot be read: No such file or directory\n"
    )


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "proxy.yaml:1: model_list: is empty: there is nothing to serve"),
        ("model_list: []", "proxy.yaml:1: model_list: is empty"),
        ("model_list: {a: b}", "proxy.yaml:1: model_list: must be a list"),
        ("model_list: [5]", "proxy.yaml:1: model_list[0]: must be a mapping"),
        ("- a", "must hold settings"),
        ("model_list: [{]", "proxy.yaml:1: column"),
        ("model_list: !include models.yaml", "has the tag !include, which is not allowed here"),
        ("a: 1\na: 2\n", "proxy.yaml:2: a: is set twice; the first is on line 1"),
        (
            "include: [models.yaml]",
            "proxy.yaml:1: include: other files are not read; "
            "put what they hold into this one first",
        ),
        (
            "model_list:\n- litellm_params: {model: gpt-4o}",
            "proxy.yaml:2: model_list[0].model_name: is missing",
        ),
        (
            "model_list:\n- model_name: a",
            "proxy.yaml:2: model_list[0].litellm_params.model: is missing",
        ),
        (
            "model_list:\n- {model_name: a, litellm_params: {model: 4}}",
            "litellm_params.model: must be text; put it in quotes",
        ),
        (
            'model_list:\n- {model_name: " a", litellm_params: {model: gpt-4o}}',
            "is no name: it holds odd spaces",
        ),
        (
            f"model_list:\n- {entry('model: gpt-4o, rpm: many')}",
            ":2: model_list[0].litellm_params.rpm: must be a number",
        ),
        (
            f"model_list:\n- {entry('model: gpt-4o, litellm_credential_name: b')}",
            "there is no such entry in `credential_list`",
        ),
        (
            f"model_list: [{entry('model: gpt-4o')}]\nrouter_settings: [a]",
            ":2: router_settings: must be a mapping",
        ),
        (
            f"model_list: [{entry('model: gpt-4o')}]\nlitellm_settings: {{cache: 7}}",
            "must be true or false",
        ),
        (
            f"model_list:\n- {entry('model: vertex_ai/x')}",
            "none of these models can be taken\nproxy.yaml:2: ",
        ),
        (
            f"model_list: [{entry('model: azure/x, api_version: 2024-10-21')}]",
            "is a date in YAML; put it in quotes",
        ),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(text: str, told: str) -> None:
    assert told in refused(text)


def test_a_refusal_does_not_show_a_secret() -> None:
    told = refused(
        "model_list: [{model_name: a, litellm_params: {model: x/y, api_base: "
        "'https://me:orchid@h/v1'}}]"
    )
    told += refused(f"model_list: [{entry('model: gpt-4o, api_key: [tulip]')}]")
    assert (
        "must not hold a user or password" in told
        and "must be text" in told
        and not re.search("orchid|tulip", told)
    )


# -- the report ------------------------------------------------------------------------------------


def leaves(value: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    parts = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [place for key, part in parts for place in leaves(part, (*where, key))] or [where]


def assert_whole(made: Converted) -> None:
    """Every value of the input is under exactly one place of the report."""
    places = made.source.notes.all()
    for leaf in leaves(made.source.doc.value):
        above = [leaf[:depth] for depth in range(len(leaf) + 1) if leaf[:depth] in places]
        assert len(above) == 1, (leaf, above)


def test_every_value_is_reported_once_with_its_line(large: Converted) -> None:
    assert_whole(large)
    lines = LARGE.read_text().splitlines()
    report = "\n".join(large.report("large.yaml"))
    for where in large.source.notes.all():
        name = str([part for part in where if isinstance(part, str)][-1])
        number = large.source.doc.line(where)
        assert name in lines[number - 1] or isinstance(where[-1], int), where
        assert re.search(rf"lines? (\d+, )*{number}(, \d+)*: ", report)


@pytest.mark.parametrize(
    ("path", "outcome", "text"),
    [
        ("model_list[].model_name", SettingOutcome.TAKEN, ""),
        (
            "model_list[].litellm_params.rpm",
            SettingOutcome.CHANGED,
            "is its share of the calls; the limits of a name's",
        ),
        (
            "model_list[].litellm_params.tpm",
            SettingOutcome.CHANGED,
            "limits nothing, for others of that name have no limit",
        ),
        (
            "model_list[].litellm_params.temperature",
            SettingOutcome.LEFT,
            "clients send it, or an agent",
        ),
        ("model_list[]", SettingOutcome.LEFT, "a name may hold one `*`, at its end"),
        (
            "model_list[].model_info.base_model",
            SettingOutcome.LEFT,
            "set `price` and `context_length`",
        ),
        ("credential_list[]", SettingOutcome.LEFT, "no deployment uses it"),
        ("litellm_settings.num_retries", SettingOutcome.LEFT, "what `router_settings` says counts"),
        ("litellm_settings.content_policy_fallbacks", SettingOutcome.LEFT, "nobody else is asked"),
        (
            "litellm_settings.max_budget",
            SettingOutcome.LEFT,
            "POST /admin/budgets with the subject `everyone`",
        ),
        ("litellm_settings.cache", SettingOutcome.CHANGED, "`scope: shared` as in LiteLLM"),
        (
            "router_settings.fallbacks[].google",
            SettingOutcome.LEFT,
            "no model of that name is taken",
        ),
        (
            "router_settings.model_group_alias.gone",
            SettingOutcome.LEFT,
            "no model of that name is taken",
        ),
        ("router_settings.model_group_alias.quiet", SettingOutcome.CHANGED, "all models are shown"),
        ("router_settings.cooldown_time", SettingOutcome.LEFT, "rests by itself"),
        (
            "environment_variables.LANGFUSE_SECRET_KEY",
            SettingOutcome.LEFT,
            "set it where the server starts",
        ),
        ("guardrails", SettingOutcome.LEFT, "an agent of your own"),
    ],
)
def test_what_became_of_a_setting(
    path: str, outcome: SettingOutcome, text: str, large: Converted
) -> None:
    found, said = noted(large)[path]
    assert found is outcome and text in said


def test_secrets_become_variables_that_are_named(large: Converted) -> None:
    made = {variable.name: variable.line for variable in large.source.variables.made}
    assert set(made) == {
        "CLAUDE_KEY",
        "SHARED_KEY",
        "ROCK_AWS_SECRET_ACCESS_KEY",
        "REDIS_PASSWORD",
        "CHATTABLE_ADMIN_KEY",
        "DATABASE_URL",
    }
    assert "sk-ant-orchid" in LARGE.read_text().splitlines()[made["CLAUDE_KEY"] - 1]
    report = "\n".join(large.report("large.yaml"))
    assert f"  CLAUDE_KEY: the secret (line {made['CLAUDE_KEY']})" in report
    assert not [secret for secret in SECRETS if secret in report + large.text]


def test_two_secrets_are_two_variables_and_one_is_one() -> None:
    made = converted(
        "model_list:\n"
        "- {model_name: a, litellm_params: {model: gpt-4o, api_key: rose}}\n"
        "- {model_name: a, litellm_params: {model: gpt-4o, api_key: lily}}\n"
        "- {model_name: b, litellm_params: {model: gpt-4o, api_key: rose}}\n"
        "- {model_name: c, litellm_params: {model: gpt-4o, api_key: os.environ/A_KEY}}\n"
    )
    config = loaded(made, A_KEY="0", A_KEY_2="1", A_KEY_3="2")
    keys = {
        name: key.reveal()
        for name, provider in config.providers.items()
        if (key := provider.api_key)
    }
    assert [keys[target.provider] for target in config.models["a"].targets] == ["1", "2"]
    assert (keys[config.models["b"].provider], keys[config.models["c"].provider]) == ("1", "0")


@pytest.mark.parametrize(
    "where, told",
    [
        (("general_settings", "store_model_in_db"), "restart the server"),
        (("model_list", 0, "model_info", "input_cost_per_second"), "long prompts and pictures"),
    ],
)
def test_reasons_say_what_this_server_does(where: tuple[str | int, ...], told: str) -> None:
    assert told in why(where)


# -- providers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", sorted(KINDS.keys() | COMPATIBLE.keys()))
def test_every_known_prefix_is_served(prefix: str) -> None:
    config = one(f"model: {prefix}/some-model")
    entry = config.models["m"]
    provider = config.providers[entry.provider]
    assert provider.kind == KINDS.get(prefix, "openai")
    assert (entry.model or "").endswith("some-model")
    vendor = VENDORS[provider.kind]
    assert not [field for field, _ in vendor.mistakes(provider.base_url, {}) if field == "base_url"]


@pytest.mark.parametrize("prefix", sorted(FOREIGN))
def test_what_has_no_kind_is_left_even_with_an_address(prefix: str) -> None:
    assert f"`{prefix}/` " in refused(
        f"model_list: [{{model_name: a, litellm_params: {{model: {prefix}/x, api_base: "
        f"'http://h/v1'}}}}]"
    )


@pytest.mark.parametrize(
    ("params", "kind", "base", "model"),
    [
        ("model: gpt-4o", "openai", None, "gpt-4o"),
        ("model: claude-sonnet-4-5", "anthropic", None, "claude-sonnet-4-5"),
        ("model: openai/responses/gpt-5", "openai", None, "gpt-5"),
        ("model: openai/gpt-4o, api_base: 'https://api.openai.com/v1/'", "openai", None, "gpt-4o"),
        ("model: openrouter/openai/gpt-4o", "openrouter", None, "openai/gpt-4o"),
        ("model: fireworks_ai/llama-v3", "fireworks", None, "accounts/fireworks/models/llama-v3"),
        (
            "model: anthropic/c, api_base: 'https://gate.example'",
            "anthropic",
            "https://gate.example/v1",
            "c",
        ),
        (
            "model: anthropic/c, api_base: 'https://gate.example/v1/messages'",
            "anthropic",
            "https://gate.example/v1",
            "c",
        ),
        (
            "model: anthropic/c, api_base: os.environ/GATE",
            "anthropic",
            "https://set.example/v1",
            "c",
        ),
        (
            "model: gemini/g, api_base: 'https://gate.example'",
            "gemini",
            "https://gate.example/v1beta",
            "g",
        ),
        (
            "model: azure/d, api_base: 'https://r.example/openai/deployments/d'",
            "azure",
            "https://r.example",
            "d",
        ),
        (
            "model: openai/x, base_url: 'http://h:1/v1/chat/completions'",
            "openai",
            "http://h:1/v1",
            "x",
        ),
        (
            "model: org/x, custom_llm_provider: hosted_vllm, api_base: 'http://h:1/v1'",
            "vllm",
            "http://h:1/v1",
            "org/x",
        ),
        ("model: strange/x, api_base: 'http://h:1/v1'", "openai", "http://h:1/v1", "x"),
        (
            "model: huggingface/org/x, api_base: 'https://hf.example'",
            "openai",
            "https://hf.example/v1",
            "org/x",
        ),
        (
            "model: bedrock/invoke/a.c, aws_bedrock_runtime_endpoint: 'https://b.example'",
            "bedrock",
            "https://b.example",
            "a.c",
        ),
    ],
)
def test_where_a_model_is_served(params: str, kind: str, base: str | None, model: str) -> None:
    config = one(params, GATE="https://set.example")
    provider = config.providers[config.models["m"].provider]
    assert (provider.kind, provider.base_url, config.models["m"].model) == (kind, base, model)


@pytest.mark.parametrize(
    ("params", "key"),
    [
        ("model: gpt-4o, api_key: os.environ/MINE", "mine"),
        ("model: gpt-4o", "openai's"),
        ("model: gpt-4o, api_key: sk-literal", "made"),
        ("model: openai/x, api_base: 'http://h/v1', api_key: none", None),
        ("model: openai/x, api_base: 'http://h/v1', api_key: os.environ/mine-2", "renamed"),
        ("model: hosted_vllm/x, api_base: 'http://h/v1'", None),
        (
            "model: bedrock/x, aws_access_key_id: os.environ/ID, "
            "aws_secret_access_key: os.environ/SEC",
            "id:sec",
        ),
        ("model: bedrock/x, api_key: os.environ/MINE", "mine"),
    ],
)
def test_whose_key_is_sent(params: str, key: str | None) -> None:
    config = one(
        params,
        MINE="mine",
        OPENAI_API_KEY="openai's",
        M_KEY="made",
        MINE_2="renamed",
        ID="id",
        SEC="sec",
    )
    assert config.providers[config.models["m"].provider].api_key == (
        None if key is None else Secret(key)
    )


def test_a_server_of_ones_own_needs_no_key() -> None:
    made = converted(
        "model_list: [{model_name: m, litellm_params: {model: openai/x, api_base: 'http://h/v1'}}]"
    )
    config = parse(made.text.encode(), "made", {}, VENDORS)
    assert not config.providers["openai-h"].api_key


@pytest.mark.parametrize(
    ("params", "option", "value"),
    [
        ("model: bedrock/x, aws_region_name: os.environ/WHERE", "region", "eu-west-1"),
        ("model: bedrock/x", "region", "us-west-2"),
        ("model: bedrock/x, aws_region_name: mars", "region", "us-west-2"),
        ("model: azure/x, api_version: 2024-06-01-preview", "api_version", "2024-06-01-preview"),
        ("model: azure/x, api_version: '2 3'", "api_version", ""),
        ("model: gpt-4o, drop_params: false", "unsupported", "reject"),
    ],
)
def test_what_only_some_kinds_have(params: str, option: str, value: str) -> None:
    made = converted(f"model_list: [{entry(params)}]")
    env = made.source.variables.examples | {"WHERE": "eu-west-1"}
    env.pop("AWS_REGION_NAME", None)
    (provider,) = parse(made.text.encode(), "made", env, VENDORS).providers.values()
    assert getattr(provider, option) == value


def test_what_holds_for_all_providers() -> None:
    wild, plain = entry('model: "groq/*"', '"groq/*"'), entry("model: gpt-4o, drop_params: true")
    config = loaded(
        converted(
            f"model_list: [{wild}, {plain}]\n"
            "litellm_settings: {drop_params: false, check_provider_endpoint: true}"
        )
    )
    assert {name: (p.unsupported, p.discover) for name, p in config.providers.items()} == {
        "groq": ("reject", True),
        "openai": ("drop", False),
    }


def test_each_kind_address_and_key_is_one_provider(large: Converted) -> None:
    config = loaded(large)
    entries = yaml.safe_load(large.text)["providers"].values()
    assert not [entry for entry in entries if list(entries).count(entry) > 1]
    assert config.models["claude"].provider == config.models["cool-claude"].provider == "anthropic"
    assert {
        "azure-acme-eu",
        "vllm-10.0.0.5-8000",
        "ollama-native-localhost-11434",
        "bedrock",
    } <= set(config.providers)


# -- models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "model", "asked", "upstream"),
    [
        ("openai/*", "openai/*", "openai/gpt-4o", "gpt-4o"),
        ("gpt-*", "openai/gpt-*", "gpt-4o", "gpt-4o"),
        ("*", "openai/*", "gpt-4o", "gpt-4o"),
        ("*", "*", "gpt-4o", "gpt-4o"),
        ("any-*", "openai/gpt-4o", "any-thing", "gpt-4o"),
        ("plain", "openai/gpt-4o", "plain", "gpt-4o"),
        ("gpt-4o", "gpt-4o", "gpt-4o", "gpt-4o"),
        ("a ${b", "openai/${b", "a ${b", "${b"),
    ],
)
def test_what_a_name_is_called_upstream(name: str, model: str, asked: str, upstream: str) -> None:
    entry = one(f'model: "{model}"', name=name).models[name]
    assert entry.served_by()[0].upstream(name, asked) == upstream


def test_prices_lengths_and_limits(large: Converted) -> None:
    config = loaded(large)
    claude = config.models["claude"]
    assert claude.price is not None
    assert (claude.price.input, claude.price.output, claude.price.cached) == (3, 15, 0.3)
    assert (claude.context_length, claude.max_output, claude.retries) == (200_000, 64_000, 5)
    assert config.rate_limits.models["chat"].requests_per_minute == 90
    assert config.rate_limits.models["chat"].tokens_per_minute is None


def test_half_a_price_is_completed_by_what_is_known() -> None:
    price = one("model: gpt-4o-mini, input_cost_per_token: 1e-6").models["m"].price
    assert price is not None and (price.input, price.output) == (1, 0.6)


def test_what_is_written_to_a_cache_keeps_its_price() -> None:
    cost = "cache_creation_input_token_cost"
    price = one(f"model: gpt-4o, {cost}: 3.75e-6, {cost}_above_1hr: 6e-6").models["m"].price
    assert price is not None and (price.cache_write, price.cache_write_1h) == (3.75, 6)


def test_what_a_long_prompt_costs_is_kept() -> None:
    usual, long = (
        "input_cost_per_token: 1e-6, output_cost_per_token: 2e-6",
        "cost_per_token_above_200k_tokens",
    )
    price = (
        one(
            f"model: openai/x, {usual}, input_{long}: 3e-6, "
            "input_cost_per_token_above_256k_tokens: 4e-6"
        )
        .models["m"]
        .price
    )
    assert price is not None and price.long is not None
    assert (price.long.above, price.long.input, price.long.output) == (200_000, 3, 2)
    price = one(f"model: gpt-4o, output_{long}: 12e-6").models["m"].price
    assert price is not None and price.long is not None
    assert (price.input, price.output, price.long.input, price.long.output) == (2.5, 10, 2.5, 12)


def test_what_a_picture_costs_is_kept() -> None:
    price = one("model: dall-e-3, output_cost_per_image: 0.04").models["m"].price
    assert price is not None and (price.image, price.input, price.long) == (0.04, 0, None)


@pytest.mark.parametrize(
    ("first", "second", "strategy", "weights"),
    [
        ("weight: 3, rpm: 1", "weight: 1, rpm: 9", "", (3, 1)),
        ("rpm: 6, tpm: 1", "rpm: 60", "", (6, 60)),
        ("tpm: 5000000", "tpm: 1000000", "simple-shuffle", (1e6, 2e5)),
        ("rpm: '6'", "timeout: 5", "", (6, 0)),
        ("timeout: 5", "timeout: 6", "simple-shuffle", (1, 1)),
        ("timeout: 5", "timeout: 6", "", (None, None)),
        ("weight: 3", "weight: 1", "least-busy", (None, None)),
        ("rpm: 3", "rpm: 1", "usage-based-routing-v2", (None, None)),
    ],
)
def test_shares_of_several_deployments(
    first: str, second: str, strategy: str, weights: tuple[float | None, ...]
) -> None:
    made = converted(
        f"model_list:\n- {{model_name: m, litellm_params: {{model: gpt-4o, {first}}}}}\n"
        f"- {{model_name: m, litellm_params: {{model: gpt-4.1, {second}}}}}\n"
        f"router_settings: {{routing_strategy: {strategy}}}\n"
    )
    assert tuple(target.weight for target in loaded(made).models["m"].targets) == weights


def test_timeouts_and_retries_are_the_longest_of_a_name() -> None:
    made = converted(
        "model_list:\n"
        "- {model_name: m, litellm_params: {model: gpt-4o, timeout: 0.5, num_retries: 99}}\n"
        "- {model_name: m, litellm_params: {model: gpt-4.1, timeout: 90, stream_timeout: 7}}\n"
        "litellm_settings: {request_timeout: 33, num_retries: 1}\n"
    )
    model = loaded(made).models["m"]
    assert model.timeouts is not None and (
        model.timeouts.total,
        model.timeouts.first_token,
        model.retries,
    ) == (90, 7, 10)
    assert {
        (p.timeouts.total, p.timeouts.first_token, p.retries)
        for p in loaded(made).providers.values()
    } == {(33, 33, 1)}
    assert noted(made)["model_list[].litellm_params.num_retries"] == (
        SettingOutcome.CHANGED,
        "there are at most 10",
    )


# -- routing and the rest --------------------------------------------------------------------------


def test_fallbacks_lead_to_models_and_never_back(large: Converted) -> None:
    models = loaded(large).models
    found = {name: ", ".join(model.fallbacks) for name, model in models.items()}
    assert found == {
        "chat": "claude",
        "gpt-4": "claude",
        "shared": "claude",
        "quiet": "claude",
        "claude": "house",
        "house": "",
        "cool-claude": "house",
        "search": "house",
        "odd": "house",
        "rock": "house",
    }
    told = [note.text for note in large.source.notes.all().values()]
    assert "would lead back to `claude`: fallbacks may not go in a circle" in told
    assert "no model `nowhere` is taken" in told


def test_an_alias_has_the_same_targets(large: Converted) -> None:
    models = loaded(large).models
    assert models["gpt-4"].targets == models["chat"].targets
    assert models["quiet"].model == "gpt-4o-mini"
    made = converted(
        f"model_list: [{entry('model: gpt-4o', 'gpt-4o')}]\n"
        "router_settings: {model_group_alias: {a: gpt-4o}}"
    )
    assert loaded(made).models["a"].model == "gpt-4o"


def test_database_redis_cache_and_budget(large: Converted) -> None:
    config = loaded(
        large, DATABASE_URL="postgresql://ours/db", REDIS_PASSWORD="pw", REDIS_PORT="7000"
    )
    assert config.database_url == "postgresql://ours/db"
    assert config.redis_url == "redis://:pw@redis.acme.example:7000"
    assert config.cache is not None and (
        config.cache.ttl,
        config.cache.scope,
        config.cache.enabled,
    ) == (600, "shared", True)
    assert config.budgets.default is not None
    assert (config.budgets.default.cost_usd, config.budgets.default.per) == (5, "month")
    assert (config.default_model, config.server.max_body_mb) == ("chat", 50)


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ("redis_url: 'redis://h:1'", "redis://h:1"),
        ("redis_url: 'redis://:rose@h:1'", "redis://set"),
        ("redis_url: os.environ/MY_REDIS", "redis://mine"),
        ("redis_host: h", "redis://h:6379"),
        ("redis_host: h, redis_port: 1, redis_db: 2, redis_ssl: true", "rediss://h:1/2"),
    ],
)
def test_redis_is_one_url(settings: str, url: str) -> None:
    made = converted(f"model_list: [{entry('model: gpt-4o')}]\nrouter_settings: {{{settings}}}")
    assert loaded(made, REDIS_URL="redis://set", MY_REDIS="redis://mine").redis_url == url
    assert "rose" not in made.text


@pytest.mark.parametrize(
    ("settings", "enabled"),
    [
        ("cache: false", None),
        ("cache_params: {type: redis}", None),
        ("cache: true", True),
        ("cache: true, cache_params: {type: s3, s3_bucket_name: b}", True),
        ("cache: true, cache_params: {mode: default_off}", False),
    ],
)
def test_when_answers_are_kept(settings: str, enabled: bool | None) -> None:
    cache = loaded(
        converted(f"model_list: [{entry('model: gpt-4o')}]\nlitellm_settings: {{{settings}}}")
    ).cache
    assert (None if cache is None else cache.enabled) is enabled


# -- whatever is in it -----------------------------------------------------------------------------

WORDS = sorted(
    set(re.findall(r"[a-z_]{2,}", LARGE.read_text()))
    | {"order", "redis_host", "redis_url", "azure/x", "azure/", "*", "a*b", "openai/*", "${x}"}
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 10**12)
    | st.floats(0, 1e9)
    | st.sampled_from(WORDS)
    | st.text(max_size=8)
    | st.sampled_from(
        ["os.environ/A", "os.environ/b-c", "https://h.example/v1", "redis://h", "10", "5s"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    ),
    max_leaves=6,
)


@st.composite
def mutilated(draw: st.DrawFn) -> dict[str, Any]:
    """The large sample with some values put in, exchanged or taken away."""
    value = yaml.safe_load(LARGE.read_text())
    for _ in range(draw(st.integers(1, 4))):
        place, holder = draw(st.sampled_from(leaves(value))), value
        for part in place[: draw(st.integers(0, max(0, len(place) - 1)))]:
            holder = holder[part]
        if isinstance(holder, dict):
            key = draw(st.sampled_from([*holder, *WORDS]))
            holder[key] = draw(VALUES)
        elif isinstance(holder, list):
            holder.insert(draw(st.integers(0, len(holder))), draw(VALUES))
    return value


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutilated())
def test_any_file_is_converted_whole_or_refused_with_a_line(value: dict[str, Any]) -> None:
    text = yaml.safe_dump(value, allow_unicode=True)
    try:
        made = converted(text)
    except ConfigError as error:
        assert all(problem.file == "proxy.yaml" and problem.line for problem in error.problems), (
            error
        )
        return
    assert_whole(made)
    assert loaded(made).models


def test_numbers_are_written_as_numbers() -> None:
    made = converted(
        "model_list: [{model_name: m, litellm_params: "
        "{model: gpt-4o, input_cost_per_token: 1.2345e-7}}]"
    )
    price = read(made.text.encode(), "made", made.source.variables.examples).value["models"]["m"][
        "price"
    ]
    assert math.isclose(price["input"], 0.12345)
