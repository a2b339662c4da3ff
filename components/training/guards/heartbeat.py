"""What a rank tells the watchdog: which phase of which step it begins."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from components.training.guards.watchdog import Pulse


class Heartbeat(Callback):
    """Beats at the phases of every micro-batch; a phase that does not end is the one it hangs in."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._beat(trainer, "data")

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, index: int) -> None:
        self._beat(trainer, "forward")

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: torch.Tensor) -> None:
        self._beat(trainer, "backward")

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        self._beat(trainer, "optimizer")

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int) -> None:
        self._beat(trainer, "what follows a step")

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._beat(trainer, "checkpoint")

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._beat(trainer, "export")

    def _beat(self, trainer: Trainer, phase: str) -> None:
        self._pulse.beat(trainer.global_step + 1, phase)
