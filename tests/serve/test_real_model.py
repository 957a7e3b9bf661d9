"""A real model behind the real server, asked by the unmodified SDK: what stubs cannot show.

Its wisdom is not on trial.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
from local_model import local_model
from openai import AsyncOpenAI, OpenAI
from process import Chattable, chattable
from pydantic import BaseModel

NAME = "smollm2-135m-instruct"
CONFIG = """
providers: {here: {kind: local}}
models: {small: {provider: here, model: smollm2-135m-instruct, context_length: 2048}}
agents:
  terse: {model: small, context: You answer in one short sentence.}
"""
ASK: dict[str, Any] = {"model": "small", "max_tokens": 12, "temperature": 0, "seed": 1}
QUESTION: Any = {"role": "user", "content": "What is the capital of France?"}


class Colour(BaseModel):
    name: Literal["red", "green", "blue"]
    warm: bool
    shades: int


def home() -> str:
    """The data folder in which the weights are, as `chattable local pull` leaves it."""
    path: Path = local_model()
    return str(path.parents[1])


@pytest.fixture(scope="module")
def server() -> Iterator[Chattable]:
    with chattable(CONFIG, CHATTABLE_HOME=home()) as running:
        yield running


@pytest.fixture
def client(server: Chattable) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{server.base_url}/v1", api_key=server.user_key("alice"), max_retries=0
    ) as client:
        yield client


def model_server(server: Chattable) -> psutil.Process:
    [child] = [
        process
        for process in server.tree()
        if "chattable.adapters.local.server" in " ".join(process.cmdline())
    ]
    return child


def test_a_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(messages=[QUESTION], **ASK)
    [choice] = answer.choices
    assert (
        choice.message.role == "assistant"
        and choice.message.content
        and choice.finish_reason in ("stop", "length")
    )
    assert answer.model == "small" and answer.object == "chat.completion"
    usage = answer.usage
    assert usage and usage.prompt_tokens > 0 and 0 < usage.completion_tokens <= 12
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_stream_says_what_the_whole_answer_says(client: OpenAI) -> None:
    whole = client.chat.completions.create(messages=[QUESTION], **ASK)
    chunks = list(
        client.chat.completions.create(
            messages=[QUESTION], stream=True, stream_options={"include_usage": True}, **ASK
        )
    )
    pieces = [
        chunk.choices[0].delta.content
        for chunk in chunks
        if chunk.choices and chunk.choices[0].delta.content
    ]
    assert len(pieces) > 1 and "".join(pieces) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[
        0
    ].finish_reason
    [usage] = [chunk.usage for chunk in chunks if chunk.usage]
    assert whole.usage and usage.total_tokens == whole.usage.total_tokens
    assert chunks[-1].usage == usage and chunks[-1].choices == []
    assert len({chunk.id for chunk in chunks}) == 1 and {chunk.model for chunk in chunks} == {
        "small"
    }


def test_a_schema_binds_the_answer(client: OpenAI) -> None:
    request: dict[str, Any] = ASK | {"max_tokens": 80}
    question: Any = {"role": "user", "content": "Describe the colour of the sky as JSON."}
    answer = client.chat.completions.parse(messages=[question], response_format=Colour, **request)
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(answer.choices[0].message.parsed, Colour)
    with client.chat.completions.stream(
        messages=[question], response_format=Colour, **request
    ) as stream:
        streamed = stream.get_final_completion()
    assert streamed.choices[0].message.parsed == answer.choices[0].message.parsed


def test_the_second_turn_sees_the_first(client: OpenAI) -> None:
    first = client.chat.completions.create(messages=[QUESTION], **ASK)
    told: Any = {"role": "assistant", "content": first.choices[0].message.content}
    second = client.chat.completions.create(
        messages=[QUESTION, told, {"role": "user", "content": "And of Italy?"}], **ASK
    )
    assert first.usage and second.usage and second.choices[0].message.content
    assert second.usage.prompt_tokens > first.usage.prompt_tokens + first.usage.completion_tokens


def test_an_agent_in_front_of_it_pays_for_what_it_adds(client: OpenAI) -> None:
    bare = client.chat.completions.create(messages=[QUESTION], **ASK)
    agent = client.chat.completions.create(messages=[QUESTION], **ASK | {"model": "terse"})
    assert agent.choices[0].message.content and agent.model == "terse"
    assert agent.usage and bare.usage and agent.usage.completion_tokens > 0
    # its own first words replace the model's default ones
    assert agent.usage.prompt_tokens != bare.usage.prompt_tokens


async def test_several_at_once(server: Chattable) -> None:
    async with AsyncOpenAI(
        base_url=f"{server.base_url}/v1", api_key=server.admin_key, max_retries=0
    ) as client:
        answers = await asyncio.gather(
            *(client.chat.completions.create(messages=[QUESTION], **ASK) for _ in range(4))
        )
    assert all(answer.choices[0].message.content for answer in answers)


def test_zero_config_lists_and_serves_it() -> None:
    with chattable(CHATTABLE_HOME=home()) as server:
        with OpenAI(
            base_url=f"{server.base_url}/v1", api_key=server.admin_key, max_retries=0
        ) as client:
            assert {model.id for model in client.models.list()} == {"echo", NAME}
            answer = client.chat.completions.create(messages=[QUESTION], **ASK | {"model": NAME})
        assert answer.choices[0].message.content


@pytest.mark.parametrize(
    "end",
    [lambda server: server.popen.send_signal(signal.SIGTERM), lambda server: server.popen.kill()],
)
def test_no_model_server_outlives_the_proxy(end: Callable[[Chattable], None]) -> None:
    with chattable(CONFIG, CHATTABLE_HOME=home()) as server:
        child = model_server(server)
        # a Ctrl-C is not for it
        assert not ended(child) and os.getpgid(child.pid) != os.getpgid(server.pid)
        end(server)
        server.popen.wait(20)
        deadline = time.monotonic() + 10
        while not ended(child):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def ended(process: psutil.Process) -> bool:
    """Whether it runs no more; where no init reaps, an entry without a program remains."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


PAIR = """
providers: {one: {kind: local, retries: 0}, two: {kind: local, retries: 0}}
models:
  either:
    targets:
      - {provider: one, model: smollm2-135m-instruct, weight: 1}
      - {provider: two, model: smollm2-135m-instruct, weight: 0}
"""


def test_one_of_two_is_killed_and_the_other_answers() -> None:
    with chattable(PAIR, CHATTABLE_HOME=home()) as server:
        models = [
            process
            for process in server.tree()
            if "chattable.adapters.local.server" in " ".join(process.cmdline())
        ]
        first, second = sorted(models, key=psutil.Process.create_time)
        with OpenAI(
            base_url=f"{server.base_url}/v1", api_key=server.user_key("alice"), max_retries=0
        ) as client:

            def ask() -> tuple[str, str]:
                raw = client.chat.completions.with_raw_response.create(
                    messages=[QUESTION], **ASK | {"model": "either"}
                )
                return raw.headers["x-chattable-model"].partition("/")[0], raw.parse().choices[
                    0
                ].message.content or ""

            before = ask()
            assert before[0] == "one"
            first.kill()
            first.wait(10)
            after = ask()
            assert after == ("two", before[1])  # the same weights, the same seed
            assert second.is_running()
