"""The weight of a name in a mixture: a number, or its course over training."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainValidator


def is_drawn(weight: Weight) -> bool:
    """Whether a weight is ever above 0."""
    return any(value > 0 for _, value in weight) if isinstance(weight, tuple) else weight > 0


def _weight(value: Any) -> Any:
    """A weight of the mixture as a number, or as a tuple of (step, weight)."""
    if not isinstance(value, list | tuple):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("expected a weight, or a course [[step, weight], ...]")
        if not 0 <= value < float("inf"):
            raise ValueError("a weight must be finite and greater than or equal to 0")
        return float(value)
    if not value or not all(isinstance(point, list | tuple) and len(point) == 2 for point in value):
        raise ValueError("a course is a list of [step, weight]")
    steps = [point[0] for point in value]
    if not all(isinstance(step, int) and not isinstance(step, bool) and step >= 0 for step in steps):
        raise ValueError("the steps of a course must be whole and greater than or equal to 0")
    if steps != sorted(steps) or any(one == other for one, other in zip(steps, steps[2:], strict=False)):
        raise ValueError("the steps of a course must ascend; two points at one step are a jump, three are nothing")
    return tuple((step, _weight(point[1])) for step, point in zip(steps, value, strict=True))


Weight = Annotated[float | tuple[tuple[int, float], ...], PlainValidator(_weight)]
"""A relative weight, or its course over training: ((step, weight), ...), straight lines between the points."""
