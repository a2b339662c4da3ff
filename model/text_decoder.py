"""Hidden states to token scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TextDecoder(nn.Module):
    """The language model's head, and a trained head of two rows for the tokens that were added."""

    def __init__(self, width: int, entries: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, entries)
        self.head_new = nn.Linear(width, 2)

    @torch.no_grad()
    def expect(self, counts: Tensor) -> None:
        """Add log frequencies to the bias; counts [entries] of the ids to predict.

        A model that starts from nothing else teaches the frequencies to every layer first, and what pictures say drowns in it.
        """
        smoothed = counts.double() + 0.1
        self.head.bias.add_((smoothed / smoothed.sum()).log().to(self.head.bias))

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., width] to logits [..., entries]; the last two are BoI and the image placeholder.

        Biases are added in float32 or wider: the released ones of those two nearly cancel (-100 and 95), which half precision cannot say.
        """
        logits, added = _with_wide_bias(self.head, hidden), _with_wide_bias(self.head_new, hidden)
        return logits + nn.functional.pad(added, (logits.shape[-1] - 2, 0))


def _with_wide_bias(layer: nn.Linear, hidden: Tensor) -> Tensor:
    products = nn.functional.linear(hidden, layer.weight)
    wide = torch.promote_types(products.dtype, torch.float32)
    return products.to(wide) + layer.bias.to(wide)
