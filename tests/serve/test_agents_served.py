"""Agents inside the real server: whichever way they ask for models, the asker, the limits and the errors stay the same."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from answers import Plain
from echo_model import ask
from openai import (
    APIError,
    AuthenticationError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    OpenAI,
)
from process import Chattable, chattable
from upstream import ScriptedUpstream

AGENTS = """
import json
import openai
from pydantic import BaseModel
from chattable.agents.chat import Message

class City(BaseModel):
    name: str
    people: int

def talk(message):
    return [{"role": "user", "content": message.text}]

async def by_chat(message, ctx, model):
    return (await ctx.chat(model)).text

async def by_stream(message, ctx, model):
    async for chunk in ctx.chat(model, talk(message)):
        yield chunk

async def by_client(message, ctx, model):
    answer = await ctx.client.chat.completions.create(model=model, messages=talk(message))
    return answer.choices[0].message.content

async def by_client_stream(message, ctx, model):
    async for chunk in await ctx.client.chat.completions.create(model=model, messages=talk(message), stream=True):
        if chunk.choices:
            yield chunk.choices[0].delta.content or ""

def by_socket(message, ctx, model):
    with openai.OpenAI(base_url=ctx.base_url, api_key=ctx.api_key, max_retries=0) as client:
        answer = client.chat.completions.create(model=model, messages=talk(message))
        return answer.choices[0].message.content

def by_socket_stream(message, ctx, model):
    with openai.OpenAI(base_url=ctx.base_url, api_key=ctx.api_key, max_retries=0) as client:
        for chunk in client.chat.completions.create(model=model, messages=talk(message), stream=True):
            if chunk.choices:
                yield chunk.choices[0].delta.content or ""

async def parses(message, ctx):
    answer = await ctx.client.chat.completions.parse(model="m", messages=talk(message), response_format=City)
    city = answer.choices[0].message.parsed
    assert isinstance(city, City)
    return city.model_dump_json()

async def other_paths(message, ctx):
    try:
        await ctx.client.embeddings.create(model="m", input="x")
    except openai.BadRequestError as error:
        return error.body["message"]

def keeps_the_key(message, ctx):
    with openai.OpenAI(base_url=ctx.base_url, api_key=ctx.api_key, max_retries=0) as client:
        said = client.chat.completions.create(model="echo", messages=talk(message)).choices[0].message.content
    return json.dumps([ctx.base_url, ctx.api_key, said])

def embeds(message, ctx):
    with openai.OpenAI(base_url=ctx.base_url, api_key=ctx.api_key, max_retries=0) as client:
        for _ in range(int(message.text)):
            client.embeddings.create(model="m", input="x")
    return "all of them"

async def twice(message, ctx):
    return (await ctx.chat("echo")).text + (await ctx.chat("m")).text

async def raises(message):
    raise ValueError(" ".join(["the", "password", "is", message.text]))

async def raises_later(message):
    yield "so far "
    yield "so good"
    raise ValueError(" ".join(["the", "password", "is", message.text]))

def whoami(message, ctx):
    return f"{ctx.user.name} {ctx.agent}"
"""

WAYS = ("by_chat", "by_stream", "by_client", "by_client_stream", "by_socket", "by_socket_stream")
NAMES = (
    "parses",
    "other_paths",
    "keeps_the_key",
    "embeds",
    "twice",
    "raises",
    "raises_later",
    "whoami",
)

CONFIG = """
providers: {{stub: {{kind: openai, base_url: "{url}", api_key: x, retries: 0}}}}
models: {{m: {{provider: stub}}}}
agents:
  echo: {{use: "chattable.agents.echo:Echo"}}
  above-raises: {{model: raises}}
  above-by_socket: {{model: by_socket}}
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def server(
    upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chattable]:
    folder: Path = tmp_path_factory.mktemp("agents")
    (folder / "served_agents.py").write_text(AGENTS)
    config = CONFIG.format(url=upstream.url)
    config += "".join(f'  {name}: {{use: "served_agents:{name}", model: m}}\n' for name in WAYS)
    config += "".join(f'  {name}: {{use: "served_agents:{name}"}}\n' for name in NAMES)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    with chattable(config, PYTHONPATH=path) as running:
        yield running


@pytest.fixture
def client(server: Chattable, upstream: ScriptedUpstream) -> Iterator[OpenAI]:
    upstream.clear()
    with OpenAI(
        base_url=f"{server.base_url}/v1", api_key=server.admin_key, max_retries=0
    ) as client:
        yield client


def text_of(client: OpenAI, model: str, text: str, **fields: Any) -> str:
    return (
        client.chat.completions.create(**ask(text, **fields) | {"model": model})
        .choices[0]
        .message.content
        or ""
    )


@pytest.mark.parametrize("way", WAYS)
def test_a_nested_answer_comes_back_and_is_charged_once(
    way: str, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    body = ask("one two  three") | {"model": way}
    answer = client.chat.completions.create(**body)
    assert answer.choices[0].message.content == "one two  three"
    assert answer.usage and answer.usage.total_tokens == upstream.tokens == 6
    chunks = list(
        client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
    )
    assert (
        "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "one two  three"
    )
    assert [c.usage.total_tokens for c in chunks if c.usage] == [6]
    assert upstream.tokens == 12


def test_a_client_in_process_parses(client: OpenAI, upstream: ScriptedUpstream) -> None:
    city = json.loads(text_of(client, "parses", "a city"))
    assert city.keys() == {"name", "people"} and isinstance(city["people"], int)
    assert upstream.requests[0].json["response_format"]["json_schema"]["name"] == "City"


def test_a_client_in_process_says_what_it_cannot(client: OpenAI) -> None:
    assert "only POST /chat/completions" in text_of(client, "other_paths", "hi")


@pytest.mark.parametrize("headers", [{}, {"X-Session-Id": "borrows"}], ids=["alone", "session"])
def test_a_borrowed_key_dies_with_its_turn(
    client: OpenAI, server: Chattable, headers: dict[str, str]
) -> None:
    client = client.with_options(default_headers=headers)
    door, key, said = json.loads(text_of(client, "keeps_the_key", "hello"))
    assert said == "hello" and key not in server.log()
    for base_url in (door, f"{server.base_url}/v1"):
        with (
            OpenAI(base_url=base_url, api_key=key, max_retries=0) as late,
            pytest.raises(AuthenticationError) as refused,
        ):
            late.models.list()
        assert refused.value.code == "invalid_api_key" and key not in str(refused.value)


@pytest.mark.parametrize(("calls", "enough"), [("1", False), ("2", True), ("999", True)])
def test_a_header_caps_the_calls(
    calls: str, enough: bool, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    client = client.with_options(default_headers={"X-Max-Calls": calls})
    if enough:
        assert text_of(client, "twice", "hi") == "hihi"
        return
    with pytest.raises(BadRequestError) as refused:
        text_of(client, "twice", "hi")
    assert (refused.value.code, upstream.requests) == ("agent_calls", [])


def test_the_cap_counts_what_comes_by_socket(client: OpenAI, upstream: ScriptedUpstream) -> None:
    capped = client.with_options(default_headers={"X-Max-Calls": "1"})
    assert text_of(capped, "by_socket", "hi") == "hi"
    upstream.clear()
    with pytest.raises(InternalServerError):  # the agent did not catch its client's error
        text_of(capped, "above-by_socket", "hi")
    assert not upstream.requests


def test_b13_embeddings_count_as_calls_of_the_turn(
    client: OpenAI, upstream: ScriptedUpstream
) -> None:
    vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
    body = {"data": [vector], "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    upstream.script(*[Plain(200, body)] * 2)
    capped = client.with_options(default_headers={"X-Max-Calls": "2"})
    answer = capped.chat.completions.create(**ask("2") | {"model": "embeds"})
    assert answer.usage and answer.usage.total_tokens == 14
    upstream.clear()
    upstream.script(*[Plain(200, body)] * 2)
    with pytest.raises(InternalServerError):  # the agent did not catch its client's error
        capped.chat.completions.create(**ask("6") | {"model": "embeds"})
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("calls", ["many", "-1", "1.5", "1" * 30, "²"])
def test_a_cap_that_is_no_number_is_refused(calls: str, server: Chattable) -> None:
    headers: Any = {"authorization": f"Bearer {server.admin_key}", "x-max-calls": calls.encode()}
    answer = httpx.post(
        f"{server.base_url}/v1/chat/completions", headers=headers, json=ask("hi"), trust_env=False
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-Max-Calls")


@pytest.mark.parametrize("way", WAYS)
def test_a_keys_models_bind_its_agents(
    way: str, server: Chattable, upstream: ScriptedUpstream
) -> None:
    upstream.clear()
    both, alone = (server.user_key("bound", models=models) for models in ([way, "m"], [way]))
    with OpenAI(base_url=f"{server.base_url}/v1", api_key=both, max_retries=0) as client:
        assert text_of(client, way, "hi") == "hi"
    with OpenAI(base_url=f"{server.base_url}/v1", api_key=alone, max_retries=0) as client:
        with pytest.raises(APIError) as refused:
            text_of(client, way, "hi")
        # elsewhere it is the agent's client that raises, and the agent's to catch
        if way in ("by_chat", "by_stream"):
            assert (
                isinstance(refused.value, NotFoundError) and refused.value.code == "model_not_found"
            )
        with pytest.raises(NotFoundError):
            text_of(client, "m", "hi")
    assert len(upstream.requests) == 1


def test_an_agent_knows_who_asks(server: Chattable) -> None:
    with OpenAI(
        base_url=f"{server.base_url}/v1", api_key=server.user_key("zoe"), max_retries=0
    ) as client:
        assert text_of(client, "whoami", "hi") == "zoe whoami"


@pytest.mark.parametrize("model", ["raises", "above-raises"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_that_raises_is_a_500_and_one_entry_in_the_log(
    model: str, stream: bool, client: OpenAI, server: Chattable
) -> None:
    secret = f"tulip-{model}-{stream}"
    with pytest.raises(InternalServerError) as failed:
        client.chat.completions.create(**ask(secret) | {"model": model, "stream": stream})
    assert failed.value.code == "agent_error" and secret not in str(failed.value)
    assert failed.value.body == {
        "message": "The agent `raises` failed to answer.", "type": "server_error", "param": None, "code": "agent_error",
    }  # fmt: skip
    log = server.log()
    assert log.count(f"ValueError: the password is {secret}") == 1
    assert log.count(f"request {failed.value.request_id} failed") == 1


def test_an_agent_that_raises_midway_ends_the_stream_with_an_error(
    client: OpenAI, server: Chattable
) -> None:
    said: list[str] = []
    request: Any = ask("daisy") | {"model": "raises_later"}
    with pytest.raises(APIError) as failed:
        for chunk in client.chat.completions.create(**request, stream=True):
            said.append(chunk.choices[0].delta.content or "")
    assert "".join(said) == "so far so good"
    assert failed.value.code == "agent_error" and "daisy" not in str(failed.value)
    assert server.log().count("ValueError: the password is daisy") == 1


def test_a_failed_stream_has_no_done(server: Chattable) -> None:
    answer = httpx.post(
        f"{server.base_url}/v1/chat/completions",
        headers={"authorization": f"Bearer {server.admin_key}"},
        json=ask("rose") | {"model": "raises_later", "stream": True},
        trust_env=False,
    )
    *chunks, last = [
        json.loads(line.removeprefix("data: "))
        for line in answer.text.splitlines()
        if line.startswith("data:")
    ]
    assert answer.status_code == 200 and "[DONE]" not in answer.text
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert last["error"]["code"] == "agent_error" and last["error"].keys() == {
        "message",
        "type",
        "param",
        "code",
    }
