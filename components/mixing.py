"""The weight of a name in a mixture: a number, or its course over training."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator


def is_drawn(weight: Weight) -> bool:
    """Whether a weight is ever above 0."""
    return any(value > 0 for _, value in weight) if isinstance(weight, tuple) else weight > 0


def silence(mixture: Mapping[str, Weight], steps: int) -> tuple[int, int] | None:
    """The first steps, from one to before another, at which nothing has a weight above 0."""
    turns = {step for weight in mixture.values() if isinstance(weight, tuple) for step, _ in weight if step < steps}
    for start, end in pairwise(sorted({0, steps} | turns)):
        if not any(_at(weight, (start + end) / 2) > 0 for weight in mixture.values()):
            return start, end
    return None


def _at(weight: Weight, step: float) -> float:
    """A weight between two points of its course."""
    if not isinstance(weight, tuple):
        return weight
    before = [point for point in weight if point[0] <= step] or [weight[0]]
    after = [point for point in weight if point[0] > step] or [weight[-1]]
    (first, one), (last, two) = before[-1], after[0]
    return one if first == last else one + (two - one) * (step - first) / (last - first)


def _weight(value: Any) -> Any:
    """A weight of the mixture as a number, or as a tuple of (step, weight)."""
    if not isinstance(value, list | tuple):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("expected a weight, or a course [[step, weight], ...]")
        if not 0 <= value < float("inf"):
            raise ValueError("a weight must be finite and greater than or equal to 0")
        return float(value)
    if not value or not all(isinstance(point, list | tuple) and len(point) == 2 and not isinstance(point[1], list) for point in value):
        raise ValueError("a course is a list of [step, weight]")
    steps = [point[0] for point in value]
    if not all(isinstance(step, int) and not isinstance(step, bool) and step >= 0 for step in steps):
        raise ValueError("the steps of a course must be whole and greater than or equal to 0")
    if steps != sorted(steps) or any(one == other for one, other in zip(steps, steps[2:], strict=False)):
        raise ValueError("the steps of a course must ascend; two points at one step are a jump, three are nothing")
    return tuple((step, _weight(point[1])) for step, point in zip(steps, value, strict=True))


def _plain(value: Weight) -> Any:
    """As it stands in params.yaml."""
    return [list(point) for point in value] if isinstance(value, tuple) else value


Weight = Annotated[float | tuple[tuple[int, float], ...], PlainValidator(_weight), PlainSerializer(_plain, return_type=Any)]
"""A relative weight, or its course over training: ((step, weight), ...), straight lines between the points."""
