"""The peer of benchmarks.training: a whole step in which every MMFS is the published one, with the same weights.

As published, what every layer samples is normed and projected by that layer, for every query and every image of its row; a picture that is
drawn looks at the picture before it, which is masked where it is another document's (mm_interleaved.md 1.4, 1.6).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.published_mmfs import published
from model.llama_mmfs import DecoderLayer, GatedMMFS
from model.mm_interleaved import MMInterleaved
from model.mmfs import MMFS
from model.mmfs_net import MMFSBlock, MMFSNet, References
from model.positions import resize_table
from model.sequence import Pairs


class Features(nn.Module):
    """In place of the shared projection: each layer gets the features themselves."""

    def forward(self, features: Tensor, layers: Iterable[Any]) -> list[Tensor]:
        return [features for _ in layers]


class PublishedGate(nn.Module):
    """A GatedMMFS around the published MMFS; every row of the batch has equally many images."""

    def __init__(self, ours: GatedMMFS) -> None:
        super().__init__()
        self.ours = ours
        self.norm2, self.attn = ours.norm2, ours.attn  # what the projection asks for

    def forward(self, tokens: Tensor, features: Tensor, pairs: Pairs, prepared: None = None) -> Tensor:
        rows, length, _ = tokens.shape
        images = len(features) // rows
        mask = tokens.new_zeros(rows * length, rows * images, dtype=torch.int64)
        mask[pairs.query, pairs.image] = 1
        own = torch.stack([mask.view(rows, length, rows, images)[row, :, row] for row in range(rows)])
        normed = self.ours.norm2(features).unflatten(0, (rows, images))
        attention, centre = self.ours.attn, self.ours.centre
        assert isinstance(attention, MMFS) and isinstance(centre, Tensor)
        return self.ours.gate.tanh() * published(attention, self.ours.norm1(tokens), normed, own, centre)


class PublishedBlock(nn.Module):
    """An MMFSBlock around the published MMFS: each picture looks at one other, or at a masked one."""

    def __init__(self, ours: MMFSBlock) -> None:
        super().__init__()
        self.ours = ours
        self.feat_norm, self.mmfs = ours.feat_norm, ours.mmfs

    def forward(self, sample: Tensor, references: References, features: Tensor, prepared: None = None) -> Tensor:
        rows, _, height, width = sample.shape
        own = self.ours
        seen = references.rows[references.pairs.query]
        before = torch.zeros(rows, dtype=torch.int64).index_copy(0, seen, references.pairs.image)
        mask = torch.zeros(rows, height * width, 1, dtype=torch.int64).index_fill(0, seen, 1)
        query = own.query_norm(sample.flatten(2).transpose(1, 2)) + resize_table(own.pos_embed, height)
        assert isinstance(own.mmfs, MMFS)
        looked = published(own.mmfs, query, own.feat_norm(features[before]).unsqueeze(1), mask, own.centres)
        return own.conv(looked.transpose(1, 2).unflatten(2, (height, width)))


def published_twin(model: MMInterleaved) -> MMInterleaved:
    """A copy of the model that computes every MMFS as published."""
    twin = copy.deepcopy(model)
    twin.mm_decoder.projection = Features()  # type: ignore[assignment]
    for layer in twin.mm_decoder.layers:
        assert isinstance(layer, DecoderLayer)
        if layer.llama_cross_attn is not None:
            layer.llama_cross_attn = PublishedGate(layer.llama_cross_attn)  # type: ignore[assignment]
    net = twin.get_submodule("image_decoder.decoder.mmfs_module")
    assert isinstance(net, MMFSNet)
    net.projection = Features()  # type: ignore[assignment]
    net.mmfs_down_blocks = nn.ModuleList(PublishedBlock(block) for block in net.mmfs_down_blocks)  # type: ignore[arg-type]
    net.mmfs_mid_block = PublishedBlock(net.mmfs_mid_block)  # type: ignore[assignment]
    return twin
