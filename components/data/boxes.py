"""Boxes as text: two corners in hundredths of the picture."""

from __future__ import annotations

import re
from collections.abc import Sequence

GRID = 100
"""A coordinate in text counts hundredths of the side, 00 to 99 (the paper's grid is 1000; a tiny picture has no use for it)."""
_BOX = re.compile(r"\(\s*(\d{1,2})\s*,\s*(\d{1,2})\s*\)\s*\(\s*(\d{1,2})\s*,\s*(\d{1,2})\s*\)")


def box_to_text(box: Sequence[float], width: int, height: int) -> str:
    """Box [x0, y0, x1, y1] in pixels as `(x0,y0)(x1,y1)`, two digits each, in hundredths of the picture."""
    x0, y0, x1, y1 = (
        min(GRID - 1, max(0, round(GRID * value / side))) for value, side in zip(box, (width, height, width, height), strict=True)
    )
    return f"({x0:02d},{y0:02d})({x1:02d},{y1:02d})"


def text_to_box(text: str, width: int, height: int) -> tuple[float, float, float, float] | None:
    """The first box of a text, in pixels; None where there is none or it is empty."""
    match = _BOX.search(text)
    if match is None:
        return None
    x0, y0, x1, y1 = (int(number) / GRID * side for number, side in zip(match.groups(), (width, height, width, height), strict=True))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
