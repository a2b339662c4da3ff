"""Counts in round bins, and where their bars lie on a page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Bin:
    """Documents whose value is at least `low` and below `high`."""

    low: int
    high: int
    count: int

    @property
    def label(self) -> str:
        """Its values for people."""
        return str(self.low) if self.high == self.low + 1 else f"{self.low}–{self.high - 1}"


def histogram(values: Iterable[int], bins: int = 16) -> list[Bin]:
    """Bins of equal round width from 0 to the largest value; single values where there are few."""
    array = np.fromiter(values, np.int64)
    if not array.size:
        return []
    top = int(array.max()) + 1
    width = next(width for power in range(19) for factor in (1, 2, 5) if (width := factor * 10**power) * bins >= top)
    counts = np.bincount(array // width, minlength=1)
    return [Bin(number * width, (number + 1) * width, int(count)) for number, count in enumerate(counts)]
