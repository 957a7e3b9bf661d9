"""F1: whatever parameters say, the model, the messages and the stream are those of the request."""

import json
from typing import Any

import pytest

from chattable.adapters.azure.wire import AzureWire
from chattable.adapters.services import VENDORS
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
OWN = ("model", "messages", "stream")
TRANSLATING = {"anthropic", "bedrock", "gemini", "ollama-native"}  # drop what they do not know


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", WIRES)
def test_f1_no_parameter_takes_the_place_of_a_requests_own_fields(name: str, stream: bool) -> None:
    def sent(**params: Any) -> Any:
        chat = Chat("m", SAID, stream, {"seed": 1, **params})
        return json.loads(WIRES[name].build_request(chat, "upstream-m"))

    plain = sent()
    for field, value in {**EVIL, "stream": not stream}.items():
        body = sent(**{field: value})
        if name in TRANSLATING or field in OWN:
            assert body == plain, field
        assert {key: body.get(key) for key in OWN} == {key: plain.get(key) for key in OWN}
