"""The joint loss of one micro-batch, divided by what the whole optimizer step trains on over all ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all ranks."""


class MicroBatch:
    """The rows (an InterleavedBatch) one rank sees at once, and how many targets this rank has in the whole optimizer step.

    No dataclass: Lightning would take it apart.
    """

    def __init__(self, rows: Any, step_text_targets: int, step_image_targets: int) -> None:
        self.rows = rows
        self.step_text_targets = step_text_targets
        self.step_image_targets = step_image_targets


@dataclass(frozen=True)
class Sums:
    """What a micro-batch adds to its step, over all ranks; losses are not yet divided."""

    text_loss: float
    image_loss: float
    step_text_targets: float
    step_image_targets: float
    tokens: float
    images: float
    stop: bool
    """Some rank was asked to stop."""

    @property
    def is_finite(self) -> bool:
        return bool(torch.isfinite(torch.tensor([self.text_loss, self.image_loss])).all())


class Objective:
    """Weights of the two losses; calls the network and agrees with the other ranks on the denominators."""

    def __init__(self, text_weight: float, image_weight: float, reduce: Reduce, copies: int) -> None:
        """`copies`: how many gradients the engine averages (ranks x accumulation), undone here because the sums are divided globally."""
        self._text_weight = text_weight
        self._image_weight = image_weight
        self._reduce = reduce
        self._copies = copies

    def __call__(self, network: Callable[[Any], Any], batch: MicroBatch, stop: bool = False) -> tuple[Tensor, Sums]:
        """(the loss to differentiate, what this micro-batch contributes over all ranks)."""
        rows, silent = _with_a_picture_to_decode(batch.rows) if self._image_weight > 0 else (batch.rows, False)
        output = network(rows)
        image_loss = output.image_loss_sum * 0.0 if silent else output.image_loss_sum
        local = torch.tensor(
            [batch.step_text_targets, batch.step_image_targets, int(rows.attention_mask.sum()), len(rows.images), float(stop)],
            dtype=torch.float64,
            device=image_loss.device,
        )
        losses = torch.stack([output.text_loss_sum.detach().double(), image_loss.detach().double()])
        text, image, step_text, step_images, tokens, images, stops = self._reduce(torch.cat([losses, local])).tolist()
        loss = self._text_weight * output.text_loss_sum / max(step_text, 1.0) + self._image_weight * image_loss / max(step_images, 1.0)
        return loss * self._copies, Sums(text, image, step_text, step_images, tokens, images, stops > 0)


def _with_a_picture_to_decode(rows: Any) -> tuple[Any, bool]:
    """Have the decoder run where this rank has nothing for it to learn, at weight 0.

    ZeRO reduces gradients parameter by parameter as they appear, so every rank must use the same parameters.
    """
    if len(rows.images) == 0 or bool(rows.image_loss_mask.any()):
        return rows, False
    mask = torch.zeros_like(rows.image_loss_mask)
    mask[0] = True
    return replace(rows, image_loss_mask=mask), True
