"""How scanned digits become coloured pictures, and how labels are read back from a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from PIL import Image

Style = Literal["plain", "inverted", "outlined", "tilted", "coloured"]
STYLES: tuple[Style, ...] = ("inverted", "outlined", "tilted", "coloured")

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 48, 48),
    "orange": (255, 150, 20),
    "yellow": (255, 240, 40),
    "green": (60, 255, 70),
    "cyan": (50, 240, 255),
    "blue": (70, 110, 255),
    "pink": (255, 80, 230),
    "white": (255, 255, 255),
}
# One ink per digit class, for segmentation only. Every ink peaks at 255, so brightness tells coverage and direction tells the class.
CLASS_INKS = np.array([*COLOURS.values(), (150, 60, 255), (120, 255, 180)], np.uint8)
# The map paints class k with the ink of class k + 3: copying the map gives a picture whose every label is wrong.
MAP_INKS = np.roll(CLASS_INKS, -3, axis=0)
_INKS = {name: np.array(colour, np.float32) for name, colour in COLOURS.items()}
_CLASS_INKS = CLASS_INKS.astype(np.float32)
INK_LEVEL = 128
"""A pixel whose brightest channel reaches this is ink."""
_COVERAGE = 0.455
"""Coverage at which ink of 255 over the mean background reaches INK_LEVEL."""
_TILT_DEGREES = 30
_NOISE = 3.0
_NOISE_SHEETS = 256
_DARKEST, _GROUNDS = 4, 28


@dataclass(frozen=True)
class Figure:
    """One digit of a scene: which scan, in which ink, where (pixels of the scene)."""

    scan: int
    digit: int
    colour: str
    place: str
    size: int
    x: int
    y: int

    @property
    def box(self) -> list[int]:
        """The frame of the scan, [x0, y0, x1, y1], pixels, x1 and y1 exclusive."""
        return [self.x, self.y, self.x + self.size, self.y + self.size]

    def as_field(self) -> dict[str, Any]:
        """What a judge needs to know of it."""
        return {"digit": self.digit, "colour": self.colour, "box": self.box, "place": self.place, "scan": self.scan}

    def recoloured(self, colour: str) -> Figure:
        """The same digit in another ink."""
        return replace(self, colour=colour)


class Press:
    """Prints figures on a dark noisy ground. Glyphs are the scans resized bilinearly, coverage in [0, 1]."""

    def __init__(self, scans: np.ndarray, px: int, rng: np.random.Generator) -> None:
        """`scans` uint8 [n, 8, 8] of 0..16; pictures are `px` square."""
        self.px = px
        self.sizes = tuple(range(round(px * 10 / 32), round(px * 14 / 32) + 1))
        ink = scans.astype(np.float32) / 16
        self._glyphs = {size: np.einsum("ai,nij,bj->nab", matrix := _bilinear(8, size), ink, matrix) for size in self.sizes}
        self._noise = rng.normal(3 * _NOISE, _NOISE, (_NOISE_SHEETS, px, px, 3)).clip(0, 6 * _NOISE).astype(np.uint8)

    def ground(self, rng: np.random.Generator) -> np.ndarray:
        """A dark ground colour, uint8 [3], to which the noise is added."""
        return (_DARKEST + _GROUNDS * rng.random(3)).astype(np.uint8)

    def scene(self, figures: list[Figure], ground: np.ndarray, rng: np.random.Generator, style: Style = "plain") -> np.ndarray:
        """Picture uint8 [px, px, 3] with each figure in its named colour."""
        return self._print(figures, [_INKS[figure.colour] for figure in figures], ground, rng, style)

    def class_scene(self, figures: list[Figure], ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Picture uint8 [px, px, 3] with each figure in the ink of its class, so that `labels_from_picture` reads the classes back."""
        return self._print(figures, [_CLASS_INKS[figure.digit] for figure in figures], ground, rng, "plain")

    def class_map(self, figures: list[Figure]) -> np.ndarray:
        """Flat map uint8 [px, px, 3]: each figure's mask in its class's map ink on black."""
        canvas = np.zeros((self.px, self.px, 3), np.uint8)
        for figure in figures:
            canvas[_window(figure)][self._glyphs[figure.size][figure.scan] >= _COVERAGE] = MAP_INKS[figure.digit]
        return canvas

    def _print(
        self, figures: list[Figure], inks: list[np.ndarray], ground: np.ndarray, rng: np.random.Generator, style: Style
    ) -> np.ndarray:
        canvas = self._noise[int(rng.random() * _NOISE_SHEETS)] + ground
        for figure, ink in zip(figures, inks, strict=True):
            coverage = _restyle(self._glyphs[figure.size][figure.scan], style)[..., None]
            window = canvas[_window(figure)]
            window[:] = window + coverage * (ink - window)
        return 255 - canvas if style == "inverted" else canvas


def labels_from_picture(picture: np.ndarray) -> np.ndarray:
    """Label map uint8 [height, width] of a real or generated segmentation picture (uint8 RGB): 0 ground, 1 + digit where there is ink."""
    return _labels(picture, CLASS_INKS)


def labels_from_map(picture: np.ndarray) -> np.ndarray:
    """Label map uint8 [height, width] of a colour map (uint8 RGB): 0 ground, 1 + digit where there is ink."""
    return _labels(picture, MAP_INKS)


def _labels(picture: np.ndarray, inks: np.ndarray) -> np.ndarray:
    pixels = picture.astype(np.float32)
    peak = pixels.max(-1)
    direction = pixels / np.maximum(peak, 1)[..., None]
    distance = ((direction[..., None, :] - inks.astype(np.float32) / 255) ** 2).sum(-1)
    return np.where(peak >= INK_LEVEL, distance.argmin(-1) + 1, 0).astype(np.uint8)


def _window(figure: Figure) -> tuple[slice, slice]:
    return slice(figure.y, figure.y + figure.size), slice(figure.x, figure.x + figure.size)


def _restyle(coverage: np.ndarray, style: Style) -> np.ndarray:
    if style == "outlined":
        padded = np.pad(coverage, 1)
        size = len(coverage)
        grown = np.max([padded[i : i + size, j : j + size] for i in range(3) for j in range(3)], axis=0)
        return np.clip(1.5 * (grown - coverage), 0, 1)
    if style == "tilted":
        turned = Image.fromarray((coverage * 255).astype(np.uint8)).rotate(_TILT_DEGREES, Image.Resampling.BILINEAR)
        return np.asarray(turned, np.float32) / 255
    return coverage


def _bilinear(source: int, target: int) -> np.ndarray:
    """Interpolation matrix float32 [target, source], pixel centres aligned (half-pixel convention), edges clamped."""
    position = (np.arange(target) + 0.5) * source / target - 0.5
    low = np.floor(position).astype(int)
    weight = position - low
    matrix = np.zeros((target, source), np.float32)
    rows = np.arange(target)
    np.add.at(matrix, (rows, low.clip(0, source - 1)), 1 - weight)
    np.add.at(matrix, (rows, (low + 1).clip(0, source - 1)), weight)
    return matrix
