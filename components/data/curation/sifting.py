"""What stays of a window: its sharp frames that differ in motion and content from the one before, each with what was measured."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from components.data.curation.measures import (
    DISTANCE,
    FLOW_MEAN,
    FLOW_VARIANCE,
    QUALITY,
    SHARPNESS,
    Instruments,
    flow_statistics,
    sharpness,
)
from components.data.curation.thresholds import Thresholds
from components.data.curation.video import Shown
from components.data.curation.windows import Window


@dataclass
class Kept:
    """A frame that stays: its time in the video, seconds, its picture and its measures; those of pairs are missing for the first."""

    time_s: float
    picture: np.ndarray
    values: dict[str, float]


@dataclass
class Sifted:
    """The frames of a window that stay, and how many fell by which filter."""

    kept: list[Kept] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class Sieve:
    """Measures frames, each once however many windows it is in, and lets fall what is at or below a threshold."""

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._frames: dict[float, dict[str, float]] = {}

    def measure(self, window: Window[Shown]) -> dict[str, list[float]]:
        """The values of all its frames and neighbours, nothing dropped: what a pilot is made of."""
        values: dict[str, list[float]] = defaultdict(list)
        before: np.ndarray | None = None
        for time_s, shown in window.frames:
            measured = self._frame(time_s, shown.picture) | ({} if before is None else self._pair(before, shown.picture))
            for name, value in measured.items():
                values[name].append(value)
            before = shown.picture
        return values

    def sift(self, window: Window[Shown], thresholds: Thresholds) -> Sifted:
        """The paper's order: aesthetics of each frame, then motion and difference from the last frame that stays; the later one falls."""
        result = Sifted()
        for time_s, shown in window.frames:
            values = self._frame(time_s, shown.picture)
            if (fell := self._fallen(values, thresholds)) is None and result.kept:
                values = values | self._pair(result.kept[-1].picture, shown.picture)
                fell = self._fallen(values, thresholds)
            if fell is None:
                result.kept.append(Kept(time_s, shown.picture, values))
            else:
                result.dropped[fell] += 1
        return result

    def _fallen(self, values: dict[str, float], thresholds: Thresholds) -> str | None:
        return next((name for name, value in values.items() if thresholds.drops(name, value)), None)

    def _frame(self, time_s: float, picture: np.ndarray) -> dict[str, float]:
        if time_s not in self._frames:
            self._frames[time_s] = {SHARPNESS: round(sharpness(picture), 6)}
            if self._instruments.quality is not None:
                self._frames[time_s][QUALITY] = round(self._instruments.quality.score(picture), 6)
        return dict(self._frames[time_s])

    def _pair(self, before: np.ndarray, after: np.ndarray) -> dict[str, float]:
        mean, variance = flow_statistics(self._instruments.flow.between(before, after))
        difference = self._instruments.difference
        distance = difference.distance(difference.features(before), difference.features(after))
        return {FLOW_MEAN: round(mean, 6), FLOW_VARIANCE: round(variance, 6), DISTANCE: round(distance, 6)}
