"""The page at /schema: every operation in plain HTML, without scripts and without other hosts."""

from __future__ import annotations

from html import escape
from typing import Any

from litestar import Request
from litestar.openapi.plugins import OpenAPIRenderPlugin

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif }}
body {{ margin: 2rem auto; max-width: 60rem; padding: 0 1rem }}
td {{ padding: .2rem 1rem .2rem 0; vertical-align: top }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>For programs: <a href="/schema/openapi.json">openapi.json</a>,
<a href="/schema/openapi.yaml">openapi.yaml</a>.</p>
<table>
{rows}
</table>
</body>
</html>
"""
ROW = "<tr><td><code>{method}</code></td><td><code>{path}</code></td><td>{summary}</td></tr>"


class SchemaPage(OpenAPIRenderPlugin):
    """Shows an OpenAPI document to people."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The page, in UTF-8."""
        info = openapi_schema["info"]
        rows = [
            ROW.format(
                method=method.upper(),
                path=escape(path + _query(what)),
                summary=escape(what["summary"]),
            )
            for path, methods in sorted(openapi_schema["paths"].items())
            for method, what in methods.items()
        ]
        title = escape(f"{info['title']} {info['version']}")
        return PAGE.format(title=title, rows="\n".join(rows)).encode()


def _query(operation: dict[str, Any]) -> str:
    names = [given["name"] for given in operation.get("parameters", ()) if given["in"] == "query"]
    return "?" + "&".join(names) if names else ""
