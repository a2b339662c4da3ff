"""What a composer draws from: the scans of one split by label, and figures placed without overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from components.data.sources.ink import COLOURS, Figure, Press
from components.data.sources.wording import CORNERS

COLOUR_NAMES = tuple(COLOURS)
CLOCKWISE = ("top left", "top right", "bottom right", "bottom left")


class Stock:
    """The scans of one split and the press that prints them."""

    def __init__(self, labels: np.ndarray, usable: np.ndarray, press: Press) -> None:
        """`labels` int [n] of all scans; `usable` int [m] indexes of the split's scans."""
        self.press = press
        self._by_digit = [usable[labels[usable] == digit] for digit in range(10)]

    def scan(self, digit: int, rng: np.random.Generator) -> int:
        """A scan of the digit."""
        choices = self._by_digit[digit]
        return int(choices[rng.integers(len(choices))])

    def figures(self, places: Sequence[str], rng: np.random.Generator, colours: Sequence[str] = COLOUR_NAMES) -> list[Figure]:
        """One figure at each place, in reading order: digit, scan, ink, size and place inside its cell drawn at random."""
        ordered = sorted(places, key=("center", *CORNERS).index)
        split_x, split_y = self._cuts(rng)
        return [self._figure(place, split_x, split_y, rng, colours) for place in ordered]

    def corners(self, count: int, rng: np.random.Generator) -> list[str]:
        """`count` different corners; a single figure is at the center one time in five."""
        if count == 1 and rng.random() < 0.2:
            return ["center"]
        return [CORNERS[index] for index in rng.permutation(4)[:count]]

    def moved(self, figure: Figure, place: str) -> Figure:
        """The figure in another corner, as far from the picture's edges as before (mirrored), so that a walk is exact."""
        edge = self.press.px - figure.size
        x = edge - figure.x if ("left" in figure.place) != ("left" in place) else figure.x
        y = edge - figure.y if ("top" in figure.place) != ("top" in place) else figure.y
        return replace(figure, place=place, x=x, y=y)

    def _cuts(self, rng: np.random.Generator) -> tuple[int, int]:
        largest = self.press.sizes[-1]
        cut_x, cut_y = rng.integers(largest, self.press.px - largest + 1, 2).tolist()
        return cut_x, cut_y

    def _figure(self, place: str, cut_x: int, cut_y: int, rng: np.random.Generator, colours: Sequence[str]) -> Figure:
        px = self.press.px
        left, right = (0, cut_x) if "left" in place else (cut_x, px)
        top, bottom = (0, cut_y) if "top" in place else (cut_y, px)
        if place == "center":
            left, right, top, bottom = px // 4, px - px // 4, px // 4, px - px // 4
        digit = int(rng.integers(10))
        size = min(self.press.sizes[int(rng.integers(len(self.press.sizes)))], right - left, bottom - top)
        x, y = int(rng.integers(left, right - size + 1)), int(rng.integers(top, bottom - size + 1))
        return Figure(self.scan(digit, rng), digit, colours[int(rng.integers(len(colours)))], place, size, x, y)
