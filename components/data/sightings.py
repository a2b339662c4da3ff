"""When a training saw a document: every row is a function of the index and the parameters, so nobody had to write it down."""

from __future__ import annotations

from dataclasses import dataclass

from components.data.index import Index
from components.data.measure import Measure
from components.data.sources_plan import MixedPlan
from components.params import TrainParams


@dataclass(frozen=True)
class Sighting:
    """A row of a step (both from 0) in which a document or a part of it lies, and the epoch of its source."""

    step: int
    row: int
    epoch: int


def sightings(index: Index, train: TrainParams, num_visual_tokens: int, window_documents: int, seed: int, document: str) -> list[Sighting]:
    """All sightings of a training that went on from its first to its last step without skipping any, in order.

    Documents of the evaluation split, and those that the mixture does not name, are never seen. Raises CorpusError for a mixture that
    cannot be drawn.
    """
    number = index.find(document)
    if number is None or index.row(number).split != "train":
        return []
    plan = MixedPlan(index, Measure(index, num_visual_tokens), train, window_documents, seed, {}, 0)
    found = []
    for draw in range(train.steps * train.rows_per_step):
        for segment in plan.row(draw)[1]:
            if segment.document == number:
                found.append(Sighting(*divmod(draw, train.rows_per_step), segment.epoch))
                break
    return found
