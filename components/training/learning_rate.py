"""The learning rate of a step: the schedule, lowered for some steps after a rollback."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lightning.pytorch import Callback, LightningModule, Trainer

from components.params import TrainParams
from components.training.guards.rollbacks import Rollback, learning_rate_factor
from components.training.optimizer import schedule


def lowered(train: TrainParams, rollbacks: Sequence[Rollback]) -> Callable[[int], float]:
    """Factor of the learning rate at an optimizer step (from 0)."""
    factor = schedule(train)
    if not rollbacks:
        return factor
    return lambda step: factor(step) * learning_rate_factor(rollbacks, train.guard, step + 1)


class SetRate(Callback):
    """A checkpoint brings the rate of the step after it, as it was when it was written: what was decided since then counts instead."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        for group, base, factor in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
            group["lr"] = base * factor(scheduler.last_epoch)
