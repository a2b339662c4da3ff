"""The failure that says which steps it was."""

from __future__ import annotations

from components.run.failures import FailureClass, StageError


class BadSteps(StageError):
    """Steps `first` to `last` (counted from 1) must not be part of the training; found when `last` was made."""

    def __init__(self, failure: FailureClass, message: str, fix: str, first: int, last: int) -> None:
        super().__init__(failure, message, fix)
        self.first = first
        self.last = last


def not_finite(what: str, step: int) -> BadSteps:
    """The failure of a step whose `what` is inf or NaN."""
    fix = "lower learning_rate, lengthen warmup_steps, or look at the documents of that step"
    return BadSteps(
        FailureClass.NON_FINITE, f"the {what} of step {step} is not finite; the weights were left as they were", fix, step, step
    )
