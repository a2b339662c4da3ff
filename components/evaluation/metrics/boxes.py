"""Referring expressions: parse `(x0,y0)(x1,y1)` and compare with the true box in pixels.

A box is right at an intersection over union of at least one half; exact ties are real on a grid, hence the slack.
"""

from __future__ import annotations

import math
import re

RIGHT_IOU = 0.5
SLACK = 1e-6
_BOX = re.compile(r"\(([^()]*)\)\s*,?\s*\(([^()]*)\)")

Box = tuple[float, float, float, float]


def parse_box(text: str, width: float, height: float, grid: int) -> Box | None:
    """First box of a text as pixels (x0, y0, x1, y1), or None when there is none.

    Numbers are grid positions: 0..`grid` spans the picture (999 in the paper). Spaces or a comma between the pairs are accepted;
    corners are taken as written: a swapped, empty or outside box is a wrong answer, not a parse failure.
    """
    found = _BOX.search(text)
    if found is None:
        return None
    try:
        x0, y0 = (float(value) for value in found.group(1).split(","))
        x1, y1 = (float(value) for value in found.group(2).split(","))
    except ValueError:
        return None
    if not all(math.isfinite(value) for value in (x0, y0, x1, y1)):
        return None
    return x0 / grid * width, y0 / grid * height, x1 / grid * width, y1 / grid * height


def intersection_over_union(a: Box, b: Box) -> float:
    """Of two pixel boxes on continuous coordinates; 0 when either is empty."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) if box[2] > box[0] and box[3] > box[1] else 0.0 for box in (a, b)]
    if min(areas) <= 0 or width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (areas[0] + areas[1] - shared)


def is_right(found: Box | None, true: Box) -> bool:
    """Whether a parsed box (None: unparsable, wrong) lies on the true one."""
    return found is not None and intersection_over_union(found, true) >= RIGHT_IOU - SLACK
