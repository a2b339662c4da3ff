"""When a checkpoint is written and what is put back from one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from components.params import TrainParams
from components.run.failures import FailureClass, StageError
from components.training.checkpoint import CURSOR_FILE, DATA, CheckpointFolder
from components.training.lit_module import TrainingModule
from components.training.meter import Meter
from components.training.random_state import load_random_state, save_random_state
from components.training.shape import Shape
from components.training.stop_signal import StopSignal

ENGINE = "engine"

CursorOf = Callable[[int], dict[str, Any]]
"""Where the data stand before a step, as JSON values."""


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
            self._folder.commit(step, asdict(Shape.of(self._train)))
