"""Geometry and data addresses of self-contained pages; the markup itself is in the templates."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parents[1] / "templates"
Points = Sequence[tuple[float, float]]


def environment() -> Environment:
    """The templates of all pages; every value is escaped, a missing one is an error."""
    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def png_uri(data: bytes) -> str:
    """`data:` address of PNG bytes."""
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A line chart in SVG units: where ticks and lines lie."""

    width: float
    height: float
    left: float
    bottom: float
    line: str
    smooth: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def line_chart(points: Points, *, width: float = 360, height: float = 190) -> Chart:
    """Chart of (x, y) points sorted by x; values that are not finite are left out. Raises ValueError when none is left."""
    kept = [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not kept:
        raise ValueError("a chart needs at least one finite point")
    left, right, top, bottom = 44.0, width - 10, 10.0, height - 24
    xs, ys = zip(*kept, strict=True)
    x_ticks, y_ticks = round_ticks(min(xs), max(xs), 4), round_ticks(min(ys), max(ys), 4)
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1e-9)
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys), y_ticks[0] + 1e-9)

    def x_at(x: float) -> float:
        return round(left + (x - x_low) / (x_high - x_low) * (right - left), 1)

    def y_at(y: float) -> float:
        return round(bottom - (y - y_low) / (y_high - y_low) * (bottom - top), 1)

    weight = max(0.0, 1 - 12 / len(ys))

    def path(line: Points) -> str:
        return "M" + " ".join(f"{x_at(x)},{y_at(y)}" for x, y in line)

    return Chart(
        width=width,
        height=height,
        left=left,
        bottom=bottom,
        line=path(kept),
        smooth=path(list(zip(xs, smoothed(ys, weight), strict=True))),
        x_ticks=tuple(Tick(x_at(x), f"{x:g}") for x in x_ticks if x_low <= x <= x_high),
        y_ticks=tuple(Tick(y_at(y), f"{y:g}") for y in y_ticks),
    )


def smoothed(values: Sequence[float], weight: float) -> list[float]:
    """Exponential moving average that is exact from the first value on (bias-corrected)."""
    total, mass, out = 0.0, 0.0, []
    for value in values:
        total, mass = weight * total + (1 - weight) * value, weight * mass + (1 - weight)
        out.append(total / mass)
    return out


def round_ticks(low: float, high: float, about: int) -> list[float]:
    """About so many round numbers that enclose a range."""
    span = max(high - low, abs(high) * 1e-3, 1e-9)
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]
