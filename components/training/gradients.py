"""Clipping where no ZeRO engine does it."""

from __future__ import annotations

import math

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from components.training.guards.bad_steps import not_finite


class PlainGradients(Callback):
    """Clips gradients and stops before a step on gradients that are not finite, where no ZeRO engine does it."""

    def __init__(self, clip_norm: float, skips_overflow: bool) -> None:
        self.norm = math.nan
        self._clip_norm = clip_norm
        self._skips_overflow = skips_overflow

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.norm = float(torch.nn.utils.clip_grad_norm_(parameters, self._clip_norm))
        if not math.isfinite(self.norm) and not self._skips_overflow:
            raise not_finite("gradient norm", trainer.global_step + 1)
