"""What is logged after an optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from components.params import TrainParams
from components.tracking.spool import append_points, now_ms, read_points
from components.training.meter import Meter


class StepLog(Callback):
    """On rank 0 appends a metric point each `log_every_steps` to the points file.

    A step that an earlier attempt has logged is not logged again: its point, and its time, are on disk.
    """

    def __init__(
        self, path: Path, train: TrainParams, meter: Meter, gradient_norm: Callable[[], float], factor: Callable[[int], float]
    ) -> None:
        self._path = path
        self._train = train
        self._meter = meter
        self._gradient_norm = gradient_norm
        self._factor = factor
        self._seen = 0
        self._logged = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._seen = trainer.global_step
        if trainer.is_global_zero:
            points, end = read_points(self._path)
            self._logged = points[-1]["step"] if points else 0
            with self._path.open("ab") as file:
                file.truncate(end)  # half a line of a killed attempt

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int) -> None:
        step = trainer.global_step
        if step == self._seen:
            return
        self._seen = step
        if step % self._train.log_every_steps and step != self._train.steps:
            return
        values = self._meter.read(self._train.micro_batches(self._train.ranks))
        if trainer.is_global_zero and step > self._logged:
            values |= {"lr": self._train.learning_rate * self._factor(step - 1), "grad_norm": self._gradient_norm()}
            append_points(self._path, [{"step": step, "time_ms": now_ms(), "metrics": values}])
