"""MMFS in the image decoder: on each skip tensor and the mid block, ControlNet-style, or after each up block of the UNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from model.config import CrossAttention, ImageDecoderConfig
from model.cross_attention import build_cross_attention
from model.mmfs_linears import Prepared
from model.positions import cell_centres, resize_table, sincos_2d
from model.sequence import Pairs
from model.shared_projection import SharedProjection, project_shared


@dataclass(frozen=True)
class References:
    """What the decoder looks at: `rows` of the batch, ascending, look at images of each block's `values`. Constant over denoising steps.

    pairs: query numbers `rows`, image numbers `values`. prepared: per block what all steps share, None where there is one step.
    """

    rows: Tensor
    pairs: Pairs
    values: tuple[Tensor, ...]
    prepared: tuple[Prepared | None, ...]

    def repeated(self, rows: int, copies: Sequence[int]) -> References:
        """The same for a batch made of several copies of `rows` rows, of which those in `copies` look: for classifier-free guidance."""
        seen, pairs = len(self.rows), self.pairs
        return References(
            torch.cat([self.rows + copy * rows for copy in copies]),
            Pairs(
                torch.cat([pairs.query + place * seen for place in range(len(copies))]),
                pairs.image.repeat(len(copies)),
                pairs.distance.repeat(len(copies)),
            ),
            self.values,
            self.prepared,
        )


class MMFSBlock(nn.Module):
    """One tensor of the UNet looks at images, each cell from its own place."""

    pos_embed: Tensor
    centres: Tensor

    def __init__(self, channels: int, side: int, value_width: int, config: ImageDecoderConfig, kind: CrossAttention) -> None:
        super().__init__()
        self.register_buffer("pos_embed", sincos_2d(config.position_grid, channels))
        self.register_buffer("centres", cell_centres((side,)), persistent=False)
        self.query_norm = nn.LayerNorm(channels, eps=1e-6)
        self.feat_norm = nn.LayerNorm(value_width, eps=1e-6)
        self.mmfs = build_cross_attention(kind, channels, value_width, config.mmfs, config.base_side * side // config.latent_shape[1])
        self.conv = nn.Conv2d(channels, channels, 1)

    def project(self, features: Tensor) -> Tensor:
        """Values of image features [s, cells, value_width]."""
        return project_shared(features, [(self.feat_norm, self.mmfs)])[0]

    def forward(self, sample: Tensor, references: References, value: Tensor, prepared: Prepared | None = None) -> Tensor:
        """sample [m, C, h, w]; rows that look at nothing get the sink; returns the update, same shape."""
        rows, channels, height, width = sample.shape
        cells = height * width
        seen = len(references.rows)
        tokens = sample.index_select(0, references.rows).flatten(2).transpose(1, 2)
        tokens = self.query_norm(tokens)
        query = (tokens + resize_table(self.pos_embed, height).to(tokens.dtype)).flatten(0, 1)
        pairs = _per_cell(references.pairs, cells)
        looked = self.mmfs(query, value, self.centres.repeat(seen, 1), pairs, prepared).view(seen, cells, channels)
        unseen = self.mmfs.unseen().view(1, 1, channels).expand(rows, cells, channels)
        update = unseen.to(looked.dtype).index_copy(0, references.rows, looked)
        return self.conv(update.transpose(1, 2).unflatten(2, (height, width)))


class MMFSNet(nn.Module):
    """The released wiring: a block per skip tensor and one for the mid block."""

    def __init__(self, config: ImageDecoderConfig, value_width: int, kind: CrossAttention) -> None:
        super().__init__()
        skips = skip_shapes(config.unet, config.latent_shape[1])
        blocks = [MMFSBlock(channels, side, value_width, config, kind) for channels, side in (*skips, skips[-1])]
        self.mmfs_down_blocks = nn.ModuleList(blocks[:-1])
        self.mmfs_mid_block = blocks[-1]
        self.projection = SharedProjection()

    def references(self, features: Tensor, pairs: Pairs, *, steps: bool = False) -> References:
        """Project the features [s, cells, value_width] of the images that are looked at; pairs number batch rows and these images.

        `steps`: they are looked at many times with the present weights.
        """
        return _references(self.projection, self._blocks(), features, pairs, steps=steps)

    def between(self, skips: Sequence[Tensor], mid: Tensor, references: References) -> tuple[list[Tensor], Tensor]:
        """Skip tensors and mid-block output with their updates added."""
        samples = (*skips, mid)
        updated = [
            sample + block(sample, references, value, prepared)
            for block, sample, value, prepared in zip(self._blocks(), samples, references.values, references.prepared, strict=True)
        ]
        return updated[:-1], updated[-1]

    def after_up(self, index: int, sample: Tensor, references: References) -> Tensor:
        """Nothing is added after an up block."""
        del index, references
        return sample

    def _blocks(self) -> list[MMFSBlock]:
        return [*cast(Sequence[MMFSBlock], self.mmfs_down_blocks), self.mmfs_mid_block]


class UpsamplingMMFSNet(nn.Module):
    """The paper's wiring: a block after each up block (paper_tables.md, architecture)."""

    def __init__(self, config: ImageDecoderConfig, value_width: int, kind: CrossAttention) -> None:
        super().__init__()
        shapes = up_shapes(config.unet, config.latent_shape[1])
        self.mmfs_up_blocks = nn.ModuleList(MMFSBlock(channels, side, value_width, config, kind) for channels, side in shapes)
        self.projection = SharedProjection()

    def references(self, features: Tensor, pairs: Pairs, *, steps: bool = False) -> References:
        """See MMFSNet."""
        return _references(self.projection, cast(Sequence[MMFSBlock], self.mmfs_up_blocks), features, pairs, steps=steps)

    def between(self, skips: Sequence[Tensor], mid: Tensor, references: References) -> tuple[list[Tensor], Tensor]:
        """Skip tensors and mid block stay as they are."""
        del references
        return list(skips), mid

    def after_up(self, index: int, sample: Tensor, references: References) -> Tensor:
        """The output of an up block with its update added."""
        block = cast(MMFSBlock, self.mmfs_up_blocks[index])
        return sample + block(sample, references, references.values[index], references.prepared[index])


def build_mmfs_net(config: ImageDecoderConfig, value_width: int, kind: CrossAttention) -> MMFSNet | UpsamplingMMFSNet:
    """The configured wiring."""
    if config.wiring == "skips":
        return MMFSNet(config, value_width, kind)
    return UpsamplingMMFSNet(config, value_width, kind)


def _references(projection: SharedProjection, blocks: Sequence[MMFSBlock], features: Tensor, pairs: Pairs, *, steps: bool) -> References:
    rows, query = pairs.query.unique(return_inverse=True)
    values = projection(features, [(block.feat_norm, block.mmfs) for block in blocks])
    prepared = tuple(block.mmfs.prepare() if steps else None for block in blocks)
    return References(rows, Pairs(query, pairs.image, pairs.distance), tuple(values), prepared)


def _per_cell(pairs: Pairs, cells: int) -> Pairs:
    """Pairs of batch rows as pairs of their cells."""
    cell = torch.arange(cells, device=pairs.query.device)
    query = (pairs.query[:, None] * cells + cell).flatten()
    return Pairs(query, pairs.image.repeat_interleave(cells), pairs.distance.repeat_interleave(cells))


def skip_shapes(unet: dict[str, object], side: int) -> list[tuple[int, int]]:
    """(channels, side) of the skip tensors that a diffusers UNet of this configuration makes of latents of `side`."""
    widths = [int(width) for width in unet["block_out_channels"]]  # type: ignore[attr-defined]
    layers = int(unet["layers_per_block"])  # type: ignore[call-overload]
    shapes = [(widths[0], side)]
    for index, width in enumerate(widths):
        shapes += [(width, side)] * layers
        if index < len(widths) - 1:
            side //= 2
            shapes.append((width, side))
    return shapes


def up_shapes(unet: dict[str, object], side: int) -> list[tuple[int, int]]:
    """(channels, side) of what each up block of such a UNet puts out."""
    widths = [int(width) for width in unet["block_out_channels"]]  # type: ignore[attr-defined]
    return [(width, side // 2 ** max(level - 1, 0)) for level, width in reversed(list(enumerate(widths)))]
