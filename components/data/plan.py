"""The plan of one source: which documents lie in which packed row, as a pure function of (seed, index, packing).

An epoch is a keyed permutation of the documents, cut into windows; each window is packed on its own and its rows are shuffled.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from components.data.keyed import generator
from components.data.packing import pack


@dataclass(frozen=True)
class Position:
    """A packed row of a source."""

    epoch: int
    window: int
    row: int


@dataclass(frozen=True)
class Anchor:
    """A known fact: row number `ordinal` of the source is the first row of this window. The cursor of a source."""

    ordinal: int = 0
    epoch: int = 0
    window: int = 0


class SourcePlan:
    """Packed rows of one source. Numbers of documents refer to the sequence of lengths it was made from."""

    def __init__(
        self, name: str, lengths: Sequence[int], capacity: int, window_documents: int, seed: int, anchor: Anchor = Anchor()
    ) -> None:
        """`lengths` in tokens, each at most `capacity`. Rows before `anchor` can be read by position, not by ordinal."""
        if not lengths:
            raise ValueError(f"source {name} has no documents")
        self.name = name
        self._lengths = lengths
        self._capacity = capacity
        self._window_documents = window_documents
        self._seed = seed
        self._anchors = [anchor]
        self._permutation = lru_cache(maxsize=2)(self._permute)
        self._packed = lru_cache(maxsize=8)(self._pack)

    @property
    def windows(self) -> int:
        """Windows per epoch."""
        return -(-len(self._lengths) // self._window_documents)

    def row(self, position: Position) -> list[int]:
        """Documents of a row, in row order."""
        return self._packed(position.epoch, position.window)[position.row]

    def anchor(self, ordinal: int) -> Anchor:
        """The window that holds row number `ordinal`, counted from the first epoch. Windows up to it are packed once."""
        if ordinal < self._anchors[0].ordinal:
            raise ValueError(f"source {self.name}: row {ordinal} lies before the cursor this stream was opened at")
        while (last := self._anchors[-1]).ordinal + (count := len(self._packed(last.epoch, last.window))) <= ordinal:
            epoch, window = divmod(last.epoch * self.windows + last.window + 1, self.windows)
            self._anchors.append(Anchor(last.ordinal + count, epoch, window))
        return self._anchors[bisect_right(self._anchors, ordinal, key=lambda anchor: anchor.ordinal) - 1]

    def locate(self, ordinal: int) -> Position:
        """Position of row number `ordinal`."""
        anchor = self.anchor(ordinal)
        return Position(anchor.epoch, anchor.window, ordinal - anchor.ordinal)

    def _permute(self, epoch: int) -> np.ndarray:
        return generator(self._seed, "epoch", self.name, epoch).permutation(len(self._lengths))

    def _pack(self, epoch: int, window: int) -> list[list[int]]:
        start = window * self._window_documents
        documents = self._permutation(epoch)[start : start + self._window_documents].tolist()
        rows = pack([self._lengths[document] for document in documents], self._capacity)
        rng = generator(self._seed, "window", self.name, epoch, window)
        return [[documents[number] for number in rng.permutation(rows[row])] for row in rng.permutation(len(rows))]
