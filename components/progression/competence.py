"""The competence-driven controller: from held-out values to moves between levels. Our reading of ILLUME-X, which prints no rule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from components.progression_params import AT_MOST, Measured, ProgressionParams

Standing = Literal["mastered", "between", "lost", "unknown"]
_VERSION = 1


@dataclass(frozen=True)
class Progress:
    """What the controller remembers: the level, how often in a row it was mastered or a level below it lost, and the last step judged."""

    level: int = 0
    mastered: int = 0
    lost: int = 0
    step: int = 0


@dataclass(frozen=True)
class Move:
    """From one level to another, and why: the values that decided."""

    step: int
    before: int
    level: int
    values: Mapping[str, float]

    @property
    def kind(self) -> str:
        """What the event is called."""
        return "progression_raised" if self.level > self.before else "progression_fell_back"


def value_name(bucket: int, measured: Measured) -> str:
    """What a held-out value of a bucket is called among the metrics."""
    return f"validation/bucket_{bucket}/{measured}"


def values_of(bucket: int, metrics: Mapping[str, float], params: ProgressionParams) -> dict[str, float]:
    """Those values of a bucket that decide about it, as far as they were measured."""
    names = (value_name(bucket, measured) for measured in params.mastered)
    return {name: metrics[name] for name in names if name in metrics}


def standing(bucket: int, metrics: Mapping[str, float], params: ProgressionParams) -> Standing:
    """How a bucket stands. A value that was not measured does not count; where none was, nothing is known.

    Mastered: every mark reached. Lost: one missed by more than the hysteresis, or not finite. Between them nothing changes.
    """
    found: set[Standing] = set()
    for measured, mark in params.mastered.items():
        value = metrics.get(value_name(bucket, measured))
        if value is None:
            continue
        slack = params.hysteresis * mark
        if measured in AT_MOST:
            reached, near = value <= mark, value <= mark + slack
        else:
            reached, near = value >= mark, value >= mark - slack
        found.add("mastered" if reached else "between" if near and math.isfinite(value) else "lost")
    if not found:
        return "unknown"
    return "lost" if "lost" in found else "between" if "between" in found else "mastered"


def judge(progress: Progress, step: int, metrics: Mapping[str, float], params: ProgressionParams) -> tuple[Progress, Move | None]:
    """What follows from the held-out values of a step, as they were logged. A step that was judged before changes nothing.

    Up by one when the present level was mastered `patience` times in a row; down by one when a level below it was lost as often. After a
    move counting begins anew.
    """
    if step <= progress.step:
        return progress, None
    level = progress.level
    below = [standing(bucket, metrics, params) for bucket in range(level)]
    mastered = progress.mastered + 1 if standing(level, metrics, params) == "mastered" and "lost" not in below else 0
    lost = progress.lost + 1 if "lost" in below else 0
    if lost >= params.patience:
        worst = below.index("lost")
        return Progress(level - 1, step=step), Move(step, level, level - 1, values_of(worst, metrics, params))
    if mastered >= params.patience and level + 1 < len(params.levels):
        return Progress(level + 1, step=step), Move(step, level, level + 1, values_of(level, metrics, params))
    return replace(progress, mastered=min(mastered, params.patience), lost=lost, step=step), None


class Competence:
    """`judge` with its memory, which is part of a checkpoint."""

    def __init__(self, params: ProgressionParams) -> None:
        self._params = params
        self.progress = Progress()

    def judge(self, step: int, metrics: Mapping[str, float]) -> Move | None:
        """The move that the held-out values of a step decide, if any."""
        self.progress, move = judge(self.progress, step, metrics, self._params)
        return move

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"version": _VERSION, **asdict(self.progress)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`. Raises ValueError for what is none of this version, or a level that there is not."""
        known = {"version", *asdict(Progress())}
        if state.get("version") != _VERSION or set(state) != known or not all(isinstance(state[name], int) for name in known):
            raise ValueError(f"the checkpoint's progression is {dict(state)}; resume from an earlier checkpoint")
        progress = Progress(**{name: state[name] for name in known - {"version"}})
        if not 0 <= progress.level < len(self._params.levels):
            raise ValueError(f"the checkpoint's progression is at level {progress.level}, there are {len(self._params.levels)}")
        self.progress = progress
