"""Which models a provider says it has."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec

from chattable.adapters.errors import UpstreamError
from chattable.adapters.upstream import Provider, header

PATIENCE = 10.0  # seconds
MAX_LIST = 8 * 2**20  # bytes
MAX_MODELS = 5000
MAX_NAME = 256  # characters


class DiscoveryError(Exception):
    """A provider that did not say; the text is for the log."""


async def models(provider: Provider) -> list[str]:
    """The models' names there, in the order they came; empty where the provider's API has no list."""
    if not provider.wire.listing:
        return []
    key = provider.keys.next()
    request = httpx.Request("GET", f"{provider.base}{provider.wire.listing}", headers=key.headers)
    try:
        async with asyncio.timeout(PATIENCE):
            response = await provider.transport.handle_async_request(request)
            body = bytearray()
            try:
                async for block in response.stream:  # type: ignore[union-attr]
                    body += block
                    if len(body) > MAX_LIST:
                        raise DiscoveryError("the list has no end")
            finally:
                await response.stream.aclose()  # type: ignore[union-attr]
        if response.status_code != 200:
            raise DiscoveryError(f"status {response.status_code}")
        if header(response, b"content-encoding") not in (b"", b"identity"):
            raise DiscoveryError("the list is compressed")
        return names(bytes(body))
    except (TimeoutError, httpx.TransportError, UpstreamError) as error:
        raise DiscoveryError(type(error).__name__) from None


def names(body: bytes) -> list[str]:
    """The names in a list of models, in OpenAI's form or that of others; `DiscoveryError` if it is none."""
    try:
        raw: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        raise DiscoveryError("the list is not JSON") from None
    if isinstance(raw, dict):
        raw = raw.get("data", raw.get("models"))
    if not isinstance(raw, list):
        raise DiscoveryError("there is no list in it")
    found: dict[str, None] = {}
    for one in raw[:MAX_MODELS]:
        name = (
            (one.get("id") or one.get("name") or one.get("model")) if isinstance(one, dict) else one
        )
        if isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable():
            found[name.removeprefix("models/")] = None
    return list(found)
