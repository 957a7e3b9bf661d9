"""Which models a provider says it has."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from chattable.adapters.errors import UpstreamError
from chattable.adapters.transport import Request, TransportError, header
from chattable.adapters.upstream import UpstreamProvider

DISCOVERY_TIMEOUT_S = 10.0  # seconds
MAX_LIST_BYTES = 8 * 2**20  # bytes
MAX_MODELS = 5000
MAX_NAME_CHARS = 256  # characters


class DiscoveryError(Exception):
    """A provider that did not say; the text is for the log."""


async def models(provider: UpstreamProvider) -> list[str]:
    """The names of a provider's models, in the order they came; empty where it lists none."""
    if not provider.wire.models_path:
        return []
    url = provider.url(provider.wire.models_path)
    response = provider.transport.send(Request("GET", url, provider.keys.next().headers))
    body = bytearray()
    try:
        async with asyncio.timeout(DISCOVERY_TIMEOUT_S):
            await response.head(DISCOVERY_TIMEOUT_S)
            while block := await response.read(DISCOVERY_TIMEOUT_S):
                body += block
                if len(body) > MAX_LIST_BYTES:
                    raise DiscoveryError("the list has no end")
    except (TimeoutError, TransportError, UpstreamError) as error:
        raise DiscoveryError(type(error).__name__) from None
    finally:
        response.close()
    if response.status != 200:
        raise DiscoveryError(f"status {response.status}")
    if header(response, b"content-encoding") not in (b"", b"identity"):
        raise DiscoveryError("the list is compressed")
    return names(bytes(body))


def names(body: bytes) -> list[str]:
    """The names in a list of models, in OpenAI's form or that of others.

    Raises `DiscoveryError` for anything else.
    """
    try:
        raw: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        raise DiscoveryError("the list is not JSON") from None
    if isinstance(raw, dict):
        raw = raw.get("data", raw.get("models"))
    if not isinstance(raw, list):
        raise DiscoveryError("there is no list in it")
    found = [name for one in raw[:MAX_MODELS] if (name := _name(one))]
    return list(dict.fromkeys(found))


def _name(model: Any) -> str:
    """The name of a model; empty where it has none that can be used."""
    if isinstance(model, dict):
        model = model.get("id") or model.get("name") or model.get("model")
    if not isinstance(model, str) or len(model) > MAX_NAME_CHARS or not model.isprintable():
        return ""
    return model.removeprefix("models/")
