"""What a metric comes out as: a value with its interval and sample size, or the reason why there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

METRICS_FILE = "metrics.json"


class MetricUnavailable(RuntimeError):
    """A metric's tool, judge or data is missing; the message names it. It is never replaced by another metric."""


class Estimate(BaseModel):
    """A metric's value, the ends of its confidence interval, and what puts it in proportion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float
    n: int = Field(ge=1, description="samples behind the value")
    chance: float | None = Field(None, description="what guessing reaches")
    ceiling: float | None = Field(None, description="what the true pictures or answers reach under the same rule")


class Unavailable(BaseModel):
    """A metric that could not be computed, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unavailable: str


Metric = Estimate | Unavailable
Metrics = dict[str, Metric]


def write_metrics(path: Path, metrics: Mapping[str, Metric]) -> None:
    """Write `{name: {value, low, high, n, ...} | {unavailable}}`, names sorted, which `dvc metrics show` reads as it is."""
    rows = {name: metric.model_dump(exclude_none=True) for name, metric in sorted(metrics.items())}
    path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def read_metrics(path: Path) -> Metrics:
    """Read what `write_metrics` wrote. Raises ValueError naming the file when it is something else."""
    values: Any = json.loads(path.read_text(encoding="utf-8"))
    try:
        return {name: (Unavailable if "unavailable" in value else Estimate).model_validate(value) for name, value in values.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no metrics of an evaluation: {error}; run `dvc repro` to write it again") from None
