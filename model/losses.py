"""The joint loss: next-token cross entropy plus lambda times the diffusion error (Eq. 5), as sums that can be averaged over ranks."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from model.batch import MMInterleavedOutput


def text_losses(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropies [K] of logits [K, entries] in float32. No target is no error: their sum is 0."""
    return F.cross_entropy(logits.float(), target, reduction="none")


def joint_loss(
    text: Tensor,
    image: Tensor,
    image_count: Tensor,
    text_weight: float,
    image_weight: float,
    text_mean_of: Literal["guarded", "release"] = "guarded",
    token_weight: Tensor | None = None,
) -> MMInterleavedOutput:
    """Means over this batch of the losses of its text targets [K] and of its pictures [m], and their weighted sum.

    `token_weight` [K]: how much each target counts in the sum and in what it is divided by; 1 where absent.
    A batch in which no token is a target has text loss 0; as released (`release`) it has none, which is NaN (mm_interleaved.md 1.5).
    """
    if token_weight is None:
        text_sum, text_count = text.sum(), text.new_tensor(len(text))
    else:
        text_sum, text_count = (text * token_weight).sum(), token_weight.sum()
    image_sum = image.sum()
    text_mean = text_sum / (text_count if text_mean_of == "release" else text_count.where(text_count > 0, 1.0))
    image_mean = image_sum / image_count.clamp(min=1)
    return MMInterleavedOutput(
        loss=text_weight * text_mean + image_weight * image_mean,
        text_loss=text_mean,
        image_loss=image_mean,
        text_loss_sum=text_sum,
        text_count=text_count,
        image_loss_sum=image_sum,
        image_count=image_count,
        text_losses=text.detach(),
        image_losses=image.detach(),
    )
