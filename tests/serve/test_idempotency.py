"""`Idempotency-Key` over real sockets: one upstream call and one charge for all repeats, on both databases, several workers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from answers import Gate, Reset, error
from databases import held, migrated_postgres
from openai import (
    BadRequestError,
    ConflictError,
    InternalServerError,
    OpenAI,
    UnprocessableEntityError,
)
from process import Chattable, chattable
from upstream import ScriptedUpstream

CONFIG = """
server: {{workers: 3}}
database_url: "{database}"
providers:
  stub: {{kind: openai, base_url: "{url}", api_key: x, retries: 0}}
models:
  m: {{provider: stub}}
budgets: {{default: {{tokens: 1000000, per: day}}}}
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, upstream: ScriptedUpstream) -> Iterator[Chattable]:
    if request.param == "sqlite":
        with chattable(
            CONFIG.format(url=upstream.url, database="sqlite:///chattable.db")
        ) as running:
            yield running
        return
    with (
        held(migrated_postgres()) as url,
        chattable(CONFIG.format(url=upstream.url, database=url)) as running,
    ):
        yield running


@pytest.fixture(autouse=True)
def clear(upstream: ScriptedUpstream) -> None:
    upstream.clear()


def client(server: Chattable, name: str, retries: int = 0) -> OpenAI:
    return OpenAI(
        base_url=f"{server.base_url}/v1", api_key=server.user_key(name), max_retries=retries
    )


def ask(sdk: OpenAI, key: str, text: str = "one two three", **fields: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return sdk.chat.completions.create(
        model="m", messages=messages, max_tokens=5, extra_headers={"idempotency-key": key}, **fields
    )


def spent(server: Chattable, name: str) -> int:
    entries = server.admin("GET", f"/admin/ledger?user={name}&limit=1000")["data"]
    return sum(entry["spent"]["tokens"] for entry in entries)


def test_fifty_at_once_are_one_call_one_answer_and_one_charge(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    sdk = client(server, "fifty", retries=10)
    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(lambda _: ask(sdk, "k"), range(50)))
    assert len(upstream.requests) == 1
    assert len({answer.model_dump_json() for answer in answers}) == 1
    assert spent(server, "fifty") == upstream.tokens


def test_a_stream_is_repeated_as_it_was(server: Chattable, upstream: ScriptedUpstream) -> None:
    sdk = client(server, "streamer")
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    first, second = ([chunk.model_dump() for chunk in ask(sdk, "k", **options)] for _ in range(2))
    assert first == second
    assert len(upstream.requests) == 1
    raw = httpx.post(
        f"{server.base_url}/v1/chat/completions",
        headers={"authorization": f"Bearer {sdk.api_key}", "idempotency-key": "k"},
        json={
            "model": "m",
            "messages": [{"content": "one two three", "role": "user"}],
            **options,
            "max_tokens": 5,
        },
    )
    assert raw.headers["idempotency-replayed"] == "true"
    assert raw.text.endswith("data: [DONE]\n\n")


def test_another_body_under_the_same_key_is_refused(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    sdk = client(server, "reuser")
    ask(sdk, "k")
    with pytest.raises(UnprocessableEntityError) as refused:
        ask(sdk, "k", "something else")
    assert (refused.value.code, refused.value.param) == (
        "idempotency_key_reused",
        "Idempotency-Key",
    )
    assert len(upstream.requests) == 1


def test_keys_are_each_users_own(server: Chattable, upstream: ScriptedUpstream) -> None:
    one, other = (
        ask(client(server, "one"), "k", "canary of one"),
        ask(client(server, "other"), "k", "canary of other"),
    )
    assert one.id != other.id
    assert len(upstream.requests) == 2


def test_what_failed_may_be_tried_again(server: Chattable, upstream: ScriptedUpstream) -> None:
    sdk = client(server, "failer")
    upstream.script(error(500, "boom"), Reset())
    for _ in range(2):
        with pytest.raises(InternalServerError):
            ask(sdk, "k")
    assert ask(sdk, "k").choices[0].message.content
    assert len(upstream.requests) == 3


def test_a_repeat_while_the_first_is_under_way_is_told_to_wait(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    sdk = client(server, "waiter")
    gate = Gate()
    upstream.script(gate)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, sdk, "k")
        gate.wait()
        with pytest.raises(ConflictError) as conflict:
            ask(sdk, "k")
        assert conflict.value.code == "idempotency_in_progress"
        assert conflict.value.response.headers["retry-after"] == "1"
        gate.release()
        assert first.result().id == ask(sdk, "k").id
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("key", ["x" * 256, "tab\there"])
def test_a_key_that_makes_no_sense_is_refused(
    server: Chattable, upstream: ScriptedUpstream, key: str
) -> None:
    with pytest.raises(BadRequestError) as refused:
        ask(client(server, "odd"), key)
    assert refused.value.param == "Idempotency-Key"
    assert upstream.requests == []
