"""The joint loss: next-token cross entropy plus lambda times the diffusion error (Eq. 5), as sums that can be averaged over ranks."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from model.batch import MMInterleavedOutput


def text_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum of the cross entropies of logits [K, entries] in float32, and K; with weight [K] both are weighted sums.

    No target is no error: the sum is 0.
    """
    if weight is not None:
        return (F.cross_entropy(logits.float(), target, reduction="none") * weight).sum(), weight.sum()
    return F.cross_entropy(logits.float(), target, reduction="sum"), target.new_tensor(len(target), dtype=torch.float32)


def joint_loss(
    text: tuple[Tensor, Tensor],
    image: tuple[Tensor, Tensor],
    text_weight: float,
    image_weight: float,
    text_mean_of: Literal["guarded", "release"] = "guarded",
) -> MMInterleavedOutput:
    """Means over this batch from (sum, count) pairs, and their weighted sum.

    A batch in which no token is a target has text loss 0; as released (`release`) it has none, which is NaN (mm_interleaved.md 1.5).
    """
    text_mean = text[0] / (text[1] if text_mean_of == "release" else torch.where(text[1] > 0, text[1], 1.0))
    image_mean = image[0] / image[1].clamp(min=1)
    return MMInterleavedOutput(
        loss=text_weight * text_mean + image_weight * image_mean,
        text_loss=text_mean,
        image_loss=image_mean,
        text_loss_sum=text[0],
        text_count=text[1],
        image_loss_sum=image[0],
        image_count=image[1],
    )
