"""Attempts to spend what no budget sees: the ledger always says what the upstream's log says."""

import asyncio
import random
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from answers import Answer, Gate, Plain, Request, Sse
from echo_model import chat_chunks, chat_completion
from promises.clients import Body, Told, body, connections
from promises.house import House, always, statuses, until

HUGE = 10**9
SAID = "one two three four five six"


class Spender:
    """A user with a budget."""

    def __init__(self, house: House, name: str, tokens: int = 100_000, **limit: Any) -> None:
        self.house, self.name, self.client = house, name, house.client(name)
        self.budget = house.limit(tokens=tokens, user=name, **limit)

    @property
    def spent(self) -> int:
        """What the ledger says, once nothing is under way."""
        self.house.settled()
        row = self.house.row(self.budget)
        entries = self.house.entries(user=self.name)
        assert row["spent"] == sum(entry["spent"]["tokens"] for entry in entries)
        assert row["held"] == sum(entry["held"]["tokens"] for entry in entries) == 0
        return int(row["spent"])

    @property
    def overdraft(self) -> int:
        """What no hold covered."""
        return sum(entry["overdraft"]["tokens"] for entry in self.house.entries(user=self.name))


@pytest.fixture
def spender(house: House) -> Spender:
    """Somebody new."""
    return Spender(house, f"by-{uuid4().hex}")


ASKED: dict[str, Body] = {
    "n": body("m", SAID, n=5),
    "n of a stream": body("m", SAID, n=5, stream=True),
    "no cap at all": {"model": "m", "messages": [{"role": "user", "content": SAID}]},
    "a huge cap": body("m", SAID, max_tokens=HUGE),
    "a cap beyond all numbers": body("m", SAID, max_tokens=2**62),
    "a cap that n takes beyond all numbers": body("m", SAID, max_tokens=2**50, n=128),
    "max_tokens null and a huge max_completion_tokens": body(
        "m", SAID, max_tokens=None, max_completion_tokens=HUGE
    ),
    "both caps, the new one huge": body("m", SAID, max_tokens=2, max_completion_tokens=HUGE),
    "both caps, the old one huge": body("m", SAID, max_tokens=HUGE, max_completion_tokens=2),
    "logprobs": body("m", SAID, logprobs=True, top_logprobs=20),
    "logprobs of a stream": body("m", SAID, logprobs=True, top_logprobs=20, stream=True),
    "best_of and echo": body("m", SAID, best_of=20, echo=True),
    "a stream without stream_options": body("m", SAID, stream=True, stream_options=None),
    "a stream with include_usage false": body(
        "m", SAID, stream=True, stream_options={"include_usage": False}
    ),
    "a prompt in parts": body("m")
    | {"messages": [{"role": "user", "content": [{"type": "text", "text": SAID}] * 3}]},
    "tools": body(
        "m",
        "call f",
        tools=[{"type": "function", "function": {"name": "f", "description": SAID}}],
        tool_choice="auto",
    ),
    "a schema": body("m", SAID, response_format={"type": "json_object"}),
    "a prediction": body("m", SAID, prediction={"type": "content", "content": SAID * 20}),
    "another name of the model": body("alias", SAID),
    "a name behind a wildcard": body("p/anything", SAID),
    "a model without a price": body("unpriced", SAID),
    "an agent that asks three times": body("thrice", SAID),
    "an agent that runs tools": body("tooler", "call weather", max_tokens=None),
    "a title": body(
        "m", "### Task:\nGenerate a concise title, 3 words, for the chat.", max_tokens=50
    ),
    "another user": body("m", SAID, user="by-somebody-else"),
}


@pytest.mark.parametrize("how", ASKED)
def test_a_request_cannot_hide_what_it_spends(spender: Spender, house: House, how: str) -> None:
    asked = ASKED[how]
    told = spender.client.ask(asked)
    assert told.status == 200, told.raw
    assert spender.spent == house.honest.tokens > 0
    assert spender.overdraft == 0
    # the cap is always sent, and is never more than what was held
    for request in house.honest.requests:
        cap = request.json.get("max_completion_tokens", request.json.get("max_tokens"))
        assert 0 < cap <= 100_000
        assert not request.json.get("stream") or request.json["stream_options"]["include_usage"]
    if asked.get("stream") and not (asked.get("stream_options") or {}).get("include_usage"):
        assert b'"usage":{' not in told.raw


@pytest.mark.parametrize(
    "model",
    ["M", " m", "m ", "m\t", "m\u200b", "ｍ", "models/m", "m\0", "P/m", "Alias", "tight ", ""],
)
def test_a_variant_of_a_models_name_is_another_name(
    spender: Spender, house: House, model: str
) -> None:
    told = spender.client.ask(body(model))
    assert told.status in ((400, 404) if not model else (404,)), told.raw
    assert house.honest.requests == []
    assert spender.spent == 0


def test_a_limit_on_a_model_binds_every_name_that_a_wildcard_gives_it(house: House) -> None:
    spender = Spender(house, "by-pattern", tokens=60, models=["p/*"])
    told = spender.client.ask_all([body(f"p/by-{i}", max_tokens=5) for i in range(40)])
    assert statuses(told) == {200, 429}
    assert spender.spent == house.honest.tokens == sum(one.acked or 0 for one in told) <= 60


def test_a_burst_at_the_last_token(house: House) -> None:
    """With room for exactly one more request of those who ask at once, one gets it."""
    spender = Spender(house, "by-last", tokens=10**6)
    probe = spender.client.ask(body("m", "hi", max_tokens=1))
    hold = next(
        entry["held"]["tokens"]
        for entry in house.entries(user="by-last")
        if entry["kind"] == "hold"
    )
    left = spender.spent + hold
    house.server.admin("PATCH", f"/admin/budgets/{spender.budget}", {"tokens": left})
    gate = Gate()
    with always(lambda _: gate, house.honest):
        asking = spender.client.begin(
            [body("m", "hi", max_tokens=1, stream=i % 2 == 0) for i in range(200)]
        )
        until(lambda: len(house.honest.requests) == 2, "one is in flight")
        gate.release()
        told = asking.result(60)
    assert probe.acked
    admitted = [one for one in told if one.status == 200]
    refused = [one for one in told if one.status != 200 and not one.too_slow]
    assert refused and {one.code for one in refused} <= {"insufficient_quota", "budget_busy"}
    assert (
        spender.spent
        == house.honest.tokens
        == sum(one.acked or 0 for one in admitted) + probe.acked
        <= left
    )
    print(f"{len(admitted)} admitted")


def test_a_client_that_leaves_at_the_last_token_pays_for_it(
    spender: Spender, house: House, gate: Gate
) -> None:
    """It has read every word and hangs up before the usage comes."""
    gate.n = 7  # the role and six words
    house.honest.script(gate)

    async def leave() -> Told:
        async with connections() as session:
            asked = body("m", SAID, stream=True)
            return await spender.client.told(session, asked, leave=lambda read: b" six" in read)

    told = asyncio.run(leave())
    gate.release()
    assert told.acked is None
    assert spender.spent == house.honest.tokens == 12


def usage(prompt: Any, completion: Any, **details: Any) -> Body:
    """Usage as an upstream reports it."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": 0, **details}


def reporting(told: Any) -> Callable[[Request], Answer]:
    """An upstream that says what was asked and reports this usage."""

    def answer(request: Request) -> Answer:
        if request.json.get("stream"):
            chunks = [chunk for chunk in chat_chunks(request.json) if chunk["choices"]]
            return Sse([*chunks, {"choices": [], "usage": told}])
        return Plain(200, chat_completion(request.json) | {"usage": told})

    return answer


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_that_nobody_sees_is_paid(spender: Spender, house: House, stream: bool) -> None:
    hidden = usage(6, 506, completion_tokens_details={"reasoning_tokens": 500})
    with always(reporting(hidden), house.liar):
        spender.client.ask(body("liar", SAID, stream=stream))
        assert spender.spent == house.liar.tokens == 512
    assert spender.overdraft > 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_cache_gives_no_more_back_than_the_prompt_costs(
    spender: Spender, house: House, stream: bool
) -> None:
    odd: tuple[Any, ...] = (7, 10**6, -1, -(10**6), "all", 1.5, True, None, 10**30, [], {})
    for cached in odd:
        told = usage(6, 6, prompt_tokens_details={"cached_tokens": cached})
        with always(reporting(told), house.liar):
            assert spender.client.ask(body("liar", SAID, stream=stream)).status == 200, cached
        charge = house.entries(user=spender.name)[-1]
        assert (charge["kind"], charge["spent"]["tokens"]) == ("settle", 12), cached
        assert 6 * 0.5 + 6 * 2 <= charge["spent"]["cost"] <= 6 * 1 + 6 * 2, cached


IMPOSSIBLE: list[Any] = [
    None, [], "12", {}, usage(-5, 1), usage(5, -1), usage(-(10**18), 10**18), usage("many", 1),
    usage(6, "6"), usage(10**18, 1), usage(1e18, 1), usage(1, 2**53), usage(6.5, 6),
    usage(None, None), {"prompt_tokens": 6, "completion_tokens": {}},
    {"total_tokens": 12}, usage(True, True), usage(6, 6, prompt_tokens_details=[1]),
]  # fmt: skip


CREDIBLE_PROMPTS = [usage(5, -1), usage(1, 2**53)]


@pytest.mark.parametrize("stream", [False, True])
def test_usage_that_cannot_be_is_counted_instead(
    spender: Spender, house: House, stream: bool
) -> None:
    """Figure by figure: six tokens of prompt and six of answer, but for a prompt that can be."""
    for told in IMPOSSIBLE:
        prompt = told["prompt_tokens"] if told in CREDIBLE_PROMPTS else 6
        with always(reporting(told), house.liar):
            assert spender.client.ask(body("liar", SAID, stream=stream)).status == 200, told
        charge = house.entries(user=spender.name)[-1]
        assert (charge["kind"], charge["spent"]["tokens"]) == ("settle", prompt + 6), told


def test_usage_of_nothing_for_an_answer_of_something(spender: Spender, house: House) -> None:
    """Words came, so nothing is no credible report: they are counted."""
    with always(reporting(usage(0, 0)), house.liar):
        assert spender.client.ask(body("liar", SAID)).status == 200
    assert spender.spent == 12


def test_background_calls_are_the_users_own(house: House, dice: random.Random) -> None:
    """Many titles in parallel with the chat they are for, all of one user."""
    spender = Spender(house, "by-titles", tokens=2000)
    titles = [body("m", "Generate a title for: " + SAID, max_tokens=8) for _ in range(40)]
    chats = [body("m", SAID, stream=True) for _ in range(40)]
    told = spender.client.ask_all(dice.sample(titles + chats, 80))
    assert spender.spent == house.honest.tokens == sum(one.acked or 0 for one in told) <= 2000


def test_other_names_in_the_body_move_no_charge(house: House) -> None:
    """The charge stays with the key, whatever `user` says; unknown names make no users."""
    spender, other = Spender(house, "by-rotation", tokens=500), Spender(house, "by-victim")
    asked = [
        body("m", SAID, user=f"by-nobody-{i}" if i % 2 else "by-victim", max_tokens=6)
        for i in range(100)
    ]
    told = spender.client.ask_all(asked, parallel=25)
    assert statuses(told) == {200, 429}
    assert spender.spent == house.honest.tokens == sum(one.acked or 0 for one in told) <= 500
    assert other.spent == 0
    names = {user["name"] for user in house.server.admin("GET", "/admin/users?limit=1000")["data"]}
    assert not any(name.startswith("by-nobody") for name in names)


def test_the_stroke_of_midnight_gives_one_limit_a_day_and_no_more(house: House) -> None:
    """Bursts around midnight: each day keeps its own limit, and together they are the log."""
    day = 86_400
    house.base.set_clock((house.base.now // day + 1) * day - 0.001)
    spender = Spender(house, "by-midnight", tokens=400, per="day")
    asked = [body("m", SAID, max_tokens=6, stream=i % 2 == 0) for i in range(60)]
    late = spender.client.begin(asked)
    until(lambda: len(house.honest.requests) > 5, "some were admitted")
    house.base.advance(0.002)
    told = late.result(60) + spender.client.ask_all(asked)
    house.settled()
    rows = house.base.rows(f"SELECT spent_tokens FROM accounts WHERE limit_id = '{spender.budget}'")
    print(rows)
    assert len(rows) == 2
    assert all(spent <= 400 for (spent,) in rows)
    assert (
        sum(spent for (spent,) in rows)
        == house.honest.tokens
        == sum(one.acked or 0 for one in told)
    )
