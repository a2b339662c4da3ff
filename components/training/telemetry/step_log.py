"""What is logged after an optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from components.tracking.spool import append_points, last_step, now_ms, read_points
from components.training.guards.journal import Journal
from components.training.job import Job
from components.training.telemetry.meter import Meter

Figures = Callable[[Mapping[str, float]], dict[str, float]]
"""More to log, from what is logged."""
EachStep = Callable[[int], dict[str, list[float]]]
"""After a step, values of it and of those since the last time it was asked, one after the other, by name."""
GRADIENT_NORM = "grad_norm"


class StepLog(Callback):
    """On rank 0 appends a metric point each `log_every_steps` to the points file.

    The point has the gradient norms of all steps since the one before. That logged steps are done again is an entry of the journal.

    A step that an earlier attempt has logged is not logged again: its point, and its time, are on disk.
    """

    def __init__(
        self,
        job: Job,
        meter: Meter,
        gradient_norm: Callable[[], float],
        factor: Callable[[int], float],
        figures: Figures,
        also: Sequence[EachStep] = (),
    ) -> None:
        """`also`: further values of each step."""
        self._path, self._journal = job.points, Journal(job.journal)
        self._train = job.train
        self._meter = meter
        self._gradient_norm = gradient_norm
        self._factor = factor
        self._figures = figures
        self._also = tuple(also)
        self._seen = 0
        self._logged = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._seen = trainer.global_step
        if trainer.is_global_zero:
            points, end = read_points(self._path)
            self._logged = last_step(points, "loss")
            if self._logged > self._seen:
                self._journal.add("resumed", self._seen, lost_steps=self._logged - self._seen)
            with self._path.open("ab") as file:
                file.truncate(end)  # half a line of a killed attempt

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int) -> None:
        step = trainer.global_step
        if step == self._seen:
            return
        self._seen = step
        norm = self._gradient_norm()
        self._meter.note(norm)
        if step % self._train.log_every_steps and step != self._train.steps:
            return
        each = {GRADIENT_NORM: self._meter.norms}
        for more in self._also:
            each |= more(step)
        values = self._meter.read(self._train.micro_batches(self._train.ranks))
        if trainer.is_global_zero and step > self._logged:
            values |= {"lr": self._train.learning_rate * self._factor(step - 1), **self._figures(values)}
            values |= {name: own[-1] for name, own in each.items()}
            append_points(self._path, [{"step": step, "time_ms": now_ms(), "metrics": values, "each_step": each}])
