"""When longer documents with more images are trained on: levels, and what raises them. Our reading: the paper prints no schedule."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from components.frozen import Frozen

Measured = Literal["text_loss", "image_loss", "stop_accuracy", "placement_accuracy"]
AT_MOST: frozenset[Measured] = frozenset({"text_loss", "image_loss"})
"""What is better when it is lower; the rest is better when it is higher."""


class LevelParams(Frozen):
    """What a document may be at one level. Its bucket is the first level that it keeps to."""

    max_images: int | None = Field(None, ge=0, description="images of a document at most; no limit where absent")
    max_tokens: int | None = Field(
        None, ge=3, description="tokens of a document at most, as it takes them in a row (<s>, </s> and visual tokens too)"
    )


class ProgressionParams(Frozen):
    """Levels of difficulty, and what moves between them (docs/progressive.md)."""

    mode: Literal["none", "fixed", "competence"] = Field(
        "none", description="no levels; a level from a given step on; or up when the held-out documents of the level are mastered"
    )
    levels: tuple[LevelParams, ...] = Field((), description="limits from the easiest level on; each allows all that the one before does")
    steps: tuple[NonNegativeInt, ...] = Field((), description="with mode `fixed`: the step from which each level holds, the first 0")
    floor: float = Field(
        0.2, ge=0, lt=1, description="share of rows that hold documents below the present level at least, where there are any"
    )
    mastered: dict[Measured, Annotated[float, Field(ge=0)]] = Field(
        {},
        description="with mode `competence`: what the held-out documents of a level must reach, losses at most and accuracies at least",
    )
    patience: int = Field(2, ge=1, description="held-out measurements in a row that decide a move")
    hysteresis: float = Field(
        0.1, ge=0, lt=1, description="how far below the mark a mastered level must fall to count as lost, as a share of the mark"
    )

    @model_validator(mode="after")
    def _mode_has_what_it_needs(self) -> Self:
        if self.mode != "none" and len(self.levels) < 2:
            raise ValueError(f"progression.mode is `{self.mode}` and needs at least two progression.levels")
        for number, (lower, upper) in enumerate(pairwise(self.levels), 1):
            for name in ("max_images", "max_tokens"):
                before, own = getattr(lower, name), getattr(upper, name)
                if own is not None and (before is None or own < before):
                    raise ValueError(f"progression.levels[{number}].{name} must not be below that of the level before")
            if lower == upper:
                raise ValueError(f"progression.levels[{number}] allows nothing that the level before does not")
        if self.mode == "fixed" and (
            len(self.steps) != len(self.levels) or self.steps[0] != 0 or any(a >= b for a, b in pairwise(self.steps))
        ):
            raise ValueError(f"progression.steps must be {len(self.levels)} ascending steps, one a level, the first 0")
        if self.mode == "competence" and not self.mastered:
            raise ValueError("progression.mode is `competence` and needs progression.mastered, what a level must reach")
        return self

    @property
    def moves(self) -> tuple[tuple[int, int], ...]:
        """(step, level) of the moves that are known before the training begins."""
        return tuple((step, level) for level, step in enumerate(self.steps) if level) if self.mode == "fixed" else ()
