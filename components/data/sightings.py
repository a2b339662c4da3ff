"""When a training saw a document: every row is a function of the index and the parameters, so nobody had to write it down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components.data.cursor import Cursor
from components.data.documents import CorpusError
from components.data.index import Index
from components.data.measure import Measure
from components.data.plan import Place
from components.data.plan_sources import find_sources
from components.data.sources_plan import MixedPlan
from components.data.stretches import Stretches
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
    cannot be drawn, or whose levels followed from held-out values while the training ran.
    """
    number = index.find(document)
    if number is None or index.row(number).split != "train":
        return []
    if train.progression.mode == "competence":
        raise CorpusError("its levels followed from held-out values while it was trained, so that its rows do not follow from params.yaml")
    measure = Measure(index, num_visual_tokens)
    sources = find_sources(index, measure, train, window_documents, seed)

    def open_plan(places: Mapping[str, Place], draw: int, level: int) -> MixedPlan:
        return MixedPlan(sources, measure, train, window_documents, seed, places, draw, level)

    plans = Stretches(open_plan, Cursor(moves=train.progression.moves), train.rows_per_step)
    found = []
    for draw in range(train.steps * train.rows_per_step):
        step, row = divmod(draw, train.rows_per_step)
        for segment in plans.at(step).row(draw)[1]:
            if segment.document == number:
                found.append(Sighting(step, row, segment.epoch))
                break
    return found
