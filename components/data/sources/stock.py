"""What a composer draws from: the scans of one split by label, and figures placed without overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from components.data.sources.ink import COLOURS, Figure, Press
from components.data.sources.wording import CORNERS

T = TypeVar("T")
COLOUR_NAMES = tuple(COLOURS)
CLOCKWISE = ("northwest", "northeast", "southeast", "southwest")


class Stock:
    """The scans of one split and the press that prints them."""

    def __init__(self, labels: np.ndarray, usable: np.ndarray, press: Press) -> None:
        """`labels` int [n] of all scans; `usable` int [m] indexes of the split's scans."""
        self.press = press
        self._by_digit = [usable[labels[usable] == digit].tolist() for digit in range(10)]

    def scan(self, digit: int, rng: np.random.Generator) -> int:
        """A scan of the digit."""
        return _pick(self._by_digit[digit], rng.random())

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
        x = edge - figure.x if ("west" in figure.place) != ("west" in place) else figure.x
        y = edge - figure.y if ("north" in figure.place) != ("north" in place) else figure.y
        return replace(figure, place=place, x=x, y=y)

    def _cuts(self, rng: np.random.Generator) -> tuple[int, int]:
        """Where the cells meet: anywhere that leaves room for the largest figure in each."""
        largest = self.press.sizes[-1]
        room = self.press.px - 2 * largest + 1
        return largest + int(room * rng.random()), largest + int(room * rng.random())

    def _figure(self, place: str, cut_x: int, cut_y: int, rng: np.random.Generator, colours: Sequence[str]) -> Figure:
        px = self.press.px
        left, right = (0, cut_x) if "west" in place else (cut_x, px)
        top, bottom = (0, cut_y) if "north" in place else (cut_y, px)
        if place == "center":
            left, right, top, bottom = px // 4, px - px // 4, px // 4, px - px // 4
        draws = rng.random(6).tolist()
        digit = int(10 * draws[0])
        size = min(_pick(self.press.sizes, draws[1]), right - left, bottom - top)
        x, y = left + int((right - left - size + 1) * draws[2]), top + int((bottom - top - size + 1) * draws[3])
        return Figure(_pick(self._by_digit[digit], draws[4]), digit, _pick(colours, draws[5]), place, size, x, y)


def _pick(choices: Sequence[T], draw: float) -> T:
    return choices[int(draw * len(choices))]
