"""The held-out rows that a training is validated on: the same for every step, attempt and number of ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.data.collate import Collator, Sample
from components.data.index import Index
from components.data.keyed import digest
from components.data.layout import encode
from components.data.measure import Measure
from components.data.places import ShardPlaces
from components.data.reader import DocumentReader
from components.data.segments import Segment
from components.data.window_packer import Rules, Window, WindowPacker
from components.mixing import is_drawn
from components.params import TrainParams
from components.progression.levels import bucket_of as levels_of
from components.progression_params import LevelParams
from model.batch import InterleavedBatch
from model.config import ModelShape


@dataclass(frozen=True)
class HeldOutRow:
    """A packed row of the evaluation split under the name in the mixture that it is of."""

    name: str
    segments: tuple[Segment, ...]


class HeldOutRows:
    """The first documents of the evaluation split of each name in the mixture, in corpus order, as whole rows without merging.

    Nothing is cut at random or dropped; noise is keyed by seed and document, as in training. `without` are names that have no held-out
    document that fits in a row.
    """

    def __init__(
        self, index_dir: Path, shards: Path | ShardPlaces, train: TrainParams, shape: ModelShape, seed: int, window_documents: int = 1024
    ) -> None:
        self.index = Index(index_dir)
        self._reader = DocumentReader(self.index, shards)
        self._shape = shape
        self._collator = Collator(self.index.tokenizer, shape, train.row_tokens, 0.0, seed)
        self._measure = Measure(self.index, shape.num_visual_tokens)
        found = {name: self._rows(name, train, seed, window_documents) for name, weight in train.mixture.items() if is_drawn(weight)}
        self.without = tuple(name for name, rows in found.items() if not rows)
        self.rows = tuple(row for rows in found.values() for row in rows)

    @property
    def names(self) -> tuple[str, ...]:
        """Names that have rows, in the order of the mixture."""
        return tuple(dict.fromkeys(row.name for row in self.rows))

    @property
    def most_images(self) -> int:
        """Images of the document that has most."""
        documents = np.array([segment.document for row in self.rows for segment in row.segments], np.int64)
        return int(self._measure.images(documents).max(initial=0))

    def levels_of(self, row: HeldOutRow, levels: Sequence[LevelParams]) -> np.ndarray:
        """The level that each document of a row belongs to, int64; `len(levels)` where it is above all."""
        documents = np.array([segment.document for segment in row.segments], np.int64)
        return levels_of(self._measure.images(documents), self._measure.lengths(documents), levels)

    def chunks(self, rows_at_once: int) -> list[tuple[HeldOutRow, ...]]:
        """Rows that go through the model together, each of one name."""
        alike = [[row for row in self.rows if row.name == name] for name in self.names]
        return [tuple(rows[first : first + rows_at_once]) for rows in alike for first in range(0, len(rows), rows_at_once)]

    def batch(self, rows: Sequence[HeldOutRow]) -> InterleavedBatch:
        """The rows, read and collated; equal whenever they are asked for."""
        return self._collator.batch([list(self._samples(row)) for row in rows])

    def _samples(self, row: HeldOutRow) -> Iterator[Sample]:
        for segment in row.segments:
            encoded = encode(self._reader.load(self.index.row(segment.document)), self.index.tokenizer, self._shape)
            yield Sample(encoded, segment.epoch, segment.begin, None if segment.whole else segment.end)

    def _rows(self, name: str, train: TrainParams, seed: int, window_documents: int) -> list[HeldOutRow]:
        selection = self.index.select("evaluation", name)
        if not len(selection):
            return []
        packer = WindowPacker(self._measure, Rules(train.row_tokens, max_images=train.max_images_per_row.get(name)))
        documents = selection[np.arange(min(len(selection), window_documents))]
        documents = documents[~packer.unplaceable(documents)]
        if not len(documents):
            return []
        packed = packer.pack([Window(documents, 0, digest(seed, "validation", name) & ((1 << 64) - 1))], check=False)[0]
        return [HeldOutRow(name, packed.row(number)) for number in range(min(train.validation.rows, len(packed)))]
