"""Goes on with an answer that was begun by somebody who failed: what was said is not said again."""

from __future__ import annotations

from collections.abc import Iterable

from chattable.adapters.errors import BrokenAnswer
from chattable.agents.chat import Chunk
from chattable.proxy.cache.entries import TEXTS


class Resume:
    """Takes the beginning of a new answer away, as far as it was said.

    Law: where the two differ, it raises.
    """

    def __init__(self, said: Iterable[Chunk], *, known: bool = True) -> None:
        self.said = list(said)
        self._owed: dict[tuple[int, str], str] = {}  # text that the new answer must begin with
        self._begun: set[int] = set()
        self._finished: dict[int, str] = {}
        # whether all that was said is there and is text, and so can be found again
        self._whole = known
        for chunk in self.said:
            self._note(chunk)

    @property
    def owing(self) -> bool:
        """Whether the new answer has not caught up yet."""
        return any(self._owed.values()) or bool(self._finished)

    def rest(self, chunk: Chunk) -> Chunk | None:
        """What of a chunk is new."""
        if not self._whole:
            raise _differs()
        index, delta = chunk.index, {}
        if chunk.usage is not None:
            if self.owing:
                raise _differs()
            return chunk
        if chunk.finish_reason:
            self._finish(index, chunk.finish_reason)
            return None if self._finished.pop(index, None) else chunk
        cut = False
        for name, value in chunk.delta.items():
            if name == "role" and index in self._begun:
                continue
            owed = self._owed.get((index, name), "")
            if owed and isinstance(value, str):
                if not (owed.startswith(value) or value.startswith(owed)):
                    raise _differs()
                self._owed[index, name] = owed[len(value) :]
                value = value[len(owed) :]
                cut = True
            elif owed:
                raise _differs()
            if value or index not in self._begun:
                delta[name] = value
        if not delta and (cut or not chunk.logprobs):
            return None
        if cut and delta and chunk.logprobs:  # tokens that are half said
            raise _differs()
        return Chunk(index, delta, None, chunk.logprobs, None, chunk.facts)

    def _note(self, chunk: Chunk) -> None:
        self._begun.add(chunk.index)
        if chunk.finish_reason:
            self._finished[chunk.index] = chunk.finish_reason
        for name, value in chunk.delta.items():
            if name in TEXTS and isinstance(value, str | None):
                place = chunk.index, name
                self._owed[place] = self._owed.get(place, "") + (value or "")
            elif name != "role" and value is not None:
                self._whole = False

    def _finish(self, index: int, reason: str) -> None:
        """A choice that ends must have said all, and for the same reason."""
        owing = any(text for (at, _), text in self._owed.items() if at == index)
        if owing or self._finished.get(index, reason) != reason:
            raise _differs()


def _differs() -> BrokenAnswer:
    return BrokenAnswer("failed, and said something else when it was asked again")
