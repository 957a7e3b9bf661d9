"""What became of every setting of a LiteLLM config: taken, changed, or left, each with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, NamedTuple

from chattable.proxy.config.document import Document, Where, dotted
from chattable.proxy.importers.litellm.reasons import why


class SettingOutcome(IntEnum):
    """What may become of a setting; of two outcomes the greater counts."""

    TAKEN = 0
    CHANGED = 1
    LEFT = 2


class SettingNote(NamedTuple):
    """What became of one place, and what is to be said of it."""

    outcome: SettingOutcome
    text: str


_TITLES = {
    SettingOutcome.TAKEN: "Taken as it is",
    SettingOutcome.CHANGED: "Taken, but changed",
    SettingOutcome.LEFT: "No counterpart",
}
_SECTIONS = ("litellm_settings", "general_settings", "router_settings", "environment_variables")
# places whose parts are reported one by one, even where none of them was taken
_OPENED = re.compile(
    r"(model_list(\[\](\.(litellm_params|model_info))?)?"
    rf"|credential_list(\[\](\.credential_values)?)?|{'|'.join(_SECTIONS)}"
    r"|litellm_settings\.cache_params)?"
)


class SettingNotes:
    """The report.

    Law: every value of the input is under exactly one place that has a note, once `finish` was
    called.
    """

    def __init__(self, doc: Document) -> None:
        self._doc = doc
        self._notes: dict[Where, SettingNote] = {}

    def taken(self, where: Where, text: str = "") -> None:
        self._add(where, SettingOutcome.TAKEN, text)

    def changed(self, where: Where, text: str) -> None:
        self._add(where, SettingOutcome.CHANGED, text)

    def left(self, where: Where, text: str) -> None:
        """Leaves a place with all that is below it, whatever is said of that."""
        self._add(where, SettingOutcome.LEFT, text)

    def finish(self) -> None:
        """Leaves what nobody asked for."""
        left = {place for place, note in self._notes.items() if note.outcome is SettingOutcome.LEFT}
        for place in [
            place
            for place in self._notes
            if any(place[:depth] in left for depth in range(len(place)))
        ]:
            del self._notes[place]
        self._visit(
            (),
            self._doc.value,
            {place[:depth] for place in self._notes for depth in range(len(place))},
        )

    def all(self) -> dict[Where, SettingNote]:
        return dict(self._notes)

    @property
    def complete(self) -> bool:
        """Whether all was taken."""
        return not any(note.outcome is SettingOutcome.LEFT for note in self._notes.values())

    def lines(self) -> Iterator[str]:
        """The report as text."""
        for outcome, title in _TITLES.items():
            groups: dict[tuple[str, str], list[int]] = {}
            for where, note in self._notes.items():
                if note.outcome is outcome:
                    groups.setdefault((general(where), note.text), []).append(self._doc.line(where))
            if groups:
                yield f"{title}:"
            for (path, text), found in sorted(groups.items(), key=lambda group: min(group[1])):
                numbers = sorted(set(found))
                lines = f"line{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
                line = ": ".join(filter(None, (lines, path, text)))
                yield f"  {line if line.isprintable() else ascii(line)[1:-1]}"

    def _add(self, where: Where, outcome: SettingOutcome, text: str) -> None:
        old = self._notes.get(where)
        if old is not None:
            outcome, text = (
                max(old.outcome, outcome),
                "; ".join(filter(None, dict.fromkeys((old.text, text)))),
            )
        self._notes[where] = SettingNote(outcome, text)

    def _visit(self, where: Where, value: Any, above: set[Where]) -> None:
        """Notes what nobody asked for; `above` holds the places below which something is noted."""
        if where in self._notes:
            return
        parts = (
            value.items()
            if isinstance(value, dict)
            else enumerate(value)
            if isinstance(value, list)
            else ()
        )
        if not value and not isinstance(value, bool | int | float):  # nothing is set
            self.taken(where)
        elif parts and (where in above or _OPENED.fullmatch(general(where))):
            for key, part in parts:
                self._visit((*where, key), part, above)
        else:
            self.left(where, why(where))


def general(where: Where) -> str:
    """A place without the numbers in it, so that those of all deployments look alike."""
    return re.sub(r"\[\d+\]", "[]", dotted(where))
