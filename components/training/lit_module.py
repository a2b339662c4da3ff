"""How to step: the Lightning module around a network that it is given."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from components.params import TrainParams
from components.run.failures import FailureClass, StageError
from components.training.meter import Meter
from components.training.objective import MicroBatch, Objective
from components.training.optimizer import build_optimizer, schedule


class TrainingModule(LightningModule):
    """One optimizer step = `accumulate` micro-batches; what is not finite ends the training before the weights change."""

    def __init__(self, network: nn.Module, objective: Objective, train: TrainParams, meter: Meter, stop_asked: Callable[[], bool]) -> None:
        super().__init__()
        self.strict_loading = False  # frozen parameters are in no checkpoint; `tensors.check_stored` looks for the others
        self.network = network
        self.meter = meter
        self.stopping = False
        self._objective = objective
        self._train = train
        self._stop_asked = stop_asked

    def training_step(self, batch: MicroBatch, index: int) -> Tensor:
        """The loss of a micro-batch. Raises StageError (non_finite) on every rank at once."""
        loss, sums = self._objective(self.network, batch, self._stop_asked())
        if not sums.is_finite:
            raise not_finite("loss", self.global_step + 1)
        self.meter.add(sums)
        self.stopping = self.stopping or sums.stop > 0
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW and its schedule, advanced once an optimizer step."""
        optimizer = build_optimizer(self.network, self._train)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(self._train))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def transfer_batch_to_device(self, batch: MicroBatch, device: torch.device, dataloader_idx: int) -> MicroBatch:
        """Move the network's arguments; the counts stay numbers."""
        return batch.to(device)


def check_gradient_norm(norm: float, step: int) -> float:
    """The norm. Raises StageError (non_finite) when it is none."""
    if not math.isfinite(norm):
        raise not_finite("gradient norm", step)
    return norm


def not_finite(what: str, step: int) -> StageError:
    """The failure of a step whose `what` is inf or NaN."""
    fix = "lower learning_rate, lengthen warmup_steps, or look at the documents of that step"
    return StageError(FailureClass.NON_FINITE, f"the {what} of step {step} is not finite; the weights were left as they were", fix)
