"""Mean intersection over union: areas are summed over all pictures first, then divided, then averaged over the classes of the truth.

Sums are int64. Averaging per picture first, or over classes that the truth lacks, gives other numbers under the same name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IGNORE = -1


@dataclass(frozen=True)
class Areas:
    """Pixel counts per picture and class, int64 [pictures, classes]."""

    intersection: np.ndarray
    union: np.ndarray
    truth: np.ndarray

    def without(self, label: int) -> Areas:
        """The same counts with one class left out of the mean; its pixels still count in the unions of the others."""
        return Areas(*(np.delete(counts, label, axis=1) for counts in (self.intersection, self.union, self.truth)))

    def miou(self, chosen: np.ndarray | None = None) -> np.ndarray:
        """Mean over classes present in the truth, of pictures `chosen` [..., n] (default: all, as a scalar); NaN when none is present."""
        rows = np.arange(len(self.truth)) if chosen is None else chosen
        intersection, union, truth = (counts[rows].sum(axis=-2) for counts in (self.intersection, self.union, self.truth))
        present = truth > 0
        ratio = np.where(present, intersection / np.maximum(union, 1), 0.0)
        classes = present.sum(axis=-1)
        return np.where(classes > 0, ratio.sum(axis=-1) / np.maximum(classes, 1), np.nan)


def areas(predicted: np.ndarray, truth: np.ndarray, classes: int) -> Areas:
    """Areas of label maps [pictures, h, w] with labels 0..classes-1; pixels whose truth is IGNORE count nowhere.

    Raises ValueError for unequal shapes or a label outside the range.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"label maps differ in shape: predicted {predicted.shape}, true {truth.shape}")
    for name, labels in (("predicted", predicted), ("true", truth)):
        if labels.size and (labels.min() < IGNORE or labels.max() >= classes):
            raise ValueError(f"{name} labels must lie in 0..{classes - 1}, got {labels.min()}..{labels.max()}")
    counted = truth != IGNORE
    predicted_is = np.stack([(predicted == label) & counted for label in range(classes)], axis=1)
    truth_is = np.stack([truth == label for label in range(classes)], axis=1)

    def count(mask: np.ndarray) -> np.ndarray:
        return mask.sum(axis=(-2, -1), dtype=np.int64)

    return Areas(count(predicted_is & truth_is), count(predicted_is | truth_is), count(truth_is))
