"""Asks an upstream once: the one place that owns its connections and deadlines.

The router decides who is asked next.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from email.utils import parsedate_to_datetime
from typing import NoReturn

from chattable.adapters.connections import Connections, Slot
from chattable.adapters.decoding import BLANK
from chattable.adapters.encodings import unpacked
from chattable.adapters.errors import (
    CircuitOpened,
    ConnectionReclaimed,
    InvalidUpstreamResponse,
    UpstreamError,
    UpstreamHTTPError,
    UpstreamTimedOut,
    UpstreamUnreachable,
)
from chattable.adapters.keys import ApiKey, Keys
from chattable.adapters.sse import EventTooLarge
from chattable.adapters.stream_reading import StreamReading, UpstreamTimeouts, says_something
from chattable.adapters.transport import (
    Body,
    ConnectFailed,
    ConnectTimedOut,
    Request,
    Response,
    Transport,
    TransportError,
    Url,
    header,
    header_lines,
)
from chattable.adapters.wire import Wire
from chattable.agents.chat import Chunk, Message
from chattable.agents.chattable import Chattable, Context, FailedAttempt, Progress, Trace
from chattable.agents.errors import clip

log = logging.getLogger("chattable")

OF_ANY_KIND = "application/octet-stream"  # where an upstream's word for it is none
MAX_BODY_BYTES = 64 * 2**20  # of an answer that comes at once
MAX_ERROR_BYTES = 64 * 2**10  # of an error that are read
MAX_REMEMBERED_URLS = 1000
MIN_SECRET_PART_CHARS = 16  # a part of a key that is secret by itself


class UpstreamProvider:
    """One upstream service: where it is, how it speaks, and how many connections it gets."""

    def __init__(
        self,
        name: str,
        wire: Wire,
        base_url: str,
        transport: Transport,
        *,
        api_key: str = "",
        api_keys: Sequence[str] = (),
        max_connections: int = 1000,
    ) -> None:
        self.name = name
        self.wire = wire
        self.transport = transport
        self.connections = Connections(max_connections)
        self.point_at(base_url)
        secrets = api_keys or (api_key,)
        self._secrets = [key for key in secrets if len(key) >= 4]
        self._secrets += [
            part for key in secrets for part in key.split(":") if len(part) >= MIN_SECRET_PART_CHARS
        ]
        self.media = wire.framing.media.encode()
        common = [
            ("content-type", "application/json"),
            ("accept", f"application/json, {wire.framing.media}"),
            ("accept-encoding", "identity"),
            ("user-agent", "chattable"),
        ]
        self.keys = Keys(
            [ApiKey(key, header_lines([*wire.headers(key), *common])) for key in secrets]
        )

    def point_at(self, base_url: str) -> None:
        """Says where the service is, also when that is known only once it runs."""
        self.base = Url.parse(base_url.rstrip("/"))
        self._urls: dict[str, Url] = {}

    def url(self, path: str) -> Url:
        """The URL of a path below the base URL, parsed once."""
        if (url := self._urls.get(path)) is None:
            # behind a wildcard every client may name models of its own
            if len(self._urls) >= MAX_REMEMBERED_URLS:
                self._urls.clear()
            url = self._urls[path] = Url.parse(f"{self.base.text}{path}")
        return url

    def headers_for(self, key: ApiKey, url: Url, body: bytes) -> bytes:
        """The headers of one attempt, which some providers want signed."""
        own = self.wire.signature(key.secret, url.authority, url.target, body)
        return key.headers + header_lines(own) if own else key.headers

    def redact(self, text: str) -> str:
        """The text without this provider's key and address."""
        for secret in (*self._secrets, self.base.text, self.base.authority, self.base.host):
            text = text.replace(secret, "…")
        return clip(text, 1000)

    def redacted(self, error: UpstreamError) -> UpstreamError:
        """The error without this provider's key and address."""
        error.message = self.redact(error.message)
        error.param = error.param and self.redact(error.param)
        error.code = error.code and self.redact(error.code)
        return error


class Upstream(Chattable):
    """A model of a provider."""

    leaf = True
    supports = frozenset({"n", "response_format"})

    def __init__(
        self,
        provider: UpstreamProvider,
        model: str,
        *,
        timeouts: UpstreamTimeouts | None = None,
        retries: int = 2,
        description: str = "",
        max_output: int | None = None,
    ) -> None:
        self.provider = provider
        self.model = model
        # becomes a header, and behind a wildcard it is the client's own text
        self.asked = clip(f"{provider.name}/{model}")
        self.timeouts = timeouts or UpstreamTimeouts()
        self.retries = retries
        self.description = description
        self.max_output = max_output  # tokens it can write, if that is known

    async def chat(self, message: Message, ctx: Context) -> AsyncGenerator[Chunk]:
        """The upstream's answer, chunk by chunk; raises `UpstreamError`."""
        provider, trace, progress = self.provider, ctx.trace, ctx.progress
        body = provider.wire.build_request(ctx.request, self.model, self.max_output)
        asked = time.monotonic()
        begun = progress.began or asked
        async with Slot(provider.connections, ctx.user.id, trace, self.timeouts.connect) as slot:
            try:
                stream = ctx.request.stream
                url = provider.url(provider.wire.path(self.model, stream))
                patience, within = self._patience(progress, stream=stream)
                response, key = await self._open(body, url, begun, patience, slot, progress)
                events = header(response, b"content-type").lower().startswith(provider.media)
                try:
                    n = ctx.request.params.get("n")
                    read = self._stream if stream or events else self._whole
                    first = True
                    async with aclosing(read(response, begun, n, within)) as chunks:
                        async for chunk in chunks:
                            if first and chunk.usage is None:
                                first = False
                                trace.waited += time.monotonic() - asked
                            yield chunk
                except UpstreamHTTPError as error:
                    provider.keys.note_refusal(key, error)
                    raise (self._for_all_keys(error, slot) if first else error) from None
                finally:
                    response.close()
            except UpstreamError as error:
                raise self._noted(error, slot) from error.__cause__

    async def forward(
        self, path: str, body: bytes, user: str, trace: Trace, progress: Progress
    ) -> tuple[str, bytes]:
        """The provider's answer to a request that is no chat: its content type and its body."""
        provider, asked = self.provider, time.monotonic()
        begun = progress.began or asked
        async with Slot(provider.connections, user, trace, self.timeouts.connect) as slot:
            try:
                url = provider.url(path)
                patience, _ = self._patience(progress, stream=False)
                response, _ = await self._open(body, url, begun, patience, slot, progress)
                try:
                    trace.waited += time.monotonic() - asked
                    kind = header(response, b"content-type").decode("latin-1")
                    if not (kind.isascii() and kind.isprintable()):
                        kind = OF_ANY_KIND
                    return kind, await self._read(response, begun, patience)
                finally:
                    response.close()
            except UpstreamError as error:
                raise self._noted(error, slot) from error.__cause__

    def _noted(self, error: UpstreamError, slot: Slot) -> UpstreamError:
        """The error of an attempt without secrets, noted for the operator."""
        if slot.yielding and not isinstance(error, UpstreamHTTPError):
            return ConnectionReclaimed()
        error = self.provider.redacted(error)
        if not isinstance(error, CircuitOpened):
            slot.trace.failures.append(
                FailedAttempt(self.asked, error.message, getattr(error, "status", None))
            )
        return error

    def _for_all_keys(self, error: UpstreamHTTPError, slot: Slot) -> UpstreamHTTPError:
        """The error that the request gets for the refusal of one key, which operators see."""
        instead = self.provider.keys.for_all_keys(error)
        if instead is not error:
            self._noted(error, slot)
        return instead

    def _patience(self, progress: Progress, *, stream: bool) -> tuple[float, float]:
        """Seconds until an answer must have begun, and until one that comes at once must be there.

        Both are short if another model can be asked instead.
        """
        total = self.timeouts.total
        soon = min(self.timeouts.first_token, total)
        return soon if stream or progress.followed else total, soon if progress.followed else total

    async def _open(
        self,
        body: bytes,
        url: Url,
        begun: float,
        patience: float,
        slot: Slot,
        progress: Progress,
    ) -> tuple[Response, ApiKey]:
        """A response whose status is 2xx, and the key that got it.

        If a key is refused, another one is tried at once.
        """
        if progress.worth is not None and not progress.worth():
            raise CircuitOpened
        keys, trace = self.provider.keys, slot.trace
        trace.asked = self.asked
        while True:
            if slot.yielding:  # it was told to before there was anything to end
                raise ConnectionReclaimed
            trace.attempts += 1
            if progress.home and len(keys) > 1:
                key, at_home = keys.for_session(progress.home)
                trace.affinity = trace.affinity if at_home else "moved"
            else:
                key = keys.next()
            try:
                return await self._send(
                    body, url, key, begun + patience, patience, slot, progress
                ), key
            except UpstreamHTTPError as error:
                if not keys.note_refusal(key, error):
                    raise self._for_all_keys(error, slot) from None
                self._noted(error, slot)

    async def _send(
        self,
        body: bytes,
        url: Url,
        key: ApiKey,
        until: float,
        patience: float,
        slot: Slot,
        progress: Progress,
    ) -> Response:
        connect, before = self.timeouts.connect, progress.sent
        headers = self.provider.headers_for(key, url, body)
        response = self.provider.transport.send(Request("POST", url, headers, body), connect)
        slot.stop = response.close
        progress.sent = True
        try:
            await response.head(until - time.monotonic())
        except TimeoutError:
            raise UpstreamTimedOut("did not answer", patience) from None
        except ConnectTimedOut:
            progress.sent = before
            raise UpstreamTimedOut("could not be reached", connect) from None
        except ConnectFailed:
            progress.sent = before
            raise UpstreamUnreachable("The upstream could not be reached.", sent=False) from None
        except TransportError:
            raise UpstreamUnreachable(
                "The upstream closed the connection without an answer.", sent=True
            ) from None
        if encoding := header(response, b"content-encoding"):
            response = unpacked(response, encoding.decode("latin-1"))
        if not 200 <= response.status < 300:
            progress.sent = before  # refused: it costs nothing
            await self._refuse(response)
        return response

    async def _refuse(self, response: Response) -> NoReturn:
        """Raises what an error status means."""
        status, body = response.status, bytearray()
        until = time.monotonic() + self.timeouts.connect
        try:
            while block := await response.read(until - time.monotonic()):
                body += block
                if len(body) > MAX_ERROR_BYTES:
                    break
        except (TimeoutError, TransportError, InvalidUpstreamResponse):
            pass  # the status says enough
        finally:
            response.close()
        if 300 <= status < 400:
            raise InvalidUpstreamResponse("answered with a redirect, which is never followed")
        error = self.provider.wire.parse_error(status, bytes(body))
        # else what the wire found in the body
        if (wait := _retry_after(response)) is not None:
            error.retry_after = wait
        raise error

    async def _whole(
        self,
        response: Body,
        begun: float,
        n: int | None,
        within: float,
        head: bytes = b"",
    ) -> AsyncGenerator[Chunk]:
        """An answer that comes at once, or a stream that does not say that it is one."""
        body = (head + await self._read(response, begun, within)).lstrip(BLANK)
        if body[:1] not in (b"", b"{", b"["):
            again = self._stream(_Whole(body), begun, n, within, time.monotonic())
            async with aclosing(again) as streamed:
                async for chunk in streamed:
                    yield chunk
            return
        chunks = self.provider.wire.parse_response(body)
        if not any(says_something(chunk) for chunk in chunks):
            raise InvalidUpstreamResponse("ended without an answer")
        for chunk in chunks:
            yield chunk

    async def _read(self, response: Body, begun: float, seconds: float) -> bytes:
        read, size, until = [], 0, begun + seconds
        try:
            while block := await response.read(until - time.monotonic()):
                read.append(block)
                size += len(block)
                if size > MAX_BODY_BYTES:
                    raise InvalidUpstreamResponse(f"sent more than {MAX_BODY_BYTES >> 20} MiB")
        except TimeoutError:
            raise UpstreamTimedOut("did not finish its answer", seconds) from None
        except TransportError:
            raise InvalidUpstreamResponse(
                "closed the connection in the middle of its answer"
            ) from None
        return b"".join(read)

    async def _stream(
        self,
        response: Body,
        begun: float,
        n: int | None,
        within: float,
        since: float = 0.0,
    ) -> AsyncGenerator[Chunk]:
        """An answer that comes in events, or at once after all; silent since `begun` or `since`."""
        reading = StreamReading(self.provider.wire, self.timeouts, n, begun, since)
        try:
            while not reading.over:
                left = reading.deadline() - time.monotonic()
                try:
                    # where there is always something to read, reading never times out
                    if left <= 0:
                        raise TimeoutError
                    chunks = reading.take(await response.read(left))
                except (TimeoutError, TransportError, EventTooLarge) as error:
                    reading.cut_off(error)
                    break
                if reading.whole:
                    whole = self._whole(response, begun, n, within, reading.whole)
                    async with aclosing(whole):
                        async for chunk in whole:
                            yield chunk
                    return
                for chunk in chunks:
                    yield chunk
                if reading.failure is not None:
                    raise reading.failure
        finally:
            if reading.lost:
                log.warning(
                    "%s: %d events that nobody can read were left out of an answer",
                    self.asked,
                    reading.lost,
                )
        if not reading.said:
            raise InvalidUpstreamResponse("ended without an answer")


class _Whole:
    """A body that has been read already."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def read(self, seconds: float) -> bytes:
        body, self._body = self._body, b""
        return body


def _retry_after(response: Response) -> float | None:
    """Seconds that the upstream asks to wait, by retry-after-ms or retry-after (or its date)."""
    try:
        if ms := header(response, b"retry-after-ms"):
            seconds = float(ms) / 1000
        elif not (text := header(response, b"retry-after").decode("latin-1")):
            return None
        elif text.strip().replace(".", "", 1).isdigit():
            seconds = float(text)
        else:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return seconds if 0 <= seconds < 1e9 else None
