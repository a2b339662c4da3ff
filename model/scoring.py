"""How likely each of several answers is after one prompt, which is read once (visual dialogue, mm_interleaved.md 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model.decoding import DecodingState
from model.generation import Prompt, read_prompts
from model.mm_interleaved import MMInterleaved


@torch.no_grad()
def score_options(model: MMInterleaved, prompt: Prompt, options: Sequence[Sequence[int]], batch: int = 128) -> list[float]:
    """Sum of the log-probabilities of each option's tokens after the prompt, not divided by their number; higher is likelier.

    Raises ValueError for an empty option, a prompt or option that is too long, or a picture of the wrong size.
    """
    limit = model.config.shape.max_row_tokens
    for number, option in enumerate(options):
        if not option:
            raise ValueError(f"option {number} of prompt {prompt.id!r} is empty")
    scores: list[float] = []
    for first in range(0, len(options), batch):
        some = options[first : first + batch]
        state = DecodingState(model, 1)
        read_prompts(state, [prompt])
        if int(state.length) + max(map(len, some)) > limit:
            raise ValueError(f"prompt {prompt.id!r} with its longest option has more than {limit} tokens")
        scores += _scored(state, some)
    return scores


def _scored(state: DecodingState, options: Sequence[Sequence[int]]) -> list[float]:
    """The first tokens follow from the prefix, the others from what is appended."""
    start = state.logits().float().log_softmax(-1)[0]
    columns = state.valid.shape[1]
    state.repeat(len(options))
    if any(len(option) > 1 for option in options):
        state.append([list(option[:-1]) for option in options])
    scores = []
    for row, option in enumerate(options):
        follow = state.model.text_decoder(state.hidden[row, columns : columns + len(option) - 1]).float().log_softmax(-1)
        rest = follow.gather(1, torch.tensor(option[1:], device=follow.device).view(-1, 1)).sum() if len(option) > 1 else follow.sum()
        scores.append(float(start[option[0]] + rest))
    return scores
