"""Guards and types of every route, and what the OpenAPI document says of each operation."""

from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest
from litestar import Litestar, Request
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from chattable.proxy.app import build
from chattable.proxy.config.settings import Config
from chattable.proxy.routes.guards import known_queries, require_admin, require_key

OPEN = {"get_root", "get_health", "get_readiness"}
RAW = {  # they ask for a key and read their body themselves, for every request has its price
    "chat_completions",
    *(f"forward_{name}" for name in ("embeddings", "completions", "moderations", "rerank")),
    *("forward_images_generations", "forward_audio_speech"),
}
NO_BODY = {"verify_ledger"}  # of those that write
FREE_FORM = {"get_item"}  # an item has the shape of what it is


@pytest.fixture(scope="module")
def app() -> Litestar:
    app = build(Config(database_url="sqlite:///:memory:")).app
    assert isinstance(app, Litestar)
    return app


@pytest.fixture(scope="module")
def document(app: Litestar) -> dict[str, Any]:
    return app.openapi_schema.to_schema()


def handlers(app: Litestar) -> Iterator[tuple[str, str, HTTPRouteHandler]]:
    """Every route's path, what it is called, and its handler; not those of the document itself."""
    for route in app.routes:
        assert isinstance(route, HTTPRoute)
        for handler, _ in route.route_handler_map.values():
            if "OPTIONS" not in handler.http_methods and not route.path.startswith("/schema"):
                name = handler.operation_id or handler.handler_name
                assert isinstance(name, str)
                yield route.path, name, handler


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def test_every_route_is_guarded_or_named_here(app: Litestar) -> None:
    found = list(handlers(app))
    assert len(found) > 50
    for path, name, handler in found:
        guards = handler.resolve_guards()
        if path.startswith("/admin/"):
            assert guards[:2] == [require_admin, known_queries], path
        elif name in OPEN | RAW:
            assert not guards, path
        else:
            assert guards[0] is require_key, path
        assert (known_queries in guards) == path.startswith(("/admin/", "/v1/me/")), path
    assert {name for _, name, _ in found} >= OPEN | RAW


def test_every_handler_but_the_raw_ones_has_types(app: Litestar) -> None:
    for path, name, handler in handlers(app):
        hints = get_type_hints(handler.fn)
        requests = [hint for hint in hints.values() if getattr(hint, "__origin__", hint) is Request]
        assert bool(requests) == (name in RAW | {"import_conversations"}), path
        writes = handler.http_methods & {"POST", "PATCH", "PUT"}
        if writes and not requests and name not in NO_BODY:
            assert hints["data"].__struct_config__.forbid_unknown_fields, path


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) > 50
    assert len(set(ids)) == len(ids)
    for method, path, operation in operations(document):
        assert operation["summary"] and len(operation["tags"]) == 1, path
        name = operation["operationId"]
        if name in OPEN:
            assert "security" not in operation, path
        else:
            assert operation["security"] == [{"bearer": []}], path
        if method in ("post", "patch") and name not in NO_BODY:
            assert all(kind["schema"] for kind in operation["requestBody"]["content"].values())
        else:
            assert "requestBody" not in operation, path
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"


def test_every_parameter_is_described(document: dict[str, Any]) -> None:
    for _, path, operation in operations(document):
        given = operation.get("parameters", [])
        places = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
        assert sorted(one["name"] for one in given if one["in"] == "path") == sorted(places), path
        for one in given:
            assert one["schema"].get("type") or one["schema"].get("oneOf"), (path, one["name"])
            assert one["required"] == (one["in"] == "path"), (path, one["name"])
            assert one["name"] != "limit" or one["schema"]["type"] == "integer", path


def test_every_answer_is_described(document: dict[str, Any]) -> None:
    for _, path, operation in operations(document):
        name, answers = operation["operationId"], operation["responses"]
        [good] = [status for status in answers if status.startswith("2")]
        for kind, content in answers[good]["content"].items():
            schema = content["schema"]
            typed = "$ref" in schema or schema.get("properties") or kind != "application/json"
            assert typed or name in FREE_FORM | RAW, path
        errors = {status: one for status, one in answers.items() if status >= "400"}
        expected = {"400", "500", "503"}
        expected |= set() if name in OPEN else {"401"}
        expected |= {"403"} if path.startswith("/admin/") else set()
        expected |= {"404"} if "{" in path else set()
        expected |= {"413", "415"} if "requestBody" in operation else set()
        assert expected <= set(errors), path
        for status, error in errors.items():
            if (name, status) != ("get_readiness", "503"):
                [(kind, content)] = error["content"].items()
                assert kind == "application/json", path
                assert content["schema"] == {"$ref": "#/components/schemas/Error"}, (path, status)
                assert error["description"], path


def test_the_error_is_openais(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["Error"]["required"] == ["error"]
    assert schemas["ErrorDetail"]["required"] == ["code", "message", "param", "type"]


def test_a_named_part_of_the_document_says_nothing_of_our_modules(
    document: dict[str, Any],
) -> None:
    assert all(name.isalnum() for name in document["components"]["schemas"])
