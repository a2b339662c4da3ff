"""What frames are measured by: sharpness, optical flow and difference, by OpenCV alone.

Models from local folders stand behind the same protocols (plugins.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

SHARPNESS, QUALITY, FLOW_MEAN, FLOW_VARIANCE, DISTANCE = MEASURES = ("sharpness", "quality", "flow_mean", "flow_variance", "distance")
UNAVAILABLE = "unavailable"


class FrameScore(Protocol):
    """A score of one frame, higher is better. `name` says what it is, with a model's digest."""

    name: str

    def score(self, picture: np.ndarray) -> float: ...


class Flow(Protocol):
    """Dense optical flow from a frame to the next of the same size: float32 [height, width, 2], pixels."""

    name: str

    def between(self, before: np.ndarray, after: np.ndarray) -> np.ndarray: ...


class Difference(Protocol):
    """How far apart two frames are, from 0."""

    name: str

    def features(self, picture: np.ndarray) -> np.ndarray: ...

    def distance(self, before: np.ndarray, after: np.ndarray) -> float: ...


@dataclass(frozen=True)
class Instruments:
    """What is measured with. `quality` is MANIQA or nothing: no other measure stands in for it."""

    flow: Flow
    difference: Difference
    quality: FrameScore | None = None

    def names(self) -> dict[str, str]:
        """What stands behind each measure."""
        return {
            SHARPNESS: "laplacian_variance",
            QUALITY: self.quality.name if self.quality else UNAVAILABLE,
            FLOW_MEAN: self.flow.name,
            FLOW_VARIANCE: self.flow.name,
            DISTANCE: self.difference.name,
        }

    def unavailable(self) -> list[str]:
        """The paper's models whose folders were not given."""
        used = {"maniqa": self.names()[QUALITY], "raft": self.flow.name, "dinov2": self.difference.name}
        return [model for model, name in used.items() if not name.startswith(f"{model}:")]


def sharpness(picture: np.ndarray) -> float:
    """Variance of the Laplacian of the grey picture, grey values squared; low where it is blurred or empty."""
    return float(cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def flow_statistics(flow: np.ndarray) -> tuple[float, float]:
    """(mean length, variance of the vectors) of a flow [height, width, 2], in percent of the diagonal and its square.

    Nothing moves: both are low. The camera moves or shakes and all vectors are alike: the variance is low.
    """
    height, width, _ = flow.shape
    scaled = flow.astype(np.float64) * (100 / np.hypot(height, width))
    return float(np.hypot(scaled[..., 0], scaled[..., 1]).mean()), float(scaled.reshape(-1, 2).var(axis=0).sum())


class FarnebackFlow:
    """Farneback's flow. DIS is faster, but its result depends on the number of threads."""

    name = "farneback"

    def between(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Flow float32 [height, width, 2], pixels."""
        one, two = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (before, after))
        flow: np.ndarray = cv2.calcOpticalFlowFarneback(one, two, None, 0.5, 4, 21, 3, 7, 1.5, 0)
        return flow


class HistogramDifference:
    """Colour histograms of 4x4 cells, 8 bins a channel: the mean total variation between them, 0 to 1. It knows nothing of meaning."""

    name = "colour_histogram"
    _CELLS, _BINS = 4, 8

    def features(self, picture: np.ndarray) -> np.ndarray:
        """Shares float64 [cells, 3, bins]."""
        rows = [part for row in np.array_split(picture, self._CELLS, axis=0) for part in np.array_split(row, self._CELLS, axis=1)]
        return np.stack([self._shares(cell) for cell in rows])

    def distance(self, before: np.ndarray, after: np.ndarray) -> float:
        """0 for equal histograms, 1 for ones that share nothing."""
        return float(np.abs(before - after).sum(axis=-1).mean() / 2)

    def _shares(self, cell: np.ndarray) -> np.ndarray:
        counts = [np.bincount(cell[..., channel].ravel() >> 5, minlength=self._BINS) for channel in range(3)]
        return np.stack(counts) / max(1, cell.shape[0] * cell.shape[1])
