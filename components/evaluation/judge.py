"""The judge of generated pictures: an independent scikit-learn classifier of the real scans, trained on the training side only.

It is retrained where it is needed (about three seconds, the same each time), so that nothing is unpickled. A digit is looked for by its
ink: the parts whose middle lies in the asked corner, cut out, scaled to one size and classified. It never sees a scan of the evaluation
split, so what it reaches on the true held-out pictures is the ceiling that stands beside every figure it gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from PIL import Image
from scipy import ndimage
from sklearn.svm import SVC

from components.data.keyed import generator
from components.data.sources.ink import COLOURS, Figure, Press

SIDE = 12
INK = 110
"""A pixel whose brightest channel reaches this is ink; the ground stays below 60."""
_SMALLEST = 8
_COPIES = 3
_EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


class Classifier(Protocol):
    """What the judge asks of a fitted estimator."""

    def predict(self, features: np.ndarray) -> np.ndarray: ...


class Judge:
    """Reads the digits of scenes."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier

    def read(self, pictures: Sequence[np.ndarray], places: Sequence[str]) -> list[int | None]:
        """The digit of each picture (uint8 [h, w, 3], dark) at its place (`northwest`, ..., `center`), None where there is no ink."""
        cuts = [cut_out(picture, place) for picture, place in zip(pictures, places, strict=True)]
        found = [features for features in cuts if features is not None]
        answers = iter(self._classifier.predict(np.stack(found)).tolist() if found else [])
        return [None if features is None else int(next(answers)) for features in cuts]

    def recognises(self, pictures: Sequence[np.ndarray], stated: Sequence[Mapping[str, int]]) -> list[list[bool]]:
        """For each picture, whether each stated digit ({place: digit}) is found at its place, in the mapping's order."""
        asked = [(number, place, digit) for number, digits in enumerate(stated) for place, digit in digits.items()]
        read = self.read([pictures[number] for number, _, _ in asked], [place for _, place, _ in asked])
        answers: list[list[bool]] = [[] for _ in pictures]
        for (number, _, digit), found in zip(asked, read, strict=True):
            answers[number].append(found == digit)
        return answers


def train_judge(scans: np.ndarray, labels: np.ndarray, training: np.ndarray, px: int, seed: int) -> Judge:
    """Fit on `training` scans (indexes), printed as scenes of `px` pixels print them: any size, ink, ground and place; half are worn."""
    rng = generator(seed, "judge")
    press = Press(scans, px, rng)
    colours = list(COLOURS)
    features, digits = [], []
    for scan in np.repeat(training, _COPIES):
        size = press.sizes[int(rng.integers(len(press.sizes)))]
        x, y = rng.integers(0, px - size + 1, 2).tolist()
        figure = Figure(int(scan), int(labels[scan]), colours[int(rng.integers(len(colours)))], "anywhere", size, x, y)
        picture = press.scene([figure], press.ground(rng), rng)
        if rng.random() < 0.5:
            picture = _worn(picture, rng)
        if (found := cut_out(picture, "anywhere")) is not None:
            features.append(found)
            digits.append(figure.digit)
    ink = np.stack(features)
    return Judge(SVC(C=10.0, gamma=2 / (ink.shape[1] * float(ink.var()))).fit(ink, np.array(digits)))


def _worn(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture a little blurred and grainy: what a generated one may be without being wrong."""
    soft = ndimage.gaussian_filter(picture.astype(np.float32), (0.5, 0.5, 0))
    return np.clip(soft + rng.normal(0, 12, picture.shape), 0, 255).astype(np.uint8)


def cut_out(picture: np.ndarray, place: str) -> np.ndarray | None:
    """Ink of the place, float32 [SIDE * SIDE] in 0..1, proportions kept; None where there is (almost) no ink."""
    peak = picture.max(axis=-1)
    parts, _ = ndimage.label(peak >= INK, _EIGHT_NEIGHBOURS)
    chosen = _chosen(ndimage.find_objects(parts), peak.shape, place)
    mask = chosen[parts]
    if mask.sum() < _SMALLEST:
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    window = slice(max(0, rows[0] - 1), rows[-1] + 2), slice(max(0, columns[0] - 1), columns[-1] + 2)
    # Soft edges (part 0) belong to the digit; only the ink of other places is taken away.
    ink = np.where(mask | (parts == 0), peak, 0)[window].astype(np.float32) / 255
    side = max(ink.shape)
    square = np.zeros((side, side), np.float32)
    y, x = (side - ink.shape[0]) // 2, (side - ink.shape[1]) // 2
    square[y : y + ink.shape[0], x : x + ink.shape[1]] = ink
    return np.asarray(Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.BILINEAR)).ravel()


def _chosen(windows: Sequence[tuple[slice, slice]], shape: tuple[int, ...], place: str) -> np.ndarray:
    """Which parts (0 is the ground, never) have their middle in the place. A figure's middle is always in its own corner."""
    chosen = np.zeros(len(windows) + 1, bool)
    for number, (rows, columns) in enumerate(windows, start=1):
        vertical = "north" if rows.start + rows.stop < shape[0] else "south"
        horizontal = "west" if columns.start + columns.stop < shape[1] else "east"
        chosen[number] = place in ("center", "anywhere", vertical + horizontal)
    return chosen
