"""Which token comes next: scores to a choice, greedy or drawn, under the penalties and limits of published generation settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper


@dataclass(frozen=True)
class Choosing:
    """How tokens are chosen.

    temperature 0 is greedy; top_p keeps the likeliest tokens of that mass, 1 keeps all; a repetition penalty above 1 makes said tokens less
    likely (CTRL, section 4.1); no text ends before `min_new_tokens`. With `beams` above 1 each text is searched for (model.beams); finished
    texts are compared by log-probability / tokens ** length_penalty, the end among the tokens. Raises ValueError for a value out of range,
    or for beams with a temperature.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    min_new_tokens: int = 0
    beams: int = 1
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, holds, must in (
            ("temperature", self.temperature >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
            ("min_new_tokens", self.min_new_tokens >= 0, "at least 0"),
            ("beams", self.beams >= 1, "at least 1"),
            ("length_penalty", math.isfinite(self.length_penalty), "finite"),
            ("temperature", self.beams == 1 or self.temperature == 0, "0 where beams are searched"),
        ):
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be {must}")


GREEDY = Choosing()


def admissible(scores: Tensor, said: Sequence[int], length: int, ends: Sequence[int], how: Choosing) -> Tensor:
    """Scores of one row [1, entries] after the penalty for what was said; no end while a text of `length` tokens is too short."""
    if how.repetition_penalty != 1 and said:
        scores = RepetitionPenaltyLogitsProcessor(how.repetition_penalty)(torch.tensor([list(said)], device=scores.device), scores)
    if length < how.min_new_tokens:
        scores = scores.clone()
        scores[:, list(ends)] = -torch.inf
    return scores


def choose(
    scores: Tensor,
    said: Sequence[Sequence[int]],
    lengths: Sequence[int],
    ends: Sequence[int],
    how: Choosing,
    generators: Sequence[torch.Generator | None],
) -> list[int]:
    """A token per row, greedily or drawn.

    scores [rows, entries] float32, -inf where forbidden; said: all that each row has generated, lengths: how much of it is the present
    text; ends: tokens that end a text; generators (CPU) draw where the temperature is above 0.
    """
    chosen = []
    for row, (words, length, generator) in enumerate(zip(said, lengths, generators, strict=True)):
        own = admissible(scores[row : row + 1], words, length, ends, how)
        if how.temperature == 0:
            chosen.append(int(own.argmax()))
            continue
        own = TemperatureLogitsWarper(how.temperature)(None, own)
        if how.top_p < 1:
            own = TopPLogitsWarper(how.top_p)(None, own)
        chosen.append(int(torch.multinomial(own.softmax(-1)[0].cpu(), 1, generator=generator)))
    return chosen
