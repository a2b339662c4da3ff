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


def sightings(
    index: Index,
    train: TrainParams,
    num_visual_tokens: int,
    window_documents: int,
    seed: int,
    document: str,
    course: Cursor | None = None,
) -> list[Sighting]:
    """All sightings of a training, in order. `course`: where it began, with the draws that it left out and its moves between levels; absent
    where it left out none, and where no held-out values moved it.

    Documents of the evaluation split, and those that the mixture does not name, are never seen. Raises CorpusError for a mixture that
    cannot be drawn, or without the course of a training whose levels followed from held-out values.
    """
    number = index.find(document)
    if number is None or index.row(number).split != "train":
        return []
    if course is None:
        if train.progression.mode == "competence":
            raise CorpusError("its levels followed from held-out values while it was trained, and it has not told how")
        course = Cursor(moves=train.progression.moves)
    measure = Measure(index, num_visual_tokens)
    sources = find_sources(index, measure, train, window_documents, seed)

    def open_plan(places: Mapping[str, Place], draw: int, level: int) -> MixedPlan:
        return MixedPlan(sources, measure, train, window_documents, seed, places, draw, level)

    plans = Stretches(open_plan, course, train.rows_per_step)
    found = []
    for number_of_row in range(train.steps * train.rows_per_step):
        step, row = divmod(number_of_row, train.rows_per_step)
        for segment in plans.at(step).row(course.draw(number_of_row))[1]:
            if segment.document == number:
                found.append(Sighting(step, row, segment.epoch))
                break
    return found
