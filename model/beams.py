"""Beam search: several continuations of a prompt are followed at once and the likeliest finished one is taken (mm_interleaved.md 5, 6).

The meaning of every setting is that of transformers' `generate` with `early_stopping=False`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from model.decoding import DecodingState

Scorer = Callable[[int, tuple[int, ...], Tensor], Tensor]
"""(search, ids so far, log-probabilities [1, entries]) to scores [1, entries], -inf where forbidden."""


class Beams:
    """The texts that one search follows, and those that are finished. Knows numbers only, no model.

    running: the ids of each followed text, best first; `done` once no followed text can better the finished ones, as transformers judges
    it: by the present length.
    """

    def __init__(self, width: int, length_penalty: float, ends: Sequence[int], limit: int) -> None:
        """`width` texts are followed, each of at most `limit` tokens (the end counts), a text ends at one of `ends`."""
        self.running: list[tuple[int, ...]] = [()]
        self.done = limit < 1
        self._width, self._penalty, self._ends, self._limit = width, length_penalty, frozenset(ends), limit
        self._totals = [0.0]
        self._finished: list[tuple[float, tuple[int, ...]]] = []

    def advance(self, scores: Tensor) -> list[int]:
        """Take scores [len(running), entries] float32 of the next token of each; returns which of them each new followed text goes on from.

        So many candidates are looked at that enough go on even if all the others end.
        """
        entries = scores.shape[1]
        total = (scores + torch.tensor(self._totals, device=scores.device)[:, None]).flatten()
        values, places = total.topk(min(len(total), max(2, 1 + len(self._ends)) * self._width))
        length = len(self.running[0]) + 1
        parents: list[int] = []
        running: list[tuple[int, ...]] = []
        totals: list[float] = []
        for rank, (value, place) in enumerate(zip(values.tolist(), places.tolist(), strict=True)):
            parent, token = divmod(place, entries)
            ids = (*self.running[parent], token)
            if value == -torch.inf:
                break
            if token in self._ends or length == self._limit:
                if rank < self._width:
                    self._finished.append((value / length**self._penalty, ids))
            elif len(running) < self._width:
                parents.append(parent)
                running.append(ids)
                totals.append(value)
        self._finished = sorted(self._finished, key=lambda each: -each[0])[: self._width]
        if running:
            self.running, self._totals = running, totals
        full = len(self._finished) == self._width
        self.done = not running or (full and totals[0] / length**self._penalty <= self._finished[-1][0])
        return parents

    def best(self) -> tuple[int, ...]:
        """The best finished text; the best followed one where none could finish."""
        return self._finished[0][1] if self._finished else self.running[0]


def search(state: DecodingState, rows: Sequence[int], searches: Sequence[Beams], scorer: Scorer) -> list[tuple[int, ...]]:
    """The best text after each of these rows by the search at its place. The state stays as it is; the searches share what it has read."""
    active = [number for number, beams in enumerate(searches) if not beams.done]
    parents = [rows[number] for number in active]
    while active:
        state = state.select(parents)
        if searches[active[0]].running[0]:
            state.append([[ids[-1]] for number in active for ids in searches[number].running])
        logs = state.logits().float().log_softmax(-1)
        parents, first = [], 0
        for number in active:
            beams = searches[number]
            count = len(beams.running)
            own = [scorer(number, ids, logs[first + place].unsqueeze(0)) for place, ids in enumerate(beams.running)]
            chosen = beams.advance(torch.cat(own))
            parents += [] if beams.done else [first + parent for parent in chosen]
            first += count
        active = [number for number in active if not searches[number].done]
    return [beams.best() for beams in searches]
