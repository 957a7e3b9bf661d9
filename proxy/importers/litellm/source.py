"""A LiteLLM config as it is read: values with their places, and the variables they need."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from chattable.adapters.services import VENDORS
from chattable.proxy.config.document import Document, Where
from chattable.proxy.importers.litellm.report import SettingNotes

_REFERENCE = re.compile(r"os\.environ/(.+)", re.DOTALL)
_NUMBER = re.compile(r"\d{1,15}(\.\d{1,15})?(e-?\d{1,2})?")
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
# what a variable of a key may hold, to see that the made file can be read
SECRET = "Hq7-vT3m_K1xW9pLd"  # noqa: S105


class NewVariable(NamedTuple):
    """A variable that the input did not have."""

    name: str
    line: int
    what: str


class Variables:
    """The variables that the made file needs.

    Law: what is secret in the input is nowhere in what is made.
    """

    def __init__(self, doc: Document) -> None:
        self.examples: dict[str, str] = {}  # name → what it may hold
        self.made: list[NewVariable] = []
        self._doc = doc
        self._secrets: dict[str, str] = {}
        self._used = {vendor.key_env for vendor in VENDORS.values()} | set(_references(doc.value))

    def text(self, value: str, where: Where, example: str) -> str:
        """A value in our spelling: `os.environ/NAME` becomes `${NAME}`, all else means itself."""
        found = _REFERENCE.fullmatch(value)
        if not found:
            return escaped(value)
        if _NAME.fullmatch(found[1]):
            return self.need(found[1], example)
        return self._make(
            found[1],
            where,
            f"what the variable `{found[1]}` holds, whose name cannot be used here",
            example,
        )

    def secret(self, value: str, where: Where, name: str) -> str:
        """A reference to a value that must not be copied, also where it was spelled out."""
        if is_reference(value):
            return self.text(value, where, SECRET)
        if value not in self._secrets:
            self._secrets[value] = self._make(name, where, "the secret", SECRET)
        return self._secrets[value]

    def need(self, name: str, example: str, default: str | None = None) -> str:
        self.examples.setdefault(name, example)
        return f"${{{name}}}" if default is None else f"${{{name}:-{default}}}"

    def hide(self, where: Where, name: str, what: str, example: str) -> str:
        """A variable for something that holds a secret."""
        return self._make(name, where, what, example)

    def _make(self, hint: str, where: Where, what: str, example: str) -> str:
        stem = re.sub(r"\W+", "_", hint, flags=re.ASCII).strip("_").upper() or "SECRET"
        stem = f"_{stem}" if stem[0].isdigit() else stem
        name, number = stem, 2
        while name in self._used:
            name, number = f"{stem}_{number}", number + 1
        self._used.add(name)
        self.made.append(NewVariable(name, self._doc.line(where), what))
        return self.need(name, example)


def escaped(text: str) -> str:
    """Text that means itself, also where it holds `${`."""
    return text.replace("${", "$${")


def is_reference(value: str) -> bool:
    """Whether a value only names an environment variable, as LiteLLM writes it."""
    return _REFERENCE.fullmatch(value) is not None


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, str) and (found := _REFERENCE.fullmatch(value)):
        yield found[1]
    for part in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from _references(part)


class LiteLLMConfig:
    """The file with its report and its variables."""

    def __init__(self, doc: Document) -> None:
        self.doc = doc
        self.notes = SettingNotes(doc)
        self.variables = Variables(doc)
        self.top = InputMapping(self, doc.value, ())


class InputMapping:
    """A mapping of the input; a value of the wrong type is complained of and counts as none."""

    def __init__(self, source: LiteLLMConfig, value: Any, where: Where) -> None:
        self.source, self.place = source, where
        if value is not None and not isinstance(value, dict):
            source.doc.complain(where, "must be a mapping")
            value = None
        self._values: dict[str, tuple[Any, Where]] = {
            key: (item, (*where, key)) for key, item in (value or {}).items()
        }

    def over(self, base: InputMapping) -> InputMapping:
        """These settings with what `base` has besides."""
        both = InputMapping(self.source, None, self.place)
        both._values = {
            **base._values,
            **{key: found for key, found in self._values.items() if found[0] is not None},
        }
        return both

    def has(self, *names: str) -> bool:
        """Whether one of them is set."""
        return any(self.raw(name) is not None for name in names)

    def first(self, *names: str) -> str:
        """The one of these that is set, else the first."""
        return next((name for name in names if self.has(name)), names[0])

    def where(self, name: str) -> Where:
        return self._values[name][1] if name in self._values else (*self.place, name)

    def raw(self, name: str) -> Any:
        return self._values[name][0] if name in self._values else None

    def text(self, name: str) -> str | None:
        value = self.raw(name)
        if value is not None and not isinstance(value, str):
            self._wrong(
                name, "must be text" + "; put it in quotes" * isinstance(value, int | float)
            )
            return None
        return value

    def number(self, name: str, most: float = 2**53) -> float | None:
        """A number, which may stand in quotes; a variable is left, and so is what is too great."""
        value = self.raw(name)
        if value is None:
            return None
        if isinstance(value, str) and is_reference(value):
            self.left(name, "a variable cannot be reckoned with; write the number")
            return None
        if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
            value = float(value)
        if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            self._wrong(name, "must be a number, 0 or more")
            return None
        if value > most:
            self.left(name, f"at most {most:g} here")
            return None
        return value

    def flag(self, name: str) -> bool | None:
        value = self.raw(name)
        if isinstance(value, str) and is_reference(value):
            self.left(name, "a variable cannot be looked into; write true or false")
            return None
        known = {"true": True, "false": False}
        value = known.get(value.lower(), value) if isinstance(value, str) else value
        if value is None or isinstance(value, bool):
            return value
        self._wrong(name, "must be true or false")
        return None

    def section(self, name: str) -> InputMapping:
        return InputMapping(self.source, self.raw(name), self.where(name))

    def items(self, name: str) -> list[tuple[Any, Where]]:
        value = self.raw(name)
        if value is not None and not isinstance(value, list):
            self._wrong(name, "must be a list")
        return (
            [(item, (*self.where(name), i)) for i, item in enumerate(value)]
            if isinstance(value, list)
            else []
        )

    def sections(self, name: str) -> list[InputMapping]:
        return [InputMapping(self.source, item, where) for item, where in self.items(name)]

    def pairs(self) -> list[tuple[str, Any, Where]]:
        return [
            (key, value, where) for key, (value, where) in self._values.items() if value is not None
        ]

    def taken(self, *names: str) -> None:
        for name in filter(self.has, names):
            self.source.notes.taken(self.where(name))

    def changed(self, name: str, text: str) -> None:
        if self.has(name):
            self.source.notes.changed(self.where(name), text)

    def left(self, name: str, text: str) -> None:
        if self.has(name):
            self.source.notes.left(self.where(name), text)

    def _wrong(self, name: str, text: str) -> None:
        self.source.doc.complain(self.where(name), text)
