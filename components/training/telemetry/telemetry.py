"""What rank 0 measures beside the losses: laps of each step, FLOPs of some, memory. No step waits for any of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psutil
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.hooks import RemovableHandle

from components.params import TrainParams
from components.training.lit_module import TrainingModule
from components.training.objective import MicroBatch
from components.training.telemetry.mfu import FlopCount, mfu, peak_flops
from components.training.telemetry.stopwatch import Stopwatch

COUNT_EVERY = 128
"""Steps of this process between two whose FLOPs are counted, after 1, 2, 4, 8, ..."""


class Telemetry(Callback):
    """The laps of a step, told to the watch; `figures` for a logged point. Comes before all callbacks that act at the end of a step."""

    def __init__(self, train: TrainParams, device: str, watch: Stopwatch) -> None:
        self._train, self._device, self._watch = train, device, watch
        self._process = psutil.Process()
        self._start = 0
        self._peak: float | None = None
        self._flops = self._tokens = 0.0
        self._count: FlopCount | None = None
        self._hooks: list[RemovableHandle] = []

    def figures(self, values: Mapping[str, float]) -> dict[str, float]:
        """mfu where the peak is known, and memory in bytes; `values` has tokens_per_second."""
        found = {"memory/rss_bytes": float(self._process.memory_info().rss)}
        if self._device == "cuda":
            found |= {"memory/device_bytes": float(torch.cuda.memory_allocated())}
            found |= {"memory/device_peak_bytes": float(torch.cuda.max_memory_allocated())}
        if self._peak is not None and self._tokens:
            found["mfu"] = mfu(self._flops / self._tokens, values["tokens_per_second"], self._peak * self._train.ranks)
        return found

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._peak = peak_flops(self._train.telemetry.peak_tflops, self._device, self._train.precision)
        self._start = trainer.global_step
        self._watch.start()

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, index: int) -> None:
        self._watch.lap("data")
        step = trainer.global_step - self._start + 1
        if trainer.is_global_zero and (step % COUNT_EVERY == 0 or step & (step - 1) == 0):
            self._begin_count(module, batch)

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: torch.Tensor) -> None:
        self._watch.lap("forward")
        if self._count is not None:
            self._flops += self._count.flops
            self._count = None

    def on_after_backward(self, trainer: Trainer, module: LightningModule) -> None:
        self._watch.lap("backward")

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int) -> None:
        self._watch.lap("optimizer")

    def _begin_count(self, module: LightningModule, batch: Any) -> None:
        """Count the FLOPs of the next forward pass: those a token, which change little from one micro-batch to another."""
        assert isinstance(module, TrainingModule) and isinstance(batch, MicroBatch)
        count = self._count = FlopCount()
        self._tokens += batch.own.tokens
        self._hooks = [
            module.network.register_forward_pre_hook(lambda *_: _enter(count)),
            module.network.register_forward_hook(lambda *_: self._end(count), always_call=True),
        ]

    def _end(self, count: FlopCount) -> None:
        count.__exit__(None, None, None)
        for hook in self._hooks:
            hook.remove()


class Lap(Callback):
    """What the callbacks before it did at the end of a step was of this lap."""

    def __init__(self, watch: Stopwatch, name: str) -> None:
        self._watch, self._name = watch, name

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int) -> None:
        self._watch.lap(self._name)


def _enter(count: FlopCount) -> None:
    count.__enter__()
