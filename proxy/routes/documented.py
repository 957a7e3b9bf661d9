"""What the OpenAPI document says of every operation, and of those whose handlers have no types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from litestar.enums import MediaType
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin, YamlRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIMediaType,
    Operation,
    RequestBody,
    Schema,
    SecurityScheme,
)
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType
from litestar.plugins import ReceiveRoutePlugin
from litestar.routes import BaseRoute, HTTPRoute

from chattable.proxy.errors import Error
from chattable.proxy.http.schema_page import SchemaPage
from chattable.proxy.routes.guards import require_admin, require_key
from chattable.proxy.version import VERSION

BEARER = [{"bearer": list[str]()}]
ERRORS = {
    400: "The request is wrong: the message says where.",
    401: "There is no key, or it opens nothing.",
    403: "The key may not do this.",
    404: "There is no such thing, or it is somebody else's.",
    409: "It is there already, or somebody else is changing it.",
    413: "The body is larger than the server takes.",
    415: "The body is packed in a way that is not known here.",
    422: "The Idempotency-Key was used with another body.",
    429: "A budget or a rate limit has no room.",
    500: "The server had an error.",
    502: "The provider failed.",
    503: "The server, or what it needs, is unavailable.",
    504: "The provider, or an agent, took too long.",
}
BODY = (400, 413, 415)
ASKED = (*BODY, 401, 403, 404, 409, 422, 429, 500, 502, 503, 504)  # of what asks a model

_TEXT = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING))
CSV = {"text/csv": _TEXT}
EVENTS = {"text/event-stream": _TEXT}
FILE = {
    "application/octet-stream": OpenAPIMediaType(
        schema=Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
    )
}

Content = dict[str, OpenAPIMediaType]


def document() -> OpenAPIConfig:
    """How the document is made and where it is served."""
    bearer = SecurityScheme(
        type="http", scheme="bearer", description="A key of a user, or of an admin."
    )
    return OpenAPIConfig(
        "Chattable",
        VERSION,
        path="/schema",
        render_plugins=(SchemaPage(), JsonRenderPlugin(), YamlRenderPlugin()),
        components=Components(security_schemes={"bearer": bearer}),
        operation_id_creator=lambda handler, _, __: handler.handler_name,
    )


def operation(
    *, body: Content | None = None, answer: Content | None = None, answers: Content | None = None
) -> type[Operation]:
    """An operation with what no type says.

    `body` is what it takes, `answer` what it gives, `answers` what it may give besides.
    """

    @dataclass
    class Described(Operation):
        def __post_init__(self) -> None:
            if body is not None:
                self.request_body = RequestBody(content=body, required=True)
            good: Any = self.responses and self.responses["200"]
            if answer is not None:
                good.content = answer
            if answers is not None:
                good.content = {**good.content, **answers}

    return Described


def errors(*statuses: int) -> dict[int, ResponseSpec]:
    """The errors that a route may answer, all in OpenAI's envelope."""
    return {
        status: ResponseSpec(
            Error,
            description=ERRORS[status],
            generate_examples=False,
            media_type=MediaType.JSON,
        )
        for status in sorted(statuses)
    }


class CommonErrors(ReceiveRoutePlugin):
    """Adds to every operation the errors that follow from its guards and its arguments."""

    def receive_route(self, route: BaseRoute) -> None:
        """Adds them to one route."""
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                said = handler.responses or {}
                handler.responses = {**errors(*_common(handler, route)), **said}


def _common(handler: HTTPRouteHandler, route: HTTPRoute) -> set[int]:
    arguments, guards = handler.parsed_fn_signature.parameters, handler.resolve_guards()
    found = {400, 500, 503}
    if require_key in guards or require_admin in guards:
        found.add(401)
    if require_admin in guards:
        found.add(403)
    if route.path_parameters:
        found.add(404)
    if "data" in arguments:
        found |= {*BODY, 404, 409}
    return found


def _object(required: list[str], **properties: Schema) -> Schema:
    return Schema(
        type=OpenAPIType.OBJECT,
        properties=dict(properties),
        required=required,
        additional_properties=True,
    )


_STRING = Schema(type=OpenAPIType.STRING)
_WHOLE = Schema(type=OpenAPIType.INTEGER)
_YES = Schema(type=OpenAPIType.BOOLEAN)
_ANY = Schema()
_MESSAGE = _object(["role"], role=_STRING, content=_ANY)
_USAGE = _object([], prompt_tokens=_WHOLE, completion_tokens=_WHOLE, total_tokens=_WHOLE)


def _list(items: Schema) -> Schema:
    return Schema(type=OpenAPIType.ARRAY, items=items)


def _json(schema: Schema) -> Content:
    return {"application/json": OpenAPIMediaType(schema=schema)}


# OpenAI's documents say all of it; here is what every client sends and reads.
CHAT = operation(
    body=_json(
        _object(
            ["messages"], model=_STRING, messages=_list(_MESSAGE), stream=_YES,
            conversation=_ANY, user=_ANY, cache=_ANY,
        )
    ),
    answer=_json(
        _object(
            ["id", "object", "created", "model", "choices"],
            id=_STRING, object=_STRING, created=_WHOLE, model=_STRING,
            choices=_list(
                _object(["index", "message"], index=_WHOLE, message=_MESSAGE, finish_reason=_STRING)
            ),
            usage=_USAGE,
        )
    ),
    answers=EVENTS,
)  # fmt: skip
FORWARDED = operation(body=_json(_object([], model=_STRING)), answer=_json(_object([])))
