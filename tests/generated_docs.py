"""Writes what pages under docs/ show of the program itself; `make docs` runs it.

A page is written by hand but for its generated places, which begin with a comment such as
`<!-- settings: server -->` or `<!-- operation: create_user -->` and end with `<!-- end -->`. The
settings are read from their structs, the operations from the OpenAPI document.
"""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import msgspec
from litestar import Litestar

from chattable.proxy.app import build
from chattable.proxy.config.decoder import is_struct, notes, parts
from chattable.proxy.config.setting_types import Secret, seconds
from chattable.proxy.config.settings import Config

DOCS = Path(__file__).parents[1] / "docs"
PLACE = re.compile(r"<!-- (settings|operation): (\S+) -->\n(.*?)<!-- end -->\n", re.S)
WIDTH = 100  # of a line, a table's too: what does not fit stands below its table

Json = dict[str, Any]


class Setting(NamedTuple):
    """One setting as the manual shows it."""

    name: str  # dotted, `*` being a name of the user's
    kind: str
    default: str
    does: str


def write() -> None:
    """Writes every generated place anew."""
    for path in DOCS.glob("*.md"):
        text = path.read_text()
        if (now := renewed(text)) != text:
            path.write_text(now)


def renewed(text: str) -> str:
    """A page with what its generated places ought to say."""

    def place(found: re.Match[str]) -> str:
        kind, name, _ = found.groups()
        said = settings_table(name) if kind == "settings" else operation(name)
        return f"<!-- {kind}: {name} -->\n{said}\n<!-- end -->\n"

    return PLACE.sub(place, text)


# Settings


def all_settings() -> list[Setting]:
    """Every setting, in the order of the structs; where several structs share a key, the first."""
    found: dict[str, Setting] = {}
    for setting in _settings(Config, ""):
        found.setdefault(setting.name, setting)
    return list(found.values())


def _settings(struct: type[msgspec.Struct], prefix: str) -> Iterator[Setting]:
    for field in msgspec.structs.fields(struct):
        if field.name == getattr(struct, "REST", None):
            continue
        name = f"{prefix}{field.name}"
        inner = parts(field.type)
        named = [part for part in inner if get_origin(part) is dict]
        below = [part for entry in named for part in parts(get_args(entry)[1])]
        for part in inner:
            if is_struct(part):
                yield from _settings(part, f"{name}.")
        for part in below:
            if is_struct(part):
                yield from _settings(part, f"{name}.*.")
        if not any(map(is_struct, [*inner, *below])):
            does = next((note.description for note in notes(field.type) if note.description), "")
            does, _, default = does.partition("; default: ")
            if field.required:
                default = "needed"
            elif field.default not in (msgspec.NODEFAULT, None, "", ()):
                default = f"`{_shown(field.type, field.default)}`"
            yield Setting(name, _kind(field.type), default, does)


def _kind(kind: Any) -> str:
    """The type of a setting in a word or two."""
    extras = [note.extra or {} for note in notes(kind)]
    [first, *_] = parts(kind)
    if get_origin(first) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(first) if choice)
    if get_origin(first) is tuple:
        return "list"
    if get_origin(first) is dict:
        return "mapping"
    if any(extra.get("parse") is seconds for extra in extras):
        return "duration"
    if first is Secret:
        return "secret"
    names = {bool: "yes or no", int: "whole number", float: "number", str: "text"}
    return names.get(first, "text")


def _shown(kind: Any, value: Any) -> str:
    """A default as config.yaml would say it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, float) and _kind(kind) == "duration":
        units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
        return next(f"{value / size:g}{unit}" for unit, size in units if value % size == 0)
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings_table(prefix: str) -> str:
    """The settings below `prefix` (`-`: those of no section) as a table."""
    chosen = [
        (setting.name.removeprefix(f"{prefix}."), *setting[1:])
        for setting in all_settings()
        if setting.name.startswith(f"{prefix}.") or (prefix == "-" and "." not in setting.name)
    ]
    assert chosen, f"there is no setting below {prefix}"
    rows = [(f"`{name}`", kind, default, does) for name, kind, default, does in chosen]
    return table(("setting", "type", "default", "what it does"), rows)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table of lines that fit; what a row's last cells say stands below where it does not."""
    lines, below = [line(head), line(tuple("---" for _ in head)).replace(" ", "")], []
    for row in rows:
        cells, long = list(row), []
        for at in sorted(range(1, len(row)), key=lambda at: -len(row[at])):
            if len(line(tuple(cells))) <= WIDTH:
                break
            long.append((head[at], row[at]))
            cells[at] = "see below"
        lines.append(line(tuple(cells)))
        if long:
            said = "; ".join(text if at == head[-1] else f"{at}: {text}" for at, text in long)
            below.append(item(f"{row[0]}: {said}."))
    return "\n".join([*lines, *([""] if below else []), *below])


def line(cells: tuple[str, ...]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |".replace(
        "  ", " "
    )


def item(text: str) -> str:
    """One item of a list."""
    return textwrap.fill(text, WIDTH, initial_indent="- ", subsequent_indent="  ", **KEEP)


KEEP: Any = {"break_long_words": False, "break_on_hyphens": False}

# Operations

# What the examples put into paths: names that the examples before have made.
NAMES = {
    "user": "alice",
    "team": "TEAM_ID",
    "name": "echo",
    "conversation_id": "my-chat",
    "key_id": "KEY_ID",
    "limit_id": "BUDGET_ID",
    "session_id": "SESSION_ID",
    "item_id": "ITEM_ID",
}
HELLO: Json = {"role": "user", "content": "Hello"}
# What the examples send: by operation.
BODIES: Mapping[str, Any] = {
    "create_user": {"name": "alice", "team": "red"},
    "update_user": {"team": "blue"},
    "create_key": {"name": "laptop", "models": ["echo"]},
    "create_team": {"name": "green"},
    "rename_team": {"name": "lime"},
    "create_budget": {"subject": {"user": "alice"}, "per": "day", "tokens": 3000},
    "change_budget": {"tokens": 5000},
    "grant_budget": {"tokens": 1000, "reason": "a demo today"},
    "refund_budget": {"tokens": 100, "reason": "a broken answer"},
    "create_conversation": {"alias": "my-chat", "metadata": {"topic": "greetings"}},
    "update_conversation": {"title": "Greetings"},
    "title_conversation": {"title": "Greetings"},
    "fork_conversation": {"alias": "my-fork"},
    "add_items": {"items": [HELLO]},
    "import_conversations": {"messages": [HELLO]},
    "chat_completions": {"model": "echo", "messages": [HELLO]},
    "forward_embeddings": {"model": "fast", "input": "Hello"},
    "forward_completions": {"model": "fast", "prompt": "Hello"},
    "forward_moderations": {"model": "fast", "input": "Hello"},
    "forward_images_generations": {"model": "fast", "prompt": "a fox"},
    "forward_audio_speech": {"model": "fast", "input": "Hello", "voice": "alloy"},
    "forward_rerank": {"model": "fast", "query": "fox", "documents": ["a fox", "a crow"]},
}
QUERIES = {
    "get_usage": "?group_by=user,model",
    "get_my_usage": "?group_by=model",
    "list_budgets": "?user=alice",
    "list_audit": "?action=user.create",
    "list_ledger": "?user=alice",
    "list_sessions": "?limit=10",
    "purge_cache": "?user=alice",
    "list_items": "?order=asc",
    "export_conversation": "?format=markdown",
    "import_conversations": "?format=openai",
}
TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "yes or no",
    "array": "list",
    "object": "object",
    "null": "null",
}


def document() -> Json:
    """The OpenAPI document, as /schema/openapi.json has it."""
    app = build(Config(database_url="sqlite:///:memory:")).app
    assert isinstance(app, Litestar)
    schema: Json = app.openapi_schema.to_schema()
    return schema


class Operations:
    """Every operation by its id."""

    def __init__(self) -> None:
        self.document = document()
        self.by_id: dict[str, tuple[str, str, Json]] = {
            one["operationId"]: (method.upper(), path, one)
            for path, methods in self.document["paths"].items()
            for method, one in methods.items()
        }

    def resolved(self, schema: Json) -> Json:
        """A schema, looked up where it is a reference."""
        name = schema.get("$ref", "").rpartition("/")[2]
        return self.document["components"]["schemas"][name] if name else schema


@cache
def operations() -> Operations:
    """The operations, read once."""
    return Operations()


def operation(name: str) -> str:
    """What the manual says of one operation."""
    method, path, one = operations().by_id[name]
    said = [f"### {one['summary']}", f"`{method} {path}`"]
    if given := one.get("parameters"):
        rows = [
            (f"`{p['name']}`", p["in"], _type(p["schema"]), _default(p), p.get("description", ""))
            for p in given
        ]
        said.append(table(("parameter", "in", "type", "default", ""), rows))
    said += _body(one)
    said += _answer(one)
    codes = [status for status in sorted(one["responses"]) if status >= "400"]
    said.append(f"Errors: {', '.join(codes)}.")
    said.append(f"```bash\n{example(name)}\n```")
    return "\n\n".join(said)


def _type(schema: Json) -> str:
    arms = schema.get("oneOf", [schema])
    if choices := [choice for arm in arms for choice in arm.get("enum", []) if choice]:
        return ", ".join(f"`{choice}`" for choice in choices)
    return " or ".join(TYPES.get(arm.get("type", ""), "object" if "$ref" in arm else "anything")
                       for arm in arms)  # fmt: skip


def _default(given: Json) -> str:
    if given.get("required"):
        return "needed"
    default = given["schema"].get("default")
    return "" if default in (None, "") else f"`{json.dumps(default).strip(chr(34))}`"


def _body(one: Json) -> list[str]:
    content = one.get("requestBody", {}).get("content", {})
    said = []
    for media, given in content.items():
        schema = operations().resolved(given["schema"])
        if "properties" not in schema:
            said.append(f"Body: a file ({media}).")
            continue
        needed = schema.get("required", [])
        rows = [
            (f"`{name}`", _type(field), _default({"required": name in needed, "schema": field}))
            for name, field in schema["properties"].items()
        ]
        said.append(table(("field", "type", "default"), rows))
        if schema.get("additionalProperties"):
            said.append("Every other field is passed on.")
    return said


def _answer(one: Json) -> list[str]:
    said = []
    for status, answer in one["responses"].items():
        for media, given in answer.get("content", {}).items() if status < "400" else ():
            schema = operations().resolved(given["schema"])
            fields = ", ".join(f"`{name}`" for name in schema.get("properties", ()))
            text = (
                f"Answer: {status}" if media == "application/json" else f"Answer: {status}, {media}"
            )
            said.append(
                textwrap.fill(f"{text}: {fields}." if fields else f"{text}.", WIDTH, **KEEP)
            )
    return said


def example(name: str) -> str:
    """One command that asks for it, in lines that fit."""
    method, path, one = operations().by_id[name]
    for given in one.get("parameters", []):
        path = path.replace(f"{{{given['name']}}}", NAMES.get(given["name"], ""))
    url = f"http://127.0.0.1:8000{path}{QUERIES.get(name, '')}"
    words = ["curl -s"]
    if method != ("POST" if name in BODIES else "GET"):
        words.append(f"-X {method}")
    words.append(f'"{url}"' if "?" in url else url)
    if one.get("security"):
        words.append('-H "Authorization: Bearer YOUR_KEY"')
    if name in BODIES:
        words.append(f"-d '{json.dumps(BODIES[name])}'")
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) + 3 > WIDTH:
            lines[-1] += " \\"
            lines.append(f"  {word}")
        else:
            lines[-1] += f" {word}"
    return "\n".join(lines)


if __name__ == "__main__":
    write()
