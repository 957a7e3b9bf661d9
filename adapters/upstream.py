"""Asks an upstream, once: the one place that owns its connections and deadlines.

Who is asked next is the router's to say.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from email.utils import parsedate_to_datetime
from functools import partial
from typing import NoReturn

import httpx
from msgspec import Struct

from chattable.adapters.connections import Connections, Slot
from chattable.adapters.decoding import BLANK
from chattable.adapters.encodings import unpack
from chattable.adapters.errors import (
    BrokenAnswer,
    GaveWay,
    Noise,
    Overtaken,
    Refused,
    TimedOut,
    Unreachable,
    UpstreamError,
)
from chattable.adapters.keys import ApiKey, Keys
from chattable.adapters.sse import EventTooLargeError
from chattable.adapters.wire import Wire
from chattable.agents.chat import Chunk, Message
from chattable.agents.chattable import Chattable, Context, Failure, Progress, Trace
from chattable.agents.errors import clip

log = logging.getLogger("chattable")

MAX_BODY = 64 * 2**20  # bytes of an answer that comes at once
MAX_ERROR = 64 * 2**10  # bytes of an error that are read
MAX_URLS = 1000  # that are remembered
SECRET_PART = 16  # characters from which on a part of a key is secret by itself
USAGE_GRACE = 5.0  # seconds that the usage may come later than the last finish reason
# seconds that a finished answer gets to end its body, so that its connection can be used again
END_GRACE = 0.2


class Timeouts(Struct, frozen=True):
    """How long an upstream may take, in seconds."""

    connect: float = 5.0
    # of silence: models that reason say nothing for minutes, and many servers no comments either
    first_token: float = 300.0
    between_tokens: float = 30.0
    total: float = 600.0


class Provider:
    """One upstream service: where it is, how it speaks, and how many connections it gets."""

    def __init__(
        self,
        name: str,
        wire: Wire,
        base_url: str,
        transport: httpx.AsyncBaseTransport,
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
            part for key in secrets for part in key.split(":") if len(part) >= SECRET_PART
        ]
        self.media = wire.frames.media.encode()
        common = [
            ("content-type", "application/json"),
            ("accept", f"application/json, {wire.frames.media}"),
            ("accept-encoding", "identity"),
            ("user-agent", "chattable"),
        ]
        self.keys = Keys(
            [ApiKey(key, httpx.Headers([*wire.headers(key), *common])) for key in secrets]
        )

    def point_at(self, base_url: str) -> None:
        """Says where the service is, also when that is known only once it runs."""
        self.base = httpx.URL(base_url.rstrip("/"))
        self._urls: dict[str, httpx.URL] = {}

    def url(self, model: str, stream: bool) -> httpx.URL:
        """Where a request for a model goes; parsed once."""
        path = self.wire.path(model, stream)
        if (url := self._urls.get(path)) is None:
            # behind a wildcard every client may name models of its own
            if len(self._urls) >= MAX_URLS:
                self._urls.clear()
            url = self._urls[path] = httpx.URL(f"{self.base}{path}")
        return url

    def headers_for(self, key: ApiKey, url: httpx.URL, body: bytes) -> httpx.Headers:
        """The headers of one attempt, which some providers want signed."""
        own = self.wire.signature(key.secret, url.netloc.decode(), url.raw_path.decode(), body)
        return httpx.Headers([*key.headers.multi_items(), *own]) if own else key.headers

    def redact(self, text: str) -> str:
        """The text without this provider's key and address."""
        for secret in (*self._secrets, str(self.base), self.base.netloc.decode(), self.base.host):
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
        provider: Provider,
        model: str,
        *,
        timeouts: Timeouts | None = None,
        retries: int = 2,
        description: str = "",
        max_output: int | None = None,
    ) -> None:
        self.provider = provider
        self.model = model
        # becomes a header, and behind a wildcard it is the client's own text
        self.asked = clip(f"{provider.name}/{model}")
        self.timeouts = timeouts or Timeouts()
        self.retries = retries
        self.description = description
        self.max_output = max_output  # tokens it can write, if that is known

    async def chat(self, message: Message, ctx: Context) -> AsyncGenerator[Chunk]:
        """The upstream's answer, chunk by chunk; raises `UpstreamError`."""
        provider, trace, progress = self.provider, ctx.trace, ctx.progress
        body = provider.wire.request(ctx.request, self.model, self.max_output)
        asked = time.monotonic()
        begun = progress.began or asked
        async with Slot(provider.connections, ctx.user.id, trace, self.timeouts.connect) as slot:
            try:
                url, stream = provider.url(self.model, ctx.request.stream), ctx.request.stream
                patience = self._patience(progress, stream=stream)
                response, key = await self._open(body, url, begun, patience, slot, progress)
                events = header(response, b"content-type").lower().startswith(provider.media)
                try:
                    params = ctx.request.params
                    n = (params["n"] or 1) if "n" in params else 1
                    within = patience if progress.followed else self.timeouts.total
                    read = self._stream if stream or events else self._whole
                    blocks = response.stream.__aiter__()  # type: ignore[union-attr]
                    first = True
                    async with aclosing(read(blocks, begun, n, within)) as chunks:
                        async for chunk in chunks:
                            if first and chunk.usage is None:
                                first = False
                                trace.waited += time.monotonic() - asked
                            yield chunk
                except Refused as error:
                    provider.keys.refused(key, error)
                    if not first:
                        raise
                    raise self._of_all_keys(error, slot) from None
                finally:
                    await response.stream.aclose()  # type: ignore[union-attr]
            except UpstreamError as error:
                raise self._told(error, slot) from error.__cause__

    async def forward(
        self, path: str, body: bytes, user: str, trace: Trace, progress: Progress
    ) -> tuple[str, bytes]:
        """What the provider answers to something that is no chat, as it comes: the content type and the body."""
        provider, asked = self.provider, time.monotonic()
        begun = progress.began or asked
        async with Slot(provider.connections, user, trace, self.timeouts.connect) as slot:
            try:
                url = httpx.URL(f"{provider.base}{path}")
                patience = self._patience(progress, stream=False)
                response, _ = await self._open(body, url, begun, patience, slot, progress)
                try:
                    trace.waited += time.monotonic() - asked
                    blocks = response.stream.__aiter__()  # type: ignore[union-attr]
                    kind = header(response, b"content-type").decode("latin-1")
                    return kind, await self._read(blocks, begun, patience)
                finally:
                    await response.stream.aclose()  # type: ignore[union-attr]
            except UpstreamError as error:
                raise self._told(error, slot) from error.__cause__

    def _told(self, error: UpstreamError, slot: Slot) -> UpstreamError:
        """How an attempt failed, without secrets, noted for the operator."""
        if slot.yielding and not isinstance(error, Refused):
            return GaveWay()
        error = self.provider.redacted(error)
        if not isinstance(error, Overtaken):
            slot.trace.failures.append(
                Failure(self.asked, error.message, getattr(error, "status", None))
            )
        return error

    def _of_all_keys(self, error: Refused, slot: Slot) -> Refused:
        """What a refusal of one key means for the request; the key's own is noted for the operator."""
        instead = self.provider.keys.of_all(error)
        if instead is not error:
            self._told(error, slot)
        return instead

    def _patience(self, progress: Progress, *, stream: bool) -> float:
        """Seconds until an answer must have begun; a whole one must be there by then if somebody else can be asked."""
        limits = self.timeouts
        return (
            min(limits.first_token, limits.total) if stream or progress.followed else limits.total
        )

    async def _open(
        self,
        body: bytes,
        url: httpx.URL,
        begun: float,
        patience: float,
        slot: Slot,
        progress: Progress,
    ) -> tuple[httpx.Response, ApiKey]:
        """A response whose status is 2xx, and the key that got it; one that is refused gives way to another at once."""
        if progress.worth is not None and not progress.worth():
            raise Overtaken
        keys, trace = self.provider.keys, slot.trace
        trace.asked = self.asked
        while True:
            if slot.yielding:  # it was told to before there was anything to end
                raise GaveWay
            trace.attempts += 1
            if progress.home and len(keys) > 1:
                key, at_home = keys.of(progress.home)
                trace.affinity = trace.affinity if at_home else "moved"
            else:
                key = keys.next()
            try:
                return await self._send(
                    body, url, key, begun + patience, patience, slot, progress
                ), key
            except Refused as error:
                if not keys.refused(key, error):
                    raise self._of_all_keys(error, slot) from None
                self._told(error, slot)

    async def _send(
        self,
        body: bytes,
        url: httpx.URL,
        key: ApiKey,
        until: float,
        patience: float,
        slot: Slot,
        progress: Progress,
    ) -> httpx.Response:
        connect, before = self.timeouts.connect, progress.sent
        request = httpx.Request(
            "POST",
            url,
            headers=self.provider.headers_for(key, url, body),
            # not `content`: that would make httpx work out headers that are known
            stream=httpx.ByteStream(body),
            extensions={"timeout": {"connect": connect}},
        )
        progress.sent = True
        try:
            async with asyncio.timeout_at(_when(until)) as limit:
                slot.stop = partial(_cut_short, limit)
                response = await self.provider.transport.handle_async_request(request)
                slot.stop = partial(_hang_up, response)
                if slot.yielding:  # it was told to in the moment in which the response came
                    slot.give_way()
        except TimeoutError:
            raise TimedOut("did not answer", patience) from None
        except httpx.ConnectTimeout:
            progress.sent = before
            raise TimedOut("could not be reached", connect) from None
        except httpx.ConnectError:
            progress.sent = before
            raise Unreachable("The upstream could not be reached.", sent=False) from None
        except httpx.TransportError:
            raise Unreachable(
                "The upstream closed the connection without an answer.", sent=True
            ) from None
        if encoding := header(response, b"content-encoding"):
            unpack(response, encoding.decode("latin-1"))
        if not 200 <= response.status_code < 300:
            progress.sent = before  # refused: it costs nothing
            await self._refuse(response)
        return response

    async def _refuse(self, response: httpx.Response) -> NoReturn:
        """Raises what an error status means."""
        status, body = response.status_code, bytearray()
        try:
            async with asyncio.timeout(self.timeouts.connect):
                async for block in response.stream:  # type: ignore[union-attr]
                    body += block
                    if len(body) > MAX_ERROR:
                        break
        except (TimeoutError, httpx.TransportError, BrokenAnswer):
            pass  # the status says enough
        finally:
            await response.stream.aclose()  # type: ignore[union-attr]
        if 300 <= status < 400:
            raise BrokenAnswer("answered with a redirect, which is never followed")
        error = self.provider.wire.error(status, bytes(body))
        # else what the wire found in the body
        if (wait := _retry_after(response.headers)) is not None:
            error.retry_after = wait
        raise error

    async def _whole(
        self,
        blocks: AsyncIterator[bytes],
        begun: float,
        n: int,
        within: float,
        head: bytes = b"",
    ) -> AsyncGenerator[Chunk]:
        """An answer that comes at once, also one that is a stream nobody asked for and that does not call itself one."""
        body = (head + await self._read(blocks, begun, within)).lstrip(BLANK)
        if body[:1] not in (b"", b"{", b"["):
            again = httpx.ByteStream(body).__aiter__()
            async with aclosing(
                self._stream(again, begun, n, within, time.monotonic())
            ) as streamed:
                async for chunk in streamed:
                    yield chunk
            return
        chunks = self.provider.wire.reply(body)
        if not any(_says(chunk) for chunk in chunks):
            raise BrokenAnswer("ended without an answer")
        for chunk in chunks:
            yield chunk

    async def _read(self, blocks: AsyncIterator[bytes], begun: float, seconds: float) -> bytes:
        read, size = [], 0
        try:
            async with asyncio.timeout_at(_when(begun + seconds)):
                async for block in blocks:
                    read.append(block)
                    size += len(block)
                    if size > MAX_BODY:
                        raise BrokenAnswer(f"sent more than {MAX_BODY >> 20} MiB")
        except TimeoutError:
            raise TimedOut("did not finish its answer", seconds) from None
        except httpx.TransportError:
            raise BrokenAnswer("closed the connection in the middle of its answer") from None
        return b"".join(read)

    async def _stream(
        self,
        blocks: AsyncIterator[bytes],
        begun: float,
        n: int,
        within: float,
        since: float = 0.0,
    ) -> AsyncGenerator[Chunk]:
        """An answer that comes in events, or at once after all; silent since `begun` or `since`.

        Law: an event that cannot be read, and that no text is lost with, costs nothing but itself.
        """
        limits, frames = self.timeouts, self.provider.wire.frames
        decoder, reader = frames.decoder(), self.provider.wire.stream(n)
        what, seconds = "sent no token", limits.first_token
        since, opened, said, lost = since or begun, frames.bare, False, 0
        try:
            while True:
                until = since + seconds
                if until > begun + limits.total:
                    what, seconds, until = (
                        "did not finish its answer",
                        limits.total,
                        begun + limits.total,
                    )
                if reader.complete and frames.terminated:
                    until = min(until, since + (END_GRACE if reader.ended else USAGE_GRACE))
                try:
                    # a timeout alone never ends a loop that always finds something to read
                    if time.monotonic() >= until:
                        raise TimeoutError
                    async with asyncio.timeout_at(_when(until)):
                        block = await anext(blocks, b"")
                    events = decoder.feed(block) if block else decoder.end()
                except TimeoutError:
                    if reader.complete:
                        break
                    raise TimedOut(what, seconds) from None
                except httpx.TransportError:
                    if reader.complete:
                        break
                    raise BrokenAnswer(
                        "closed the connection in the middle of its answer"
                    ) from None
                except EventTooLargeError:
                    raise BrokenAnswer("sent an event without an end") from None
                if not opened and (start := block.lstrip(BLANK)):
                    opened = True
                    # no line of a stream begins so: it is a whole answer, or an error
                    if start[:1] in (b"{", b"["):
                        async with aclosing(self._whole(blocks, begun, n, within, start)) as whole:
                            async for chunk in whole:
                                yield chunk
                        return
                for event in events:
                    try:
                        chunks = reader.feed(event)
                    except Noise:
                        lost += 1
                        continue
                    for chunk in chunks:
                        if not said and _says(chunk):
                            said, what, seconds = True, "stopped sending", limits.between_tokens
                        yield chunk
                if not block:
                    if reader.complete:
                        break
                    raise BrokenAnswer(
                        "ended its answer in the middle" if said else "ended without an answer"
                    )
                # Comments are life as well, but do not keep up an answer that is over.
                if events or ((b"\n" in block or b"\r" in block) and not reader.complete):
                    since = time.monotonic()
        finally:
            if lost:
                log.warning(
                    "%s: %d events that nobody can read were left out of an answer",
                    self.asked,
                    lost,
                )
        if not said:
            raise BrokenAnswer("ended without an answer")


def _says(chunk: Chunk) -> bool:
    """Whether a chunk holds anything of an answer: words, or how it ended."""
    return bool(chunk.finish_reason) or any(
        value for name, value in chunk.delta.items() if name != "role"
    )


def _cut_short(limit: asyncio.Timeout) -> None:
    """Ends a wait now, unless it is ending already."""
    if not limit.expired():
        limit.reschedule(0)


def _hang_up(response: httpx.Response) -> asyncio.Task[None]:
    """Closes a response from outside: whoever reads it finds its connection gone."""
    return asyncio.get_running_loop().create_task(response.stream.aclose())  # type: ignore[union-attr]


def header(response: httpx.Response, name: bytes) -> bytes:
    """One header as it came; httpx's own look-up decodes all of them first."""
    for key, value in response.headers.raw:
        if key.lower() == name:
            return value
    return b""


def _when(moment: float) -> float:
    """A moment of time.monotonic on the running loop's clock."""
    return asyncio.get_running_loop().time() + moment - time.monotonic()


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds that the upstream asks to wait: from retry-after-ms, or retry-after as seconds or as a date."""
    try:
        if (ms := headers.get("retry-after-ms")) is not None:
            seconds = float(ms) / 1000
        elif (text := headers.get("retry-after")) is None:
            return None
        elif text.strip().replace(".", "", 1).isdigit():
            seconds = float(text)
        else:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return seconds if 0 <= seconds < 1e9 else None
