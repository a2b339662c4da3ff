"""What is logged after an optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from components.params import TrainParams
from components.tracking.spool import append_points, last_step, now_ms, read_points
from components.training.lit_module import check_gradient_norm
from components.training.meter import Meter
from components.training.optimizer import schedule


class StepLog(Callback):
    """Checks every step's gradient norm and, on rank 0, appends a metric point each `log_every_steps` to the points file.

    A step that an earlier attempt has logged is not logged again: its point, and its time, are on disk.
    """

    def __init__(
        self,
        path: Path,
        train: TrainParams,
        meter: Meter,
        gradient_norm: Callable[[], float],
        also: Sequence[Callable[[int], Mapping[str, float]]] = (),
    ) -> None:
        """`also`: further metrics of a step."""
        self._path = path
        self._train = train
        self._meter = meter
        self._gradient_norm = gradient_norm
        self._also = tuple(also)
        self._factor = schedule(train)
        self._seen = 0
        self._logged = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._seen = trainer.global_step
        if trainer.is_global_zero:
            points, end = read_points(self._path)
            self._logged = last_step(points, "loss")
            with self._path.open("ab") as file:
                file.truncate(end)  # half a line of a killed attempt

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int) -> None:
        step = trainer.global_step
        if step == self._seen:
            return
        self._seen = step
        norm = self._gradient_norm()
        if self._train.precision != "16-mixed":  # whose loss scaler leaves steps out by design
            check_gradient_norm(norm, step)
        if step % self._train.log_every_steps and step != self._train.steps:
            return
        values = self._meter.read(self._train.micro_batches(self._train.ranks))
        if trainer.is_global_zero and step > self._logged:
            values |= {"lr": self._train.learning_rate * self._factor(step - 1), "grad_norm": norm}
            for more in self._also:
                values |= more(step)
            append_points(self._path, [{"step": step, "time_ms": now_ms(), "metrics": values}])
