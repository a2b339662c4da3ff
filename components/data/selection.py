"""Which documents a name of the mixture means, without listing them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from components.data.documents import CorpusError, Split
from components.params import Kind


@dataclass(frozen=True)
class Group:
    """Documents of one split, source and kind: places `start` to `start + documents` of the index's order."""

    split: Split
    source: str
    kind: Kind
    start: int
    documents: int

    @property
    def names(self) -> tuple[str, str, str]:
        """What a mixture may call it by."""
        return (self.kind, self.source, f"{self.source}/{self.kind}")


class Documents(Protocol):
    """Numbers of documents that are read where they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """Document numbers, int64, at places 0..len-1; any shape."""
        ...


class Listed:
    """Documents that are listed one by one, four bytes each."""

    def __init__(self, numbers: np.ndarray) -> None:
        """`numbers`: uint32."""
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """See Documents."""
        return self._numbers[places].astype(np.int64)


class Selection:
    """Numbers of the documents of some groups, one group after the other. Looks like an array that is read where it is asked for."""

    def __init__(self, groups: Sequence[Group], order: np.ndarray | None) -> None:
        self.groups = tuple(groups)
        self._order = order
        self._starts = np.array([group.start for group in groups], np.int64)
        self._ends = np.cumsum(np.array([group.documents for group in groups], np.int64))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """Document numbers, int64, at places 0..len-1; any shape."""
        if len(self._starts) == 1:
            numbers = places + self._starts[0]
        else:
            group = np.searchsorted(self._ends, places, side="right")
            numbers = places - np.concatenate([[0], self._ends[:-1]])[group] + self._starts[group]
        return numbers if self._order is None else self._order[numbers].astype(np.int64)

    @property
    def kinds(self) -> frozenset[Kind]:
        """Kinds of its documents."""
        return frozenset(group.kind for group in self.groups)


def named(groups: Iterable[Group], name: str) -> list[Group]:
    """The groups that a name means. Raises CorpusError for one that is a kind and also a source that holds other kinds."""
    found = [[group for group in groups if group.names[place] == name] for place in range(3)]
    meanings = [one for one in found if one]
    if any(one != meanings[0] for one in meanings[1:]):
        raise CorpusError(f"`{name}` is a kind of documents and the name of a source; write SOURCE/KIND for what is meant")
    return meanings[0] if meanings else []


def names_of(groups: Iterable[Group]) -> list[str]:
    """All names that mean something, kinds first."""
    groups = list(groups)
    return [*dict.fromkeys(name for place in range(3) for name in sorted({group.names[place] for group in groups}))]
