"""Names in an engine's folder that is in DeepSpeed's universal form, and what DeepSpeed leaves undone when it reads one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

TAG, LATEST, BUFFERS = "checkpoint", "latest_universal", "buffers.pt"
OPTIMIZER = "zero/optimizer_state.pt"


def is_universal(engine: Path) -> bool:
    """Whether an engine's folder is in the universal form."""
    return (engine / LATEST).is_file()


def complete(engine: DeepSpeedEngine, folder: Path) -> None:
    """Put right what DeepSpeed 0.19 makes of the universal form: it reads no buffers, and at stage 3 it gives every group the values of the
    first, and all states one and the same tensor that counts their steps."""
    optimizer = engine.optimizer.optimizer
    saved = torch.load(folder / TAG / OPTIMIZER, map_location="cpu", weights_only=True)["param_groups"]
    for group, values in zip(optimizer.param_groups, saved, strict=True):
        group.update(values)
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = state["step"].clone()
    own = dict(engine.module.named_buffers())
    for name, value in torch.load(folder / BUFFERS, map_location="cpu", weights_only=True).items():
        own[name].copy_(value)


def stored(engine: Path) -> dict[str, Path]:
    """The file of each stored parameter, by its name."""
    return {place.name: place / "fp32.pt" for place in (engine / TAG / "zero").iterdir() if place.is_dir()}
