"""F1: whatever a request's parameters say, the model, the messages and the stream are those that were decided before."""

import json
from typing import Any

import pytest

from chattable.adapters.azure import AzureWire
from chattable.adapters.vendors.services import VENDORS
from chattable.adapters.wire import Wire
from chattable.agents.chat import Chat, Message

WIRES: dict[str, Wire] = {name: vendor.wire for name, vendor in VENDORS.items()}
WIRES |= {"azure, dated": AzureWire("2024-10-21")}
SAID = [Message("user", "what was asked")]
EVIL: dict[str, Any] = {
    "model": "evil-model",
    "modelId": "evil-model",
    "messages": [{"role": "user", "content": "evil words"}],
    "contents": [{"role": "user", "parts": [{"text": "evil words"}]}],
    "system": "evil words",
    "systemInstruction": {"parts": [{"text": "evil words"}]},
}
TRANSLATING = {"anthropic", "bedrock", "gemini", "ollama-native"}  # what they do not know goes nowhere


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", WIRES)
def test_f1_no_parameter_takes_the_place_of_model_messages_and_stream(name: str, stream: bool) -> None:
    wire = WIRES[name]
    own = ("model", "messages", "stream")
    for fields in ({key: EVIL[key]} if key in EVIL else {key: not stream} for key in (*own, *EVIL)):
        body = json.loads(wire.request(Chat("m", SAID, stream, {"seed": 1, **fields}), "upstream-m"))
        plain = json.loads(wire.request(Chat("m", SAID, stream, {"seed": 1}), "upstream-m"))
        if name in TRANSLATING or fields.keys() <= set(own):
            assert body == plain, fields
        assert {key: body.get(key) for key in own} == {key: plain.get(key) for key in own}
