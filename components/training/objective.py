"""The joint loss of one micro-batch, divided by what the whole optimizer step trains on over all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from components.progression.balance import Balance
from components.training.telemetry.sources import Labels, sums_by_name

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all ranks."""


@dataclass(frozen=True)
class Targets:
    """How much one rank has to learn and to read in some rows."""

    text: float
    """Trained tokens, or the sum of their weights."""
    images: int
    """Pictures with a loss."""
    tokens: int
    looked_at: int
    """All pictures."""
    labels: Labels | None = None
    """Of which name of the mixture each target and picture is."""


class MicroBatch:
    """What one rank sees at once: the network's arguments, their targets, and the targets this rank has in the whole optimizer step.

    No dataclass: Lightning would take it apart.
    """

    def __init__(self, arguments: tuple[Any, ...], own: Targets, step_text: float, step_images: int) -> None:
        self.arguments = arguments
        self.own = own
        self.step_text = step_text
        self.step_images = step_images

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device; each argument has a `to` of its own."""
        own = replace(self.own, labels=self.own.labels.to(device)) if self.own.labels else self.own
        return MicroBatch(tuple(argument.to(device) for argument in self.arguments), own, self.step_text, self.step_images)


@dataclass(frozen=True)
class Sums:
    """What a micro-batch adds to its step, over all ranks; losses are not yet divided."""

    text_loss: float
    image_loss: float
    step_text: float
    step_images: float
    tokens: float
    images: float
    stop: float
    """Ranks that were asked to stop."""
    by_name: tuple[float, ...] = ()
    """Sums and counts of the losses by name of the mixture (`sums_by_name`)."""

    @property
    def text_mean(self) -> float:
        """What it adds to the text loss of its step."""
        return self.text_loss / (self.step_text or 1.0)

    @property
    def image_mean(self) -> float:
        """What it adds to the image loss of its step."""
        return self.image_loss / (self.step_images or 1.0)

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.text_loss) and math.isfinite(self.image_loss)


_OWN = len(fields(Sums)) - 1


class Objective:
    """Weights of the two losses; calls the network and agrees with the other ranks on the denominators.

    ZeRO reduces gradients parameter by parameter as they appear, so every rank must use the same parameters; the model sees to that
    where a rank has no picture.
    """

    def __init__(self, text_weight: float, image_weight: float, reduce: Reduce, copies: int, balance: Balance | None = None) -> None:
        """`copies`: how many gradients the engine averages (ranks x accumulation), undone here because the sums are divided globally.

        With `balance` the weight of the image loss is its, step by step.
        """
        self._text_weight = text_weight
        self._image_weight = image_weight
        self._reduce = reduce
        self._copies = copies
        self._balance = balance

    def __call__(self, network: Callable[..., Any], batch: MicroBatch, stop: bool = False) -> tuple[Tensor, Sums]:
        """(the loss to differentiate, what this micro-batch contributes over all ranks)."""
        image_weight = self._balance.image_weight if self._balance else self._image_weight
        output = network(*batch.arguments, text_weight=self._text_weight, image_weight=image_weight)
        text, image = output.text_loss_sum, output.image_loss_sum
        counts = [batch.step_text, batch.step_images, batch.own.tokens, batch.own.looked_at, float(stop)]
        known = torch.tensor(counts, dtype=torch.float64, device=text.device)
        own = [torch.stack([text.detach(), image.detach()]).double(), known]
        by_name = [sums_by_name(output, batch.own.labels)] if batch.own.labels else []
        reduced = self._reduce(torch.cat([*own, *by_name])).tolist()
        sums = replace(Sums(*reduced[:_OWN]), by_name=tuple(reduced[_OWN:]))
        loss = self._text_weight * text / (sums.step_text or 1.0) + image_weight * image / (sums.step_images or 1.0)
        if self._balance:
            self._balance.add(sums.text_mean, sums.image_mean, sums.step_text, sums.step_images)
        return loss * self._copies, sums
