"""What happens between optimizer steps: metric points, checkpoints, the answer to SIGTERM."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from components.params import TrainParams
from components.run.failures import FailureClass, StageError
from components.tracking.spool import append_points, now_ms, read_points
from components.training.checkpoint import CURSOR_FILE, DATA, CheckpointFolder
from components.training.lit_module import TrainingModule, check_gradient_norm
from components.training.meter import Meter
from components.training.optimizer import schedule
from components.training.random_state import load_random_state, save_random_state

ENGINE = "engine"


CursorOf = Callable[[int], dict[str, Any]]
"""Where the data stand before a step, as JSON values."""


class StopSignal:
    """Remembers SIGTERM; the ranks agree on it at the next step."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    def listen(self) -> None:
        """Take SIGTERM over, also from Lightning, which would end the rank without a checkpoint."""
        signal.signal(signal.SIGTERM, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


class PlainGradients(Callback):
    """Clips gradients and stops before a step on gradients that are not finite, where no ZeRO engine does it."""

    def __init__(self, clip_norm: float, skips_overflow: bool) -> None:
        self.norm = math.nan
        self._clip_norm = clip_norm
        self._skips_overflow = skips_overflow

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.norm = float(torch.nn.utils.clip_grad_norm_(parameters, self._clip_norm))
        if not self._skips_overflow:
            check_gradient_norm(self.norm, trainer.global_step + 1)


class StepLog(Callback):
    """Checks every step's gradient norm and, on rank 0, appends a metric point each `log_every_steps` to the points file.

    A step that an earlier attempt has logged is not logged again: its point, and its time, are on disk.
    """

    def __init__(self, path: Path, train: TrainParams, meter: Meter, gradient_norm: Callable[[], float]) -> None:
        self._path = path
        self._train = train
        self._meter = meter
        self._gradient_norm = gradient_norm
        self._factor = schedule(train)
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
        norm = self._gradient_norm()
        if self._train.precision != "16-mixed":  # whose loss scaler leaves steps out by design
            check_gradient_norm(norm, step)
        if step % self._train.log_every_steps and step != self._train.steps:
            return
        values = self._meter.read(self._train.micro_batches(self._train.ranks))
        if trainer.is_global_zero and step > self._logged:
            values |= {"lr": self._train.learning_rate * self._factor(step - 1), "grad_norm": norm}
            append_points(self._path, [{"step": step, "time_ms": now_ms(), "metrics": values}])


class Checkpointing(Callback):
    """Commits a checkpoint each `checkpoint_every_steps`, and one before leaving on SIGTERM; restores what the engine does not keep."""

    def __init__(
        self, folder: CheckpointFolder, train: TrainParams, meter: Meter, stop: StopSignal, resume: Path | None, cursor_of: CursorOf
    ) -> None:
        self._folder = folder
        self._cursor_of = cursor_of
        self._train = train
        self._meter = meter
        self._stop = stop
        self._resume = resume
        self._seen = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._stop.listen()
        self._seen = trainer.global_step
        if self._resume is not None:
            self._meter.load(json.loads((self._resume / CURSOR_FILE).read_text())["meter"])
            load_random_state(self._resume / f"random-{trainer.global_rank}.pt")

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int) -> None:
        assert isinstance(module, TrainingModule)
        step = trainer.global_step
        if step == self._seen:
            return
        self._seen = step
        if module.stopping or (step % self._train.checkpoint_every_steps == 0 and step < self._train.steps):
            self._save(trainer, step)
        if module.stopping:
            raise StageError(FailureClass.PREEMPTED, f"asked to stop; step {step} is saved", "run the same command to go on")

    def _save(self, trainer: Trainer, step: int) -> None:
        if trainer.is_global_zero:
            self._folder.begin(step)
        trainer.strategy.barrier()
        staging = self._folder.staging(step)
        trainer.save_checkpoint(staging / ENGINE)
        save_random_state(staging / f"random-{trainer.global_rank}.pt")
        if trainer.is_global_zero:
            (staging / CURSOR_FILE).write_text(json.dumps({"step": step, "meter": self._meter.state(), DATA: self._cursor_of(step)}))
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            self._folder.commit(step, {"ranks": trainer.world_size, "zero_stage": self._train.zero_stage if trainer.world_size > 1 else 0})
