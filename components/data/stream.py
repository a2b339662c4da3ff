"""The training stream: random access by step to packed rows, identical for any number of ranks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from components.data.augmentation import augment, smallest_px, varies
from components.data.collate import Collator, Sample
from components.data.documents import CorpusError
from components.data.index import Index, Row
from components.data.layout import Encoded, encode
from components.data.mixture import Mixture
from components.data.places import ShardPlaces
from components.data.plan import Anchor, SourcePlan
from components.data.reader import DocumentReader
from components.params import Kind, TrainParams
from model.batch import InterleavedBatch
from model.config import ModelShape

CURSOR_VERSION = 1
_CACHE_BYTES = 256 << 20


@dataclass(frozen=True)
class Cursor:
    """Where a stream stands: the draw that row 0 of step 0 has, and for each kind a known window. A few integers, JSON."""

    start_row: int = 0
    anchors: Mapping[Kind, Anchor] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "version": CURSOR_VERSION,
            "start_row": self.start_row,
            "anchors": {kind: vars(anchor) for kind, anchor in self.anchors.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`. Raises CorpusError for a newer version."""
        if values["version"] > CURSOR_VERSION:
            raise CorpusError(f"the checkpoint's data cursor has version {values['version']}; install a newer mmfs")
        return cls(values["start_row"], {kind: Anchor(**anchor) for kind, anchor in values["anchors"].items()})


@dataclass(frozen=True)
class PlannedRow:
    """A packed row before it is read: its kind, the epoch of its source, its documents."""

    kind: Kind
    epoch: int
    documents: tuple[Row, ...]

    @property
    def cost(self) -> tuple[int, int]:
        """What makes one row dearer than another: pictures to generate, pictures to look at."""
        return sum(row.trained_images for row in self.documents), sum(len(row.images) for row in self.documents)


class TrainStream:
    """Row r of step s is draw `start_row + s * rows_per_step + r` of the mixture; everything about it follows from the seed and the index.

    `excluded` counts, per kind, training documents that are longer than a row and take no part.
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
        """Raises CorpusError when a kind of the mixture has no training document that fits in a row."""
        self._index = Index(index_dir)
        self._reader = DocumentReader(self._index, shards)
        self._train, self._shape, self._seed = train, shape, seed
        self._start_row = cursor.start_row
        self._cache: OrderedDict[tuple[str, int], Encoded] = OrderedDict()
        self._cached, self._cache_bytes = 0, cache_bytes
        self._mixture = Mixture(train.mixture, seed)
        self._collator = Collator(self._index.tokenizer, shape, train.row_tokens, condition_drop, seed)
        self.excluded: dict[Kind, int] = {}
        self._documents: dict[Kind, list[Row]] = {}
        self._plans: dict[Kind, SourcePlan] = {}
        for kind in self._mixture.kinds:
            rows = self._index.rows("train", kind)
            fitting = [row for row in rows if row.row_length(shape.num_visual_tokens) <= train.row_tokens]
            self.excluded[kind] = len(rows) - len(fitting)
            if not fitting:
                what = f"none of its {len(rows)} fits in a row of {train.row_tokens} tokens" if rows else "the corpus has none"
                raise CorpusError(f"mixture asks for training documents of kind {kind}: {what}; set mixture.{kind}=0 or enlarge row_tokens")
            self._documents[kind] = fitting
            lengths = [row.row_length(shape.num_visual_tokens) for row in fitting]
            anchor = cursor.anchors.get(kind, Anchor())
            self._plans[kind] = SourcePlan(kind, lengths, train.row_tokens, window_documents, seed, anchor)

    def plan(self, step: int) -> list[PlannedRow]:
        """The rows of a step, the same for any number of ranks."""
        first = self._start_row + step * self._train.rows_per_step
        return [self._planned(draw) for draw in range(first, first + self._train.rows_per_step)]

    def rows(self, step: int, rank: int, ranks: int, accumulate_index: int = 0) -> list[PlannedRow]:
        """The rows of a step that a rank takes in one micro-batch: dealt dearest first, back and forth, so that ranks finish together."""
        accumulate = self._train.accumulate
        if self._train.rows_per_step % (ranks * accumulate):
            raise ValueError(
                f"rows_per_step ({self._train.rows_per_step}) must be a multiple of ranks x accumulate ({ranks} x {accumulate})"
            )
        planned = self.plan(step)
        dealt = sorted(range(len(planned)), key=lambda number: (*(-cost for cost in planned[number].cost), number))
        hands = ranks * accumulate
        hand = rank * accumulate + accumulate_index
        mine = [dealt[turn * hands + (hand if turn % 2 == 0 else hands - 1 - hand)] for turn in range(len(planned) // hands)]
        return [planned[number] for number in sorted(mine)]

    def batch(self, step: int, rank: int = 0, ranks: int = 1, accumulate_index: int = 0) -> InterleavedBatch:
        """What a rank trains on in one micro-batch of a step."""
        self.prefetch(step, rank, ranks, accumulate_index)
        rows = self.rows(step, rank, ranks, accumulate_index)
        return self._collator.batch([[Sample(self._encoded(document, row.epoch), row.epoch) for document in row.documents] for row in rows])

    def prefetch(self, step: int, rank: int = 0, ranks: int = 1, accumulate_index: int = 0) -> None:
        """Begin to fetch what `batch` will read, where it comes from a remote."""
        rows = self.rows(step, rank, ranks, accumulate_index)
        documents = ((document, row.epoch) for row in rows for document in row.documents)
        self._reader.prefetch(document for document, epoch in documents if self._seen_as(document, epoch) not in self._cache)

    def cursor(self, step: int, skip_rows: int = 0) -> Cursor:
        """What opens a stream that goes on from the start of `step` without packing anything before it.

        `skip_rows` leaves out that many draws from there on: the way round a window that makes training fail.
        """
        draws = self._mixture.before(self._start_row + step * self._train.rows_per_step + skip_rows)
        return Cursor(self._start_row + skip_rows, {kind: self._plans[kind].anchor(count) for kind, count in draws.items()})

    def close(self) -> None:
        """Close the shards."""
        self._reader.close()

    def _planned(self, draw: int) -> PlannedRow:
        kind, ordinal = self._mixture.draw(draw)
        position = self._plans[kind].locate(ordinal)
        documents = self._documents[kind]
        return PlannedRow(kind, position.epoch, tuple(documents[number] for number in self._plans[kind].row(position)))

    def _seen_as(self, row: Row, epoch: int) -> tuple[str, int]:
        """What decides how a document is encoded."""
        return row.id, epoch if varies(self._train.augmentation) else 0

    def _encoded(self, row: Row, epoch: int) -> Encoded:
        augmentation, key = self._train.augmentation, self._seen_as(row, epoch)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        stored = self._reader.load(row, smallest_px(augmentation, max(self._shape.image_px, self._shape.output_px)))
        loaded, view = augment(stored, augmentation, self._seed, epoch)
        encoded = encode(loaded, self._index.tokenizer, self._shape, view)
        self._cache[key] = encoded
        self._cached += encoded.nbytes
        while self._cached > self._cache_bytes and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].nbytes
        return encoded
