"""Which documents lie in which window: a keyed permutation of a source's documents for each epoch, or a keyed draw from several sources."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol

import numpy as np

from components.data.keyed import digest
from components.data.mixture import Mixture
from components.data.permutation import Permutation
from components.data.selection import Documents
from components.data.window_packer import Window

_AT_ONCE = 1 << 13
"""Positions that are permuted at once, so that they stay in the processor's cache."""


class Windows(Protocol):
    """The windows of a plan, numbered through all epochs."""

    name: str
    per_epoch: int

    def window(self, epoch: int, first: int, count: int) -> list[Window]:
        """`count` windows of an epoch from number `first` on; fewer where the epoch ends."""
        ...


class Epochs:
    """The documents of one source, as often as they are needed: each epoch is a keyed permutation of all, cut into windows."""

    def __init__(self, name: str, selection: Documents, window_documents: int, seed: int) -> None:
        self.name = name
        self.per_epoch = -(-len(selection) // window_documents)
        self._selection, self._size, self._seed = selection, window_documents, seed
        self._permutation = lru_cache(maxsize=2)(lambda epoch: Permutation(len(selection), seed, "epoch", name, epoch))

    def window(self, epoch: int, first: int, count: int) -> list[Window]:
        """See Windows."""
        end = min((first + count) * self._size, len(self._selection))
        documents = self.documents(epoch, np.arange(first * self._size, end))
        parts = np.split(documents, range(self._size, len(documents), self._size))
        return [Window(part, epoch, _key(self._seed, self.name, epoch, first + number)) for number, part in enumerate(parts)]

    def documents(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """What stands at these positions of an epoch: numbers of documents in the index."""
        permute = self._permutation(epoch)
        parts = [permute(positions[start : start + _AT_ONCE]) for start in range(0, len(positions), _AT_ONCE)]
        return self._selection[np.concatenate(parts)]


class Joint:
    """Documents of all sources of a mixture in the same windows, each drawn as often as its weight says; there is one endless epoch.

    Draw d of the mixture is the next document of its source, so a document's own epoch tells how often its source has been read.
    """

    name = "any"
    per_epoch = 1 << 62

    def __init__(self, mixture: Mixture, sources: Mapping[str, tuple[Documents, Epochs]], window_documents: int, seed: int) -> None:
        self._mixture, self._sources = mixture, sources
        self._size, self._seed = window_documents, seed

    def window(self, epoch: int, first: int, count: int) -> list[Window]:
        """See Windows."""
        return [self._window(number) for number in range(first, first + count)]

    def _window(self, number: int) -> Window:
        names, ordinals = self._mixture.draws(number * self._size, self._size)
        documents, epochs = np.empty(self._size, np.int64), np.empty(self._size, np.int64)
        for place, name in enumerate(self._mixture.names):
            own = np.flatnonzero(names == place)
            selection, source = self._sources[name]
            epochs[own], positions = np.divmod(ordinals[own], len(selection))
            for epoch in np.unique(epochs[own]).tolist():
                chosen = epochs[own] == epoch
                documents[own[chosen]] = source.documents(epoch, positions[chosen])
        return Window(documents, epochs, _key(self._seed, self.name, 0, number))


def _key(seed: int, name: str, epoch: int, window: int) -> int:
    return digest(seed, "window", name, epoch, window) & ((1 << 64) - 1)
