"""When held-out rows are looked at, and that training does not notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from components.tracking.spool import append_points, now_ms, read_points
from components.training.job import Job
from components.training.lit_module import TrainingModule
from components.training.objective import Reduce
from components.training.validation.validation import PREFIX, HeldOut, Tally

Hear = Callable[[int, Mapping[str, float]], None]
"""Told of a validation's step and means, the same on every rank."""


class Validation(Callback):
    """Held-out means every `validation.every_steps` and after the last step, as a metric point of rank 0; a step that an earlier attempt
    has logged is computed again for who listens, but not logged again."""

    def __init__(
        self, job: Job, held_out: HeldOut, reduce: Reduce, beat: Callable[[int, str], None], listeners: Sequence[Hear] = ()
    ) -> None:
        """`beat` is told of each batch, so that nobody takes the rank for dead."""
        self._job = job
        self._beat = beat
        self._held_out = held_out
        self._reduce = reduce
        self._listeners = tuple(listeners)
        self._seen = 0
        self._logged = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._seen = trainer.global_step
        if trainer.is_global_zero:
            points, _ = read_points(self._job.points)
            validated = [point["step"] for point in points if any(name.startswith(f"{PREFIX}/") for name in point["metrics"])]
            self._logged = max(validated, default=0)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int) -> None:
        assert isinstance(module, TrainingModule)
        step, train = trainer.global_step, self._job.train
        if step == self._seen:
            return
        self._seen = step
        if step % train.validation.every_steps and step != train.steps:
            return
        means = self._means(trainer, module.network)
        if trainer.is_global_zero and step > self._logged:
            append_points(self._job.points, [{"step": step, "time_ms": now_ms(), "metrics": means}])
        for hear in self._listeners:
            hear(step, means)

    def _means(self, trainer: Trainer, network: nn.Module) -> dict[str, float]:
        tally, device = Tally(self._held_out), trainer.strategy.root_device
        weights = {"text_weight": self._job.text_loss_weight, "image_weight": self._job.image_loss_weight}
        with undisturbed(network, device), trainer.precision_plugin.forward_context():
            for rows, counts in self._held_out.batches(trainer.global_rank, trainer.world_size):
                self._beat(trainer.global_step, "validation")
                on_device = rows.to(device)
                output = network(*on_device.arguments, **weights)
                if counts:
                    tally.add(on_device, output)
        tally.values = self._reduce(tally.values.to(device)).cpu()
        return tally.read()


@contextmanager
def undisturbed(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation without gradients; afterwards every module is in the mode, and torch's random state where, it was."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
