"""What every route needs of a request: its body, and who sends it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote

import msgspec
from litestar import Request
from litestar.exceptions import InternalServerException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import Receive
from msgspec.structs import replace

from chattable.agents.chat import Json
from chattable.agents.chattable import Trace
from chattable.agents.errors import InvalidRequest, clip
from chattable.proxy.cache.controls import PLAIN, of_header
from chattable.proxy.errors import ClientLeftError, TooLargeError
from chattable.proxy.identity.auth import Caller
from chattable.proxy.parsing.encodings import decompressed
from chattable.proxy.parsing.json_bounds import REQUEST
from chattable.proxy.services import Services
from chattable.proxy.store.errors import Invalid
from chattable.proxy.store.text import is_placeholder

END_USER = (b"x-user-id", b"x-openwebui-user-id")  # ours and LibreChat's; Open WebUI's
LARGE = 2**20  # bytes of a body from which on a look at its asker's budget costs less than the body
PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
MAX_KEY = 255  # characters of an Idempotency-Key

NOT_JSON = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using "
    "your HTTP library "
    "correctly. The API expects a JSON payload, but what was sent was not valid JSON: {}.)"
)


async def read_json(request: Request[Any, Any, Any], limit: int) -> Json:
    """The body as a JSON object, decompressed, whatever content type it claims."""
    return json_object(await read_body(request, limit), request.scope, limit)


async def receive_json(scope: Any, receive: Receive, services: Services, caller: Caller) -> Json:
    """The same where budgets pay: nothing costly is parsed for who has nothing left."""
    limit = services.max_body
    body = await receive_body(scope, receive, limit)
    if len(body) > LARGE or header(scope, b"content-encoding"):
        await services.metering.refuse_spent(caller)
    return json_object(body, scope, limit)


def json_object(body: bytes, scope: Any, limit: int) -> Json:
    """A body as a JSON object; it has at most `limit` bytes once it is decompressed."""
    if encoding := header(scope, b"content-encoding"):
        body = decompressed(body, encoding, limit)
    REQUEST.check(body)
    try:
        value = msgspec.json.decode(body)
    except UnicodeDecodeError:
        raise InvalidRequest(NOT_JSON.format("it is not UTF-8")) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(NOT_JSON.format(str(error))) from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"The request body must be a JSON object, but it is {_kind(value)}.")
    return value


async def receive_body(scope: Any, receive: Receive, limit: int) -> bytes:
    """The body as it came, from the connection itself."""
    if int(header(scope, b"content-length") or 0) > limit:
        raise TooLargeError(limit)
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message: Any = await receive()
        if message["type"] != "http.request":
            raise ClientLeftError
        parts.append(message["body"])
        size += len(parts[-1])
        if size > limit:
            raise TooLargeError(limit)
        more = message["more_body"]
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def read_body(request: Request[Any, Any, Any], limit: int) -> bytes:
    """The body as it came."""
    try:
        # a typed request's own `body` comes here
        return await Request.body(request)
    except RequestEntityTooLarge:
        raise TooLargeError(limit) from None
    except InternalServerException:  # Litestar's word for a client that left
        raise ClientLeftError from None


async def caller_of(scope: Any, services: Services) -> Caller:
    """Who asks, or `UnauthorizedError`."""
    secret = bearer(scope)
    run_keys = services.pipeline.gateway.run_keys
    parent = run_keys.get(secret) if run_keys else None
    principal = parent.caller.principal if parent else await services.auth.principal(secret)
    if principal.trusted and (name := end_user(scope)):
        principal = await services.auth.acting(principal, name)
    ref = services.pipeline.sessions.resolver.of_headers(scope["headers"])
    caller = Caller(
        principal,
        scope["request_id"],
        scope["began"],
        parent=parent,
        cache=PLAIN,
        session_ref=ref,
    )
    sent = dict(scope["headers"])
    if b"x-max-calls" in sent:
        caller = replace(caller, max_calls=_max_calls(header(scope, b"x-max-calls")))
    if b"idempotency-key" in sent:
        caller = replace(caller, idempotency_key=_key(header(scope, b"idempotency-key")))
    if b"cache-control" in sent:
        caller = replace(caller, cache=of_header(header(scope, b"cache-control")))
    scope["caller"] = caller
    return caller


def _max_calls(text: str) -> int | None:
    if text and not (text.isascii() and text.isdigit() and len(text) < 10):
        message = f"The header X-Max-Calls must be a whole number, not '{clip(text)}'."
        raise InvalidRequest(message, param="X-Max-Calls")
    return int(text) if text else None


def _key(text: str) -> str:
    if text and not (len(text) <= MAX_KEY and text.isascii() and text.isprintable()):
        message = (
            f"The header Idempotency-Key must be at most {MAX_KEY} printable ASCII characters."
        )
        raise InvalidRequest(message, param="Idempotency-Key", code="invalid_value")
    return "" if is_placeholder(text) else text


async def on_behalf(caller: Caller, body: Json, services: Services) -> Caller:
    """The caller, as the body's `user` where a trusted key says so and no header did.

    `InvalidRequest` for a `user` that is none, whoever asks; the body moves no other key's charge.
    """
    if "user" not in body or body["user"] is None:
        return caller
    user = _user(body["user"])
    if not user or not caller.principal.trusted or caller.principal.acting:
        return caller
    try:
        principal = await services.auth.acting(caller.principal, user)
    except Invalid as error:
        error.field = "user"  # as it is called here
        raise
    return replace(caller, principal=principal)


def _user(given: Any) -> str:
    """Whom a body's `user` names: as text, or as an object's `id`, as Open WebUI's pipelines do."""
    field = "user"
    if isinstance(given, dict):
        given, field = given.get("id"), "user.id"
    if given is not None and not isinstance(given, str):
        message = f"Invalid type for '{field}': expected a string, but got {clip(given, 40)}."
        raise InvalidRequest(message, param=field, code="invalid_type")
    return "" if given is None or is_placeholder(given) else given


def end_user(scope: Any) -> str:
    """Whom a chat UI asks for, by its headers; what stands for no name is nobody."""
    for name in END_USER:
        value = unquote(header(scope, name))
        if not is_placeholder(value):
            return value
    return ""


def bearer(scope: Any) -> str:
    """The key of a request: what is behind `Bearer`, or `x-api-key`; empty if there is none."""
    value = header(scope, b"authorization")
    scheme, _, secret = value.partition(" ")
    if scheme.lower() == "bearer":
        return secret.strip()
    return value or header(scope, b"x-api-key")


def header(scope: Any, name: bytes) -> str:
    """A header, stripped; empty if absent. A plain scan: Litestar would parse all of them."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1").strip()
    return ""


def integer(text: str, name: str) -> int:
    """A whole number from the query, or `InvalidRequest` naming the parameter."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidRequest(
            f"Invalid value for '{name}': expected a whole number, but got '{clip(text)}'.",
            param=name,
        )
    return int(text)


def upstream_headers(trace: Trace | None) -> dict[str, str]:
    """Which provider and model answered, in how many attempts; empty if none was asked."""
    if trace is None or not trace.attempts:
        return {}
    asked = trace.asked if trace.asked.isascii() else quote(trace.asked, safe=PRINTABLE)
    headers = {"x-chattable-model": asked, "x-chattable-attempts": str(trace.attempts)}
    if trace.affinity:
        headers["x-chattable-affinity"] = trace.affinity
    return headers


def _kind(value: Any) -> str:
    kinds = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")
