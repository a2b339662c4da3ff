"""Hidden states to token scores."""

from __future__ import annotations

from torch import Tensor, nn


class TextDecoder(nn.Module):
    """The language model's head, and a trained head of two rows for the tokens that were added."""

    def __init__(self, width: int, entries: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, entries)
        self.head_new = nn.Linear(width, 2)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., width] to logits [..., entries]; the last two are BoI and the image placeholder."""
        logits = self.head(hidden)
        return logits + nn.functional.pad(self.head_new(hidden), (logits.shape[-1] - 2, 0))
