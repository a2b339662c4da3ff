"""Which source each packed row of the training stream is of: a keyed draw in exact proportion, block by block."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from components.data.course import Course
from components.data.keyed import generator
from components.params import Weight

BLOCK = 1024
"""Draws over which the proportions are exact to the nearest draw, so that nobody has to count how many draws of a source came before."""
_FINEST = 32
"""Draws of a block at least, where weights change and blocks are smaller."""
_PARTS = 64
"""Blocks that a straight line of a course is made of at least."""
_STRIDE = 256
"""Blocks of a line after which the draws before are written down."""


@dataclass(frozen=True)
class _Line:
    """Draws `first` to `end` (endless where None), in which every weight is one straight line, in blocks of `size`."""

    first: int
    end: int | None
    size: int
    counts: np.ndarray
    """Draws of each source before the line [1, sources], or before each _STRIDE-th of its blocks."""


class Mixture:
    """Draw n is of source `self.draw(n)[0]`; nothing is remembered between draws."""

    def __init__(self, weights: Mapping[str, Weight], seed: int, rows_per_step: int = 1) -> None:
        """Relative weights by name; a course counts steps of `rows_per_step` draws. Names that are never above 0 are never drawn.

        Raises ValueError when no weight is positive, or all are 0 at once somewhere.
        """
        courses = {name: Course(weight) for name, weight in weights.items()}
        self.names: tuple[str, ...] = tuple(sorted(name for name, course in courses.items() if course.ever))
        if not self.names:
            raise ValueError("mixture: no weight is positive")
        self._courses = [courses[name] for name in self.names]
        self._seed, self._rows_per_step = seed, rows_per_step
        self._lines: list[_Line] = []
        turns = sorted({0, *(step for course in self._courses for step in course.turns)})
        counts = np.zeros(len(self.names), np.int64)
        for step, following in zip(turns, [*turns[1:], None], strict=True):
            first, end = step * rows_per_step, None if following is None else following * rows_per_step
            size = BLOCK if end is None or self._level(first, end) else min(BLOCK, max(_FINEST, (end - first) // _PARTS))
            line = self._line(first, end, size, counts)
            self._lines.append(line)
            counts = self._before(line, end) if end is not None else counts
        self._drawn = lru_cache(maxsize=8)(self._draw_block)

    def draw(self, number: int) -> tuple[str, int]:
        """Source of draw `number` and how many draws of that source came before it."""
        first, names, earlier = self._drawn(*self._block(number))
        place = number - first
        return self.names[int(names[place])], int(earlier[place])

    def draws(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Sources (numbers in `names`) of draws from `first` on, and how many of the same source came before each."""
        names, earlier = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        while count > 0:
            begin, own, before = self._drawn(*self._block(first))
            part = slice(first - begin, first - begin + count)
            names.append(own[part])
            earlier.append(before[part])
            first, count = first + len(own[part]), count - len(own[part])
        return np.concatenate(names), np.concatenate(earlier)

    def before(self, number: int) -> dict[str, int]:
        """How many of the draws 0..number-1 are of each source."""
        line, block = self._block(number)
        first, names, _ = self._drawn(line, block)
        counts = self._counts(self._lines[line], block) + np.bincount(names[: number - first], minlength=len(self.names))
        return dict(zip(self.names, counts.tolist(), strict=True))

    def _block(self, number: int) -> tuple[int, int]:
        line = bisect_right(self._lines, number, key=lambda one: one.first) - 1
        return line, (number - self._lines[line].first) // self._lines[line].size

    def _draw_block(self, line_number: int, block: int) -> tuple[int, np.ndarray, np.ndarray]:
        line = self._lines[line_number]
        first = line.first + block * line.size
        quotas = self._quotas(line, block, block + 1)[0]
        names = generator(self._seed, "mixture", first).permutation(np.repeat(np.arange(len(self.names)), quotas))
        earlier = np.zeros(len(names), np.int64)
        for number, before in enumerate(self._counts(line, block).tolist()):
            places = names == number
            earlier[places] = before + np.arange(int(places.sum()))
        return first, names, earlier

    def _line(self, first: int, end: int | None, size: int, counts: np.ndarray) -> _Line:
        line = _Line(first, end, size, counts[None])
        if end is None or self._level(first, end):
            return line
        blocks = -(-(end - first) // size)
        sums = [counts]
        for start in range(0, blocks - _STRIDE, _STRIDE):
            sums.append(sums[-1] + self._quotas(line, start, start + _STRIDE).sum(0))
        return _Line(first, end, size, np.stack(sums))

    def _counts(self, line: _Line, block: int) -> np.ndarray:
        """Draws of each source before a block of a line."""
        if line.end is None or self._level(line.first, line.end):
            whole = self._quotas(line, 0, 1)[0] if block else 0
            return line.counts[0] + block * whole  # only the last block of a line is shorter
        known = min(block // _STRIDE, len(line.counts) - 1)
        return line.counts[known] + self._quotas(line, known * _STRIDE, block).sum(0)

    def _before(self, line: _Line, end: int) -> np.ndarray:
        blocks = -(-(end - line.first) // line.size)
        return self._counts(line, blocks - 1) + self._quotas(line, blocks - 1, blocks)[0]

    def _level(self, first: int, end: int) -> bool:
        ends = np.array([first, np.nextafter(end, first)]) / self._rows_per_step
        return not any(np.ptp(weights := course.at(ends)) > 1e-9 * weights.max() for course in self._courses)

    def _quotas(self, line: _Line, start: int, stop: int) -> np.ndarray:
        """Draws of each source in each of these blocks of a line, [blocks, sources]."""
        firsts = line.first + np.arange(start, stop) * line.size
        sizes = np.full(len(firsts), line.size) if line.end is None else np.minimum(line.size, line.end - firsts)
        middles = (firsts + sizes / 2) / self._rows_per_step
        weights = np.stack([course.at(middles) for course in self._courses], 1)
        if len(weights) and not weights.sum(1).all():
            step = int(middles[weights.sum(1) == 0][0])
            raise ValueError(f"mixture: all weights are 0 at step {step}")
        return _share_out(weights, sizes)


def _share_out(weights: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Draws per block by largest remainder, at least one for each positive weight where the block has so many."""
    positive = weights > 0
    least = positive * (positive.sum(1) <= sizes)[:, None]
    exact = weights / weights.sum(1, keepdims=True) * (sizes - least.sum(1))[:, None]
    quotas = np.floor(exact).astype(np.int64)
    missing = sizes - least.sum(1) - quotas.sum(1)
    rank = np.argsort(np.argsort(np.where(positive, quotas - exact, np.inf), axis=1, kind="stable"), axis=1)
    return quotas + least + (rank < missing[:, None])
