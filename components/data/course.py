"""A weight over training: a number, or straight lines between points in steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from components.params import Weight


class Course:
    """The course of a weight; before its first point and after its last it stays as it is there."""

    def __init__(self, weight: Weight) -> None:
        """`weight`: a number, or ((step, weight), ...) by step; two points at one step are a jump."""
        points: Sequence[tuple[float, float]] = ((0, weight),) if isinstance(weight, int | float) else weight
        self._steps = np.array([step for step, _ in points], float)
        self._weights = np.array([value for _, value in points], float)

    @property
    def turns(self) -> list[int]:
        """Steps at which the course changes its direction; none where it is a number."""
        return [int(step) for step in self._steps] if np.ptp(self._weights) else []

    @property
    def ever(self) -> bool:
        """Whether it is ever above 0."""
        return bool((self._weights > 0).any())

    def at(self, steps: np.ndarray) -> np.ndarray:
        """Weights at steps, which may lie between whole ones. At a jump itself it has jumped."""
        after = np.searchsorted(self._steps, steps, side="right")
        left, right = np.maximum(after - 1, 0), np.minimum(after, len(self._steps) - 1)
        width = self._steps[right] - self._steps[left]
        share = np.divide(steps - self._steps[left], width, out=np.zeros(np.shape(steps)), where=width > 0)
        return self._weights[left] + np.clip(share, 0, 1) * (self._weights[right] - self._weights[left])
