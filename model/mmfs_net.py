"""MMFS in the image decoder, ControlNet-style: an update for each skip tensor of the UNet and for its mid block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.config import SamplerConfig
from model.mmfs import MMFS
from model.positions import cell_centres, resize_table, sincos_2d
from model.sequence import Pairs


@dataclass(frozen=True)
class References:
    """What the decoder looks at: row `looking[i]` of the batch sees image i of each block's values. Constant over denoising steps."""

    looking: Tensor
    values: tuple[Tensor, ...]

    def doubled(self, rows: int) -> References:
        """The same for a batch of `rows` repeated twice, as classifier-free guidance needs it."""
        return References(torch.cat((self.looking, self.looking + rows)), tuple(torch.cat((value, value)) for value in self.values))


class MMFSBlock(nn.Module):
    """One skip tensor looks at the previous image, each cell from its own place."""

    pos_embed: Tensor
    centres: Tensor

    def __init__(self, channels: int, side: int, value_width: int, config: SamplerConfig, position_grid: int) -> None:
        super().__init__()
        self.register_buffer("pos_embed", sincos_2d(position_grid, channels))
        self.register_buffer("centres", cell_centres((side,)), persistent=False)
        self.query_norm = nn.LayerNorm(channels, eps=1e-6)
        self.feat_norm = nn.LayerNorm(value_width, eps=1e-6)
        self.mmfs = MMFS(channels, value_width, config, side)
        self.conv = nn.Conv2d(channels, channels, 1)

    def project(self, features: Tensor) -> Tensor:
        """Values of image features [s, cells, value_width]."""
        return self.mmfs.project(self.feat_norm(features))

    def forward(self, sample: Tensor, looking: Tensor, value: Tensor) -> Tensor:
        """sample [m, C, h, w]; rows that look at nothing get the sink; returns the update, same shape."""
        rows, channels, height, width = sample.shape
        cells = height * width
        seen = len(looking)
        tokens = sample.index_select(0, looking).flatten(2).transpose(1, 2)
        query = (self.query_norm(tokens) + resize_table(self.pos_embed, height)).flatten(0, 1)
        index = torch.arange(seen * cells, device=sample.device)
        pairs = Pairs(query=index, image=index // cells, distance=torch.ones_like(index))
        looked = self.mmfs(query, value, self.centres.repeat(seen, 1), pairs).view(seen, cells, channels)
        unseen = self.mmfs.output_proj(self.mmfs.ignore_token).view(1, 1, channels).expand(rows, cells, channels)
        update = unseen.to(looked.dtype).index_copy(0, looking, looked)
        return self.conv(update.transpose(1, 2).unflatten(2, (height, width)))


class MMFSNet(nn.Module):
    """A block per skip tensor and one for the mid block."""

    def __init__(self, skips: Sequence[tuple[int, int]], value_width: int, config: SamplerConfig, position_grid: int) -> None:
        super().__init__()
        self.levels = config.levels
        self.mmfs_down_blocks = nn.ModuleList(MMFSBlock(channels, side, value_width, config, position_grid) for channels, side in skips)
        channels, side = skips[-1]
        self.mmfs_mid_block = MMFSBlock(channels, side, value_width, config, position_grid)

    @property
    def blocks(self) -> list[MMFSBlock]:
        """All blocks, the mid block last."""
        return [*self.mmfs_down_blocks, self.mmfs_mid_block]

    def references(self, features: Tensor, looking: Tensor) -> References:
        """Project the features [s, cells, value_width] of the images that are looked at."""
        return References(looking, tuple(block.project(features) for block in self.blocks))

    def forward(self, skips: Sequence[Tensor], mid: Tensor, references: References) -> tuple[list[Tensor], Tensor]:
        """Skip tensors and mid-block output with their updates added."""
        updated = [
            sample + block(sample, references.looking, value)
            for block, sample, value in zip(self.blocks, (*skips, mid), references.values, strict=True)
        ]
        return updated[:-1], updated[-1]


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
