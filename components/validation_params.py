"""Validation beside training: how often held-out rows are looked at, and how many."""

from __future__ import annotations

from pydantic import Field

from components.frozen import Frozen


class ValidationParams(Frozen):
    """Held-out losses while a stage trains (docs/training-metrics.md). They change nothing of what is trained."""

    every_steps: int = Field(0, ge=0, description="optimizer steps between two validations, the last step included; 0 is none")
    rows: int = Field(8, ge=1, description="held-out rows of row_tokens per name of the mixture, at most; the same ones each time")
