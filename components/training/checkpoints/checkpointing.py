"""When a checkpoint is written and what is put back from one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch import Callback, LightningModule, Trainer

from components.checkpoints.folder import CheckpointFolder
from components.checkpoints.manifest import CURSOR_FILE, DATA, ENGINE
from components.params import TrainParams
from components.run.failures import FailureClass, StageError
from components.run.lease import is_held
from components.training.checkpoints.origin import Origin
from components.training.checkpoints.stored import NETWORK
from components.training.lit_module import TrainingModule
from components.training.random_state import load_random_state, save_random_state
from components.training.stop_signal import StopSignal

CursorOf = Callable[[int], dict[str, Any]]
"""Where the data stand before a step, as JSON values."""
METER = "meter"
_POLL_S = 0.01


class Keeper(Protocol):
    """Something whose state belongs to a training: JSON values, the same on all ranks, which rank 0 writes and every rank reads."""

    def state(self) -> Mapping[str, Any]: ...

    def load(self, state: Mapping[str, Any]) -> None: ...


class Checkpointing(Callback):
    """Writes a checkpoint each `checkpoint_every_steps`, and one before leaving on SIGTERM; restores what the engine does not keep.

    Whoever watches the ranks commits it while they go on; the next one waits until that is done. `keepers` are kept under their names in
    the cursor file. `origin` is there on rank 0.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        train: TrainParams,
        keepers: Mapping[str, Keeper],
        stop: StopSignal,
        resume: Path | None,
        cursor_of: CursorOf,
        origin: Origin | None,
        suspicious: Callable[[], bool],
        beat: Callable[[int, str], None],
    ) -> None:
        """`suspicious`: the last steps may have to be taken back, so that no checkpoint is due after them. `beat` tells that this
        rank lives, and for what it waits."""
        self._folder = folder
        self._cursor_of = cursor_of
        self._train = train
        self._keepers = keepers
        self._stop = stop
        self._resume = resume
        self._origin = origin
        self._suspicious = suspicious
        self._beat = beat
        self._seen = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._stop.listen()
        self._seen = trainer.global_step
        if self._resume is not None:
            cursor = json.loads((self._resume / CURSOR_FILE).read_text())
            for name, keeper in self._keepers.items():
                keeper.load(cursor.get(name, {}))
            load_random_state(self._resume / f"random-{trainer.global_rank}.pt")

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int) -> None:
        assert isinstance(module, TrainingModule)
        step = trainer.global_step
        if step == self._seen:
            return
        self._seen = step
        due = step % self._train.checkpoint_every_steps == 0 and step < self._train.steps
        if module.stopping or (due and not self._suspicious()):
            self._save(trainer, step)
        if module.stopping:
            raise StageError(FailureClass.PREEMPTED, f"asked to stop; step {step} is saved", "run the same command to go on")

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave frozen parameters out; the ZeRO engine does so itself."""
        assert isinstance(module, TrainingModule)
        for name, parameter in module.network.named_parameters(remove_duplicate=False):
            if not parameter.requires_grad:
                checkpoint["state_dict"].pop(f"{NETWORK}{name}", None)

    def _save(self, trainer: Trainer, step: int) -> None:
        began = time.monotonic()
        # Rank 0 looks and tells the others, again and again: no single collective waits longer than its limit.
        while trainer.strategy.broadcast(self._origin is not None and self._folder.in_flight() and is_held(self._folder.folder)):
            self._beat(step, "waiting for the last checkpoint")
            time.sleep(_POLL_S)
        waited = time.monotonic() - began
        if trainer.is_global_zero:
            self._folder.begin(step)
        trainer.strategy.barrier()
        staging = self._folder.staging(step)
        trainer.save_checkpoint(staging / ENGINE)
        save_random_state(staging / f"random-{trainer.global_rank}.pt")
        if self._origin is not None:
            self._origin.write(staging)
            kept = {name: dict(keeper.state()) for name, keeper in self._keepers.items()}
            (staging / CURSOR_FILE).write_text(json.dumps({"step": step, DATA: self._cursor_of(step), **kept}))
        trainer.strategy.barrier()
        if self._origin is not None:
            cost = {"wait_s": waited, "save_s": time.monotonic() - began - waited}
            self._folder.complete(step, {**self._origin.info, "cost": cost})
            if not is_held(self._folder.folder):  # nobody watches who would commit it
                self._folder.commit(step)
