"""The two ways to step: DeepSpeed ZeRO on several ranks or with offloading, or plain on one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch import Callback
from lightning.pytorch.strategies import SingleDeviceStrategy, Strategy
from torch import nn

from components.launch.imports import heavy_imports
from components.params import TrainParams
from components.run.failures import FailureClass, StageError
from components.training.averages import PutAverages, put_averages
from components.training.gradients import PlainGradients


@dataclass(frozen=True)
class Engine:
    """What differs between the two, for the trainer."""

    strategy: Strategy
    callbacks: tuple[Callback, ...]
    gradient_norm: Callable[[], float]
    """Global gradient norm of the last step before clipping; not finite when the step was left out."""
    whole_parameters: Callable[[nn.Module], AbstractContextManager[None]]
    """Context in which this rank sees all parameters whole."""
    put_averages: PutAverages
    """Overwrites the weights with their moving averages, where the optimizer keeps them; every rank takes part."""


def build_engine(train: TrainParams, device: str, resume: Path | None = None) -> Engine:
    """ZeRO at the stage of `train` for several ranks or with offloading, plain for one rank. `device` is `cpu` or `cuda`, `resume` the
    engine's part of the checkpoint to go on from.

    Raises StageError (bad_config) for float16 without a GPU.
    """
    if device == "cpu" and train.precision == "16-mixed":  # Lightning would take bfloat16 without a word, and DeepSpeed refuses
        message = "precision is 16-mixed, float16 is for GPUs and this machine has none"
        raise StageError(FailureClass.BAD_CONFIG, message, "set precision to bf16-mixed or 32-true")
    if not train.sharded_stage:
        gradients = PlainGradients(train.clip_norm, train.precision == "16-mixed")
        strategy = SingleDeviceStrategy(device="cuda:0" if device == "cuda" else "cpu")
        return Engine(strategy, (gradients,), lambda: gradients.norm, lambda network: nullcontext(), put_averages)
    with heavy_imports():
        from components.training.strategy import zero_strategy  # only here: importing DeepSpeed takes seconds

    zero = zero_strategy(train, device, resume)
    return Engine(zero, (), zero.gradient_norm, zero.whole_parameters, zero.put_averages)
