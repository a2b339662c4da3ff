"""Names in an engine's folder that is in DeepSpeed's universal form, and what DeepSpeed leaves undone when it reads one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from components.training.averages import AVERAGE

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

TAG, LATEST, BUFFERS = "checkpoint", "latest_universal", "buffers.pt"
OPTIMIZER = "zero/optimizer_state.pt"


def is_universal(engine: Path) -> bool:
    """Whether an engine's folder is in the universal form."""
    return (engine / LATEST).is_file()


def complete(engine: DeepSpeedEngine, folder: Path) -> None:
    """Put right what DeepSpeed 0.19 makes of the universal form: it reads no buffers, and at stage 3 it gives every group the values of the
    first, all states one and the same tensor that counts their steps, and none of them what it does not know by name."""
    optimizer = engine.optimizer.optimizer
    saved = torch.load(folder / TAG / OPTIMIZER, map_location="cpu", weights_only=True)["param_groups"]
    for group, values in zip(optimizer.param_groups, saved, strict=True):
        group.update(values)
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = state["step"].clone()
    if engine.zero_optimization_partition_weights():
        _read_averages(engine.optimizer, folder / TAG / "zero")
    own = dict(engine.module.named_buffers())
    for name, value in torch.load(folder / BUFFERS, map_location="cpu", weights_only=True).items():
        own[name].copy_(value)


def _read_averages(zero: DeepSpeedZeroOptimizer_Stage3, folder: Path) -> None:
    """This rank's share of the averages that were stored, if any were."""
    for parameters, flat in zip(zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True):
        places = [folder / zero.param_names[parameter] for parameter in parameters]
        if all((place / f"{AVERAGE}.pt").exists() for place in places):
            shares = [zero.load_hp_checkpoint_state(str(place), AVERAGE, param=one) for place, one in zip(places, parameters, strict=True)]
            zero.optimizer.state[flat][AVERAGE] = torch.cat(shares).to(flat)


def stored(engine: Path) -> dict[str, Path]:
    """The file of each stored parameter, by its name."""
    return {place.name: place / "fp32.pt" for place in (engine / TAG / "zero").iterdir() if place.is_dir()}
