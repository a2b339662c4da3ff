"""Names in an engine's folder that is in DeepSpeed's universal form, and what DeepSpeed leaves undone when it reads one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

TAG, LATEST, UNTRAINED = "checkpoint", "latest_universal", "untrained.pt"
OPTIMIZER = "zero/optimizer_state.pt"


def is_universal(engine: Path) -> bool:
    """Whether an engine's folder is in the universal form."""
    return (engine / LATEST).is_file()


def complete(engine: DeepSpeedEngine, folder: Path) -> None:
    """Put right what DeepSpeed 0.19 has read of the universal form: it reads no frozen parameter and no buffer, and at stage 3 it gives all
    groups the values of the first and all states one and the same count of steps."""
    import deepspeed

    optimizer = engine.optimizer.optimizer
    saved = torch.load(folder / TAG / OPTIMIZER, map_location="cpu", weights_only=True)["param_groups"]
    for group, values in zip(optimizer.param_groups, saved, strict=True):
        group.update(values)
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = state["step"].clone()
    tensors = dict(engine.module.named_buffers()) | dict(engine.module.named_parameters())
    untrained = torch.load(folder / UNTRAINED, map_location="cpu", weights_only=True)
    for name, value in untrained.items():
        target = tensors[name]
        sharded = hasattr(target, "ds_id")
        with deepspeed.zero.GatheredParameters([target], modifier_rank=0, enabled=sharded), torch.no_grad():
            if not sharded or engine.global_rank == 0:
                target.copy_(value)
