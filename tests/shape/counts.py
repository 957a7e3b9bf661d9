"""What the shape of a source tree counts, from its syntax alone."""

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

LONG_LINE = 100  # characters, which a line may have
GRADE_C = 11  # of cyclomatic complexity, from which on a function has grade C or worse
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Source:
    """A parsed file."""

    path: Path  # from the root of the tree
    text: str
    module: str
    tree: ast.Module = field(init=False)

    def __post_init__(self) -> None:
        self.tree = ast.parse(self.text)

    @property
    def statements(self) -> int:
        """Statements without docstrings, which are prose."""
        nodes = [node for node in ast.walk(self.tree) if isinstance(node, ast.stmt)]
        return sum(not is_prose(node) for node in nodes)

    @property
    def conditionals(self) -> int:
        return sum(isinstance(node, ast.IfExp) for node in ast.walk(self.tree))

    @property
    def functions(self) -> list[ast.AST]:
        return [node for node in ast.walk(self.tree) if isinstance(node, FUNCTIONS)]

    @property
    def public_classes(self) -> list[str]:
        named = [node.name for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)]
        return [name for name in named if not name.startswith("_")]


@dataclass
class Tree:
    """The files of some folders below a root; their modules are `package` and the path."""

    root: Path
    folders: Sequence[str]
    package: str
    apart: Sequence[str] = ()  # folders whose statements are counted for themselves

    @cached_property
    def sources(self) -> list[Source]:
        found = []
        for folder in self.folders:
            for file in sorted((self.root / folder).rglob("*.py")):
                path = file.relative_to(self.root)
                module = ".".join((self.package, *path.with_suffix("").parts))
                found.append(Source(path, file.read_text(), module))
        return found

    @property
    def lines(self) -> int:
        return sum(len(source.text.splitlines()) for source in self.sources)

    @property
    def long_lines(self) -> int:
        lines = [line for source in self.sources for line in source.text.splitlines()]
        return sum(len(line) > LONG_LINE for line in lines)

    @property
    def conditionals(self) -> int:
        return sum(source.conditionals for source in self.sources)

    @property
    def functions(self) -> int:
        return sum(len(source.functions) for source in self.sources)

    @property
    def branched(self) -> list[str]:
        """The functions of grade C or worse, the worst first."""
        found = [
            (complexity(function), f"{source.path}:{function.lineno} {function.name}")
            for source in self.sources
            for function in source.functions
            if isinstance(function, FUNCTIONS) and complexity(function) >= GRADE_C
        ]
        return [f"{name} ({score})" for score, name in sorted(found, reverse=True)]

    @property
    def twice(self) -> list[str]:
        """The names that stand for several public classes."""
        names = Counter(name for source in self.sources for name in source.public_classes)
        return sorted(name for name, count in names.items() if count > 1)

    def statements(self, *, apart: bool) -> int:
        """The statements of the folders that are counted for themselves, or of all others."""
        return sum(source.statements for source in self.sources if self._is_apart(source) == apart)

    def _is_apart(self, source: Source) -> bool:
        return any(source.path.is_relative_to(folder) for folder in self.apart)

    @property
    def fullest(self) -> tuple[str, int]:
        """The folder that has most files of its own."""
        ((folder, count),) = Counter(str(s.path.parent) for s in self.sources).most_common(1)
        return folder, count

    def files_of(self, folder: str) -> int:
        """The files that a folder has of its own."""
        return sum(source.path.parent == Path(folder) for source in self.sources)

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """The modules of the tree that each module imports when it is imported."""
        modules = {source.module for source in self.sources}
        return {source.module: set(imported(source.tree.body)) & modules for source in self.sources}

    @property
    def longest_chain(self) -> list[str]:
        """The longest way of modules of which each imports the next."""
        known: dict[str, list[str]] = {}

        def below(module: str) -> list[str]:
            if module not in known:
                known[module] = []  # an import in a circle goes nowhere
                chains = [below(other) for other in sorted(self.imports[module])]
                known[module] = [module, *max(chains, key=len, default=[])]
            return known[module]

        return max((below(module) for module in self.imports), key=len, default=[])


def is_prose(node: ast.stmt) -> bool:
    """Whether a statement is a text and nothing else."""
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def imported(body: Sequence[ast.stmt]) -> Iterator[str]:
    """What statements import as they are run: not in functions, nor for type checkers only."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, FUNCTIONS) or is_for_types(node):
            continue
        else:
            yield from imported(below(node))


def below(node: ast.AST) -> list[ast.stmt]:
    """The statements in a statement, those that handle its errors among them."""
    found: list[ast.stmt] = []
    for one in ast.iter_child_nodes(node):
        if isinstance(one, ast.stmt):
            found.append(one)
        elif isinstance(one, ast.ExceptHandler | ast.match_case):
            found += one.body
    return found


def is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"


def complexity(function: ast.AST) -> int:
    """Cyclomatic complexity, counted as radon does: 1 and every branch.

    Functions inside count for themselves.
    """
    return 1 + sum(branches(node) for node in inside(function))


def inside(function: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            yield node
            yield from inside(node)


def branches(node: ast.AST) -> int:
    match node:
        case ast.BoolOp():
            return len(node.values) - 1
        case ast.Try() | ast.TryStar():
            return len(node.handlers) + bool(node.orelse)
        case ast.For() | ast.AsyncFor() | ast.While():
            return 1 + bool(node.orelse)
        case ast.comprehension():
            return 1 + len(node.ifs)
        case ast.Match():
            return len(node.cases)
        case ast.If() | ast.IfExp() | ast.Assert():
            return 1
    return 0
