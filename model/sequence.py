"""Index arithmetic of packed rows: who sees which image, which tokens describe it, which placeholder takes which visual token.

All of it follows from ids and columns alone. Computed on the batch before it goes to an accelerator, a step needs no synchronisation.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from model.batch import InputError, InterleavedBatch
from model.batch_checks import check_batch
from model.config import ModelConfig, SamplerConfig


@dataclass(frozen=True)
class Pairs:
    """Visible (query, image) pairs, ordered by query: query, image [P] int64 flat indices; distance [P] int64, 1 = newest visible image."""

    query: Tensor
    image: Tensor
    distance: Tensor

    def to(self, device: torch.device | str) -> Pairs:
        """The same pairs on another device."""
        return Pairs(self.query.to(device), self.image.to(device), self.distance.to(device))

    def newest(self) -> Pairs:
        """Only each query's newest image."""
        nearest = self.distance == 1
        return Pairs(self.query[nearest], self.image[nearest], self.distance[nearest])

    def without(self, queries: Tensor) -> Pairs:
        """Only the pairs of queries that are False in `queries` [number of queries] bool."""
        kept = ~queries[self.query]
        return Pairs(self.query[kept], self.image[kept], self.distance[kept])


@dataclass(frozen=True)
class Layout:
    """The indices of one batch of B rows, L columns, n images, m of them decoded; flat token = row * L + column.

    attention [B, 1, L, L] bool, True = may attend. is_image [B, L] bool and image_token [B * L] int64: which visual token replaces a
    placeholder. is_boi [B, L] bool. pairs: what MMFS in the language model samples. predict [K], target [K] int64: flat token that
    predicts, id it must predict. target_weight [K] float: how much each counts; None where all count 1.
    decoded [m] int64: images that go through the decoder; decode_weight [m] float: 0 for one that is there only to keep the graph whole.
    context [m, T] int64 flat tokens from BoI back to the document's start, context_mask [m, T] bool.
    looked_at [s] int64: the images that the decoder looks at; references: which of them (numbered in looked_at) each decoded image sees.
    """

    attention: Tensor
    is_image: Tensor
    image_token: Tensor
    is_boi: Tensor
    pairs: Pairs
    predict: Tensor
    target: Tensor
    target_weight: Tensor | None
    decoded: Tensor
    decode_weight: Tensor
    context: Tensor
    context_mask: Tensor
    looked_at: Tensor
    references: Pairs

    def to(self, device: torch.device | str) -> Layout:
        """The same layout on another device."""
        present = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}
        return replace(self, **{name: value.to(device) for name, value in present.items()})


def plan(batch: InterleavedBatch, config: ModelConfig) -> Layout:
    """The layout of a batch that has at least one image.

    Raises InputError for pictures that are not in the order of their BoI, each with its placeholders right behind it, for token ids outside
    the vocabulary, pictures with values outside 0..1, rows that are longer than the model reads and documents with more images than the
    tables of distances hold.
    """
    check_batch(batch, config)
    ids, documents = batch.text_ids, batch.document_ids
    columns = ids.shape[1]
    is_image = ids == config.tokens.image
    boi = batch.image_row * columns + batch.image_column
    start = document_starts(documents)
    trained = batch.image_loss_mask & (boi - start[boi] + 1 >= config.min_context_tokens)
    decoded = trained.nonzero().flatten()
    decode_weight = torch.ones(len(decoded), device=ids.device)
    if not len(decoded):
        decoded, decode_weight = trained.new_zeros(1, dtype=torch.int64), decode_weight.new_zeros(1)
    context, context_mask = context_slices(boi[decoded], start)
    pairs = visible_pairs(start, boi, documents.flatten() > 0, config.visible_images)
    looked_at, references = reference_pairs(start[boi], decoded, config.decoder_images)
    if config.cross_attention != "off":
        check_distances(pairs, config.language.mmfs, "language.mmfs")
        check_distances(references, config.image_decoder.mmfs, "image_decoder.mmfs")
    if batch.drop_images is not None:
        references = references.without(batch.drop_images[decoded])
    attention = attention_mask(documents, config.attention)
    if batch.unread is not None:
        context_mask = context_mask & ~batch.unread.flatten()[context]
        attention = attention & (~batch.unread[:, None, None, :] | torch.eye(columns, dtype=torch.bool, device=ids.device))
    predict = batch.targets_mask[:, 1:].flatten().nonzero().flatten()
    predict = predict + predict // (columns - 1)
    return Layout(
        attention=attention,
        is_image=is_image,
        image_token=(is_image.flatten().cumsum(0) - 1).clamp(min=0),
        is_boi=ids == config.tokens.boi,
        pairs=pairs,
        predict=predict,
        target=ids.flatten()[predict + 1],
        target_weight=None if batch.target_weight is None else batch.target_weight.flatten()[predict + 1],
        decoded=decoded,
        decode_weight=decode_weight,
        context=context,
        context_mask=context_mask,
        looked_at=looked_at,
        references=references,
    )


def document_starts(documents: Tensor) -> Tensor:
    """Flat index of the first token of each token's document, [B * L]; a row always starts a document."""
    changed = torch.ones_like(documents, dtype=torch.bool)
    changed[:, 1:] = documents[:, 1:] != documents[:, :-1]
    index = torch.arange(documents.numel(), device=documents.device)
    return torch.where(changed.flatten(), index, 0).cummax(0).values


def attention_mask(documents: Tensor, kind: Literal["document", "release"]) -> Tensor:
    """Causal self-attention inside each document, or over the whole row as released; [B, 1, L, L] bool."""
    rows, columns = documents.shape
    causal = torch.ones(columns, columns, dtype=torch.bool, device=documents.device).tril()
    if kind == "release":
        return causal.expand(rows, 1, columns, columns)
    return (causal & (documents[:, :, None] == documents[:, None, :])).unsqueeze(1)


def visible_pairs(start: Tensor, boi: Tensor, real: Tensor, visible: Literal["nearest", "all"]) -> Pairs:
    """Each token sees the images of its document that began before it; its own BoI does not see the image it begins.

    start [N] flat document start per token; boi [n] flat token of each image, ascending; real [N] bool, False for padding,
    which sees nothing; the official mask shows it the images of the document before it, but no output of padding is used.
    """
    begins = torch.zeros_like(start)
    begins[boi] = 1
    before = begins.cumsum(0) - begins
    count = torch.where(real, before - before[start], 0)
    newest = before - 1
    if visible == "nearest":
        count = count.clamp(max=1)
    query, distance = _oldest_first(count)
    return Pairs(query=query, image=newest[query] - distance + 1, distance=distance)


def reference_pairs(document: Tensor, decoded: Tensor, visible: Literal["previous", "all"]) -> tuple[Tensor, Pairs]:
    """What the decoder looks at: the images before each decoded one in its document, or only the last of them.

    document [n]: any number that ascends with the document of each image; decoded [m]. Returns the images looked at [s], ascending, and
    the pairs of a decoded image (its place in `decoded`) and an image looked at (its place in the former).
    """
    count = decoded - torch.searchsorted(document, document[decoded])
    if visible == "previous":
        count = count.clamp(max=1)
    query, distance = _oldest_first(count)
    looked_at, image = (decoded[query] - distance).unique(return_inverse=True)
    return looked_at, Pairs(query=query, image=image, distance=distance)


def _oldest_first(count: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of queries that see `count` images each: (query, distance), distance 1 for the newest, which stands last."""
    query = torch.arange(len(count), device=count.device).repeat_interleave(count)
    within = torch.arange(len(query), device=count.device) - (count.cumsum(0) - count)[query]
    return query, count[query] - within


def check_distances(pairs: Pairs, sampler: SamplerConfig, name: str) -> None:
    """Raises InputError when a query sees more images than the sampler's table has rows for."""
    most = int(pairs.distance.max()) if len(pairs.distance) else 0
    if most >= sampler.table_rows:
        raise InputError(
            f"a document shows {most} images to one place, {name}.table_rows allows {sampler.table_rows - 1}; "
            "split the document, or set visible_images or decoder_images so that fewer are seen"
        )


def pairs_from_mask(mask: Tensor) -> Pairs:
    """Pairs of a visibility mask [B, Q, N]; queries and images are numbered flat over the batch."""
    _, queries, images = mask.shape
    seen = mask.to(torch.int64)
    distance = seen * (seen.sum(-1, keepdim=True) + 1 - seen.cumsum(-1))
    row, query, image = seen.nonzero(as_tuple=True)
    return Pairs(query=row * queries + query, image=row * images + image, distance=distance[row, query, image])


def context_slices(boi: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Flat tokens from each BoI back to its document's start [m, T] and which of them are real [m, T]."""
    length = boi - start[boi] + 1
    steps = torch.arange(int(length.max()), device=boi.device)
    return (boi[:, None] - steps).clamp(min=0), steps < length[:, None]
