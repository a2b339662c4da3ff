"""Losses by name of the mixture: which target and picture is of which name, and their sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.batch import InterleavedBatch
from model.sequence import Layout

COLUMNS = 4
"""Numbers per name: sum and count of text losses, sum and count of image losses."""


@dataclass(frozen=True)
class Labels:
    """Numbers of names: text [K] int64 of each text target, image [m] int64 of each decoded picture; image_counted [m] float, 0 for one
    that is there only to keep the graph whole. `names` is how many there are."""

    names: int
    text: Tensor
    image: Tensor
    image_counted: Tensor

    def to(self, device: torch.device) -> Labels:
        """The same on another device."""
        return Labels(self.names, self.text.to(device), self.image.to(device), self.image_counted.to(device))


def labels(batch: InterleavedBatch, layout: Layout, of_documents: Sequence[Sequence[int]], names: int) -> Labels:
    """Labels of a batch whose row r has the documents of_documents[r], by the number of their name, in row order."""
    documents = batch.document_ids
    table = torch.zeros(len(documents), 1 + max(map(len, of_documents), default=0), dtype=torch.int64)
    for row, own in enumerate(of_documents):
        table[row, 1 : 1 + len(own)] = torch.tensor(own)
    of_token = table.gather(1, documents).flatten()
    places = batch.image_row[layout.decoded] * documents.shape[1] + batch.image_column[layout.decoded]
    return Labels(names, of_token[layout.predict + 1], of_token[places], layout.decode_weight)


def sums_by_name(output: Any, labels: Labels) -> Tensor:
    """[names * COLUMNS] float64 of the network's text_losses [K] and image_losses [m] (none where the image head did not run)."""
    numbers = torch.arange(labels.names, device=labels.text.device)[:, None]
    text = (labels.text == numbers).double()
    sums = torch.zeros(labels.names, COLUMNS, dtype=torch.float64, device=labels.text.device)
    sums[:, 0], sums[:, 1] = text @ output.text_losses.double(), text.sum(1)
    if len(output.image_losses):
        image = (labels.image == numbers).double() * labels.image_counted
        sums[:, 2], sums[:, 3] = image @ output.image_losses.double(), image.sum(1)
    return sums.flatten()


def means_by_name(sums: Sequence[float], names: Sequence[str]) -> dict[str, float]:
    """`source/<name>/text_loss`, `.../text_targets`, `.../image_loss` and `.../pictures`; what was not seen has no name."""
    means: dict[str, float] = {}
    for number, name in enumerate(names):
        text, targets, image, pictures = sums[number * COLUMNS : (number + 1) * COLUMNS]
        if targets:
            means |= {f"source/{name}/text_loss": text / targets, f"source/{name}/text_targets": targets}
        if pictures:
            means |= {f"source/{name}/image_loss": image / pictures, f"source/{name}/pictures": pictures}
    return means
