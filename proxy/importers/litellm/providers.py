"""Which provider serves a deployment of LiteLLM, by its prefix, address and key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from chattable.adapters.services import VENDORS
from chattable.proxy.config import setting_types as values
from chattable.proxy.importers.litellm.source import (
    SECRET,
    InputMapping,
    Variables,
    escaped,
    is_reference,
)

KINDS = {  # LiteLLM's prefix → our kind
    "openai": "openai", "custom_openai": "openai", "text-completion-openai": "openai",
    "openai_like": "openai",
    "litellm_proxy": "openai", "anthropic": "anthropic", "azure": "azure", "azure_text": "azure",
    "bedrock": "bedrock",
    "bedrock_converse": "bedrock", "gemini": "gemini", "ollama": "ollama-native",
    "ollama_chat": "ollama-native",
    "deepseek": "deepseek", "fireworks_ai": "fireworks", "groq": "groq", "hosted_vllm": "vllm",
    "lm_studio": "lmstudio",
    "mistral": "mistral", "moonshot": "moonshot", "openrouter": "openrouter",
    "together_ai": "together", "xai": "xai",
}  # fmt: skip
# prefixes that speak OpenAI's API at an address that LiteLLM knows: it, and the variable of the key
COMPATIBLE = {
    "ai21_chat": ("https://api.ai21.com/studio/v1", "AI21_API_KEY"),
    "cerebras": ("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "codestral": ("https://codestral.mistral.ai/v1", "CODESTRAL_API_KEY"),
    "deepinfra": ("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "friendliai": ("https://api.friendli.ai/serverless/v1", "FRIENDLIAI_API_KEY"),
    "github": ("https://models.inference.ai.azure.com", "GITHUB_API_KEY"),
    "huggingface": ("https://router.huggingface.co/v1", "HF_TOKEN"),
    "meta_llama": ("https://api.llama.com/compat/v1", "LLAMA_API_KEY"),
    "nvidia_nim": ("https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"),
    "perplexity": ("https://api.perplexity.ai", "PERPLEXITYAI_API_KEY"),
    "sambanova": ("https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY"),
    "volcengine": ("https://ark.cn-beijing.volces.com/api/v3", "VOLCENGINE_API_KEY"),
}
_GOOGLE = (
    "signs in with Google Cloud, which is not spoken; kind gemini serves Gemini with an API key"
)
_OWN = "speaks an API of its own, for which there is no kind"
FOREIGN = {
    "vertex_ai": _GOOGLE, "vertex_ai_beta": _GOOGLE, "aleph_alpha": _OWN, "anthropic_text": _OWN,
    "cohere": _OWN,
    "cohere_chat": _OWN, "nlp_cloud": _OWN, "oobabooga": _OWN, "petals": _OWN, "predibase": _OWN,
    "replicate": _OWN,
    "sagemaker": _OWN, "sagemaker_chat": _OWN, "snowflake": _OWN, "triton": _OWN, "watsonx": _OWN,
    "vllm": "runs vLLM inside LiteLLM; start it as a server: kind vllm",
}  # fmt: skip
ROUTES = {  # parts of a name that choose an endpoint, not a model
    "openai": ("responses/",), "azure": ("responses/", "o_series/", "gpt5_series/"),
    "bedrock": ("converse/", "invoke/", "converse_like/"),
}  # fmt: skip
NO_KEYS = {
    "none",
    "null",
    "empty",
    "dummy",
    "fake",
    "fake-key",
    "anything",
    "n/a",
    "no-key",
    "not-needed",
    "placeholder",
    "x",
}
OPENAI_NAMES = re.compile(
    r"\*|(gpt|o\d|chatgpt|codex|ft:|text-|dall-e|whisper|tts|omni-|davinci|babbage)\b.*"
)
URL, REGION, VERSION = "https://placeholder.example/v1", "us-east-1", "2024-10-21"
DULL = {
    "api",
    "www",
    "com",
    "net",
    "org",
    "io",
    "ai",
    "key",
    "base",
    "url",
    "v1",
    "token",
    "secret",
    "host",
    "inference",
}


class NoCounterpart(Exception):
    """A deployment that cannot be taken; the text says why."""


class DeploymentProvider(NamedTuple):
    """Where a deployment is served."""

    provider: dict[str, Any]
    model: str
    guesses: list[str]


def provider_of(name: str, params: InputMapping) -> DeploymentProvider:
    """The provider of a deployment, in our settings, and what the model is called there.

    Raises `NoCounterpart`.
    """
    address = params.first("api_base", "base_url", "aws_bedrock_runtime_endpoint")
    prefix, model = _prefix_and_model(params, has_address=params.has(address))
    kind = KINDS.get(prefix, "openai")
    made = DeploymentProvider({"kind": kind}, _bare(kind, model, params), [])
    _tell_guessed_kind(kind, prefix, params, made.guesses)
    params.taken("model", "custom_llm_provider")
    base = _address(kind, prefix, address, params, made.guesses)
    if kind == "bedrock":
        key: str | None = _bedrock_key(params, name, made.guesses)
    else:
        key = _key(kind, prefix, base, params, name, made.guesses)
    if base:
        made.provider["base_url"] = base
    if key:
        made.provider["api_key"] = key
    _options(kind, params, made)
    return made


def _prefix_and_model(params: InputMapping, *, has_address: bool) -> tuple[str, str]:
    """LiteLLM's prefix of a deployment and the rest of its name, if it can be served."""
    full = params.text("model") or ""
    if is_reference(full):
        raise NoCounterpart(
            "which model it is says a variable, so its provider is not known; write the name"
        )
    prefix, model = _split(full, params.text("custom_llm_provider"))
    if not model:
        raise NoCounterpart("its `model` names a provider and no model")
    if prefix in FOREIGN:
        raise NoCounterpart(f"`{prefix}/` {FOREIGN[prefix]}")
    if prefix not in KINDS and prefix not in COMPATIBLE and not has_address:
        raise NoCounterpart(
            f"there is no kind for `{prefix}/`; if it speaks OpenAI's API: kind openai, "
            "with its `base_url`"
        )
    return prefix, model


def _tell_guessed_kind(kind: str, prefix: str, params: InputMapping, guesses: list[str]) -> None:
    if prefix not in KINDS:
        guesses.append(f"`{prefix}/` is taken to speak OpenAI's API")
        params.changed("model", f"`{prefix}/` is taken to speak OpenAI's API: kind openai")
        return
    full = params.text("model") or ""
    told = "/" in full or params.has("custom_llm_provider") or OPENAI_NAMES.fullmatch(full)
    if kind == "openai" and not told:
        guesses.append("its name tells no provider: it is taken to be OpenAI's")
        params.changed("model", "the name tells no provider: it is taken to be OpenAI's")


def _split(model: str, given: str | None) -> tuple[str, str]:
    """A name's provider and the rest of it."""
    head, slash, rest = model.partition("/")
    if given:
        return given, rest if slash and head == given else model
    if slash:
        return head, rest
    if model.startswith("claude"):
        return "anthropic", model
    if model.startswith("gemini"):
        return "vertex_ai", model
    return "openai", model


def _bare(kind: str, model: str, params: InputMapping) -> str:
    for route in ROUTES.get(kind, ()):
        if model.startswith(route):
            params.changed(
                "model", f"`{route}` says nothing here: chats go to the one endpoint of the kind"
            )
            model = model.removeprefix(route)
    if kind == "fireworks" and "/" not in model and "*" not in model:
        return f"accounts/fireworks/models/{model}"
    return model


def _address(
    kind: str, prefix: str, name: str, params: InputMapping, guesses: list[str]
) -> str | None:
    """The `base_url`, or None where it is the vendor's own."""
    variables, text = params.source.variables, params.text(name)
    if not text:
        if kind == "azure":
            guesses.append("LiteLLM takes the address of the resource from AZURE_API_BASE")
            return variables.need("AZURE_API_BASE", URL)
        return COMPATIBLE[prefix][0] if prefix in COMPATIBLE else None
    end = urlsplit(VENDORS[kind].base_url).path if kind in ("anthropic", "gemini") else ""
    if is_reference(text):
        if end:
            guesses.append(f"`{end}` is added to what the variable holds")
            params.changed(name, f"`{end}` is added: the `base_url` of kind {kind} ends so")
        params.taken(name)
        return variables.text(text, params.where(name), URL) + end
    base = _base_url(kind, name, text, "/v1" if prefix == "huggingface" else end)
    if base != text.rstrip("/"):
        params.changed(name, f"it ends otherwise here: {escaped(base)}")
    params.taken(name)
    return None if base == VENDORS[kind].base_url else escaped(base)


def _base_url(kind: str, name: str, text: str, end: str) -> str:
    """An address as it was written, without what a kind adds by itself and with what it wants."""
    try:
        base = VENDORS[kind].address(values.url(text), {})
    except ValueError as error:
        raise NoCounterpart(f"{name} {error}") from None
    base = re.sub(r"(?<=/v1)/messages$|/chat/completions$", "", base)
    if kind == "azure":
        base = base.split("/openai/")[0]
    return base if base.endswith(end) else base + end


def _key(
    kind: str, prefix: str, base: str | None, params: InputMapping, name: str, guesses: list[str]
) -> str | None:
    """The `api_key`: the one that is given, else the variable that LiteLLM looks into by itself."""
    text = params.text("api_key")
    if text is None:
        return _usual_key(kind, prefix, base, params.source.variables, guesses)
    if not text or (base and text.lower() in NO_KEYS):
        params.changed("api_key", "is no key: none is sent")
        return None
    if is_reference(text):
        params.taken("api_key")
    else:
        params.changed(
            "api_key", "a secret in the file is not copied: it is a variable now, see below"
        )
    return params.source.variables.secret(text, params.where("api_key"), f"{name}_key")


def _usual_key(
    kind: str, prefix: str, base: str | None, variables: Variables, guesses: list[str]
) -> str | None:
    """The variable that LiteLLM looks into; at an address of one's own it may be unset."""
    if kind == "azure":
        variable, may_be_unset = "AZURE_API_KEY", False
    elif prefix in COMPATIBLE:
        variable, may_be_unset = COMPATIBLE[prefix][1], False
    else:
        variable, may_be_unset = VENDORS[kind].key_env, base is not None
    if not variable:
        return None
    guesses.append(f"LiteLLM takes the key from {variable}")
    return variables.need(variable, SECRET, default="" if may_be_unset else None)


def _bedrock_key(params: InputMapping, name: str, guesses: list[str]) -> str:
    variables = params.source.variables
    if params.has("api_key") or not params.has("aws_access_key_id", "aws_secret_access_key"):
        if params.has("api_key"):
            return _key("bedrock", "bedrock", None, params, name, guesses) or ""
        guesses.append(
            "LiteLLM looks for AWS credentials in many places; "
            "here they are said, see the key's form"
        )
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        return ":".join(variables.need(name, SECRET) for name in names)
    parts = []
    for part in filter(
        params.has, ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    ):
        params.changed(part, "one `api_key` holds them all, with colons between them")
        parts.append(
            variables.secret(params.text(part) or "", params.where(part), f"{name}_{part}")
        )
    return ":".join(parts)


def _options(kind: str, params: InputMapping, made: DeploymentProvider) -> None:
    """Azure's version, Bedrock's region, and what becomes of parameters that have no place."""
    if kind == "azure" and (version := _option("api_version", VERSION, values.Version, params)):
        made.provider["api_version"] = version
    if kind == "bedrock" and "base_url" not in made.provider:
        region = _option(
            params.first("aws_region_name", "region_name"), REGION, values.Region, params
        )
        if not region:
            made.guesses.append("without a region LiteLLM asks AWS_REGION_NAME, then us-west-2")
            region = params.source.variables.need("AWS_REGION_NAME", REGION, default="us-west-2")
        made.provider["region"] = region
    if (drops := params.flag("drop_params")) is not None:
        made.provider["unsupported"] = "drop" if drops else "reject"
        params.taken("drop_params")


def _option(name: str, example: str, kind: Any, params: InputMapping) -> str:
    """A setting of some kinds only, which a variable may hold; empty if there is no valid one."""
    text = params.text(name) or ""
    try:
        if not is_reference(text):
            msgspec.convert(text, kind)
    except msgspec.ValidationError:
        params.left(name, f"is nothing like {example}")
        return ""
    params.taken(name)
    return params.source.variables.text(text, params.where(name), example)


class Providers:
    """The section `providers`: one entry for each kind, address and key."""

    def __init__(self, variables: Variables) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        self.guesses: dict[str, list[str]] = {}
        self._variables = variables

    def name(self, found: DeploymentProvider) -> str:
        """The entry of a deployment, which is made if there is none."""
        name = next((name for name, entry in self.entries.items() if entry == found.provider), None)
        if name is None:
            name = next(name for name in _names(found.provider) if name not in self.entries)
            self.entries[name] = found.provider
        known = self.guesses.setdefault(name, [])
        known += [guess for guess in found.guesses if guess not in known]
        return name


def _names(provider: dict[str, Any]) -> Iterator[str]:
    """Readable names, the best first: the kind, its host, its key's variable, a number."""
    kind = provider["kind"]
    host = _words(provider.get("base_url", ""), kind)
    key = _words(provider.get("api_key", ""), kind)
    best = f"{kind}-{host}" if host else kind
    yield best
    if key:
        yield f"{best}-{key}"
    yield from (f"{best}-{number}" for number in count(2))


def _words(text: str, kind: str) -> str:
    """What tells an address or a variable from others, in a word or two."""
    if "://" in text and "${" not in text:
        split = urlsplit(re.sub(r"[$}{]", "", text))
        if split.hostname:
            return _host_word(split.hostname, kind) + (f"-{split.port}" if split.port else "")
    words = re.findall(r"[a-z0-9]+", re.sub(r":-[^}]*", "", text).lower())
    dull = DULL | {kind, "https", "http", "aws", "id", "access", "name"}
    return "-".join(word for word in words if word not in dull)


def _host_word(host: str, kind: str) -> str:
    """The first label of a host that says something, or the whole of an address in numbers."""
    if re.fullmatch(r"[\d.]+", host):
        return host
    labels = (label for label in host.split(".") if label not in DULL)
    return next((label for label in labels if not label.startswith(kind)), "")
