"""When a series of losses has left its line: a pure function of what was seen before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Self

from components.guard_params import GuardParams

_NORMAL = 1.4826
"""Standard deviations of a normal distribution in one median absolute deviation."""
_TAIL, _TAIL_DEVIATIONS = 0.95, 1.6449
"""A quantile, and how many standard deviations above the median it is in a normal distribution."""
_LEAST_SPREAD = 0.01
"""Of the median: the spread of a series that hardly varies counts as so much, or every change would be a spike."""


@dataclass(frozen=True)
class Series:
    """The last values in line, and those out of line one after the other at the end."""

    line: tuple[float, ...] = ()
    streak: tuple[float, ...] = ()

    def state(self) -> dict[str, list[float]]:
        """Plain values for a checkpoint."""
        return {"line": list(self.line), "streak": list(self.streak)}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Self:
        """Inverse of `state`."""
        return cls(tuple(map(float, state.get("line", ()))), tuple(map(float, state.get("streak", ()))))


def score(value: float, line: Sequence[float]) -> float:
    """Robust standard deviations of a value above the median of a line that is not empty (Iglewicz and Hoaglin, 1993).

    The spread is the larger one of the median absolute deviation's and of the upper tail's: where most steps of a small batch have no
    picture, or documents that are known by heart, the deviation is that of these steps alone, and every picture would be a spike.
    """
    rising = sorted(line)
    middle = median(rising)
    tail = (rising[math.ceil(_TAIL * len(rising)) - 1] - middle) / _TAIL_DEVIATIONS
    spread = max(_NORMAL * median(abs(one - middle) for one in rising), tail, _LEAST_SPREAD * abs(middle))
    if spread == 0:
        return math.inf if value > middle else 0.0
    return (value - middle) / spread


def observe(series: Series, value: float, guard: GuardParams) -> Series:
    """The series with one more value. A streak that ends without a spike was in line after all and joins it."""
    if not guard.spike_threshold:
        return series
    if len(series.line) >= guard.spike_min_steps and score(value, series.line) > guard.spike_threshold:
        return Series(series.line, (*series.streak, value))
    most = max(guard.spike_window, guard.spike_min_steps)
    return Series((*series.line, *series.streak, value)[-most:])


def is_spike(series: Series, guard: GuardParams) -> bool:
    """Whether the values at the end are out of line for as long as the patience lasts."""
    return len(series.streak) >= guard.spike_patience
