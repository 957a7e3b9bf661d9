"""The lock files: their pins read, and each written for every set of extras that may be asked for.

Before version 23.3 pip, in hash mode, takes `name` and `name[extra]` for two things: where a
package asks for one of them and only the other is pinned, pip looks at the newest release, finds
no hash for it and refuses, from the day on which there is a newer one.
"""

import re
import sys
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, Self

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


class Asked(NamedTuple):
    """What pip tells apart: a package's name and the extras it is asked for with, normalised."""

    name: str
    extras: frozenset[str]

    @classmethod
    def of(cls, requirement: Requirement) -> Self:
        """What this requirement asks for."""
        extras = frozenset(map(canonicalize_name, requirement.extras))
        return cls(canonicalize_name(requirement.name), extras)

    def __str__(self) -> str:
        return f"{self.name}[{','.join(sorted(self.extras))}]" if self.extras else self.name


class Pin(NamedTuple):
    """One entry of a lock file; `rest` is its text after the extras: version, marker and hashes."""

    asked: Asked
    version: str
    marker: Marker | None
    rest: str

    def __str__(self) -> str:
        return f"{self.asked}{self.rest}"


def pins(lock: str) -> list[Pin]:
    """Reads a lock file's text."""
    return [_pin(entry) for entry in re.split(r"^(?=\S)", lock, flags=re.MULTILINE) if entry]


def _pin(entry: str) -> Pin:
    requirement = Requirement(entry.partition("\\\n")[0])
    (equal,) = requirement.specifier
    rest = entry[entry.index("==") :]
    return Pin(Asked.of(requirement), equal.version, requirement.marker, rest)


def for_every_set_of_extras(lock: str) -> str:
    """Returns the lock with each pin repeated for every subset of its extras."""
    entries = (
        f"{Asked(pin.asked.name, frozenset(some))}{pin.rest}"
        for pin in pins(lock)
        for size in range(len(pin.asked.extras) + 1)
        for some in combinations(sorted(pin.asked.extras), size)
    )
    return "".join(dict.fromkeys(entries))


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(for_every_set_of_extras(path.read_text()))
