"""What is computed on held-out rows: losses, and whether texts end and pictures begin where they should, by source and by images.

Everything is a sum and a count, so that it can be added up over batches and ranks in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

TEXT_LOSS, IMAGE_LOSS, STOP, PLACEMENT = "text_loss", "image_loss", "stop_accuracy", "placement_accuracy"
MEASURES = (TEXT_LOSS, IMAGE_LOSS, STOP, PLACEMENT)
PREFIX = "validation"


@dataclass(frozen=True)
class HeldOutBatch:
    """Rows of one source as the network takes them, K text targets and m decoded pictures.

    target [K] int64: the ids to say; text_bucket [K], image_bucket [m] int64: number of the bucket of the document that each is of;
    image_counted [m] bool: not there only to keep the graph whole.
    """

    source: str
    arguments: tuple[Any, ...]
    target: Tensor
    text_bucket: Tensor
    image_bucket: Tensor
    image_counted: Tensor

    def to(self, device: torch.device) -> HeldOutBatch:
        """The same on another device; each argument has a `to` of its own."""
        tensors = (self.target, self.text_bucket, self.image_bucket, self.image_counted)
        return HeldOutBatch(self.source, tuple(one.to(device) for one in self.arguments), *(one.to(device) for one in tensors))


class HeldOut(Protocol):
    """The held-out batches of a training. `sources` and `buckets` are all there are, on every rank in the same order.

    `stop` is the id that ends a text, `picture` the one that begins a picture.
    """

    sources: tuple[str, ...]
    buckets: tuple[int, ...]
    stop: int
    picture: int

    def batches(self, rank: int, ranks: int) -> Iterable[tuple[HeldOutBatch, bool]]:
        """A rank's share, as many for every rank, and whether each counts or is there only so that ranks call the network together."""
        ...


def buckets_up_to(most_images: int) -> tuple[int, ...]:
    """Largest numbers of images of the buckets: 1, 2, 4, 8, ... until all documents have one; none and one image are bucket 1."""
    found = [1]
    while found[-1] < most_images:
        found.append(2 * found[-1])
    return tuple(found)


def bucket_of(images: Tensor, buckets: Sequence[int]) -> Tensor:
    """Number in `buckets` of documents with so many images; int64, same shape."""
    return torch.searchsorted(torch.tensor(buckets, device=images.device), images)


class Tally:
    """Sums and counts of every measure, for sources and buckets, as one vector that can be summed over ranks."""

    def __init__(self, held_out: HeldOut) -> None:
        self.groups = (*held_out.sources, *(bucket_name(largest) for largest in held_out.buckets))
        self._sources, self._stop, self._picture = held_out.sources, held_out.stop, held_out.picture
        self.values = torch.zeros(len(self.groups), len(MEASURES), 2, dtype=torch.float64)

    def add(self, batch: HeldOutBatch, output: Any) -> None:
        """What the network said of a batch: text_losses [K], predicted right [K], image_losses [m] or none at all."""
        right = output.predicted == batch.target
        self._add(batch.source, batch.text_bucket, TEXT_LOSS, output.text_losses, torch.ones_like(right))
        self._add(batch.source, batch.text_bucket, STOP, right, batch.target == self._stop)
        self._add(batch.source, batch.text_bucket, PLACEMENT, right, batch.target == self._picture)
        if len(output.image_losses):
            self._add(batch.source, batch.image_bucket, IMAGE_LOSS, output.image_losses, batch.image_counted)

    def read(self) -> dict[str, float]:
        """Means by name: `validation/<source>/text_loss`, `validation/bucket_<largest number of images>/stop_accuracy`, ...

        A measure that nothing was counted for has no name.
        """
        return {
            f"{PREFIX}/{group}/{measure}": total / count
            for group, measures in zip(self.groups, self.values.tolist(), strict=True)
            for measure, (total, count) in zip(MEASURES, measures, strict=True)
            if count
        }

    def _add(self, source: str, bucket: Tensor, measure: str, value: Tensor, counted: Tensor) -> None:
        place, one = MEASURES.index(measure), counted.double()
        pair = torch.stack([value.double() * one, one], -1)
        self.values[self._sources.index(source), place] += pair.sum(0).cpu()
        numbers = torch.arange(len(self.groups) - len(self._sources), device=bucket.device)
        chosen = (bucket[None] == numbers[:, None]).double()
        self.values[len(self._sources) :, place] += (chosen @ pair).cpu()


def bucket_name(largest: int) -> str:
    """What the documents of a bucket are called among the groups."""
    return f"bucket_{largest}"


def of_bucket(scores: Mapping[str, float], largest: int) -> dict[str, float]:
    """The measures of a bucket by their own names, those that were counted."""
    names = {measure: f"{PREFIX}/{bucket_name(largest)}/{measure}" for measure in MEASURES}
    return {measure: scores[name] for measure, name in names.items() if name in scores}
