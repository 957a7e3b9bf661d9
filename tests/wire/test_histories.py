"""What of a conversation that others had every target is sent: what its row takes, in an order that it takes."""

import json
import re
from copy import deepcopy
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wired import bodies, damaged

from chattable.adapters.anthropic.wire import AnthropicWire
from chattable.adapters.bedrock.wire import BedrockWire
from chattable.adapters.gemini.wire import GeminiWire
from chattable.adapters.ollama.wire import OllamaWire
from chattable.adapters.openai.wire import OpenAIWire
from chattable.adapters.services import VENDORS, wire_of
from chattable.adapters.vendors.history import ANYTHING, FOREIGN, ROWS, takes
from chattable.adapters.wire import Wire
from chattable.agents.chat import Chat, Json, Message
from chattable.agents.errors import InvalidRequest
from chattable.agents.fold import as_message

HI: Json = {"role": "user", "content": "hi"}
PNG = "data:image/png;base64,iVBORw0KGgo="
SIGNED = {"index": 0, "type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
# A turn of Claude's, of an open model, of OpenRouter's and of Gemini's.
CLAUDE: Json = {
    "role": "assistant",
    "content": "Sure.",
    "reasoning_content": "Hm.",
    "thinking_blocks": [SIGNED],
}
OPEN: Json = {
    "role": "assistant",
    "content": "Sure.",
    "reasoning": "Hm.",
    "reasoning_content": "Hm.",
}
PIECES = [
    {"type": "reasoning.text", "text": "Let ", "index": 0, "format": "anthropic-claude-v1"},
    {"type": "reasoning.text", "text": "me see.", "index": 0, "format": "anthropic-claude-v1"},
    {"type": "reasoning.text", "signature": "c2ln", "index": 0, "format": "anthropic-claude-v1"},
    {"type": "reasoning.text", "text": "Again.", "index": 0, "format": "anthropic-claude-v1"},
    {"type": "reasoning.encrypted", "data": "eA==", "id": "rs_1", "index": 1},
]
ROUTED: Json = {"role": "assistant", "content": "Sure.", "reasoning_details": PIECES}


def called(i: str, **fields: Any) -> Json:
    return {"id": i, "type": "function", "function": {"name": "f", "arguments": "{}"}, **fields}


def asked(*ids: str, **fields: Any) -> list[Json]:
    """Calls and the answers to them."""
    made = {"role": "assistant", "content": None, "tool_calls": [called(i) for i in ids], **fields}
    return [made, *({"role": "tool", "tool_call_id": i, "content": "x"} for i in ids)]


def compatible(kind: str, *messages: Json, model: str = "m", **params: Any) -> list[Json]:
    """The messages that a vendor is sent."""
    chat = Chat("ours", [as_message(deepcopy(message)) for message in messages], False, params)
    body: Json = json.loads(wire_of(kind, None, {}).build_request(chat, model))
    return list(body["messages"])


# --- OpenAI-compatible vendors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, model, kept",
    [
        ("groq", "llama-3.3-70b-versatile", {}),
        ("groq", "openai/gpt-oss-120b", {"reasoning": "Hm."}),
        ("cerebras", "gpt-oss-120b", {"reasoning": "Hm."}),
        ("openai", "gpt-5.5", {}),
        ("fireworks", "kimi-k2p6", {}),
        ("together", "zai-org/GLM-5.2", {}),
        ("huggingface", "openai/gpt-oss-120b", {}),
        ("cohere", "command-a-03-2025", {}),
        ("xai", "grok-4.7", {}),
        ("deepseek", "deepseek-v4-pro", {"reasoning_content": "Hm."}),
        ("moonshot", "kimi-k2.6", {"reasoning_content": "Hm."}),
        ("vllm", "qwen3", {"reasoning_content": "Hm.", "reasoning": "Hm."}),
        ("openrouter", "x-ai/grok-4.7", {"reasoning": "Hm."}),
        ("mistral", "codestral-2508", {}),
    ],
)
@pytest.mark.parametrize("turn", [CLAUDE, OPEN])
def test_c1_thoughts_go_where_a_vendor_looks_for_them(
    kind: str, model: str, kept: Json, turn: Json
) -> None:
    said = compatible(kind, HI, turn, HI, model=model)
    assert said == [HI, {"role": "assistant", "content": "Sure.", **kept}, HI]


def test_c1_an_unknown_server_gets_a_history_as_it_came() -> None:
    wire = wire_of("openai", "http://127.0.0.1:1/v1", {})
    chat = Chat("ours", [as_message(HI), as_message({**CLAUDE, "odd": 1})])
    assert json.loads(wire.build_request(chat, "m"))["messages"] == [HI, {**CLAUDE, "odd": 1}]


def test_c1_a_vendor_is_known_by_its_address() -> None:
    wire = wire_of("openai", "https://api.groq.com/openai/v1", {})
    chat = Chat("ours", [as_message(HI), as_message(CLAUDE), as_message(HI)])
    assert json.loads(wire.build_request(chat, "llama"))["messages"] == [
        HI,
        {"role": "assistant", "content": "Sure."},
        HI,
    ]


def test_words_alone_are_passed_on_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the usual conversation costs no look at a row."""
    wire = wire_of("groq", None, {})
    monkeypatch.setattr(OpenAIWire, "_takes", None)
    chat = Chat(
        "m",
        [
            Message("system", "s"),
            Message("user", "a"),
            Message("assistant", "b"),
            Message("user", "c"),
        ],
    )
    assert len(json.loads(wire.build_request(chat, "m"))["messages"]) == 4


def test_c1_signatures_marks_and_parts_of_others_stay_behind() -> None:
    signed = {"extra_content": {"google": {"thought_signature": "x"}}}
    part = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    history: list[dict[str, Any]] = [
        {"role": "user", "content": [part], "cache_control": {"type": "ephemeral"}},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [called("c1", index=0, **signed)],
            **signed,
        },
        {"role": "tool", "tool_call_id": "c1", "content": "x", "is_error": True},
    ]
    tools = [
        {"type": "function", "function": {"name": "f"}, "cache_control": {"type": "ephemeral"}}
    ]
    assert compatible("openai", *history, tools=tools) == [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": None, "tool_calls": [called("c1")]},
        {"role": "tool", "tool_call_id": "c1", "content": "x"},
    ]
    assert compatible("openrouter", *history)[0] == history[0]
    chat = Chat("ours", [as_message(m) for m in history], False, {"tools": tools})
    google = wire_of("openai", "https://generativelanguage.googleapis.com/v1beta/openai", {})
    assert json.loads(google.build_request(chat, "gemini"))["messages"][1]["tool_calls"] == [
        called("c1", **signed)
    ]
    assert json.loads(wire_of("groq", None, {}).build_request(chat, "m"))["tools"] == [
        {"type": "function", "function": {"name": "f"}}
    ]
    assert tools[0]["cache_control"], "what was given stays as it is"


def test_words_survive_where_their_field_does_not() -> None:
    refused = {"role": "assistant", "content": None, "refusal": "No."}
    spoken = {"role": "assistant", "content": None, "audio": {"id": "a", "transcript": "Hello."}}
    assert compatible("openai", HI, refused, spoken)[1:] == [refused, spoken]
    assert [m["content"] for m in compatible("groq", HI, refused, spoken)[1:]] == ["No.", "Hello."]
    assert (
        compatible("groq", HI, {"role": "assistant", "content": None, "thinking_blocks": [SIGNED]})[
            1
        ]["content"]
        == ""
    )
    parts = {
        "role": "user",
        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
    }
    assert compatible("deepseek", parts)[0]["content"] == "ab"
    assert compatible("groq", parts)[0] == parts


def test_c4_mistral_wants_ids_of_nine_letters() -> None:
    foreign = ["toolu_01A", "toolu_01B", "call_DdmO9pD3xa9XTPNJ32zg2hcA", "abcDEF123"]
    said = compatible("mistral", HI, *asked(*foreign), model="mistral-large-2512")
    made = [call["id"] for call in said[1]["tool_calls"]]
    assert made == [message["tool_call_id"] for message in said[2:]] and len({*made}) == 4
    assert all(re.fullmatch("[a-zA-Z0-9]{9}", i) for i in made) and made[3] == foreign[3]
    longer = compatible(
        "mistral",
        HI,
        *asked(*foreign),
        {"role": "assistant", "content": "a"},
        HI,
        model="mistral-large-2512",
    )
    assert longer[: len(said)] == said, "the same in every turn of a conversation"
    assert (
        compatible("vllm", HI, *asked("call_1"), model="mistralai/Devstral-2")[1]["tool_calls"][0][
            "id"
        ]
        != "call_1"
    )
    assert (
        compatible("vllm", HI, *asked("call_1"), model="qwen3")[1]["tool_calls"][0]["id"]
        == "call_1"
    )
    assert len(compatible("openai", HI, *asked("x" * 64))[1]["tool_calls"][0]["id"]) == 40


def test_c4_mistral_wants_an_order() -> None:
    said = compatible("mistral", HI, *asked("abcDEF123"), HI, model="mistral-large-2512")
    assert [message["role"] for message in said] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
    ]
    going_on = compatible(
        "mistral", HI, {"role": "assistant", "content": "So"}, model="mistral-large-2512"
    )
    assert going_on[-1] == {"role": "assistant", "content": "So", "prefix": True}


def test_c4_mistrals_thoughts_are_parts_in_both_directions() -> None:
    [_, turn] = compatible("mistral", HI, CLAUDE, model="mistral-medium-3.5")
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    assert turn["content"] == [thought, {"type": "text", "text": "Sure."}]
    answer = {
        "choices": [
            {"message": {"role": "assistant", "content": turn["content"]}, "finish_reason": "stop"}
        ]
    }
    [chunk] = OpenAIWire().parse_response(json.dumps(answer).encode())
    assert chunk.delta["reasoning_content"] == "Hm."


def test_c4_calls_that_nobody_thought_about_bring_an_empty_thought() -> None:
    for kind, model in (("deepseek", "deepseek-v4-pro"), ("moonshot", "kimi-k2.6")):
        said = compatible(
            kind, HI, *asked("c1"), {"role": "assistant", "content": "a"}, HI, model=model
        )
        assert said[1]["reasoning_content"] == "" and "reasoning_content" not in said[3]
        thought = compatible(kind, HI, *asked("c1", reasoning_content="Hm."), model=model)
        assert thought[1]["reasoning_content"] == "Hm."
    assert (
        "reasoning_content"
        not in compatible("moonshot", HI, *asked("c1"), model="moonshot-v1-8k")[1]
    )


def test_c4_openrouters_pieces_go_back_as_thoughts() -> None:
    [_, turn] = compatible("openrouter", HI, ROUTED)
    assert turn["reasoning_details"] == [
        {
            "type": "reasoning.text",
            "text": "Let me see.",
            "signature": "c2ln",
            "index": 0,
            "format": "anthropic-claude-v1",
        },
        {"type": "reasoning.text", "text": "Again.", "index": 0, "format": "anthropic-claude-v1"},
        {"type": "reasoning.encrypted", "data": "eA==", "id": "rs_1", "index": 1},
    ]
    assert "reasoning_details" not in compatible("groq", HI, ROUTED)[1]
    assert compatible("openrouter", HI, {**ROUTED, "reasoning_details": [5, None]})[1] == {
        "role": "assistant",
        "content": "Sure.",
    }


def test_every_vendor_that_is_compatible_has_a_row_with_its_source() -> None:
    kinds = {kind for kind, vendor in VENDORS.items() if isinstance(vendor.wire, OpenAIWire)}
    assert kinds <= ROWS.keys()
    assert all(
        row.source.startswith("https://") and re.fullmatch(r"20\d\d-\d\d", row.since)
        for row in ROWS.values()
    )
    assert takes("nobody", "m") is ANYTHING


EVERYTHING: Json = {
    "model": "ours",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "t"},
                {"type": "image_url", "image_url": {"url": PNG}},
            ],
        },
        {**ROUTED, **CLAUDE, "audio": {"transcript": "x"}, "refusal": "No.", "name": "ann"},
        *asked("c1", "c2", extra_content={"google": {"thought_signature": "x"}}),
        HI,
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    ],
    "tools": [
        {"type": "function", "function": {"name": "f"}, "cache_control": {"type": "ephemeral"}}
    ],
    "anthropic_beta": ["x"],
    "service_tier": "auto",
}


@pytest.mark.parametrize("kind", ["groq", "mistral", "openrouter", "deepseek", "openai", "vllm"])
def test_a_damaged_history_never_does_worse_than_be_refused(kind: str) -> None:
    wire = wire_of(kind, None, {}).with_unsupported("drop")
    assert (
        bodies(
            damaged(EVERYTHING, 5, 200), lambda chat: wire.build_request(chat, "mistral-large-2512")
        )
        > 50
    )


# --- drawn histories ----------------------------------------------------------------------------------------------------

CLAUDES = ("claude-sonnet-4-5", "claude-opus-5-5")
NATIVE: list[tuple[Wire, str]] = [
    *((AnthropicWire(), name) for name in CLAUDES),
    *(
        (BedrockWire(), name)
        for name in ("anthropic.claude-sonnet-4-5-v1:0", "amazon.nova-pro-v1:0", "meta.llama4-v1:0")
    ),
    *((GeminiWire(), name) for name in ("gemini-2.5-flash", "gemini-3.8-flash")),
    (OllamaWire(), "qwen3"),
]
COMPATIBLE = [
    (kind, model)
    for kind in sorted(ROWS.keys() - {"azure", "gemini"})
    for model in ("m", "mistral-large-2512")
]

text = st.sampled_from(["", " ", "Hello.", "Grüße 👋", "x\n"])
ids = st.sampled_from(["call_1", "toolu_01A", "functions.f:0", "abcDEF123", "c" * 70])
picture = st.just({"type": "image_url", "image_url": {"url": PNG, "detail": "low"}})
words = text.map(
    lambda said: {"type": "text", "text": said, "cache_control": {"type": "ephemeral"}}
)
content = text | st.lists(words | picture, min_size=1, max_size=3)
foreign = st.fixed_dictionaries(
    {},
    optional={
        "thinking_blocks": st.just([SIGNED]),
        "reasoning_content": st.just("Hm."),
        "reasoning": st.just("Hm."),
        "reasoning_details": st.just(PIECES),
        "extra_content": st.just({"google": {"thought_signature": "eA=="}}),
        "annotations": st.just([]),
        "refusal": st.just("No."),
        "name": st.just("ann"),
    },
)


@st.composite
def histories(draw: st.DrawFn) -> list[Message]:
    """Turns of several vendors: thoughts, calls, pictures, empty messages, instructions anywhere."""
    out: list[Json] = []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["system", "user", "assistant", "calls"]))
        if kind == "calls":
            made = draw(st.lists(ids, min_size=1, max_size=3, unique=True))
            first, *answers = asked(*made, **draw(foreign))
            out += [first, *answers]
        elif kind == "system":
            out.append({"role": "system", "content": draw(text)})
        elif kind == "user":
            out.append({"role": "user", "content": draw(content)})
        else:
            out.append({"role": "assistant", "content": draw(text), **draw(foreign)})
    return [as_message(message) for message in out]


few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@few
@given(histories())
def test_a_compatible_target_is_sent_what_its_row_takes(history: list[Message]) -> None:
    given = msgspec.json.encode([message.to_json() for message in history])
    for kind, model in COMPATIBLE:
        row = takes(kind, model)
        body = json.loads(wire_of(kind, None, {}).build_request(Chat("m", history), model))
        answered: set[str] = set()
        for i, message in enumerate(body["messages"]):
            thoughts = {*row.thoughts} | ({"reasoning_content"} if row.wants_thoughts else set())
            fields = (
                message.keys()
                - {"role", "content", "tool_calls", "tool_call_id"}
                - row.fields
                - thoughts
            )
            fields -= {"name"} if row.names or message["role"] == "tool" else set()
            fields -= {"refusal"} if row.refusals else set()
            fields -= {row.prefix}
            assert not fields, (kind, fields)
            parts = message["content"] if isinstance(message["content"], list) else []
            assert row.others or all(
                part.keys() <= {"type", part["type"]} | row.fields for part in parts
            )
            for call in message.get("tool_calls", ()):
                assert not call.keys() & (FOREIGN - row.fields)
                answered.add(call["id"])
                assert not row.ids.least or re.fullmatch("[a-zA-Z0-9]{9}", call["id"])
                assert not row.ids.most or len(call["id"]) <= row.ids.most
                assert not row.wants_thoughts or "reasoning_content" in message
            if message["role"] == "tool":
                assert message["tool_call_id"] in answered
            if row.bridge and i and message["role"] == "user":
                assert body["messages"][i - 1]["role"] != "tool"
    assert msgspec.json.encode([message.to_json() for message in history]) == given, (
        "what is kept stays as it was said"
    )


@few
@given(histories())
def test_a_native_target_is_sent_turns_in_an_order_that_it_takes(history: list[Message]) -> None:
    given = msgspec.json.encode([message.to_json() for message in history])
    silent = next((m.role for m in reversed(history) if m.role != "system"), "") == "user"
    for wire, model in NATIVE:
        try:
            body = json.loads(wire.build_request(Chat("m", history), model))
        except InvalidRequest as error:
            assert error.param is not None and error.param.startswith("messages")
            continue
        if isinstance(wire, OllamaWire):
            assert not silent or body["messages"][-1]["role"] != "assistant"
            continue
        turns = body.get("messages") or body["contents"]
        roles = ["assistant" if turn["role"] == "model" else turn["role"] for turn in turns]
        assert roles[0] == "user" and all(
            one != other for one, other in pairwise(roles) if "contents" not in body
        )
        assert not silent or roles[-1] == "user", (
            "the assistant is not made to go on with its own words"
        )
        made = [
            block
            for turn in turns
            for block in turn.get("content", ())
            if block.get("type") == "tool_use" or "toolUse" in block
        ]
        names = [block.get("id") or block["toolUse"]["toolUseId"] for block in made]
        assert len(names) == len({*names}), "no two calls share an id"
        if model == "claude-opus-5-5":
            assert roles[-1] == "user"
        if "nova" not in model and "claude" not in model:
            assert "cachePoint" not in json.dumps(turns)
    assert msgspec.json.encode([message.to_json() for message in history]) == given, (
        "what is kept stays as it was said"
    )
