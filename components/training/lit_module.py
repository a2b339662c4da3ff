"""How to step: the Lightning module around a network that it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from components.params import TrainParams
from components.training.guards.bad_steps import not_finite
from components.training.objective import MicroBatch, Objective, Sums
from components.training.optimizer import build_optimizer


class TrainingModule(LightningModule):
    """One optimizer step = `accumulate` micro-batches; what is not finite ends the training before the weights change."""

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        train: TrainParams,
        factor: Callable[[int], float],
        hear: Sequence[Callable[[Sums], None]],
        stop_asked: Callable[[], bool],
    ) -> None:
        """`factor`: of the learning rate at an optimizer step (from 0). `hear` is told what each micro-batch contributes over all ranks."""
        super().__init__()
        self.strict_loading = False  # frozen parameters are in no checkpoint; `tensors.check_stored` looks for the others
        self.network = network
        self.stopping = False
        self._factor = factor
        self._hear = tuple(hear)
        self._objective = objective
        self._train = train
        self._stop_asked = stop_asked

    def training_step(self, batch: MicroBatch, index: int) -> Tensor:
        """The loss of a micro-batch. Raises BadSteps (non_finite) on every rank at once."""
        loss, sums = self._objective(self.network, batch, self._stop_asked())
        if not sums.is_finite:
            raise not_finite("loss", self.global_step + 1)
        for hear in self._hear:
            hear(sums)
        self.stopping = self.stopping or sums.stop > 0
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW and its schedule, advanced once an optimizer step."""
        optimizer = build_optimizer(self.network, self._train)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def transfer_batch_to_device(self, batch: MicroBatch, device: torch.device, dataloader_idx: int) -> MicroBatch:
        """Move the network's arguments; the counts stay numbers."""
        return batch.to(device)
