"""Puts a transport of httpx's (a mock, respx's router) in the place of the network."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

import httpx

from chattable.adapters.transport import ConnectFailed, ConnectionLost, ConnectTimedOut, Request

T = TypeVar("T")


class HttpxTransport:
    """Sends requests through httpx's types."""

    def __init__(self, serving: httpx.AsyncBaseTransport) -> None:
        self._serving = serving

    def send(self, request: Request, connect: float | None = None) -> "HttpxResponse":
        return HttpxResponse(self._serving, request)


class HttpxResponse:
    """The answer of such a transport."""

    def __init__(self, serving: httpx.AsyncBaseTransport, request: Request) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        lines = [line.partition(b": ") for line in request.headers.splitlines()]
        self._serving, self._request = (
            serving,
            httpx.Request(
                request.method,
                request.url.text,
                headers=[(name, value) for name, _, value in lines],
                content=request.body,
            ),
        )
        self._stream: httpx.AsyncByteStream | None = None
        self._limit: asyncio.Timeout | None = None
        self._closing: asyncio.Task[None] | None = None
        self._closed = False

    async def head(self, seconds: float) -> None:
        try:
            response = await self._within(
                seconds, self._serving.handle_async_request(self._request)
            )
        except BaseException:
            self.close()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self.status, self._stream = response.status_code, response.stream
        self._blocks: AsyncIterator[bytes] = aiter(self._stream)
        self.headers = [(name.lower(), value) for name, value in response.headers.raw]

    async def read(self, seconds: float) -> bytes:
        return await self._within(seconds, _next(self._blocks))

    async def _within(self, seconds: float, doing: Awaitable[T]) -> T:
        """What it comes to, in so many seconds and with the seam's errors."""
        try:
            async with asyncio.timeout(seconds) as self._limit:
                return await doing
        except TimeoutError:
            if self._closed:
                raise ConnectionLost("closed on this side") from None
            raise
        except httpx.ConnectTimeout as error:
            raise ConnectTimedOut(str(error)) from None
        except httpx.ConnectError as error:
            raise ConnectFailed(str(error)) from None
        except httpx.TransportError as error:
            raise ConnectionLost(str(error)) from None
        finally:
            self._limit = None

    def close(self) -> None:
        self._closed = True
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(0)
        if self._stream is not None and self._closing is None:
            self._closing = asyncio.ensure_future(_close(self._stream))


async def _next(blocks: AsyncIterator[bytes]) -> bytes:
    return await anext(blocks, b"")


async def _close(stream: httpx.AsyncByteStream) -> None:
    await stream.aclose()
