"""Boxes as text: two corners `(x0,y0)(x1,y1)` on a grid over the picture; and what a mirrored or cut picture makes of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Grid:
    """How a coordinate is written: `span` stands for the whole side, with `digits` digits and leading zeros."""

    span: int
    digits: int

    def position(self, value: float, side: float) -> int:
        """The nearest grid position of a coordinate in pixels, kept to its digits."""
        return min(10**self.digits - 1, max(0, round(self.span * value / side)))


HUNDREDTHS = Grid(100, 2)
"""00 to 99, hundredths of the side: a tiny picture has no use for more."""
THOUSAND = Grid(999, 3)
"""000 to 999 as in the paper (Fig. 6); 999 is the whole side, as the release reads it."""
_GRIDS = {grid.digits: grid for grid in (HUNDREDTHS, THOUSAND)}
_NUMBER = r"\s*(\d{1,3})\s*"
_BOX = re.compile(rf"\({_NUMBER},{_NUMBER}\)\s*\({_NUMBER},{_NUMBER}\)")


def box_to_text(box: Sequence[float], width: float, height: float, grid: Grid = HUNDREDTHS) -> str:
    """Box [x0, y0, x1, y1] in pixels as `(x0,y0)(x1,y1)`."""
    sides = (width, height, width, height)
    x0, y0, x1, y1 = (f"{grid.position(value, side):0{grid.digits}d}" for value, side in zip(box, sides, strict=True))
    return f"({x0},{y0})({x1},{y1})"


def text_to_box(text: str, width: float, height: float, grid: Grid = HUNDREDTHS) -> Box | None:
    """The first box of a text, in pixels; None where there is none, it is empty, or a number has more digits than the grid."""
    match = _BOX.search(text)
    return None if match is None else _pixels(match, width, height, grid)


def grid_of(text: str) -> Grid:
    """The grid that the first box of a text is written on, by its digits; hundredths where there is none."""
    match = _BOX.search(text)
    return HUNDREDTHS if match is None else _grid(match)


def move_boxes(text: str, move: Callable[[Box], Box]) -> str:
    """The text with each of its boxes moved: `move` takes and gives shares of the sides (0..1). Everything else stays as it is."""

    def moved(match: re.Match[str]) -> str:
        grid = _grid(match)
        box = _pixels(match, 1.0, 1.0, grid)
        return match.group() if box is None else box_to_text(move(box), 1.0, 1.0, grid)

    return _BOX.sub(moved, text)


def _grid(match: re.Match[str]) -> Grid:
    return _GRIDS[max(HUNDREDTHS.digits, *map(len, match.groups()))]


def _pixels(match: re.Match[str], width: float, height: float, grid: Grid) -> Box | None:
    if any(len(number) > grid.digits for number in match.groups()):
        return None
    sides = (width, height, width, height)
    x0, y0, x1, y1 = (int(number) / grid.span * side for number, side in zip(match.groups(), sides, strict=True))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
