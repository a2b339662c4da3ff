"""What one step of a training saw and did: the rows with their losses, and the gradient norm of every parameter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from components.training.job import Job
from components.training.lit_module import TrainingModule
from components.training.telemetry.meter import Meter


@dataclass(frozen=True)
class Heard:
    """One micro-batch: the network's arguments, and the losses that it said of each text target and each picture."""

    arguments: tuple[Any, ...]
    text_losses: Tensor
    image_losses: Tensor


Describe = Callable[[Job, int, Sequence[Heard], Any], list[dict[str, Any]]]
"""(job, step, what the network heard and said in each of its micro-batches, the stream that draws rows by levels, if one does) → the rows
of this rank, as JSON values."""


class Reached(Exception):
    """The step is done."""


class Probe(Callback):
    """Listens to one optimizer step, counted from 1, and raises Reached when the next begins. Comes before what clips."""

    def __init__(self, job: Job, step: int, describe: Describe, meter: Meter, levels: Any = None) -> None:
        self._job = job
        self._step = step
        self._describe = describe
        self._meter = meter
        self._levels = levels
        self._heard: list[Heard] = []
        self._norms: dict[str, float] = {}
        self._each_step: list[float] = []
        self._hook: Any = None

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, index: int) -> None:
        assert isinstance(module, TrainingModule)
        if trainer.global_step >= self._step:
            self._each_step = self._meter.norms
            raise Reached
        if trainer.global_step == self._step - 1 and self._hook is None:
            self._hook = module.network.register_forward_hook(self._hear)

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Any) -> None:
        assert isinstance(module, TrainingModule)
        ends_step = len(self._heard) == self._job.train.micro_batches(self._job.train.ranks)
        if trainer.global_step == self._step - 1 and ends_step:
            self._norms = gradient_norms(module.network, optimizer)

    def _hear(self, network: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        self._heard.append(Heard(arguments, output.text_losses.detach().cpu(), output.image_losses.detach().cpu()))

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int) -> None:
        if trainer.global_step == self._step and self._hook is not None:
            self._hook.remove()

    def seen(self) -> dict[str, Any]:
        """Rows, gradient norms by parameter, and the global norms of the last steps that no point was logged for, as JSON values."""
        return {
            "rows": self._describe(self._job, self._step, self._heard, self._levels),
            "norms": self._norms,
            "each_step": self._each_step,
        }


def gradient_norms(network: nn.Module, optimizer: Any) -> dict[str, float]:
    """By name the norm of each trained parameter's gradient before clipping, under ZeRO too, whose ranks must all call this."""
    scale = 1.0 if isinstance(optimizer, torch.optim.Optimizer) else float(optimizer.loss_scale)
    norms = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and (gradient := _gradient(parameter, optimizer)) is not None:
            norms[name] = float(gradient.double().norm()) / scale
    return norms


def _gradient(parameter: nn.Parameter, optimizer: Any) -> Tensor | None:
    """The gradient, whole, averaged over the ranks."""
    if isinstance(optimizer, torch.optim.Optimizer):
        return parameter.grad
    from deepspeed.utils import safe_get_full_grad

    found: Tensor | None = safe_get_full_grad(parameter)
    return found
