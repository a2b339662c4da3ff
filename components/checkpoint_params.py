"""Which checkpoints of a training stay. When they are written says `checkpoint_every_steps`; where else they go, MMFS_CHECKPOINTS."""

from __future__ import annotations

from pydantic import Field

from components.checkpoints.retention import Retention
from components.frozen import Frozen


class CheckpointParams(Frozen):
    """Every checkpoint stays that one of these keeps; one that is pinned, as by a registration, always does."""

    keep_last: int = Field(2, ge=1, description="the newest")
    keep_every_steps: int = Field(0, ge=0, description="those whose step is a multiple of it; 0 keeps none for that")
    keep_best: int = Field(0, ge=0, description="those with the lowest `best_by`")
    best_by: str = Field("loss", min_length=1, description="a logged metric, lower is better; its last value at the checkpoint counts")

    @property
    def retention(self) -> Retention:
        """The rule they make."""
        return Retention(self.keep_last, self.keep_every_steps, self.keep_best)
