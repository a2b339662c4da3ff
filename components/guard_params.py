"""When a training is rolled back, and how it goes on: every threshold with its unit and source (docs/failures.md)."""

from __future__ import annotations

from pydantic import Field

from components.frozen import Frozen


class GuardParams(Frozen):
    """What watches the losses of one training stage.

    Only what decides the weights stands here; how often and when a machine's failure is met by a restart are settings.
    """

    spike_threshold: float = Field(
        12.0,
        ge=0,
        description="a step's loss is out of line when it lies so many robust standard deviations above the median of the window "
        "(docs/failures.md); 0 is off",
    )
    spike_patience: int = Field(3, ge=1, description="steps out of line one after the other that make a spike")
    spike_window: int = Field(128, ge=8, le=10_000, description="steps in line that a step is compared with")
    spike_min_steps: int = Field(64, ge=8, description="steps in line before any is judged")
    watch_gradient_norm: bool = Field(False, description="judge the global gradient norm before clipping in the same way")
    margin_steps: int = Field(
        0,
        ge=0,
        description="steps before the first bad one whose rows are left out as well; PaLM left out 200 to 500 around a spike",
    )
    max_rollbacks: int = Field(3, ge=0, description="times that a training is rolled back before it fails")
    learning_rate_factor: float = Field(
        1.0, gt=0, le=1, description="multiplies the learning rate after a rollback, for cool_down_steps; 1 leaves it"
    )
    cool_down_steps: int = Field(100, ge=0, description="steps with the lowered learning rate, from the first that was left out")
    max_skipped_steps: int = Field(
        50,
        ge=1,
        description="steps that the loss scaler of 16-mixed may leave out in a row; with one more, the gradients are not finite",
    )
