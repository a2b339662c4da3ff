"""Which token comes next: scores to a choice, greedy or drawn, under the penalties and limits of published generation settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper


@dataclass(frozen=True)
class Choosing:
    """How tokens are chosen.

    temperature 0 is greedy; top_p keeps the likeliest tokens of that mass, 1 keeps all; a repetition penalty above 1 makes said tokens less
    likely (CTRL, section 4.1); no text ends before `min_new_tokens`. Raises ValueError for a value out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    min_new_tokens: int = 0

    def __post_init__(self) -> None:
        for name, holds, must in (
            ("temperature", self.temperature >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
            ("min_new_tokens", self.min_new_tokens >= 0, "at least 0"),
        ):
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be {must}")


GREEDY = Choosing()


def choose(
    scores: Tensor,
    said: Sequence[Sequence[int]],
    lengths: Sequence[int],
    ends: Sequence[int],
    how: Choosing,
    generators: Sequence[torch.Generator | None],
) -> list[int]:
    """A token per row.

    scores [rows, entries] float32, -inf where forbidden; said: all that each row has generated, lengths: how much of it is the present
    text; ends: tokens that end a text; generators (CPU) draw where the temperature is above 0.
    """
    chosen = []
    for row, (words, length, generator) in enumerate(zip(said, lengths, generators, strict=True)):
        own = scores[row : row + 1].clone()
        if how.repetition_penalty != 1 and words:
            own = RepetitionPenaltyLogitsProcessor(how.repetition_penalty)(torch.tensor([list(words)], device=own.device), own)
        if length < how.min_new_tokens:
            own[:, list(ends)] = -torch.inf
        if how.temperature == 0:
            chosen.append(int(own.argmax()))
            continue
        own = TemperatureLogitsWarper(how.temperature)(None, own)
        if how.top_p < 1:
            own = TopPLogitsWarper(how.top_p)(None, own)
        chosen.append(int(torch.multinomial(own.softmax(-1)[0].cpu(), 1, generator=generator)))
    return chosen
