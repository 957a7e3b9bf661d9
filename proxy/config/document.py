"""YAML in which every value knows its line, so that a mistake is named where it stands."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

MAX_BYTES = 1 << 20
MAX_DEPTH = 50  # libyaml's composer is recursive C, with no bound of its own
MAX_VALUES = 100_000  # aliases written out: nine lines of them can stand for a billion values
FAILED: Any = object()  # takes the place of a value that has a problem already

Where = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_SCALARS = {_TAG + kind for kind in ("int", "float", "bool", "null")}
_READS_AS = {_TAG + "timestamp": "a date", _TAG + "bool": "a boolean", _TAG + "null": "nothing",
             _TAG + "int": "a number", _TAG + "float": "a number"}  # fmt: skip
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_VARIABLE = re.compile(
    r"\$\$\{|\$\{(?:(?P<name>[A-Za-z_]\w*)(?P<default>:-(?:(?!\$\{)[^}])*)?\})?", re.ASCII
)


class Problem(NamedTuple):
    """One thing to mend; line 0 means that no line is to blame."""

    file: str
    line: int
    path: str
    text: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(filter(None, (place, self.path, self.text)))


class VariableUnset(ValueError):
    """`${VAR}` names an environment variable that is not set."""


class ConfigError(Exception):
    """A configuration is refused; `problems` are all its mistakes, in the order of the file."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(map(str, self.problems)))


class Document:
    """The plain values of a file, the line of each, and at most one problem for each place."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.value: Any = {}
        # places whose text came from `${VAR}`: `port: ${PORT}` means a number
        self.expanded: set[Where] = set()
        self.unset: dict[Where, str] = {}  # places whose variable is not set → what was said of it
        self.lines: dict[Where, int] = {(): 1}
        self._problems: dict[Where, Problem] = {}

    def line(self, where: Where) -> int:
        """The line of a place, or of what it is in."""
        while where not in self.lines:
            where = where[:-1]
        return self.lines[where]

    def complain(self, where: Where, text: str, line: int = 0) -> None:
        """Notes a problem, unless the place has one."""
        self._problems.setdefault(
            where, Problem(self.file, line or self.line(where), dotted(where), text)
        )

    def lacks_variable(self, where: Where) -> bool:
        """Whether a place, or one in it, has no value because a variable is not set."""
        return any(place[: len(where)] == where for place in self.unset)

    def troubled(self, where: Where) -> bool:
        """Whether anything is wrong at a place or in it."""
        return any(place[: len(where)] == where for place in (*self.unset, *self._problems))

    def check(self) -> None:
        """Raises what was noted."""
        if self._problems:
            raise ConfigError(*self._problems.values())


def read(data: bytes, file: str, env: Mapping[str, str]) -> Document:
    """Reads a mapping; raises what makes the rest unreadable and notes everything else."""
    doc = Document(file)
    node = _compose(data, file)
    if node is not None and node.tag != _TAG + "null":
        doc.value = _Builder(doc, env).build(node, ())
    if doc.value is not FAILED and not isinstance(doc.value, dict):
        doc.complain((), "must hold settings, such as `server:` with `port: 8000` below it")
    if not isinstance(doc.value, dict):
        doc.check()
    return doc


def expand(text: str, env: Mapping[str, str]) -> str:
    """Replaces `${VAR}` and `${VAR:-default}` by the environment, `$${` by `${`; or ValueError."""

    def value(found: re.Match[str]) -> str:
        name, default = found["name"], found["default"]
        if found[0] == "$${":
            return "${"
        if name is None:
            raise ValueError(
                "holds `${` that is no ${VAR} or ${VAR:-default}; write $${ to mean the characters"
            )
        if name not in env and default is None:
            what = f"needs the environment variable {name}, which is not set"
            raise VariableUnset(f"{what}; set it or write ${{{name}:-default}}")
        return env.get(name, "") or (default or "")[2:]

    return _VARIABLE.sub(value, text)


def dotted(where: Where) -> str:
    """A place as `models.fast.provider` or `admin_keys[0]`; a name of several words is quoted."""
    text = ""
    for part in where:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += "." * bool(text) + (
                part if re.fullmatch(r"[\w/*:@-]+", part) else json.dumps(part)
            )
    return text


def _compose(data: bytes, file: str) -> yaml.Node | None:
    if len(data) > MAX_BYTES:
        raise ConfigError(Problem(file, 0, "", f"is larger than {MAX_BYTES // 1024} KiB"))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ConfigError(Problem(file, line, "", what)) from None
    if bad := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        raise ConfigError(
            Problem(file, line, "", f"YAML does not allow the character U+{ord(bad[0]):04X}")
        )
    try:
        _refuse_depth(text, file)
        node: yaml.Node | None = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        raise ConfigError(_syntax(error, text, file)) from None
    return node


def _refuse_depth(text: str, file: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(
            event, yaml.CollectionEndEvent
        )
        if depth > MAX_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else 0
            raise ConfigError(Problem(file, line, "", f"is nested deeper than {MAX_DEPTH} levels"))


def _syntax(error: yaml.YAMLError, text: str, file: str) -> Problem:
    mark = getattr(error, "problem_mark", None)
    if not isinstance(error, yaml.MarkedYAMLError) or mark is None:
        return Problem(file, 1, "", "the YAML cannot be read")
    source = re.split(r"\r\n|[\r\n\x85\u2028\u2029]", text)
    line = min(mark.line, len(source) - 1)  # to libyaml the end of a file has a line of its own
    what = f"column {mark.column + 1}: {error.problem}"
    if re.match(r" *\t", source[line]):
        what += "; indent with spaces, not tabs"
    elif "${" in source[line]:
        what += "; put ${…} in quotes"
    elif error.context_mark and error.context_mark.line < line:
        what += f", {error.context} that begins on line {error.context_mark.line + 1}"
    return Problem(file, line + 1, "", what)


class _Builder:
    """Turns nodes into plain values: what JSON could hold, with text for keys."""

    def __init__(self, doc: Document, env: Mapping[str, str]) -> None:
        self.doc, self.env, self.left = doc, env, MAX_VALUES
        self.merged: dict[yaml.Node, dict[str, tuple[yaml.Node, yaml.Node]]] = {}
        self.constructor = yaml.constructor.SafeConstructor()

    def build(self, node: yaml.Node, where: Where) -> Any:
        self.spend(1, node)
        self.doc.lines.setdefault(where, node.start_mark.line + 1)
        if len(where) > MAX_DEPTH:
            raise self.refusal(node, f"is nested deeper than {MAX_DEPTH} levels")
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self.mapping(node, where)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.build(item, (*where, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "str":
            return self.text(node.value, where)
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return self.scalar(node, where)
        return self.failed(where, _refused_tag(node))

    def mapping(self, node: yaml.MappingNode, where: Where) -> dict[str, Any]:
        pairs = self.pairs(node, where)
        for key, (key_node, _) in pairs.items():
            self.doc.lines[(*where, key)] = key_node.start_mark.line + 1
        return {key: self.build(value, (*where, key)) for key, (_, value) in pairs.items()}

    def pairs(self, node: yaml.MappingNode, where: Where) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """What a mapping holds; its own keys, each there once, win over those merged by `<<`."""
        if node in self.merged:
            return self.merged[node]
        own = self.merged[node] = {}
        base: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if key.tag == _TAG + "merge":
                for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    base = self.merge(source, where) | base
            elif key.tag != _TAG + "str":
                name = key.value if isinstance(key, yaml.ScalarNode) else "?"
                self.failed((*where, name), _refused_key(key), key)
            elif key.value in own:
                first = own[key.value][0].start_mark.line + 1
                self.failed((*where, key.value), f"is set twice; the first is on line {first}", key)
            else:
                own[key.value] = (key, value)
        self.merged[node] = base | own
        return self.merged[node]

    def merge(self, node: yaml.Node, where: Where) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            self.failed((*where, "<<"), "can merge mappings only", node)
            return {}
        pairs = self.pairs(node, where)
        self.spend(len(pairs), node)
        return pairs

    def text(self, text: str, where: Where) -> Any:
        try:
            value = expand(text, self.env)
            value.encode()
        except UnicodeEncodeError:
            return self.failed(where, "holds what is not Unicode text")
        except VariableUnset as error:
            if str(error) not in self.doc.unset.values():  # once is enough for all its places
                self.failed(where, str(error))
            self.doc.unset[where] = str(error)
            return FAILED
        except ValueError as error:
            return self.failed(where, str(error))
        if "\0" in value:
            return self.failed(where, "holds a NUL character")
        if _VARIABLE.search(text):
            self.doc.expanded.add(where)
        return value

    def scalar(self, node: yaml.ScalarNode, where: Where) -> Any:
        try:
            value = self.constructor.construct_object(node)
        except (ValueError, KeyError, IndexError, OverflowError, yaml.YAMLError):
            return self.failed(where, f"cannot be read as {_READS_AS[node.tag]}")
        if isinstance(value, float) and not math.isfinite(value):
            return self.failed(where, "must be a finite number")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return self.failed(where, "must be a number of at most 64 bits")
        return value

    def failed(self, where: Where, text: str, node: yaml.Node | None = None) -> Any:
        self.doc.complain(where, text, node.start_mark.line + 1 if node else 0)
        return FAILED

    def spend(self, values: int, node: yaml.Node) -> None:
        self.left -= values
        if self.left < 0:
            raise self.refusal(
                node, f"holds more than {MAX_VALUES:,} values, counting what aliases stand for"
            )

    def refusal(self, node: yaml.Node, text: str) -> ConfigError:
        return ConfigError(Problem(self.doc.file, node.start_mark.line + 1, "", text))


def _refused_tag(node: yaml.Node) -> str:
    if node.tag == _TAG + "timestamp":
        return "is a date in YAML; put it in quotes to mean text"
    if node.tag in (_TAG + "value", _TAG + "merge"):
        return "has a meaning of its own in YAML; put it in quotes to mean text"
    return f"has the tag {node.tag.replace(_TAG, '!!')}, which is not allowed here"


def _refused_key(key: yaml.Node) -> str:
    reads = _READS_AS.get(key.tag)
    return (
        f"is {reads} in YAML, and a key must be text; put it in quotes"
        if reads
        else "is no key: a key must be text"
    )
