"""How likely each of several answers is after one prompt, which is read once (visual dialogue, mm_interleaved.md 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model.batch import InputError
from model.decoding import DecodingState
from model.generation import check_ready
from model.mm_interleaved import MMInterleaved
from model.prompts import Prompt, check_ids, read_prompts


@torch.no_grad()
def score_options(model: MMInterleaved, prompt: Prompt, options: Sequence[Sequence[int]], batch: int = 128) -> list[float]:
    """Sum of the log-probabilities of each option's tokens after the prompt, not divided by their number; higher is likelier.

    Raises InputError for an empty option, one that is too long or not of the vocabulary, or what `read_prompts` refuses; ValueError for a
    model in training mode or a batch of none.
    """
    check_ready(model, [prompt])
    state = DecodingState(model, 1)
    read_prompts(state, [prompt])
    return score_after(state, 0, prompt.id, options, batch)


@torch.no_grad()
def score_after(state: DecodingState, row: int, name: str, options: Sequence[Sequence[int]], batch: int = 128) -> list[float]:
    """The same after a row of a state, which stays as it is; `batch` options are read at once, the prefix never again."""
    if batch < 1:
        raise ValueError(f"batch is {batch}, it must be at least 1")
    config, length = state.model.config, int(state.length[row])
    for number, option in enumerate(options):
        if not option:
            raise InputError(f"option {number} of prompt {name!r} is empty; give at least one token")
        check_ids(option, f"option {number} of prompt {name!r}", config)
        if length + len(option) > config.shape.max_row_tokens:
            raise InputError(f"prompt {name!r} with option {number} has more than {config.shape.max_row_tokens} tokens; shorten it")
    scores: list[float] = []
    for first in range(0, len(options), batch):
        scores += _scored(state, row, options[first : first + batch])
    return scores


def _scored(state: DecodingState, row: int, options: Sequence[Sequence[int]]) -> list[float]:
    """The first tokens follow from the prefix, the others from what is appended."""
    start = state.logits()[row].float().log_softmax(-1)
    columns = state.valid.shape[1]
    state = state.select([row] * len(options))
    state.append([list(option[:-1]) for option in options])
    scores = []
    for place, option in enumerate(options):
        follow = state.model.text_decoder(state.hidden[place, columns : columns + len(option) - 1]).float().log_softmax(-1)
        rest = follow.gather(1, torch.tensor(option[1:], dtype=torch.int64, device=follow.device).view(-1, 1)).sum()
        scores.append(float(start[option[0]] + rest))
    return scores
