"""The command `import-litellm`: a LiteLLM proxy's config becomes one of ours."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from chattable.adapters.services import VENDORS
from chattable.proxy.config import reader
from chattable.proxy.config.document import MAX_BYTES, ConfigError, Problem, dotted, read
from chattable.proxy.importers.litellm.draft import ConfigDraft
from chattable.proxy.importers.litellm.general import add_general
from chattable.proxy.importers.litellm.models import add_models
from chattable.proxy.importers.litellm.report import SettingNote, SettingOutcome
from chattable.proxy.importers.litellm.routing import add_routing
from chattable.proxy.importers.litellm.source import LiteLLMConfig

INCOMPLETE = 3  # the exit code where something has no counterpart; 2 is misuse


class Converted(NamedTuple):
    """What a LiteLLM config became."""

    text: str
    source: LiteLLMConfig

    def report(self, file: str) -> Iterator[str]:
        """What became of every setting, and what must be set before the made file can be used."""
        notes, variables = self.source.notes, self.source.variables
        yield f"{file}: {_count(notes.all().values())}"
        yield from notes.lines()
        if variables.made:
            yield "Variables that are new; set them before you start:"
            yield from (f"  {made.name}: {made.what} (line {made.line})" for made in variables.made)
        if others := sorted(set(variables.examples) - {made.name for made in variables.made}):
            yield f"Variables that must be set as before: {', '.join(others)}"


def import_litellm(file: str, output: str | None) -> int:
    """Writes the config to a new file or standard output, and the report to standard error."""
    try:
        with Path(file).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(Problem(file, 0, "", f"cannot be read: {error.strerror}")) from None
    made = convert(data, file)
    if output is None:
        sys.stdout.write(made.text)
    else:
        try:
            with Path(output).open("x", encoding="utf-8") as target:
                target.write(made.text)
        except FileExistsError:
            raise ConfigError(
                Problem(output, 0, "", "is there already; move it away, or name another file")
            ) from None
        except OSError as error:
            raise ConfigError(
                Problem(output, 0, "", f"cannot be written: {error.strerror}")
            ) from None
    for line in made.report(file):
        print(line, file=sys.stderr)
    return 0 if made.source.notes.complete else INCOMPLETE


def convert(data: bytes, file: str) -> Converted:
    """Our config for a LiteLLM config.

    ConfigError: it cannot be read, or holds nothing that can be served.
    """
    doc = read(data.replace(b"${", b"$${"), file, {})  # to LiteLLM these characters mean themselves
    doc.check()
    source = LiteLLMConfig(doc)
    if source.top.has("include"):
        doc.complain(
            ("include",), "other files are not read; put what they hold into this one first"
        )
    elif not source.top.items("model_list"):
        doc.complain(
            ("model_list",),
            "is empty: there is nothing to serve "
            "(what LiteLLM keeps in its database is not in the file)",
        )
    doc.check()
    draft = ConfigDraft(source.variables)
    for add in (add_models, add_routing, add_general):
        add(source, draft)
    source.notes.finish()
    doc.check()
    if not draft.models:
        raise ConfigError(*_lost(source))
    text = draft.written(
        [
            *_HEAD,
            f"Made by `chattable import-litellm` from {Path(file).name!a}. See it: chattable check",
        ]
    )
    reader.parse(text.encode(), "(the config made of it)", source.variables.examples, VENDORS)
    return Converted(text, source)


_HEAD = ["yaml-language-server: $schema=./config.schema.json", ""]


def _lost(source: LiteLLMConfig) -> Iterator[Problem]:
    """Why no deployment can be taken."""
    doc = source.doc
    yield Problem(
        doc.file, doc.line(("model_list",)), "model_list", "none of these models can be taken"
    )
    for where, note in source.notes.all().items():
        if where[0] == "model_list" and len(where) == 2:
            yield Problem(doc.file, doc.line(where), dotted(where), note.text)


def _count(notes: Iterable[SettingNote]) -> str:
    outcomes = [note.outcome for note in notes]
    taken, changed, left = (outcomes.count(outcome) for outcome in SettingOutcome)
    return f"{taken} settings taken, {changed} changed, {left} without a counterpart"
