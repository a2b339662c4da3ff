"""What is measured beside the losses of a training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat

from components.frozen import Frozen


class TelemetryParams(Frozen):
    """Measurements beside training (docs/training-metrics.md). They change nothing of what is trained."""

    group_norms_every_steps: int = Field(100, ge=0, description="optimizer steps between two gradient norms per parameter group; 0 is none")
    peak_tflops: PositiveFloat | Literal["auto"] = Field(
        "auto",
        description="dense peak of one device in the stage's precision, behind mfu; `auto`: known by the name of a GPU, measured on a CPU; "
        "no mfu where it is unknown",
    )
    samples_every_steps: int = Field(
        0, ge=0, description="optimizer steps between two sets of generated samples, made beside training from a checkpoint; 0 is none"
    )
    sample_documents: int = Field(4, ge=1, description="held-out documents of each set of samples, always the same")
