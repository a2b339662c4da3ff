"""Watches every optimizer step of a rank: what is not finite, or has left the line of the losses, ends all ranks at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from components.params import TrainParams
from components.run.failures import FailureClass
from components.training.guards.bad_steps import BadSteps, not_finite
from components.training.guards.spikes import Series, is_spike, observe, score
from components.training.objective import Sums

LOSS, GRADIENT_NORM = "loss", "gradient norm"


class Guard(Callback):
    """Every rank sees the same sums over all ranks, so all of them find the same at the same step.

    Stands before whoever logs or saves a step. Its state is part of a checkpoint: a resumed training finds what an undisturbed one does.
    """

    def __init__(
        self, train: TrainParams, text_weight: float, image_weight: float, gradient_norm: Callable[[], float], rollbacks: int = 0
    ) -> None:
        """`rollbacks`: how many were decided before this start of the ranks; a checkpoint says under how many it was written."""
        self._guard = train.guard
        self._scales = train.precision == "16-mixed"
        self._text_weight, self._image_weight = text_weight, image_weight
        self._gradient_norm = gradient_norm
        self._rollbacks = rollbacks
        self._loss = 0.0
        self._skipped = 0
        self._seen = 0
        self._series = {LOSS: Series(), GRADIENT_NORM: Series()}

    @property
    def suspicious(self) -> bool:
        """Whether the last steps may turn out to be a spike: no time for a checkpoint that is to be gone back to."""
        return any(series.streak for series in self._series.values())

    def add(self, sums: Sums) -> None:
        """One micro-batch, summed over the ranks."""
        self._loss += self._text_weight * sums.text_mean
        self._loss += self._image_weight * sums.image_mean

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._seen = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int) -> None:
        step = trainer.global_step
        if step == self._seen:
            return
        self._seen = step
        loss, self._loss = self._loss, 0.0
        norm = self._check(self._gradient_norm(), step)
        self._watch(LOSS, loss, step)
        if self._guard.watch_gradient_norm and norm is not None:
            self._watch(GRADIENT_NORM, norm, step)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        series = {name: one.state() for name, one in self._series.items()}
        return {"rollbacks": self._rollbacks, "loss": self._loss, "skipped": self._skipped, "series": series}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`, or from nothing."""
        self._loss, self._skipped = float(state.get("loss", 0.0)), int(state.get("skipped", 0))
        kept = state.get("series", {})
        self._series = {name: Series.of(kept.get(name, {})) for name in self._series}

    def _check(self, norm: float, step: int) -> float | None:
        """The norm; None for a step that the loss scaler left out. The engine leaves out every step whose norm is not finite."""
        if math.isfinite(norm):
            self._skipped = 0
            return norm
        self._skipped += 1
        if self._scales and self._skipped <= self._guard.max_skipped_steps:
            return None
        raise not_finite(GRADIENT_NORM, step)

    def _watch(self, name: str, value: float, step: int) -> None:
        before = self._series[name]
        after = self._series[name] = observe(before, value, self._guard)
        if not is_spike(after, self._guard):
            return
        first = step - len(after.streak) + 1
        far = score(value, after.line)
        seen = ", ".join(f"{one:.4g}" for one in after.streak)
        message = f"the {name} has left its line at step {first} and not come back until step {step}: {seen}; {far:.3g} robust deviations"
        fix = "look at the documents of these steps, lower learning_rate, or raise guard.spike_threshold"
        raise BadSteps(FailureClass.SPIKE, message, fix, first, step)
