"""The training stream: random access by step to packed rows, identical for any number of ranks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from components.data.augmentation import augment, smallest_px, varies
from components.data.collate import Collator, Sample
from components.data.cursor import Cursor as Cursor
from components.data.index import Index
from components.data.layout import Encoded, encode
from components.data.measure import Measure
from components.data.places import ShardPlaces
from components.data.plan import Place
from components.data.plan_sources import find_sources
from components.data.reader import DocumentReader
from components.data.segments import Segment
from components.data.sources_plan import MixedPlan
from components.data.stretches import Stretches
from components.params import TrainParams
from model.batch import InterleavedBatch
from model.config import ModelShape

_CACHE_BYTES = 256 << 20


@dataclass(frozen=True)
class PlannedRow:
    """A packed row before it is read: the name in the mixture that it is of, and what lies in it (documents by number in the index)."""

    name: str
    segments: tuple[Segment, ...]


class TrainStream:
    """Row r of step s is row `s * rows_per_step + r` of the training; everything about it follows from the seed and the index.

    `excluded` counts, by name, training documents that fit in no row and cannot be cut; `beyond` those that are above all levels of
    `train.progression` and never drawn.
    """

    def __init__(
        self,
        index_dir: Path,
        shards: Path | ShardPlaces,
        train: TrainParams,
        shape: ModelShape,
        seed: int,
        *,
        condition_drop: float = 0.1,
        window_documents: int = 1024,
        cursor: Cursor = Cursor(),
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        """Opens at a cursor without packing anything before it. Raises CorpusError for a mixture that cannot be drawn."""
        self.index = Index(index_dir)
        self._reader = DocumentReader(self.index, shards)
        self._train, self._shape, self._seed = train, shape, seed
        self._cache: OrderedDict[tuple[int, int], Encoded] = OrderedDict()
        self._cached, self._cache_bytes = 0, cache_bytes
        self._collator = Collator(self.index.tokenizer, shape, train.row_tokens, condition_drop, seed, train.objective)
        self._measure = Measure(self.index, shape.num_visual_tokens)
        sources = find_sources(self.index, self._measure, train, window_documents, seed)

        def open_plan(places: Mapping[str, Place], draw: int, level: int) -> MixedPlan:
            return MixedPlan(sources, self._measure, train, window_documents, seed, places, draw, level)

        begun = cursor if cursor.moves else replace(cursor, moves=train.progression.moves)
        self._stretches = Stretches(open_plan, begun, train.rows_per_step)
        self.excluded, self.beyond = sources.excluded, sources.beyond

    def plan(self, step: int) -> list[PlannedRow]:
        """The rows of a step, the same for any number of ranks. Raises ValueError for a step before the cursor."""
        plan, first, cursor = self._stretches.at(step), self._stretches.row(step), self._stretches.cursor
        return [PlannedRow(*plan.row(cursor.draw(row))) for row in range(first, first + self._train.rows_per_step)]

    def level(self, step: int) -> int:
        """The level at which the rows of a step are drawn, as far as moves are known; 0 where there are no levels."""
        return self._stretches.cursor.level(step)

    def move(self, step: int, level: int) -> None:
        """Draw the rows from `step` on at another level. All ranks must say the same. Raises ValueError for a step that is too early."""
        self._stretches.move(step, level)

    def rows(self, step: int, rank: int, ranks: int, accumulate_index: int = 0) -> list[PlannedRow]:
        """The rows of a step that a rank takes in one micro-batch: dealt dearest first, back and forth, so that ranks finish together."""
        accumulate = self._train.micro_batches(ranks)
        planned = self.plan(step)
        costs = self.costs(planned)
        dealt = sorted(range(len(planned)), key=lambda number: (*(-cost for cost in costs[number]), number))
        hands = ranks * accumulate
        hand = rank * accumulate + accumulate_index
        mine = [dealt[turn * hands + (hand if turn % 2 == 0 else hands - 1 - hand)] for turn in range(len(planned) // hands)]
        return [planned[number] for number in sorted(mine)]

    def names(self, rows: Sequence[PlannedRow]) -> list[list[int]]:
        """For each row the names of its sequences in order, as numbers in `train.names`; segments that are joined are one sequence."""
        numbers = {name: number for number, name in enumerate(self._train.names)}
        return [[self._number(row, segment, numbers) for segment in row.segments if not segment.joined] for row in rows]

    def costs(self, rows: Sequence[PlannedRow]) -> list[tuple[int, int]]:
        """What makes one row dearer than another: pictures to generate, pictures to look at."""
        documents = np.array([segment.document for row in rows for segment in row.segments], np.int64)
        trained, shown = self._measure.trained_images(documents), self._measure.images(documents)
        for place, segment in enumerate(segment for row in rows for segment in row.segments):
            if not segment.whole:
                content = self._measure.content(segment.document)
                trained[place] = content.trained_images(segment.begin, segment.end)
                shown[place] = content.images(segment.begin, segment.end)
        starts = np.cumsum([0, *(len(row.segments) for row in rows)])[:-1]
        return list(zip(np.add.reduceat(trained, starts).tolist(), np.add.reduceat(shown, starts).tolist(), strict=True))

    def batch(self, step: int, rank: int = 0, ranks: int = 1, accumulate_index: int = 0) -> InterleavedBatch:
        """What a rank trains on in one micro-batch of a step."""
        return self.named_batch(step, rank, ranks, accumulate_index)[0]

    def named_batch(self, step: int, rank: int = 0, ranks: int = 1, accumulate_index: int = 0) -> tuple[InterleavedBatch, list[list[int]]]:
        """The same, and the names of what lies in each row (`names`)."""
        self.prefetch(step, rank, ranks, accumulate_index)
        rows = self.rows(step, rank, ranks, accumulate_index)
        return self._collator.batch([[self._sample(segment) for segment in row.segments] for row in rows]), self.names(rows)

    def prefetch(self, step: int, rank: int = 0, ranks: int = 1, accumulate_index: int = 0) -> None:
        """Begin to fetch what `batch` will read, where it comes from a remote."""
        segments = (segment for row in self.rows(step, rank, ranks, accumulate_index) for segment in row.segments)
        unseen = dict.fromkeys(segment.document for segment in segments if self._seen_as(segment) not in self._cache)
        self._reader.prefetch(self.index.row(document) for document in unseen)

    def cursor(self, step: int, skip_rows: int = 0) -> Cursor:
        """What opens a stream that goes on from the start of `step` without packing anything before it.

        `skip_rows` leaves out that many draws from there on: the way round a window that makes training fail.
        """
        plan, row, known = self._stretches.at(step), self._stretches.row(step), self._stretches.cursor
        draw = known.draw(row)
        here = replace(known, step=step, rows=row, places=plan.places(draw), placed=None)
        return here.leaving_out(draw, draw + skip_rows) if skip_rows else here

    def close(self) -> None:
        """Close the shards."""
        self._reader.close()

    def _number(self, row: PlannedRow, segment: Segment, numbers: Mapping[str, int]) -> int:
        """Number of a name; a row of any name is looked into."""
        if row.name in numbers:
            return numbers[row.name]
        group = self.index.groups[int(self.index.columns["group"][segment.document])]
        return next(numbers[name] for name in group.names if name in numbers)

    def _sample(self, segment: Segment) -> Sample:
        end = None if segment.whole else segment.end
        return Sample(self._encoded(segment), segment.epoch, segment.begin, end, segment.joined)

    def _seen_as(self, segment: Segment) -> tuple[int, int]:
        """What decides how a document is encoded."""
        return segment.document, segment.epoch if varies(self._train.augmentation) else 0

    def _encoded(self, segment: Segment) -> Encoded:
        augmentation, key = self._train.augmentation, self._seen_as(segment)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        px = smallest_px(augmentation, max(self._shape.image_px, self._shape.output_px))
        loaded, view = augment(self._reader.load(self.index.row(segment.document), px), augmentation, self._seed, segment.epoch)
        encoded = encode(loaded, self.index.tokenizer, self._shape, view)
        self._cache[key] = encoded
        self._cached += encoded.nbytes
        while self._cached > self._cache_bytes and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].nbytes
        return encoded
