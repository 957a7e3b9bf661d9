"""Moves bytes to upstreams: aiohttp's connections behind httpx's transport (docs/decisions/002)."""

from __future__ import annotations

import ssl
from typing import Self

import aiohttp
import httpx
import yarl


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends one request and streams its answer.

    Law: no redirects, no cookies, no proxies from the environment, no decompression; safe to cancel
    at any await, which closes the connection. Errors are httpx's own. The caller closes the
    response, read to its end or not.
    """

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._timeouts: dict[float | None, aiohttp.ClientTimeout] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The response, its headers read and its body not yet."""
        session = self._session or self._open()
        connect = request.extensions.get("timeout", {}).get("connect")
        timeout = self._timeouts.get(connect)
        if timeout is None:
            timeout = self._timeouts[connect] = aiohttp.ClientTimeout(
                total=None, sock_connect=connect
            )
        try:
            response = await session.request(
                request.method,
                yarl.URL(str(request.url), encoded=True),
                data=request.read(),
                headers=[
                    (k.decode("latin-1"), v.decode("latin-1"))
                    for k, v in request.headers.raw
                    if k.lower() != b"host"
                ],
                allow_redirects=False,
                timeout=timeout,
            )
        except (aiohttp.ConnectionTimeoutError, aiohttp.SocketTimeoutError) as error:
            raise httpx.ConnectTimeout(str(error), request=request) from error
        except (aiohttp.ClientConnectorError, aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise httpx.ConnectError(str(error), request=request) from error
        except aiohttp.ServerConnectionError as error:
            raise httpx.RemoteProtocolError(str(error), request=request) from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx.ReadError(str(error), request=request) from error
        return httpx.Response(response.status, headers=response.raw_headers, stream=_Body(response))

    async def aclose(self) -> None:
        """Closes every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        """Opens the session: late, because it belongs to the running loop."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        )
        return self._session


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            block = await self._response.content.readany()
        except aiohttp.ClientPayloadError as error:
            raise httpx.RemoteProtocolError(str(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx.ReadError(str(error)) from error
        if not block:
            raise StopAsyncIteration
        return block

    async def aclose(self) -> None:
        self._response.close() if not self._response.content.at_eof() else self._response.release()
