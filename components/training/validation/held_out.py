"""Held-out rows as the model takes them, and which document every target and picture is of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from components.data.held_out import HeldOutRow, HeldOutRows
from components.progression_params import LevelParams
from components.training.validation.validation import HeldOutBatch, bucket_of, buckets_up_to
from model.batch import InterleavedBatch
from model.config import ModelConfig
from model.sequence import plan


class ModelHeldOut:
    """See HeldOut: rows for MM-Interleaved, `rows_at_once` together.

    With levels a bucket is that of the levels, numbered from 0, of the document as a whole; else it counts images.
    """

    def __init__(self, rows: HeldOutRows, config: ModelConfig, rows_at_once: int, levels: Sequence[LevelParams] = ()) -> None:
        self._rows, self._config, self._levels = rows, config, levels
        self._chunks = rows.chunks(rows_at_once)
        self.sources = rows.names
        self.buckets = tuple(range(len(levels))) if levels else buckets_up_to(rows.most_images)
        self.stop, self.picture = config.tokens.eos, config.tokens.boi

    def batches(self, rank: int, ranks: int) -> Iterator[tuple[HeldOutBatch, bool]]:
        """See HeldOut: chunks are dealt in turn; a rank that has one less looks at the first once more, which does not count."""
        for turn in range(-(-len(self._chunks) // ranks)):
            number = turn * ranks + rank
            counts = number < len(self._chunks)
            yield self._batch(self._chunks[number if counts else 0]), counts

    def _batch(self, rows: Sequence[HeldOutRow]) -> HeldOutBatch:
        batch = self._rows.batch(rows)
        documents = batch.document_ids
        buckets = self._by_level(rows) if self._levels else self._by_images(batch)
        if not len(batch.images):
            batch = batch.with_blank_image(self._config.shape)
        layout = plan(batch, self._config)
        row = layout.predict // documents.shape[1]
        picture_row = batch.image_row[layout.decoded]
        picture_document = documents[picture_row, batch.image_column[layout.decoded]]
        return HeldOutBatch(
            source=rows[0].name,
            arguments=(batch, layout),
            target=layout.target,
            text_bucket=buckets[row, documents.flatten()[layout.predict + 1]],
            image_bucket=buckets[picture_row, picture_document],
            image_counted=layout.decode_weight > 0,
        )

    def _by_images(self, batch: InterleavedBatch) -> Tensor:
        """Bucket of each document of each row, [rows, 1 + documents], by the images it has there."""
        documents = batch.document_ids
        images = torch.zeros(len(documents), int(documents.max()) + 1, dtype=torch.int64)
        of_image = batch.image_row, documents[batch.image_row, batch.image_column]
        images.index_put_(of_image, torch.ones_like(batch.image_row), accumulate=True)
        return bucket_of(images, self.buckets)

    def _by_level(self, rows: Sequence[HeldOutRow]) -> Tensor:
        found = torch.zeros(len(rows), 1 + max(len(row.segments) for row in rows), dtype=torch.int64)
        for number, row in enumerate(rows):
            found[number, 1 : 1 + len(row.segments)] = torch.from_numpy(self._rows.levels_of(row, self._levels))
        return found
