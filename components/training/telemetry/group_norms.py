"""Gradient norms of parameter groups, now and then."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from components.tracking.spool import append_points, now_ms, read_points
from components.training.job import Job

PREFIX = "grad_norm/"
_UNNAMEABLE = re.compile(r"[^\w\-. :/]")


class GroupNorms(Callback):
    """Each `group_norms_every_steps` rank 0 appends a point of `grad_norm/<group>`, before clipping. Comes before what clips.

    Under ZeRO a rank holds a part of the gradients, and the norms come from these parts by the function that DeepSpeed itself makes the
    global norm with: one collective a group.
    """

    def __init__(self, job: Job) -> None:
        self._path, self._every, self._accumulate = (
            job.points,
            job.train.telemetry.group_norms_every_steps,
            job.train.micro_batches(job.train.ranks),
        )
        self._micro_batches = 0
        self._logged = 0
        self._norms: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            points, _ = read_points(self._path)
            self._logged = max((one["step"] for one in points if any(name.startswith(PREFIX) for name in one["metrics"])), default=0)

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Any) -> None:
        self._micro_batches += 1
        ends_step = trainer.strategy.handles_gradient_accumulation is False or self._micro_batches % self._accumulate == 0
        if self._every and ends_step and (trainer.global_step + 1) % self._every == 0:
            self._norms = group_norms(optimizer)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int) -> None:
        if self._norms and trainer.is_global_zero and trainer.global_step > self._logged:
            append_points(self._path, [{"step": trainer.global_step, "time_ms": now_ms(), "metrics": self._norms}])
        self._norms = {}


def group_norms(optimizer: Any) -> dict[str, float]:
    """`grad_norm/<group>` of a torch optimizer, or of DeepSpeed's around one, whose ranks must all call this."""
    names = [_UNNAMEABLE.sub("_", group.get("name", str(number))) for number, group in enumerate(optimizer.param_groups)]
    squares = [0.0] * len(names)
    for number, norm in _parts(optimizer):
        squares[number] += norm**2
    return {f"{PREFIX}{name}": math.sqrt(square) for name, square in zip(names, squares, strict=True)}


def _parts(optimizer: Any) -> Iterable[tuple[int, float]]:
    """(number of the group, norm of some of its gradients)."""
    if isinstance(optimizer, torch.optim.Optimizer):
        for number, group in enumerate(optimizer.param_groups):
            gradients = [parameter.grad for parameter in group["params"] if parameter.grad is not None]
            yield number, float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0
        return
    scale = float(optimizer.loss_scale)
    of_group = getattr(optimizer, "sub_group_to_group_id", None)  # ZeRO-3 cuts groups into parts of its own
    groups = optimizer.bit16_groups if of_group is None else optimizer.fp16_groups
    offloaded = getattr(optimizer, "cpu_offload", False) or getattr(optimizer, "offload_optimizer", False)
    for part, parameters in enumerate(groups):
        if offloaded:
            norm = optimizer.complete_grad_norm_calculation_for_cpu_offload(parameters if of_group else optimizer.params_in_partition[part])
        else:
            norm = optimizer.get_grad_norm_direct(
                optimizer.averaged_gradients[part], parameters if of_group else optimizer.params_in_partition[part]
            )
        yield (of_group[part] if of_group else part), float(norm) / scale
