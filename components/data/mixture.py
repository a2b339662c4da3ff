"""Which kind each packed row of the training stream is of: a keyed draw in exact proportion."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from components.data.keyed import generator
from components.params import Kind

BLOCK = 1024
"""Draws over which the proportions are exact to the nearest draw, so that nobody has to count how many draws of a kind came before."""


class Mixture:
    """Draw n is of kind `self.draw(n)[0]`; nothing is remembered between draws."""

    def __init__(self, weights: Mapping[Kind, float], seed: int) -> None:
        """Relative weights; kinds of weight 0 are never drawn. Raises ValueError when no weight is positive."""
        self.kinds: tuple[Kind, ...] = tuple(sorted(kind for kind, weight in weights.items() if weight > 0))
        if not self.kinds:
            raise ValueError("mixture: no kind has a positive weight and documents")
        self._seed = seed
        self._quotas = _quotas([weights[kind] for kind in self.kinds])
        self._block = lru_cache(maxsize=4)(self._draw_block)

    def draw(self, number: int) -> tuple[Kind, int]:
        """Kind of draw `number` and how many draws of that kind came before it."""
        block, within = divmod(number, BLOCK)
        kinds, earlier = self._block(block)
        kind = int(kinds[within])
        return self.kinds[kind], block * int(self._quotas[kind]) + int(earlier[within])

    def before(self, number: int) -> dict[Kind, int]:
        """How many of the draws 0..number-1 are of each kind."""
        block, within = divmod(number, BLOCK)
        counts = block * self._quotas + np.bincount(self._block(block)[0][:within], minlength=len(self.kinds))
        return dict(zip(self.kinds, counts.tolist(), strict=True))

    def _draw_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        kinds = generator(self._seed, "mixture", block).permutation(np.repeat(np.arange(len(self.kinds)), self._quotas))
        earlier = np.zeros(BLOCK, np.int64)
        for kind in range(len(self.kinds)):
            places = kinds == kind
            earlier[places] = np.arange(int(places.sum()))
        return kinds, earlier


def _quotas(weights: list[float]) -> np.ndarray:
    """Draws per block by largest remainder, at least one each."""
    exact = np.array(weights) / sum(weights) * (BLOCK - len(weights))
    quotas = np.floor(exact).astype(np.int64)
    quotas[np.argsort(quotas - exact, kind="stable")[: BLOCK - len(weights) - int(quotas.sum())]] += 1
    return quotas + 1
