"""One real server for the whole folder, and behind it one scripted upstream whose memory is wiped before every test."""

from collections.abc import AsyncIterator, Iterator

import pytest
from compat.browser import Browser
from compat.serving import config
from openai import AsyncOpenAI, OpenAI
from process import Chattable, chattable
from upstream import ScriptedUpstream


@pytest.fixture(scope="session")
def one_upstream() -> Iterator[ScriptedUpstream]:
    """The upstream behind the server; tests take `upstream`."""
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture
def upstream(one_upstream: ScriptedUpstream) -> Iterator[ScriptedUpstream]:
    """The upstream, without memory of other tests and with its usual answers."""
    usual = one_upstream.reply
    one_upstream.clear()
    yield one_upstream
    one_upstream.reply = usual


@pytest.fixture(scope="session")
def server(one_upstream: ScriptedUpstream) -> Iterator[Chattable]:
    """The real server process."""
    with chattable(config(one_upstream)) as running:
        yield running


@pytest.fixture(scope="session")
def key(server: Chattable) -> str:
    """An ordinary user's key."""
    return server.user_key("alice")


@pytest.fixture
def browser(server: Chattable, key: str, upstream: ScriptedUpstream) -> Iterator[Browser]:
    """Plain HTTP with the user's key, where the SDK hides too much."""
    with Browser(server.base_url, key) as ready:
        yield ready


@pytest.fixture(scope="session")
def one_client(server: Chattable, key: str) -> Iterator[OpenAI]:
    """The SDK, which is slow to build; tests take `client`."""
    with OpenAI(base_url=f"{server.base_url}/v1", api_key=key, max_retries=0) as ready:
        yield ready


@pytest.fixture
def client(one_client: OpenAI, upstream: ScriptedUpstream) -> OpenAI:
    """The unmodified SDK, without retries that would hide a failure."""
    return one_client


@pytest.fixture
async def async_client(
    server: Chattable, key: str, upstream: ScriptedUpstream
) -> AsyncIterator[AsyncOpenAI]:
    """The unmodified SDK's asynchronous client."""
    async with AsyncOpenAI(base_url=f"{server.base_url}/v1", api_key=key, max_retries=0) as ready:
        yield ready
