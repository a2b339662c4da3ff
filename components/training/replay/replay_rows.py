"""The rows of a step as people read them: documents with their texts, pictures and losses."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from components.data.index import Index
from components.data.segments import Segment
from components.data.stream import PlannedRow, TrainStream
from components.data.tokenizer import Tokenizer
from components.training.job import Job
from components.training.parts import open_stream
from components.training.replay.probe import Heard
from components.training.start import start_config
from model.batch import InterleavedBatch
from model.sequence import Layout


def describe_rows(job: Job, step: int, heard: Sequence[Heard], levels: TrainStream | None = None) -> list[dict[str, Any]]:
    """The rows that this rank took in a step, counted from 1, with the losses that the network said. `levels` is the stream that drew them
    where their levels moved on the way."""
    stream = levels or open_stream(job, start_config(job).shape)
    rank = int(os.environ["RANK"])
    try:
        found: list[dict[str, Any]] = []
        for micro, one in enumerate(heard):
            planned = stream.rows(step - 1, rank, job.train.ranks, micro)
            batch, layout = one.arguments
            found += _Rows(batch, layout, one, stream.index).described(planned)
        return found
    finally:
        stream.close()


class _Rows:
    """One micro-batch: what stands in each column, and what it cost."""

    def __init__(self, batch: InterleavedBatch, layout: Layout, output: Heard, index: Index) -> None:
        self._index = index
        self._tokenizer = index.tokenizer
        self._ids, self._documents = batch.text_ids.cpu(), batch.document_ids.cpu()
        columns = self._ids.shape[1]
        self._text = dict(zip((layout.predict + 1).tolist(), output.text_losses.tolist(), strict=True))
        counted = [bool(weight) for weight in layout.decode_weight.tolist()]
        drawn = zip(layout.decoded.tolist(), output.image_losses.tolist(), counted, strict=False)  # none where the image head did not run
        losses = {image: loss for image, loss, counts in drawn if counts}
        self._images: dict[int, dict[str, Any]] = {}
        places = (batch.image_row * columns + batch.image_column).tolist()
        for number, place in enumerate(() if batch.is_blank else places):
            timestep = round(float(batch.timesteps_u[number]), 4) if number in losses else None
            dropped = number in losses and bool(batch.drop_condition[number])
            self._images[place] = {
                "png": _png(batch.images[number]),
                "loss": losses.get(number),
                "timestep": timestep,
                "dropped": dropped,
            }

    def described(self, planned: Sequence[PlannedRow]) -> list[dict[str, Any]]:
        return [{"name": row.name, "documents": list(self._of_row(number, row))} for number, row in enumerate(planned)]

    def _of_row(self, row: int, planned: PlannedRow) -> Iterator[dict[str, Any]]:
        for number, segments in enumerate(_sequences(planned.segments), 1):
            columns = (self._documents[row] == number).nonzero().flatten().tolist()
            items = list(self._items(row, columns))
            losses = [loss for one in items for _, loss in one.get("tokens", ()) if loss is not None]
            drawn = [one["loss"] for one in items if one.get("loss") is not None]
            yield {
                "documents": [self._named(segment) for segment in segments],
                "text_loss": sum(losses),
                "targets": len(losses),
                "image_loss": sum(drawn),
                "pictures": len(drawn),
                "items": items,
            }

    def _named(self, segment: Segment) -> dict[str, Any]:
        row = self._index.row(segment.document)
        part = None if segment.whole else [segment.begin, segment.end]
        return {"id": row.id, "kind": row.kind, "source": row.source, "epoch": segment.epoch, "part": part}

    def _items(self, row: int, columns: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Texts as tokens with the loss of each that is trained, and pictures, in the order of the row."""
        base = row * self._ids.shape[1]
        ids: list[int] = []
        losses: list[float | None] = []
        for column in columns:
            token, place = int(self._ids[row, column]), base + column
            if token == self._tokenizer.image:
                continue
            ids.append(token)
            losses.append(self._text.get(place))
            if place in self._images:
                yield {"tokens": list(zip(_spelt(ids, self._tokenizer), losses, strict=True))}
                yield self._images[place]
                ids, losses = [], []
        if ids:
            yield {"tokens": list(zip(_spelt(ids, self._tokenizer), losses, strict=True))}


def _sequences(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Segments that are read as one document."""
    found: list[list[Segment]] = []
    for segment in segments:
        if segment.joined and found:
            found[-1].append(segment)
        else:
            found.append([segment])
    return found


def _spelt(ids: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """Each token as it is read, with the space before it; special ones by name."""
    named = {tokenizer.pad: "<pad>", tokenizer.bos: "<s>", tokenizer.eos: "</s>", tokenizer.boi: "<image>"}
    words = []
    for before, token in pairwise([tokenizer.bos, *ids]):
        both, first = tokenizer.decode([before, token]), tokenizer.decode([before])
        words.append(named.get(token) or (both[len(first) :] if both.startswith(first) else tokenizer.decode([token])))
    return words


def _png(image: Tensor) -> str:
    """A picture [3, h, w] in 0..1 as the encoder saw it, base64."""
    pixels = (image.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    written = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode("ascii")
